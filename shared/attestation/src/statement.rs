use serde_json::Value;
use sigstore_verify::types::{DsseEnvelope, HashAlgorithm};

use crate::artifact::HashedArtifact;
use crate::limits::{MAX_STATEMENT_DEPTH, MAX_SUBJECTS};
use crate::refused::{Check, OrRefused as _, Refused};
use crate::{hex, json};

/// The one payload type a statement about an artifact has.
const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";

/// Statement versions, which agree in what a subject is.
const TYPES: [&str; 2] = ["https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1"];

/// Digests of a subject that are compared, by their names in a statement.
const ALGORITHMS: [(&str, HashAlgorithm); 3] = [
    ("sha256", HashAlgorithm::Sha2256),
    ("sha384", HashAlgorithm::Sha2384),
    ("sha512", HashAlgorithm::Sha2512),
];

/// What an in-toto statement is about: for each subject its digests.
#[derive(Debug)]
pub(crate) struct Statement {
    subjects: Vec<Vec<(HashAlgorithm, Vec<u8>)>>,
}

impl Statement {
    pub(crate) fn parse(envelope: &DsseEnvelope) -> Result<Self, Refused> {
        let format = |detail: &str| Refused::new(Check::Format, detail);
        if envelope.payload_type != PAYLOAD_TYPE {
            return Err(format("the envelope's payload is not an in-toto statement"));
        }
        let statement =
            json::parse(envelope.payload.as_bytes(), MAX_STATEMENT_DEPTH).or_refused(Check::Format)?;
        // Another version may mean something else by the same members.
        if !TYPES.iter().any(|known| statement["_type"] == *known) {
            return Err(format("the statement's _type is not in-toto Statement v1 or v0.1"));
        }
        let subjects = statement["subject"].as_array().filter(|subjects| !subjects.is_empty());
        let subjects = subjects.ok_or_else(|| format("the statement has no subject"))?;
        if subjects.len() > MAX_SUBJECTS {
            return Err(Refused::new(
                Check::Limit,
                format_args!("a statement has at most {MAX_SUBJECTS} subjects"),
            ));
        }
        let subjects = subjects.iter().map(known_digests).collect::<Option<_>>();
        Ok(Self { subjects: subjects.ok_or_else(|| format("a subject's digest is malformed"))? })
    }

    /// Whether some subject is the artifact: every digest of it that can be computed agrees, and at least
    /// one can.
    pub(crate) fn is_about(&self, artifact: &HashedArtifact<'_>) -> bool {
        // Each algorithm once, however many subjects ask for it.
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

    /// Whether each subject has a SHA-256 digest, so that nothing else is needed to find the artifact.
    pub(crate) fn has_sha256(&self) -> bool {
        let is_sha256 = |(algorithm, _): &(HashAlgorithm, Vec<u8>)| *algorithm == HashAlgorithm::Sha2256;
        self.subjects.iter().all(|digests| digests.iter().any(is_sha256))
    }
}

/// The digests of a subject by algorithms known here; none where one of them is malformed.
fn known_digests(subject: &Value) -> Option<Vec<(HashAlgorithm, Vec<u8>)>> {
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
