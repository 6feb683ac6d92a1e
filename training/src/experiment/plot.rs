//! Accuracy over layer passes, one point per method, with the Pareto front.

use std::path::Path;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::report::MethodReport;
use crate::error::{Error, Result};

/// A method in the plot.
#[derive(Clone, Debug)]
pub(crate) struct Point {
    label: String,
    /// Layers run per position after the question, mean per test row.
    layer_passes: f64,
    /// Mean test accuracy and the ends of its interval.
    accuracy: f64,
    interval: [f64; 2],
}

impl Point {
    pub(super) fn of(method: &MethodReport) -> Point {
        Point {
            label: method.label.clone(),
            layer_passes: method.layer_passes,
            accuracy: method.accuracy.value,
            interval: method.accuracy.interval,
        }
    }
}

/// The points that no other one beats in both respects, by layer passes.
fn front(points: &[Point]) -> Vec<(f64, f64)> {
    let mut by_cost: Vec<(f64, f64)> = points
        .iter()
        .map(|p| (p.layer_passes, p.accuracy))
        .collect();
    by_cost.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.total_cmp(&a.1)));
    let mut out: Vec<(f64, f64)> = Vec::new();
    for point in by_cost {
        if out.last().is_none_or(|last| point.1 > last.1) {
            out.push(point);
        }
    }
    out
}

/// Draws the plot as an SVG.
pub(crate) fn write_pareto(points: &[Point], svg: &Path) -> Result<()> {
    draw(points, svg).map_err(|error| Error::io(svg)(std::io::Error::other(error.to_string())))
}

fn draw(points: &[Point], svg: &Path) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let costs = || points.iter().map(|p| p.layer_passes);
    let high = costs().fold(1.0, f64::max) * 1.3;
    let low = costs().fold(high, f64::min).max(1.0) * 0.8;
    let root = SVGBackend::new(svg, (900, 560)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d((low..high).log_scale(), -0.02..1.04)?;
    chart
        .configure_mesh()
        .max_light_lines(1)
        .x_desc("layer passes per question")
        .y_desc("test accuracy")
        .draw()?;
    chart.draw_series(LineSeries::new(front(points), &BLACK.mix(0.4)))?;
    for (index, point) in points.iter().enumerate() {
        let colour = Palette99::pick(index).to_rgba();
        let at = (point.layer_passes, point.accuracy);
        let bar = point.interval.map(|end| (point.layer_passes, end));
        chart.draw_series([PathElement::new(bar, colour)])?;
        chart.draw_series([Circle::new(at, 4, colour.filled())])?;
        // Labels on the right half stand left of their points, so that they end inside the plot. Pale colours cannot be read as text.
        let (side, shift) = match point.layer_passes * point.layer_passes > low * high {
            true => (HPos::Right, -7),
            false => (HPos::Left, 7),
        };
        let style = ("sans-serif", 13).into_font().color(&BLACK);
        let style = style.pos(Pos::new(side, VPos::Bottom));
        let label = Text::new(point.label.clone(), (shift, -2), style);
        chart.draw_series([EmptyElement::at(at) + label])?;
    }
    root.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_leaves_out_what_is_beaten() {
        let point = |layer_passes, accuracy| Point {
            label: String::new(),
            layer_passes,
            accuracy,
            interval: [accuracy; 2],
        };
        let points = [(8.0, 0.9), (2.0, 0.3), (4.0, 0.2), (4.0, 0.5), (9.0, 0.9)];
        let points = points.map(|(cost, accuracy)| point(cost, accuracy));
        assert_eq!(front(&points), [(2.0, 0.3), (4.0, 0.5), (8.0, 0.9)]);
    }
}
