//! The deploy step: brings the database up to date. Safe to repeat.
//!
//! Answers which migrations it applied, as JSON.

use bakeoff_core::migrate::{Applied, apply};
use bakeoff_lambda::App;
use bakeoff_lambda::database::tls;
use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::{Value, json};
use tokio_postgres::NoTls;
use tokio_postgres::config::SslMode;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let app = bakeoff_lambda::serve::start()?;
    lambda_runtime::run(service_fn(|_: LambdaEvent<Value>| async move {
        let applied = migrate(app).await?;
        tracing::info!(migrations = ?applied.migrations, "migrated");
        Ok::<_, Error>(json!({ "migrations": applied.migrations }))
    }))
    .await
}

/// On a connection of its own: it holds a session lock, which a pooled one must not.
async fn migrate(app: &App) -> Result<Applied, Error> {
    let config = app.database_config().await?;
    if config.get_ssl_mode() == SslMode::Require {
        let (mut client, connection) = config.connect(tls()).await?;
        tokio::spawn(connection);
        Ok(apply(&mut client).await?)
    } else {
        let (mut client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(apply(&mut client).await?)
    }
}
