//! Registration: exchanges a proof of possession for a short-lived token.

use crate::document::Object;
use crate::error::Error;
use crate::field_error::{FieldError, FieldErrors};
use crate::name::Name;
use crate::runners::key::PublicKey;
use crate::runners::proof::{PROOF_WINDOW_S, ProvenKey};
use crate::runners::runner::Capabilities;
use crate::runners::token::ServiceKeys;
use time::{Duration, OffsetDateTime};
use tokio_postgres::Client;
use tokio_postgres::types::{Json, Type};

const REGISTER: &str = include_str!("register.sql");

/// A registration request: the runner's key, name and description of itself.
#[derive(Clone, Debug)]
pub struct Registration {
    public_key: PublicKey,
    runner_id: Option<Name>,
    capabilities: Capabilities,
    hostname: Option<Name>,
    process_id: Option<i32>,
    effective_user: Option<Name>,
    description: Option<String>,
}

/// A registered runner and its token.
#[derive(Clone, Debug)]
pub struct Registered {
    /// The name the runner is registered under: the requested one, or the key id.
    pub runner_id: String,
    /// Access token (RFC 9068), signed with EdDSA.
    pub token: String,
    /// When the token expires.
    pub expires_at: OffsetDateTime,
    /// The database's clock.
    pub server_time: OffsetDateTime,
    /// Quantizations in the request that the database does not know; they match no job.
    pub unknown_quantizations: Vec<String>,
}

impl Registration {
    /// Parses the request's body and reports every invalid field.
    pub fn parse(body: &str) -> Result<Self, Vec<FieldError>> {
        let mut errors = FieldErrors::default();
        let registration =
            Object::parse(body, "", &mut errors).and_then(|object| Self::read(object, &mut errors));
        errors.finish(registration)
    }

    fn read(mut object: Object, errors: &mut FieldErrors) -> Option<Self> {
        let public_key = object.required_text("public_key", 1..=1024, errors).and_then(|text| {
            PublicKey::from_base64(&text)
                .map_err(|refused| errors.push("/public_key", refused.to_string()))
                .ok()
        });
        let runner_id = object.name("runner_id", 1..=200, errors);
        let capabilities = if object.check_present("capabilities", errors) {
            object.object("capabilities", errors).and_then(|inner| Capabilities::read(inner, errors))
        } else {
            None
        };
        let hostname = object.name("hostname", 0..=255, errors);
        let process_id = object.integer("process_id", 0..=i32::MAX, errors);
        let effective_user = object.name("effective_user", 0..=255, errors);
        let description = object.text("description", 0..=2000, errors);
        object.finish(errors);
        Some(Self {
            public_key: public_key?,
            runner_id,
            capabilities: capabilities?,
            hostname,
            process_id,
            effective_user,
            description,
        })
    }
}

/// Registers a runner and issues its token for `service` (the service's public URL), valid for `ttl`.
///
/// Registering the same key again updates the same runner, so a client whose reply was lost registers again
/// with a new proof.
///
/// # Errors
///
/// [`Error::ProofInvalid`], [`Error::ProofStale`], [`Error::ProofReplayed`], [`Error::KeyNotAllowed`], and
/// [`Error::RunnerIdTaken`] if the name belongs to another key.
pub async fn register(
    client: &Client,
    keys: &ServiceKeys,
    service: &str,
    ttl: Duration,
    proven: &ProvenKey,
    registration: &Registration,
) -> Result<Registered, Error> {
    let key = proven.key();
    if *key != registration.public_key {
        return Err(Error::ProofInvalid("its `jwk` must be the `public_key` of the body"));
    }
    let key_id = key.key_id();
    let runner_id = registration.runner_id.as_deref().unwrap_or(key_id.as_str());
    let capabilities = &registration.capabilities;
    let row = client
        .query_typed_one(
            REGISTER,
            &[
                (&key_id.as_str(), Type::TEXT),
                (&key.to_base64(), Type::TEXT),
                (&runner_id, Type::TEXT),
                (&proven.jti(), Type::TEXT),
                (&proven.issued_at(), Type::INT8),
                (&PROOF_WINDOW_S, Type::INT4),
                (&registration.hostname.as_deref(), Type::TEXT),
                (&registration.process_id, Type::INT4),
                (&registration.effective_user.as_deref(), Type::TEXT),
                (&registration.description, Type::TEXT),
                (&capabilities.vram_gb, Type::FLOAT8),
                (&capabilities.quantizations, Type::TEXT_ARRAY),
                (&capabilities.labels.as_ref().map(Json), Type::JSONB),
            ],
        )
        .await?;
    let server_time: OffsetDateTime = row.get("server_time");
    if !row.get::<_, bool>("fresh") {
        let clock_offset_s = proven.issued_at() - server_time.unix_timestamp();
        return Err(Error::ProofStale { server_time, clock_offset_s });
    }
    if !row.get::<_, bool>("allowed") {
        return Err(Error::KeyNotAllowed);
    }
    if !row.get::<_, bool>("unspent") {
        return Err(Error::ProofReplayed);
    }
    if !row.get::<_, bool>("registered") {
        return Err(Error::RunnerIdTaken);
    }
    Ok(Registered {
        runner_id: runner_id.to_owned(),
        token: keys.issue(service, runner_id, key, server_time, ttl)?,
        expires_at: server_time + ttl,
        server_time,
        unknown_quantizations: row.get("unknown_quantizations"),
    })
}
