//! The service's signing keys, and the tokens (for runners) and receipts (for results) they sign.

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
use std::ops::Deref;
use std::sync::Arc;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

/// `typ` of an access token (RFC 9068, section 2.1).
const TOKEN_TYPE: &str = "at+jwt";
/// `typ` of a receipt. It differs from a token's, so that neither is accepted as the other.
const RECEIPT_TYPE: &str = "bakeoff-receipt+jwt";
/// Accepted difference between the function's clock and the database's, in seconds.
const CLOCK_LEEWAY_S: u64 = 5;
/// DER prefix of the seed in an Ed25519 PKCS#8 private key (RFC 8410, section 7).
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// The keys that sign tokens and receipts: a JWK set of Ed25519 private keys (RFC 7517, RFC 8037) whose
/// first key signs. They also verify, as [`VerifyingKeys`].
pub struct ServiceKeys {
    signing: EncodingKey,
    verifying: Arc<VerifyingKeys>,
}

/// The keys that verify tokens and receipts, without their private halves.
///
/// Receipts verify under every key the service ever had. Tokens verify under a key until the last token it
/// signed has expired: a later token of the key is a forgery.
pub struct VerifyingKeys {
    keys: Vec<ServiceKey>,
}

struct ServiceKey {
    public: PublicJwk,
    verifying: DecodingKey,
    /// False once the last token signed by this key has expired: a later token of the key is a forgery.
    verifies_tokens: bool,
}

/// The public half of a service key, as a JWK.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicJwk {
    kty: String,
    crv: String,
    x: String,
    kid: String,
    #[serde(rename = "use")]
    usage: String,
    alg: String,
}

impl PublicJwk {
    /// Returns the key id in the header of tokens and receipts.
    pub fn kid(&self) -> &str {
        &self.kid
    }
}

/// Reasons to refuse a key set. The text never contains key material.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the service's keys are not a JWK set of Ed25519 keys: {0}")]
pub struct KeySetRefused(&'static str);

/// The JWK set as stored in a secret.
#[derive(Deserialize, Serialize)]
struct StoredSet {
    keys: Vec<StoredKey>,
}

/// A key as stored in a secret.
#[derive(Deserialize, Serialize)]
struct StoredKey {
    kty: String,
    crv: String,
    x: String,
    kid: String,
    /// The private half, removed once no token of this key can be valid.
    #[serde(skip_serializing_if = "Option::is_none")]
    d: Option<String>,
    /// When a newer key replaced this one as the first, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    superseded_at: Option<i64>,
    /// In the public set, which has no private halves: whether a token of this key can still be valid.
    #[serde(skip_serializing_if = "Option::is_none")]
    verifies_tokens: Option<bool>,
}

/// The claims of a receipt (a JWS).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReceiptClaims {
    /// The service's public URL.
    pub iss: String,
    /// Id of the submission.
    pub submission_id: Uuid,
    /// Id of the run.
    pub run_id: Uuid,
    /// Id of the row that the result completed.
    pub queue_id: Uuid,
    /// Id of the claim under which the job ran.
    pub claim_id: Uuid,
    /// The runner that submitted it.
    pub runner_id: String,
    /// SHA-256 of the signed bytes, in hexadecimal.
    pub sha256: String,
    /// Kind of signature.
    pub signer_kind: String,
    /// The signing key's thumbprint, or the certificate's identity.
    pub signer: String,
    /// Whether the claim had lapsed before the submit.
    pub late: bool,
    /// Whether the signed result holds the claim's nonce.
    pub bound: bool,
    /// When the service accepted the result, in seconds since 1970.
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

/// The key a token is bound to (RFC 7800): its thumbprint, and the key itself, with which a submission's
/// signature is verified before the first query.
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
    /// Parses a JWK set of private keys.
    pub fn from_jwk_set(json: &str) -> Result<Self, KeySetRefused> {
        let set = StoredSet::parse(json)?;
        let seed = set.keys.first().ok_or(KeySetRefused("it is empty"))?.seed()?;
        let mut pkcs8 = PKCS8_PREFIX.to_vec();
        pkcs8.extend(seed.ok_or(KeySetRefused("its first key has no private half"))?);
        Ok(Self { signing: EncodingKey::from_ed_der(&pkcs8), verifying: Arc::new(VerifyingKeys::new(set)?) })
    }

    /// Returns the keys without their private halves.
    pub fn verifying_keys(&self) -> Arc<VerifyingKeys> {
        Arc::clone(&self.verifying)
    }

    /// Signs a runner's token, valid from `now` for `ttl`.
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

    /// Signs a receipt.
    pub(crate) fn receipt(&self, claims: &ReceiptClaims) -> Result<String, Error> {
        self.sign(RECEIPT_TYPE, claims)
    }

    fn sign(&self, typ: &str, claims: &impl Serialize) -> Result<String, Error> {
        let key = &self.verifying.keys[0];
        let header = Header {
            typ: Some(typ.to_owned()),
            kid: Some(key.public.kid.clone()),
            ..Header::new(Algorithm::EdDSA)
        };
        jsonwebtoken::encode(&header, claims, &self.signing)
            .map_err(|error| Error::Internal(format!("signing a {typ}: {error}")))
    }
}

