//! Authentication of callers: runners by token, registering runners by DPoP proof, admins by IAM.

use crate::app::App;
use crate::database::Session;
use crate::problem::Refusal;
use crate::request::Request;
use bakeoff_core::Error;
use bakeoff_core::runners::proof::ProvenKey;
use bakeoff_core::runners::runner::{Admin, AuthenticatedRunner};

impl App {
    /// Authenticates the runner by its token, and returns it with a database connection. Reads the keys and
    /// connects concurrently, because both are slow on a cold start.
    ///
    /// Does not check the allowlist: the operation's own statement checks that the runner's key is still
    /// allowed.
    pub async fn runner(&self, request: &Request) -> Result<(AuthenticatedRunner, Session), Refusal> {
        let token = bearer(request)?;
        let (runner, client) = tokio::join!(self.authenticate(request, token), self.database());
        // The token's error comes first, so that a caller without a valid token learns nothing of the
        // database.
        Ok((runner?, client?))
    }

    async fn authenticate(&self, request: &Request, token: &str) -> Result<AuthenticatedRunner, Refusal> {
        let service = self.public_url(request)?;
        match self.verifying_keys().await?.authenticate(&service, token) {
            // A rotation may have added the key after the cached set was read.
            Err(Error::TokenKeyUnknown) => {
                Ok(self.refresh_verifying_keys().await?.authenticate(&service, token)?)
            }
            runner => Ok(runner?),
        }
    }

    /// Verifies the request's DPoP header and returns the key whose possession it proves.
    pub fn proven_key(&self, request: &Request) -> Result<ProvenKey, Refusal> {
        let proof = request.header("dpop").ok_or(Refusal::NoProof)?;
        let url = format!("{}/api/runners/register", self.public_url(request)?);
        Ok(ProvenKey::from_proof(proof, &url)?)
    }

    /// Returns the admin identified by API Gateway's IAM authorizer, with the id of API Gateway's request.
    ///
    /// A principal with `lambda:InvokeFunction` can write the whole event, this identity included. The id makes
    /// the audit log's claim verifiable: API Gateway's access log has a line with this id and the caller that
    /// IAM saw, and none for a forged event.
    pub fn admin(&self, request: &Request) -> Result<Admin, Refusal> {
        let principal = request.iam().and_then(|iam| iam.user_arn.as_deref()).filter(|arn| !arn.is_empty());
        let principal = principal.ok_or(Refusal::NotAnAdmin)?;
        let id = request.gateway_request_id().unwrap_or("unknown");
        Ok(Admin::from_iam_principal(format!("{principal} (API request {id})")))
    }
}

/// Returns the token of the `Authorization: Bearer` header (RFC 6750, section 2.1).
fn bearer(request: &Request) -> Result<&str, Refusal> {
    let header =
        request.header("authorization").ok_or(Refusal::NoToken("the Authorization header is missing"))?;
    match header.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() => {
            Ok(token.trim())
        }
        _ => Err(Refusal::NoToken("the Authorization header does not have the scheme Bearer and a token")),
    }
}
