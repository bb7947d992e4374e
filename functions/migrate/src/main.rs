//! The deploy step: applies pending migrations before new code uses the database. Idempotent.
//!
//! As a CloudFormation custom resource it reports to the stack; a failure fails the deploy and states the
//! reason. A rollback or a deletion of the stack leaves the database unchanged, because the data must outlive
//! the stack. A direct invocation returns the applied migrations as JSON.

mod cloudformation;

use bakeoff_core::migrate::{Applied, apply};
use bakeoff_lambda::App;
use bakeoff_lambda::tls;
use cloudformation::{Action, Request};
use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::{Value, json};
use tokio_postgres::NoTls;
use tokio_postgres::config::SslMode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let app = bakeoff_lambda::serve::start()?;
    lambda_runtime::run(service_fn(|event: LambdaEvent<Value>| async move {
        match serde_json::from_value::<Request>(event.payload) {
            Ok(request) => deploy_step(app, &request).await,
            Err(_) => migrate(app).await,
        }
    }))
    .await
}

/// Handles a custom resource request. Always reports to the stack, which would otherwise wait until its
/// timeout.
async fn deploy_step(app: &App, request: &Request) -> Result<Value, Error> {
    let outcome = match request.action() {
        Action::Migrate => migrate(app).await,
        Action::Nothing => Ok(json!({ "migrations": [] })),
    };
    if let Err(error) = &outcome {
        tracing::error!(%error, "migration failed");
    }
    request.report(&outcome).await?;
    Ok(outcome.unwrap_or_else(|error| json!({ "failed": error.to_string() })))
}

async fn migrate(app: &App) -> Result<Value, Error> {
    let applied = connect_and_apply(app).await?;
    tracing::info!(migrations = ?applied.migrations, "migrated");
    Ok(json!({ "migrations": applied.migrations }))
}

/// Applies the migrations on a separate connection, because they hold a session lock, which a pooled
/// connection must not hold.
async fn connect_and_apply(app: &App) -> Result<Applied, Error> {
    let config = app.database_config().await?;
    if config.get_ssl_mode() == SslMode::Require {
        let (mut client, connection) = config.connect(tls::postgres_connector()).await?;
        tokio::spawn(connection);
        Ok(apply(&mut client).await?)
    } else {
        let (mut client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(apply(&mut client).await?)
    }
}
