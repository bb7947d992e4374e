//! The least that `lambda_http` can be: what `cargo local cold-start` holds the functions against.
//!
//! As `cargo lambda new --http` begins a function, with nothing of this workspace in it.

use lambda_http::{Error, Request, Response, run, service_fn, tracing};

#[tokio::main]
async fn main() -> Result<(), Error> {
    tracing::init_default_subscriber();
    run(service_fn(hello)).await
}

async fn hello(_: Request) -> Result<Response<String>, Error> {
    Ok(Response::builder().header("content-type", "text/html").body("Hello, world".into())?)
}
