//! CPU and memory that the most expensive bodies cost, one function process each. Ignored by default: times are
//! not asserted in tests. The figures of release builds count.
//!
//! `cargo test --workspace --test attacks measurements -- --ignored --nocapture`

use std::path::Path;

use bakeoff_testkit::event::gzip;
use bakeoff_testkit::fixture::envelope;
use serde_json::json;
use uuid::Uuid;

use crate::request::post;
use crate::target::Target;

/// The most that a body may inflate to.
const INFLATED_MAX: usize = 32_000_000;
/// For debug builds, which take longer for the largest than the gateway waits.
const INFLATED_DEBUG: usize = INFLATED_MAX / 8;
/// Clock ticks per second in `/proc/PID/stat`, on every Linux that matters here.
const TICKS: f64 = 100.0;

/// `unit` repeated up to a length, between `before` and `after`.
fn filled(length: usize, before: &str, unit: impl Fn(usize) -> String, after: &str) -> String {
    let mut body = before.to_owned();
    let mut n = 0;
    while body.len() + 5000 + after.len() < length {
        body += &unit(n);
        n += 1;
    }
    body.truncate(body.trim_end_matches(',').len());
    body + after
}

fn bodies(max: usize) -> Vec<(&'static str, String)> {
    let sig = format!(
        r#"}},"sig":{{"sha256":"{}","signature":"{}==","runner_id":"r","signed_at":"t"}}}}}}"#,
        "0".repeat(64),
        "A".repeat(86)
    );
    let claim = format!(r#"{{"claim_id":"{}","envelope":{{"result":{{"#, Uuid::new_v4());
    let list =
        |unit: &dyn Fn(usize) -> String| filled(max, &format!(r#"{claim}"a":["#), unit, &format!("]{sig}"));
    // Just above half-way between two doubles, so that all digits count.
    let half_way = format!("9007199254740993.{}1,", "0".repeat(700));
    let tiny = format!("2.4703282292062327208{}1e-324,", "0".repeat(700));
    let deep = format!("{}1{},", r#"{"b":0,"a":"#.repeat(120), "}".repeat(120));
    vec![
        // Packs badly: more of it exceeds Lambda's 6 MB.
        (
            "members in reverse order",
            filled(max / 8 * 5, &claim, |n| format!(r#""{:07}":0,"#, 9_999_999 - n), &sig),
        ),
        ("short numbers", list(&|_| "1.5,".to_owned())),
        ("numbers of 700 digits", list(&|_| half_way.clone())),
        ("tiny numbers of 700 digits", list(&|_| tiny.clone())),
        ("numbers that grow when written", list(&|_| "1e15,".to_owned())),
        ("long integers", list(&|_| "9".repeat(4300) + ",")),
        ("escapes", list(&|_| format!("\"{}\",", "\\u00e9".repeat(200)))),
        ("text beyond ASCII", list(&|_| format!("\"{}\",", "é".repeat(500)))),
        ("nested and unsorted", list(&|_| deep.clone())),
        ("empty objects", list(&|_| "{},".to_owned())),
        ("unknown fields", filled(max, "{", |n| format!(r#""{n:x}":0,"#), "}")),
        ("a list for a text", filled(max, r#"{"claim_id":["#, |_| "[],".to_owned(), "]}")),
        (
            "quantizations",
            filled(max, r#"{"capabilities":{"vram_gb":1,"quantizations":["#, |_| "\"\",".to_owned(), "]}}"),
        ),
        ("files", filled(max, r#"{"files":{"#, |n| format!(r#""{n:x}":"","#), "}}")),
    ]
}

#[tokio::test]
#[ignore = "a measurement"]
async fn the_most_expensive_bodies_of_release_builds() {
    measure(&Target::start_single(true).await, INFLATED_MAX).await;
}

#[tokio::test]
#[ignore = "a measurement"]
async fn the_most_expensive_bodies_of_debug_builds() {
    measure(&Target::start_single(false).await, INFLATED_DEBUG).await;
}

async fn measure(target: &Target, max: usize) {
    let (machine, token) = target.runner("measurements").await;
    let mut signed: Vec<(&str, String)> = Vec::new();
    let run_id = Uuid::new_v4().to_string();
    for (what, record) in [
        ("signed: empty records", json!({})),
        ("signed: records", json!({ "task_id": "t", "prompt_id": "p", "model_id": "m", "tier": "main" })),
    ] {
        let records: Vec<_> =
            std::iter::repeat_n(record.clone(), (max - 2_000_000) / (record.to_string().len() + 1)).collect();
        let envelope = envelope(&machine, &json!({ "run_id": run_id, "records": records }));
        signed.push((what, format!(r#"{{"claim_id":"{}","envelope":{envelope}}}"#, Uuid::new_v4())));
    }
    println!(
        "{:<34} {:>6} {:<10} {:>6} {:>7} {:>8}",
        "body", "MB", "function", "status", "CPU, s", "peak, MB"
    );
    for (what, body) in bodies(max).into_iter().chain(signed) {
        let packed = gzip(body.as_bytes());
        let megabytes = body.len() as f64 / 1e6;
        for action in ["submit", "heartbeat", "release", "claim", "register"] {
            if action != "submit" && what.contains(':') {
                continue;
            }
            let path = match action {
                "claim" => "/api/queue/claim".to_owned(),
                "register" => "/api/runners/register".to_owned(),
                _ => format!("/api/queue/{run_id}/{action}"),
            };
            let proof = machine.proof(&target.proof_claims(&machine));
            let attempt =
                post(&path).header("content-encoding", "gzip").header("dpop", &proof).bearer(&token);
            // A fresh process each time, so that its peak is this body's.
            target.kill(action);
            let status = attempt.body(packed.clone()).send(target).await.status;
            let (cpu, peak) = target.cost(action);
            println!("{what:<34} {megabytes:>6.1} {action:<10} {status:>6} {cpu:>7.2} {peak:>8}");
        }
    }
}

impl Target {
    /// The process of a function: a child of ours.
    fn process(name: &str) -> Option<std::path::PathBuf> {
        let ours = std::process::id().to_string();
        let is_it = |process: &Path| {
            let program = std::fs::read_link(process.join("exe")).ok()?;
            let status = std::fs::read_to_string(process.join("status")).ok()?;
            let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().to_owned();
            (program.file_name()? == name && parent == ours).then_some(())
        };
        let mut all = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok).map(|entry| entry.path());
        all.find(|process| is_it(process).is_some())
    }

    fn kill(&self, name: &str) {
        while let Some(process) = Self::process(name) {
            let pid = process.file_name().unwrap().to_str().unwrap().to_owned();
            let _ = std::process::Command::new("kill").args(["-KILL", &pid]).status();
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// CPU time in seconds and peak memory in MB since the process started.
    fn cost(&self, name: &str) -> (f64, u64) {
        let Some(process) = Self::process(name) else { return (f64::NAN, 0) };
        let stat = std::fs::read_to_string(process.join("stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
        let status = std::fs::read_to_string(process.join("status")).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let kb: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
        (ticks / TICKS, kb / 1024)
    }
}
