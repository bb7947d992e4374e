//! Containers that the harness starts, and leaves behind when it is killed: `bench-llama-*`.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How the harness names its containers.
const NAME_BEGINS: &str = "bench-llama-";
/// The programs that may have started them.
const ENGINES: [&str; 2] = ["docker", "podman"];
/// A container engine that hangs must not hold the runner.
const PATIENCE: Duration = Duration::from_secs(20);

/// The names of the harness's containers that exist now, of whichever harness on this machine.
pub fn existing() -> Vec<String> {
    ENGINES.iter().flat_map(|engine| existing_of(engine)).collect()
}

/// Removes the harness's containers except those in `others`, which were there before. Returns how many.
pub fn sweep(others: &[String]) -> usize {
    let mut count = 0;
    for engine in ENGINES {
        for name in existing_of(engine).iter().filter(|name| !others.contains(name)) {
            count += usize::from(output(engine, &["rm", "--force", name]).is_some());
        }
    }
    count
}

fn existing_of(engine: &str) -> Vec<String> {
    let filter = format!("name={NAME_BEGINS}");
    let listed = output(engine, &["ps", "--all", "--filter", &filter, "--format", "{{.Names}}"]);
    // The filter matches anywhere in a name.
    let names = listed.unwrap_or_default();
    names.lines().map(str::trim).filter(|name| name.starts_with(NAME_BEGINS)).map(str::to_owned).collect()
}

/// What a program prints, if it is installed, succeeds, and ends in time.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let until = Instant::now() + PATIENCE;
    while child.try_wait().ok()?.is_none() {
        if Instant::now() >= until {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}
