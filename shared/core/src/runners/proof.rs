//! Proof of possession for a registration: a DPoP proof JWT (RFC 9449, section 4).

use crate::error::Error;
use crate::runners::key::PublicKey;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;

/// Maximum difference between a proof's `iat` and the database's clock, in seconds, in either direction.
pub(crate) const PROOF_WINDOW_S: i32 = 60;
/// Maximum length of a `jti`, in bytes.
const JTI_MAX: usize = 128;

/// A key whose holder signed a proof for this route. Only [`ProvenKey::from_proof`] creates one.
///
/// Freshness and reuse of the proof are not checked here: `register.sql` checks both in the statement that
/// records the proof as spent.
#[derive(Clone, Debug)]
pub struct ProvenKey {
    key: PublicKey,
    jti: String,
    issued_at: i64,
}

#[derive(Deserialize)]
struct ProofHeader {
    typ: String,
    jwk: ProofJwk,
    crit: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct ProofJwk {
    kty: String,
    crv: String,
    x: String,
    d: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct ProofClaims {
    htm: String,
    htu: String,
    iat: f64,
    jti: String,
}

impl ProvenKey {
    /// Verifies the proof's format and signature, and that it was made for `POST` to `url`, the route's
    /// configured public URL.
    ///
    /// `htu` is never compared with the `Host` header, because the sender chooses that.
    ///
    /// # Errors
    ///
    /// [`Error::ProofInvalid`].
    pub fn from_proof(proof: &str, url: &str) -> Result<Self, Error> {
        let header = Self::header(proof)?;
        if header.typ != "dpop+jwt" || header.crit.is_some() {
            return Err(Error::ProofInvalid("its `typ` must be `dpop+jwt`, and `crit` is not supported"));
        }
        if header.jwk.kty != "OKP" || header.jwk.crv != "Ed25519" || header.jwk.d.is_some() {
            return Err(Error::ProofInvalid(
                "its `jwk` must be an Ed25519 public key (`kty` OKP, `crv` Ed25519, no `d`)",
            ));
        }
        let key = PublicKey::from_jwk_x(&header.jwk.x)
            .map_err(|_| Error::ProofInvalid("the `x` of its `jwk` is not a usable Ed25519 key"))?;

        // A proof has neither expiry nor audience, and its `iat` is compared with the database's clock.
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        let verifying = DecodingKey::from_ed_components(&header.jwk.x)
            .map_err(|_| Error::ProofInvalid("the `x` of its `jwk` is not a usable Ed25519 key"))?;
        let claims = jsonwebtoken::decode::<ProofClaims>(proof, &verifying, &validation)
            .map_err(|_| {
                Error::ProofInvalid(
                    "its signature does not verify, or `htm`, `htu`, `iat` or `jti` is missing",
                )
            })?
            .claims;

        if claims.htm != "POST" || claims.htu != url {
            return Err(Error::ProofInvalid(
                "its `htm` must be `POST`, and its `htu` this route's public URL",
            ));
        }
        if claims.jti.is_empty() || claims.jti.len() > JTI_MAX || claims.jti.contains('\0') {
            return Err(Error::ProofInvalid("its `jti` must be 1 to 128 bytes long, without NUL"));
        }
        if !(0.0..1e12).contains(&claims.iat) {
            return Err(Error::ProofInvalid("its `iat` must be a time in seconds since 1970"));
        }
        // The range is checked above. Fractions of a second are dropped: the window is 60 s.
        #[allow(clippy::cast_possible_truncation)]
        Ok(Self { key, jti: claims.jti, issued_at: claims.iat as i64 })
    }

    fn header(proof: &str) -> Result<ProofHeader, Error> {
        let encoded = proof.split('.').next().unwrap_or_default();
        URL_SAFE_NO_PAD
            .decode(encoded)
            .ok()
            .and_then(|json| serde_json::from_slice(&json).ok())
            .ok_or(Error::ProofInvalid("it is not a JWT with `typ` and `jwk` in its header"))
    }

    /// Returns the key.
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    pub(crate) fn jti(&self) -> &str {
        &self.jti
    }

    pub(crate) fn issued_at(&self) -> i64 {
        self.issued_at
    }
}
