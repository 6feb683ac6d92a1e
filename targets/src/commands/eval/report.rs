//! What an evaluation counted, and how it is told.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;
use skimstone::eval::{Pairs, Score, Tally};
use skimstone::reason::Answer;
use skimstone::{FinishReason, Model};

use crate::failure::Result;
use crate::terminal::{Style, counted};

/// The running counts, over all questions and by kind.
#[derive(Debug, Default)]
pub(super) struct Counts {
    all: Tally,
    by_kind: BTreeMap<String, Tally>,
    /// Question by question.
    right: Vec<bool>,
    answered: usize,
    ended: usize,
}

impl Counts {
    /// Counts one answer.
    pub(super) fn count(&mut self, kind: Option<&str>, correct: bool, answer: &Answer, ms: f64) {
        let usage = &answer.usage;
        self.right.push(correct);
        self.answered += usize::from(!answer.text.trim().is_empty());
        self.ended += usize::from(answer.finish_reason == FinishReason::Stop);
        self.all.count(correct, usage, ms);
        if let Some(kind) = kind {
            let of_kind = self.by_kind.entry(kind.to_owned()).or_default();
            of_kind.count(correct, usage, ms);
        }
    }

    /// Whether nothing was counted.
    pub(super) fn is_empty(&self) -> bool {
        self.all.score().n == 0
    }

    /// The share of right answers.
    pub(super) fn accuracy(&self) -> f64 {
        self.all.accuracy()
    }
}

/// How answers ended.
#[derive(Debug, Serialize)]
struct Ends {
    /// Those with words.
    answered: usize,
    /// Those that the student ended, rather than a limit.
    ended: usize,
    /// Those that came within the limit of time.
    in_time: Option<usize>,
}

/// The first route against another one.
#[derive(Debug, Serialize)]
struct Pair<'a> {
    against: &'a str,
    #[serde(flatten)]
    pairs: Pairs,
    loss: f64,
    interval: [f64; 2],
    p_value: f64,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
pub(super) struct Report<'a> {
    #[serde(flatten)]
    score: Score,
    route: &'a str,
    routes: BTreeMap<&'a str, Score>,
    ends: BTreeMap<&'a str, Ends>,
    pairs: Vec<Pair<'a>>,
    by_kind: BTreeMap<&'a str, Score>,
    model: String,
    data: String,
    kernels: &'a str,
    threads: usize,
}

impl<'a> Report<'a> {
    /// The report on at least one route.
    pub(super) fn new(
        counts: &'a [(String, Counts)],
        path: &Path,
        data: &Path,
        model: &'a Model,
        deadline: Option<u64>,
    ) -> Self {
        let (route, first) = &counts[0];
        let by_kind = first.by_kind.iter();
        let routes = counts.iter();
        let ends = |counts: &Counts| Ends {
            answered: counts.answered,
            ended: counts.ended,
            in_time: deadline.map(|ms| counts.all.within(ms as f64)),
        };
        let pair = |(against, counts): &'a (String, Counts)| {
            // An interrupt may have left out the last ones.
            let pairs = Pairs::new(
                counts
                    .right
                    .iter()
                    .copied()
                    .zip(first.right.iter().copied()),
            );
            Pair {
                against,
                pairs,
                loss: pairs.loss(),
                interval: pairs.loss_interval(),
                p_value: pairs.p_value(),
            }
        };
        Report {
            score: first.all.score(),
            route,
            routes: routes
                .map(|(route, counts)| (route.as_str(), counts.all.score()))
                .collect(),
            ends: counts
                .iter()
                .map(|(route, counts)| (route.as_str(), ends(counts)))
                .collect(),
            pairs: counts[1..].iter().map(pair).collect(),
            by_kind: by_kind
                .map(|(kind, tally)| (kind.as_str(), tally.score()))
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
        let names = self.by_kind.keys().chain(self.routes.keys());
        let width = names.map(|name| name.chars().count()).max().unwrap_or(0);
        let width = width.max(5);
        let title = format!(
            "{:width$}  {:>6}  {:>8}  {:>15}  {:>8}  {:>8}  {:>8}  {:>8}  {:>8}",
            "", "n", "accuracy", "95 % interval", "tokens", "latent", "layers", "heads", "probes"
        );
        writeln!(out, "{}", style.strong(&title))?;
        let rows = self.by_kind.iter().map(|(kind, score)| (*kind, score));
        let routes = self.routes.iter().map(|(route, score)| (*route, score));
        for (name, score) in rows.chain(routes) {
            writeln!(
                out,
                "{name:width$}  {:>6}  {:>6.2} %  {:>15}  {:>8.1}  {:>8.1}  {:>8.1}  {:>8.1}  {:>8.2}",
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
                score.mean_head_passes,
                score.mean_probes,
            )?;
        }
        for (route, ends) in &self.ends {
            if let Some(in_time) = ends.in_time {
                let n = self.routes[route].n;
                writeln!(
                    out,
                    "{route}: {in_time} of {n} in time, p99 {:.1} ms; {} with words, {} with an end",
                    self.routes[route].p99_ms, ends.answered, ends.ended
                )?;
            }
        }
        for pair in &self.pairs {
            let [low, high] = pair.interval.map(|end| -100.0 * end);
            writeln!(
                out,
                "{} against {}: {:+.2} points of accuracy ({high:+.2} to {low:+.2}), {} lost, {} gained, p = {:.2e}",
                self.route,
                pair.against,
                -100.0 * pair.loss,
                pair.pairs.lost,
                pair.pairs.gained,
                pair.p_value
            )?;
        }
        let times = format!(
            "{:.1} ms median, {:.1} ms at 95 % · {} · {}",
            self.score.p50_ms,
            self.score.p95_ms,
            self.kernels,
            counted(self.threads, "thread")
        );
        writeln!(out, "{}", style.dim(&times))?;
        Ok(out.flush()?)
    }
}
