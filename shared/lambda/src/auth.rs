//! Who is asking.

use crate::app::App;
use crate::problem::Refusal;
use crate::request::Request;
use bakeoff_core::Error;
use bakeoff_core::runners::proof::ProvenKey;
use bakeoff_core::runners::runner::{Admin, AuthenticatedRunner};
use deadpool_postgres::Object;

impl App {
    /// The runner that the request's token names, and the connection to serve it with. Keys and
    /// connection are fetched at the same time: on a cold start both take a while.
    ///
    /// Whether the runner's key is still allowed is asked in the statement that does the work.
    pub async fn runner(&self, request: &Request) -> Result<(AuthenticatedRunner, Object), Refusal> {
        let token = bearer(request)?;
        let (runner, client) = tokio::join!(self.authenticate(token), self.database());
        // First who, then what: a caller without a valid token learns nothing of the database.
        Ok((runner?, client?))
    }

    async fn authenticate(&self, token: &str) -> Result<AuthenticatedRunner, Refusal> {
        let service = &self.config().public_url;
        match self.signing_keys().await?.authenticate(service, token) {
            // A rotation may have made a key since the set was read.
            Err(Error::TokenKeyUnknown) => {
                Ok(self.newest_signing_keys().await?.authenticate(service, token)?)
            }
            runner => Ok(runner?),
        }
    }

    /// The key that the request's DPoP header proves possession of, for this route.
    pub fn proven_key(&self, request: &Request) -> Result<ProvenKey, Refusal> {
        let proof = request.header("dpop").ok_or(Refusal::NoProof)?;
        let url = format!("{}/api/runners/register", self.config().public_url);
        Ok(ProvenKey::from_proof(proof, &url)?)
    }

    /// The admin that the gateway's IAM authorizer names.
    pub fn admin(&self, request: &Request) -> Result<Admin, Refusal> {
        let principal = request.iam().and_then(|iam| iam.user_arn.as_deref()).filter(|arn| !arn.is_empty());
        Ok(Admin::from_iam_principal(principal.ok_or(Refusal::NotAnAdmin)?))
    }
}

/// The token of an `Authorization: Bearer` header (RFC 6750, section 2.1).
fn bearer(request: &Request) -> Result<&str, Refusal> {
    let header =
        request.header("authorization").ok_or(Refusal::NoToken("there is no Authorization header"))?;
    match header.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() => {
            Ok(token.trim())
        }
        _ => Err(Refusal::NoToken("the Authorization header is not of the scheme Bearer")),
    }
}
