use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::case::{fixtures, folders};

/// Returns the path of the example, which Cargo builds before it runs the tests.
fn binary() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let profile = tests.parent().and_then(Path::parent).unwrap();
    let name = format!("verify-bundle{}", std::env::consts::EXE_SUFFIX);
    profile.join("examples").join(name)
}

fn run(arguments: &[&str]) -> Output {
    Command::new(binary()).args(arguments).output().unwrap()
}

fn text(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// Returns the arguments that the conformance suite passes for a folder.
fn arguments(folder: &Path) -> Vec<String> {
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let mut arguments = vec!["verify-bundle".to_owned(), "--bundle".to_owned(), path("bundle.sigstore.json")];
    if folder.join("key.pub").exists() {
        arguments.extend(["--key".to_owned(), path("key.pub")]);
    } else {
        let identity = text(&folder.join("identity")).unwrap();
        let issuer = text(&folder.join("issuer")).unwrap();
        arguments.extend(["--certificate-identity".to_owned(), identity]);
        arguments.extend(["--certificate-oidc-issuer".to_owned(), issuer]);
    }
    if folder.join("trusted_root.json").exists() {
        arguments.extend(["--trusted-root".to_owned(), path("trusted_root.json")]);
    }
    arguments.push(text(&folder.join("digest")).unwrap_or_else(|| path("artifact")));
    arguments
}

#[test]
fn the_exit_code_is_1_for_fail_fixtures_and_0_for_all_others() {
    let cases: Vec<_> =
        folders().into_iter().filter(|folder| folder.join("bundle.sigstore.json").exists()).collect();
    assert_eq!(cases.len(), 14);
    for folder in cases {
        let arguments = arguments(&folder);
        let output = run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        let expected = if folder.to_str().unwrap().ends_with("_fail") { 1 } else { 0 };
        assert_eq!(output.status.code(), Some(expected), "{folder:?}: {output:?}");
        if expected == 1 {
            assert_eq!(String::from_utf8(output.stderr).unwrap().lines().count(), 1, "{folder:?}");
        }
    }
}

#[test]
fn wrong_arguments_exit_with_1() {
    let folder = fixtures().join("key-ed25519-msg-rekor1");
    let arguments = arguments(&folder);
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    assert!(run(&arguments).status.success());
    let both = [&arguments[..], &["--certificate-identity", "a", "--certificate-oidc-issuer", "b"]].concat();
    let twice = [&arguments[..], &["--key", "a"]].concat();
    let unknown = [&arguments[..], &["--insecure"]].concat();
    let two_files = [&arguments[..], &["b"]].concat();
    for wrong in [&both[..], &twice, &unknown, &two_files, &arguments[..3], &arguments[1..], &[]] {
        assert_eq!(run(wrong).status.code(), Some(1), "{wrong:?}");
    }
}
