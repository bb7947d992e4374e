//! The database role that the functions connect as. The migration owns the schema; the functions do not, so a
//! function that is taken over can neither change a table nor rewrite the audit log or the evidence.

use crate::error::Error;
use tokio_postgres::Client;

/// Name of the role.
pub const NAME: &str = "bakeoff_functions";

/// Creates the role if it is missing, and grants it exactly what the functions' statements need.
pub(crate) const GRANTS: &str = include_str!("functions_role.sql");

/// Sets the role's password. `client` must be connected as the role itself or as one that may change it.
///
/// The server receives a SCRAM-SHA-256 verifier and not the password, which therefore never appears in its log.
///
/// # Errors
///
/// [`Error::Database`], if the role is missing or may not be changed.
pub async fn set_password(client: &Client, password: &str) -> Result<(), Error> {
    let verifier = postgres_protocol::password::scram_sha_256(password.as_bytes());
    // A utility statement takes no parameters. The verifier is base64, `$` and `:`.
    client.batch_execute(&format!("ALTER ROLE {NAME} PASSWORD '{verifier}'")).await?;
    Ok(())
}
