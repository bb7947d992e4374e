//! Prints the tables of README.

use crate::connection::Operation;
use crate::mix::Mix;
use crate::report::Line;

/// The depth of the tables that are of one depth.
const DEPTH: i64 = 1_000_000;

/// Prints README's tables in Markdown.
pub(crate) fn print(lines: &[Line]) {
    let find = |mix: Mix, depth: i64, connections: usize, operation: Operation| {
        lines.iter().find(move |line| {
            (line.mix, line.depth, line.connections, line.operation) == (mix, depth, connections, operation)
        })
    };
    let cell = |value: Option<f64>| value.map_or("–".to_owned(), number);
    let mut depths: Vec<i64> = lines.iter().map(|line| line.depth).collect();
    depths.sort_unstable();
    depths.dedup();
    let Some(deepest) = depths.last().copied() else { return };

    let heads: Vec<String> = depths.iter().map(|depth| short(*depth)).collect();
    println!(
        "\n| one connection, median ÷ floor | {} | the plain design at {} |",
        heads.join(" | "),
        short(deepest)
    );
    println!("|---|{}--:|", "--:|".repeat(depths.len()));
    for mix in Mix::ALL {
        let claims: Vec<String> =
            depths.iter().map(|depth| cell(find(mix, *depth, 1, Operation::Claim).map(Line::cost))).collect();
        let plain = cell(find(mix, deepest, 1, Operation::Plain).map(Line::cost));
        println!("| {} | {} | {plain} |", mix.words(), claims.join(" | "));
    }

    println!(
        "\n| all fit, {} rows: operations a second ÷ the floor's | 1 connection | 8 | 64 |",
        short(DEPTH)
    );
    println!("|---|--:|--:|--:|");
    for (operation, words) in [
        (Operation::Claim, "claim"),
        (Operation::Complete, "claim and completion"),
        (Operation::Cycle, "claim and submit of a signed result"),
        (Operation::Heartbeat, "heartbeat"),
    ] {
        let shares = [1, 8, 64].map(|count| {
            let share = find(Mix::AllEligible, DEPTH, count, operation).map(Line::share);
            share.map_or("–".to_owned(), |share| format!("{share:.2}"))
        });
        println!("| {words} | {} |", shares.join(" | "));
    }

    println!(
        "\n| median of a claim ÷ the same where all fit, {} rows | 1 connection | 8 | 64 |",
        short(deepest)
    );
    println!("|---|--:|--:|--:|");
    for mix in Mix::ALL.into_iter().filter(|mix| mix.restocks()) {
        let ratios = [1, 8, 64].map(|count| {
            let of = |mix| Some(find(mix, deepest, count, Operation::Claim)?.sample.median_ms());
            cell(of(mix).zip(of(Mix::AllEligible)).map(|(this, all)| this / all))
        });
        println!("| {} | {} |", mix.words(), ratios.join(" | "));
    }
}

fn short(rows: i64) -> String {
    match rows {
        1_000_000.. => format!("{}M", rows / 1_000_000),
        _ => format!("{}k", rows / 1000),
    }
}

/// Writes one decimal, or thousands with a separator.
fn number(value: f64) -> String {
    let rounded = format!("{value:.0}");
    match value {
        1000.0.. => format!("{},{}", &rounded[..rounded.len() - 3], &rounded[rounded.len() - 3..]),
        10.0.. => rounded,
        _ => format!("{value:.1}"),
    }
}
