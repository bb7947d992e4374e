//! The proof of possession that a registration carries: a DPoP proof JWT (RFC 9449, section 4).

use crate::error::Error;
use crate::runners::key::PublicKey;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;

/// How far a proof's `iat` may lie from the database's clock, in seconds, either way.
pub const FRESH_S: i32 = 60;
/// The most bytes of a `jti`.
const JTI_MAX: usize = 128;

/// A key whose holder made a proof for this route. Only [`ProvenKey::from_proof`] makes one; whether
/// the proof is fresh and unused is asked of the database when it is spent.
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
    /// Checks the proof's form and signature, and that it was made for `POST` to `url`: the route's
    /// configured public URL. It is never compared with a `Host` header, which the sender chooses.
    pub fn from_proof(proof: &str, url: &str) -> Result<Self, Error> {
        let header = Self::header(proof)?;
        if header.typ != "dpop+jwt" || header.crit.is_some() {
            return Err(Error::ProofInvalid("its typ is not dpop+jwt"));
        }
        if header.jwk.kty != "OKP" || header.jwk.crv != "Ed25519" || header.jwk.d.is_some() {
            return Err(Error::ProofInvalid("its jwk is not an Ed25519 public key"));
        }
        let key = PublicKey::from_jwk_x(&header.jwk.x)
            .map_err(|_| Error::ProofInvalid("its jwk is not a usable Ed25519 key"))?;

        // Its times are the database's to judge, and it has neither expiry nor audience.
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        let verifying = DecodingKey::from_ed_components(&header.jwk.x)
            .map_err(|_| Error::ProofInvalid("its jwk is not a usable Ed25519 key"))?;
        let claims = jsonwebtoken::decode::<ProofClaims>(proof, &verifying, &validation)
            .map_err(|_| Error::ProofInvalid("its signature or claims are wrong"))?
            .claims;

        if claims.htm != "POST" || claims.htu != url {
            return Err(Error::ProofInvalid("it was made for another request"));
        }
        if claims.jti.is_empty() || claims.jti.len() > JTI_MAX || claims.jti.contains('\0') {
            return Err(Error::ProofInvalid("its jti is empty or too long"));
        }
        if !(0.0..1e12).contains(&claims.iat) {
            return Err(Error::ProofInvalid("its iat is not a time"));
        }
        // In range, as just checked; fractions of a second do not matter.
        #[allow(clippy::cast_possible_truncation)]
        Ok(Self { key, jti: claims.jti, issued_at: claims.iat as i64 })
    }

    fn header(proof: &str) -> Result<ProofHeader, Error> {
        let encoded = proof.split('.').next().unwrap_or_default();
        URL_SAFE_NO_PAD
            .decode(encoded)
            .ok()
            .and_then(|json| serde_json::from_slice(&json).ok())
            .ok_or(Error::ProofInvalid("it is not a JWT with a jwk in its header"))
    }

    /// The key.
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
