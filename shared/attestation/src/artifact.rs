use sigstore_verify::crypto::{sha256, sha384, sha512};
use sigstore_verify::types::HashAlgorithm;

/// The artifact whose signature is checked.
#[derive(Debug, Clone, Copy)]
pub enum Artifact<'a> {
    /// The artifact's bytes.
    Bytes(&'a [u8]),
    /// The artifact's SHA-256 only. Ed25519 and Ed25519ph message signatures cannot be verified from it.
    Sha256([u8; 32]),
}

impl<'a> From<&'a [u8]> for Artifact<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Bytes(bytes)
    }
}

/// An artifact and its SHA-256, so that the digest is computed once.
#[derive(Clone, Copy)]
pub(crate) struct HashedArtifact<'a> {
    bytes: Option<&'a [u8]>,
    sha256: [u8; 32],
}

impl<'a> HashedArtifact<'a> {
    pub(crate) fn new(artifact: Artifact<'a>) -> Self {
        match artifact {
            Artifact::Bytes(bytes) => Self { bytes: Some(bytes), sha256: *sha256(bytes).as_bytes() },
            Artifact::Sha256(sha256) => Self { bytes: None, sha256 },
        }
    }

    pub(crate) fn bytes(&self) -> Option<&'a [u8]> {
        self.bytes
    }

    pub(crate) fn sha256(&self) -> [u8; 32] {
        self.sha256
    }

    /// Returns the artifact's digest under `algorithm`, or `None` if that needs bytes the caller did not
    /// pass.
    pub(crate) fn digest(&self, algorithm: HashAlgorithm) -> Option<Vec<u8>> {
        match algorithm {
            HashAlgorithm::Sha2256 => Some(self.sha256.to_vec()),
            other => self.bytes.and_then(|bytes| digest(other, bytes)),
        }
    }
}

/// Returns the digest of `bytes`, or `None` for an unsupported algorithm.
pub(crate) fn digest(algorithm: HashAlgorithm, bytes: &[u8]) -> Option<Vec<u8>> {
    match algorithm {
        HashAlgorithm::Sha2256 => Some(sha256(bytes).as_bytes().to_vec()),
        HashAlgorithm::Sha2384 => Some(sha384(bytes).as_bytes().to_vec()),
        HashAlgorithm::Sha2512 => Some(sha512(bytes).as_bytes().to_vec()),
        _ => None,
    }
}
