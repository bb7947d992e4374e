//! Benchmark: verification of each fixture by this crate and by `sigstore-verify` alone.
//!
//! `cargo bench -p bakeoff-attestation` prints the median time of each and their ratio. Both parse the bundle
//! and reuse the prepared trusted root.

use std::error::Error;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{env, fs};

use bakeoff_attestation::{Bundle, Material, PublicKey, TrustedRoot, verify_keyed, verify_keyless};
use sigstore_verify::trust_root::SIGSTORE_PRODUCTION_TRUSTED_ROOT;
use sigstore_verify::types::DerPublicKey;
use sigstore_verify::{PublicKeyVerificationPolicy, VerificationPolicy, Verifier, trust_root, types};

struct Case {
    bundle: Vec<u8>,
    artifact: Vec<u8>,
    root: Vec<u8>,
    key: Option<PublicKey>,
}

impl Case {
    fn read(folder: &Path) -> Option<Self> {
        let read = |name: &str| fs::read(folder.join(name)).ok();
        let key = read("key.pub").and_then(|pem| PublicKey::from_pem(&String::from_utf8(pem).ok()?).ok());
        Some(Self {
            bundle: read("bundle.sigstore.json").or_else(|| read("signature.sigstore.json"))?,
            artifact: read("artifact").or_else(|| read("result.json"))?,
            root: read("trusted_root.json").unwrap_or_else(|| SIGSTORE_PRODUCTION_TRUSTED_ROOT.into()),
            key,
        })
    }

    fn verify_with_crate(&self, root: &TrustedRoot) -> bool {
        let Ok(bundle) = Bundle::parse(&self.bundle) else {
            return false;
        };
        let artifact = self.artifact.as_slice();
        match (bundle.material(), &self.key) {
            (Material::PublicKey, Some(key)) => verify_keyed(&bundle, artifact, key, root).is_ok(),
            (Material::PublicKey, None) => false,
            (Material::Certificate, _) => verify_keyless(&bundle, artifact, root).is_ok(),
        }
    }

    fn verify_with_sigstore(&self, verifier: &Verifier) -> bool {
        let text = str::from_utf8(&self.bundle).unwrap_or_default();
        let Ok(bundle) = types::Bundle::from_json(text) else {
            return false;
        };
        let artifact = self.artifact.as_slice();
        match &self.key {
            Some(key) => {
                let key = DerPublicKey::from_bytes(key.spki());
                verifier.verify(artifact, &bundle, &PublicKeyVerificationPolicy::new(key)).is_ok()
            }
            None => verifier.verify(artifact, &bundle, &VerificationPolicy::any_identity()).is_ok(),
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    // `cargo test --all-targets` also runs benches, without `--bench`; one round suffices there.
    let rounds = if env::args().any(|argument| argument == "--bench") { 301 } else { 1 };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut folders: Vec<_> =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_, Box<dyn Error>>>()?;
    folders.sort();
    println!("{:48} {:>10} {:>10} {:>10} {:>6}", "", "bytes", "crate", "sigstore", "ratio");
    for folder in folders {
        let Some(case) = Case::read(&folder) else {
            continue;
        };
        let root = TrustedRoot::parse(&case.root)?;
        let text = String::from_utf8(case.root.clone())?;
        let verifier = Verifier::new(&trust_root::TrustedRoot::from_json(&text)?)?;
        if !case.verify_with_crate(&root) {
            continue;
        }
        let mut crate_times = Vec::new();
        let mut sigstore_times = Vec::new();
        // Alternates, so that CPU frequency and other load affect both alike.
        for _ in 0..rounds {
            crate_times.push(time(|| case.verify_with_crate(&root)));
            sigstore_times.push(time(|| case.verify_with_sigstore(&verifier)));
        }
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let crate_times = median(crate_times);
        print!("{name:48} {:>10} {:>10.1?}", case.artifact.len(), crate_times);
        if case.verify_with_sigstore(&verifier) {
            let sigstore_times = median(sigstore_times);
            println!(
                " {sigstore_times:>10.1?} {:>6.2}",
                crate_times.as_secs_f64() / sigstore_times.as_secs_f64()
            );
        } else {
            println!(" {:>10} {:>6}", "refuses", "-");
        }
    }
    Ok(())
}

fn time(verify: impl Fn() -> bool) -> Duration {
    let start = Instant::now();
    black_box(verify());
    start.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
