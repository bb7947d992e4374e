//! Rotation of the signing keys: the four steps that Secrets Manager calls in order. It may repeat each step.
//!
//! The new key becomes the first of the set. The previous key still verifies tokens until the longest-lived
//! one has expired, and receipts for ever. A second secret holds the public halves, for the functions that
//! only verify. It receives the new key before a function can sign with it, so that every token's key is
//! known to the verifying functions. Functions need no notification: they read their set again within five
//! minutes, and immediately when a token names an unknown key.

use aws_sdk_secretsmanager::Client;
use bakeoff_core::runners::token::{ServiceKeys, public_set, rotate_key_set};
use bakeoff_lambda::config::{Config, KeySource};
use bakeoff_lambda::rotation::{Rotation, Step};
use bakeoff_lambda::secrets::client_from_env;
use lambda_runtime::{Error, LambdaEvent, service_fn};
use time::{Duration, OffsetDateTime};

/// Time for which functions may still use a cached key set, added to the token lifetime.
const KEY_SET_CACHE_TIME: Duration = Duration::minutes(10);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let app = bakeoff_lambda::serve::start()?;
    lambda_runtime::run(service_fn(|event: LambdaEvent<Rotation>| async move {
        let client = client_from_env()?;
        let rotation = event.payload;
        tracing::info!(step = ?rotation.step, secret = rotation.secret_id, "rotation step started");
        Box::pin(run(&rotation, &client, app.config())).await
    }))
    .await
}

async fn run(rotation: &Rotation, client: &Client, config: &Config) -> Result<(), Error> {
    match rotation.step {
        Step::Create => create(rotation, client, config).await,
        Step::Set => publish(rotation, client, config).await,
        Step::Test => {
            // Functions must be able to parse the pending key set.
            ServiceKeys::from_jwk_set(&rotation.pending(client).await?)?;
            Ok(())
        }
        Step::Finish => rotation.finish(client).await,
    }
}

/// Creates the pending key set, unless an earlier attempt of this step has created it.
async fn create(rotation: &Rotation, client: &Client, config: &Config) -> Result<(), Error> {
    if rotation.pending(client).await.is_ok() {
        return Ok(());
    }
    let current = rotation.current(client).await?;
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)?;
    let overlap = config.token_ttl + KEY_SET_CACHE_TIME;
    let next = rotate_key_set(&current, seed, OffsetDateTime::now_utc(), overlap)?;
    rotation.put_pending(client, next).await
}

/// Replaces the public set with that of the pending key set, which contains every earlier key. If the
/// rotation fails after this step, the public set has a key that signs nothing until the next rotation.
async fn publish(rotation: &Rotation, client: &Client, config: &Config) -> Result<(), Error> {
    let KeySource::Secret(public) = &config.verifying_keys else {
        return Err("VERIFYING_KEYS_SECRET_ARN is missing".into());
    };
    let set = public_set(&rotation.pending(client).await?)?;
    client.put_secret_value().secret_id(public).secret_string(set).send().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bakeoff_core::runners::token::VerifyingKeys;
    use bakeoff_testkit::fixture::key_set;

    #[test]
    fn the_sample_event_parses() {
        let event = include_str!("../../../events/rotate.json");
        let rotation: Rotation = serde_json::from_str(event).unwrap();
        assert!(matches!(rotation.step, Step::Create));
        assert!(rotation.secret_id.starts_with("arn:aws:secretsmanager:"));
    }

    /// Calls each step twice with the real SDK, because Secrets Manager may repeat a step. `.ci/run` starts
    /// the server.
    #[tokio::test]
    #[ignore = "needs moto_server at AWS_ENDPOINT_URL, as .ci/run starts it"]
    async fn the_four_steps_put_a_new_key_before_the_old_one() {
        const SECRET: &str = "rotated-signing-keys";
        let client = client_from_env().unwrap();
        const PUBLIC: &str = "rotated-verifying-keys";
        let variable = |name: &str| (name == "VERIFYING_KEYS_SECRET_ARN").then(|| PUBLIC.to_owned());
        let config = Config::from_variables(&variable).unwrap();
        let current = async || {
            // Names the default stage, because moto otherwise returns the version created last.
            let value = client.get_secret_value().secret_id(SECRET).version_stage("AWSCURRENT");
            let value = value.send().await.unwrap();
            ServiceKeys::from_jwk_set(value.secret_string().unwrap()).unwrap()
        };
        client.create_secret().name(SECRET).secret_string(key_set([1; 32])).send().await.unwrap();
        client.create_secret().name(PUBLIC).secret_string(r#"{"keys":[]}"#).send().await.unwrap();
        let before = current().await;

        for step in [Step::Create, Step::Set, Step::Test, Step::Finish] {
            let rotation = Rotation {
                step,
                secret_id: SECRET.into(),
                client_request_token: "e2f6b1de-0d5a-4f0b-8b15-4b7c1a2d3e4f".into(),
            };
            for _ in 0..2 {
                assert!(matches!(rotation.step, Step::Finish) || current().await.public_keys().count() == 1);
                run(&rotation, &client, &config).await.unwrap();
                let public =
                    client.get_secret_value().secret_id(PUBLIC).version_stage("AWSCURRENT").send().await;
                let public = public.unwrap().secret_string.unwrap();
                assert!(!public.contains("\"d\""), "{public}");
                let published = VerifyingKeys::from_jwk_set(&public).unwrap().public_keys().count();
                assert_eq!(published, if matches!(rotation.step, Step::Create) { 0 } else { 2 });
            }
        }
        let after = current().await;
        assert_eq!(after.public_keys().count(), 2);
        assert_eq!(after.public_keys().nth(1).unwrap().kid(), before.public_keys().next().unwrap().kid());
    }
}
