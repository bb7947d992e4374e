//! Bounds on untrusted input, each checked before any cryptography.

/// Bytes in a bundle. The largest real bundles (build provenance with many subjects) have about 100 kB.
pub const MAX_BUNDLE_BYTES: usize = 1 << 20;
/// Bytes in a trusted root. The public-good root has about 10 kB.
pub const MAX_TRUSTED_ROOT_BYTES: usize = 1 << 20;
/// Nesting depth of a bundle, a log entry's body or a trusted root. The formats use at most 8 levels.
pub const MAX_DEPTH: usize = 16;
/// Nesting depth of an in-toto statement, whose predicate is free-form.
pub const MAX_STATEMENT_DEPTH: usize = 64;
/// Certificates in a chain: a leaf and its intermediates.
pub const MAX_CERTIFICATES: usize = 8;
/// Transparency-log entries in a bundle. Real bundles have one.
pub const MAX_LOG_ENTRIES: usize = 4;
/// Hashes in an inclusion proof. A tree has at most 2^63 leaves.
pub const MAX_PROOF_HASHES: usize = 64;
/// Signatures on a checkpoint: the log's and those of its witnesses.
pub const MAX_CHECKPOINT_SIGNATURES: usize = 32;
/// Signatures in a DSSE envelope. The bundle's evidence covers only one.
pub const MAX_SIGNATURES: usize = 1;
/// Subjects in an in-toto statement.
pub const MAX_SUBJECTS: usize = 1024;
/// RFC 3161 timestamps in a bundle. Each costs up to one verification per timestamp authority of the root.
pub const MAX_TIMESTAMPS: usize = 4;
