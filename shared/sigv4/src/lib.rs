//! AWS Signature Version 4 in the `Authorization` header: verification, as in API Gateway for routes with IAM
//! authorization, and signing, for an admin's client.
//!
//! Follows “AWS Signature Version 4 for API requests” in the IAM User Guide. The tests use AWS's own signing
//! test suite.

use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, Method, Uri};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sha2::{Digest, Sha256};
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{Duration, OffsetDateTime, PrimitiveDateTime};

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const UNSIGNED_PAYLOAD: &str = "UNSIGNED-PAYLOAD";
/// Maximum difference between a request's date and the current time.
const CLOCK_SKEW: Duration = Duration::minutes(5);
/// ISO 8601 basic format, as in `x-amz-date`.
const DATE: &[BorrowedFormatItem] = format_description!("[year][month][day]T[hour][minute][second]Z");
/// All characters except RFC 3986's unreserved ones.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A key pair with its signing scope.
#[derive(Clone)]
pub struct Credentials {
    /// The access key id.
    pub access_key: String,
    /// The secret access key.
    pub secret_key: String,
    /// Such as `us-east-1`.
    pub region: String,
    /// Such as `execute-api`.
    pub service: String,
}

impl Credentials {
    /// Returns the local stack's key pair: `local` and `local-secret`, for `execute-api` in `us-east-1`. It
    /// protects only a loopback port.
    pub fn local() -> Self {
        let [access_key, secret_key, region, service] =
            ["local", "local-secret", "us-east-1", "execute-api"].map(str::to_owned);
        Self { access_key, secret_key, region, service }
    }
}

/// The reason why a signature is invalid. API Gateway does not report it to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no `Authorization` header of this scheme.
    #[error("the request is not signed with AWS Signature Version 4")]
    NotSigned,
    /// The `Authorization` header or the date is malformed.
    #[error("the Authorization or x-amz-date header is malformed")]
    Malformed,
    /// The signature is for another access key, region, service or day.
    #[error("the signature is for another access key, region, service or day")]
    AnotherScope,
    /// The date differs from the current time by more than five minutes.
    #[error("the signature's date differs from the current time by more than 5 minutes")]
    Stale,
    /// The required header `host` is not signed, or a signed header is missing.
    #[error("the host header is not signed, or a signed header is missing")]
    UncoveredHeader,
    /// `x-amz-content-sha256` is not the body's digest.
    #[error("x-amz-content-sha256 is not the body's SHA-256")]
    AnotherBody,
    /// The signature does not match the request.
    #[error("the signature does not match the request")]
    WrongSignature,
}

/// Verifies that a request was signed with `credentials` within five minutes of `now`.
///
/// # Errors
/// The first check that fails.
pub fn verify(
    request: &http::request::Parts,
    body: &[u8],
    credentials: &Credentials,
    now: OffsetDateTime,
) -> Result<(), Refusal> {
    let authorization = Authorization::of(&request.headers)?;
    let date = header(&request.headers, "x-amz-date").ok_or(Refusal::Malformed)?;
    let scope = Scope { credentials, day: date.get(..8).ok_or(Refusal::Malformed)? };
    if authorization.credential != format!("{}/{scope}", credentials.access_key) {
        return Err(Refusal::AnotherScope);
    }
    if (parse_date(date)? - now).abs() > CLOCK_SKEW {
        return Err(Refusal::Stale);
    }
    let names: Vec<&str> = authorization.signed_headers.split(';').collect();
    if !names.contains(&"host") {
        return Err(Refusal::UncoveredHeader);
    }
    let body_digest = body_digest(&request.headers, body)?;
    let canonical = canonical_request(&request.method, &request.uri, &request.headers, &names, &body_digest)?;
    let signature = unhex(authorization.signature).ok_or(Refusal::Malformed)?;
    scope
        .mac(&string_to_sign(date, &scope, &canonical))
        .verify_slice(&signature)
        .map_err(|_| Refusal::WrongSignature)
}

/// Signs a request and returns its `x-amz-date` and `authorization` headers. The signature covers all of
/// `headers`, which must include `host`.
///
/// # Errors
/// [`Refusal::UncoveredHeader`] if a header is not UTF-8.
pub fn sign(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    body: &[u8],
    credentials: &Credentials,
    now: OffsetDateTime,
) -> Result<[(&'static str, String); 2], Refusal> {
    let date = now.format(DATE).map_err(|_| Refusal::Malformed)?;
    let scope = Scope { credentials, day: &date[..8] };
    let mut headers = headers.clone();
    headers.insert("x-amz-date", date.parse().map_err(|_| Refusal::Malformed)?);
    let mut names: Vec<&str> = headers.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    let digest = hex(&Sha256::digest(body));
    let canonical = canonical_request(method, uri, &headers, &names, &digest)?;
    let signature = hex(&scope.mac(&string_to_sign(&date, &scope, &canonical)).finalize().into_bytes());
    let signed = names.join(";");
    let key = &credentials.access_key;
    let authorization =
        format!("{ALGORITHM} Credential={key}/{scope}, SignedHeaders={signed}, Signature={signature}");
    Ok([("x-amz-date", date), ("authorization", authorization)])
}

/// The fields of `AWS4-HMAC-SHA256 Credential=…, SignedHeaders=…, Signature=…`.
struct Authorization<'a> {
    credential: &'a str,
    signed_headers: &'a str,
    signature: &'a str,
}

