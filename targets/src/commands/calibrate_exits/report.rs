//! How a calibration of exits is told.

use std::io::{self, Write};

use serde::Serialize;
use skimstone::eval::Score;

use crate::failure::Result;
use crate::terminal::Style;

/// One threshold on the questions.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Point {
    pub(super) threshold: f32,
    /// Questions that all layers answer right and the exits answer wrong, and the reverse.
    pub(super) lost: usize,
    pub(super) gained: usize,
    pub(super) p_value: f64,
    pub(super) score: Score,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
pub(super) struct Report<'a> {
    pub(super) route: &'a str,
    pub(super) n: usize,
    pub(super) risk: f64,
    pub(super) failure: f64,
    pub(super) layers: &'a [usize],
    pub(super) measure: &'a str,
    pub(super) policy: &'a str,
    pub(super) missing_kv: &'a str,
    /// With all layers.
    pub(super) full: Score,
    pub(super) points: &'a [Point],
    /// How many of them, from the first on, keep the promise.
    pub(super) safe: usize,
    pub(super) chosen: Option<Point>,
    pub(super) data_sha256: &'a str,
}

impl Report<'_> {
    /// The table for people.
    pub(super) fn print(&self) -> Result {
        let mut out = io::stdout().lock();
        let style = Style::of(&out);
        let row = |out: &mut dyn Write, name: &str, score: &Score| {
            write!(
                out,
                "{name:>9}  {:>6.2} %  {:>8.1}  {:>8.1}  {:>8.2}",
                100.0 * score.accuracy,
                score.mean_layer_passes,
                score.mean_head_passes,
                score.p50_ms
            )
        };
        let title = format!(
            "{:>9}  {:>8}  {:>8}  {:>8}  {:>8}  {:>6}  {:>6}  {:>9}",
            "threshold", "accuracy", "layers", "heads", "ms", "lost", "gained", "p"
        );
        writeln!(
            out,
            "{} on {} questions, {} after {:?} layers, {}, {}",
            self.route, self.n, self.measure, self.layers, self.policy, self.missing_kv
        )?;
        writeln!(out, "{}", style.strong(&title))?;
        row(&mut out, "all", &self.full)?;
        writeln!(out)?;
        for (i, point) in self.points.iter().enumerate() {
            row(&mut out, &point.threshold.to_string(), &point.score)?;
            let note = if i < self.safe { "" } else { "  not safe" };
            writeln!(
                out,
                "  {:>6}  {:>6}  {:>9.2e}{note}",
                point.lost, point.gained, point.p_value
            )?;
        }
        if let Some(chosen) = &self.chosen {
            let saved = 1.0 - chosen.score.mean_layer_passes / self.full.mean_layer_passes;
            writeln!(
                out,
                "taken: {}, {:.1} % fewer layer passes; at most {} % lost but for a chance of {} %",
                chosen.threshold,
                100.0 * saved,
                100.0 * self.risk,
                100.0 * self.failure
            )?;
        }
        Ok(out.flush()?)
    }
}
