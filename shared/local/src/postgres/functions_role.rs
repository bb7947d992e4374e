//! How functions connect: not as the owner of the schema, but as the role that the migration makes for them.

use bakeoff_core::error::error_chain;
use bakeoff_core::functions_role::{NAME, set_password};
use sha2::{Digest, Sha256};
use tokio_postgres::{Client, Config, NoTls};

use crate::error::{Error, ErrorContext, Result};
use crate::hex;

/// Returns the URL with which functions connect to the migrated database at `owner_url`.
///
/// Roles belong to the server, and several stacks and test processes may use one. So the password follows from the
/// owner's, and is set only if the role cannot connect with it yet: none takes it away from another.
///
/// # Errors
/// If the role does not exist, or the owner may not set its password.
pub async fn functions_url(owner_url: &str) -> Result<String> {
    let config = owner_url.parse::<Config>().context("read the database's URL")?;
    let password = config.get_password().map(|owners| {
        let secret = [NAME.as_bytes(), b":", owners].concat();
        hex(&Sha256::digest(secret))
    });
    let url = with_user(owner_url, NAME, password.as_deref());
    if connect(&url).await.is_ok() {
        return Ok(url);
    }
    if let Some(password) = &password {
        let owner = connect(owner_url).await.context("connect to the database")?;
        set_password(&owner, password).await.map_err(|error| {
            Error::Failed(format!("could not set the password of {NAME}: {}", error_chain(&error)))
        })?;
    }
    connect(&url).await.context(format!("connect to the database as {NAME}"))?;
    Ok(url)
}

async fn connect(url: &str) -> std::result::Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// The same URL for another user.
fn with_user(url: &str, user: &str, password: Option<&str>) -> String {
    let host_start = url.find("://").map_or(0, |at| at + 3);
    let (scheme, rest) = url.split_at(host_start);
    let address_end = rest.find(['/', '?']).unwrap_or(rest.len());
    let address_start = rest[..address_end].rfind('@').map_or(0, |at| at + 1);
    let password = password.map(|password| format!(":{password}")).unwrap_or_default();
    format!("{scheme}{user}{password}@{}", &rest[address_start..])
}

#[cfg(test)]
mod tests {
    use super::with_user;

    #[test]
    fn only_user_and_password_of_a_url_change() {
        let url = "postgres://me:s%40cret@127.0.0.1:5432/queue?connect_timeout=5";
        assert_eq!(with_user(url, "it", Some("x")), "postgres://it:x@127.0.0.1:5432/queue?connect_timeout=5");
        assert_eq!(with_user("postgres://h/a@b", "it", None), "postgres://it@h/a@b");
        assert_eq!(with_user("postgres://h", "it", Some("x")), "postgres://it:x@h");
    }
}
