use std::fs;
use std::path::{Path, PathBuf};

use bakeoff_attestation::{
    Artifact, Bundle, Material, PublicKey, TrustedRoot, VerificationError, VerifiedSignature, verify_keyed,
    verify_keyless,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

/// A bundle with the inputs of its verification.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) bundle: Vec<u8>,
    pub(crate) signed: Signed,
    /// `None` stands for the embedded root.
    pub(crate) root: Option<TrustedRoot>,
    /// The expected key of a key bundle.
    pub(crate) key: Option<PublicKey>,
    /// The expected issuer and subject of a keyless bundle.
    pub(crate) identity: Option<(String, String)>,
}

/// The signed artifact.
#[derive(Clone)]
pub(crate) enum Signed {
    Bytes(Vec<u8>),
    Digest([u8; 32]),
}

impl Signed {
    pub(crate) fn sha256(&self) -> [u8; 32] {
        match self {
            Self::Bytes(bytes) => Sha256::digest(bytes).into(),
            Self::Digest(digest) => *digest,
        }
    }

    fn as_artifact(&self) -> Artifact<'_> {
        match self {
            Self::Bytes(bytes) => Artifact::Bytes(bytes),
            Self::Digest(digest) => Artifact::Sha256(*digest),
        }
    }
}

impl Case {
    pub(crate) fn read(folder: &Path) -> Self {
        let text = |name: &str| fs::read_to_string(folder.join(name)).ok();
        let bytes = |name: &str| fs::read(folder.join(name)).ok();
        let signed = bytes("artifact").or_else(|| bytes("result.json")).map(Signed::Bytes);
        let signed = signed.unwrap_or_else(|| Signed::Digest(parse_digest(&text("digest").unwrap())));
        let bundle = bytes("bundle.sigstore.json").or_else(|| bytes("signature.sigstore.json"));
        let raw_key = || {
            let raw = STANDARD.decode(text("key.raw.b64")?.trim()).unwrap();
            Some(PublicKey::ed25519(&raw.try_into().unwrap()).unwrap())
        };
        let key = text("key.pub").map(|pem| PublicKey::from_pem(&pem).unwrap()).or_else(raw_key);
        Self {
            name: folder.file_name().unwrap().to_str().unwrap().to_owned(),
            bundle: bundle.unwrap(),
            signed,
            root: bytes("trusted_root.json").map(|json| TrustedRoot::parse(&json).unwrap()),
            key,
            identity: text("issuer").zip(text("identity")),
        }
    }

    /// Reads all fixtures, including publication bundles.
    pub(crate) fn all() -> Vec<Self> {
        folders().iter().map(|folder| Self::read(folder)).collect()
    }

    /// Reads the fixtures that verify.
    pub(crate) fn accepted() -> Vec<Self> {
        Self::all().into_iter().filter(|case| !case.name.ends_with("_fail")).collect()
    }

    pub(crate) fn verify(&self) -> Result<VerifiedSignature, VerificationError> {
        self.verify_other(&self.bundle, &self.signed)
    }

    /// Verifies another bundle or artifact against this case's signer and root.
    pub(crate) fn verify_other(
        &self,
        bundle: &[u8],
        signed: &Signed,
    ) -> Result<VerifiedSignature, VerificationError> {
        let bundle = Bundle::parse(bundle)?;
        let root = self.root.as_ref().unwrap_or_else(|| TrustedRoot::embedded());
        match &self.key {
            Some(key) => verify_keyed(&bundle, signed.as_artifact(), key, root),
            None => verify_keyless(&bundle, signed.as_artifact(), root),
        }
    }

    pub(crate) fn material(&self) -> Material {
        if self.key.is_some() { Material::PublicKey } else { Material::Certificate }
    }
}

pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

pub(crate) fn folders() -> Vec<PathBuf> {
    let entries = fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<_> = entries.filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

fn parse_digest(text: &str) -> [u8; 32] {
    let digits = text.trim().strip_prefix("sha256:").unwrap();
    let byte = |index: usize| u8::from_str_radix(&digits[2 * index..2 * index + 2], 16).unwrap();
    std::array::from_fn(byte)
}
