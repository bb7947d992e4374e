//! The allowlist: runner keys that may register, and keyless identities that may sign results.

use crate::document::Object;
use crate::error::Error;
use crate::field_error::{FieldError, FieldErrors};
use crate::runners::key::PublicKey;
use crate::runners::runner::{Admin, AuthenticatedRunner};
use crate::session::Session;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

const ADD: &str = include_str!("allowlist_add.sql");
const LIST: &str = include_str!("allowlist_list.sql");
const SIGNERS: &str = include_str!("allowlist_signers.sql");
const RUNNER: &str = include_str!("allowlist_runner.sql");

/// Maximum number of entries on one page.
pub const PAGE_MAX: i32 = 200;

/// A new allowlist entry, validated.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEntry {
    grantee: Grantee,
    label: String,
    expires_at: Option<OffsetDateTime>,
}

#[derive(Clone, Debug, PartialEq)]
enum Grantee {
    /// A runner's key; with `runner_id`, valid under that name only.
    Runner { key: PublicKey, runner_id: Option<String> },
    /// A keyless signer (Sigstore): its certificate must match every field that is set.
    Identity { issuer: String, subject: String, repository: Option<String>, workflow: Option<String> },
}

/// An allowlist entry as stored.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// The key's RFC 7638 thumbprint, or `oidc:` and a SHA-256 of the signer's identity.
    pub key_id: String,
    /// `ed25519` for a runner's key, `oidc` for a keyless signer.
    pub kind: String,
    /// Base64 of the 32 raw bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    /// The only name this key may register under.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runner_id: Option<String>,
    /// The OIDC issuer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// The subject of the certificate, compared exactly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The repository the certificate must name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// The workflow the certificate must name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workflow: Option<String>,
    /// Free text for admins.
    pub label: String,
    /// IAM principal of the admin who added the entry.
    pub added_by: String,
    /// When the entry was added.
    #[serde(with = "time::serde::rfc3339")]
    pub added_at: OffsetDateTime,
    /// When the entry expires; null if never.
    #[serde(with = "time::serde::rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    /// When the entry was revoked; null while it is not.
    #[serde(with = "time::serde::rfc3339::option")]
    pub revoked_at: Option<OffsetDateTime>,
    /// IAM principal of the admin who revoked it, or who replaced it after its expiry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked_by: Option<String>,
    /// Reason given for the revocation; `expired` for an entry replaced after its expiry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked_reason: Option<String>,
}

/// Outcome of [`add`].
#[derive(Clone, Debug)]
pub struct Added {
    /// The entry as stored.
    pub entry: Entry,
    /// False if an active entry with the same terms existed already.
    pub created: bool,
}

/// A page of the allowlist, oldest first, revoked entries included.
#[derive(Clone, Debug, Serialize)]
pub struct Page {
    /// Entries by age.
    pub keys: Vec<Entry>,
    /// Cursor of the next page; null on the last page.
    pub next_cursor: Option<String>,
}

impl NewEntry {
    /// Creates the entry of a keyless signer, without expiry.
    pub fn identity(
        issuer: &str,
        subject: &str,
        repository: Option<&str>,
        workflow: Option<&str>,
        label: &str,
    ) -> Self {
        let grantee = Grantee::Identity {
            issuer: issuer.to_owned(),
            subject: subject.to_owned(),
            repository: repository.map(str::to_owned),
            workflow: workflow.map(str::to_owned),
        };
        Self { grantee, label: label.to_owned(), expires_at: None }
    }

    /// Parses the request's body and reports every invalid field.
    pub fn parse(body: &str) -> Result<Self, Vec<FieldError>> {
        let mut errors = FieldErrors::default();
        let entry = Object::parse(body, "", &mut errors).and_then(|object| Self::read(object, &mut errors));
        errors.finish(entry)
    }

    fn read(mut object: Object, errors: &mut FieldErrors) -> Option<Self> {
        let grantee = if object.has("issuer") || object.has("subject") {
            Self::read_identity(&mut object, errors)
        } else {
            Self::read_runner(&mut object, errors)
        };
        let label = object.required_name("label", 1..=200, errors).map(String::from);
        let expires_at = object.text("expires_at", 1..=64, errors).and_then(|text| {
            OffsetDateTime::parse(&text, &Rfc3339)
                .map_err(|_| {
                    errors.push("/expires_at", "must be an RFC 3339 time, such as 2027-01-31T00:00:00Z");
                })
                .ok()
        });
        object.finish(errors);
        Some(Self { grantee: grantee?, label: label?, expires_at })
    }

    fn read_runner(object: &mut Object, errors: &mut FieldErrors) -> Option<Grantee> {
        let key = object.required_text("public_key", 1..=4096, errors).and_then(|text| {
            PublicKey::parse(&text).map_err(|refused| errors.push("/public_key", refused.to_string())).ok()
        });
        let runner_id = object.name("runner_id", 1..=200, errors).map(String::from);
        Some(Grantee::Runner { key: key?, runner_id })
    }

    fn read_identity(object: &mut Object, errors: &mut FieldErrors) -> Option<Grantee> {
        let issuer = object.required_text("issuer", 1..=500, errors);
        let subject = object.required_text("subject", 1..=1000, errors);
        let repository = object.text("repository", 1..=500, errors);
        let workflow = object.text("workflow", 1..=1000, errors);
        Some(Grantee::Identity { issuer: issuer?, subject: subject?, repository, workflow })
    }

