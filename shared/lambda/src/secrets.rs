//! Secrets, and the cache of the signing keys.

use crate::config::SigningKeysSource;
use crate::https::Sender;
use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::config::{BehaviorVersion, Config, Credentials, Region};
use bakeoff_core::Error;
use bakeoff_core::error::error_chain;
use bakeoff_core::runners::token::ServiceKeys;
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, OnceCell};
use tokio::time::{Instant, timeout};

/// How long a key set is used before it is read again.
const KEEP: Duration = Duration::from_secs(300);
/// How often an unknown `kid` may make us read again: anyone can send one.
const EARLY: Duration = Duration::from_secs(10);

/// How long reading a secret may take. A network that swallows everything must cost a request no more
/// than this while the keys at hand still serve.
const READ_TIMEOUT: Duration = Duration::from_secs(4);

/// AWS Secrets Manager, set up at its first use: a function with local settings never does.
#[derive(Debug, Default)]
pub struct Secrets {
    client: OnceCell<Client>,
}

impl Secrets {
    /// Reads secrets through a client made elsewhere.
    pub fn through(client: Client) -> Self {
        Self { client: OnceCell::new_with(Some(client)) }
    }

    /// Reads the current value of a secret, a text.
    pub async fn read(&self, secret: &str) -> Result<String, Error> {
        let client = self.client.get_or_try_init(async || client_from_env()).await?;
        // Boxed: the SDK's futures are large, and every handler's holds this one.
        let value = timeout(READ_TIMEOUT, Box::pin(client.get_secret_value().secret_id(secret).send()))
            .await
            .map_err(|_| Error::Internal(format!("reading {secret}: no answer")))?
            // The service's error names the secret and the reason, never the value.
            .map_err(|error| Error::Internal(format!("reading {secret}: {}", error_chain(&error))))?;
        value.secret_string.ok_or_else(|| Error::Internal(format!("{secret} holds no text")))
    }
}

/// A client for the region and with the role's credentials that Lambda puts into the environment;
/// `AWS_ENDPOINT_URL` leads it elsewhere.
///
/// Not by way of `aws-config`: the other places where that looks for credentials (profiles, SSO, STS,
/// instance metadata) do not exist in Lambda, and weigh on every binary.
pub fn client_from_env() -> Result<Client, Error> {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let required = |name| variable(name).ok_or_else(|| Error::Internal(format!("{name} is not set")));
    let credentials = Credentials::new(
        required("AWS_ACCESS_KEY_ID")?,
        required("AWS_SECRET_ACCESS_KEY")?,
        variable("AWS_SESSION_TOKEN"),
        None,
        "environment",
    );
    let mut config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(required("AWS_REGION")?))
        .credentials_provider(credentials)
        .http_client(Sender);
    config.set_endpoint_url(variable("AWS_ENDPOINT_URL"));
    Ok(Client::from_conf(config.build()))
}

/// User and password, as RDS keeps them in its managed secret.
#[derive(Deserialize)]
pub struct DatabaseCredentials {
    /// User.
    pub username: String,
    /// Password.
    pub password: String,
}

impl DatabaseCredentials {
    /// Reads the secret's JSON.
    pub fn parse(json: &str) -> Result<Self, Error> {
        // serde's words could quote the secret.
        serde_json::from_str(json)
            .map_err(|_| Error::Internal("the database secret has another shape".into()))
    }
}

/// The signing keys, kept for five minutes.
#[derive(Debug)]
pub struct SigningKeys {
    source: SigningKeysSource,
    kept: Mutex<Option<Kept>>,
}

#[derive(Debug)]
struct Kept {
    keys: Arc<ServiceKeys>,
    read_at: Instant,
}

impl SigningKeys {
    /// Keys that will be read from `source`.
    pub fn new(source: SigningKeysSource) -> Self {
        Self { source, kept: Mutex::new(None) }
    }

    /// The keys, read at most five minutes ago.
    pub async fn current(&self, secrets: &Secrets) -> Result<Arc<ServiceKeys>, Error> {
        self.read_within(KEEP, secrets).await
    }

    /// The keys, read anew if that was not done in the last seconds: for a token of a key that
    /// [`SigningKeys::current`] does not have, which a rotation may just have made.
    pub async fn newest(&self, secrets: &Secrets) -> Result<Arc<ServiceKeys>, Error> {
        self.read_within(EARLY, secrets).await
    }

    async fn read_within(&self, age: Duration, secrets: &Secrets) -> Result<Arc<ServiceKeys>, Error> {
        let mut kept = self.kept.lock().await;
        if let Some(kept) = kept.as_ref().filter(|kept| kept.read_at.elapsed() < age) {
            return Ok(Arc::clone(&kept.keys));
        }
        let read = match self.read(secrets).await {
            Ok(keys) => Arc::new(keys),
            Err(error) => match kept.as_mut() {
                // Keys a little old serve better than none while Secrets Manager is away.
                Some(kept) => {
                    tracing::error!(%error, "the signing keys could not be read again");
                    Arc::clone(&kept.keys)
                }
                None => return Err(error),
            },
        };
        *kept = Some(Kept { keys: Arc::clone(&read), read_at: Instant::now() });
        Ok(read)
    }

    async fn read(&self, secrets: &Secrets) -> Result<ServiceKeys, Error> {
        let json = match &self.source {
            SigningKeysSource::File(path) => read_file(path).await?,
            SigningKeysSource::Secret(secret) => secrets.read(secret).await?,
            SigningKeysSource::None => return Err(Error::Internal("no signing keys are configured".into())),
        };
        ServiceKeys::from_jwk_set(&json).map_err(|refused| Error::Internal(refused.to_string()))
    }
}

/// Reads what stands in for a secret on a machine of one's own.
pub(crate) async fn read_file(path: &str) -> Result<String, Error> {
    tokio::fs::read_to_string(path).await.map_err(|error| Error::Internal(format!("reading {path}: {error}")))
}
