//! Who may run jobs, and how a runner proves who it is: the allowlist, Ed25519 keys, proofs of possession,
//! and the tokens a proof is exchanged for.

pub mod allowlist;
pub mod key;
pub mod proof;
pub mod register;
pub mod revoke;
pub mod runner;
pub mod token;
