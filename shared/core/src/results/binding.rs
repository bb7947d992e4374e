//! The binding of a signed result to the claim it was computed under.
//!
//! A result names its run, but a run may have several claims, and its tasks are known before any of them: a
//! result could have been computed earlier, or by another machine. So a claim's answer holds a nonce, the runner
//! writes it into the configuration as `queue: {claim_id, nonce}`, and the harness signs the configuration as
//! part of the result.

use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::error::Error;

/// The claim that a signed result names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// None: `config.queue` is missing or null.
    Absent,
    /// `config.queue` is not an object with the UUIDs `claim_id` and `nonce`.
    Malformed,
    /// This claim.
    Claim {
        /// The claim's id.
        claim_id: Uuid,
        /// The claim's nonce, as signed.
        nonce: Uuid,
    },
}

impl Binding {
    /// Reads `config.queue` of a result. Members other than the two are accepted.
    pub(crate) fn parse(stanza: Option<&RawValue>) -> Self {
        #[derive(Deserialize)]
        struct Stanza {
            claim_id: Uuid,
            nonce: Uuid,
        }
        let Some(stanza) = stanza.filter(|stanza| stanza.get() != "null") else { return Self::Absent };
        match serde_json::from_str(stanza.get()) {
            Ok(Stanza { claim_id, nonce }) => Self::Claim { claim_id, nonce },
            Err(_) => Self::Malformed,
        }
    }

    /// Returns whether the result is bound to the claim with this id and nonce; an unbound one is accepted unless
    /// `required`.
    ///
    /// # Errors
    ///
    /// [`Error::BindingInvalid`] for another claim, another nonce, or a required binding that is absent.
    pub(crate) fn check(self, claim_id: Uuid, nonce: Option<Uuid>, required: bool) -> Result<bool, Error> {
        match self {
            Self::Absent if required => Err(Error::BindingInvalid(
                "this service requires it: write the claim's `claim_id` and `nonce` into the configuration as \
                 `queue` before the harness runs",
            )),
            Self::Absent => Ok(false),
            Self::Malformed => Err(Error::BindingInvalid("it must be an object with `claim_id` and `nonce`")),
            Self::Claim { claim_id: signed, .. } if signed != claim_id => {
                Err(Error::BindingInvalid("its `claim_id` is another claim's"))
            }
            Self::Claim { nonce: signed, .. } if Some(signed) != nonce => {
                Err(Error::BindingInvalid("its `nonce` is not the claim's"))
            }
            Self::Claim { .. } => Ok(true),
        }
    }
}
