//! The connection: a pool of one, because an environment serves one request at a time.

use crate::config::DatabaseSource;
use crate::secrets::{DatabaseCredentials, Secrets};
use crate::tls;
use bakeoff_core::Error;
use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Timeouts};
use std::error::Error as _;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio_postgres::NoTls;
use tokio_postgres::config::{Config, SslMode};
use tokio_postgres::error::SqlState;

/// How long a connection may take to come up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Postgres, connected to at the first use.
#[derive(Debug)]
pub struct Database {
    source: DatabaseSource,
    pool: Mutex<Option<Pool>>,
}

impl Database {
    /// A database at `source`.
    pub fn new(source: DatabaseSource) -> Self {
        Self { source, pool: Mutex::new(None) }
    }

    /// The connection.
    pub async fn client(&self, secrets: &Secrets) -> Result<Object, Unreachable> {
        match self.pool(secrets).await?.get().await {
            // The password was rotated since it was read.
            Err(PoolError::Backend(error)) if wrong_password(&error) => {
                self.disconnect().await;
                Ok(self.pool(secrets).await?.get().await?)
            }
            connected => Ok(connected?),
        }
    }

    /// Drops the connection, so that the next one goes to whoever is primary now.
    pub async fn disconnect(&self) {
        if let Some(pool) = self.pool.lock().await.take() {
            pool.close();
        }
    }

    async fn pool(&self, secrets: &Secrets) -> Result<Pool, Unreachable> {
        let mut pool = self.pool.lock().await;
        if let Some(pool) = pool.as_ref() {
            return Ok(pool.clone());
        }
        let config = self.config(secrets).await?;
        let fresh = connected_with(config)?;
        *pool = Some(fresh.clone());
        Ok(fresh)
    }

    /// How to connect; also for `migrate`, which must not share a pool.
    pub async fn config(&self, secrets: &Secrets) -> Result<Config, Error> {
        let mut config = match &self.source {
            DatabaseSource::Url(url) => {
                url.parse().map_err(|_| Error::Internal("DATABASE_URL is not a Postgres URL".into()))?
            }
            DatabaseSource::Secret { host, port, name, secret } => {
                let credentials = DatabaseCredentials::parse(&secrets.read(secret).await?)?;
                let mut config = Config::new();
                config.host(host).port(*port).dbname(name).user(&credentials.username);
                config.password(&credentials.password).ssl_mode(SslMode::Require);
                config
            }
            DatabaseSource::None => return Err(Error::Internal("no database is configured".into())),
        };
        config.connect_timeout(CONNECT_TIMEOUT).application_name("bakeoff");
        // An environment thawed after a failover would wait a quarter of an hour for a peer that is gone.
        config.tcp_user_timeout(CONNECT_TIMEOUT);
        Ok(config)
    }
}

fn connected_with(config: Config) -> Result<Pool, Error> {
    let recycle = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let manager = if config.get_ssl_mode() == SslMode::Require {
        Manager::from_config(config, tls::to_postgres(), recycle)
    } else {
        Manager::from_config(config, NoTls, recycle)
    };
    Pool::builder(manager)
        .max_size(1)
        .runtime(deadpool_postgres::Runtime::Tokio1)
        .timeouts(Timeouts { wait: Some(CONNECT_TIMEOUT), create: Some(CONNECT_TIMEOUT), recycle: None })
        .build()
        .map_err(|error| Error::Internal(format!("the pool: {error}")))
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum Unreachable {
    /// Nothing to connect to, or no credentials.
    #[error(transparent)]
    Unconfigured(#[from] Error),
    /// The server does not answer, or refuses.
    #[error("connecting: {0}")]
    Refused(#[from] PoolError),
}

fn wrong_password(error: &tokio_postgres::Error) -> bool {
    matches!(error.code(), Some(&SqlState::INVALID_PASSWORD | &SqlState::INVALID_AUTHORIZATION_SPECIFICATION))
}

/// Whether the same work may well succeed on a new connection: this one broke, the server is going down
/// or coming up, it has become a read-only standby, or it gave way to another transaction (class 40).
///
/// Where the connection broke, the work may have been done and only its answer lost.
pub fn is_worth_another_try(error: &tokio_postgres::Error) -> bool {
    match error.code().map(SqlState::code) {
        Some(code) => code == "25006" || ["57P0", "08", "40"].iter().any(|class| code.starts_with(class)),
        None => error.is_closed() || is_of_the_socket(error),
    }
}

/// Whether an error is over by itself in a moment: what is worth another try, and what the server had no
/// room or time for (class 53; 55P03, 57014).
pub fn is_momentary(error: &tokio_postgres::Error) -> bool {
    let out_of_means = |state: &SqlState| {
        state.code().starts_with("53")
            || [SqlState::LOCK_NOT_AVAILABLE, SqlState::QUERY_CANCELED].contains(state)
    };
    is_worth_another_try(error) || error.code().is_some_and(out_of_means)
}

/// The driver gives no kind. Beside the socket's errors it has others without an SQLSTATE, such as a value
/// of another type than expected: those are mistakes of ours, which come again.
fn is_of_the_socket(error: &tokio_postgres::Error) -> bool {
    error
        .source()
        .and_then(|source| source.downcast_ref::<std::io::Error>())
        // What the driver says when it cannot encode a value.
        .is_some_and(|error| error.kind() != std::io::ErrorKind::InvalidInput)
}
