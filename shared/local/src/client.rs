//! A client of the API, written from the API's contract and independent of the server's code.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Serialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::api_gateway::sigv4::{Credentials, sign};
use crate::error::{Error, Result};
use crate::signing_keys::public_jwk;

/// Path of the registration route.
pub const REGISTER: &str = "/api/runners/register";

/// The API at a base URL.
pub struct Api {
    base: String,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// A response, with the method and path of its request.
pub struct Reply {
    request_line: String,
    /// The status.
    pub status: StatusCode,
    /// `Retry-After`, in seconds.
    pub retry_after: Option<u64>,
    /// The JSON body; null if the response has none.
    pub body: Value,
}

impl Api {
    /// Creates a client for the API at this base URL.
    pub fn new(base: &str) -> Self {
        Self { base: base.to_owned(), client: Client::builder(TokioExecutor::new()).build_http() }
    }

    /// Sends a `GET` without credentials.
    ///
    /// # Errors
    /// If there is no response, or its body is not JSON.
    pub async fn get(&self, path: &str) -> Result<Reply> {
        self.send(Method::GET, path, HeaderMap::new(), Bytes::new()).await
    }

    /// Sends a request as the runner with this token.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub async fn post(&self, path: &str, token: &str, body: &impl Serialize) -> Result<Reply> {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, value(format!("Bearer {token}"))?);
        self.send(Method::POST, path, headers, bytes(body)?).await
    }

    /// Sends a request as an admin, signed with the local key pair.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub async fn admin_post(&self, path: &str, body: &impl Serialize) -> Result<Reply> {
        self.admin_send(Method::POST, path, bytes(body)?).await
    }

    /// Sends a `DELETE` request as an admin, signed with the local key pair.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub async fn admin_delete(&self, path: &str) -> Result<Reply> {
        self.admin_send(Method::DELETE, path, Bytes::new()).await
    }

    async fn admin_send(&self, method: Method, path: &str, body: Bytes) -> Result<Reply> {
        let uri = self.uri(path)?;
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, value(uri.authority().map(ToString::to_string).unwrap_or_default())?);
        let now = OffsetDateTime::now_utc();
        for (name, text) in
            sign(&method, &uri, &headers, &body, &Credentials::local(), now).map_err(failed)?
        {
            headers.insert(name, value(text)?);
        }
        self.send(method, path, headers, body).await
    }

    /// Registers with a fresh proof for the key.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub async fn register(&self, key: &SigningKey, body: &Value) -> Result<Reply> {
        self.register_with(self.proof(key), body).await
    }

    /// Registers with this proof.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub async fn register_with(&self, proof: String, body: &Value) -> Result<Reply> {
        let mut headers = HeaderMap::new();
        headers.insert("dpop", value(proof)?);
        self.send(Method::POST, REGISTER, headers, bytes(body)?).await
    }

    /// Creates a DPoP proof (RFC 9449) of the key for [`REGISTER`].
    pub fn proof(&self, key: &SigningKey) -> String {
        self.proof_at(key, OffsetDateTime::now_utc())
    }

    /// Creates a proof with this time in it.
    pub fn proof_at(&self, key: &SigningKey, issued_at: OffsetDateTime) -> String {
        let header = json!({"typ": "dpop+jwt", "alg": "EdDSA", "jwk": public_jwk(key)});
        let claims = json!({
            "htm": "POST",
            "htu": format!("{}{REGISTER}", self.base),
            "iat": issued_at.unix_timestamp(),
            "jti": Uuid::new_v4(),
        });
        jwt(key, &header, &claims)
    }

    async fn send(&self, method: Method, path: &str, headers: HeaderMap, body: Bytes) -> Result<Reply> {
        let mut request = Request::new(Full::new(body));
        let request_line = format!("{method} {path}");
        *request.method_mut() = method;
        *request.uri_mut() = self.uri(path)?;
        *request.headers_mut() = headers;
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let response = self.client.request(request).await.map_err(failed)?;
        let status = response.status();
        let retry_after =
            response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let body = response.into_body().collect().await.map_err(failed)?.to_bytes();
        let body = match body.is_empty() {
            true => Value::Null,
            false => serde_json::from_slice(&body).map_err(failed)?,
        };
        Ok(Reply { request_line, status, retry_after, body })
    }

    fn uri(&self, path: &str) -> Result<Uri> {
        format!("{}{path}", self.base).parse().map_err(failed)
    }
}

impl Reply {
    /// Prints the exchange in one line with a note.
    ///
    /// # Errors
    /// As [`Reply::expect_status`].
    pub fn expect_and_print(&self, expected: StatusCode, note: &str) -> Result<()> {
        self.expect_status(expected)?;
        println!("  {}  {}  {note}", self.request_line, self.status.as_u16());
        Ok(())
    }

    /// Checks the response's status.
    ///
    /// # Errors
    /// If it has another status.
    pub fn expect_status(&self, expected: StatusCode) -> Result<()> {
        let (request_line, status) = (&self.request_line, self.status.as_u16());
        if self.status != expected {
            let expected = expected.as_u16();
            return Err(Error::Failed(format!(
                "{request_line}: {status} instead of {expected}: {}",
                self.body
            )));
        }
        Ok(())
    }

    /// Returns a string field, or an empty string.
    pub fn text(&self, field: &str) -> String {
        self.body[field].as_str().unwrap_or_default().to_owned()
    }
}

/// Creates a compact JWS (RFC 7515) signed with EdDSA (RFC 8037).
fn jwt(key: &SigningKey, header: &Value, claims: &Value) -> String {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", encode(header), encode(claims));
    let signature = URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()).to_bytes());
    format!("{signed}.{signature}")
}

/// Verifies a receipt with only the service's public keys.
///
/// # Errors
/// When it does not verify.
pub fn verify_receipt(receipt: &str, keys: &Value) -> Result<()> {
    let verify = || {
        let (signed, signature) = receipt.rsplit_once('.')?;
        let header: Value = serde_json::from_slice(&decode(signed.split('.').next()?)?).ok()?;
        let key = keys["keys"].as_array()?.iter().find(|key| key["kid"] == header["kid"])?;
        let key = VerifyingKey::from_bytes(&decode(key["x"].as_str()?)?.try_into().ok()?).ok()?;
        let signature = Signature::from_slice(&decode(signature)?).ok()?;
        key.verify_strict(signed.as_bytes(), &signature).ok()
    };
    verify().ok_or_else(|| {
        Error::Failed("the receipt's signature does not verify with the service's public keys".into())
    })
}

fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

fn bytes(body: &impl Serialize) -> Result<Bytes> {
    serde_json::to_vec(body).map(Bytes::from).map_err(failed)
}

fn value(text: String) -> Result<HeaderValue> {
    text.try_into().map_err(failed)
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Failed(error.to_string())
}
