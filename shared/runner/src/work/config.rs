//! The harness's config of one job: the job's own stanzas, and the machine's.
//!
//! The machine's stanzas never come from a job: `server.image` names the container that runs here.

use std::io;
use std::path::{Component, Path};

use saphyr::{LoadableYamlNode as _, Scalar, Yaml};
use serde::Serialize as _;
use serde_json::ser::{Formatter, PrettyFormatter};
use serde_json::{Map, Number, Value, json};

use crate::api::Job;

/// The stanzas that belong to the machine. `engined` is what newer harnesses have in place of `server`.
pub const MACHINE_STANZAS: [&str; 6] = ["server", "engined", "hardware", "cost", "output", "signing"];

/// The machine's stanzas, from the file that `--machine` names.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MachineStanzas(Map<String, Value>);

impl MachineStanzas {
    /// Reads the YAML text of a machine file.
    ///
    /// # Errors
    /// When it is no mapping, or has a stanza that belongs to the job; the text says which.
    pub fn parse(text: &str) -> Result<Self, String> {
        let stanzas = match read_yaml(text)? {
            Value::Object(stanzas) => stanzas,
            Value::Null => Map::new(),
            _ => return Err("it is not a mapping of stanzas".into()),
        };
        match stanzas.keys().find(|name| !MACHINE_STANZAS.contains(&name.as_str())) {
            Some(name) => Err(format!("the stanza {name:?} is the job's; a machine has {MACHINE_STANZAS:?}")),
            None => Ok(Self(stanzas)),
        }
    }
}

/// Reads one YAML document as JSON. Keys must be texts.
///
/// # Errors
/// When it is no YAML, or says what JSON cannot.
pub fn read_yaml(text: &str) -> Result<Value, String> {
    let documents = Yaml::load_from_str(text).map_err(|error| error.to_string())?;
    documents.first().map_or(Ok(Value::Null), json_of)
}

fn json_of(yaml: &Yaml) -> Result<Value, String> {
    match yaml {
        Yaml::Value(Scalar::Null) => Ok(Value::Null),
        Yaml::Value(Scalar::Boolean(value)) => Ok(json!(value)),
        Yaml::Value(Scalar::Integer(value)) => Ok(json!(value)),
        Yaml::Value(Scalar::FloatingPoint(value)) => Number::from_f64(value.into_inner())
            .map(Value::Number)
            .ok_or_else(|| "a number is not finite".into()),
        Yaml::Value(Scalar::String(text)) => Ok(json!(text)),
        Yaml::Sequence(items) => items.iter().map(json_of).collect(),
        Yaml::Mapping(entries) => {
            let entry = |(name, value): (&Yaml, &Yaml)| {
                let name = name.as_str().ok_or("a key is not a text")?;
                Ok((name.to_owned(), json_of(value)?))
            };
            entries.iter().map(entry).collect::<Result<Map<_, _>, String>>().map(Value::Object)
        }
        Yaml::Tagged(_, inner) => json_of(inner),
        _ => Err("it has aliases, or a value of an unknown kind".into()),
    }
}

/// Puts the config of a job together. `key` signs the result as `runner_id`.
///
/// # Errors
/// When the job names what it must not: its config is no object, or a model file lies outside the machine's
/// folder of models.
pub fn of_job(job: &Job, machine: &MachineStanzas, key: &Path, runner_id: &str) -> Result<Value, String> {
    let config = serde_json::from_str(job.config.get()).map_err(|error| error.to_string())?;
    let Value::Object(mut config) = config else { return Err("the job's config is not an object".into()) };
    config.retain(|name, _| !MACHINE_STANZAS.contains(&name.as_str()));
    let models = config.get("models").and_then(Value::as_array).into_iter().flatten();
    for model in models.chain(config.get("judge")) {
        let file = model["gguf"].as_str().unwrap_or_default();
        if !Path::new(file).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
        {
            return Err(format!("the model file {file:?} is not below the machine's folder of models"));
        }
    }
    config.extend(machine.0.clone());
    set(&mut config, "run", "name", json!(job.run_id));
    set(&mut config, "output", "emit_json", json!(true));
    set(&mut config, "signing", "enabled", json!(true));
    set(&mut config, "signing", "key_path", json!(key));
    set(&mut config, "signing", "runner_id", json!(runner_id));
    if let Some(nonce) = &job.nonce {
        config.insert("queue".into(), json!({ "claim_id": job.claim_id, "nonce": nonce }));
    }
    Ok(Value::Object(config))
}

/// Sets a field of a stanza; a stanza that is no object becomes one.
fn set(config: &mut Map<String, Value>, stanza: &str, field: &str, value: Value) {
    let stanza = config.entry(stanza).or_insert_with(|| json!({}));
    if !stanza.is_object() {
        *stanza = json!({});
    }
    stanza[field] = value;
}

/// How many cells the run has: tasks × prompts × models.
pub fn cells(job: &Job, config: &Value) -> usize {
    let length = |name: &str| config[name].as_array().map_or(0, Vec::len);
    let prompts = if job.prompts.is_empty() { length("prompts") } else { job.prompts.len() };
    let models = if job.models.is_empty() { length("models") } else { job.models.len() };
    let tasks = if job.tasks.is_empty() { 0 } else { job.tasks.len() };
    tasks * prompts * models
}