impl Deref for ServiceKeys {
    type Target = VerifyingKeys;

    fn deref(&self) -> &VerifyingKeys {
        &self.verifying
    }
}

impl VerifyingKeys {
    /// Parses a public set written by [`public_set`], or a set of private keys. Before the first rotation the
    /// public set is empty and verifies nothing.
    pub fn from_jwk_set(json: &str) -> Result<Self, KeySetRefused> {
        Self::new(StoredSet::parse(json)?)
    }

    fn new(set: StoredSet) -> Result<Self, KeySetRefused> {
        Ok(Self { keys: set.keys.into_iter().map(ServiceKey::new).collect::<Result<_, _>>()? })
    }

    /// Returns the public halves, the current signing key first.
    pub fn public_keys(&self) -> impl Iterator<Item = &PublicJwk> {
        self.keys.iter().map(|key| &key.public)
    }

    /// Verifies a runner's token: signed by one of these keys, for this service, not expired, and bound to a
    /// key.
    ///
    /// Does not check that the key is *still* on the allowlist: each operation's SQL statement does.
    ///
    /// # Errors
    ///
    /// [`Error::TokenExpired`], [`Error::TokenInvalid`], and [`Error::TokenKeyUnknown`] if the token's `kid` is
    /// not in this set.
    pub fn authenticate(&self, service: &str, token: &str) -> Result<AuthenticatedRunner, Error> {
        let header =
            jsonwebtoken::decode_header(token).map_err(|_| Error::TokenInvalid("it is not a JWT"))?;
        if header.typ.as_deref() != Some(TOKEN_TYPE) || header.crit.is_some() {
            return Err(Error::TokenInvalid("it is not an access token (`typ` must be `at+jwt`)"));
        }
        let key = self.find_key(header.kid.as_deref())?;
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
                ErrorKind::InvalidSignature => Error::TokenInvalid("its signature does not verify"),
                _ => Error::TokenInvalid("a claim is missing, or it is for another service or not valid yet"),
            })?
            .claims;

        let bound = PublicKey::from_jwk_x(&claims.cnf.jwk.x)
            .map_err(|_| Error::TokenInvalid("`cnf` holds no usable Ed25519 key"))?;
        if bound.key_id().as_str() != claims.cnf.jkt {
            return Err(Error::TokenInvalid("the thumbprint and the key in `cnf` differ"));
        }
        Ok(AuthenticatedRunner::new(claims.sub, bound))
    }

    fn find_key(&self, kid: Option<&str>) -> Result<&ServiceKey, Error> {
        self.keys.iter().find(|key| kid == Some(&key.public.kid)).ok_or(Error::TokenKeyUnknown)
    }

    /// Verifies a receipt and returns its claims.
    ///
    /// # Errors
    ///
    /// As [`VerifyingKeys::authenticate`], except that a receipt does not expire.
    pub fn verify_receipt(&self, receipt: &str) -> Result<ReceiptClaims, Error> {
        let header =
            jsonwebtoken::decode_header(receipt).map_err(|_| Error::TokenInvalid("it is not a JWT"))?;
        let key = self.find_key(header.kid.as_deref())?;
        if header.typ.as_deref() != Some(RECEIPT_TYPE) {
            return Err(Error::TokenInvalid("it is not a receipt (`typ` must be `bakeoff-receipt+jwt`)"));
        }
        // A receipt has neither expiry nor audience.
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        jsonwebtoken::decode(receipt, &key.verifying, &validation)
            .map(|data| data.claims)
            .map_err(|_| Error::TokenInvalid("it is not a receipt of this service"))
    }
}

impl StoredSet {
    fn parse(json: &str) -> Result<Self, KeySetRefused> {
        serde_json::from_str(json).map_err(|_| KeySetRefused("it is not a JWK set"))
    }

    fn to_json(&self) -> Result<String, KeySetRefused> {
        serde_json::to_string(self).map_err(|_| KeySetRefused("it cannot be serialized"))
    }
}

impl StoredKey {
    /// Returns the private half, if stored. Refuses one that does not belong to the public half.
    fn seed(&self) -> Result<Option<[u8; 32]>, KeySetRefused> {
        let Some(d) = &self.d else { return Ok(None) };
        let seed: [u8; 32] = URL_SAFE_NO_PAD
            .decode(d)
            .ok()
            .and_then(|seed| seed.try_into().ok())
            .ok_or(KeySetRefused("a private key is not 32 bytes"))?;
        let public = SigningKey::from_bytes(&seed).verifying_key();
        if URL_SAFE_NO_PAD.encode(public.as_bytes()) != self.x {
            return Err(KeySetRefused("the two halves of a key do not match"));
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
            verifies_tokens: stored.seed()?.is_some() || stored.verifies_tokens == Some(true),
            verifying: DecodingKey::from_ed_components(&stored.x)
                .map_err(|_| KeySetRefused("a public key is not base64url"))?,
            public: PublicJwk {
                kty: stored.kty,
                crv: stored.crv,
                x: stored.x,
                kid: stored.kid,
                usage: "sig".into(),
                alg: "EdDSA".into(),
            },
        })
    }
}

