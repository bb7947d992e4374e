//! The results repository's signer policy (`bakeoff-results-signers/v1`, a YAML file) as entries of the
//! allowlist, so that queue and repository trust the same signers.

use bakeoff_core::field_error::{FieldError, FieldErrors};
use bakeoff_core::runners::allowlist::NewEntry;
use saphyr::{LoadableYamlNode, Yaml};

const SCHEMA_VERSION: &str = "bakeoff-results-signers/v1";
/// A policy of today has a dozen lines; a hostile one must not fill the allowlist.
const ENTRIES_MAX: usize = 200;

/// Reads a policy: an entry for each subject and workflow of a trusted repository, and for each trusted
/// identity. Every fault is listed, by its place in the policy.
///
/// A policy states a workflow and the OIDC subject of its job (`repo:OWNER/NAME:ref:REF`); a certificate
/// states the workflow's URI at its ref. Both name one job, so the one is written as the other. The
/// repository stays required as well: a certificate for a reusable workflow has that workflow's URI
/// whoever calls it.
pub(crate) fn entries(yaml: &str) -> Result<Vec<NewEntry>, Vec<FieldError>> {
    let mut errors = FieldErrors::default();
    let documents =
        Yaml::load_from_str(yaml).map_err(|why| vec![FieldError::new("", format!("is not YAML: {why}"))])?;
    let Some(policy) = documents.first().filter(|_| documents.len() == 1) else {
        return Err(vec![FieldError::new("", "is not one YAML document")]);
    };
    if text(policy, "schema_version") != Some(SCHEMA_VERSION) {
        errors.push("/schema_version", format!("is not {SCHEMA_VERSION}"));
    }
    let mut entries = Vec::new();
    for (i, repository) in list(policy, "trusted_repositories").enumerate() {
        add_repository(repository, &format!("/trusted_repositories/{i}"), &mut entries, &mut errors);
    }
    for (i, identity) in list(policy, "trusted_identities").enumerate() {
        let at = format!("/trusted_identities/{i}");
        let subject = required(identity, "identity", &at, &mut errors);
        let issuer = required(identity, "issuer", &at, &mut errors);
        if let (Some(subject), Some(issuer)) = (subject, issuer) {
            entries.push(NewEntry::identity(issuer, subject, None, None, "signer policy"));
        }
    }
    if entries.is_empty() {
        errors.push("", "names no signer");
    }
    if entries.len() > ENTRIES_MAX {
        errors.push("", format!("names {} signers; allowed are {ENTRIES_MAX}", entries.len()));
    }
    errors.finish(Some(entries))
}

fn add_repository(policy: &Yaml, at: &str, entries: &mut Vec<NewEntry>, errors: &mut FieldErrors) {
    let repository = required(policy, "repository", at, errors);
    let issuer = required(policy, "issuer", at, errors);
    let subjects: Vec<&str> = list(policy, "subjects").filter_map(Yaml::as_str).collect();
    let workflows: Vec<&str> = list(policy, "workflows").filter_map(Yaml::as_str).collect();
    for (name, listed) in [("subjects", &subjects), ("workflows", &workflows)] {
        if listed.is_empty() || listed.len() != list(policy, name).count() {
            errors.push(format!("{at}/{name}"), "is not a list of texts with at least one");
        }
    }
    let (Some(repository), Some(issuer)) = (repository, issuer) else { return };
    for subject in &subjects {
        let Some(git_ref) = subject.strip_prefix(&format!("repo:{repository}:ref:")) else {
            errors.push(format!("{at}/subjects"), format!("{subject:?} is not repo:{repository}:ref:…"));
            continue;
        };
        for workflow in &workflows {
            let identity = format!("https://github.com/{repository}/{workflow}@{git_ref}");
            entries.push(NewEntry::identity(
                issuer,
                &identity,
                Some(repository),
                Some(workflow),
                "signer policy",
            ));
        }
    }
}

fn text<'a>(node: &'a Yaml<'a>, name: &str) -> Option<&'a str> {
    node.as_mapping_get(name)?.as_str()
}

fn required<'a>(node: &'a Yaml<'a>, name: &str, at: &str, errors: &mut FieldErrors) -> Option<&'a str> {
    let value = text(node, name).filter(|value| !value.is_empty() && value.len() <= 1000);
    if value.is_none() {
        errors.push(format!("{at}/{name}"), "is missing, or no text");
    }
    value
}

fn list<'a>(node: &'a Yaml<'a>, name: &str) -> impl Iterator<Item = &'a Yaml<'a>> {
    node.as_mapping_get(name).and_then(Yaml::as_sequence).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As in the results repository, August 2026.
    const POLICY: &str = "
schema_version: bakeoff-results-signers/v1
trusted_repositories:
  - repository: Rethunk-AI/bakeoff
    issuer: https://token.actions.githubusercontent.com
    subjects:
      - repo:Rethunk-AI/bakeoff:ref:refs/heads/main
    workflows:
      - .github/workflows/package-results.yml
trusted_identities:
  - identity: github-actions[bot]
    issuer: https://token.actions.githubusercontent.com
";

    #[test]
    fn the_repositorys_own_policy_becomes_its_workflow_and_its_identity() {
        let issuer = "https://token.actions.githubusercontent.com";
        let workflow = ".github/workflows/package-results.yml";
        let subject = format!("https://github.com/Rethunk-AI/bakeoff/{workflow}@refs/heads/main");
        assert_eq!(
            entries(POLICY).unwrap(),
            [
                NewEntry::identity(
                    issuer,
                    &subject,
                    Some("Rethunk-AI/bakeoff"),
                    Some(workflow),
                    "signer policy"
                ),
                NewEntry::identity(issuer, "github-actions[bot]", None, None, "signer policy"),
            ]
        );
    }

    #[test]
    fn every_field_error_of_a_policy_is_listed() {
        let policy = POLICY
            .replace("signers/v1", "signers/v2")
            .replace("repo:Rethunk-AI/bakeoff:ref", "repo:Somebody/else:ref")
            .replace("identity:", "identities:");
        let pointers: Vec<_> =
            entries(&policy).unwrap_err().into_iter().map(|field_error| field_error.pointer).collect();
        assert_eq!(
            pointers,
            ["/schema_version", "/trusted_repositories/0/subjects", "/trusted_identities/0/identity", ""]
        );
        assert!(entries("a: [").is_err());
    }
}
