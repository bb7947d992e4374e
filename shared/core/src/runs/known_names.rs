//! Names in a request that the database must know.

use crate::error::Error;
use crate::field_error::{FieldError, quote};
use crate::runs::enqueue::NewRun;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use tokio_postgres::Client;

/// The names of quantizations, architectures, file formats and source types.
#[derive(Debug)]
pub(super) struct KnownNames(BTreeMap<String, BTreeSet<String>>);

impl KnownNames {
    /// Reads them all: they are few.
    pub(super) async fn read(client: &Client) -> Result<Self, Error> {
        let rows = client
            .query_typed(
                "SELECT 'quantization' AS kind, name FROM quantization_methods
                 UNION ALL SELECT 'architecture', name FROM model_architectures
                 UNION ALL SELECT 'file_format', name FROM model_file_formats
                 UNION ALL SELECT 'source_type', name FROM source_types",
                &[],
            )
            .await?;
        let mut known: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for row in &rows {
            known.entry(row.try_get("kind")?).or_default().insert(row.try_get("name")?);
        }
        Ok(Self(known))
    }

    /// Lists the names of the run that the database does not know.
    pub(super) fn unknown_names(&self, run: &NewRun) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let mut check = |kind: &str, name: &Value, pointer: String| {
            let Some(name) = name.as_str() else { return };
            if !self.0.get(kind).is_some_and(|names| names.contains(name)) {
                errors.push(FieldError::new(pointer, format!("{} is not a known {kind}", quote(name))));
            }
        };
        for model in &run.models {
            let at = format!("{}/descriptor", model.pointer);
            for kind in ["quantization", "architecture", "file_format"] {
                check(kind, &model.spec[kind], format!("{at}/{kind}"));
            }
            for (i, source) in model.spec["sources"].as_array().into_iter().flatten().enumerate() {
                check("source_type", &source["source_type"], format!("{at}/sources/{i}/source_type"));
            }
        }
        errors
    }
}
