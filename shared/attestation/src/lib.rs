#![doc = include_str!("../README.md")]

mod artifact;
mod bundle;
mod error;
mod hex;
mod json;
mod key;
mod keyed;
mod keyless;
pub mod limits;
mod log_entry;
pub mod publication;
mod statement;
mod trusted_root;
mod verified_signature;

pub use artifact::Artifact;
pub use bundle::{Bundle, Form, Material};
pub use error::{Check, VerificationError};
pub use key::PublicKey;
pub use keyed::verify_keyed;
pub use keyless::verify_keyless;
pub use trusted_root::TrustedRoot;
pub use verified_signature::{Identity, Signer, VerifiedSignature};
