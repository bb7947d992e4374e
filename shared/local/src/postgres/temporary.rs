//! A temporary database on a server from the options.

use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use super::with_database;
use crate::error::{ErrorContext, Result};

/// A database for one purpose, which exists until [`TemporaryDatabase::drop`].
pub(crate) struct TemporaryDatabase {
    server: String,
    name: String,
    /// `postgres://…`
    pub(crate) url: String,
}

impl TemporaryDatabase {
    /// Creates a database whose name contains its purpose.
    pub(crate) async fn create(server: &str, purpose: &str) -> Result<Self> {
        let name = format!("bakeoff_{purpose}_{}", Uuid::new_v4().simple());
        let admin = connect(server).await?;
        let created = admin.batch_execute(&format!("CREATE DATABASE {name}")).await;
        created.context(format!("create a database for the {purpose}"))?;
        let url = with_database(server, &name);
        Ok(Self { server: server.to_owned(), name, url })
    }

    /// Drops the database, including its connections.
    pub(crate) async fn drop(self) -> Result<()> {
        let admin = connect(&self.server).await?;
        let sql = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        admin.batch_execute(&sql).await.context(format!("drop the database {}", self.name))
    }
}

/// Connects without TLS.
pub(crate) async fn connect(url: &str) -> Result<Client> {
    let (client, connection) =
        tokio_postgres::connect(url, NoTls).await.context("connect to the database")?;
    // A connection error surfaces in the client's next query.
    tokio::spawn(connection);
    Ok(client)
}
