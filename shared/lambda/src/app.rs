//! The state that a function's requests share. Each part is set up when a request first needs it.

use crate::config::{Config, KeySource, TrustedRootSource};
use crate::database::{Database, Session};
use crate::problem::Refusal;
use crate::request::Request;
use crate::secrets::{KeyCache, Secrets, read_file};
use bakeoff_core::Error;
use bakeoff_core::field_error::FieldError;
use bakeoff_core::runners::token::{ServiceKeys, VerifyingKeys};
use std::sync::Arc;

/// Configuration, secrets and the database connection of one execution environment.
#[derive(Debug)]
pub struct App {
    config: Config,
    secrets: Secrets,
    signing_keys: KeyCache<ServiceKeys>,
    verifying_keys: KeyCache<VerifyingKeys>,
    database: Database,
}

impl App {
    /// Creates the app from its configuration.
    pub fn new(config: Config) -> Self {
        Self::with_secrets(config, Secrets::default())
    }

    /// Creates the app from its configuration, with a given reader of secrets.
    pub fn with_secrets(config: Config, secrets: Secrets) -> Self {
        Self {
            signing_keys: KeyCache::new(config.signing_keys.clone(), ServiceKeys::from_jwk_set),
            verifying_keys: KeyCache::new(config.verifying_keys.clone(), VerifyingKeys::from_jwk_set),
            database: Database::new(config.database.clone(), config.database_roots.clone())
                .with_prepared_statements(config.prepared_statements),
            secrets,
            config,
        }
    }

    /// Returns the credentials of the functions' role, if this function manages them.
    ///
    /// # Errors
    /// [`Error::Internal`] if the secret cannot be read.
    pub async fn functions_secret(&self) -> Result<Option<String>, Refusal> {
        match &self.config.functions_secret {
            Some(secret) => Ok(Some(self.secrets.read(secret).await?)),
            None => Ok(None),
        }
    }

    /// Returns the configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the API's public base URL without a trailing slash. DPoP proofs must be for this URL; tokens and
    /// receipts name it as their issuer.
    ///
    /// Without `PUBLIC_URL`, the domain name comes from the request context, which API Gateway writes and the
    /// client does not. The client does choose the `Host` header, but API Gateway routes by it: this API only
    /// receives requests for its own endpoint and for domains that the account's owner has mapped to it.
    ///
    /// # Errors
    /// [`Error::Internal`] if neither names the API.
    pub fn public_url(&self, request: &Request) -> Result<String, Refusal> {
        if let Some(url) = &self.config.public_url {
            return Ok(url.clone());
        }
        let domain = request.domain_name().ok_or_else(|| {
            Error::Internal("neither PUBLIC_URL nor the request context names the API".into())
        })?;
        Ok(format!("https://{}", domain.to_ascii_lowercase()))
    }

    /// Returns the keys that sign tokens and receipts, at most five minutes old.
    pub async fn signing_keys(&self) -> Result<Arc<ServiceKeys>, Refusal> {
        Ok(self.signing_keys.current(&self.secrets).await?)
    }

    /// Returns the keys that verify tokens and receipts, at most five minutes old. A function with signing keys
    /// verifies with those, so that a cold start reads one secret.
    pub async fn verifying_keys(&self) -> Result<Arc<VerifyingKeys>, Refusal> {
        match self.config.signing_keys {
            KeySource::None => Ok(self.verifying_keys.current(&self.secrets).await?),
            _ => Ok(self.signing_keys.current(&self.secrets).await?.verifying_keys()),
        }
    }

    /// Returns the keys that verify tokens and receipts, at most ten seconds old.
    pub(crate) async fn refresh_verifying_keys(&self) -> Result<Arc<VerifyingKeys>, Refusal> {
        match self.config.signing_keys {
            KeySource::None => Ok(self.verifying_keys.refresh(&self.secrets).await?),
            _ => Ok(self.signing_keys.refresh(&self.secrets).await?.verifying_keys()),
        }
    }

    /// Reads the JSON of the configured trusted root. Returns `None` if the embedded root applies.
    pub async fn trusted_root_json(&self) -> Result<Option<String>, Refusal> {
        match &self.config.trusted_root {
            TrustedRootSource::File(path) => Ok(Some(read_file(path).await?)),
            TrustedRootSource::Secret(secret) => Ok(Some(self.secrets.read(secret).await?)),
            TrustedRootSource::Embedded => Ok(None),
        }
    }

    /// Returns the database connection, and connects if necessary.
    pub async fn database(&self) -> Result<Session, Refusal> {
        Ok(self.database.client(&self.secrets).await?)
    }

    /// Returns the connection parameters, for a connection outside the pool.
    pub async fn database_config(&self) -> Result<tokio_postgres::Config, Refusal> {
        Ok(self.database.config(&self.secrets).await?)
    }

    /// Drops the connection, so that the next one goes to the current primary.
    pub(crate) async fn disconnect(&self) {
        self.database.disconnect().await;
    }
}

/// Parses a body with one of the core's parsers.
///
/// # Errors
/// [`Refusal::Malformed`] if the body is not JSON; [`Error::Invalid`] if it is
/// JSON with invalid fields.
pub fn parse_body<'a, T>(
    body: &'a str,
    parse: impl FnOnce(&'a str) -> Result<T, Vec<FieldError>>,
) -> Result<T, Refusal> {
    parse(body).map_err(|errors| match serde_json::from_str::<serde::de::IgnoredAny>(body) {
        Err(error) => Refusal::Malformed(format!(
            "the body is not JSON (line {}, column {}). Send `content-type: application/json` and a JSON object",
            error.line(),
            error.column()
        )),
        Ok(_) => Refusal::Operation(errors.into()),
    })
}
