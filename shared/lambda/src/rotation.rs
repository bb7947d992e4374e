//! The protocol by which Secrets Manager rotates a secret: four steps in order, each of which it may repeat.

use aws_sdk_secretsmanager::Client;
use lambda_http::Error;
use serde::Deserialize;

const CURRENT: &str = "AWSCURRENT";
const PENDING: &str = "AWSPENDING";

/// A rotation request from Secrets Manager.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Rotation {
    /// The step to take.
    pub step: Step,
    /// ARN or name of the secret.
    pub secret_id: String,
    /// Also the id of the secret version that the rotation creates.
    pub client_request_token: String,
}

/// A step of a rotation.
#[derive(Debug, Deserialize)]
pub enum Step {
    /// Create the next value as a pending version of the secret.
    #[serde(rename = "createSecret")]
    Create,
    /// Put the pending value into effect.
    #[serde(rename = "setSecret")]
    Set,
    /// Check that the pending value works.
    #[serde(rename = "testSecret")]
    Test,
    /// Make the pending version current: [`Rotation::finish`].
    #[serde(rename = "finishSecret")]
    Finish,
}

impl Rotation {
    /// Returns the value in use.
    ///
    /// # Errors
    /// That of Secrets Manager.
    pub async fn current(&self, client: &Client) -> Result<String, Error> {
        // Names the default stage, because stand-ins for AWS otherwise return the version created last.
        let current =
            client.get_secret_value().secret_id(&self.secret_id).version_stage(CURRENT).send().await?;
        Ok(current.secret_string.unwrap_or_default())
    }

    /// Returns the pending value.
    ///
    /// # Errors
    /// That of Secrets Manager, as long as no attempt of the first step has created it.
    pub async fn pending(&self, client: &Client) -> Result<String, Error> {
        let pending = client
            .get_secret_value()
            .secret_id(&self.secret_id)
            .version_id(&self.client_request_token)
            .version_stage(PENDING)
            .send()
            .await?;
        pending.secret_string.ok_or_else(|| "the pending secret version is not a string".into())
    }

    /// Creates the pending version.
    ///
    /// # Errors
    /// That of Secrets Manager.
    pub async fn put_pending(&self, client: &Client, value: String) -> Result<(), Error> {
        client
            .put_secret_value()
            .secret_id(&self.secret_id)
            .client_request_token(&self.client_request_token)
            .secret_string(value)
            .version_stages(PENDING)
            .send()
            .await?;
        Ok(())
    }

    /// Makes the pending version current. A repeated call changes nothing.
    ///
    /// # Errors
    /// That of Secrets Manager.
    pub async fn finish(&self, client: &Client) -> Result<(), Error> {
        let secret = client.describe_secret().secret_id(&self.secret_id).send().await?;
        let current = secret.version_ids_to_stages().and_then(|versions| {
            versions.iter().find(|(_, stages)| stages.iter().any(|stage| stage == CURRENT)).map(|(id, _)| id)
        });
        if current == Some(&self.client_request_token) {
            return Ok(());
        }
        client
            .update_secret_version_stage()
            .secret_id(&self.secret_id)
            .version_stage(CURRENT)
            .move_to_version_id(&self.client_request_token)
            .set_remove_from_version_id(current.cloned())
            .send()
            .await?;
        Ok(())
    }
}
