//! The schema, embedded and applied by one piece of code everywhere.

mod embedded {
    refinery::embed_migrations!("../../migrations");
}

/// The versions a call of [`apply`] added, oldest first.
#[derive(Debug)]
pub struct Applied {
    /// Their names.
    pub versions: Vec<String>,
}

/// Why the schema could not be brought up to date.
pub type Error = refinery::Error;

/// Brings the database up to date.
///
/// # Errors
/// When a migration fails.
pub async fn apply(client: &mut tokio_postgres::Client) -> Result<Applied, Error> {
    let report = embedded::migrations::runner().run_async(client).await?;
    Ok(Applied { versions: report.applied_migrations().iter().map(ToString::to_string).collect() })
}

/// A digest of all embedded SQL, in hexadecimal.
pub fn fingerprint() -> String {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    for migration in embedded::migrations::runner().get_migrations() {
        hash.update(migration.sql().unwrap_or_default());
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
