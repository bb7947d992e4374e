use bakeoff_attestation::{
    Artifact, Bundle, Check, Form, Material, TrustedRoot, verify_keyed, verify_keyless,
};
use sha2::{Digest as _, Sha256};

use crate::case::{Case, Signed};

fn named(name: &str) -> Case {
    Case::all().into_iter().find(|case| case.name == name).unwrap()
}

#[test]
fn every_case_is_as_its_name_says() {
    let cases = Case::all();
    assert_eq!(cases.len(), 16);
    for case in cases {
        let outcome = case.verify();
        let name = &case.name;
        // The case for a wrong identity verifies; its identity is another, which is for the caller to see.
        let is_expected =
            outcome.as_ref().is_ok_and(|attested| match (&case.identity, attested.identity()) {
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
        assert_eq!(named(name).verify().unwrap_err().check(), check, "{name}");
    }
}

#[test]
fn what_was_verified_is_told() {
    for case in Case::accepted() {
        let attested = case.verify().unwrap();
        let name = &case.name;
        assert_eq!(attested.material(), case.material(), "{name}");
        assert_eq!(attested.material(), Bundle::parse(&case.bundle).unwrap().material(), "{name}");
        let form = if name.contains("dsse") { Form::Dsse } else { Form::Message };
        assert_eq!(attested.form(), form, "{name}");
        assert_eq!(attested.digest(), case.signed.sha256(), "{name}");
        let root = case.root.as_ref().unwrap_or_else(|| TrustedRoot::embedded());
        assert_eq!(attested.trusted_root(), root.sha256(), "{name}");
        let is_logged = name.contains("rekor") && !name.contains("norekor") || name == "bundle-one-prompt";
        assert_eq!(attested.log_entries(), usize::from(is_logged), "{name}");
        assert_eq!(attested.verified_times().is_empty(), !is_logged, "{name}");
    }
}

#[test]
fn certificate_claims_are_read() {
    let attested = named("public-good-keyless-dsse-rekor1").verify().unwrap();
    let identity = attested.identity().unwrap();
    let repository = "sigstore-conformance/extremely-dangerous-public-oidc-beacon";
    assert!(identity.is_of_repository(repository));
    assert!(identity.is_of_workflow("extremely-dangerous-oidc-beacon.yml"));
    assert!(!identity.is_of_repository("sigstore-conformance/other"));
    assert!(!identity.is_of_workflow("other.yml"));
    let unclaimed = named("keyless-msg-rekor1").verify().unwrap();
    assert_eq!(unclaimed.identity().unwrap().repository(), None);
}

#[test]
fn a_digest_stands_for_the_artifact_where_the_key_hashes_it() {
    for case in Case::accepted() {
        let Signed::Bytes(bytes) = &case.signed else {
            continue;
        };
        let outcome = case.verify_other(&case.bundle, &Signed::Digest(Sha256::digest(bytes).into()));
        // Ed25519 signs the message itself, or a SHA-512 of it.
        let is_ed25519_message =
            case.key.is_some() && !case.name.contains("dsse") && !case.name.contains("p256");
        assert_eq!(outcome.is_err(), is_ed25519_message, "{}: {outcome:?}", case.name);
    }
}

#[test]
fn another_trusted_root_refuses_all_evidence() {
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
fn the_material_decides_who_may_verify() {
    let keyed = named("key-ed25519-msg-norekor");
    let keyless = named("keyless-msg-rekor1");
    let key = keyed.key.as_ref().unwrap();
    let of_keyed = Bundle::parse(&keyed.bundle).unwrap();
    let of_keyless = Bundle::parse(&keyless.bundle).unwrap();
    assert_eq!(of_keyed.material(), Material::PublicKey);
    assert_eq!(of_keyless.material(), Material::Certificate);
    let root = keyless.root.as_ref().unwrap();
    let artifact = Artifact::Sha256([0; 32]);
    assert_eq!(verify_keyed(&of_keyless, artifact, key, root).unwrap_err().check(), Check::Key);
    assert_eq!(verify_keyless(&of_keyed, artifact, root).unwrap_err().check(), Check::Certificate);
}

#[test]
fn the_embedded_root_is_usable_and_dated() {
    let root = TrustedRoot::embedded();
    assert_eq!(root.newest_start().unwrap().year(), 2025);
}
