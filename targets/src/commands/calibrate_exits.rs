//! `skim calibrate-exits`: from which confidence on may tokens leave the stack early?
//!
//! ```text
//! questions ─▶ all layers: right?, cost
//!           ─▶ threshold after threshold, the surest first: right?, cost ─▶ how many are lost ─▶ the promise holds, or the end
//! ```
//!
//! A token that leaves early changes what later ones see, so every threshold runs every question; nothing is replayed. The thresholds
//! stand here, whatever the questions are: that is what makes testing them one after the other valid.

mod report;

use std::path::PathBuf;
use std::time::Instant;

use skimstone::eval::{Tally, binomial_tail, learn_then_test};
use skimstone::reason::{Ask, Engine, EngineOptions};
use skimstone::{
    Depth, DepthPolicy, Error, ExitCalibration, ExitDecay, ExitMeasure, ExitPoint, ExitSpec,
    MissingKv, Model, ReasoningSpec, RouteDepth,
};

use self::report::{Point, Report};
use super::calibration::{Questions, THRESHOLDS, tell, within};
use crate::data::Row;
use crate::depth::{every_exit, measure, missing_kv};
use crate::failure::Result;
use crate::model::{ModelArgs, Prompter, at_least_one};
use crate::terminal::progress_bar;

/// Arguments of `skim calibrate-exits`.
#[derive(clap::Args)]
#[command(after_help = "\
Use questions that are neither those of the training nor those that accuracies will be told of, and the bundle
as it will be shipped: quantization moves confidences. Right is what `skim eval` calls right; a question is lost
if all layers answer it right and the exits answer it wrong. Of the thresholds, from the surest down, those are
safe for which so few are lost that a share above --risk would show so few with a probability of at most
--failure (binomial tail; Learn-then-Test with a fixed sequence). Taken is the safe one with the fewest layer
passes. Routes take the exits only with --switch-on.

With --json: route, n, risk, failure, layers, measure, policy, missing_kv, full (as in `skim eval --json`),
points (threshold, lost, gained, p_value, score), safe (how many of them are), chosen, data_sha256.")]
pub(crate) struct CalibrateExits {
    #[command(flatten)]
    model: ModelArgs,

    /// Rows {"question", "answer"}; JSONL, plain or gzipped.
    data: PathBuf,

    /// The new bundle: the same weights, and a section `exits`.
    #[arg(long, value_name = "NEW.skim")]
    out: PathBuf,

    /// The route to answer by [default: the bundle's].
    #[arg(long)]
    route: Option<String>,

    /// After how many layers a token may leave, separated by commas [default: after each].
    #[arg(long, value_name = "N", value_delimiter = ',')]
    layers: Vec<usize>,

    /// What tells the confidence: softmax or saturation.
    #[arg(long, default_value = "softmax", value_parser = measure)]
    measure: ExitMeasure,

    /// What a confident exit leaves out: halt (all layers above) or bypass (the next one).
    #[arg(long, default_value = "halt", value_parser = policy)]
    policy: DepthPolicy,

    /// What layers that a token left out hold for it: propagate or ragged.
    #[arg(long, default_value = "propagate", value_name = "WHAT", value_parser = missing_kv)]
    missing_kv: MissingKv,

    /// Let thresholds fall over so many tokens, at CALM's rate of 4.
    #[arg(long, value_name = "TOKENS", value_parser = at_least_one)]
    decay: Option<usize>,

    /// The share of questions that may be lost.
    #[arg(long, value_name = "SHARE", default_value_t = 0.01, value_parser = within)]
    risk: f64,

    /// The probability with which more may be lost all the same.
    #[arg(long, value_name = "SHARE", default_value_t = 0.05, value_parser = within)]
    failure: f64,

    /// Let the route take the exits from now on.
    #[arg(long)]
    switch_on: bool,

