//! Mutation tests: a bundle that verifies must be refused after any single change.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::case::{Case, Signed};
use crate::forms;

fn all_forms() -> impl Iterator<Item = Case> {
    Case::accepted().into_iter().chain(forms::cases())
}

/// Returns the distance in bytes between mutations: 1 for one case of each form, 13 for further cases.
fn stride(case: &Case) -> usize {
    let is_further =
        ["py-", "bundle-", "public-good-", "PKIX_ECDSA"].iter().any(|maker| case.name.starts_with(maker));
    if is_further { 13 } else { 1 }
}

fn parse_bundle(case: &Case) -> Value {
    serde_json::from_slice(&case.bundle).unwrap()
}

/// Fails unless `mutant` is refused or, if `harmless`, proves the same digest and times.
fn assert_refused(case: &Case, mutant: &Value, what: &str, harmless: bool) {
    let outcome = case.verify_other(mutant.to_string().as_bytes(), &case.signed);
    match outcome {
        Err(_) => {}
        Ok(verified) if harmless => {
            let original = case.verify().unwrap();
            assert_eq!(verified.digest(), original.digest(), "{}: {what}", case.name);
            let times = original.verified_times();
            assert!(
                verified.verified_times().iter().all(|time| times.contains(time)),
                "{}: {what}",
                case.name
            );
        }
        Ok(_) => panic!("{}: accepted with {what}", case.name),
    }
}

/// Returns the JSON pointers of all descendants of a value.
fn pointers(value: &Value) -> Vec<String> {
    let pointers_under = |token: String, member: &Value| {
        let inner = pointers(member).into_iter().map(|inner| format!("/{token}{inner}")).collect::<Vec<_>>();
        std::iter::once(format!("/{token}")).chain(inner).collect::<Vec<_>>()
    };
    match value {
        Value::Object(members) => {
            members.iter().flat_map(|(key, member)| pointers_under(key.clone(), member)).collect()
        }
        Value::Array(items) => items
            .iter()
            .enumerate()
            .flat_map(|(index, item)| pointers_under(index.to_string(), item))
            .collect(),
        _ => Vec::new(),
    }
}

/// Returns every single-byte change of a text: of the decoded bytes for base64, else of its characters.
fn changed_texts(pointer: &str, text: &str) -> Vec<String> {
    let name = pointer.rsplit('/').next().unwrap();
    let is_plain = ["mediaType", "kind", "version", "algorithm", "payloadType", "envelope"].contains(&name)
        || name == "logIndex"
        || name == "treeSize"
        || name == "integratedTime";
    let flip = |index: usize, byte: u8| byte ^ (1 << (index % 8));
    if is_plain {
        // Flipping the lowest bit keeps most characters printable, and digits remain digits.
        let characters: Vec<char> = text.chars().collect();
        let changed = |index: usize| {
            let mut characters = characters.clone();
            characters[index] = char::from_u32(u32::from(characters[index]) ^ 1).unwrap();
            characters.into_iter().collect()
        };
        return (0..characters.len()).map(changed).collect();
    }
    let bytes = STANDARD.decode(text).unwrap_or_else(|error| panic!("{pointer} {text}: {error}"));
    let changed = |index: usize| {
        let mut bytes = bytes.clone();
        bytes[index] = flip(index, bytes[index]);
        STANDARD.encode(bytes)
    };
    let longer = STANDARD.encode([&bytes[..], &[0]].concat());
    let shorter = STANDARD.encode(&bytes[..bytes.len() - 1]);
    (0..bytes.len()).map(changed).chain([longer, shorter, String::new()]).collect()
}

/// Returns whether the change does not affect what the bundle proves.
fn is_harmless_change(pointer: &str, changed: &str) -> bool {
    let is_changed_to_empty = changed.is_empty();
    // The format version is unsigned. A bundle that meets the requirements of another version is valid in
    // that version.
    pointer == "/mediaType"
        // A timestamp token has fields outside the signed part, such as the status. The time is signed;
        // `assert_refused` checks that it does not change.
        || pointer.ends_with("/signedTimestamp")
        // An empty hint counts as missing; any other change is refused.
        || is_changed_to_empty
            && (pointer == "/verificationMaterial/publicKey/hint" || pointer.ends_with("/keyid"))
}

#[test]
fn a_bundle_with_a_changed_byte_is_refused() {
    for case in all_forms() {
        let original = parse_bundle(&case);
        for pointer in pointers(&original) {
            let Some(text) = original.pointer(&pointer).and_then(Value::as_str) else {
                continue;
            };
            for changed in changed_texts(&pointer, text)
                .into_iter()
                .filter(|changed| changed != text)
                .step_by(stride(&case))
            {
                let mut mutant = original.clone();
                *mutant.pointer_mut(&pointer).unwrap() = changed.clone().into();
                let what = format!("{pointer} = {changed}");
                assert_refused(&case, &mutant, &what, is_harmless_change(&pointer, &changed));
            }
        }
    }
}

