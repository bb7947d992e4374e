//! The deploy step: brings the database up to date before new code meets it. Safe to repeat.
//!
//! As a CloudFormation custom resource it answers the stack: a failure fails the deploy, with its reason.
//! A rollback or a deletion of the stack changes nothing, for what is in the database is not the stack's
//! to undo. Invoked otherwise it answers which migrations it applied, as JSON.

mod cloudformation;

use bakeoff_core::migrate::{Applied, apply};
use bakeoff_lambda::App;
use bakeoff_lambda::tls;
use cloudformation::{Change, Request};
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

/// Whatever happens, the stack gets an answer: without one it would wait for its time limit.
async fn deploy_step(app: &App, request: &Request) -> Result<Value, Error> {
    let outcome = match request.change() {
        Change::Apply => migrate(app).await,
        Change::LeaveAlone => Ok(json!({ "migrations": [] })),
    };
    if let Err(error) = &outcome {
        tracing::error!(%error, "the migration failed");
    }
    request.answer(&outcome).await?;
    Ok(outcome.unwrap_or_else(|error| json!({ "failed": error.to_string() })))
}

async fn migrate(app: &App) -> Result<Value, Error> {
    let applied = connect_and_apply(app).await?;
    tracing::info!(migrations = ?applied.migrations, "migrated");
    Ok(json!({ "migrations": applied.migrations }))
}

/// On a connection of its own: it holds a session lock, which a pooled one must not.
async fn connect_and_apply(app: &App) -> Result<Applied, Error> {
    let config = app.database_config().await?;
    if config.get_ssl_mode() == SslMode::Require {
        let (mut client, connection) = config.connect(tls::to_postgres()).await?;
        tokio::spawn(connection);
        Ok(apply(&mut client).await?)
    } else {
        let (mut client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(apply(&mut client).await?)
    }
}
