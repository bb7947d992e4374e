//! The runner in the sandbox: every practice of a good runner holds.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "day/leftovers.rs"]
mod leftovers;

use std::path::Path;

use bakeoff_local::sandbox::{PRACTICES, SandboxOptions, Verdict, judge};
use bakeoff_local::stack::Options;
use bakeoff_testkit::Database;

use self::leftovers::Harnesses;

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_table_holds() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("sandbox-{}", std::process::id()));
    std::fs::create_dir_all(folder.join("harness")).unwrap();
    let path = |name| folder.join(name).display().to_string();
    let runner = [
        env!("CARGO_BIN_EXE_bakeoff-runner"),
        "work",
        "--api",
        "{api}",
        "--key",
        "{key}",
        "--harness",
        &path("harness"),
        "--work",
        &path("work"),
        "--python",
        env!("CARGO_BIN_EXE_stand-in-harness"),
        "--vram",
        "8",
        "--grace",
        "2",
    ];
    // Dropped before the folder is removed, and also when the test fails.
    let harnesses = Harnesses { work: folder.join("work") };
    let database = Database::create().await;
    let stack =
        Options { port: 0, database_url: Some(database.owner_url().to_owned()), ..Options::default() };
    let options = SandboxOptions { stack, seed: 1, runner: runner.map(str::to_owned).to_vec() };
    let table = judge(&options).await.unwrap();
    let broken: Vec<&Verdict> = table.iter().filter(|verdict| verdict.broken.is_some()).collect();
    assert_eq!(broken, Vec::<&Verdict>::new());
    assert_eq!(table.len(), PRACTICES.len());
    drop(harnesses);
    std::fs::remove_dir_all(folder).unwrap();
}
