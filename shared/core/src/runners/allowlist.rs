//! The allowlist: which keys may register, and which identities may sign.

use crate::document::Object;
use crate::error::Error;
use crate::field_error::{FieldError, FieldErrors};
use crate::runners::key::PublicKey;
use crate::runners::runner::Admin;
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

/// The most entries of one page.
pub const PAGE_MAX: i32 = 200;

/// An entry to add.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEntry {
    who: Who,
    label: String,
    expires_at: Option<OffsetDateTime>,
}

#[derive(Clone, Debug, PartialEq)]
enum Who {
    /// A runner's key, perhaps for one name only.
    Runner { key: PublicKey, runner_id: Option<String> },
    /// A keyless signer.
    Identity { issuer: String, subject: String, repository: Option<String>, workflow: Option<String> },
}

/// An entry of the allowlist.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// The key's RFC 7638 thumbprint, or `oidc:` and a digest of what identifies the signer.
    pub key_id: String,
    /// `ed25519` or `oidc`.
    pub kind: String,
    /// Base64 of the raw key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    /// The only name this key may register under.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runner_id: Option<String>,
    /// The OIDC issuer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// The exact identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The repository the certificate must name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// The workflow the certificate must name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workflow: Option<String>,
    /// For a person.
    pub label: String,
    /// The IAM principal that added it.
    pub added_by: String,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub added_at: OffsetDateTime,
    /// When it ends by itself.
    #[serde(with = "time::serde::rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    /// When it was revoked.
    #[serde(with = "time::serde::rfc3339::option")]
    pub revoked_at: Option<OffsetDateTime>,
    /// By whom.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked_by: Option<String>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked_reason: Option<String>,
}

/// An entry, and whether it is new.
#[derive(Clone, Debug)]
pub struct Added {
    /// The entry as it stands.
    pub entry: Entry,
    /// False if the same entry was active already.
    pub created: bool,
}

/// A page of the allowlist, oldest first, revoked entries included.
#[derive(Clone, Debug, Serialize)]
pub struct Page {
    /// The entries.
    pub keys: Vec<Entry>,
    /// Where the next page begins; null on the last.
    pub next_cursor: Option<String>,
}

impl NewEntry {
    /// A keyless signer without expiry.
    pub fn identity(
        issuer: &str,
        subject: &str,
        repository: Option<&str>,
        workflow: Option<&str>,
        label: &str,
    ) -> Self {
        let who = Who::Identity {
            issuer: issuer.to_owned(),
            subject: subject.to_owned(),
            repository: repository.map(str::to_owned),
            workflow: workflow.map(str::to_owned),
        };
        Self { who, label: label.to_owned(), expires_at: None }
    }

    /// Reads the request's body; every fault is listed.
    pub fn parse(body: &str) -> Result<Self, Vec<FieldError>> {
        let mut errors = FieldErrors::default();
        let entry = Object::parse(body, "", &mut errors).and_then(|object| Self::read(object, &mut errors));
        errors.finish(entry)
    }

    fn read(mut object: Object, errors: &mut FieldErrors) -> Option<Self> {
        let who = if object.has("issuer") || object.has("subject") {
            Self::read_identity(&mut object, errors)
        } else {
            Self::read_runner(&mut object, errors)
        };
        let label = object.required_text("label", 1..=200, errors);
        let expires_at = object.text("expires_at", 1..=64, errors).and_then(|text| {
            OffsetDateTime::parse(&text, &Rfc3339)
                .map_err(|_| errors.push("/expires_at", "is not an RFC 3339 time"))
                .ok()
        });
        object.finish(errors);
        Some(Self { who: who?, label: label?, expires_at })
    }

    fn read_runner(object: &mut Object, errors: &mut FieldErrors) -> Option<Who> {
        let key = object.required_text("public_key", 1..=4096, errors).and_then(|text| {
            PublicKey::parse(&text).map_err(|refused| errors.push("/public_key", refused.to_string())).ok()
        });
        let runner_id = object.text("runner_id", 1..=200, errors);
        Some(Who::Runner { key: key?, runner_id })
    }

    fn read_identity(object: &mut Object, errors: &mut FieldErrors) -> Option<Who> {
        let issuer = object.required_text("issuer", 1..=500, errors);
        let subject = object.required_text("subject", 1..=1000, errors);
        let repository = object.text("repository", 1..=500, errors);
        let workflow = object.text("workflow", 1..=1000, errors);
        Some(Who::Identity { issuer: issuer?, subject: subject?, repository, workflow })
    }

    fn key_id(&self) -> String {
        match &self.who {
            Who::Runner { key, .. } => key.key_id().to_string(),
            Who::Identity { issuer, subject, repository, workflow } => {
                // As JSON, so that no two identities run together into one text.
                let identity = serde_json::json!([issuer, subject, repository, workflow]).to_string();
                format!("oidc:{}", URL_SAFE_NO_PAD.encode(Sha256::digest(identity)))
            }
        }
    }
}

/// Allows a key or an identity. The same active entry again is no change; one on other terms
/// (`runner_id`, `expires_at`) is [`Error::KeyExists`]: revoke it first.
pub async fn add(client: &Client, admin: &Admin, entry: &NewEntry) -> Result<Added, Error> {
    let (key, runner_id) = match &entry.who {
        Who::Runner { key, runner_id } => (Some(key.as_bytes().as_slice()), runner_id.as_deref()),
        Who::Identity { .. } => (None, None),
    };
    let (issuer, subject, repository, workflow) = match &entry.who {
        Who::Identity { issuer, subject, repository, workflow } => {
            (Some(issuer), Some(subject), repository.as_ref(), workflow.as_ref())
        }
        Who::Runner { .. } => (None, None, None, None),
    };
    let row = client
        .query_typed_opt(
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
        .await?
        // No row: another admin added the key at this very moment.
        .ok_or(Error::KeyExists)?;
    if !row.get::<_, bool>("same_terms") {
        return Err(Error::KeyExists);
    }
    Ok(Added { created: row.get("created"), entry: Entry::from_row(&row)? })
}

/// Lists entries: at most `limit` (1 to [`PAGE_MAX`]) from `cursor` on.
pub async fn list(client: &Client, cursor: Option<&str>, limit: i32) -> Result<Page, Error> {
    let after: i64 = match cursor {
        Some(cursor) => cursor
            .parse()
            .map_err(|_| Error::Invalid(vec![FieldError::new("/cursor", "is not a cursor of this list")]))?,
        None => 0,
    };
    let limit = limit.clamp(1, PAGE_MAX);
    let rows = client.query_typed(LIST, &[(&after, Type::INT8), (&(limit + 1), Type::INT4)]).await?;
    let whole = usize::try_from(limit).unwrap_or_default();
    let next_cursor = (rows.len() > whole).then(|| rows[whole - 1].get::<_, i64>("entry_id").to_string());
    let keys = rows.iter().take(whole).map(Entry::from_row).collect::<Result<_, _>>()?;
    Ok(Page { keys, next_cursor })
}

/// The active entries for a keyless signer of this issuer and subject.
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
