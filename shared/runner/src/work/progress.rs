//! How far a job has come, read from the lines that the harness prints.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How many of the last lines are kept for a failure's detail.
const LAST_LINES: usize = 20;

/// How far a job has come.
#[derive(Debug, Clone)]
pub struct Progress {
    /// Cells that ended, well or not.
    pub done: usize,
    /// Of those, the ones that failed.
    pub failed: usize,
    /// Cells of the whole run: tasks × prompts × models; 0 where unknown.
    pub total: usize,
    /// The model at work.
    pub phase: Option<String>,
    /// The last `[out]` line's JSON file.
    pub result: Option<String>,
    /// The last lines, oldest first.
    pub last_lines: VecDeque<String>,
    /// When the first and the latest cell ended.
    cells: Option<(Instant, Instant)>,
}

impl Progress {
    /// Creates the progress of a job that has not begun.
    pub fn new(total: usize) -> Self {
        Self {
            done: 0,
            failed: 0,
            total,
            phase: None,
            result: None,
            last_lines: VecDeque::with_capacity(LAST_LINES),
            cells: None,
        }
    }

    /// Takes in a line; true if a person should see the change.
    pub fn read(&mut self, line: &str) -> bool {
        if self.last_lines.len() == LAST_LINES {
            self.last_lines.pop_front();
        }
        self.last_lines.push_back(line.to_owned());
        let Some((tag, rest)) = line.strip_prefix('[').and_then(|line| line.split_once(']')) else {
            return false;
        };
        let rest = rest.trim();
        match tag {
            "run" | "err" => {
                self.done += 1;
                self.failed += usize::from(tag == "err");
                let now = Instant::now();
                self.cells = Some((self.cells.map_or(now, |(first, _)| first), now));
            }
            "phase" => self.phase = Some(rest.to_owned()),
            "out" if rest.ends_with(".json") => self.result = Some(rest.to_owned()),
            _ => return false,
        }
        true
    }

    /// Takes in several lines; true if a person should see the change.
    pub fn read_all(&mut self, lines: &[String]) -> bool {
        lines.iter().fold(false, |changed, line| self.read(line) | changed)
    }

    /// The rate since the first cell, once there are two.
    pub fn cells_per_minute(&self) -> Option<f64> {
        let (first, latest) = self.cells?;
        let time = (latest - first).as_secs_f64();
        (self.done > 1 && time > 0.1).then(|| (self.done - 1) as f64 * 60.0 / time)
    }

    /// How long the remaining cells take at that rate.
    pub fn time_left(&self) -> Option<Duration> {
        let left = self.total.saturating_sub(self.done) as f64;
        Duration::try_from_secs_f64(left * 60.0 / self.cells_per_minute()?).ok()
    }

    /// What a heartbeat carries. The service keeps at most 2 KB.
    pub fn to_json(&self) -> Value {
        json!({
            "done": self.done, "total": self.total, "failed": self.failed,
            "phase": self.phase.as_ref().map(|phase| phase.chars().take(200).collect::<String>()),
            "left_s": self.time_left().map(|time| time.as_secs()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_phases_and_the_result_are_read() {
        let mut progress = Progress::new(3);
        for line in [
            "[dataset] 3 tasks -> datasets/tasks-20260801-120000.jsonl",
            "[phase] qwen3_5_9b_q4",
            "[warmup] qwen3_5_9b_q4",
            "[floor] qwen3_5_9b_q4 floor_001",
            "[run] qwen3_5_9b_q4 plain t0 1.23s",
            "[err] qwen3_5_9b_q4 plain t1: HTTP 500 [backend]",
            "Traceback (most recent call last):",
            "[out] results/run-20260801-120000.json",
            "[out] results/run-20260801-120000.md",
        ] {
            progress.read(line);
        }
        assert_eq!((progress.done, progress.failed, progress.total), (2, 1, 3));
        assert_eq!(progress.phase.as_deref(), Some("qwen3_5_9b_q4"));
        assert_eq!(progress.result.as_deref(), Some("results/run-20260801-120000.json"));
    }

    #[test]
    fn only_the_last_lines_are_kept() {
        let mut progress = Progress::new(0);
        for number in 0..50 {
            progress.read(&format!("line {number}"));
        }
        assert_eq!(progress.last_lines.len(), LAST_LINES);
        assert_eq!(progress.last_lines[0], "line 30");
    }
}
