//! Completed jobs by second, with the faults marked, as a picture.

use std::path::Path;

use plotters::prelude::*;

use super::log::Struck;
use super::report::Throughput;
use crate::error::{Error, Result};

/// Into so many slices the time is cut; a slice is the darker the more faults of a kind struck in it.
const SLICES: usize = 150;
/// Faults that stop everything for a moment: a line through the picture. The others are a row of slices each.
const LINES: [(&str, RGBColor); 3] = [
    ("Postgres stopped in immediate mode", RGBColor(200, 30, 30)),
    ("disk full", RGBColor(220, 130, 0)),
    ("signing keys rotated", RGBColor(60, 120, 200)),
];

/// Draws it.
///
/// # Errors
/// When the file cannot be written.
pub fn draw(path: &Path, throughput: &Throughput, struck: &[Struck]) -> Result<()> {
    if throughput.completed.len() < 2 {
        return Ok(());
    }
    picture(path, throughput, struck).map_err(|error| Error::Failed(format!("drawing the plot: {error}")))
}

fn picture(
    path: &Path,
    throughput: &Throughput,
    struck: &[Struck],
) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let seconds = throughput.completed.len() as f64;
    let most = throughput.completed.iter().copied().max().unwrap_or(1) as f64;
    let second_of = |fault: &Struck| fault.at as f64 / 1e6 - throughput.from as f64;
    let mut kinds: Vec<&str> = struck.iter().map(|fault| fault.kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    kinds.retain(|kind| LINES.iter().all(|(line, _)| line != kind));

    let root = SVGBackend::new(path, (1100, 640)).into_drawing_area();
    root.fill(&WHITE)?;
    let (upper, lower) = root.split_vertically(380);
    let mut chart = ChartBuilder::on(&upper)
        .caption("Jobs completed each second, and when faults struck", ("sans-serif", 20))
        .margin(12)
        .margin_right(24)
        .x_label_area_size(20)
        .y_label_area_size(270)
        .build_cartesian_2d(0.0..seconds, 0.0..most * 1.15)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .max_light_lines(0)
        .y_label_formatter(&|jobs| format!("{jobs:.0} a second"))
        .draw()?;
    for (kind, color) in LINES {
        let lines = struck.iter().filter(|fault| fault.kind == kind).map(second_of);
        let lines = lines.map(|at| PathElement::new([(at, 0.0), (at, most * 1.15)], color.stroke_width(1)));
        chart
            .draw_series(lines)?
            .label(kind)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
    }
    let points = throughput.completed.iter().enumerate().map(|(at, count)| (at as f64 + 0.5, *count as f64));
    chart.draw_series(LineSeries::new(points, BLACK.stroke_width(1)))?;
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .draw()?;

    let rows = kinds.len() as f64;
    let mut below = ChartBuilder::on(&lower)
        .margin(12)
        .margin_right(24)
        .x_label_area_size(36)
        .y_label_area_size(270)
        .build_cartesian_2d(0.0..seconds, -0.5..rows - 0.5)?;
    below
        .configure_mesh()
        .disable_mesh()
        .x_desc("seconds")
        .y_labels(kinds.len())
        .y_label_formatter(&|row| kinds.get(row.round() as usize).copied().unwrap_or_default().to_owned())
        .draw()?;
    let width = seconds / SLICES as f64;
    for (row, kind) in kinds.iter().enumerate() {
        let mut counts = [0_usize; SLICES];
        for fault in struck.iter().filter(|fault| fault.kind == *kind) {
            counts[((second_of(fault) / width).max(0.0) as usize).min(SLICES - 1)] += 1;
        }
        let most = counts.iter().copied().max().unwrap_or(1).max(1) as f64;
        let slices = counts.iter().enumerate().filter(|(_, count)| **count > 0).map(|(slice, count)| {
            let (from, to) = (slice as f64 * width, (slice + 1) as f64 * width);
            let darkness = 0.3 + 0.7 * *count as f64 / most;
            let color = RGBColor(40, 70, 120).mix(darkness).filled();
            Rectangle::new([(from, row as f64 - 0.32), (to, row as f64 + 0.32)], color)
        });
        below.draw_series(slices)?;
    }
    root.present()?;
    Ok(())
}
