//! Why a job failed: the harness's code for it, from how the program ended and what it printed last.

use bakeoff_core::results::run_result::FailureCode;
use serde::{Deserialize, Serialize};

use super::harness::Exit;

/// The most characters of a failure's detail: the service keeps 4,000 bytes.
const DETAIL_MAX: usize = 1000;

/// A failed attempt, as it is released.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// One of the harness's codes.
    pub code: String,
    /// For a person.
    pub detail: String,
}

/// What each kind of failure prints, in lower case. The first kind that matches wins: a model that does not
/// fit prints both that memory ran out and that the model did not load.
const PATTERNS: [(FailureCode, &[&str]); 4] = [
    (
        FailureCode::Oom,
        &[
            "out of memory",
            "outofmemory",
            "out_of_memory",
            "outofdevicememory",
            "memoryerror",
            "cannot allocate memory",
            "failed to allocate",
            "unable to allocate",
        ],
    ),
    (
        FailureCode::LoadFailure,
        &[
            "failed to load",
            "error loading model",
            "unable to load model",
            "cannot load",
            "load_failure",
            ".gguf: no such file",
            "gguf not found",
            "did not become ready",
            "did not become healthy",
            "boot timeout",
            "boot_timeout",
            "unknown model architecture",
        ],
    ),
    (FailureCode::Timeout, &["timed out", "timeouterror", "readtimeout", "timeout"]),
    (
        FailureCode::InfraError,
        &[
            "connection refused",
            "connecterror",
            "network is unreachable",
            "name or service not known",
            "no space left on device",
            "permission denied",
            "cannot connect to the docker daemon",
            "docker: error",
            "modulenotfounderror",
            "no module named",
            "filenotfounderror",
            "address already in use",
        ],
    ),
];

impl Failure {
    /// Creates a failure; a long detail is cut.
    pub fn new(code: FailureCode, detail: impl Into<String>) -> Self {
        let detail: String = detail.into();
        let detail = detail.replace('\0', " ").chars().take(DETAIL_MAX).collect();
        Self { code: code.as_str().to_owned(), detail }
    }

    /// Decides why a program failed, from its end and its last lines, oldest first.
    pub fn of_exit<'a>(exit: Exit, last_lines: impl DoubleEndedIterator<Item = &'a str> + Clone) -> Self {
        let lines: Vec<&str> = last_lines.filter(|line| !line.trim().is_empty()).collect();
        let said = lines.join("\n").to_lowercase();
        let matching = PATTERNS.iter().find(|(_, texts)| texts.iter().any(|text| said.contains(text)));
        let code = match (exit, matching) {
            (_, Some((code, _))) => *code,
            // Nobody else sends SIGKILL: the kernel does when the machine is out of memory.
            (Exit::Signal(9) | Exit::Code(137), None) => FailureCode::Oom,
            // 1: a bad configuration; 2: the launcher is missing.
            (Exit::Code(1), None) if said.contains("[config]") || said.contains("[error]") => {
                FailureCode::InfraError
            }
            (Exit::Code(2 | 126 | 127), None) => FailureCode::InfraError,
            _ => FailureCode::Unknown,
        };
        // The end of what it said tells most; the beginning is cut.
        let tail: Vec<&str> = lines.iter().rev().take(6).rev().copied().collect();
        let tail = tail.join(" | ");
        let cut = tail.chars().count().saturating_sub(DETAIL_MAX - 100);
        let tail: String = tail.chars().skip(cut).collect();
        Self::new(code, format!("{exit}; {tail}"))
    }

    /// Whether the machine could not hold the model: the same job would fail here again.
    pub fn is_oom(&self) -> bool {
        self.code == FailureCode::Oom.as_str()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(exit: Exit, lines: &[&str]) -> String {
        Failure::of_exit(exit, lines.iter().copied()).code
    }

    #[test]
    fn last_lines_tell_the_kind() {
        let one = Exit::Code(1);
        assert_eq!(code(one, &["RuntimeError: CUDA error: out of memory", "failed to load model"]), "oom");
        assert_eq!(code(one, &["MemoryError"]), "oom");
        assert_eq!(code(one, &["llama_model_load: error loading model: x.gguf"]), "load_failure");
        assert_eq!(code(one, &["httpx.ReadTimeout: timed out"]), "timeout");
        assert_eq!(code(one, &["httpx.ConnectError: [Errno 111] Connection refused"]), "infra_error");
        assert_eq!(code(one, &["OSError: [Errno 28] No space left on device"]), "infra_error");
        assert_eq!(code(one, &["ZeroDivisionError: division by zero"]), "unknown");
    }

    #[test]
    fn the_exit_tells_where_the_lines_do_not() {
        assert_eq!(code(Exit::Code(1), &["[config] models[0].id is missing"]), "infra_error");
        assert_eq!(code(Exit::Code(2), &["[error] no llama-swap"]), "infra_error");
        assert_eq!(code(Exit::Signal(9), &["[run] m plain t0 1.00s"]), "oom");
        assert_eq!(code(Exit::Signal(11), &[]), "unknown");
        assert_eq!(code(Exit::Code(0), &[]), "unknown");
    }

    #[test]
    fn the_detail_is_the_end_of_what_it_said() {
        let long = "x".repeat(5000);
        let failure = Failure::of_exit(Exit::Code(1), [long.as_str(), "the cause"].into_iter());
        assert!(failure.detail.starts_with("exit status 1; ") && failure.detail.ends_with("the cause"));
        assert!(failure.detail.len() <= DETAIL_MAX);
    }
}
