//! The harness as a child: started in its own process group, watched, stopped, and found again.
//!
//! What it prints goes to a file and not through a pipe: when the runner dies, the harness goes on, and the next
//! runner finds both.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use uuid::Uuid;

use super::processes;

/// A line longer than this is cut.
const LINE_MAX: usize = 64 * 1024;

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// With this status.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// Unseen: the runner that started it was gone.
    Unseen,
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit status {code}"),
            Self::Signal(signal) => write!(f, "killed by signal {signal}"),
            Self::Unseen => f.write_str("ended while the runner was not running"),
        }
    }
}

/// A running harness.
#[derive(Debug)]
pub struct Harness {
    process: Process,
    claim_id: Uuid,
    log: LogReader,
}

#[derive(Debug)]
enum Process {
    /// Our child.
    Own(Child),
    /// Started by a runner before us.
    Adopted(Pid),
}

impl Harness {
    /// Starts a command in its own process group, marked with the claim. Its output is appended to `log`.
    ///
    /// # Errors
    /// When the log cannot be opened or the program cannot be started.
    pub fn start(mut command: Command, claim_id: Uuid, log: &Path) -> std::io::Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        let child = command
            .env(processes::MARK, claim_id.to_string())
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0)
            .spawn()?;
        Ok(Self { process: Process::Own(child), claim_id, log: LogReader::open(log)? })
    }

    /// Finds the harness that a runner before this one started for the claim, if it still runs.
    ///
    /// # Errors
    /// When its log cannot be opened.
    pub fn adopt(claim_id: Uuid, log: &Path) -> std::io::Result<Option<Self>> {
        let Some(first) = processes::of_claim(claim_id).first().copied() else { return Ok(None) };
        Ok(Some(Self { process: Process::Adopted(first), claim_id, log: LogReader::open(log)? }))
    }

    /// Its end, once it has come.
    pub fn exit(&mut self) -> Option<Exit> {
        match &mut self.process {
            Process::Own(child) => {
                let status = child.try_wait().ok()??;
                let signal = status.signal().map(Exit::Signal);
                Some(status.code().map(Exit::Code).or(signal).unwrap_or(Exit::Unseen))
            }
            Process::Adopted(pid) => (!processes::is_marked(*pid, self.claim_id)).then_some(Exit::Unseen),
        }
    }

    /// The whole lines that it has printed since the last call.
    pub fn new_lines(&mut self) -> Vec<String> {
        self.log.new_lines()
    }

    /// Stops it: SIGINT to its group, `grace` for cleaning up, SIGKILL, and then every process of the claim
    /// that is left in any group. Returns whether it ended by itself within the grace.
    pub fn stop(mut self, grace: Duration) -> bool {
        let group = match &self.process {
            Process::Own(child) => i32::try_from(child.id()).ok().and_then(Pid::from_raw),
            Process::Adopted(pid) => Some(*pid),
        };
        let signal_group = |signal| {
            // It may have ended by itself. Not reaped yet, its id is nobody else's.
            let _ = group.map(|group| kill_process_group(group, signal));
        };
        let in_time = self.exit().is_some() || {
            signal_group(Signal::INT);
            self.ends_within(grace)
        };
        if !in_time {
            signal_group(Signal::KILL);
            self.ends_within(Duration::from_secs(5));
        }
        processes::kill_all(self.claim_id);
        in_time
    }

    fn ends_within(&mut self, time: Duration) -> bool {
        let until = Instant::now() + time;
        while self.exit().is_none() {
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        true
    }
}

/// Reads the lines of a file that grows.
#[derive(Debug)]
pub struct LogReader {
    file: File,
    rest: Vec<u8>,
}

impl LogReader {
    /// Opens a log at its beginning.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        Ok(Self { file: File::open(path)?, rest: Vec::new() })
    }

    /// The whole lines since the last call. Bytes that are not UTF-8 are replaced.
    pub fn new_lines(&mut self) -> Vec<String> {
        // What cannot be read now can be read later: the position stays.
        let _ = self.file.read_to_end(&mut self.rest);
        let mut lines = Vec::new();
        let mut begin = 0;
        while let Some(length) = self.rest[begin..].iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            let line = &self.rest[begin..begin + length];
            if !line.is_empty() {
                lines.push(String::from_utf8_lossy(&line[..line.len().min(LINE_MAX)]).into_owned());
            }
            begin += length + 1;
        }
        self.rest.drain(..begin);
        if self.rest.len() > LINE_MAX {
            self.rest.truncate(LINE_MAX);
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_line_is_read_once_it_is_whole() {
        let path = std::env::temp_dir().join(format!("bakeoff-log-{}", std::process::id()));
        let mut written = File::create(&path).unwrap();
        let mut log = LogReader::open(&path).unwrap();
        written.write_all(b"[phase] m\n[run] m pl").unwrap();
        assert_eq!(log.new_lines(), ["[phase] m"]);
        written.write_all(b"ain t0 1.00s\r\n\xff\n").unwrap();
        assert_eq!(log.new_lines(), ["[run] m plain t0 1.00s", "\u{fffd}"]);
        assert_eq!(log.new_lines(), [""; 0]);
        std::fs::remove_file(path).unwrap();
    }
}
