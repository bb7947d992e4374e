//! The database connection: a pool of one, because an execution environment serves one request at a time.

use crate::config::DatabaseSource;
use crate::secrets::{DatabaseCredentials, Secrets};
use crate::tls::Roots;
use bakeoff_core::Error;
use bakeoff_core::session::{self, Parameters};
use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Timeouts};
use std::error::Error as _;
use std::ops::Deref;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio_postgres::config::{Config, SslMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, NoTls, Row};

/// Timeout for establishing a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A Postgres database, connected at the first use.
#[derive(Debug)]
pub struct Database {
    source: DatabaseSource,
    roots: Roots,
    prepared_statements: bool,
    pool: Mutex<Option<Pool>>,
}

/// A connection from the pool, which returns to it when dropped.
#[derive(Debug)]
pub struct Session {
    object: Object,
    prepared_statements: bool,
}

impl Database {
    /// Creates a database for `source`, without connecting. `roots` must lead to the server's certificate.
    pub fn new(source: DatabaseSource, roots: Roots) -> Self {
        Self { source, roots, prepared_statements: false, pool: Mutex::new(None) }
    }

    /// Sets whether connections keep prepared statements; see
    /// [`Config::prepared_statements`](crate::config::Config::prepared_statements).
    #[must_use]
    pub fn with_prepared_statements(self, prepared_statements: bool) -> Self {
        Self { prepared_statements, ..self }
    }

    /// Returns the connection, and connects if necessary.
    pub async fn client(&self, secrets: &Secrets) -> Result<Session, ConnectionError> {
        let object = match self.pool(secrets).await?.get().await {
            // The password was rotated after it was read; read it again.
            Err(PoolError::Backend(error)) if is_authentication_failure(&error) => {
                self.disconnect().await;
                self.pool(secrets).await?.get().await?
            }
            connected => connected?,
        };
        Ok(Session { object, prepared_statements: self.prepared_statements })
    }

    /// Drops the connection, so that the next one goes to the current primary.
    pub(crate) async fn disconnect(&self) {
        if let Some(pool) = self.pool.lock().await.take() {
            pool.close();
        }
    }

    async fn pool(&self, secrets: &Secrets) -> Result<Pool, ConnectionError> {
        let mut pool = self.pool.lock().await;
        if let Some(pool) = pool.as_ref() {
            return Ok(pool.clone());
        }
        let config = self.config(secrets).await?;
        let fresh = build_pool(config, &self.roots)?;
        *pool = Some(fresh.clone());
        Ok(fresh)
    }

    /// Returns the connection parameters; also for `migrate`, which must not use the pool.
    pub async fn config(&self, secrets: &Secrets) -> Result<Config, Error> {
        let mut config = match &self.source {
            DatabaseSource::Url(url) => {
                url.parse().map_err(|_| Error::Internal("DATABASE_URL is not a valid Postgres URL".into()))?
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
        // Without this timeout, an environment that thaws after a failover waits 15 minutes for the old
        // primary.
        config.tcp_user_timeout(CONNECT_TIMEOUT);
        Ok(config)
    }
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.object
    }
}

impl session::Session for Session {
    async fn query_row(
        &self,
        statement: &'static str,
        parameters: Parameters<'_>,
    ) -> Result<Row, tokio_postgres::Error> {
        if !self.prepared_statements {
            return self.object.query_typed_one(statement, parameters).await;
        }
        let types: Vec<Type> = parameters.iter().map(|(_, parameter_type)| parameter_type.clone()).collect();
        let values: Vec<&(dyn ToSql + Sync)> = parameters.iter().map(|(value, _)| *value).collect();
        let prepared = self.object.prepare_typed_cached(statement, &types).await?;
        self.object.query_one(&prepared, &values).await
    }
}

fn build_pool(config: Config, roots: &Roots) -> Result<Pool, Error> {
    let recycle = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let manager = if config.get_ssl_mode() == SslMode::Require {
        Manager::from_config(config, roots.postgres_connector()?, recycle)
    } else {
        Manager::from_config(config, NoTls, recycle)
    };
    Pool::builder(manager)
        .max_size(1)
        .runtime(deadpool_postgres::Runtime::Tokio1)
        .timeouts(Timeouts { wait: Some(CONNECT_TIMEOUT), create: Some(CONNECT_TIMEOUT), recycle: None })
        .build()
        .map_err(|error| Error::Internal(format!("creating the connection pool: {error}")))
}

/// A failure to connect to the database.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The database or its credentials are not configured.
    #[error(transparent)]
    NotConfigured(#[from] Error),
    /// The server does not respond or rejects the connection.
    #[error("connecting: {0}")]
    Failed(#[from] PoolError),
}

fn is_authentication_failure(error: &tokio_postgres::Error) -> bool {
    matches!(error.code(), Some(&SqlState::INVALID_PASSWORD | &SqlState::INVALID_AUTHORIZATION_SPECIFICATION))
}

/// Returns whether the same work can succeed on a new connection: the connection broke, the server is
/// shutting down or starting, it has become a read-only standby (25006), or the transaction was rolled back
/// for another one (class 40).
///
/// If the connection broke, the work may have been committed and only the reply lost.
pub(crate) fn is_retryable(error: &tokio_postgres::Error) -> bool {
    match error.code().map(SqlState::code) {
        Some(code) => code == "25006" || ["57P0", "08", "40"].iter().any(|class| code.starts_with(class)),
        None => error.is_closed() || is_io_error(error),
    }
}

/// Returns whether the error is temporary: it is retryable, or the server lacked resources or time (class 53;
/// 55P03, 57014).
pub(crate) fn is_transient(error: &tokio_postgres::Error) -> bool {
    let is_overload = |state: &SqlState| {
        state.code().starts_with("53")
            || [SqlState::LOCK_NOT_AVAILABLE, SqlState::QUERY_CANCELED].contains(state)
    };
    is_retryable(error) || error.code().is_some_and(is_overload)
}

/// Returns whether a socket error caused the error. The driver exposes no kind; its other errors without an
/// SQLSTATE, such as a value of an unexpected type, are bugs that a retry would repeat.
fn is_io_error(error: &tokio_postgres::Error) -> bool {
    error
        .source()
        .and_then(|source| source.downcast_ref::<std::io::Error>())
        // The driver reports `InvalidInput` if it cannot encode a value.
        .is_some_and(|error| error.kind() != std::io::ErrorKind::InvalidInput)
}