/// Writes a config as JSON that a YAML 1.1 parser, which PyYAML is, reads as the same values.
pub fn to_text(config: &Value) -> Vec<u8> {
    let mut text = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, YamlSafe::default());
    // Into memory, and of a value that came from JSON: nothing can fail.
    config.serialize(&mut serializer).expect("JSON is written into memory");
    text.push(b'\n');
    text
}

/// JSON in the part that YAML 1.1 shares: a float has a point and a signed exponent (`1e-5` is a text to
/// PyYAML), and the characters that it folds as line breaks or refuses are escaped.
#[derive(Default)]
struct YamlSafe(PrettyFormatter<'static>);

impl Formatter for YamlSafe {
    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        let text = Number::from_f64(value).map(|number| number.to_string()).unwrap_or_default();
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, ""));
        let point = if digits.contains('.') { "" } else { ".0" };
        let sign = if exponent.is_empty() || exponent.starts_with('-') { "" } else { "+" };
        let e = if exponent.is_empty() { "" } else { "e" };
        let exponent = exponent.trim_start_matches('+');
        write!(writer, "{digits}{point}{e}{sign}{exponent}")
    }

    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, text: &str) -> io::Result<()> {
        let unsafe_in_yaml = |character: char| {
            matches!(
                character,
                '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}'
            )
        };
        let mut written = 0;
        for (at, character) in text.char_indices().filter(|(_, character)| unsafe_in_yaml(*character)) {
            writer.write_all(&text.as_bytes()[written..at])?;
            write!(writer, "\\u{:04x}", u32::from(character))?;
            written = at + character.len_utf8();
        }
        writer.write_all(&text.as_bytes()[written..])
    }

    // Layout is the pretty formatter's: `": "` after a key, for parsers that want the space.
    fn begin_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_array(writer)
    }
    fn end_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array(writer)
    }
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_array_value(writer, first)
    }
    fn end_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array_value(writer)
    }
    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object(writer)
    }
    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object(writer)
    }
    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(writer, first)
    }
    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object_value(writer)
    }
    fn end_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object_value(writer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(config: Value, nonce: Option<&str>) -> Job {
        let job = json!({
            "run_id": "6f1b0c5e-0000-4000-8000-000000000001", "queue_id": "6f1b0c5e-0000-4000-8000-000000000002",
            "claim_id": "6f1b0c5e-0000-4000-8000-000000000003", "attempt": 1, "max_attempts": 5,
            "heartbeat_interval_s": 60, "nonce": nonce, "models": [{"id": "m"}],
            "prompts": [{"id": "a", "prompt_id": 1}, {"id": "b", "prompt_id": 2}],
            "tasks": [{"id": "t0"}, {"id": "t1"}], "config": config,
        });
        serde_json::from_str(&job.to_string()).unwrap()
    }

    fn config_of(job: &Job, machine: &str) -> Result<Value, String> {
        of_job(job, &MachineStanzas::parse(machine).unwrap(), Path::new("/k.pem"), "bench-01")
    }

    #[test]
    fn a_job_cannot_set_what_is_the_machines() {
        let job =
            job(json!({"run": {"seed": 7}, "server": {"image": "evil"}, "extra": 1, "cost": 5}), Some("n"));
        let config =
            config_of(&job, "server: {models_dir: /models, image: ours}\nhardware: {id: h}").unwrap();
        assert_eq!(config["server"], json!({"models_dir": "/models", "image": "ours"}));
        assert_eq!(config["run"], json!({"seed": 7, "name": job.run_id}));
        assert_eq!(
            config["signing"],
            json!({"enabled": true, "key_path": "/k.pem", "runner_id": "bench-01"})
        );
        assert_eq!(config["queue"], json!({"claim_id": job.claim_id, "nonce": "n"}));
        assert_eq!((&config["extra"], &config["hardware"]["id"]), (&json!(1), &json!("h")));
        assert!(config.get("cost").is_none());
        assert_eq!(cells(&job, &config), 4);
    }

    #[test]
    fn a_model_file_stays_in_the_folder_of_models() {
        for file in ["../secret.gguf", "/etc/passwd", "a/../../b.gguf"] {
            let refused = config_of(&job(json!({"models": [{"id": "m", "gguf": file}]}), None), "");
            assert!(refused.unwrap_err().contains("folder of models"), "{file}");
            assert!(config_of(&job(json!({"judge": {"gguf": file}}), None), "").is_err());
        }
        assert!(config_of(&job(json!({"models": [{"id": "m", "gguf": "a/b.gguf"}]}), None), "").is_ok());
    }

    #[test]
    fn a_machine_has_no_stanza_of_a_job() {
        assert!(MachineStanzas::parse("models: []").unwrap_err().contains("models"));
        assert!(MachineStanzas::parse("- a").is_err());
        assert_eq!(MachineStanzas::parse(""), Ok(MachineStanzas::default()));
    }

    #[test]
    fn the_text_is_json_and_yaml_1_1() {
        let config =
            json!({"f": [1e-7, 1e16, 0.5, 3.0, 1.5e300], "i": 7, "s": "a\u{85}b\u{2028}\u{7f}é😀\n\"" });
        let text = String::from_utf8(to_text(&config)).unwrap();
        for float in ["1.0e-7", "1.0e+16", "0.5", "3.0", "1.5e+300"] {
            assert!(text.contains(float), "{float} in {text}");
        }
        assert!(text.contains(r#""s": "a\u0085b\u2028\u007fé😀\n\"""#), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), config);
    }
}
