//! What the runner says of its work: one line a step for people, or one JSON object a line.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

use crate::work::progress::Progress;

/// Where the reports go.
#[derive(Debug)]
pub struct Report {
    json: bool,
    bar: bool,
    bar_is_drawn: AtomicBool,
}

impl Report {
    /// Reports as JSON lines on standard output if `json`, else as text on standard error, with a progress
    /// bar if that is a terminal.
    pub fn new(json: bool) -> Self {
        let bar = !json && std::io::stderr().is_terminal();
        Self { json, bar, bar_is_drawn: AtomicBool::new(false) }
    }

    /// Reports a step: its name, its text, and the fields that go with it in JSON.
    pub fn step(&self, step: &str, text: &str, fields: Value) {
        let now = OffsetDateTime::now_utc();
        if self.json {
            let mut line =
                json!({ "at": now.format(&Rfc3339).unwrap_or_default(), "step": step, "text": text });
            if let (Some(line), Value::Object(fields)) = (line.as_object_mut(), fields) {
                line.extend(fields);
            }
            // A reader that has gone away must not end a benchmark.
            let _ = writeln!(std::io::stdout(), "{line}");
        } else {
            let clock = now.format(format_description!("[hour]:[minute]:[second]Z")).unwrap_or_default();
            self.clear_bar();
            let _ = writeln!(std::io::stderr(), "{clock} {text}");
        }
    }

    /// Reports that a request is going to be sent again.
    pub fn waiting(&self, what: &str, why: &str, wait: Duration) {
        let seconds = wait.as_secs_f64().ceil();
        self.step("waiting", &format!("{what}: {why}; again in {seconds} s"), json!({ "wait_s": seconds }));
    }

    /// Draws the bar.
    pub fn progress(&self, progress: &Progress) {
        if self.bar {
            let _ = write!(std::io::stderr(), "\r\x1b[K{}", bar(progress));
            self.bar_is_drawn.store(true, Ordering::Relaxed);
        }
    }

    fn clear_bar(&self) {
        if self.bar_is_drawn.swap(false, Ordering::Relaxed) {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

/// `[########------------] 16/40 cells, 1 failed, 3.2/min, 7 min left, MODEL`.
fn bar(progress: &Progress) -> String {
    const WIDTH: usize = 20;
    let filled = (WIDTH * progress.done).checked_div(progress.total).unwrap_or(0).min(WIDTH);
    let mut text = format!("[{}{}]", "#".repeat(filled), "-".repeat(WIDTH - filled));
    let _ = write!(text, " {}/{} cells", progress.done, progress.total);
    if progress.failed > 0 {
        let _ = write!(text, ", {} failed", progress.failed);
    }
    if let Some(rate) = progress.cells_per_minute() {
        let _ = write!(text, ", {rate:.1}/min");
    }
    if let Some(left) = progress.time_left() {
        let _ = write!(text, ", {} left", rough(left));
    }
    if let Some(phase) = &progress.phase {
        let _ = write!(text, ", {phase}");
    }
    text.chars().take(79).collect()
}

/// A time for people: `40 s`, `7 min`, `3.5 h`.
pub fn rough(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..100 => format!("{seconds} s"),
        seconds @ 100..6000 => format!("{} min", (seconds + 30) / 60),
        seconds => format!("{:.1} h", Duration::from_secs(seconds).as_secs_f64() / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_says_cells_failures_and_phase() {
        let mut progress = Progress::new(40);
        (progress.done, progress.failed) = (16, 1);
        progress.phase = Some("qwen".into());
        assert_eq!(bar(&progress), "[########------------] 16/40 cells, 1 failed, qwen");
        assert!(bar(&Progress::new(0)).starts_with("[--------------------] 0/0 cells"));
    }

    #[test]
    fn times_for_people() {
        let texts = [40, 400, 12_600].map(|seconds| rough(Duration::from_secs(seconds)));
        assert_eq!(texts, ["40 s", "7 min", "3.5 h"]);
    }
}
