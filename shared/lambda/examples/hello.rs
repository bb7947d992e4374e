//! A minimal `lambda_http` function: the baseline of `cargo local cold-start`.
//!
//! The same code as `cargo lambda new --http` generates, without any crate of this workspace.

use lambda_http::{Error, Request, Response, run, service_fn, tracing};

#[tokio::main]
async fn main() -> Result<(), Error> {
    tracing::init_default_subscriber();
    run(service_fn(hello)).await
}

async fn hello(_: Request) -> Result<Response<String>, Error> {
    Ok(Response::builder().header("content-type", "text/html").body("Hello, world".into())?)
}
