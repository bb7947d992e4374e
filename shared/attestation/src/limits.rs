//! Bounds on what is read at all. A bundle is hostile input: every bound holds before any cryptography.

/// Bytes of a bundle. The largest real ones (build provenance with many subjects) are near 100 kB.
pub const MAX_BUNDLE_BYTES: usize = 1 << 20;
/// Bytes of a trusted root. The public-good one is about 10 kB.
pub const MAX_TRUSTED_ROOT_BYTES: usize = 1 << 20;
/// Nesting of a bundle, of a log entry's body and of a trusted root. The formats use at most 8.
pub const MAX_DEPTH: usize = 16;
/// Nesting of an in-toto statement, whose predicate is free-form.
pub const MAX_STATEMENT_DEPTH: usize = 64;
/// Certificates in a chain: a leaf and its intermediates.
pub const MAX_CERTIFICATES: usize = 8;
/// Transparency-log entries. Real bundles carry one.
pub const MAX_LOG_ENTRIES: usize = 4;
/// Hashes in one inclusion proof: a tree has at most 2^63 leaves.
pub const MAX_PROOF_HASHES: usize = 64;
/// Signatures on one checkpoint: the log's and its witnesses'.
pub const MAX_CHECKPOINT_SIGNATURES: usize = 32;
/// Signatures in a DSSE envelope: the rest of a bundle vouches for one only.
pub const MAX_SIGNATURES: usize = 1;
/// Subjects of an in-toto statement.
pub const MAX_SUBJECTS: usize = 1024;
/// RFC 3161 timestamps. Each costs up to one verification per timestamp authority of the trusted root.
pub const MAX_TIMESTAMPS: usize = 4;