    fn key_id(&self) -> String {
        match &self.grantee {
            Grantee::Runner { key, .. } => key.key_id().to_string(),
            Grantee::Identity { issuer, subject, repository, workflow } => {
                // A JSON list rather than a concatenation: two identities never hash the same text.
                let identity = serde_json::json!([issuer, subject, repository, workflow]).to_string();
                format!("oidc:{}", URL_SAFE_NO_PAD.encode(Sha256::digest(identity)))
            }
        }
    }
}

/// Adds a key or an identity to the allowlist. Adding an active entry again changes nothing.
///
/// # Errors
///
/// [`Error::KeyExists`] if the key is active with another `runner_id` or `expires_at`.
pub async fn add(client: &Client, admin: &Admin, entry: &NewEntry) -> Result<Added, Error> {
    let (key, runner_id) = match &entry.grantee {
        Grantee::Runner { key, runner_id } => (Some(key.as_bytes().as_slice()), runner_id.as_deref()),
        Grantee::Identity { .. } => (None, None),
    };
    let (issuer, subject, repository, workflow) = match &entry.grantee {
        Grantee::Identity { issuer, subject, repository, workflow } => {
            (Some(issuer), Some(subject), repository.as_ref(), workflow.as_ref())
        }
        Grantee::Runner { .. } => (None, None, None, None),
    };
    let row = client
        .query_typed_one(
            ADD,
            &[
                (&entry.key_id(), Type::TEXT),
                (&if key.is_some() { "ed25519" } else { "oidc" }, Type::TEXT),
                (&key, Type::BYTEA),
                (&issuer, Type::TEXT),
                (&subject, Type::TEXT),
                (&repository, Type::TEXT),
                (&workflow, Type::TEXT),
                (&runner_id, Type::TEXT),
                (&entry.label, Type::TEXT),
                (&admin.principal(), Type::TEXT),
                (&entry.expires_at, Type::TIMESTAMPTZ),
            ],
        )
        .await?;
    if row.get::<_, Option<bool>>("expires_in_past") == Some(true) {
        return Err(Error::Invalid(vec![FieldError::new("/expires_at", "must be in the future")]));
    }
    // No entry: another admin added the key concurrently.
    let (Some(created), Some(true)) = (row.get::<_, Option<bool>>("created"), row.get("same_terms")) else {
        return Err(Error::KeyExists);
    };
    Ok(Added { created, entry: Entry::from_row(&row)? })
}

/// Lists up to `limit` entries (clamped to 1..=[`PAGE_MAX`]) after `cursor`.
///
/// # Errors
///
/// [`Error::Invalid`] if `cursor` is not a cursor of this list.
pub async fn list(client: &Client, cursor: Option<&str>, limit: i32) -> Result<Page, Error> {
    let after: i64 = match cursor {
        Some(cursor) => cursor.parse().map_err(|_| {
            Error::Invalid(vec![FieldError::new(
                "/cursor",
                "not a cursor of this list; use the `next_cursor` of the previous page",
            )])
        })?,
        None => 0,
    };
    let limit = limit.clamp(1, PAGE_MAX);
    let rows = client.query_typed(LIST, &[(&after, Type::INT8), (&(limit + 1), Type::INT4)]).await?;
    let page_size = usize::try_from(limit).unwrap_or_default();
    let next_cursor =
        (rows.len() > page_size).then(|| rows[page_size - 1].get::<_, i64>("entry_id").to_string());
    let keys = rows.iter().take(page_size).map(Entry::from_row).collect::<Result<_, _>>()?;
    Ok(Page { keys, next_cursor })
}

/// Checks that a runner's key is still allowed, before work that costs more than this lookup.
///
/// It decides nothing that lasts: the key may be revoked a moment later, so the statement that writes checks
/// again.
///
/// # Errors
///
/// [`Error::KeyNotAllowed`].
pub async fn check_runner(client: &impl Session, runner: &AuthenticatedRunner) -> Result<(), Error> {
    let key_id = runner.key().key_id();
    let row = client
        .query_row(RUNNER, &[(&key_id.as_str(), Type::TEXT), (&runner.runner_id(), Type::TEXT)])
        .await?;
    if row.get("allowed") { Ok(()) } else { Err(Error::KeyNotAllowed) }
}

/// Returns the active entries of the keyless signer with this issuer and subject.
pub async fn signers(client: &Client, issuer: &str, subject: &str) -> Result<Vec<Entry>, Error> {
    let rows = client.query_typed(SIGNERS, &[(&issuer, Type::TEXT), (&subject, Type::TEXT)]).await?;
    rows.iter().map(Entry::from_row).collect()
}

impl Entry {
    fn from_row(row: &Row) -> Result<Self, Error> {
        let public_key: Option<&[u8]> = row.try_get("public_key")?;
        Ok(Self {
            key_id: row.try_get("key_id")?,
            kind: row.try_get("kind")?,
            public_key: public_key.map(|key| base64::engine::general_purpose::STANDARD.encode(key)),
            runner_id: row.try_get("runner_id")?,
            issuer: row.try_get("issuer")?,
            subject: row.try_get("subject")?,
            repository: row.try_get("repository")?,
            workflow: row.try_get("workflow")?,
            label: row.try_get("label")?,
            added_by: row.try_get("added_by")?,
            added_at: row.try_get("added_at")?,
            expires_at: row.try_get("expires_at")?,
            revoked_at: row.try_get("revoked_at")?,
            revoked_by: row.try_get("revoked_by")?,
            revoked_reason: row.try_get("revoked_reason")?,
        })
    }
}
