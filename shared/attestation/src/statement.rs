use serde_json::Value;
use sigstore_verify::types::{DsseEnvelope, HashAlgorithm};

use crate::artifact::HashedArtifact;
use crate::error::{Check, OrFail as _, VerificationError};
use crate::limits::{MAX_STATEMENT_DEPTH, MAX_SUBJECTS};
use crate::{hex, json};

/// Detail for a statement without a subject that is the artifact.
pub(crate) const WRONG_SUBJECT: &str =
    "no subject of the statement is the artifact; sign a statement with the artifact's SHA-256";

/// The payload type of an in-toto statement.
const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";

/// Supported statement versions; `subject` means the same in both.
const TYPES: [&str; 2] = ["https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1"];

/// The digest algorithms that are compared, with their names in a statement.
const ALGORITHMS: [(&str, HashAlgorithm); 3] = [
    ("sha256", HashAlgorithm::Sha2256),
    ("sha384", HashAlgorithm::Sha2384),
    ("sha512", HashAlgorithm::Sha2512),
];

/// The subjects of an in-toto statement, each with its digests.
#[derive(Debug)]
pub(crate) struct Statement {
    subjects: Vec<Vec<(HashAlgorithm, Vec<u8>)>>,
}

impl Statement {
    pub(crate) fn parse(envelope: &DsseEnvelope) -> Result<Self, VerificationError> {
        let format = |detail: &str| VerificationError::new(Check::Format, detail);
        if envelope.payload_type != PAYLOAD_TYPE {
            return Err(format("the envelope's payload type must be application/vnd.in-toto+json"));
        }
        let statement =
            json::parse(envelope.payload.as_bytes(), MAX_STATEMENT_DEPTH).or_fail(Check::Format)?;
        // Another version could give the same members another meaning.
        if !TYPES.iter().any(|known| statement["_type"] == *known) {
            return Err(format("the statement's _type must be in-toto Statement v1 or v0.1"));
        }
        let subjects = statement["subject"].as_array().filter(|subjects| !subjects.is_empty());
        let subjects = subjects
            .ok_or_else(|| format("the statement has no subject; add one with the artifact's SHA-256"))?;
        if subjects.len() > MAX_SUBJECTS {
            return Err(VerificationError::new(
                Check::Limit,
                format_args!("the statement has {} subjects; the limit is {MAX_SUBJECTS}", subjects.len()),
            ));
        }
        let subjects = subjects.iter().map(parse_digests).collect::<Option<_>>();
        let malformed = "a subject's digest must be hexadecimal and as long as its algorithm requires";
        Ok(Self { subjects: subjects.ok_or_else(|| format(malformed))? })
    }

    /// Returns whether a subject is the artifact: at least one of the subject's digests can be computed for
    /// the artifact, and all that can be computed are equal.
    pub(crate) fn has_subject(&self, artifact: &HashedArtifact<'_>) -> bool {
        // Computes each algorithm once for all subjects.
        let computed: Vec<_> = ALGORITHMS
            .into_iter()
            .filter(|(_, algorithm)| self.has_digest_by(*algorithm))
            .filter_map(|(_, algorithm)| Some((algorithm, artifact.digest(algorithm)?)))
            .collect();
        self.subjects.iter().any(|digests| {
            let mut comparable = digests
                .iter()
                .filter(|(algorithm, _)| computed.iter().any(|(known, _)| known == algorithm))
                .peekable();
            comparable.peek().is_some() && comparable.all(|digest| computed.contains(digest))
        })
    }

    fn has_digest_by(&self, algorithm: HashAlgorithm) -> bool {
        self.subjects.iter().flatten().any(|(known, _)| *known == algorithm)
    }

    /// Returns whether every subject has a SHA-256, so that the artifact's SHA-256 suffices for verification.
    pub(crate) fn has_sha256(&self) -> bool {
        let is_sha256 = |(algorithm, _): &(HashAlgorithm, Vec<u8>)| *algorithm == HashAlgorithm::Sha2256;
        self.subjects.iter().all(|digests| digests.iter().any(is_sha256))
    }
}

/// Parses a subject's digests for [`ALGORITHMS`]. Returns `None` if one of them is malformed.
fn parse_digests(subject: &Value) -> Option<Vec<(HashAlgorithm, Vec<u8>)>> {
    let digests = subject["digest"].as_object()?;
    ALGORITHMS
        .into_iter()
        .filter_map(|(name, algorithm)| Some((digests.get(name)?, algorithm)))
        .map(|(digest, algorithm)| {
            let digest = hex::decode(digest.as_str()?)?;
            (digest.len() == algorithm.digest_size()).then_some((algorithm, digest))
        })
        .collect()
}
