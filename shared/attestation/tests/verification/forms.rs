//! Key bundles in forms without a fixture, signed by the test, with entries in a transparency log of its own.

use bakeoff_attestation::{Check, PublicKey, TrustedRoot};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256, Sha512};
use sigstore_verify::crypto::KeyPair;

use crate::case::{Case, Signed};

const ARTIFACT: &[u8] = b"{\"run_id\":\"r\"}\n";
const KINDS: [(&str, &str, bool); 7] = [
    ("hashedrekord", "0.0.1", false),
    ("hashedrekord", "0.0.2", false),
    ("hashedrekord", "0.0.1", true),
    ("hashedrekord", "0.0.2", true),
    ("dsse", "0.0.1", true),
    ("intoto", "0.0.2", true),
    ("", "", true),
];

/// Creates a bundle for each kind of entry, signed with Ed25519, Ed25519ph and ECDSA P-256.
pub(crate) fn cases() -> Vec<Case> {
    let log = LogKey::new();
    let signers = || [Key::ed25519(false), Key::ed25519(true), Key::p256()];
    KINDS.iter().flat_map(|kind| signers().map(|key| case(*kind, &key, &log))).collect()
}

enum Key {
    Ed25519 { key: Box<SigningKey>, prehashed: bool },
    P256(KeyPair),
}

impl Key {
    fn ed25519(prehashed: bool) -> Self {
        Self::Ed25519 { key: Box::new(SigningKey::from_bytes(&[42; 32])), prehashed }
    }

    fn p256() -> Self {
        Self::P256(KeyPair::generate_ecdsa_p256().unwrap())
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Ed25519 { key, prehashed: false } => key.sign(message).to_vec(),
            Self::Ed25519 { key, prehashed: true } => {
                key.sign_prehashed(Sha512::new_with_prefix(message), None).unwrap().to_vec()
            }
            Self::P256(key) => key.sign(message).unwrap().into_bytes(),
        }
    }

    fn public(&self) -> PublicKey {
        match self {
            Self::Ed25519 { key, .. } => PublicKey::ed25519(key.verifying_key().as_bytes()).unwrap(),
            Self::P256(key) => PublicKey::from_pem(&key.public_key_der().unwrap().to_pem()).unwrap(),
        }
    }

    fn pem(&self) -> String {
        let body = STANDARD.encode(self.public().spki());
        format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n")
    }

    fn details(&self) -> &'static str {
        match self {
            Self::Ed25519 { prehashed: false, .. } => "PKIX_ED25519",
            Self::Ed25519 { prehashed: true, .. } => "PKIX_ED25519_PH",
            Self::P256(_) => "PKIX_ECDSA_P256_SHA_256",
        }
    }

    /// Returns the digest that cosign would write: SHA-512 for Ed25519ph, else SHA-256.
    fn hash(&self, message: &[u8]) -> (&'static str, &'static str, Vec<u8>) {
        match self {
            Self::Ed25519 { prehashed: true, .. } => ("SHA2_512", "sha512", Sha512::digest(message).to_vec()),
            _ => ("SHA2_256", "sha256", Sha256::digest(message).to_vec()),
        }
    }
}

/// The signing key of a log, for checkpoints and inclusion promises.
struct LogKey(KeyPair);

impl LogKey {
    fn new() -> Self {
        Self(KeyPair::generate_ecdsa_p256().unwrap())
    }

    fn spki(&self) -> Vec<u8> {
        self.0.public_key_der().unwrap().into_bytes()
    }

    fn id(&self) -> Vec<u8> {
        Sha256::digest(self.spki()).to_vec()
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(message).unwrap().into_bytes()
    }

    fn root(&self) -> TrustedRoot {
        let root = json!({
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [{
                "baseUrl": "https://log.test",
                "hashAlgorithm": "SHA2_256",
                "publicKey": {
                    "rawBytes": STANDARD.encode(self.spki()),
                    "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                    "validFor": {"start": "2020-01-01T00:00:00Z"},
                },
                "logId": {"keyId": STANDARD.encode(self.id())},
            }],
        });
        TrustedRoot::parse(root.to_string().as_bytes()).unwrap()
    }

