//! A submission: the request to submit a signed result, and the result once its signature has verified.

use crate::document::Object;
use crate::error::Error;
use crate::field_error::{FieldError, FieldErrors};
use crate::results::canonical_json::CanonicalJson;
use crate::results::envelope::Envelope;
use crate::results::run_result::RunResult;
use crate::runners::runner::AuthenticatedRunner;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use time::OffsetDateTime;
use uuid::Uuid;

/// A request to submit. Nothing in it is verified yet.
#[derive(Debug)]
pub struct SubmitRequest<'a> {
    /// The claim the result was made under.
    pub claim_id: Uuid,
    /// The signed result.
    pub form: Form<'a>,
}

/// The two forms of a submission.
#[derive(Debug)]
pub enum Form<'a> {
    /// The harness's signed envelope, as received.
    Envelope(&'a RawValue),
    /// A publication bundle: base64 of each file, by file name.
    Files(BTreeMap<String, Cow<'a, str>>),
}

/// A result whose signature verified. Created by [`verify_envelope`], and through
/// [`VerifiedSubmission::attested`] by the caller of the attestation crate.
#[derive(Debug)]
pub struct VerifiedSubmission<'a> {
    pub(super) signer: Signer,
    pub(super) sha256: [u8; 32],
    result: CanonicalJson<'a>,
    pub(super) files: Vec<(&'a str, &'a [u8])>,
}

/// The verified signer, and the evidence of it.
#[derive(Clone, Debug)]
pub struct Signer {
    /// The kind of signature.
    pub kind: SignerKind,
    /// The key's thumbprint, or the certificate's identity.
    pub name: String,
    /// The OIDC issuer of a keyless signer.
    pub issuer: Option<String>,
    /// The allowlist's `key_id` of a keyless signer. The statement that writes the result checks it again.
    pub key_id: Option<String>,
    /// Signing times that a transparency log or a timestamp authority signed.
    pub verified_times: Vec<OffsetDateTime>,
    /// SHA-256 of the trusted root used.
    pub trust_root_sha256: Option<[u8; 32]>,
}

/// The kinds of signature, as in `submissions.signer_kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignerKind {
    /// The harness's envelope, signed by the runner's key.
    Envelope,
    /// A Sigstore bundle signed by the runner's key.
    KeyBundle,
    /// A Sigstore bundle signed under a Fulcio certificate.
    KeylessBundle,
}

impl SignerKind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Envelope => "envelope",
            Self::KeyBundle => "key-bundle",
            Self::KeylessBundle => "keyless-bundle",
        }
    }
}

impl<'a> SubmitRequest<'a> {
    /// Parses the request's body.
    ///
    /// # Errors
    /// Every field error.
    pub fn parse(body: &'a str) -> Result<Self, Vec<FieldError>> {
        let mut errors = FieldErrors::default();
        let request = Object::parse(body, "", &mut errors).and_then(|mut object| {
            let claim_id = object.required_uuid("claim_id", &mut errors);
            let envelope = object.raw("envelope");
            let files = object.texts("files", &mut errors);
            let form = match (envelope, files) {
                (Some(envelope), None) => Some(Form::Envelope(envelope)),
                (None, Some(files)) => Some(Form::Files(files)),
                _ => {
                    errors.push("", "needs either envelope or files");
                    None
                }
            };
            object.finish(&mut errors);
            Some(Self { claim_id: claim_id?, form: form? })
        });
        errors.finish(request)
    }
}

/// Verifies the harness's envelope under the key that the runner's token is bound to, so that a runner cannot
/// submit another runner's result.
///
/// # Errors
/// [`Error::Invalid`], [`Error::SignatureInvalid`].
pub fn verify_envelope<'a>(
    runner: &AuthenticatedRunner,
    envelope: &'a RawValue,
) -> Result<VerifiedSubmission<'a>, Error> {
    let verified = Envelope::parse(envelope.get())
        .map_err(|errors| with_pointer_prefix("/envelope", errors))?
        .verify(runner.key().verifying_key())
        .map_err(|invalid| Error::SignatureInvalid(invalid.to_string()))?;
    Ok(VerifiedSubmission {
        signer: Signer {
            kind: SignerKind::Envelope,
            name: runner.key().key_id().to_string(),
            issuer: None,
            key_id: None,
            verified_times: Vec::new(),
            trust_root_sha256: None,
        },
        sha256: verified.sha256(),
        result: verified.result(),
        files: vec![("envelope.json", envelope.get().as_bytes())],
    })
}

/// Maximum length, in characters, of a signed `run_id` that a refusal repeats. A UUID has 36.
const SIGNED_RUN_ID_MAX: usize = 100;

impl<'a> VerifiedSubmission<'a> {
    /// Wraps a publication bundle that the caller verified with the attestation crate.
    pub fn attested(
        signer: Signer,
        sha256: [u8; 32],
        result: CanonicalJson<'a>,
        files: Vec<(&'a str, &'a [u8])>,
    ) -> Self {
        Self { signer, sha256, result, files }
    }

    /// Parses the result and checks that it was signed for this run. A result of another run is refused as that,
    /// whatever else is wrong with it.
    pub(super) fn result_of(&self, run_id: Uuid) -> Result<RunResult, Error> {
        #[derive(Deserialize)]
        struct Named {
            run_id: String,
        }
        let read = RunResult::from_canonical(self.result);
        let signed = match &read {
            Ok(result) => Some(result.run_id().to_owned()),
            Err(_) => serde_json::from_str(self.result.as_str()).ok().map(|Named { run_id }| run_id),
        };
        match signed {
            Some(signed) if signed != run_id.to_string() => {
                // A signer may have written any text there; the response and the audit entry repeat it.
                let signed = signed.chars().take(SIGNED_RUN_ID_MAX).collect();
                Err(Error::RunMismatch { signed })
            }
            _ => read.map_err(|errors| with_pointer_prefix("/result", errors)),
        }
    }
}

/// Converts the field errors of a part into those of the request.
pub(super) fn with_pointer_prefix(at: &str, found: Vec<FieldError>) -> Error {
    let mut errors = FieldErrors::default();
    errors.extend_with_prefix(at, found);
    Error::Invalid(errors.into_vec())
}
