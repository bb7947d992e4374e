//! The service's own keys: tokens for runners, receipts for results, and the public halves for anyone.

use crate::error::Error;
use crate::runners::key::{KeyId, PublicKey};
use crate::runners::runner::AuthenticatedRunner;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::SigningKey;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use std::fmt;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

/// `typ` of a runner's token (RFC 9068, section 2.1).
const TOKEN_TYPE: &str = "at+jwt";
/// `typ` of a receipt, so that neither can pass for the other.
const RECEIPT_TYPE: &str = "bakeoff-receipt+jwt";
/// How far the clocks of function and database may lie apart, in seconds.
const CLOCK_LEEWAY_S: u64 = 5;
/// The DER that precedes the seed in an Ed25519 PKCS#8 private key (RFC 8410, section 7).
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// A JWK set of Ed25519 keys (RFC 7517, RFC 8037): the first signs. Tokens are verified by the keys that
/// still have their private half, receipts by all there ever were.
pub struct ServiceKeys {
    signing: EncodingKey,
    keys: Vec<ServiceKey>,
}

struct ServiceKey {
    public: PublicJwk,
    verifying: DecodingKey,
    /// False once the last token it signed has expired: from then on a token of this key is a forgery.
    verifies_tokens: bool,
}

/// The public half of a key of the service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicJwk {
    kty: String,
    crv: String,
    x: String,
    kid: String,
    #[serde(rename = "use")]
    used_for: String,
    alg: String,
}

impl PublicJwk {
    /// The id that tokens and receipts name the key by.
    pub fn kid(&self) -> &str {
        &self.kid
    }
}

/// Why a key set cannot be used. Says nothing of what the keys are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signing keys are not a JWK set of Ed25519 private keys: {0}")]
pub struct KeySetRefused(&'static str);

/// The set as the secret holds it.
#[derive(Deserialize, Serialize)]
struct StoredSet {
    keys: Vec<StoredKey>,
}

/// A key as the secret holds it.
#[derive(Deserialize, Serialize)]
struct StoredKey {
    kty: String,
    crv: String,
    x: String,
    kid: String,
    /// The private half, gone once no token of this key can be valid.
    #[serde(skip_serializing_if = "Option::is_none")]
    d: Option<String>,
    /// When another key became the first, in seconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    superseded_at: Option<i64>,
}

/// What a receipt states (the claims of its JWS).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReceiptClaims {
    /// The service's public URL.
    pub iss: String,
    /// The submission.
    pub submission_id: Uuid,
    /// The run and the row the result completed.
    pub run_id: Uuid,
    /// The row.
    pub queue_id: Uuid,
    /// The claim the result was made under.
    pub claim_id: Uuid,
    /// The runner that submitted it.
    pub runner_id: String,
    /// SHA-256 of what was signed, in hexadecimal.
    pub sha256: String,
    /// The form of signature, and who made it.
    pub signer_kind: String,
    /// The key's thumbprint, or the certificate's identity.
    pub signer: String,
    /// Whether the claim's lease had lapsed.
    pub late: bool,
    /// When the service accepted it, in seconds since the epoch.
    pub iat: i64,
}

#[derive(Serialize, Deserialize)]
struct TokenClaims {
    iss: String,
    aud: String,
    sub: String,
    cnf: Confirmation,
    iat: i64,
    nbf: i64,
    exp: i64,
    jti: Uuid,
}

/// The key a token is bound to (RFC 7800): its thumbprint, and the key itself, so that a submission
/// can be verified before the database is asked.
#[derive(Serialize, Deserialize)]
struct Confirmation {
    jkt: String,
    jwk: BoundJwk,
}

#[derive(Serialize, Deserialize)]
struct BoundJwk {
    kty: String,
    crv: String,
    x: String,
}

