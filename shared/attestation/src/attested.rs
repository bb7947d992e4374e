use sigstore_verify::crypto::{CertificateInfo, SubjectAltName};
use time::OffsetDateTime;

use crate::bundle::{Form, Material};
use crate::key::PublicKey;

/// Proof that a bundle was verified: only [`crate::verify_keyed`] and [`crate::verify_keyless`] make it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Attested {
    form: Form,
    signer: Signer,
    digest: [u8; 32],
    verified_times: Vec<OffsetDateTime>,
    log_entries: usize,
    trusted_root: [u8; 32],
}

/// Who signed.
#[derive(Debug, Clone)]
pub enum Signer {
    /// The key the caller asked for.
    Key(PublicKey),
    /// The identity in the certificate. Whether it may sign is the caller's to decide.
    Identity(Identity),
}

/// The evidence found while verifying.
pub(crate) struct Evidence {
    pub(crate) verified_times: Vec<OffsetDateTime>,
    pub(crate) log_entries: usize,
    pub(crate) trusted_root: [u8; 32],
}

impl Attested {
    pub(crate) fn new(form: Form, signer: Signer, digest: [u8; 32], evidence: Evidence) -> Self {
        let Evidence { mut verified_times, log_entries, trusted_root } = evidence;
        verified_times.sort_unstable();
        Self { form, signer, digest, verified_times, log_entries, trusted_root }
    }

    /// Whether a key or a certificate signed.
    pub fn material(&self) -> Material {
        match self.signer {
            Signer::Key(_) => Material::PublicKey,
            Signer::Identity(_) => Material::Certificate,
        }
    }

    /// Whether the signature is over the artifact or over a statement about it.
    pub fn form(&self) -> Form {
        self.form
    }

    /// Who signed.
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// The identity that signed; none for a key.
    pub fn identity(&self) -> Option<&Identity> {
        match &self.signer {
            Signer::Key(_) => None,
            Signer::Identity(identity) => Some(identity),
        }
    }

    /// SHA-256 of the artifact.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// Times a log or timestamp authority vouches for, earliest first. Empty for a key bundle without a
    /// log's promise or a timestamp.
    pub fn verified_times(&self) -> &[OffsetDateTime] {
        &self.verified_times
    }

    /// How many transparency-log entries were verified.
    pub fn log_entries(&self) -> usize {
        self.log_entries
    }

    /// SHA-256 of the JSON of the trusted root it was verified against. A key bundle without evidence
    /// needed nothing of it.
    pub fn trusted_root(&self) -> [u8; 32] {
        self.trusted_root
    }
}

/// What a Fulcio certificate says about who asked for it.
///
/// Of the repository and the workflow it speaks only where Fulcio issued it to a CI job: claims
/// `1.3.6.1.4.1.57264.1.12` and `.18`, or in old certificates the deprecated `.5`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Identity {
    issuer: String,
    subject: String,
    repository: Option<String>,
    workflow: Option<String>,
}

impl Identity {
    /// None where the certificate lacks issuer or subject.
    pub(crate) fn from_certificate(certificate: &CertificateInfo) -> Option<Self> {
        let claims = &certificate.ci_claims;
        let short = claims.deprecated_github.workflow_repository.as_ref();
        Some(Self {
            issuer: certificate.issuer.clone()?,
            subject: certificate.identity.as_ref().map(SubjectAltName::as_str)?.to_owned(),
            repository: claims
                .source_repository_uri
                .clone()
                .or_else(|| short.map(|short| format!("https://github.com/{short}"))),
            workflow: claims.build_config_uri.clone(),
        })
    }

    /// The OIDC issuer, such as `https://token.actions.githubusercontent.com`.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The subject alternative name: an e-mail address, or a workflow's URI with its ref.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The URI of the repository built from, such as `https://github.com/owner/name`.
    pub fn repository(&self) -> Option<&str> {
        self.repository.as_deref()
    }

    /// The URI of the workflow that ran, with its ref:
    /// `https://github.com/owner/name/.github/workflows/build.yml@refs/heads/main`.
    pub fn workflow(&self) -> Option<&str> {
        self.workflow.as_deref()
    }

    /// Whether the certificate claims this repository, given as URI or, at GitHub, as `owner/name`.
    pub fn is_of_repository(&self, repository: &str) -> bool {
        self.repository().is_some_and(|claimed| {
            claimed == repository || claimed.strip_prefix("https://github.com/") == Some(repository)
        })
    }

    /// Whether the certificate claims this workflow, given as URI with or without ref, as path in the
    /// repository (`.github/workflows/build.yml`), or as its file name (`build.yml`).
    pub fn is_of_workflow(&self, workflow: &str) -> bool {
        self.workflow().is_some_and(|claimed| {
            let without_ref = claimed.split_once('@').map_or(claimed, |(uri, _)| uri);
            let path = self.repository().and_then(|repository| without_ref.strip_prefix(repository));
            let path = path.and_then(|path| path.strip_prefix('/'));
            let file = path.and_then(|path| path.strip_prefix(".github/workflows/"));
            [Some(claimed), Some(without_ref), path, file].contains(&Some(workflow))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Identity;

    fn identity() -> Identity {
        Identity {
            issuer: "https://token.actions.githubusercontent.com".into(),
            subject: "https://github.com/a/b/.github/workflows/c.yml@refs/heads/main".into(),
            repository: Some("https://github.com/a/b".into()),
            workflow: Some("https://github.com/a/b/.github/workflows/c.yml@refs/heads/main".into()),
        }
    }

    #[test]
    fn claims_match_whole_names_only() {
        let identity = identity();
        for repository in ["a/b", "https://github.com/a/b"] {
            assert!(identity.is_of_repository(repository));
        }
        for repository in ["b", "a/", "a/b/", "https://gitlab.com/a/b", ""] {
            assert!(!identity.is_of_repository(repository), "{repository}");
        }
        for workflow in [
            "https://github.com/a/b/.github/workflows/c.yml@refs/heads/main",
            "https://github.com/a/b/.github/workflows/c.yml",
            ".github/workflows/c.yml",
            "c.yml",
        ] {
            assert!(identity.is_of_workflow(workflow), "{workflow}");
        }
        for workflow in ["workflows/c.yml", ".yml", "", "c.yml@refs/heads/main"] {
            assert!(!identity.is_of_workflow(workflow), "{workflow}");
        }
    }

    #[test]
    fn a_certificate_without_claims_matches_no_repository() {
        let identity = Identity { repository: None, workflow: None, ..identity() };
        assert!(!identity.is_of_repository("a/b"));
        assert!(!identity.is_of_workflow("c.yml"));
    }
}
