//! The evidence of a result, file by file, in exactly the bytes received.

use crate::error::Error;
use crate::field_error::FieldError;
use tokio_postgres::Client;
use tokio_postgres::types::Type;
use uuid::Uuid;

const EVIDENCE: &str = include_str!("evidence.sql");

/// Which part of a file is wanted, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The first byte, from 0.
    pub offset: i32,
    /// At most how many.
    pub length: i32,
}

/// A part of a file.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// The submission it belongs to.
    pub submission_id: Uuid,
    /// The size of the whole file, in bytes.
    pub size: i32,
    /// SHA-256 of the whole file, in hexadecimal.
    pub sha256: String,
    /// The bytes of the part.
    pub content: Vec<u8>,
}

/// Reads a part of the file `name` of the run's evidence.
///
/// # Errors
/// [`Error::FileNotFound`]; [`Error::Invalid`] if several submissions of the run have such a file and
/// `submission_id` does not say which.
pub async fn evidence(
    client: &Client,
    run_id: Uuid,
    name: &str,
    submission_id: Option<Uuid>,
    part: Part,
) -> Result<Evidence, Error> {
    let rows = client
        .query_typed(
            EVIDENCE,
            &[
                (&run_id, Type::UUID),
                (&name, Type::TEXT),
                (&submission_id, Type::UUID),
                (&(part.offset.saturating_add(1)), Type::INT4),
                (&part.length, Type::INT4),
            ],
        )
        .await?;
    match rows.as_slice() {
        [] => Err(Error::FileNotFound),
        [row] => Ok(Evidence {
            submission_id: row.try_get("submission_id")?,
            size: row.try_get("size")?,
            sha256: row.try_get("sha256")?,
            content: row.try_get("content")?,
        }),
        _ => {
            let detail = "several submissions of the run have this file: say which, as in `?submission_id=…`";
            Err(Error::Invalid(vec![FieldError::new("/submission_id", detail)]))
        }
    }
}
