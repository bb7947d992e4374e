//! The audit log's chain of digests: each row holds the SHA-256 of the row before it.
//!
//! A removed row leaves a gap, and a changed one no longer has the digest that the row after it holds. The last
//! rows have nothing after them, and somebody who can write every row can make a new chain. So the last row's
//! position and digest ([`Head`]) are also recorded outside the database: the reaper returns and logs them each
//! minute. [`verify`] takes such a recorded head and says whether the log still contains it.

use crate::error::Error;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fmt;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

/// Rows read per statement.
const PAGE: i64 = 1000;
/// Faults listed; more are only counted.
const FAULTS_MAX: usize = 100;

const HEAD: &str = "SELECT chain_position AS position, encode(audit_log_sha256(a), 'hex') AS sha256 \
                    FROM audit_log a ORDER BY chain_position DESC LIMIT 1";
const ROWS: &str = "SELECT chain_position, previous_sha256, audit_id, \
                           (extract(epoch FROM at) * 1000000)::bigint AS at_us, actor, action, subject, \
                           detail::text AS detail \
                    FROM audit_log WHERE chain_position > $1 ORDER BY chain_position LIMIT $2";

/// A row's position in the chain, from 1, and its digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The position.
    pub position: i64,
    /// SHA-256 in lower-case hexadecimal.
    pub sha256: String,
}

/// What [`verify`] found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// How many rows were read.
    pub rows: i64,
    /// The last of them; `None` for an empty log.
    pub head: Option<Head>,
    /// How many discrepancies there are.
    pub discrepancies_found: usize,
    /// The first 100 of them.
    pub discrepancies: Vec<Discrepancy>,
}

/// Where the chain is broken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "discrepancy")]
pub enum Discrepancy {
    /// Rows are missing.
    Missing {
        /// The first missing position.
        from: i64,
        /// The last.
        to: i64,
    },
    /// The row is not the one that was written: the row after it, or a recorded head, holds another digest.
    Changed {
        /// Its position.
        position: i64,
    },
}

impl fmt::Display for Discrepancy {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Missing { from, to } => write!(f, "the rows at positions {from} to {to} are missing"),
            Self::Changed { position } => {
                write!(f, "the row at position {position} is not the one that was written")
            }
        }
    }
}

/// Returns the last row's position and digest, to be recorded outside the database. `None` for an empty log.
///
/// # Errors
/// [`Error::Database`].
pub async fn head(client: &Client) -> Result<Option<Head>, Error> {
    let row = client.query_typed(HEAD, &[]).await?.into_iter().next();
    Ok(row.map(|row| Head { position: row.get("position"), sha256: row.get("sha256") }))
}

/// Verifies the whole chain. The digests are computed here, not by the database's own function.
///
/// `recorded` is a head that was recorded earlier. Without one, rows removed from the end do not show.
///
/// # Errors
/// [`Error::Database`].
pub async fn verify(client: &Client, known_head: Option<&Head>) -> Result<Verified, Error> {
    let mut chain = Chain::new(known_head);
    loop {
        let rows = client.query_typed(ROWS, &[(&chain.position, Type::INT8), (&PAGE, Type::INT8)]).await?;
        for row in &rows {
            chain.follow(&AuditRow::from_row(row)?);
        }
        if (rows.len() as i64) < PAGE {
            return Ok(chain.end());
        }
    }
}

/// A row as it is digested.
struct AuditRow {
    position: i64,
    previous: Vec<u8>,
    audit_id: i64,
    at_us: i64,
    actor: String,
    action: String,
    subject: Option<String>,
    detail: String,
}

impl AuditRow {
    fn from_row(row: &Row) -> Result<Self, Error> {
        Ok(Self {
            position: row.try_get("chain_position")?,
            previous: row.try_get("previous_sha256")?,
            audit_id: row.try_get("audit_id")?,
            at_us: row.try_get("at_us")?,
            actor: row.try_get("actor")?,
            action: row.try_get("action")?,
            subject: row.try_get("subject")?,
            detail: row.try_get("detail")?,
        })
    }

    /// As `audit_log_sha256` computes it: each field by its length in bytes and its bytes, null as `-`.
    fn sha256(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        let mut field = |text: Option<&str>| match text {
            Some(text) => digest.update(format!("{}:{text},", text.len())),
            None => digest.update("-,"),
        };
        field(Some(&self.position.to_string()));
        field(Some(&hex(&self.previous)));
        field(Some(&self.audit_id.to_string()));
        field(Some(&self.at_us.to_string()));
        field(Some(&self.actor));
        field(Some(&self.action));
        field(self.subject.as_deref());
        field(Some(&self.detail));
        digest.finalize().into()
    }
}

/// The chain as far as it has been followed.
struct Chain<'a> {
    known_head: Option<&'a Head>,
    position: i64,
    sha256: [u8; 32],
    rows: i64,
    discrepancies: Vec<Discrepancy>,
    discrepancies_found: usize,
}

impl<'a> Chain<'a> {
    fn new(known_head: Option<&'a Head>) -> Self {
        Self {
            known_head,
            position: 0,
            sha256: [0; 32],
            rows: 0,
            discrepancies: Vec::new(),
            discrepancies_found: 0,
        }
    }

    fn follow(&mut self, row: &AuditRow) {
        if row.position > self.position + 1 {
            self.discrepancy(Discrepancy::Missing { from: self.position + 1, to: row.position - 1 });
        } else if row.previous != self.sha256 {
            // Of the first row the zeros were changed, of any other the row before it.
            self.discrepancy(Discrepancy::Changed { position: self.position.max(1) });
        }
        (self.position, self.sha256) = (row.position, row.sha256());
        self.rows += 1;
        if self.known_head.is_some_and(|known_head| {
            known_head.position == row.position && known_head.sha256 != hex(&self.sha256)
        }) {
            self.discrepancy(Discrepancy::Changed { position: row.position });
        }
    }

    fn discrepancy(&mut self, discrepancy: Discrepancy) {
        self.discrepancies_found += 1;
        if self.discrepancies.len() < FAULTS_MAX {
            self.discrepancies.push(discrepancy);
        }
    }

    fn end(mut self) -> Verified {
        if let Some(known_head) = self.known_head
            && known_head.position > self.position
        {
            self.discrepancy(Discrepancy::Missing { from: self.position + 1, to: known_head.position });
        }
        let head = (self.rows > 0).then(|| Head { position: self.position, sha256: hex(&self.sha256) });
        Verified {
            rows: self.rows,
            head,
            discrepancies_found: self.discrepancies_found,
            discrepancies: self.discrepancies,
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