    /// Take the first N rows only.
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    limit: Option<usize>,

    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl CalibrateExits {
    pub(crate) fn run(self) -> Result {
        let questions = Questions::read(&self.data, self.limit)?;
        let rows = &questions.rows;
        let model = self.model.open()?;
        let default = || model.reasoning().default_route.clone();
        let route = self.route.clone().unwrap_or_else(default);
        let mut exam = Exam::new(&model, &route, rows)?;
        let spec = self.spec(&model);
        // What can be refused is refused before the first answer.
        exam.check(&spec)?;

        let (full, right) = exam
            .take(Depth::Full)
            .map_err(|(line, error)| questions.at(line, error))?;
        let mut points: Vec<Point> = Vec::new();
        for threshold in THRESHOLDS {
            let spec = ExitSpec {
                threshold,
                ..spec.clone()
            };
            let (tally, now) = exam
                .take(Depth::Exits(spec))
                .map_err(|(line, error)| questions.at(line, error))?;
            let count = |before: bool| {
                let changed = right.iter().zip(&now).filter(|(a, b)| a != b);
                changed.filter(|(a, _)| **a == before).count()
            };
            points.push(Point {
                threshold,
                lost: count(true),
                gained: count(false),
                p_value: binomial_tail(count(true), rows.len(), self.risk),
                score: tally.score(),
            });
            if self.safe(&points, rows.len()) < points.len() {
                break;
            }
        }
        let safe = self.safe(&points, rows.len());
        exam.end();

        let full = full.score();
        let passes = |point: &&Point| point.score.mean_layer_passes;
        let chosen = points[..safe]
            .iter()
            .filter(|point| passes(point) < full.mean_layer_passes)
            .min_by(|a, b| passes(a).total_cmp(&passes(b)))
            .copied();
        let report = Report {
            route: &route,
            n: rows.len(),
            risk: self.risk,
            failure: self.failure,
            layers: &spec.layers,
            measure: self.measure.name(),
            policy: self.policy.name(),
            missing_kv: self.missing_kv.name(),
            full,
            points: &points,
            safe,
            chosen,
            data_sha256: &questions.sha256,
        };
        let chosen = tell(&report, self.json, Report::print, chosen, || {
            let message = format!(
                "no threshold of `{}` saves layers and certainly loses less than {} of {} questions",
                self.measure.name(),
                self.risk,
                rows.len()
            );
            let hint = "allow more with --risk, use more questions, or a student that was trained with exits";
            (message, hint)
        })?;
        let exits = ExitSpec {
            threshold: chosen.threshold,
            calibration: Some(report.calibration()),
            ..spec
        };
        let reasoning = self.reasoning(&model, &route, exits);
        Ok(model.bundle().rewrite(&self.out, reasoning)?)
    }

    /// How many of the thresholds keep the promise.
    fn safe(&self, points: &[Point], n: usize) -> usize {
        let lost = points.iter().map(|point| point.lost);
        learn_then_test(lost, n, self.risk, self.failure)
    }

    /// The exits, at no threshold yet.
    fn spec(&self, model: &Model) -> ExitSpec {
        let layers = match self.layers.is_empty() {
            true => every_exit(model),
            false => self.layers.clone(),
        };
        let mut spec = ExitSpec::new(layers, 1.0);
        spec.measure = self.measure;
        spec.policy = self.policy;
        spec.missing_kv = self.missing_kv;
        spec.decay = self.decay.map(|tokens| ExitDecay { rate: 4.0, tokens });
        spec
    }

    fn reasoning(&self, model: &Model, route: &str, exits: ExitSpec) -> ReasoningSpec {
        let mut reasoning = model.reasoning().clone();
        reasoning.exits = Some(exits);
        if self.switch_on
            && let Some(route) = reasoning.routes.get_mut(route)
        {
            route.depth = RouteDepth::Exits;
        }
        reasoning
    }
}

/// A model that answers the same questions again and again.
struct Exam<'a> {
    prompter: Prompter<'a>,
    engine: Engine,
    ask: Ask,
    rows: &'a [Row],
    bar: indicatif::ProgressBar,
}

impl<'a> Exam<'a> {
    fn new(model: &'a Model, route: &str, rows: &'a [Row]) -> Result<Self> {
        model.reasoning().route(route)?;
        model.require_tokenizer()?;
        Ok(Exam {
            prompter: Prompter::new(model)?,
            engine: Engine::new(model, EngineOptions::default())?,
            ask: Ask::new().with_route(route),
            rows,
            bar: progress_bar(
                ((THRESHOLDS.len() + 1) * rows.len()) as u64,
                "{bar:30} {pos} / at most {len} · {elapsed}",
            ),
        })
    }

    /// What may be refused about the exits.
    fn check(&mut self, exits: &ExitSpec) -> Result<(), Error> {
        let prompt = self.prompter.ids(&self.rows[0].question)?;
        let ask = self.ask.clone().with_depth(Depth::Exits(exits.clone()));
        self.engine.ask(&prompt, &ask)
    }

    /// Every question at this depth: costs, and which were right. An error comes with its line.
    fn take(&mut self, depth: Depth) -> Result<(Tally, Vec<bool>), (usize, Error)> {
        let ask = self.ask.clone().with_depth(depth);
        let (mut tally, mut right) = (Tally::default(), Vec::with_capacity(self.rows.len()));
        for row in self.rows {
            let asked = Instant::now();
            let prompt = self.prompter.ids(&row.question);
            let answer = prompt
                .and_then(|prompt| self.engine.answer(&prompt, &ask))
                .map_err(|error| (row.line, error))?;
            let ms = asked.elapsed().as_secs_f64() * 1e3;
            right.push(answer.text.trim() == row.answer.trim());
            tally.count(right[right.len() - 1], &answer.usage, ms);
            self.bar.inc(1);
        }
        Ok((tally, right))
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}

impl Report<'_> {
    /// What the bundle keeps.
    fn calibration(&self) -> ExitCalibration {
        let point = |point: &Point| ExitPoint {
            threshold: point.threshold,
            accuracy: point.score.accuracy as f32,
            lost: point.lost,
            p_value: point.p_value as f32,
            layer_passes: point.score.mean_layer_passes as f32,
            head_passes: point.score.mean_head_passes as f32,
        };
        ExitCalibration {
            data_sha256: self.data_sha256.to_owned(),
            n: self.n,
            route: self.route.to_owned(),
            risk: self.risk as f32,
            failure: self.failure as f32,
            accuracy: self.full.accuracy as f32,
            layer_passes: self.full.mean_layer_passes as f32,
            head_passes: self.full.mean_head_passes as f32,
            points: self.points.iter().map(point).collect(),
        }
    }
}

fn policy(argument: &str) -> Result<DepthPolicy, String> {
    let known = DepthPolicy::ALL.map(DepthPolicy::name).join(", ");
    DepthPolicy::from_name(argument).ok_or_else(|| format!("known policies: {known}"))
}
