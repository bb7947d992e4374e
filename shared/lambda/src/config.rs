//! Configuration from environment variables, read once at start. An invalid value stops the function before
//! its first request.

use crate::tls::Roots;
use bakeoff_core::queue::lease::LeaseTerms;
use std::fmt;
use std::str::FromStr;
use time::Duration;

/// The configuration of a function. Variables that a function does not use may be missing.
#[derive(Clone, Debug)]
pub struct Config {
    /// The API's public base URL without a trailing slash: `PUBLIC_URL`. If missing, each request's context
    /// names the API; see [`App::public_url`](crate::App::public_url).
    pub public_url: Option<String>,
    /// The lifetime of a runner's token: `TOKEN_TTL_S`, default 3600 s.
    pub token_ttl: Duration,
    /// The terms of a lease: `LEASE_TTL_S`, `HEARTBEAT_INTERVAL_S`.
    pub lease: LeaseTerms,
    /// Whether anyone may see the names of runners: `PUBLIC_RUNNER_NAMES`, default `false`.
    pub public_runner_names: bool,
    /// How to connect to Postgres.
    pub database: DatabaseSource,
    /// The authorities that may certify Postgres: those of AWS, or of the PEM file `PGSSLROOTCERT`.
    pub database_roots: Roots,
    /// `DATABASE_FUNCTIONS_SECRET_ARN`, for `migrate`: the secret with the password of the role that the other
    /// functions connect as.
    pub functions_secret: Option<String>,
    /// Whether a connection keeps prepared statements: `DATABASE_PREPARED_STATEMENTS`, default `false`. Only
    /// for connections that reach the server directly: a prepared statement pins a connection of RDS Proxy to
    /// one client, and is missing from the next server session of another multiplexing proxy.
    pub prepared_statements: bool,
    /// Source of the keys that sign: `SIGNING_KEYS_FILE`, else the secret `SIGNING_KEYS_SECRET_ARN`.
    pub signing_keys: KeySource,
    /// Source of the keys that verify, for a function without signing keys: the secret
    /// `VERIFYING_KEYS_SECRET_ARN`.
    pub verifying_keys: KeySource,
    /// Whether a result must be bound to its claim: `REQUIRE_BOUND_RESULTS`, `true` or `false`, the default.
    pub require_bound_results: bool,
    /// Source of the trusted root for keyless bundles.
    pub trusted_root: TrustedRootSource,
}

/// How to connect to Postgres. A URL takes precedence over the secret, so that the same binary runs anywhere.
#[derive(Clone)]
pub enum DatabaseSource {
    /// `DATABASE_URL`.
    Url(String),
    /// `DATABASE_HOST`, `DATABASE_PORT`, `DATABASE_NAME`, and user and password from the secret
    /// `DATABASE_SECRET_ARN`.
    Secret {
        /// Host name, which the server's certificate must match.
        host: String,
        /// Port.
        port: u16,
        /// Database.
        name: String,
        /// ARN or name of the secret.
        secret: String,
    },
    /// The function has no database.
    None,
}

/// Source of a key set of the service.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// Path of a file that holds a JWK set.
    File(String),
    /// ARN or name of a secret that holds a JWK set.
    Secret(String),
    /// The function has no such keys.
    None,
}

/// Source of the trusted root. The root is not secret, but Secrets Manager is the one store that a function
/// without internet access can already reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrustedRootSource {
    /// `TRUSTED_ROOT_FILE`.
    File(String),
    /// `TRUSTED_ROOT_SECRET_ARN`: a secret that holds the root's JSON.
    Secret(String),
    /// The root embedded in the binary.
    Embedded,
}

/// A missing or invalid environment variable.
#[derive(Debug, thiserror::Error)]
#[error("the environment variable {0} {1}")]
pub struct ConfigError(&'static str, &'static str);

impl Config {
    /// Reads the configuration from the environment; an empty variable counts as missing.
    ///
    /// # Errors
    /// [`ConfigError`] for the first missing or invalid variable.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from_variables(&|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    /// Reads the configuration from the variables that `variable` returns.
    ///
    /// # Errors
    /// [`ConfigError`] for the first missing or invalid variable.
    pub fn from_variables(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let terms = LeaseTerms::default();
        Ok(Self {
            public_url: variable("PUBLIC_URL").map(|url| url.trim_end_matches('/').to_owned()),
            token_ttl: Duration::seconds(i64::from(parse_seconds(variable, "TOKEN_TTL_S", 3600)?)),
            lease: LeaseTerms {
                ttl_s: parse_seconds(variable, "LEASE_TTL_S", terms.ttl_s)?,
                heartbeat_interval_s: parse_seconds(
                    variable,
                    "HEARTBEAT_INTERVAL_S",
                    terms.heartbeat_interval_s,
                )?,
            },
            public_runner_names: parse_variable(
                variable,
                "PUBLIC_RUNNER_NAMES",
                false,
                "must be true or false",
            )?,
            database: Self::database(variable)?,
            database_roots: variable("PGSSLROOTCERT").map_or(Roots::Aws, Roots::File),
            functions_secret: variable("DATABASE_FUNCTIONS_SECRET_ARN"),
            prepared_statements: parse_variable(
                variable,
                "DATABASE_PREPARED_STATEMENTS",
                false,
                "must be true or false",
            )?,
            signing_keys: match (variable("SIGNING_KEYS_FILE"), variable("SIGNING_KEYS_SECRET_ARN")) {
                (Some(file), _) => KeySource::File(file),
                (None, Some(secret)) => KeySource::Secret(secret),
                (None, None) => KeySource::None,
            },
            verifying_keys: variable("VERIFYING_KEYS_SECRET_ARN").map_or(KeySource::None, KeySource::Secret),
            require_bound_results: parse_variable(
                variable,
                "REQUIRE_BOUND_RESULTS",
                false,
                "must be true or false",
            )?,
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
        let port = parse_variable(variable, "DATABASE_PORT", 5432, "must be a port number")?;
        let name = variable("DATABASE_NAME").ok_or(ConfigError("DATABASE_NAME", "is missing"))?;
        Ok(DatabaseSource::Secret { host, port, name, secret })
    }
}

fn parse_seconds(
    variable: &dyn Fn(&str) -> Option<String>,
    name: &'static str,
    default: i32,
) -> Result<i32, ConfigError> {
    let seconds = parse_variable(variable, name, default, "must be a whole number of seconds")?;
    if seconds < 1 {
        return Err(ConfigError(name, "must be at least 1 second"));
    }
    Ok(seconds)
}

fn parse_variable<T: FromStr>(
    variable: &dyn Fn(&str) -> Option<String>,
    name: &'static str,
    default: T,
    problem: &'static str,
) -> Result<T, ConfigError> {
    variable(name).map_or(Ok(default), |value| value.parse().map_err(|_| ConfigError(name, problem)))
}

impl fmt::Debug for DatabaseSource {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            // A URL may contain a password.
            Self::Url(_) => f.write_str("Url(…)"),
            Self::Secret { host, port, name, .. } => write!(f, "Secret({host}:{port}/{name})"),
            Self::None => f.write_str("None"),
        }
    }
}
