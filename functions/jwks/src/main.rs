//! `GET /api/jwks.json`: returns the service's public keys (RFC 7517), with which anyone can verify a
//! receipt.
//!
//! `200` the key set · no authentication

#[cfg(test)]
mod tests;

use bakeoff_lambda::{App, Reply, Request, Result, serve};
use serde_json::json;

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::result::Result<(), lambda_http::Error> {
    serve(answer).await
}

async fn answer(app: &App, _: Request) -> Result {
    let keys = app.verifying_keys().await?;
    Reply::json(200, &json!({ "keys": keys.public_keys().collect::<Vec<_>>() }))
}