/// Returns whether a bundle without the member still proves the same or is in another accepted form.
fn is_harmless_removal(case: &Case, pointer: &str, value: &Value) -> bool {
    // Protobuf JSON may omit default values.
    if [json!([]), json!({}), json!("0"), json!("")].contains(value) {
        return true;
    }
    let material = "/verificationMaterial";
    let is_promised =
        parse_bundle(case).pointer(&format!("{material}/tlogEntries/0/inclusionPromise")).is_some();
    let is_timestamp = pointer.starts_with(&format!("{material}/timestampVerificationData"));
    match case.key {
        // One attested time is enough; the log's promise provides it.
        None => is_promised && is_timestamp,
        // A key bundle needs neither evidence nor a hint. For pure Ed25519, cosign writes no digest and other
        // signers do; the signature covers the artifact in both cases.
        Some(_) => {
            is_timestamp
                || pointer == format!("{material}/tlogEntries")
                || pointer == format!("{material}/tlogEntries/0")
                || pointer == format!("{material}/publicKey/hint")
                || pointer == "/dsseEnvelope/signatures/0/keyid"
                || pointer == "/messageSignature/messageDigest" && is_pure_ed25519(&case.name)
        }
    }
}

fn is_pure_ed25519(name: &str) -> bool {
    let is_harness_bundle = name == "bundle-two-prompts";
    let name = name.to_lowercase();
    is_harness_bundle
        || name.contains("ed25519") && !name.contains("ed25519ph") && !name.contains("ed25519_ph")
}

#[test]
fn a_bundle_without_a_required_member_is_refused() {
    for case in all_forms() {
        let original = parse_bundle(&case);
        for pointer in pointers(&original) {
            let (parent, last) = pointer.rsplit_once('/').unwrap();
            let mut mutant = original.clone();
            match mutant.pointer_mut(parent).unwrap() {
                Value::Object(members) => drop(members.remove(last)),
                Value::Array(items) => drop(items.remove(last.parse().unwrap())),
                _ => unreachable!("only these have members"),
            }
            let harmless = is_harmless_removal(&case, &pointer, original.pointer(&pointer).unwrap());
            assert_refused(&case, &mutant, &format!("{pointer} missing"), harmless);
            // A null member counts as missing.
            let mut mutant = original.clone();
            *mutant.pointer_mut(&pointer).unwrap() = Value::Null;
            assert_refused(&case, &mutant, &format!("{pointer} null"), harmless);
        }
    }
}

#[test]
fn a_bundle_for_another_artifact_is_refused() {
    for case in all_forms() {
        for other in all_forms().filter(|other| !is_same(&other.signed, &case.signed)) {
            assert!(
                case.verify_other(&case.bundle, &other.signed).is_err(),
                "{} for {}",
                case.name,
                other.name
            );
            assert!(
                case.verify_other(&other.bundle, &case.signed).is_err(),
                "{} for {}",
                other.name,
                case.name
            );
        }
        let Signed::Bytes(bytes) = &case.signed else {
            continue;
        };
        // Every byte of a short artifact, about 64 bytes of a long one.
        for index in (0..bytes.len()).step_by(bytes.len() / 64 + 1) {
            let mut changed = bytes.clone();
            changed[index] ^= 1;
            assert!(
                case.verify_other(&case.bundle, &Signed::Bytes(changed)).is_err(),
                "{} {index}",
                case.name
            );
        }
    }
}

fn is_same(one: &Signed, other: &Signed) -> bool {
    one.sha256() == other.sha256()
}

#[test]
fn a_bundle_by_another_signer_is_refused() {
    for case in all_forms().filter(|case| case.key.is_some()) {
        for other in all_forms().filter(|other| other.key.is_some() && other.key != case.key) {
            assert!(
                case.verify_other(&other.bundle, &other.signed).is_err(),
                "{} by {}",
                other.name,
                case.name
            );
        }
    }
}

#[test]
fn evidence_from_another_bundle_is_refused() {
    let cases: Vec<_> = all_forms().collect();
    for case in &cases {
        for other in &cases {
            let (original, donor) = (parse_bundle(case), parse_bundle(other));
            // Ed25519 is deterministic, so two cases can share a signature and its evidence.
            if signature(&original) == signature(&donor) {
                continue;
            }
            for part in ["tlogEntries", "timestampVerificationData"] {
                let pointer = format!("/verificationMaterial/{part}");
                let Some(evidence) = donor.pointer(&pointer).filter(|evidence| !is_empty(evidence)) else {
                    continue;
                };
                let mut mutant = original.clone();
                mutant["verificationMaterial"][part] = evidence.clone();
                let what = format!("{part} of {}", other.name);
                assert_refused(case, &mutant, &what, false);
            }
        }
    }
}

fn signature(bundle: &Value) -> Option<&Value> {
    let message = bundle.pointer("/messageSignature/signature");
    message.or_else(|| bundle.pointer("/dsseEnvelope/signatures/0/sig"))
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(members) => members.values().all(is_empty),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

#[test]
fn a_changed_byte_of_the_json_text_is_refused_or_has_no_effect() {
    for case in Case::accepted() {
        let original = parse_bundle(&case);
        // A third of the bytes suffices: most are inside strings, whose bytes
        // `a_bundle_with_a_changed_byte_is_refused` changes one by one.
        for index in (0..case.bundle.len()).step_by(3 * stride(&case)) {
            let mut text = case.bundle.clone();
            text[index] ^= 1;
            if case.verify_other(&text, &case.signed).is_err() {
                continue;
            }
            let mut mutant: Value = serde_json::from_slice(&text).unwrap();
            mutant["mediaType"] = original["mediaType"].clone();
            let is_token = |pointer: &&String| pointer.ends_with("/signedTimestamp");
            for pointer in pointers(&original).iter().filter(is_token) {
                if let (Some(changed), Some(value)) = (mutant.pointer_mut(pointer), original.pointer(pointer))
                {
                    *changed = value.clone();
                }
            }
            assert_eq!(mutant, original, "{} byte {index}", case.name);
        }
    }
}