    /// Creates an entry as the second of three leaves.
    fn create_entry(&self, kind: &str, version: &str, body: &Value) -> Value {
        let body = body.to_string().into_bytes();
        let (first, third) = (leaf(b"first"), leaf(b"third"));
        let root = STANDARD.encode(parent(&parent(&first, &leaf(&body)), &third));
        let note = format!("log.test - 7\n3\n{root}\n");
        let line = STANDARD.encode([&self.id()[..4], &self.sign(note.as_bytes())].concat());
        let mut entry = json!({
            "logIndex": "1",
            "logId": {"keyId": STANDARD.encode(self.id())},
            "kindVersion": {"kind": kind, "version": version},
            "inclusionProof": {
                "logIndex": "1",
                "rootHash": root,
                "treeSize": "3",
                "hashes": [STANDARD.encode(first), STANDARD.encode(third)],
                "checkpoint": {"envelope": format!("{note}\n\u{2014} log.test {line}\n")},
            },
            "canonicalizedBody": STANDARD.encode(&body),
        });
        if (kind, version) != ("hashedrekord", "0.0.2") {
            // Members in canonical order: whether serde_json sorts them depends on the features that other
            // crates in the build enable.
            let promised = json!({
                "body": STANDARD.encode(&body),
                "integratedTime": 1_700_000_000,
                "logID": self.id().iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
                "logIndex": 1,
            });
            let promise = STANDARD.encode(self.sign(promised.to_string().as_bytes()));
            entry["integratedTime"] = "1700000000".into();
            entry["inclusionPromise"] = json!({"signedEntryTimestamp": promise});
        }
        entry
    }
}

fn leaf(body: &[u8]) -> Vec<u8> {
    Sha256::new_with_prefix([0]).chain_update(body).finalize().to_vec()
}

fn parent(left: &[u8], right: &[u8]) -> Vec<u8> {
    Sha256::new_with_prefix([1]).chain_update(left).chain_update(right).finalize().to_vec()
}

fn case((kind, version, is_envelope): (&str, &str, bool), key: &Key, log: &LogKey) -> Case {
    let digest: String = Sha256::digest(ARTIFACT).iter().map(|byte| format!("{byte:02x}")).collect();
    let payload = json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "other", "digest": {"sha256": "00".repeat(32)}},
                    {"name": "result.json", "digest": {"sha256": digest}}],
        "predicateType": "https://example.com/bench/v1",
        "predicate": {"score": 1},
    });
    let payload = payload.to_string();
    let payload_type = "application/vnd.in-toto+json";
    let encoded = format!("DSSEv1 28 {payload_type} {} {payload}", payload.len());
    let message = if is_envelope { encoded.as_bytes() } else { ARTIFACT };
    let signature = key.sign(message);
    let (bundle_algorithm, _, hash) = key.hash(message);
    let body = body(kind, version, key, message, &signature, &payload);
    let mut bundle = json!({
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {
            "publicKey": {"hint": STANDARD.encode(key.public().fingerprint())},
            "tlogEntries": body.iter().map(|body| log.create_entry(kind, version, body)).collect::<Vec<_>>(),
        },
    });
    if is_envelope {
        bundle["dsseEnvelope"] = json!({
            "payload": STANDARD.encode(&payload),
            "payloadType": payload_type,
            "signatures": [{"sig": STANDARD.encode(&signature)}],
        });
    } else {
        bundle["messageSignature"] = json!({
            "messageDigest": {"algorithm": bundle_algorithm, "digest": STANDARD.encode(hash)},
            "signature": STANDARD.encode(&signature),
        });
    }
    Case {
        name: format!("{} {kind}/{version} dsse={is_envelope}", key.details()),
        bundle: bundle.to_string().into_bytes(),
        signed: Signed::Bytes(ARTIFACT.to_vec()),
        root: Some(log.root()),
        key: Some(key.public()),
        identity: None,
    }
}