impl<'a> Authorization<'a> {
    fn of(headers: &'a HeaderMap) -> Result<Self, Refusal> {
        let fields = header(headers, "authorization")
            .and_then(|value| value.strip_prefix(ALGORITHM))
            .ok_or(Refusal::NotSigned)?;
        let field = |name| {
            let mut fields = fields.split(',').map(str::trim);
            fields.find_map(|field| field.strip_prefix(name)?.strip_prefix('=')).ok_or(Refusal::Malformed)
        };
        Ok(Self {
            credential: field("Credential")?,
            signed_headers: field("SignedHeaders")?,
            signature: field("Signature")?,
        })
    }
}

/// The scope of a signing key: one day, region and service.
struct Scope<'a> {
    credentials: &'a Credentials,
    day: &'a str,
}

impl std::fmt::Display for Scope<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Credentials { region, service, .. } = self.credentials;
        write!(f, "{}/{region}/{service}/aws4_request", self.day)
    }
}

impl Scope<'_> {
    fn mac(&self, string_to_sign: &str) -> Hmac<Sha256> {
        let Credentials { secret_key, region, service, .. } = self.credentials;
        let mut key = format!("AWS4{secret_key}").into_bytes();
        for part in [self.day, region, service, "aws4_request"] {
            key = mac(&key, part).finalize().into_bytes().to_vec();
        }
        mac(&key, string_to_sign)
    }
}

fn mac(key: &[u8], message: &str) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(message.as_bytes());
    mac
}

fn string_to_sign(date: &str, scope: &Scope, canonical: &str) -> String {
    format!("{ALGORITHM}\n{date}\n{scope}\n{}", hex(&Sha256::digest(canonical)))
}

fn canonical_request(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    names: &[&str],
    body_digest: &str,
) -> Result<String, Refusal> {
    let mut canonical_headers = String::new();
    for name in names {
        let value = canonical_value(headers, name).ok_or(Refusal::UncoveredHeader)?;
        canonical_headers += &format!("{name}:{value}\n");
    }
    let (path, query) = (canonical_path(uri.path()), canonical_query(uri.query().unwrap_or_default()));
    let names = names.join(";");
    Ok(format!("{method}\n{path}\n{query}\n{canonical_headers}\n{names}\n{body_digest}"))
}

/// Resolves dot segments and repeated slashes, then percent-encodes the path once more (for all services
/// except S3).
fn canonical_path(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            other => segments.push(other),
        }
    }
    let encoded = segments.iter().map(|segment| utf8_percent_encode(segment, ENCODED).to_string());
    let encoded = encoded.collect::<Vec<_>>().join("/");
    let slash = if path.ends_with('/') && !encoded.is_empty() { "/" } else { "" };
    format!("/{encoded}{slash}")
}

fn canonical_query(query: &str) -> String {
    let encode = |text: &str| {
        let bytes: Vec<u8> = percent_decode_str(text).collect();
        percent_encoding::percent_encode(&bytes, ENCODED).to_string()
    };
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let mut pairs: Vec<(String, String)> = pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (encode(name), encode(value)))
        .collect();
    pairs.sort();
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

/// Returns the header's values trimmed, with runs of spaces collapsed, joined by commas.
fn canonical_value(headers: &HeaderMap, name: &str) -> Option<String> {
    let values = headers.get_all(name).iter();
    let values: Option<Vec<String>> = values
        .map(|value| {
            let text = std::str::from_utf8(value.as_bytes()).ok()?;
            Some(text.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" "))
        })
        .collect();
    values.filter(|values| !values.is_empty()).map(|values| values.join(","))
}

/// Returns the digest that the signature covers. It must be the body's, unless the signer declared the
/// payload unsigned.
fn body_digest(headers: &HeaderMap, body: &[u8]) -> Result<String, Refusal> {
    let actual = hex(&Sha256::digest(body));
    match header(headers, "x-amz-content-sha256") {
        Some(UNSIGNED_PAYLOAD) => Ok(UNSIGNED_PAYLOAD.to_owned()),
        Some(declared) if declared != actual => Err(Refusal::AnotherBody),
        _ => Ok(actual),
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn parse_date(date: &str) -> Result<OffsetDateTime, Refusal> {
    PrimitiveDateTime::parse(date, DATE).map(PrimitiveDateTime::assume_utc).map_err(|_| Refusal::Malformed)
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => u8::try_from(digit(*high)? * 16 + digit(*low)?).ok(),
            _ => None,
        })
        .collect()
}

/// Lower-case hexadecimal.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
