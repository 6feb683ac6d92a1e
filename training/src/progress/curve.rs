//! The loss curve as an SVG, from the JSONL record of a run.

use std::collections::BTreeMap;
use std::path::Path;

use plotters::prelude::*;
use serde_json::Value;

use crate::error::{Error, Result};

/// Draws training and validation loss over steps from `events.jsonl` into an SVG.
///
/// # Errors
/// [`Error::Io`] if the record cannot be read or the drawing not be written.
pub fn write_curve(events: &Path, svg: &Path) -> Result<()> {
    let text = std::fs::read_to_string(events).map_err(Error::io(events))?;
    let records: Vec<Value> = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    // By step: a resumed run repeats the steps after its checkpoint, and the later record is the one that counts.
    let points = |event: &str| -> Vec<(f64, f64)> {
        let of_kind = records.iter().filter(|record| record["event"] == event);
        let by_step: BTreeMap<u64, f64> = of_kind
            .filter_map(|record| Some((record["step"].as_u64()?, record["loss"].as_f64()?)))
            .collect();
        by_step
            .into_iter()
            .map(|(step, loss)| (step as f64, loss))
            .collect()
    };
    let (training, validation) = (points("step"), points("validation"));
    let drawing = draw(svg, &training, &validation);
    drawing.map_err(|error| Error::io(svg)(std::io::Error::other(error.to_string())))
}

fn draw(
    svg: &Path,
    training: &[(f64, f64)],
    validation: &[(f64, f64)],
) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let all = || training.iter().chain(validation);
    let last = all().map(|p| p.0).fold(1.0, f64::max);
    let high = all().map(|p| p.1).fold(f64::MIN_POSITIVE, f64::max) * 1.1;
    // A logarithmic axis needs a positive floor; the lowest loss sets it.
    let low = all()
        .map(|p| p.1)
        .filter(|l| *l > 0.0)
        .fold(high, f64::min)
        .min(high / 2.0)
        * 0.9;
    let root = SVGBackend::new(svg, (900, 500)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..last, (low..high).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("optimizer step")
        .y_desc("cross-entropy, nats per target")
        .draw()?;
    for (points, colour) in [(training, BLUE), (validation, RED)] {
        chart.draw_series(LineSeries::new(points.iter().copied(), &colour))?;
    }
    root.present()?;
    Ok(())
}
