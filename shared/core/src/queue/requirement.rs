//! What a job requires of a runner, and what the runner that comes nearest lacks.

use crate::error::Error;
use serde::Serialize;
use serde_json::Value;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use tokio_postgres::Row;
use tokio_postgres::types::Json;

/// What a job requires of a runner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Requirement {
    /// GPU memory, in GB.
    pub required_vram_gb: i32,
    /// Quantizations the runner must support.
    pub quantizations: Vec<String>,
    /// Labels the runner must have; `runner_id` stands for its name.
    pub labels: BTreeMap<String, String>,
}

/// What a runner can do, by its name.
#[derive(Clone, Debug)]
pub struct Ability<'a> {
    /// The runner.
    pub runner_id: &'a str,
    /// GPU memory, in GB; absent: unknown, which satisfies no requirement.
    pub vram_gb: Option<f64>,
    /// Quantizations it supports.
    pub quantizations: &'a [String],
    /// Labels it registered with.
    pub labels: Option<&'a Value>,
}

/// Why no runner can take a job, told of the runner that lacks least.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NearestMiss {
    /// The runner; null if none was seen within a week.
    pub runner_id: Option<String>,
    /// GPU memory that it lacks, in GB.
    pub lacks_vram_gb: f64,
    /// Quantizations that it does not support.
    pub lacks_quantizations: Vec<String>,
    /// Labels that it does not have.
    pub lacks_labels: BTreeMap<String, String>,
    /// The same in a sentence.
    pub detail: String,
}

/// The job that a runner comes nearest to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MissedJob {
    /// What the job requires.
    #[serde(flatten)]
    pub requirement: Requirement,
    /// GPU memory that the runner lacks, in GB.
    pub lacks_vram_gb: f64,
    /// Quantizations that it does not support.
    pub lacks_quantizations: Vec<String>,
    /// Labels that it does not have.
    pub lacks_labels: BTreeMap<String, String>,
    /// The same in a sentence.
    pub detail: String,
}

impl Ability<'_> {
    /// Returns the requirement that the runner lacks least for; `None` if it meets one of them.
    pub fn nearest_miss(&self, requirements: Vec<Requirement>) -> Option<MissedJob> {
        if requirements.iter().any(|requirement| requirement.admits(self)) {
            return None;
        }
        let nearest = requirements.into_iter().min_by(|one, other| one.distance(self, other, self))?;
        Some(MissedJob {
            lacks_vram_gb: nearest.lacking_vram_gb(self).max(0.0),
            lacks_quantizations: nearest.lacking_quantizations(self).cloned().collect(),
            lacks_labels: nearest.lacking_labels(self),
            detail: format!("the nearest job needs {nearest}; this runner {}", nearest.lacks(self)),
            requirement: nearest,
        })
    }
}

impl Requirement {
    /// Whether the runner can take the job, as a claim decides it (`claim.sql`): GPU memory counts in whole GB.
    pub fn admits(&self, ability: &Ability) -> bool {
        self.lacking_vram_gb(ability) <= 0.0
            && self.lacking_quantizations(ability).next().is_none()
            && self.lacking_labels(ability).is_empty()
    }

    /// Returns what the runner that comes nearest lacks; `None` if some runner can take the job.
    pub fn nearest_miss(&self, abilities: &[Ability]) -> Option<NearestMiss> {
        if abilities.iter().any(|ability| self.admits(ability)) {
            return None;
        }
        let nearest = abilities.iter().min_by(|one, other| self.distance(one, self, other));
        let Some(nearest) = nearest else {
            return Some(NearestMiss {
                runner_id: None,
                lacks_vram_gb: f64::from(self.required_vram_gb),
                lacks_quantizations: self.quantizations.clone(),
                lacks_labels: self.labels.clone(),
                detail: format!("needs {self}; no allowed runner was seen within a week"),
            });
        };
        let lacks_quantizations: Vec<String> = self.lacking_quantizations(nearest).cloned().collect();
        let lacks_vram_gb = self.lacking_vram_gb(nearest).max(0.0);
        Some(NearestMiss {
            runner_id: Some(nearest.runner_id.to_owned()),
            lacks_vram_gb,
            lacks_quantizations,
            lacks_labels: self.lacking_labels(nearest),
            detail: format!(
                "needs {self}; {}, the nearest runner, {}",
                nearest.runner_id,
                self.lacks(nearest)
            ),
        })
    }

    /// Compares what two runners lack for two requirements: the number of labels and quantizations, then GPU memory.
    fn distance(&self, ability: &Ability, other: &Self, other_ability: &Ability) -> Ordering {
        let names = |requirement: &Self, ability: &Ability| {
            requirement.lacking_quantizations(ability).count() + requirement.lacking_labels(ability).len()
        };
        names(self, ability)
            .cmp(&names(other, other_ability))
            .then(self.lacking_vram_gb(ability).total_cmp(&other.lacking_vram_gb(other_ability)))
    }

    /// Says what the runner lacks: "has 24 GB", "does not support q8_0", or both.
    fn lacks(&self, ability: &Ability) -> String {
        let mut lacks = Vec::new();
        let labels = self.lacking_labels(ability);
        if !labels.is_empty() {
            lacks.push(format!("is not {}", join_labels(&labels, " or ")));
        }
        let quantizations: Vec<&str> = self.lacking_quantizations(ability).map(String::as_str).collect();
        if !quantizations.is_empty() {
            lacks.push(format!("does not support {}", quantizations.join(", ")));
        }
        if self.lacking_vram_gb(ability) > 0.0 {
            lacks.push(match ability.vram_gb {
                Some(vram_gb) => format!("has {vram_gb} GB"),
                None => "did not say how much GPU memory it has".to_owned(),
            });
        }
        lacks.join(" and ")
    }

