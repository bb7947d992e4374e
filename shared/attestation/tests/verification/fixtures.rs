use bakeoff_attestation::{
    Artifact, Bundle, Check, Form, Material, TrustedRoot, verify_keyed, verify_keyless,
};
use sha2::{Digest as _, Sha256};

use crate::case::{Case, Signed};

fn find_case(name: &str) -> Case {
    Case::all().into_iter().find(|case| case.name == name).unwrap()
}

#[test]
fn fail_fixtures_are_refused_and_all_others_verify() {
    let cases = Case::all();
    assert_eq!(cases.len(), 16);
    for case in cases {
        let outcome = case.verify();
        let name = &case.name;
        // The wrong-identity fixture verifies, because the caller checks the identity; it differs from the
        // expected one.
        let is_expected =
            outcome.as_ref().is_ok_and(|verified| match (&case.identity, verified.identity()) {
                (Some((issuer, subject)), Some(found)) => {
                    found.issuer() == issuer && found.subject() == subject
                }
                _ => true,
            });
        assert_eq!(is_expected, !name.ends_with("_fail"), "{name}: {outcome:?}");
    }
}

#[test]
fn each_refusal_names_its_check() {
    for (name, check) in
        [("ed25519-pure-tampered-artifact_fail", Check::Signature), ("ed25519-wrong-hint_fail", Check::Key)]
    {
        assert_eq!(find_case(name).verify().unwrap_err().check(), check, "{name}");
    }
}

#[test]
fn a_verified_signature_reports_its_evidence() {
    for case in Case::accepted() {
        let verified = case.verify().unwrap();
        let name = &case.name;
        assert_eq!(verified.material(), case.material(), "{name}");
        assert_eq!(verified.material(), Bundle::parse(&case.bundle).unwrap().material(), "{name}");
        let form = if name.contains("dsse") { Form::Dsse } else { Form::Message };
        assert_eq!(verified.form(), form, "{name}");
        assert_eq!(verified.digest(), case.signed.sha256(), "{name}");
        let root = case.root.as_ref().unwrap_or_else(|| TrustedRoot::embedded());
        assert_eq!(verified.trusted_root(), root.sha256(), "{name}");
        let is_logged = name.contains("rekor") && !name.contains("norekor") || name == "bundle-one-prompt";
        assert_eq!(verified.log_entries(), usize::from(is_logged), "{name}");
        assert_eq!(verified.verified_times().is_empty(), !is_logged, "{name}");
    }
}

#[test]
fn repository_and_workflow_come_from_the_certificate() {
    let verified = find_case("public-good-keyless-dsse-rekor1").verify().unwrap();
    let identity = verified.identity().unwrap();
    let repository = "sigstore-conformance/extremely-dangerous-public-oidc-beacon";
    assert!(identity.has_repository(repository));
    assert!(identity.has_workflow("extremely-dangerous-oidc-beacon.yml"));
    assert!(!identity.has_repository("sigstore-conformance/other"));
    assert!(!identity.has_workflow("other.yml"));
    let unclaimed = find_case("keyless-msg-rekor1").verify().unwrap();
    assert_eq!(unclaimed.identity().unwrap().repository(), None);
}

#[test]
fn the_sha256_suffices_unless_ed25519_signs_the_message() {
    for case in Case::accepted() {
        let Signed::Bytes(bytes) = &case.signed else {
            continue;
        };
        let outcome = case.verify_other(&case.bundle, &Signed::Digest(Sha256::digest(bytes).into()));
        // Ed25519 signs the message, Ed25519ph its SHA-512; neither can be checked from the SHA-256.
        let is_ed25519_message =
            case.key.is_some() && !case.name.contains("dsse") && !case.name.contains("p256");
        assert_eq!(outcome.is_err(), is_ed25519_message, "{}: {outcome:?}", case.name);
    }
}

#[test]
fn evidence_does_not_verify_against_another_trusted_root() {
    for case in Case::accepted().into_iter().filter(|case| case.root.is_some()) {
        let bundle = Bundle::parse(&case.bundle).unwrap();
        let Signed::Bytes(bytes) = &case.signed else {
            continue;
        };
        let (artifact, root) = (Artifact::Bytes(bytes), TrustedRoot::embedded());
        let outcome = match &case.key {
            Some(key) => verify_keyed(&bundle, artifact, key, root),
            None => verify_keyless(&bundle, artifact, root),
        };
        let has_evidence = !case.verify().unwrap().verified_times().is_empty();
        assert_eq!(outcome.is_err(), has_evidence, "{}", case.name);
    }
}

#[test]
fn a_bundle_is_refused_by_the_function_for_the_other_material() {
    let keyed = find_case("key-ed25519-msg-norekor");
    let keyless = find_case("keyless-msg-rekor1");
    let key = keyed.key.as_ref().unwrap();
    let keyed_bundle = Bundle::parse(&keyed.bundle).unwrap();
    let keyless_bundle = Bundle::parse(&keyless.bundle).unwrap();
    assert_eq!(keyed_bundle.material(), Material::PublicKey);
    assert_eq!(keyless_bundle.material(), Material::Certificate);
    let root = keyless.root.as_ref().unwrap();
    let artifact = Artifact::Sha256([0; 32]);
    assert_eq!(verify_keyed(&keyless_bundle, artifact, key, root).unwrap_err().check(), Check::Key);
    assert_eq!(verify_keyless(&keyed_bundle, artifact, root).unwrap_err().check(), Check::Certificate);
}

#[test]
fn the_embedded_root_parses_and_has_a_newest_start() {
    let root = TrustedRoot::embedded();
    assert_eq!(root.newest_start().unwrap().year(), 2025);
}
