//! Verifies what a database holds: the evidence of its submissions, and the chain of its audit log.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use bakeoff_core::audit_chain::{self, Head, Verified};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::api_gateway::template;
use crate::error::{Error, ErrorContext, Result};
use crate::lambda::build;
use crate::lambda::runtime_api::{Function, Settings};
use crate::postgres::connect;
use crate::workspace;

/// Submissions per invocation.
const PAGE: usize = 200;
/// As long as Lambda lets an invocation take.
const TIMEOUT: Duration = Duration::from_secs(900);

/// Options of `cargo local verify-evidence`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvidenceOptions {
    /// The database.
    pub database_url: Option<String>,
    /// The service's keys, a JWK set: receipts are verified with them.
    pub signing_keys: Option<PathBuf>,
    /// The Sigstore trusted root, instead of the embedded one.
    pub trusted_root: Option<PathBuf>,
}

/// What a verification of all submissions found.
#[derive(Debug, Default)]
pub struct Evidence {
    /// How many submissions were verified.
    pub verified: usize,
    /// `{"submission_id", "check", "detail"}` each.
    pub discrepancies: Vec<Value>,
}

/// Verifies every submission of a database again, by the `submit` function's own binary: the one program that links
/// Sigstore, and the one that accepted them.
///
/// # Errors
/// When an option is missing, the binary fails, or a submission does not verify.
pub async fn evidence(options: EvidenceOptions) -> Result<()> {
    let database_url = required(options.database_url, "--database-url URL, or DATABASE_URL")?;
    let keys = required(options.signing_keys, "--signing-keys FILE")?;
    let absolute = |path: PathBuf| {
        let real = path.canonicalize().context(format!("read {}", path.display()))?;
        Ok::<_, Error>(real.display().to_string())
    };
    let mut environment = BTreeMap::from([
        ("DATABASE_URL".to_owned(), database_url),
        ("SIGNING_KEYS_FILE".to_owned(), absolute(keys)?),
    ]);
    if let Some(root) = options.trusted_root {
        environment.insert("TRUSTED_ROOT_FILE".to_owned(), absolute(root)?);
    }
    let mut binaries = build::functions(&workspace::root()?, &["submit"], false)?;
    let binary = binaries.remove("submit").ok_or_else(|| Error::Failed("submit was not built".into()))?;
    let function = template::Function { name: "submit".into(), timeout: TIMEOUT, memory_mb: 512 };
    let log = workspace::target()?.join("verify-evidence.log");
    let function = Function::new(Settings { function, binary, environment, log, instances: 1 });
    let Evidence { verified, discrepancies } = all_evidence(&function).await?;
    for discrepancy in &discrepancies {
        println!("{discrepancy}");
    }
    println!("{verified} submissions verified, {} discrepancies", discrepancies.len());
    none(discrepancies.len(), "discrepancies")
}

/// Verifies all submissions through a `submit` function.
///
/// # Errors
/// When an invocation fails.
pub async fn all_evidence(submit: &Function) -> Result<Evidence> {
    let mut evidence = Evidence::default();
    let mut cursor = Value::Null;
    loop {
        let payload = json!({"verify_evidence": {"cursor": cursor, "limit": PAGE}}).to_string();
        let answer = submit.invoke(Bytes::from(payload)).await;
        let answer = answer.map_err(|error| Error::Failed(format!("{}: {error}", submit.name())))?;
        let answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
        let (Some(verified), Some(discrepancies)) =
            (answer["verified"].as_u64(), answer["discrepancies"].as_array())
        else {
            return Err(Error::Failed(format!("submit answered {answer}")));
        };
        evidence.verified += verified as usize;
        evidence.discrepancies.extend(discrepancies.iter().cloned());
        cursor = answer["next_cursor"].clone();
        if cursor.is_null() {
            return Ok(evidence);
        }
    }
}

/// Verifies the chain of a database's audit log, against a head recorded earlier (`POSITION:SHA256`) if one is given.
///
/// # Errors
/// When the database cannot be read, or the chain is broken.
pub async fn audit(database_url: Option<String>, head: Option<String>) -> Result<()> {
    let known_head = head.map(|text| parse_head(&text)).transpose()?;
    let database_url = required(database_url, "--database-url URL, or DATABASE_URL")?;
    let verified = audit_chain_of(&connect(&database_url).await?, known_head.as_ref()).await?;
    for discrepancy in &verified.discrepancies {
        println!("{discrepancy}");
    }
    if let Some(Head { position, sha256 }) = &verified.head {
        println!("head {position}:{sha256}");
    }
    println!("{} rows verified, {} discrepancies", verified.rows, verified.discrepancies_found);
    none(verified.discrepancies_found, "discrepancies")
}

/// Verifies the chain of the audit log.
///
/// # Errors
/// When the database cannot be read.
pub async fn audit_chain_of(client: &Client, known_head: Option<&Head>) -> Result<Verified> {
    let verified = audit_chain::verify(client, known_head).await;
    verified.map_err(|error| Error::Failed(format!("could not read the audit log: {error}")))
}

fn parse_head(text: &str) -> Result<Head> {
    let parsed = text.split_once(':').and_then(|(position, sha256)| {
        let is_digest = sha256.len() == 64 && sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
        let position = position.parse().ok().filter(|position| *position > 0)?;
        is_digest.then(|| Head { position, sha256: sha256.to_ascii_lowercase() })
    });
    parsed.ok_or_else(|| Error::Failed(format!("{text:?} is no head: write POSITION:SHA256")))
}

fn required<T>(option: Option<T>, how: &str) -> Result<T> {
    option.ok_or_else(|| Error::Failed(format!("needs {how}")))
}

fn none(count: usize, what: &str) -> Result<()> {
    if count == 0 { Ok(()) } else { Err(Error::Failed(format!("{count} {what}"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_a_position_and_a_digest() {
        let digest = "0aF".repeat(21) + "0";
        let head = parse_head(&format!("12:{digest}")).unwrap();
        assert_eq!((head.position, head.sha256), (12, digest.to_lowercase()));
        for wrong in ["", "12", &format!("0:{digest}"), &format!("12:{digest}0"), "12:xyz"] {
            assert!(parse_head(wrong).is_err(), "{wrong}");
        }
    }
}
