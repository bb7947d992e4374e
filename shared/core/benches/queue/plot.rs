//! Draws claim latency by depth.

use crate::connection::Operation;
use crate::mix::Mix;
use crate::report::Line;
use plotters::prelude::*;
use std::error::Error;
use std::path::Path;

/// A named line of points (depth, milliseconds).
struct Series {
    name: String,
    points: Vec<(f64, f64)>,
}

impl Series {
    fn last_ms(&self) -> f64 {
        self.points.last().map_or(0.0, |point| point.1)
    }
}

/// Draws a line per mix at one connection, with the floor and the plain design beside them.
pub(crate) fn draw(path: &Path, lines: &[Line]) -> Result<(), Box<dyn Error>> {
    let mut series = series(lines);
    let points = || series.iter().flat_map(|series| series.points.iter());
    let depths =
        points().map(|point| point.0).fold((f64::MAX, 0.0), |(low, high), x| (x.min(low), x.max(high)));
    let slowest = points().map(|point| point.1).fold(1.0, f64::max);
    let fastest = points().map(|point| point.1).fold(1.0, f64::min);
    if depths.0 >= depths.1 {
        return Ok(()); // A line needs two depths.
    }

    let root = SVGBackend::new(path, (1200, 560)).into_drawing_area();
    root.fill(&WHITE)?;
    let (chart_area, legend_area) = root.split_horizontally(920);
    let mut chart = ChartBuilder::on(&chart_area)
        .caption("Median latency of one claim with its durable commit", ("sans-serif", 20))
        .margin(12)
        .margin_right(24)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d(
            (depths.0..depths.1 * 1.02).log_scale(),
            (fastest * 0.8..slowest * 1.5).log_scale(),
        )?;
    chart
        .configure_mesh()
        .x_desc("rows in the queue")
        .y_desc("milliseconds")
        .x_label_formatter(&|rows| format!("{rows:.0}"))
        .y_label_formatter(&|ms| if *ms < 1.0 { format!("{ms:.1}") } else { format!("{ms:.0}") })
        .draw()?;
    // Beside the lines, in their order from the slowest at the deepest queue down.
    series.sort_by(|one, other| other.last_ms().total_cmp(&one.last_ms()));
    for (index, Series { name, points }) in series.into_iter().enumerate() {
        let color = Palette99::pick(index).to_rgba();
        let width = if name.starts_with("plain") { 1 } else { 2 };
        chart.draw_series(LineSeries::new(points, color.stroke_width(width)))?;
        let y = 40 + 19 * i32::try_from(index)?;
        legend_area.draw(&PathElement::new([(0, y + 6), (18, y + 6)], color.stroke_width(2)))?;
        legend_area.draw(&Text::new(name, (24, y), ("sans-serif", 13)))?;
    }
    root.present()?;
    Ok(())
}

fn series(lines: &[Line]) -> Vec<Series> {
    let of = |operation: Operation, mix: Mix| {
        lines
            .iter()
            .filter(move |line| line.connections == 1 && (line.operation, line.mix) == (operation, mix))
    };
    let rows = |line: &Line| line.depth as f64;
    let mut all = vec![Series {
        name: "floor: one update by key".into(),
        points: of(Operation::Claim, Mix::AllEligible)
            .map(|line| (rows(line), line.floor.median_ms()))
            .collect(),
    }];
    for (operation, prefix) in [(Operation::Claim, ""), (Operation::Plain, "plain design, ")] {
        for mix in Mix::ALL {
            let points = of(operation, mix).map(|line| (rows(line), line.sample.median_ms())).collect();
            all.push(Series { name: format!("{prefix}{}", mix.name()), points });
        }
    }
    all.retain(|series| series.points.len() > 1);
    all
}
