#![doc = include_str!("../README.md")]

mod artifact;
mod attested;
mod bundle;
mod hex;
mod json;
mod key;
mod keyed;
mod keyless;
pub mod limits;
mod log_entry;
pub mod publication;
mod refused;
mod statement;
mod trusted_root;

pub use artifact::Artifact;
pub use attested::{Attested, Identity, Signer};
pub use bundle::{Bundle, Form, Material};
pub use key::PublicKey;
pub use keyed::verify_keyed;
pub use keyless::verify_keyless;
pub use refused::{Check, Refused};
pub use trusted_root::TrustedRoot;