    /// Reads the columns `required_vram_gb`, `quantizations` and `labels`.
    pub(crate) fn from_row(row: &Row) -> Result<Self, Error> {
        let Json(labels) = row.try_get("labels")?;
        Ok(Self {
            required_vram_gb: row.try_get("required_vram_gb")?,
            quantizations: row.try_get("quantizations")?,
            labels,
        })
    }

    /// The labels that the runner does not have, as `queue_class_ids` decides it (`labels.sql`, `V2__queue.sql`).
    fn lacking_labels(&self, ability: &Ability) -> BTreeMap<String, String> {
        let has = |key: &str, value: &str| match key {
            "runner_id" => ability.runner_id == value,
            _ => ability.labels.and_then(|labels| labels.get(key)).and_then(Value::as_str) == Some(value),
        };
        let lacking = self.labels.iter().filter(|(key, value)| !has(key, value));
        lacking.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    fn lacking_vram_gb(&self, ability: &Ability) -> f64 {
        let required = f64::from(self.required_vram_gb);
        required - ability.vram_gb.map_or(-1.0, f64::floor)
    }

    fn lacking_quantizations<'r>(&'r self, ability: &'r Ability) -> impl Iterator<Item = &'r String> {
        self.quantizations.iter().filter(|name| !ability.quantizations.contains(name))
    }
}

impl std::fmt::Display for Requirement {
    /// `80 GB with q4_k_m and q8_0 on gpu = AMD`.
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{} GB", self.required_vram_gb)?;
        if !self.quantizations.is_empty() {
            write!(f, " with {}", self.quantizations.join(" and "))?;
        }
        if !self.labels.is_empty() {
            write!(f, " on {}", join_labels(&self.labels, " and "))?;
        }
        Ok(())
    }
}

/// Writes labels as `gpu = AMD`, or a runner's name.
fn join_labels(labels: &BTreeMap<String, String>, between: &str) -> String {
    let label = |(key, value): (&String, &String)| match key.as_str() {
        "runner_id" => value.clone(),
        _ => format!("{key} = {value}"),
    };
    labels.iter().map(label).collect::<Vec<_>>().join(between)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requirement(required_vram_gb: i32, quantizations: &[&str]) -> Requirement {
        let quantizations = quantizations.iter().map(ToString::to_string).collect();
        Requirement { required_vram_gb, quantizations, labels: BTreeMap::new() }
    }

    #[test]
    fn the_nearest_miss_lacks_the_fewest_quantizations_then_the_least_memory() {
        let (q4, both) = (vec!["q4_k_m".to_owned()], vec!["q4_k_m".to_owned(), "q8_0".to_owned()]);
        let abilities = [
            Ability { runner_id: "huge", vram_gb: Some(192.0), quantizations: &[], labels: None },
            Ability { runner_id: "small", vram_gb: Some(8.0), quantizations: &q4, labels: None },
            Ability { runner_id: "big", vram_gb: Some(48.9), quantizations: &q4, labels: None },
            Ability { runner_id: "old", vram_gb: None, quantizations: &both, labels: None },
        ];
        let miss = requirement(80, &["q4_k_m"]).nearest_miss(&abilities).expect("no runner has 80 GB");
        assert_eq!((miss.runner_id.as_deref(), miss.lacks_vram_gb), (Some("big"), 32.0));
        assert_eq!(miss.detail, "needs 80 GB with q4_k_m; big, the nearest runner, has 48.9 GB");
        let miss = requirement(20, &["q8_0"]).nearest_miss(&abilities[..3]).expect("none serves q8_0");
        assert_eq!(miss.runner_id.as_deref(), Some("huge"));
        assert_eq!(miss.detail, "needs 20 GB with q8_0; huge, the nearest runner, does not support q8_0");
        assert_eq!(requirement(48, &["q4_k_m"]).nearest_miss(&abilities), None);
        let miss = requirement(49, &["q4_k_m"]).nearest_miss(&abilities).expect("48.9 GB are no 49");
        assert_eq!(miss.lacks_vram_gb, 1.0);
        assert_eq!(requirement(1, &[]).nearest_miss(&[]).expect("there is none").runner_id, None);
    }

    #[test]
    fn a_label_is_a_registered_string_or_the_runner_s_name() {
        let labels = serde_json::json!({ "gpu": "AMD", "slots": 2, "runner_id": "other" });
        let amd =
            Ability { runner_id: "bench-01", vram_gb: Some(24.0), quantizations: &[], labels: Some(&labels) };
        let bare = Ability { runner_id: "bench-02", vram_gb: Some(24.0), quantizations: &[], labels: None };
        let on = |key: &str, value: &str| Requirement {
            labels: [(key.to_owned(), value.to_owned())].into(),
            ..requirement(6, &[])
        };
        assert!(on("gpu", "AMD").admits(&amd) && !on("gpu", "AMD").admits(&bare));
        assert!(!on("slots", "2").admits(&amd), "a number is no label");
        assert!(on("runner_id", "bench-01").admits(&amd) && !on("runner_id", "other").admits(&amd));
        let miss = on("gpu", "NVIDIA").nearest_miss(&[amd]).expect("it is another card");
        assert_eq!(
            miss.detail,
            "needs 6 GB on gpu = NVIDIA; bench-01, the nearest runner, is not gpu = NVIDIA"
        );
        let miss = on("runner_id", "bench-09").nearest_miss(&[bare]).expect("it is another runner");
        assert_eq!(miss.detail, "needs 6 GB on bench-09; bench-02, the nearest runner, is not bench-09");
    }
}
