//! What must hold when a storm is over, judged from the database ([`database`]) and from what runners and admins
//! wrote down ([`logs`]), and from nothing else.

pub mod database;
pub mod logs;

use serde_json::Value;
use tokio_postgres::Client;

use super::log::Story;
use crate::error::Result;

/// One invariant, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// What must hold.
    pub invariant: &'static str,
    /// Of how many things it was checked.
    pub of: usize,
    /// Where it does not hold, in words.
    pub violations: Vec<String>,
}

/// All of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// In the order of the report.
    pub checked: Vec<Checked>,
}

impl Verdict {
    /// Invariant and detail of each violation.
    pub fn violations(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.checked
            .iter()
            .flat_map(|checked| checked.violations.iter().map(|detail| (checked.invariant, detail.as_str())))
    }
}

/// Checks every invariant. `jwks` are the service's public keys; `lease_ttl_s` is how long a claim lives after its
/// last heartbeat.
///
/// # Errors
/// When the database cannot be read.
pub async fn check(client: &Client, story: &Story, jwks: &Value, lease_ttl_s: u32) -> Result<Verdict> {
    let mut checked = database::check(client).await?;
    checked.extend(logs::check(client, story, jwks, lease_ttl_s).await?);
    Ok(Verdict { checked })
}
