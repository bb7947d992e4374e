use sigstore_verify::crypto::{CertificateInfo, SubjectAltName};
use time::OffsetDateTime;

use crate::bundle::{Form, Material};
use crate::key::PublicKey;

/// Proof that a bundle was verified. Only [`crate::verify_keyed`] and [`crate::verify_keyless`] create it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct VerifiedSignature {
    form: Form,
    signer: Signer,
    digest: [u8; 32],
    verified_times: Vec<OffsetDateTime>,
    log_entries: usize,
    trusted_root: [u8; 32],
}

/// The signer of a verified bundle.
#[derive(Debug, Clone)]
pub enum Signer {
    /// The key that the caller passed in.
    Key(PublicKey),
    /// The identity in the certificate. The caller decides whether it may sign.
    Identity(Identity),
}

/// Evidence collected during verification.
pub(crate) struct Evidence {
    pub(crate) verified_times: Vec<OffsetDateTime>,
    pub(crate) log_entries: usize,
    pub(crate) trusted_root: [u8; 32],
}

impl VerifiedSignature {
    pub(crate) fn new(form: Form, signer: Signer, digest: [u8; 32], evidence: Evidence) -> Self {
        let Evidence { mut verified_times, log_entries, trusted_root } = evidence;
        verified_times.sort_unstable();
        Self { form, signer, digest, verified_times, log_entries, trusted_root }
    }

    /// Returns whether the bundle was signed with a key or a certificate.
    pub fn material(&self) -> Material {
        match self.signer {
            Signer::Key(_) => Material::PublicKey,
            Signer::Identity(_) => Material::Certificate,
        }
    }

    /// Returns whether the signature is over the artifact or over an in-toto statement about it.
    pub fn form(&self) -> Form {
        self.form
    }

    /// Returns the signer.
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// Returns the identity that signed, or `None` if a key signed.
    pub fn identity(&self) -> Option<&Identity> {
        match &self.signer {
            Signer::Key(_) => None,
            Signer::Identity(identity) => Some(identity),
        }
    }

    /// Returns the SHA-256 of the artifact.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// Returns the times attested by a log or a timestamp authority, earliest first. Empty for a key bundle
    /// with neither an inclusion promise nor a timestamp.
    pub fn verified_times(&self) -> &[OffsetDateTime] {
        &self.verified_times
    }

    /// Returns the number of transparency-log entries that were verified.
    pub fn log_entries(&self) -> usize {
        self.log_entries
    }

    /// Returns the SHA-256 of the trusted root's JSON. A key bundle without evidence used nothing from it.
    pub fn trusted_root(&self) -> [u8; 32] {
        self.trusted_root
    }
}

/// The identity claims of a Fulcio certificate.
///
/// Repository and workflow are present only if Fulcio issued the certificate to a CI job. They come from
/// extensions `1.3.6.1.4.1.57264.1.12` and `.18`, or in old certificates from the deprecated `.5`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Identity {
    issuer: String,
    subject: String,
    repository: Option<String>,
    workflow: Option<String>,
}

impl Identity {
    /// Returns `None` if the certificate lacks an issuer or a subject.
    pub(crate) fn from_certificate(certificate: &CertificateInfo) -> Option<Self> {
        let claims = &certificate.ci_claims;
        let github_name = claims.deprecated_github.workflow_repository.as_ref();
        Some(Self {
            issuer: certificate.issuer.clone()?,
            subject: certificate.identity.as_ref().map(SubjectAltName::as_str)?.to_owned(),
            repository: claims
                .source_repository_uri
                .clone()
                .or_else(|| github_name.map(|name| format!("https://github.com/{name}"))),
            workflow: claims.build_config_uri.clone(),
        })
    }

    /// Returns the OIDC issuer, such as `https://token.actions.githubusercontent.com`.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Returns the subject alternative name: an e-mail address, or a workflow's URI with its ref.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Returns the URI of the source repository, such as `https://github.com/owner/name`.
    pub fn repository(&self) -> Option<&str> {
        self.repository.as_deref()
    }

    /// Returns the URI of the workflow that ran, with its ref:
    /// `https://github.com/owner/name/.github/workflows/build.yml@refs/heads/main`.
    pub fn workflow(&self) -> Option<&str> {
        self.workflow.as_deref()
    }

    /// Returns whether the certificate claims `repository`: a URI, or `owner/name` on GitHub.
    pub fn has_repository(&self, repository: &str) -> bool {
        self.repository().is_some_and(|claimed| {
            claimed == repository || claimed.strip_prefix("https://github.com/") == Some(repository)
        })
    }

    /// Returns whether the certificate claims `workflow`: a URI with or without its ref, a path in the
    /// repository (`.github/workflows/build.yml`), or a file name (`build.yml`).
    pub fn has_workflow(&self, workflow: &str) -> bool {
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
    fn repository_and_workflow_match_only_as_whole_names() {
        let identity = identity();
        for repository in ["a/b", "https://github.com/a/b"] {
            assert!(identity.has_repository(repository));
        }
        for repository in ["b", "a/", "a/b/", "https://gitlab.com/a/b", ""] {
            assert!(!identity.has_repository(repository), "{repository}");
        }
        for workflow in [
            "https://github.com/a/b/.github/workflows/c.yml@refs/heads/main",
            "https://github.com/a/b/.github/workflows/c.yml",
            ".github/workflows/c.yml",
            "c.yml",
        ] {
            assert!(identity.has_workflow(workflow), "{workflow}");
        }
        for workflow in ["workflows/c.yml", ".yml", "", "c.yml@refs/heads/main"] {
            assert!(!identity.has_workflow(workflow), "{workflow}");
        }
    }

    #[test]
    fn a_certificate_without_ci_claims_matches_no_repository_or_workflow() {
        let identity = Identity { repository: None, workflow: None, ..identity() };
        assert!(!identity.has_repository("a/b"));
        assert!(!identity.has_workflow("c.yml"));
    }
}
