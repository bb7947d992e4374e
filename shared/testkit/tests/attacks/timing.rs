//! Whether the time of a refusal tells why a key is refused. Ignored by default: times are not asserted in tests.
//!
//! `cargo test --workspace --test attacks timing -- --ignored --nocapture`

use std::time::Instant;

use serde_json::json;

use crate::allowlist::{OFF, change};
use crate::request::{Attempt, post};
use crate::target::Target;

const ROUNDS: usize = 2000;
/// Rounds before those: connections are made, plans are kept, and each key has its audit entry of the hour.
const WARM_UP: usize = 50;

/// A reason to refuse a request, and the request.
type Case<'a> = (&'a str, Box<dyn Fn() -> Attempt + 'a>);

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Sends the requests of all cases in turn, beginning with another one each round, and prints for each case the
/// median time, and the median of its differences from the first case in the same round. The first two cases are
/// alike: their difference is the noise.
async fn compare(target: &Target, route: &str, cases: &[Case<'_>]) {
    let mut times = vec![Vec::with_capacity(ROUNDS); cases.len()];
    for round in 0..WARM_UP + ROUNDS {
        for turn in 0..cases.len() {
            let case = (round + turn) % cases.len();
            let attempt = (cases[case].1)();
            let start = Instant::now();
            attempt.send(target).await.refused(403, "key_not_allowed", cases[case].0);
            if round >= WARM_UP {
                times[case].push(start.elapsed().as_secs_f64() * 1e6);
            }
        }
    }
    println!(
        "{route:<10} {:<24} {:>10} {:>14} {:>14}",
        "key", "median, µs", "difference, µs", "rounds slower"
    );
    for ((why, _), own) in cases.iter().zip(&times) {
        let differences: Vec<f64> = own.iter().zip(&times[0]).map(|(own, first)| own - first).collect();
        let slower = differences.iter().filter(|difference| **difference > 0.0).count();
        let slower = 100.0 * slower as f64 / ROUNDS as f64;
        println!(
            "{route:<10} {why:<24} {:>10.0} {:>14.1} {slower:>12.1} %",
            median(own.clone()),
            median(differences)
        );
    }
}

#[tokio::test]
#[ignore = "a measurement"]
async fn refusals_by_why_the_key_is_refused_of_release_builds() {
    measure(&Target::start_single(true).await).await;
}

#[tokio::test]
#[ignore = "a measurement"]
async fn refusals_by_why_the_key_is_refused_of_debug_builds() {
    measure(&Target::start_single(false).await).await;
}

async fn measure(target: &Target) {
    let mut machines = Vec::new();
    for why in ["unknown", "unknown too"] {
        machines.push((why, bakeoff_testkit::fixture::Machine::new(&format!("timing {why}"))));
    }
    let mut tokens = Vec::new();
    for (why, off) in [OFF[0]].into_iter().chain(OFF) {
        let (machine, token) = target.runner(&format!("timing {why} {}", machines.len())).await;
        change(target, &machine, off).await;
        machines.push((why, machine));
        tokens.push((why, token));
    }
    let registrations: Vec<Case> = machines
        .iter()
        .map(|(why, machine)| -> Case { (*why, Box::new(move || target.registration(machine))) })
        .collect();
    compare(target, "register", &registrations).await;
    let claims: Vec<Case> = tokens
        .iter()
        .map(|(why, token)| -> Case {
            (*why, Box::new(move || post("/api/queue/claim").bearer(token).json(&json!({}))))
        })
        .collect();
    compare(target, "claim", &claims).await;
}
