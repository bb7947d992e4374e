//! The processes of one claim, found by a variable that each inherits.
//!
//! A process id in a file would not do: between the start of a process and the writing of its id the runner may
//! be killed, and after a reboot the id is another's.

use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use uuid::Uuid;

/// The variable that marks the processes of a claim.
pub const MARK: &str = "BAKEOFF_CLAIM_ID";
/// How long killed processes may take to go.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// The living processes of the claim, the first started first.
pub fn of_claim(claim_id: Uuid) -> Vec<Pid> {
    let mut found: Vec<(u64, Pid)> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok().and_then(Pid::from_raw))
        .filter(|pid| is_marked(*pid, claim_id))
        .filter_map(|pid| Some((start_time(pid)?, pid)))
        .collect();
    found.sort_unstable_by_key(|(start, pid)| (*start, pid.as_raw_nonzero()));
    found.into_iter().map(|(_, pid)| pid).collect()
}

/// Whether a process lives and belongs to the claim. A zombie has no environment, and is none.
pub fn is_marked(pid: Pid, claim_id: Uuid) -> bool {
    let variable = format!("{MARK}={claim_id}");
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|entry| entry == variable.as_bytes())
}

/// Kills the processes of the claim that are left, and waits for their end. Returns how many there were.
pub fn kill_all(claim_id: Uuid) -> usize {
    let until = Instant::now() + GONE_WITHIN;
    let first = of_claim(claim_id);
    let count = first.len();
    let mut left = first;
    while !left.is_empty() && Instant::now() < until {
        left.iter().for_each(|pid| kill(*pid, claim_id));
        std::thread::sleep(Duration::from_millis(10));
        left = of_claim(claim_id);
    }
    count
}

/// The handle is opened before the second look: should the id become another's in between, the signal goes to
/// the process that has ended.
fn kill(pid: Pid, claim_id: Uuid) {
    if let Ok(handle) = pidfd_open(pid, PidfdFlags::empty())
        && is_marked(pid, claim_id)
    {
        // It may have ended by itself.
        let _ = pidfd_send_signal(handle, Signal::KILL);
    }
}

/// Field 22 of `/proc/PID/stat` (proc(5)), in clock ticks since boot. The second field may hold spaces and
/// parentheses, so that the rest is counted from the last one.
fn start_time(pid: Pid) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_claims_processes_are_found_and_killed_in_whatever_group_they_are() {
        let claim_id = Uuid::new_v4();
        // With -m each background job gets a process group of its own.
        let script = "sleep 600 & set -m; sleep 600 & wait";
        let mut shell =
            Command::new("sh").args(["-c", script]).env(MARK, claim_id.to_string()).spawn().unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        while of_claim(claim_id).len() < 3 && Instant::now() < until {
            std::thread::yield_now();
        }
        assert_eq!(of_claim(claim_id)[0].as_raw_nonzero().get() as u32, shell.id());
        assert_eq!(of_claim(Uuid::new_v4()), []);
        assert!(kill_all(claim_id) >= 3);
        assert_eq!(of_claim(claim_id), []);
        shell.wait().unwrap();
    }
}
