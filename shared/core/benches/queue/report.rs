//! The table, its ratios against the goals, and both as JSON.

use crate::connection::Operation;
use crate::mix::Mix;
use crate::sample::Sample;
use serde_json::{Value, json};

/// One line of the table.
pub(crate) struct Line {
    pub(crate) mix: Mix,
    pub(crate) depth: i64,
    pub(crate) connections: usize,
    pub(crate) operation: Operation,
    pub(crate) sample: Sample,
    /// The floor, in the same turns.
    pub(crate) floor: Sample,
}

/// A goal and its measurement.
pub(crate) struct Goal {
    pub(crate) what: String,
    pub(crate) measured: f64,
    pub(crate) bound: Bound,
}

/// The bound of a goal.
#[derive(Clone, Copy)]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Line {
    /// Returns the median latency as a multiple of the floor's.
    pub(crate) fn cost(&self) -> f64 {
        self.sample.median_ms() / self.floor.median_ms()
    }

    /// Returns the throughput as a share of the floor's.
    pub(crate) fn share(&self) -> f64 {
        self.sample.per_second() / self.floor.per_second()
    }

    pub(crate) fn print_head() {
        println!(
            "{:<20} {:>8} {:>4}  {:<14} {:>9} {:>9} {:>8} {:>9} {:>7} {:>7}",
            "mix",
            "depth",
            "conn",
            "operation",
            "median ms",
            "p99 ms",
            "per s",
            "floor ms",
            "÷ floor",
            "share"
        );
    }

    pub(crate) fn print(&self) {
        println!(
            "{:<20} {:>8} {:>4}  {:<14} {:>9.3} {:>9.3} {:>8.0} {:>9.3} {:>7.2} {:>7.2}{}",
            self.mix.name(),
            self.depth,
            self.connections,
            self.operation.name(),
            self.sample.median_ms(),
            self.sample.p99_ms(),
            self.sample.per_second(),
            self.floor.median_ms(),
            self.cost(),
            self.share(),
            if self.sample.empty > 0 {
                format!("  {} found nothing", self.sample.empty)
            } else {
                String::new()
            }
        );
    }

    fn json(&self) -> Value {
        json!({
            "mix": self.mix.name(), "depth": self.depth, "connections": self.connections,
            "operation": self.operation.name(), "median_ms": self.sample.median_ms(),
            "p99_ms": self.sample.p99_ms(), "per_second": self.sample.per_second(),
            "floor_median_ms": self.floor.median_ms(), "floor_p99_ms": self.floor.p99_ms(),
            "floor_per_second": self.floor.per_second(), "median_over_floor": self.cost(),
            "throughput_over_floor": self.share(),
        })
    }
}

impl Goal {
    fn met(&self) -> bool {
        match self.bound {
            Bound::AtMost(most) => self.measured <= most,
            Bound::AtLeast(least) => self.measured >= least,
        }
    }

    pub(crate) fn print(&self) {
        let bound = match self.bound {
            Bound::AtMost(most) => format!("≤ {most}"),
            Bound::AtLeast(least) => format!("≥ {least}"),
        };
        let met = if self.met() { "met" } else { "MISSED" };
        println!("{:<70} {:>7.2}  {bound:<7} {met}", self.what, self.measured);
    }
}

/// Derives the goals' measurements from the table's lines.
pub(crate) fn goals(lines: &[Line]) -> Vec<Goal> {
    let claim_by = |connections: usize, mix: Mix, depth: i64| {
        lines.iter().find(|line| {
            line.operation == Operation::Claim
                && (line.connections, line.mix, line.depth) == (connections, mix, depth)
        })
    };
    let claim = |mix, depth| claim_by(1, mix, depth);
    let mut goals = Vec::new();
    let mut depths: Vec<i64> = lines.iter().map(|line| line.depth).collect();
    depths.sort_unstable();
    depths.dedup();
    for mix in Mix::ALL {
        let of_mix: Vec<&Line> = depths.iter().filter_map(|depth| claim(mix, *depth)).collect();
        if let [shallow, .., deep] = of_mix[..] {
            goals.push(Goal {
                what: format!("{}: a claim at {} ÷ at {}", mix.name(), deep.depth, shallow.depth),
                measured: deep.cost() / shallow.cost(),
                bound: Bound::AtMost(1.5),
            });
        }
    }
    for (mix, depth) in Mix::ALL.into_iter().flat_map(|mix| depths.iter().map(move |depth| (mix, *depth))) {
        if let (Some(this), Some(all)) = (claim(mix, depth), claim(Mix::AllEligible, depth))
            && mix != Mix::AllEligible
        {
            goals.push(Goal {
                what: format!("{} ÷ all-eligible, {depth} rows", mix.name()),
                measured: this.cost() / all.cost(),
                bound: Bound::AtMost(if mix == Mix::ManyLanes { 8.0 } else { 2.5 }),
            });
        }
    }
    for line in lines.iter().filter(|line| line.mix.restocks() && line.operation == Operation::Claim) {
        if let Some(all) = claim_by(line.connections, Mix::AllEligible, line.depth)
            && line.connections > 1
        {
            goals.push(Goal {
                what: format!(
                    "{} ÷ all-eligible, {} connections, {} rows",
                    line.mix.name(),
                    line.connections,
                    line.depth
                ),
                measured: line.sample.median_ms() / all.sample.median_ms(),
                bound: Bound::AtMost(3.0),
            });
        }
    }
    for line in lines {
        let least = match line.connections {
            1 => 0.6,
            8 => 0.4,
            64 => 0.3,
            _ => continue,
        };
        if line.mix == Mix::AllEligible && line.operation == Operation::Claim {
            goals.push(Goal {
                what: format!(
                    "claims ÷ floor per second, {} connections, {} rows",
                    line.connections, line.depth
                ),
                measured: line.share(),
                bound: Bound::AtLeast(least),
            });
        }
    }
    goals
}

/// Returns everything measured as JSON.
pub(crate) fn json(lines: &[Line], goals: &[Goal]) -> Value {
    let goals: Vec<Value> = goals
        .iter()
        .map(|goal| json!({ "goal": goal.what, "measured": goal.measured, "met": goal.met() }))
        .collect();
    json!({ "lines": lines.iter().map(Line::json).collect::<Vec<_>>(), "goals": goals })
}
