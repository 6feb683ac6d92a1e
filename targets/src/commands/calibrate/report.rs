//! How a calibration is told.

use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;
use skimstone::GateKind;

use super::auroc::Auroc;
use super::curve::{Point, choose};
use crate::failure::Result;
use crate::output::OutputFile;
use crate::terminal::Style;

/// One kind of gate on the questions.
#[derive(Debug, Serialize)]
pub(super) struct ReportGate {
    pub(super) gate: GateKind,
    pub(super) auroc: Auroc,
    pub(super) points: Vec<Point>,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
pub(super) struct Report<'a> {
    pub(super) route: &'a str,
    pub(super) gate: GateKind,
    pub(super) max_loss: f64,
    pub(super) n: usize,
    /// Of the route without a gate.
    pub(super) accuracy: f64,
    pub(super) tokens: f64,
    pub(super) chosen: Option<Point>,
    /// The AUROC of the number of thinking tokens so far, which any confidence must beat.
    pub(super) elapsed_control: Auroc,
    /// Chunk ends at which the answer was longer than the specification's reserve, which is as far as a probe looks.
    pub(super) incomplete: usize,
    pub(super) gates: &'a [ReportGate],
    pub(super) budgets: &'a [Point],
    pub(super) data_sha256: &'a str,
}

impl Report<'_> {
    /// Every point of every curve, one per line.
    pub(super) fn write_csv(&self, path: &Path) -> Result {
        let mut csv = String::from(
            "kind,setting,n,accuracy,low,high,lost,gained,loss_upper,tokens,thinking_tokens\n",
        );
        let gates = self.gates.iter();
        let gates = gates.map(|gate| (gate.gate.name(), gate.points.as_slice()));
        for (kind, points) in [("budget", self.budgets)].into_iter().chain(gates) {
            for point in points {
                let [low, high] = point.interval;
                csv.push_str(&format!(
                    "{kind},{},{},{:.5},{low:.5},{high:.5},{},{},{:.5},{:.2},{:.2}\n",
                    point.setting,
                    self.n,
                    point.accuracy,
                    point.lost,
                    point.gained,
                    point.loss_upper,
                    point.tokens,
                    point.thinking_tokens
                ));
            }
        }
        OutputFile::create(path)?.commit(csv.as_bytes())
    }

    /// The table for people.
    pub(super) fn print(&self) -> Result {
        let mut out = io::stdout().lock();
        let style = Style::of(&out);
        writeln!(
            out,
            "{} without a gate: {:.2} % of {} right, {:.1} tokens",
            self.route,
            100.0 * self.accuracy,
            self.n,
            self.tokens
        )?;
        let title = format!(
            "{:14}  {:>22}  {:>10}  {:>8}  {:>8}  {:>6}",
            "gate", "AUROC, 95 % interval", "threshold", "accuracy", "at worst", "tokens"
        );
        writeln!(out, "{}", style.strong(&title))?;
        for gate in self.gates {
            let Auroc {
                value,
                interval: [low, high],
                ..
            } = gate.auroc;
            let auroc = format!("{value:.3}, {low:.3}–{high:.3}");
            write!(out, "{:14}  {auroc:>22}  ", gate.gate.name())?;
            match choose(&gate.points, self.max_loss, self.tokens) {
                Some(chosen) => {
                    let point = &gate.points[chosen.point];
                    writeln!(
                        out,
                        "{:>10.6}  {:>6.2} %  {:>+6.2} %  {:>6.1}",
                        point.setting,
                        100.0 * point.accuracy,
                        -100.0 * point.loss_upper,
                        point.tokens
                    )?;
                }
                None => writeln!(out, "{:>10}", "none")?,
            }
        }
        let Auroc {
            value,
            interval: [low, high],
            ..
        } = self.elapsed_control;
        let auroc = format!("{value:.3}, {low:.3}–{high:.3}");
        writeln!(out, "{:14}  {auroc:>22}", "tokens so far")?;
        writeln!(out, "{}", style.strong("fixed budgets of thinking tokens"))?;
        for point in self.budgets {
            writeln!(
                out,
                "{:>8}  {:>6.2} %  {:>6.1} tokens",
                point.setting,
                100.0 * point.accuracy,
                point.tokens
            )?;
        }
        Ok(out.flush()?)
    }
}
