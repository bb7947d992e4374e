//! What a function has at hand. Nothing is set up before a request needs it.

use crate::config::{Config, TrustedRootSource};
use crate::database::Database;
use crate::problem::Refusal;
use crate::secrets::{Secrets, SigningKeys, read_file};
use bakeoff_core::field_error::FieldError;
use bakeoff_core::runners::token::ServiceKeys;
use deadpool_postgres::Object;
use std::sync::Arc;

/// Settings, secrets and the connection of one execution environment.
#[derive(Debug)]
pub struct App {
    config: Config,
    secrets: Secrets,
    signing_keys: SigningKeys,
    database: Database,
}

impl App {
    /// An app of these settings.
    pub fn new(config: Config) -> Self {
        Self::with_secrets(config, Secrets::default())
    }

    /// An app that reads secrets through `secrets`.
    pub fn with_secrets(config: Config, secrets: Secrets) -> Self {
        Self {
            signing_keys: SigningKeys::new(config.signing_keys.clone()),
            database: Database::new(config.database.clone()),
            secrets,
            config,
        }
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The service's keys, at most five minutes old.
    pub async fn signing_keys(&self) -> Result<Arc<ServiceKeys>, Refusal> {
        Ok(self.signing_keys.current(&self.secrets).await?)
    }

    pub(crate) async fn newest_signing_keys(&self) -> Result<Arc<ServiceKeys>, Refusal> {
        Ok(self.signing_keys.newest(&self.secrets).await?)
    }

    /// The JSON of the trusted root that configuration puts in place of the embedded one.
    pub async fn trusted_root_json(&self) -> Result<Option<String>, Refusal> {
        match &self.config.trusted_root {
            TrustedRootSource::File(path) => Ok(Some(read_file(path).await?)),
            TrustedRootSource::Secret(secret) => Ok(Some(self.secrets.read(secret).await?)),
            TrustedRootSource::Embedded => Ok(None),
        }
    }

    /// The connection.
    pub async fn database(&self) -> Result<Object, Refusal> {
        Ok(self.database.client(&self.secrets).await?)
    }

    /// How to connect outside the pool.
    pub async fn database_config(&self) -> Result<tokio_postgres::Config, Refusal> {
        Ok(self.database.config(&self.secrets).await?)
    }

    /// Drops the connection, so that the next one goes to whoever is primary now.
    pub async fn disconnect(&self) {
        self.database.disconnect().await;
    }
}

/// Reads a body with one of the core's parsers. What is not JSON at all is another problem than JSON of
/// another shape.
pub fn parse_body<'a, T>(
    body: &'a str,
    parse: impl FnOnce(&'a str) -> Result<T, Vec<FieldError>>,
) -> Result<T, Refusal> {
    parse(body).map_err(|errors| match serde_json::from_str::<serde::de::IgnoredAny>(body) {
        Err(error) => Refusal::Malformed(format!("the body is not JSON: {error}")),
        Ok(_) => Refusal::Refused(errors.into()),
    })
}
