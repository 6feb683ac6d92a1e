//! What an evaluation counted, and how it is told.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;
use skimstone::Model;
use skimstone::reason::Usage;

use crate::failure::Result;
use crate::statistics::{Samples, wilson};
use crate::terminal::{Style, counted};

/// The running counts.
#[derive(Debug, Default)]
pub(super) struct Tally {
    all: Counts,
    by_kind: BTreeMap<String, Counts>,
    ms: Samples,
}

#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    n: usize,
    correct: usize,
    generated_tokens: usize,
    thinking_tokens: usize,
    latent_steps: usize,
    layer_passes: usize,
    head_passes: usize,
}

impl Tally {
    /// Counts one answer.
    pub(super) fn count(&mut self, kind: Option<&str>, correct: bool, usage: &Usage, ms: f64) {
        self.all.count(correct, usage);
        if let Some(kind) = kind {
            let counts = self.by_kind.entry(kind.to_owned()).or_default();
            counts.count(correct, usage);
        }
        self.ms.push(ms);
    }

    /// The share of right answers.
    pub(super) fn accuracy(&self) -> f64 {
        self.all.mean(self.all.correct)
    }
}

impl Counts {
    fn count(&mut self, correct: bool, usage: &Usage) {
        self.n += 1;
        self.correct += usize::from(correct);
        self.generated_tokens += usage.generated_tokens;
        self.thinking_tokens += usage.thinking_tokens;
        self.latent_steps += usage.latent_steps;
        self.layer_passes += usage.layer_passes;
        self.head_passes += usage.head_passes;
    }

    fn mean(&self, sum: usize) -> f64 {
        if self.n == 0 {
            0.0
        } else {
            sum as f64 / self.n as f64
        }
    }

    fn score(&self) -> Score {
        Score {
            accuracy: self.mean(self.correct),
            interval: wilson(self.correct, self.n),
            n: self.n,
            correct: self.correct,
            mean_generated_tokens: self.mean(self.generated_tokens),
            mean_thinking_tokens: self.mean(self.thinking_tokens),
            mean_latent_steps: self.mean(self.latent_steps),
            mean_layer_passes: self.mean(self.layer_passes),
            mean_head_passes: self.mean(self.head_passes),
        }
    }
}

/// Accuracy and mean costs of a set of questions.
#[derive(Debug, Serialize)]
struct Score {
    accuracy: f64,
    /// 95 %, lower and upper end.
    interval: [f64; 2],
    n: usize,
    correct: usize,
    mean_generated_tokens: f64,
    mean_thinking_tokens: f64,
    mean_latent_steps: f64,
    mean_layer_passes: f64,
    mean_head_passes: f64,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
pub(super) struct Report<'a> {
    #[serde(flatten)]
    score: Score,
    p50_ms: f64,
    p95_ms: f64,
    route: &'a str,
    by_kind: BTreeMap<&'a str, Score>,
    model: String,
    data: String,
    kernels: &'a str,
    threads: usize,
}

impl<'a> Report<'a> {
    pub(super) fn new(
        tally: &'a Tally,
        path: &Path,
        data: &Path,
        route: &'a str,
        model: &'a Model,
    ) -> Self {
        let by_kind = tally.by_kind.iter();
        Report {
            score: tally.all.score(),
            p50_ms: tally.ms.percentile(50),
            p95_ms: tally.ms.percentile(95),
            route,
            by_kind: by_kind
                .map(|(kind, counts)| (kind.as_str(), counts.score()))
                .collect(),
            model: path.display().to_string(),
            data: data.display().to_string(),
            kernels: model.kernels(),
            threads: model.threads(),
        }
    }

    /// The table for people.
    pub(super) fn print(&self) -> Result {
        let mut out = io::stdout().lock();
        let style = Style::of(&out);
        let width = self.by_kind.keys().map(|kind| kind.chars().count());
        let width = width
            .chain([self.route.chars().count(), 5])
            .max()
            .unwrap_or(0);
        let title = format!(
            "{:width$}  {:>6}  {:>8}  {:>15}  {:>8}  {:>8}  {:>8}",
            "", "n", "accuracy", "95 % interval", "tokens", "latent", "layers"
        );
        writeln!(out, "{}", style.strong(&title))?;
        let rows = self.by_kind.iter().map(|(kind, score)| (*kind, score));
        for (name, score) in rows.chain([(self.route, &self.score)]) {
            writeln!(
                out,
                "{name:width$}  {:>6}  {:>6.2} %  {:>15}  {:>8.1}  {:>8.1}  {:>8.1}",
                score.n,
                100.0 * score.accuracy,
                format!(
                    "{:.2}–{:.2} %",
                    100.0 * score.interval[0],
                    100.0 * score.interval[1]
                ),
                score.mean_generated_tokens,
                score.mean_latent_steps,
                score.mean_layer_passes,
            )?;
        }
        let times = format!(
            "{:.1} ms median, {:.1} ms at 95 % · {} · {}",
            self.p50_ms,
            self.p95_ms,
            self.kernels,
            counted(self.threads, "thread")
        );
        writeln!(out, "{}", style.dim(&times))?;
        Ok(out.flush()?)
    }
}