impl fmt::Debug for ServiceKeys {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.verifying.fmt(f)
    }
}

impl fmt::Debug for VerifyingKeys {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_list().entries(self.public_keys().map(PublicJwk::kid)).finish()
    }
}

/// Returns `current` (a JWK set, possibly empty) with a new key, derived from `seed`, in first position.
///
/// A superseded key keeps its private half for `overlap`, which must be at least a token's lifetime, and its
/// public half for ever, because receipts do not expire.
pub fn rotate_key_set(
    current: &str,
    seed: [u8; 32],
    now: OffsetDateTime,
    overlap: Duration,
) -> Result<String, KeySetRefused> {
    let mut set = StoredSet::parse(current)?;
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
        kid: KeyId::from_jwk_x(&x).to_string(),
        x,
        d: Some(URL_SAFE_NO_PAD.encode(seed)),
        superseded_at: None,
        verifies_tokens: None,
    };
    set.keys.insert(0, new);
    set.to_json()
}

/// Returns a key set without its private halves, for functions that only verify.
pub fn public_set(private: &str) -> Result<String, KeySetRefused> {
    let mut set = StoredSet::parse(private)?;
    for key in &mut set.keys {
        // A key has lost its private half because the last token it signed has expired.
        key.verifies_tokens = Some(key.seed()?.is_some());
        key.d = None;
    }
    set.to_json()
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
    fn a_token_stays_valid_after_a_rotation_until_the_overlap_has_passed() {
        let now = datetime!(2026-11-01 0:00 UTC);
        let first = rotate_key_set(r#"{"keys":[]}"#, [1; 32], now, HOUR).unwrap();
        let second = rotate_key_set(&first, [2; 32], now + HOUR, HOUR).unwrap();
        let third = rotate_key_set(&second, [3; 32], now + HOUR * 3, HOUR).unwrap();
        let token = token(&first);

        let keys = ServiceKeys::from_jwk_set(&second).unwrap();
        assert_eq!(keys.authenticate(SERVICE, &token).unwrap().runner_id(), "bench-01");
        let keys = ServiceKeys::from_jwk_set(&third).unwrap();
        assert!(matches!(keys.authenticate(SERVICE, &token), Err(Error::TokenExpired)));
        assert_eq!(keys.public_keys().count(), 3, "every public half is kept");
        assert_eq!(third.matches("\"d\"").count(), 2, "the first key's private half is removed");
    }

    #[test]
    fn the_public_set_verifies_the_same_tokens_and_cannot_sign() {
        let now = datetime!(2026-11-01 0:00 UTC);
        let first = rotate_key_set(r#"{"keys":[]}"#, [1; 32], now, HOUR).unwrap();
        let second = rotate_key_set(&first, [2; 32], now + HOUR, HOUR).unwrap();
        let third = rotate_key_set(&second, [3; 32], now + HOUR * 3, HOUR).unwrap();
        let public = public_set(&third).unwrap();
        assert!(!public.contains("\"d\""), "{public}");
        assert!(ServiceKeys::from_jwk_set(&public).is_err(), "a public set must not sign");

        let keys = VerifyingKeys::from_jwk_set(&public).unwrap();
        assert!(matches!(keys.authenticate(SERVICE, &token(&first)), Err(Error::TokenExpired)));
        for set in [&second, &third] {
            assert_eq!(keys.authenticate(SERVICE, &token(set)).unwrap().runner_id(), "bench-01");
        }
        let private = ServiceKeys::from_jwk_set(&third).unwrap();
        assert!(keys.public_keys().eq(private.public_keys()), "the JWKS is the same from both");
    }

    #[test]
    fn an_empty_public_set_verifies_no_token() {
        let keys = VerifyingKeys::from_jwk_set(r#"{"keys":[]}"#).unwrap();
        let set = rotate_key_set(r#"{"keys":[]}"#, [1; 32], datetime!(2026-11-01 0:00 UTC), HOUR).unwrap();
        assert!(matches!(keys.authenticate(SERVICE, &token(&set)), Err(Error::TokenKeyUnknown)));
    }

    #[test]
    fn a_key_set_with_mismatched_or_missing_private_half_is_refused() {
        let set = rotate_key_set(r#"{"keys":[]}"#, [1; 32], datetime!(2026-11-01 0:00 UTC), HOUR).unwrap();
        let other = URL_SAFE_NO_PAD.encode([5; 32]);
        let mut mismatched: serde_json::Value = serde_json::from_str(&set).unwrap();
        mismatched["keys"][0]["d"] = other.into();
        assert!(ServiceKeys::from_jwk_set(&mismatched.to_string()).is_err());
        mismatched["keys"][0].as_object_mut().unwrap().remove("d");
        assert!(ServiceKeys::from_jwk_set(&mismatched.to_string()).is_err(), "the first key cannot sign");
    }
}