impl ServiceKeys {
    /// Reads a JWK set.
    pub fn from_jwk_set(json: &str) -> Result<Self, KeySetRefused> {
        let set: StoredSet = serde_json::from_str(json).map_err(|_| KeySetRefused("it does not parse"))?;
        let seed = set.keys.first().ok_or(KeySetRefused("it is empty"))?.seed()?;
        let mut pkcs8 = PKCS8_PREFIX.to_vec();
        pkcs8.extend(seed.ok_or(KeySetRefused("its first key cannot sign"))?);
        let keys = set.keys.into_iter().map(ServiceKey::new).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { signing: EncodingKey::from_ed_der(&pkcs8), keys })
    }

    /// The public halves, first the one that signs now.
    pub fn public(&self) -> impl Iterator<Item = &PublicJwk> {
        self.keys.iter().map(|key| &key.public)
    }

    /// Makes a runner's token, valid from `now` for `ttl`.
    pub(crate) fn issue(
        &self,
        service: &str,
        runner_id: &str,
        key: &PublicKey,
        now: OffsetDateTime,
        ttl: Duration,
    ) -> Result<String, Error> {
        let iat = now.unix_timestamp();
        let claims = TokenClaims {
            iss: service.to_owned(),
            aud: service.to_owned(),
            sub: runner_id.to_owned(),
            cnf: Confirmation {
                jkt: key.key_id().to_string(),
                jwk: BoundJwk { kty: "OKP".into(), crv: "Ed25519".into(), x: key.jwk_x() },
            },
            iat,
            nbf: iat,
            exp: iat + ttl.whole_seconds(),
            jti: Uuid::new_v4(),
        };
        self.sign(TOKEN_TYPE, &claims)
    }

    /// Makes a receipt.
    pub(crate) fn receipt(&self, claims: &ReceiptClaims) -> Result<String, Error> {
        self.sign(RECEIPT_TYPE, claims)
    }

    fn sign(&self, typ: &str, claims: &impl Serialize) -> Result<String, Error> {
        let key = &self.keys[0];
        let header = Header {
            typ: Some(typ.to_owned()),
            kid: Some(key.public.kid.clone()),
            ..Header::new(Algorithm::EdDSA)
        };
        jsonwebtoken::encode(&header, claims, &self.signing)
            .map_err(|error| Error::Internal(format!("signing a {typ}: {error}")))
    }

    /// Checks a runner's token: made by one of these keys, for this service, within its time, and bound
    /// to a key. Whether that key is *still* allowed is asked in the statement that does the work.
    pub fn authenticate(&self, service: &str, token: &str) -> Result<AuthenticatedRunner, Error> {
        let header =
            jsonwebtoken::decode_header(token).map_err(|_| Error::TokenInvalid("it does not parse"))?;
        if header.typ.as_deref() != Some(TOKEN_TYPE) || header.crit.is_some() {
            return Err(Error::TokenInvalid("it is not an access token"));
        }
        let key = self.named(header.kid.as_deref())?;
        if !key.verifies_tokens {
            return Err(Error::TokenExpired);
        }

        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_required_spec_claims(&["iss", "aud", "sub", "exp", "nbf"]);
        validation.set_issuer(&[service]);
        validation.set_audience(&[service]);
        validation.validate_nbf = true;
        validation.leeway = CLOCK_LEEWAY_S;
        let claims = jsonwebtoken::decode::<TokenClaims>(token, &key.verifying, &validation)
            .map_err(|error| match error.kind() {
                ErrorKind::ExpiredSignature => Error::TokenExpired,
                ErrorKind::InvalidSignature => Error::TokenInvalid("its signature is wrong"),
                _ => Error::TokenInvalid("its claims are not those of a token of this service"),
            })?
            .claims;

        let bound = PublicKey::from_jwk_x(&claims.cnf.jwk.x)
            .map_err(|_| Error::TokenInvalid("it is bound to no usable key"))?;
        if bound.key_id().as_str() != claims.cnf.jkt {
            return Err(Error::TokenInvalid("it is bound to two keys"));
        }
        Ok(AuthenticatedRunner::new(claims.sub, bound))
    }

    fn named(&self, kid: Option<&str>) -> Result<&ServiceKey, Error> {
        self.keys.iter().find(|key| kid == Some(&key.public.kid)).ok_or(Error::TokenKeyUnknown)
    }

    /// Checks a receipt and returns what it states.
    pub fn verify_receipt(&self, receipt: &str) -> Result<ReceiptClaims, Error> {
        let header =
            jsonwebtoken::decode_header(receipt).map_err(|_| Error::TokenInvalid("it does not parse"))?;
        let key = self.named(header.kid.as_deref())?;
        if header.typ.as_deref() != Some(RECEIPT_TYPE) {
            return Err(Error::TokenInvalid("it is not a receipt"));
        }
        // A receipt holds for ever and is for anyone: it has neither expiry nor audience.
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        jsonwebtoken::decode(receipt, &key.verifying, &validation)
            .map(|data| data.claims)
            .map_err(|_| Error::TokenInvalid("it is not a receipt of this service"))
    }
}

impl StoredKey {
    /// The private half, if it is there; refused if it is not that of the public one.
    fn seed(&self) -> Result<Option<[u8; 32]>, KeySetRefused> {
        let Some(d) = &self.d else { return Ok(None) };
        let seed: [u8; 32] = URL_SAFE_NO_PAD
            .decode(d)
            .ok()
            .and_then(|seed| seed.try_into().ok())
            .ok_or(KeySetRefused("a private key is not 32 bytes"))?;
        let public = SigningKey::from_bytes(&seed).verifying_key();
        if URL_SAFE_NO_PAD.encode(public.as_bytes()) != self.x {
            return Err(KeySetRefused("a public key is not its private key's"));
        }
        Ok(Some(seed))
    }
}

