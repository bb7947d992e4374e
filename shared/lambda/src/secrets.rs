//! Access to Secrets Manager, and the cache of the signing keys.

use crate::config::KeySource;
use crate::https::Sender;
use crate::tls::Roots;
use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::config::{BehaviorVersion, Config, Credentials, Region};
use bakeoff_core::Error;
use bakeoff_core::error::error_chain;
use bakeoff_core::runners::token::KeySetRefused;
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, OnceCell};
use tokio::time::{Instant, timeout};

/// Time after which a key set is read again.
const CACHE_TTL: Duration = Duration::from_secs(300);
/// Minimum time between two reads caused by an unknown `kid`, because anyone can send one.
const MIN_REFRESH_INTERVAL: Duration = Duration::from_secs(10);

/// Timeout for reading a secret. If the network drops all packets, a request waits no longer than this before
/// it uses the cached keys.
const READ_TIMEOUT: Duration = Duration::from_secs(4);

/// AWS Secrets Manager, set up at the first use. A function with a local configuration never uses it.
#[derive(Debug, Default)]
pub struct Secrets {
    client: OnceCell<Client>,
}

impl Secrets {
    /// Creates a reader with the given client.
    pub fn with_client(client: Client) -> Self {
        Self { client: OnceCell::new_with(Some(client)) }
    }

    /// Reads the current value of a secret, which must be a string.
    pub async fn read(&self, secret: &str) -> Result<String, Error> {
        let client = self.client.get_or_try_init(async || client_from_env()).await?;
        // Boxed, because the SDK's futures are large and every handler's future contains this one.
        let value = timeout(READ_TIMEOUT, Box::pin(client.get_secret_value().secret_id(secret).send()))
            .await
            .map_err(|_| {
                Error::Internal(format!("reading {secret}: no response within {} s", READ_TIMEOUT.as_secs()))
            })?
            // The service's error names the secret and the reason, never the value.
            .map_err(|error| Error::Internal(format!("reading {secret}: {}", error_chain(&error))))?;
        value.secret_string.ok_or_else(|| Error::Internal(format!("{secret} is not a string secret")))
    }
}

/// Creates a client for the region and the role credentials that Lambda sets in the environment.
/// `AWS_ENDPOINT_URL` overrides the endpoint.
///
/// Does not use `aws-config`: its other credential sources (profiles, SSO, STS, instance metadata) do not
/// exist in Lambda and enlarge every binary.
pub fn client_from_env() -> Result<Client, Error> {
    client_from_variables(&|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
}

/// [`client_from_env`], with the variables that `variable` returns.
///
/// # Errors
/// [`Error::Internal`] if region or credentials are missing.
pub fn client_from_variables(variable: &dyn Fn(&str) -> Option<String>) -> Result<Client, Error> {
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
        .http_client(Sender { roots: variable("AWS_CA_BUNDLE").map_or(Roots::Aws, Roots::File) });
    config.set_endpoint_url(variable("AWS_ENDPOINT_URL"));
    Ok(Client::from_conf(config.build()))
}

/// User name and password in the form of an RDS managed secret.
#[derive(Deserialize)]
pub struct DatabaseCredentials {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
}

impl DatabaseCredentials {
    /// Parses the secret's JSON.
    pub fn parse(json: &str) -> Result<Self, Error> {
        // The serde error is dropped, because it could quote the secret.
        serde_json::from_str(json).map_err(|_| {
            Error::Internal("the database secret must be JSON with username and password".into())
        })
    }
}

/// A key set of the service, cached for five minutes: [`ServiceKeys`](bakeoff_core::runners::token::ServiceKeys)
/// in a function that signs, else [`VerifyingKeys`](bakeoff_core::runners::token::VerifyingKeys).
#[derive(Debug)]
pub struct KeyCache<K> {
    source: KeySource,
    parse: fn(&str) -> Result<K, KeySetRefused>,
    cache: Mutex<Option<CachedKeys<K>>>,
}

#[derive(Debug)]
struct CachedKeys<K> {
    keys: Arc<K>,
    read_at: Instant,
}

impl<K> KeyCache<K> {
    /// Creates a cache of the keys in `source`, parsed by `parse`, without reading them.
    pub fn new(source: KeySource, parse: fn(&str) -> Result<K, KeySetRefused>) -> Self {
        Self { source, parse, cache: Mutex::new(None) }
    }

    /// Returns the keys, read at most five minutes ago.
    pub async fn current(&self, secrets: &Secrets) -> Result<Arc<K>, Error> {
        self.read_if_older(CACHE_TTL, secrets).await
    }

    /// Returns the keys, read at most ten seconds ago. For a token whose key is not in
    /// [`KeyCache::current`], because a rotation may just have created it.
    pub async fn refresh(&self, secrets: &Secrets) -> Result<Arc<K>, Error> {
        self.read_if_older(MIN_REFRESH_INTERVAL, secrets).await
    }

    async fn read_if_older(&self, age: Duration, secrets: &Secrets) -> Result<Arc<K>, Error> {
        let mut cache = self.cache.lock().await;
        if let Some(cache) = cache.as_ref().filter(|cache| cache.read_at.elapsed() < age) {
            return Ok(Arc::clone(&cache.keys));
        }
        let read = match self.read(secrets).await {
            Ok(keys) => Arc::new(keys),
            Err(error) => match cache.as_mut() {
                // Uses the old keys while Secrets Manager is unavailable.
                Some(cache) => {
                    tracing::error!(%error, "could not refresh the service's keys; using the cached ones");
                    Arc::clone(&cache.keys)
                }
                None => return Err(error),
            },
        };
        *cache = Some(CachedKeys { keys: Arc::clone(&read), read_at: Instant::now() });
        Ok(read)
    }

    async fn read(&self, secrets: &Secrets) -> Result<K, Error> {
        let json = match &self.source {
            KeySource::File(path) => read_file(path).await?,
            KeySource::Secret(secret) => secrets.read(secret).await?,
            KeySource::None => return Err(Error::Internal("no keys of the service are configured".into())),
        };
        (self.parse)(&json).map_err(|error| Error::Internal(error.to_string()))
    }
}

/// Reads a file that replaces a secret in a local stack.
pub(crate) async fn read_file(path: &str) -> Result<String, Error> {
    tokio::fs::read_to_string(path).await.map_err(|error| Error::Internal(format!("reading {path}: {error}")))
}
