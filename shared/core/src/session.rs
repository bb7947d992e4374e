//! How the frequent statements reach the server: unnamed, or prepared once and kept.

use std::future::Future;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error, Row};

/// A statement's parameters with their types.
pub type Parameters<'a> = &'a [(&'a (dyn ToSql + Sync), Type)];

/// A connection, and how it runs a statement that returns one row.
///
/// A [`Client`] sends unnamed statements: one round trip, and safe behind a proxy that shares server sessions.
/// A connection that has a server session of its own may prepare each statement once instead, which saves
/// parsing, planning and describing it each time: about 50 µs a claim.
pub trait Session {
    /// Runs a statement that returns exactly one row.
    fn query_row(
        &self,
        statement: &'static str,
        parameters: Parameters<'_>,
    ) -> impl Future<Output = Result<Row, Error>> + Send;
}

impl Session for Client {
    fn query_row(
        &self,
        statement: &'static str,
        parameters: Parameters<'_>,
    ) -> impl Future<Output = Result<Row, Error>> + Send {
        self.query_typed_one(statement, parameters)
    }
}