/// Returns the body that Rekor records for a signature, or `None` for a bundle without an entry.
fn body(
    kind: &str,
    version: &str,
    key: &Key,
    message: &[u8],
    signature: &[u8],
    payload: &str,
) -> Option<Value> {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let (v2_algorithm, v1_algorithm, hash) = key.hash(message);
    let pem = STANDARD.encode(key.pem());
    let payload_hash = json!({"algorithm": "sha256", "value": hex(&Sha256::digest(payload))});
    let content = STANDARD.encode(signature);
    let spec = match (kind, version) {
        ("hashedrekord", "0.0.1") => json!({
            "data": {"hash": {"algorithm": v1_algorithm, "value": hex(&hash)}},
            "signature": {"content": content, "publicKey": {"content": pem}},
        }),
        ("hashedrekord", "0.0.2") => json!({"hashedRekordV002": {
            "data": {"algorithm": v2_algorithm, "digest": STANDARD.encode(hash)},
            "signature": {"content": content, "verifier": {
                "publicKey": {"rawBytes": STANDARD.encode(key.public().spki())},
                "keyDetails": key.details(),
            }},
        }}),
        ("dsse", _) => json!({
            "envelopeHash": payload_hash.clone(),
            "payloadHash": payload_hash,
            "signatures": [{"signature": content, "verifier": pem}],
        }),
        ("intoto", _) => json!({"content": {
            "envelope": {
                "payloadType": "application/vnd.in-toto+json",
                "signatures": [{"sig": STANDARD.encode(content), "publicKey": pem}],
            },
            "hash": payload_hash.clone(),
            "payloadHash": payload_hash,
        }}),
        _ => return None,
    };
    Some(json!({"apiVersion": version, "kind": kind, "spec": spec}))
}

#[test]
fn every_form_of_key_bundle_verifies() {
    for case in cases() {
        let verified = case.verify().unwrap_or_else(|refused| panic!("{}: {refused}", case.name));
        assert_eq!(verified.log_entries(), usize::from(!case.name.contains(" / ")), "{}", case.name);
    }
}

#[test]
fn a_logged_entry_of_another_signature_is_refused() {
    let log = LogKey::new();
    let edit = |kind: (&str, &str, bool), pointer: &str, value: Value| {
        let case = case(kind, &Key::ed25519(false), &log);
        let mut bundle: Value = serde_json::from_slice(&case.bundle).unwrap();
        let entry = &bundle["verificationMaterial"]["tlogEntries"][0];
        let body = STANDARD.decode(entry["canonicalizedBody"].as_str().unwrap()).unwrap();
        let mut body: Value = serde_json::from_slice(&body).unwrap();
        *body.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
        bundle["verificationMaterial"]["tlogEntries"][0] = log.create_entry(kind.0, kind.1, &body);
        case_with(case, bundle, &log)
    };
    let other = || STANDARD.encode([7; 64]);
    let other_hash = || "ab".repeat(32);
    let other_pem = || STANDARD.encode(Key::p256().pem());
    let edits = [
        (KINDS[0], "/spec/data/hash/value", json!(other_hash())),
        (KINDS[0], "/spec/data/hash/algorithm", json!("md5")),
        (KINDS[0], "/spec/signature/content", json!(other())),
        (KINDS[0], "/spec/signature/publicKey/content", json!(other_pem())),
        (KINDS[0], "/kind", json!("rekord")),
        (KINDS[0], "/apiVersion", json!("0.0.2")),
        (KINDS[1], "/spec/hashedRekordV002/data/digest", json!(STANDARD.encode([1; 32]))),
        (KINDS[1], "/spec/hashedRekordV002/signature/content", json!(other())),
        (KINDS[1], "/spec/hashedRekordV002/signature/verifier/publicKey/rawBytes", json!(other())),
        (KINDS[1], "/spec/hashedRekordV002/signature/verifier/keyDetails", json!("PKIX_ECDSA_P256_SHA_256")),
        (KINDS[3], "/spec/hashedRekordV002/data/digest", json!(STANDARD.encode(Sha256::digest(ARTIFACT)))),
        (KINDS[4], "/spec/payloadHash/value", json!(other_hash())),
        (KINDS[4], "/spec/signatures/0/signature", json!(other())),
        (KINDS[4], "/spec/signatures/0/verifier", json!(other_pem())),
        (KINDS[4], "/spec/signatures", json!([])),
        (KINDS[5], "/spec/content/payloadHash/value", json!(other_hash())),
        (KINDS[5], "/spec/content/envelope/payloadType", json!("text/plain")),
        (KINDS[5], "/spec/content/envelope/signatures/0/sig", json!(other())),
        (KINDS[5], "/spec/content/envelope/signatures/0/publicKey", json!(other_pem())),
    ];
    for (kind, pointer, value) in edits {
        let refused = edit(kind, pointer, value).verify().unwrap_err();
        assert_eq!(refused.check(), Check::LogEntry, "{kind:?} {pointer}: {refused}");
    }
}

fn case_with(case: Case, bundle: Value, log: &LogKey) -> Case {
    Case { bundle: bundle.to_string().into_bytes(), root: Some(log.root()), ..case }
}
