//! The password of the role that the functions connect as, kept in a secret of its own. The deploy step sets it
//! where the role does not have it yet (a new database, or one restored from a snapshot); after that Secrets
//! Manager rotates it.
//!
//! Between the second step and the last, for about a second, the functions read the old password while the role
//! already has the new one. Open connections are not affected; a new one fails, and its request gets a 503 with
//! `Retry-After`.

use crate::connect;
use aws_sdk_secretsmanager::Client;
use bakeoff_core::functions_role::{NAME, set_password};
use bakeoff_lambda::App;
use bakeoff_lambda::rotation::{Rotation, Step};
use bakeoff_lambda::secrets::DatabaseCredentials;
use bakeoff_lambda::tls::Roots;
use lambda_runtime::Error;
use serde_json::json;
use tokio_postgres::Config;

/// Letters and digits only: a password is written into URLs and command lines by hand.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789xy";
/// 64 letters to the power of 43: 258 bits.
const LENGTH: usize = 43;

/// Takes one step of a rotation.
pub(crate) async fn rotate(app: &App, secrets: &Client, rotation: &Rotation) -> Result<(), Error> {
    let roots = &app.config().database_roots;
    match rotation.step {
        Step::Create => match rotation.pending(secrets).await {
            Ok(_) => Ok(()),
            Err(_) => rotation.put_pending(secrets, new_credentials()?).await,
        },
        Step::Set => {
            let owner = connect(roots, &app.database_config().await?).await?;
            set(&owner, &rotation.pending(secrets).await?).await
        }
        Step::Test => {
            let config = as_functions(&app.database_config().await?, &rotation.pending(secrets).await?)?;
            connect(roots, &config).await?;
            Ok(())
        }
        Step::Finish => rotation.finish(secrets).await,
    }
}

/// Sets the password of the secret, unless the role can connect with it.
pub(crate) async fn ensure(
    roots: &Roots,
    owner: &tokio_postgres::Client,
    config: &Config,
    secret: &str,
) -> Result<(), Error> {
    if connect(roots, &as_functions(config, secret)?).await.is_ok() {
        return Ok(());
    }
    set(owner, secret).await
}

async fn set(owner: &tokio_postgres::Client, secret: &str) -> Result<(), Error> {
    let credentials = parse(secret)?;
    Ok(set_password(owner, &credentials.password).await?)
}

fn as_functions(owner: &Config, secret: &str) -> Result<Config, Error> {
    let credentials = parse(secret)?;
    let mut config = owner.clone();
    config.user(&credentials.username).password(&credentials.password);
    Ok(config)
}

fn parse(secret: &str) -> Result<DatabaseCredentials, Error> {
    let credentials = DatabaseCredentials::parse(secret)?;
    if credentials.username != NAME {
        return Err(format!("the functions' secret must be of the user {NAME}").into());
    }
    Ok(credentials)
}

fn new_credentials() -> Result<String, Error> {
    let mut random = [0; LENGTH];
    getrandom::fill(&mut random)?;
    let password: String = random.iter().map(|byte| char::from(ALPHABET[usize::from(byte & 63)])).collect();
    Ok(json!({ "username": NAME, "password": password }).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bakeoff_testkit::Database;

    /// A cluster of its own: the role belongs to the whole server, and so does its password.
    #[tokio::test]
    async fn the_functions_connect_with_the_secrets_password_and_no_other() {
        let folder = bakeoff_local::workspace::target().unwrap().join("tests");
        let name = format!("password-{}", std::process::id());
        let cluster = bakeoff_local::postgres::Cluster::start(&folder.join(name)).unwrap();
        let config: Config = cluster.url().parse().unwrap();
        let mut owner = connect(&Roots::Aws, &config).await.unwrap();
        bakeoff_core::migrate::apply(&mut owner).await.unwrap();

        let (first, second) = (new_credentials().unwrap(), new_credentials().unwrap());
        assert!(
            connect(&Roots::Aws, &as_functions(&config, &first).unwrap()).await.is_err(),
            "no password, no way in"
        );
        for secret in [&first, &first, &second] {
            ensure(&Roots::Aws, &owner, &config, secret).await.unwrap();
            connect(&Roots::Aws, &as_functions(&config, secret).unwrap()).await.unwrap();
        }
        assert!(
            connect(&Roots::Aws, &as_functions(&config, &first).unwrap()).await.is_err(),
            "the old one is gone"
        );
    }

    #[tokio::test]
    async fn a_secret_of_another_user_is_refused() {
        let database = Database::create().await;
        let owner = database.owner().await;
        let config: Config = database.owner_url().parse().unwrap();
        for secret in [r#"{"username":"postgres","password":"x"}"#, r#"{"password":"x"}"#, "{}", ""] {
            let refused = ensure(&Roots::Aws, &owner, &config, secret).await.unwrap_err();
            assert!(!refused.to_string().contains("\"x\""), "{refused}");
        }
    }

    #[test]
    fn a_new_password_is_long_and_never_the_same() {
        let (one, other) = (new_credentials().unwrap(), new_credentials().unwrap());
        assert_ne!(one, other);
        let password = parse(&one).unwrap().password;
        assert!(password.len() == LENGTH && password.chars().all(|c| c.is_ascii_alphanumeric()));
    }
}
