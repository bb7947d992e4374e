//! Verifies one bundle: the client for the sigstore-conformance suite, also usable by hand.
//!
//! `verify-bundle verify-bundle --bundle B (--certificate-identity I --certificate-oidc-issuer O | --key PEM)
//! [--trusted-root R] FILE_OR_DIGEST` exits with 0 if the bundle verifies. Otherwise it exits with 1 and
//! prints the reason in one line.

use std::error::Error;
use std::process::ExitCode;
use std::{env, fs};

use bakeoff_attestation::{
    Artifact, Bundle, PublicKey, Signer, TrustedRoot, VerifiedSignature, verify_keyed, verify_keyless,
};

const USAGE: &str = "usage: verify-bundle --bundle B \
    (--certificate-identity I --certificate-oidc-issuer O | --key PEM) [--trusted-root R] FILE_OR_DIGEST";

fn main() -> ExitCode {
    match run(env::args().skip(1)) {
        Ok(verified) => {
            println!("verified: {}", describe(&verified));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("refused: {error}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Default)]
struct Options {
    bundle: Option<String>,
    identity: Option<String>,
    issuer: Option<String>,
    key: Option<String>,
    trusted_root: Option<String>,
    artifact: Option<String>,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        if arguments.next().as_deref() != Some("verify-bundle") {
            return Err(USAGE.to_owned());
        }
        let mut options = Self::default();
        while let Some(argument) = arguments.next() {
            let (option, value) = match argument.split_once('=') {
                Some((option, value)) if option.starts_with("--") => {
                    (option.to_owned(), Some(value.to_owned()))
                }
                _ => (argument, None),
            };
            let slot = match option.as_str() {
                "--bundle" => &mut options.bundle,
                "--certificate-identity" => &mut options.identity,
                "--certificate-oidc-issuer" => &mut options.issuer,
                "--key" => &mut options.key,
                "--trusted-root" => &mut options.trusted_root,
                unknown if unknown.starts_with("--") => {
                    return Err(format!("unknown option {unknown}; {USAGE}"));
                }
                _ if options.artifact.is_none() => {
                    options.artifact = Some(option);
                    continue;
                }
                _ => return Err(USAGE.to_owned()),
            };
            let value = value.or_else(|| arguments.next()).ok_or(USAGE)?;
            if slot.replace(value).is_some() {
                return Err(format!("{option} occurs twice; {USAGE}"));
            }
        }
        Ok(options)
    }
}

fn run(arguments: impl Iterator<Item = String>) -> Result<VerifiedSignature, Box<dyn Error>> {
    let options = Options::parse(arguments)?;
    let bundle = Bundle::parse(&read(&options.bundle.ok_or(USAGE)?)?)?;
    let configured = match options.trusted_root {
        Some(path) => Some(TrustedRoot::parse(&read(&path)?)?),
        None => None,
    };
    let root = configured.as_ref().unwrap_or_else(|| TrustedRoot::embedded());
    let artifact = options.artifact.ok_or(USAGE)?;
    let bytes;
    let artifact = match parse_digest(&artifact) {
        Some(digest) => Artifact::Sha256(digest),
        None => {
            bytes = read(&artifact)?;
            Artifact::Bytes(&bytes)
        }
    };
    match (options.key, options.identity, options.issuer) {
        (Some(key), None, None) => {
            let key = PublicKey::from_pem(&String::from_utf8(read(&key)?)?)?;
            Ok(verify_keyed(&bundle, artifact, &key, root)?)
        }
        (None, Some(identity), Some(issuer)) => {
            let verified = verify_keyless(&bundle, artifact, root)?;
            check_identity(&verified, &identity, &issuer)?;
            Ok(verified)
        }
        _ => Err(USAGE.into()),
    }
}

fn check_identity(verified: &VerifiedSignature, identity: &str, issuer: &str) -> Result<(), String> {
    let signer = verified.identity().ok_or("the bundle is signed with a key, not by an identity")?;
    if signer.subject() != identity {
        return Err(format!("signed by {}, not by {identity}", signer.subject()));
    }
    if signer.issuer() != issuer {
        return Err(format!("the identity was issued by {}, not by {issuer}", signer.issuer()));
    }
    Ok(())
}

fn read(path: &str) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{path}: {error}"))
}

/// Parses `sha256:` and 64 hexadecimal digits. A file with such a name must be passed as `./sha256:…`.
fn parse_digest(text: &str) -> Option<[u8; 32]> {
    let digits = text.strip_prefix("sha256:").filter(|digits| digits.len() == 64 && digits.is_ascii())?;
    let mut digest = [0; 32];
    for (index, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(digest)
}

fn describe(verified: &VerifiedSignature) -> String {
    let signer = match verified.signer() {
        Signer::Key(key) => format!("{key:?}"),
        Signer::Identity(identity) => format!("{} ({})", identity.subject(), identity.issuer()),
    };
    let times: Vec<_> = verified.verified_times().iter().map(ToString::to_string).collect();
    format!("{} by {signer}, at [{}]", verified.form().as_str(), times.join(", "))
}
