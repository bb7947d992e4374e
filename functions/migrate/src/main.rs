//! The deploy step: applies pending migrations before new code uses the database. Idempotent.
//!
//! As a CloudFormation custom resource it reports to the stack; a failure fails the deploy and states the
//! reason. It fails if an update of the stack has replaced the database with an empty one; the rollback then
//! returns to the old database, before any function has changed. A rollback or a deletion of the stack leaves
//! the database unchanged, because the data must outlive the stack. A direct invocation returns the applied
//! migrations as JSON.
//!
//! It also owns the password of the role that the functions connect as, and takes the steps of its rotation.

mod cloudformation;
mod password;

use bakeoff_core::migrate::{Applied, apply, has_history};
use bakeoff_lambda::App;
use bakeoff_lambda::rotation::Rotation;
use bakeoff_lambda::secrets::client_from_env;
use bakeoff_lambda::tls::Roots;
use cloudformation::{Action, Request};
use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::{Value, json};
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config, NoTls};

/// The reason that the stack's events show.
const REPLACED_DATABASE: &str = "the stack was updated, but its database is new and empty: a parameter that \
     replaces the database has changed, such as DatabaseSnapshot. Deploy again with the parameter's old value";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let app = bakeoff_lambda::serve::start()?;
    lambda_runtime::run(service_fn(|event: LambdaEvent<Value>| async move {
        if let Ok(rotation) = serde_json::from_value::<Rotation>(event.payload.clone()) {
            tracing::info!(step = ?rotation.step, secret = rotation.secret_id, "rotation step started");
            let secrets = client_from_env()?;
            Box::pin(password::rotate(app, &secrets, &rotation)).await?;
            return Ok(Value::Null);
        }
        match serde_json::from_value::<Request>(event.payload) {
            Ok(request) => deploy_step(app, &request).await,
            Err(_) => migrate(app, Action::Migrate).await,
        }
    }))
    .await
}

/// Handles a custom resource request. Always reports to the stack, which would otherwise wait until its
/// timeout.
async fn deploy_step(app: &App, request: &Request) -> Result<Value, Error> {
    let outcome = match request.action() {
        action @ (Action::Migrate | Action::MigrateExisting) => migrate(app, action).await,
        Action::Nothing => Ok(json!({ "migrations": [] })),
    };
    if let Err(error) = &outcome {
        tracing::error!(%error, "migration failed");
    }
    request.report(&outcome).await?;
    Ok(outcome.unwrap_or_else(|error| json!({ "failed": error.to_string() })))
}

async fn migrate(app: &App, action: Action) -> Result<Value, Error> {
    let applied = connect_and_apply(app, action).await?;
    tracing::info!(migrations = ?applied.migrations, "migrated");
    if applied.corrected_counts > 0 {
        tracing::warn!(
            counts = applied.corrected_counts,
            "corrected counts of rows that were written without triggers"
        );
    }
    Ok(json!({ "migrations": applied.migrations }))
}

/// Applies the migrations on a separate connection, because they hold a session lock, which a pooled
/// connection must not hold.
async fn connect_and_apply(app: &App, action: Action) -> Result<Applied, Error> {
    let config = app.database_config().await?;
    let roots = &app.config().database_roots;
    let mut client = connect(roots, &config).await?;
    let applied = checked_apply(&mut client, action).await?;
    if let Some(secret) = app.functions_secret().await? {
        password::ensure(roots, &client, &config, &secret).await?;
    }
    Ok(applied)
}

async fn connect(roots: &Roots, config: &Config) -> Result<Client, Error> {
    if config.get_ssl_mode() == SslMode::Require {
        let (client, connection) = config.connect(roots.postgres_connector()?).await?;
        tokio::spawn(connection);
        Ok(client)
    } else {
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }
}

async fn checked_apply(client: &mut Client, action: Action) -> Result<Applied, Error> {
    if action == Action::MigrateExisting && !has_history(client).await? {
        return Err(REPLACED_DATABASE.into());
    }
    Ok(apply(client).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bakeoff_testkit::Database;

    #[tokio::test]
    async fn an_update_of_the_stack_refuses_an_empty_database_and_leaves_it_empty() {
        let database = Database::create_unmigrated().await;
        let mut client = database.client().await;
        let refused = checked_apply(&mut client, Action::MigrateExisting).await.unwrap_err();
        assert!(refused.to_string().contains("DatabaseSnapshot"), "{refused}");
        assert!(!has_history(&client).await.unwrap());

        checked_apply(&mut client, Action::Migrate).await.unwrap();
        checked_apply(&mut client, Action::MigrateExisting).await.unwrap();
    }
}
