//! A database of one's own on a server that is somebody's.

use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use super::with_database;
use crate::error::{Result, While};

/// A database for one purpose. It stays until [`Scratch::drop`].
pub(crate) struct Scratch {
    server: String,
    name: String,
    /// `postgres://…`
    pub(crate) url: String,
}

impl Scratch {
    /// Creates a database whose name says what it is for.
    pub(crate) async fn create(server: &str, purpose: &str) -> Result<Self> {
        let name = format!("bakeoff_{purpose}_{}", Uuid::new_v4().simple());
        let admin = connect(server).await?;
        let created = admin.batch_execute(&format!("CREATE DATABASE {name}")).await;
        created.while_(format!("make a database for the {purpose}"))?;
        let url = with_database(server, &name);
        Ok(Self { server: server.to_owned(), name, url })
    }

    /// Drops the database, whoever is connected.
    pub(crate) async fn drop(self) -> Result<()> {
        let admin = connect(&self.server).await?;
        let sql = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        admin.batch_execute(&sql).await.while_(format!("drop the database {}", self.name))
    }
}

/// Connects without TLS.
pub(crate) async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.while_("connect to the database")?;
    // Its end shows in the client's next query.
    tokio::spawn(connection);
    Ok(client)
}
