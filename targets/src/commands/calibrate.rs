//! `skim calibrate`: from which confidence on may a student stop thinking?
//!
//! ```text
//! questions ─▶ think to the end, and at every chunk's end answer aside ─▶ trace: (confidence, right?) at every end
//!           ─▶ every threshold replayed on the trace ─▶ the cheapest whose loss of accuracy is small enough ─▶ NEW.skim
//! ```
//!
//! Probes leave the thinking as it was and answers are greedy, so one trace says exactly what every threshold would have answered
//! and generated. Fixed budgets cut within chunks and are run one by one.

mod auroc;
mod curve;
mod report;
mod trace;

use std::path::PathBuf;

use skimstone::{AutoSpec, Calibration, GateKind, Model, ReasoningSpec};

use self::auroc::auroc;
use self::curve::{Chosen, choose, curve};
use self::report::{Report, ReportGate};
use self::trace::{Tracer, Traces};
use super::calibration::{Questions, share, tell};
use crate::failure::Result;
use crate::model::{ModelArgs, at_least_one};

/// Equally spaced quantiles of the thinking that a bundle keeps.
const QUANTILES: usize = 20;

/// Points of the curve that a bundle keeps.
const STORED_POINTS: usize = 24;

/// Arguments of `skim calibrate`.
#[derive(clap::Args)]
#[command(after_help = "\
Use questions that are neither those of the training nor those that accuracies will be told of. Right is what
`skim eval` calls right. The threshold is the cheapest of those, from the surest down, for which the upper end
of the 95 % interval of the accuracy that is lost stays below --max-loss.

With --json: route, n, accuracy, tokens, chosen, gates (per gate: auroc, auroc_interval, points), budgets, data_sha256.
A point has setting, accuracy, interval, lost, gained, loss_upper, tokens, thinking_tokens.")]
pub(crate) struct Calibrate {
    #[command(flatten)]
    model: ModelArgs,

    /// Rows {"question", "answer"}; JSONL, plain or gzipped.
    data: PathBuf,

    /// The new bundle: the same weights, and a route `auto`.
    #[arg(long, value_name = "NEW.skim")]
    out: PathBuf,

    /// The route that `auto` thinks along.
    #[arg(long, default_value = "cot")]
    route: String,

    /// What tells whether the answer is settled: answer, entropy, max-prob, close-entropy or close-max-prob.
    #[arg(long, default_value = "answer", value_parser = gate)]
    gate: GateKind,

    /// The share of right answers that may be lost.
    #[arg(long, value_name = "SHARE", default_value_t = 0.01, value_parser = share)]
    max_loss: f64,

    /// Write the curves of every gate and of fixed budgets as CSV.
    #[arg(long, value_name = "FILE.csv")]
    curves: Option<PathBuf>,

    /// Fixed budgets of thinking tokens to compare with.
    #[arg(long, value_name = "N", default_value_t = 12)]
    budgets: usize,

    /// Take the first N rows only.
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    limit: Option<usize>,

    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Calibrate {
    pub(crate) fn run(self) -> Result {
        let questions = Questions::read(&self.data, self.limit)?;
        let rows = &questions.rows;
        let model = self.model.open()?;
        let tracer = Tracer::new(&model, &self.route)?;
        let at = |line, error| questions.at(line, error);
        let traces = tracer.traces(rows, at)?;
        let mut limits = traces.thinking_quantiles(self.budgets);
        limits.dedup();
        let budgets = tracer.budgets(rows, &limits, at)?;

        let gates: Vec<ReportGate> = GateKind::ALL
            .into_iter()
            .map(|gate| ReportGate {
                gate,
                auroc: auroc(&traces.seen(gate)),
                points: curve(&traces, gate),
            })
            .collect();
        let of_gate = gates.iter().find(|gate| gate.gate == self.gate);
        let points = of_gate.map_or(&[][..], |gate| &gate.points);
        let chosen = choose(points, self.max_loss, traces.tokens());
        let report = Report {
            route: &self.route,
            gate: self.gate,
            max_loss: self.max_loss,
            n: rows.len(),
            accuracy: traces.accuracy(),
            tokens: traces.tokens(),
            chosen: chosen.map(|chosen| points[chosen.point].clone()),
            elapsed_control: auroc(&traces.elapsed()),
            incomplete: traces.incomplete(),
            gates: &gates,
            budgets: &budgets,
            data_sha256: &questions.sha256,
        };
        if let Some(path) = &self.curves {
            report.write_csv(path)?;
        }
        let chosen = tell(&report, self.json, Report::print, chosen, || {
            let message = format!(
                "no threshold of gate `{}` saves tokens and certainly loses less than {} of accuracy on {} questions",
                self.gate.name(),
                self.max_loss,
                rows.len()
            );
            (message, "allow more with --max-loss, or use more questions")
        })?;
        let reasoning = self.reasoning(&model, &report, &traces, chosen);
        Ok(model.bundle().rewrite(&self.out, reasoning)?)
    }

    fn reasoning(
        &self,
        model: &Model,
        report: &Report<'_>,
        traces: &Traces,
        chosen: Chosen,
    ) -> ReasoningSpec {
        let mut reasoning = model.reasoning().clone();
        if let Some(route) = reasoning.routes.get_mut(&self.route) {
            route.thinking_quantiles = traces.thinking_quantiles(QUANTILES);
        }
        let gate = report.gates.iter().find(|gate| gate.gate == self.gate);
        // It was calibrated without this gate.
        reasoning.ladder = None;
        reasoning.auto = gate.map(|gate| AutoSpec {
            route: self.route.clone(),
            gate: self.gate,
            threshold: gate.points[chosen.point].setting,
            calibration: Some(Calibration {
                data_sha256: report.data_sha256.to_owned(),
                n: report.n,
                accuracy: report.accuracy as f32,
                tokens: report.tokens as f32,
                max_loss: self.max_loss as f32,
                auroc: gate.auroc.value as f32,
                auroc_interval: gate.auroc.interval.map(|end| end as f32),
                points: curve::thinned(&gate.points, chosen.point, STORED_POINTS),
            }),
        });
        reasoning
    }
}

fn gate(argument: &str) -> Result<GateKind, String> {
    let known = GateKind::ALL.map(GateKind::name).join(", ");
    GateKind::from_name(argument).ok_or_else(|| format!("known gates: {known}"))
}
