//! Import of the results repository's signer policy (`bakeoff-results-signers/v1`, a YAML file) into the
//! allowlist, so that the queue and the repository trust the same signers.

use bakeoff_core::field_error::{FieldError, FieldErrors};
use bakeoff_core::runners::allowlist::NewEntry;
use saphyr::{LoadableYamlNode, Yaml};
use saphyr_parser::{Event, Parser};

const SCHEMA_VERSION: &str = "bakeoff-results-signers/v1";
/// Maximum entries from one policy. The current policy has a dozen lines; a hostile one must not fill the
/// allowlist.
const ENTRIES_MAX: usize = 200;

/// Maximum nesting. A policy nests three deep.
const NESTING_MAX: usize = 16;

/// Returns whether a text has no alias and little nesting, as far as it is YAML. The tree of a deeply nested text
/// overflows the stack when it is dropped, and Lambda loses the process.
fn is_flat(yaml: &str) -> bool {
    let mut depth = 0_usize;
    for event in Parser::new_from_str(yaml) {
        match event {
            Ok((Event::SequenceStart(..) | Event::MappingStart(..), _)) => depth += 1,
            Ok((Event::SequenceEnd | Event::MappingEnd, _)) => depth -= 1,
            Ok((Event::Alias(_), _)) => return false,
            Ok(_) => {}
            // Reported by the loader, which stops at the same place.
            Err(_) => return true,
        }
        if depth > NESTING_MAX {
            return false;
        }
    }
    true
}

/// Parses a policy into one entry per subject and workflow of each trusted repository, and one per trusted
/// identity.
///
/// A policy states a workflow and the OIDC subject of its job (`repo:OWNER/NAME:ref:REF`); a certificate
/// states the workflow's URI at its ref. Both identify the same job, so the entry is written in the
/// certificate's form. The entry also requires the repository: the certificate of a reusable workflow has
/// that workflow's URI in every repository that calls it.
///
/// # Errors
/// All field errors at once, with pointers into the policy.
pub(crate) fn parse(yaml: &str) -> Result<Vec<NewEntry>, Vec<FieldError>> {
    let mut errors = FieldErrors::default();
    if !is_flat(yaml) {
        let detail = format!("must not use aliases or nest more than {NESTING_MAX} deep");
        return Err(vec![FieldError::new("", detail)]);
    }
    let documents = Yaml::load_from_str(yaml)
        .map_err(|error| vec![FieldError::new("", format!("is not YAML: {error}"))])?;
    let Some(policy) = documents.first().filter(|_| documents.len() == 1) else {
        return Err(vec![FieldError::new("", "must be a single YAML document")]);
    };
    if text(policy, "schema_version") != Some(SCHEMA_VERSION) {
        errors.push("/schema_version", format!("must be {SCHEMA_VERSION}"));
    }
    let mut entries = Vec::new();
    for (i, repository) in list(policy, "trusted_repositories").enumerate() {
        add_repository(repository, &format!("/trusted_repositories/{i}"), &mut entries, &mut errors);
    }
    for (i, identity) in list(policy, "trusted_identities").enumerate() {
        let at = format!("/trusted_identities/{i}");
        let subject = required_text(identity, "identity", &at, &mut errors);
        let issuer = required_text(identity, "issuer", &at, &mut errors);
        if let (Some(subject), Some(issuer)) = (subject, issuer) {
            entries.push(NewEntry::identity(issuer, subject, None, None, "signer policy"));
        }
    }
    if entries.is_empty() {
        errors.push("", "has no signer; add a trusted repository or a trusted identity");
    }
    if entries.len() > ENTRIES_MAX {
        errors.push("", format!("has {} signers; the limit is {ENTRIES_MAX}", entries.len()));
    }
    errors.finish(Some(entries))
}

fn add_repository(policy: &Yaml, at: &str, entries: &mut Vec<NewEntry>, errors: &mut FieldErrors) {
    let repository = required_text(policy, "repository", at, errors);
    let issuer = required_text(policy, "issuer", at, errors);
    let subjects: Vec<&str> = list(policy, "subjects").filter_map(Yaml::as_str).collect();
    let workflows: Vec<&str> = list(policy, "workflows").filter_map(Yaml::as_str).collect();
    for (name, listed) in [("subjects", &subjects), ("workflows", &workflows)] {
        if listed.is_empty() || listed.len() != list(policy, name).count() {
            errors.push(format!("{at}/{name}"), "must be a list of strings with at least one item");
        }
    }
    let (Some(repository), Some(issuer)) = (repository, issuer) else { return };
    for subject in &subjects {
        let Some(git_ref) = subject.strip_prefix(&format!("repo:{repository}:ref:")) else {
            errors.push(
                format!("{at}/subjects"),
                format!("{subject:?} must start with repo:{repository}:ref:"),
            );
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

fn required_text<'a>(node: &'a Yaml<'a>, name: &str, at: &str, errors: &mut FieldErrors) -> Option<&'a str> {
    let value = text(node, name).filter(|value| !value.is_empty() && value.len() <= 1000);
    if value.is_none() {
        errors.push(format!("{at}/{name}"), "must be a string of 1 to 1000 bytes");
    }
    value
}

fn list<'a>(node: &'a Yaml<'a>, name: &str) -> impl Iterator<Item = &'a Yaml<'a>> {
    node.as_mapping_get(name).and_then(Yaml::as_sequence).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The results repository's policy of August 2026.
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
    fn a_policy_becomes_one_entry_per_workflow_and_identity() {
        let issuer = "https://token.actions.githubusercontent.com";
        let workflow = ".github/workflows/package-results.yml";
        let subject = format!("https://github.com/Rethunk-AI/bakeoff/{workflow}@refs/heads/main");
        assert_eq!(
            parse(POLICY).unwrap(),
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
    fn all_field_errors_of_a_policy_are_reported() {
        let policy = POLICY
            .replace("signers/v1", "signers/v2")
            .replace("repo:Rethunk-AI/bakeoff:ref", "repo:another/repository:ref")
            .replace("identity:", "identities:");
        let pointers: Vec<_> =
            parse(&policy).unwrap_err().into_iter().map(|field_error| field_error.pointer).collect();
        assert_eq!(
            pointers,
            ["/schema_version", "/trusted_repositories/0/subjects", "/trusted_identities/0/identity", ""]
        );
        assert!(parse("a: [").is_err());
    }
}