impl ServiceKey {
    fn new(stored: StoredKey) -> Result<Self, KeySetRefused> {
        if stored.kty != "OKP" || stored.crv != "Ed25519" {
            return Err(KeySetRefused("a key is not Ed25519"));
        }
        Ok(Self {
            verifies_tokens: stored.seed()?.is_some(),
            verifying: DecodingKey::from_ed_components(&stored.x)
                .map_err(|_| KeySetRefused("a public key does not parse"))?,
            public: PublicJwk {
                kty: stored.kty,
                crv: stored.crv,
                x: stored.x,
                kid: stored.kid,
                used_for: "sig".into(),
                alg: "EdDSA".into(),
            },
        })
    }
}

impl fmt::Debug for ServiceKeys {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_list().entries(self.public().map(PublicJwk::kid)).finish()
    }
}

/// The key set that follows `current` (a JWK set, which may be empty), with a new key of this seed first.
///
/// A superseded key keeps its private half until `overlap` has passed, at least the longest life of a
/// token, and its public half for ever: a receipt can be checked as long as anyone has it.
pub fn rotated(
    current: &str,
    seed: [u8; 32],
    now: OffsetDateTime,
    overlap: Duration,
) -> Result<String, KeySetRefused> {
    let mut set: StoredSet = serde_json::from_str(current).map_err(|_| KeySetRefused("it does not parse"))?;
    for key in &mut set.keys {
        let superseded_at = *key.superseded_at.get_or_insert(now.unix_timestamp());
        if now.unix_timestamp() - superseded_at > overlap.whole_seconds() {
            key.d = None;
        }
    }
    let x = URL_SAFE_NO_PAD.encode(SigningKey::from_bytes(&seed).verifying_key().as_bytes());
    let new = StoredKey {
        kty: "OKP".into(),
        crv: "Ed25519".into(),
        kid: KeyId::of_jwk_x(&x).to_string(),
        x,
        d: Some(URL_SAFE_NO_PAD.encode(seed)),
        superseded_at: None,
    };
    set.keys.insert(0, new);
    serde_json::to_string(&set).map_err(|_| KeySetRefused("it cannot be written"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    const SERVICE: &str = "https://queue.example.org";
    const HOUR: Duration = Duration::hours(1);

    fn runner_key() -> PublicKey {
        PublicKey::from_bytes(SigningKey::from_bytes(&[9; 32]).verifying_key().as_bytes()).unwrap()
    }

    fn token(set: &str) -> String {
        let keys = ServiceKeys::from_jwk_set(set).unwrap();
        keys.issue(SERVICE, "bench-01", &runner_key(), OffsetDateTime::now_utc(), HOUR).unwrap()
    }

    #[test]
    fn a_token_outlives_a_rotation_but_not_its_keys_overlap() {
        let now = datetime!(2026-11-01 0:00 UTC);
        let first = rotated(r#"{"keys":[]}"#, [1; 32], now, HOUR).unwrap();
        let second = rotated(&first, [2; 32], now + HOUR, HOUR).unwrap();
        let third = rotated(&second, [3; 32], now + HOUR * 3, HOUR).unwrap();
        let token = token(&first);

        let keys = ServiceKeys::from_jwk_set(&second).unwrap();
        assert_eq!(keys.authenticate(SERVICE, &token).unwrap().runner_id(), "bench-01");
        let keys = ServiceKeys::from_jwk_set(&third).unwrap();
        assert!(matches!(keys.authenticate(SERVICE, &token), Err(Error::TokenExpired)));
        assert_eq!(keys.public().count(), 3, "the public halves stay");
        assert_eq!(third.matches("\"d\"").count(), 2, "the first private half is gone");
    }

    #[test]
    fn a_set_whose_halves_do_not_belong_together_is_refused() {
        let set = rotated(r#"{"keys":[]}"#, [1; 32], datetime!(2026-11-01 0:00 UTC), HOUR).unwrap();
        let other = URL_SAFE_NO_PAD.encode([5; 32]);
        let mut parsed: serde_json::Value = serde_json::from_str(&set).unwrap();
        parsed["keys"][0]["d"] = other.into();
        assert!(ServiceKeys::from_jwk_set(&parsed.to_string()).is_err());
        parsed["keys"][0].as_object_mut().unwrap().remove("d");
        assert!(ServiceKeys::from_jwk_set(&parsed.to_string()).is_err(), "nothing could sign");
    }
}
