//! What the environment says. Read once, at start; a mistake stops the function before its first request.

use bakeoff_core::queue::lease::LeaseTerms;
use std::fmt;
use std::str::FromStr;
use time::Duration;

/// The settings of a function. What a function does not need may be absent.
#[derive(Clone, Debug)]
pub struct Config {
    /// The API's public base URL, without a slash at its end: `PUBLIC_URL`. Proofs are made for it,
    /// tokens and receipts name it.
    pub public_url: String,
    /// How long a runner's token lasts: `TOKEN_TTL_S`.
    pub token_ttl: Duration,
    /// The terms of a lease: `LEASE_TTL_S`, `HEARTBEAT_INTERVAL_S`.
    pub lease: LeaseTerms,
    /// Where Postgres is.
    pub database: DatabaseSource,
    /// Where the signing keys are.
    pub signing_keys: SigningKeysSource,
    /// A trusted root that replaces the embedded one.
    pub trusted_root: TrustedRootSource,
}

/// Where Postgres is. A URL wins over cloud credentials, so that the same binary runs anywhere.
#[derive(Clone)]
pub enum DatabaseSource {
    /// `DATABASE_URL`.
    Url(String),
    /// `DATABASE_HOST`, `DATABASE_PORT`, `DATABASE_NAME`, and user and password from the secret
    /// `DATABASE_SECRET_ARN`.
    Secret {
        /// Host name; its certificate must match.
        host: String,
        /// Port.
        port: u16,
        /// Database.
        name: String,
        /// ARN or name of the secret.
        secret: String,
    },
    /// This function has none.
    None,
}

/// Where the signing keys are. A file wins over the secret.
#[derive(Clone, Debug)]
pub enum SigningKeysSource {
    /// `SIGNING_KEYS_FILE`: a JWK set.
    File(String),
    /// `SIGNING_KEYS_SECRET_ARN`.
    Secret(String),
    /// This function has none.
    None,
}

/// Where the trusted root is. It is no secret, but Secrets Manager is the one store that a function
/// without a way to the internet reaches already.
#[derive(Clone, Debug)]
pub enum TrustedRootSource {
    /// `TRUSTED_ROOT_FILE`.
    File(String),
    /// `TRUSTED_ROOT_SECRET_ARN`: a secret that holds the root's JSON.
    Secret(String),
    /// In the binary.
    Embedded,
}

/// A variable that is missing or makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("the environment variable {0} {1}")]
pub struct ConfigError(&'static str, &'static str);

impl Config {
    /// Reads the environment.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from(&|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    /// Reads variables from anywhere.
    pub fn from(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let terms = LeaseTerms::default();
        Ok(Self {
            public_url: variable("PUBLIC_URL").unwrap_or_default().trim_end_matches('/').to_owned(),
            token_ttl: Duration::seconds(i64::from(seconds(variable, "TOKEN_TTL_S", 3600)?)),
            lease: LeaseTerms {
                ttl_s: seconds(variable, "LEASE_TTL_S", terms.ttl_s)?,
                heartbeat_interval_s: seconds(variable, "HEARTBEAT_INTERVAL_S", terms.heartbeat_interval_s)?,
            },
            database: Self::database(variable)?,
            signing_keys: match (variable("SIGNING_KEYS_FILE"), variable("SIGNING_KEYS_SECRET_ARN")) {
                (Some(file), _) => SigningKeysSource::File(file),
                (None, Some(secret)) => SigningKeysSource::Secret(secret),
                (None, None) => SigningKeysSource::None,
            },
            trusted_root: match (variable("TRUSTED_ROOT_FILE"), variable("TRUSTED_ROOT_SECRET_ARN")) {
                (Some(file), _) => TrustedRootSource::File(file),
                (None, Some(secret)) => TrustedRootSource::Secret(secret),
                (None, None) => TrustedRootSource::Embedded,
            },
        })
    }

    fn database(variable: &dyn Fn(&str) -> Option<String>) -> Result<DatabaseSource, ConfigError> {
        if let Some(url) = variable("DATABASE_URL") {
            return Ok(DatabaseSource::Url(url));
        }
        let Some(secret) = variable("DATABASE_SECRET_ARN") else { return Ok(DatabaseSource::None) };
        let host = variable("DATABASE_HOST").ok_or(ConfigError("DATABASE_HOST", "is missing"))?;
        let port = parsed(variable, "DATABASE_PORT", 5432, "is not a port")?;
        let name = variable("DATABASE_NAME").ok_or(ConfigError("DATABASE_NAME", "is missing"))?;
        Ok(DatabaseSource::Secret { host, port, name, secret })
    }
}

fn seconds(
    variable: &dyn Fn(&str) -> Option<String>,
    name: &'static str,
    default: i32,
) -> Result<i32, ConfigError> {
    let seconds = parsed(variable, name, default, "is not a number of seconds")?;
    if seconds < 1 {
        return Err(ConfigError(name, "is less than a second"));
    }
    Ok(seconds)
}

fn parsed<T: FromStr>(
    variable: &dyn Fn(&str) -> Option<String>,
    name: &'static str,
    default: T,
    complaint: &'static str,
) -> Result<T, ConfigError> {
    variable(name).map_or(Ok(default), |value| value.parse().map_err(|_| ConfigError(name, complaint)))
}

impl fmt::Debug for DatabaseSource {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            // A URL may hold a password.
            Self::Url(_) => f.write_str("Url(…)"),
            Self::Secret { host, port, name, .. } => write!(f, "Secret({host}:{port}/{name})"),
            Self::None => f.write_str("None"),
        }
    }
}
