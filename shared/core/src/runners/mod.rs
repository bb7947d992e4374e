//! Runner identity and authorization: the allowlist, Ed25519 keys, proofs of possession, and the tokens that
//! a proof is exchanged for.

pub mod allowlist;
pub mod key;
pub mod proof;
pub mod register;
pub mod revoke;
pub mod runner;
pub mod token;
