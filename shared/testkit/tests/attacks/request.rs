//! Requests as an attacker makes them, and what must hold of every answer.

use std::borrow::Cow;
use std::fmt;

use bakeoff_local::api_gateway::sigv4::{Credentials, sign};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use time::OffsetDateTime;

use crate::target::Target;

/// A refusal says what was wrong, and repeats little of what it was sent.
const REFUSAL_MAX: usize = 40_000;

/// A request about to be sent.
#[derive(Clone)]
pub(crate) struct Attempt {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Bytes,
    signer: Option<Signer>,
}

/// What an admin's signature is made of; an attacker bends it.
#[derive(Clone)]
pub(crate) struct Signer {
    pub(crate) credentials: Credentials,
    pub(crate) at: OffsetDateTime,
    /// Signed in place of the request's own.
    pub(crate) method: Option<Method>,
    pub(crate) path: Option<String>,
    pub(crate) body: Option<&'static str>,
}

impl Signer {
    /// The admin's own signature.
    pub(crate) fn admin() -> Self {
        let at = OffsetDateTime::now_utc();
        Self { credentials: Credentials::local(), at, method: None, path: None, body: None }
    }
}

pub(crate) fn attempt(method: &str, path: &str) -> Attempt {
    Attempt {
        method: method.parse().unwrap(),
        path: path.to_owned(),
        headers: HeaderMap::new(),
        body: Bytes::new(),
        signer: None,
    }
}

pub(crate) fn get(path: &str) -> Attempt {
    attempt("GET", path)
}

pub(crate) fn post(path: &str) -> Attempt {
    attempt("POST", path)
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let body: Cow<str> = String::from_utf8_lossy(&self.body[..self.body.len().min(500)]);
        write!(f, "{} {:.200} {:?} {body}", self.method, self.path, self.headers)
    }
}

impl Attempt {
    /// With one more header; a second of a name stands beside the first.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        let name: HeaderName = name.parse().unwrap();
        self.headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        self
    }

    pub(crate) fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    pub(crate) fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    pub(crate) fn json(self, body: &Value) -> Self {
        self.body(body.to_string())
    }

    /// Signed by an admin (SigV4).
    pub(crate) fn admin(self) -> Self {
        self.signed(Signer::admin())
    }

    pub(crate) fn signed(mut self, signer: Signer) -> Self {
        self.signer = Some(signer);
        self
    }

    pub(crate) async fn send(self, target: &Target) -> Answer {
        let asked = format!("{} {}", self.method, self.path.chars().take(200).collect::<String>());
        let uri: Uri = format!("{}{}", target.url, self.path).parse().unwrap();
        let mut headers = self.headers;
        if let Some(signer) = self.signer {
            headers.insert("host", uri.authority().unwrap().as_str().parse().unwrap());
            let signed_uri = match &signer.path {
                Some(path) => format!("{}{path}", target.url).parse().unwrap(),
                None => uri.clone(),
            };
            let method = signer.method.as_ref().unwrap_or(&self.method);
            let body = signer.body.map_or(self.body.as_ref(), str::as_bytes);
            let signature =
                sign(method, &signed_uri, &headers, body, &signer.credentials, signer.at).unwrap();
            for (name, value) in signature {
                headers.insert(name, value.parse().unwrap());
            }
        }
        let mut request = Request::builder().method(self.method).uri(uri).body(Full::new(self.body)).unwrap();
        *request.headers_mut() = headers;
        // A connection of its own: one of a pool ends with the runtime of the test that made it.
        let client = Client::builder(TokioExecutor::new()).build_http();
        let response = client.request(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        let answer = Answer { asked, status: parts.status.as_u16(), headers: parts.headers, text };
        answer.assert_harmless();
        answer
    }
}

/// An answer of the service.
#[derive(Debug)]
pub(crate) struct Answer {
    asked: String,
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    /// Holds of every answer, whatever was sent: no failure of the service, nothing that a terminal would
    /// obey, and no large answer to a request that was refused.
    #[track_caller]
    fn assert_harmless(&self) {
        let shown: String = self.text.chars().take(2000).collect();
        assert!(self.status < 500, "{}: {} {shown}", self.asked, self.status);
        let obeyed = self.text.chars().find(|character| is_obeyed_by_terminals(*character));
        assert_eq!(obeyed, None, "{}: {shown:?}", self.asked);
        let size = self.text.len();
        assert!(self.status < 400 || size < REFUSAL_MAX, "{}: {size} bytes: {shown}", self.asked);
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }

    /// The body of a success.
    #[track_caller]
    pub(crate) fn success(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}: {}", self.asked, self.text);
        self.json()
    }

    /// Fails unless this is the refusal.
    #[track_caller]
    pub(crate) fn refused(&self, status: u16, code: &str, why: &str) {
        let body = self.json();
        let found = (self.status, body["code"].as_str().unwrap_or_default());
        assert_eq!(found, (status, code), "{why}: {}: {body}", self.asked);
    }

    /// Fails unless the gateway or a function refused, in whatever words.
    #[track_caller]
    pub(crate) fn refused_somehow(&self, why: &str) {
        assert!((400..500).contains(&self.status), "{why}: {}: {} {}", self.asked, self.status, self.text);
    }
}

/// Control characters (ESC and the one-byte CSI among them), and those that reorder the text around them.
pub(crate) fn is_obeyed_by_terminals(character: char) -> bool {
    character.is_control() || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
