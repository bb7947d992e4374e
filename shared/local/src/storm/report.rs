//! How the storm went, in Markdown.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use tokio_postgres::Client;

use super::Options;
use super::invariants::Verdict;
use super::log::{Asked, Story};
use crate::error::{ErrorContext, Result};

/// Completed jobs by second of the storm.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Throughput {
    /// The first second, since the epoch.
    pub from: i64,
    /// Jobs completed in each second.
    pub completed: Vec<i64>,
}

/// Reads from the submissions when jobs were completed.
///
/// # Errors
/// When the database cannot be read.
pub async fn throughput(client: &Client) -> Result<Throughput> {
    let sql = "SELECT extract(epoch FROM date_trunc('second', submitted_at))::bigint, count(*) \
               FROM submissions GROUP BY 1 ORDER BY 1";
    let rows = client.query(sql, &[]).await.context("read the throughput")?;
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else {
        return Ok(Throughput::default());
    };
    let (from, to): (i64, i64) = (first.get(0), last.get(0));
    let mut completed = vec![0; (to - from + 1) as usize];
    for row in &rows {
        completed[(row.get::<_, i64>(0) - from) as usize] = row.get(1);
    }
    Ok(Throughput { from, completed })
}

/// The report.
pub fn text(
    options: &Options,
    story: &Story,
    verdict: &Verdict,
    throughput: &Throughput,
    with_disk: bool,
) -> String {
    let mut text = String::new();
    let Options { seed, jobs, runners, .. } = options;
    let seconds = throughput.completed.len().max(1);
    let completed: i64 = throughput.completed.iter().sum();
    let _ = writeln!(
        text,
        "\nStorm {seed}: {jobs} jobs, {runners} runners, {} requests of runners, {seconds} s, \
         {:.1} jobs completed a second\n",
        story.exchanges.len(),
        completed as f64 / seconds as f64,
    );
    let _ = writeln!(text, "| fault | times |\n|---|--:|");
    let faults = story.faults();
    for (kind, count) in &faults {
        let _ = writeln!(text, "| {kind} | {count} |");
    }
    let _ = writeln!(text, "| **all** | **{}** |", faults.values().sum::<usize>());
    if !with_disk {
        let _ = writeln!(text, "\nNo disk could be filled: mounting a small one was refused.");
    }
    let _ = writeln!(text, "\n| runners asked | answers |\n|---|---|");
    for (asked, answers) in answers(story) {
        let answers: Vec<String> =
            answers.iter().map(|(answer, count)| format!("{answer} × {count}")).collect();
        let _ = writeln!(text, "| {asked:?} | {} |", answers.join(", "));
    }
    let _ = writeln!(text, "\n| invariant | checked | violations |\n|---|--:|--:|");
    for checked in &verdict.checked {
        let _ = writeln!(text, "| {} | {} | {} |", checked.invariant, checked.of, checked.violations.len());
    }
    let violations: Vec<_> = verdict.violations().collect();
    let _ = writeln!(text, "\n{} violations", violations.len());
    for (invariant, detail) in violations.iter().take(50) {
        let _ = writeln!(text, "  {invariant}: {detail}");
    }
    text
}

/// How often each request got each answer.
fn answers(story: &Story) -> BTreeMap<Asked, BTreeMap<String, usize>> {
    let mut counts: BTreeMap<Asked, BTreeMap<String, usize>> = BTreeMap::new();
    for exchange in &story.exchanges {
        let answer = match (&exchange.code, exchange.status) {
            (_, 0) => "none".to_owned(),
            (Some(code), status) => format!("{status} {code}"),
            (None, status) => status.to_string(),
        };
        *counts.entry(exchange.asked).or_default().entry(answer).or_default() += 1;
    }
    counts
}
