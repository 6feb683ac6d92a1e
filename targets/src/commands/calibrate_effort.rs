//! `skim calibrate-effort`: which route for which question, and which under which budget?
//!
//! ```text
//! questions ─▶ every route to its end: right?, how sure, cost      ─▶ routes that another one beats at no more cost are dropped
//!           ─▶ every choice of rungs × threshold, the surest first, replayed ─▶ the cheapest that certainly loses little
//!           ─▶ every route under limits: what is left of its accuracy      ─▶ NEW.skim
//! ```
//!
//! Routes leave each other nothing but the prompt and answers are greedy, so one run of each says exactly what every ladder would
//! have answered and cost. Limits cut within the thinking and are run one by one.

mod ladders;
mod outcomes;
mod report;

use std::path::PathBuf;

use skimstone::{LadderCalibration, LadderSpec, Limited, ReasoningSpec, Rung};

use self::ladders::{Chain, chains, cheapest};
use self::outcomes::{Exam, Route, drop_dominated, front};
use self::report::Report;
use super::calibration::{Questions, share, tell, within};
use crate::failure::Result;
use crate::model::{ModelArgs, at_least_one};

/// Limits under which every route is measured, as multiples of its mean layer passes.
const SHARES: [f32; 7] = [0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0];

/// Arguments of `skim calibrate-effort`.
#[derive(clap::Args)]
#[command(after_help = "\
Use questions that are neither those of the training nor those that accuracies will be told of, and the bundle
as it will be shipped. Right is what `skim eval` calls right. `auto` then answers along the cheapest route first
and goes on with a dearer one if the student is not sure enough of its answer: if the smallest probability of any
of its tokens is below the threshold. Of the ladders, those are safe for which the upper end of the 95 % interval
of the accuracy that is lost against the most accurate route stays at or below --max-loss. Thresholds are tested
from the surest down, no further than the first failure, and the level is divided by the choices of rungs that
are tested beside each other. Taken is the safe one with the fewest layer passes. If none is safe, `auto` is the
most accurate route where nothing is limited, and under a budget the one that is right most often within it.

With --json: n, max_loss, failure, routes (name, dropped, score, limited), reference, chains (rungs, points, safe),
chosen, data_sha256.")]
pub(crate) struct CalibrateEffort {
    #[command(flatten)]
    model: ModelArgs,

    /// Rows {"question", "answer"}; JSONL, plain or gzipped.
    data: PathBuf,

    /// The new bundle: the same weights, and a route `auto`.
    #[arg(long, value_name = "NEW.skim")]
    out: PathBuf,

    /// Routes to choose among, separated by commas [default: all].
    #[arg(long, value_name = "ROUTE", value_delimiter = ',')]
    route: Vec<String>,

    /// The accuracy that may be lost against the most accurate route.
    #[arg(long, value_name = "SHARE", default_value_t = 0.01, value_parser = share)]
    max_loss: f64,

    /// What an interval leaves out on both sides together.
    #[arg(long, value_name = "SHARE", default_value_t = 0.05, value_parser = within)]
    failure: f64,

    /// Make `auto` the route that is taken when none is asked for.
    #[arg(long)]
    switch_on: bool,

    /// Take the first N rows only.
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    limit: Option<usize>,

    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl CalibrateEffort {
    pub(crate) fn run(self) -> Result {
        let questions = Questions::read(&self.data, self.limit)?;
        let model = self.model.open()?;
        let names: Vec<String> = match self.route.is_empty() {
            true => model.reasoning().routes.keys().cloned().collect(),
            false => self.route.clone(),
        };
        let exam = Exam::new(&model, &questions)?;
        let mut routes = exam.routes(&names, SHARES.len())?;
        drop_dominated(&mut routes);
        let rungs = front(&routes);
        let chains = chains(&rungs, self.max_loss, self.failure);
        let chosen = cheapest(&chains, &rungs);
        let limited = exam.limited(&rungs, &SHARES)?;
        exam.end();
        let report = Report {
            n: questions.rows.len(),
            max_loss: self.max_loss,
            failure: self.failure,
            reference: &rungs[rungs.len() - 1].name,
            routes: &routes,
            rungs: rungs.iter().map(|rung| rung.name.as_str()).collect(),
            limited: limited
                .iter()
                .map(|table| {
                    table
                        .iter()
                        .map(|rights| accuracy(rights.iter().copied()))
                        .collect()
                })
                .collect(),
            chains: &chains,
            chosen,
            data_sha256: &questions.sha256,
        };
        let several = (rungs.len() > 1).then_some(());
        tell(&report, self.json, Report::print, several, || {
            let message = format!(
                "`{}` is at least as accurate as every route that costs no less: there is nothing to choose from",
                rungs[0].name
            );
            (
                message,
                "name other routes with --route, or use more questions",
            )
        })?;
        let ladder = self.ladder(&rungs, &limited, &report);
        let mut reasoning: ReasoningSpec = model.reasoning().clone();
        reasoning.ladder = Some(ladder);
        if self.switch_on {
            reasoning.default_route = skimstone::AutoSpec::NAME.to_owned();
        }
        Ok(model.bundle().rewrite(&self.out, reasoning)?)
    }

    fn ladder(
        &self,
        rungs: &[&Route],
        limited: &[Vec<Vec<bool>>],
        report: &Report<'_>,
    ) -> LadderSpec {
        let alone = Chain::alone(rungs.len());
        let (chain, point) = match &report.chosen {
            Some(chosen) => {
                let chain = &report.chains[chosen.chain];
                (chain, &chain.points[chosen.point])
            }
            None => (&alone, &alone.replayed(rungs, self.failure)),
        };
        let rung = |(i, route): (usize, &&Route)| {
            let reached = chain.reached(rungs, point.threshold, i);
            let right = route.outcomes.iter().map(|outcome| outcome.right);
            let limit = |(&share, rights): (&f32, &Vec<bool>)| Limited {
                share,
                accuracy: accuracy(rights.iter().copied()),
                reached: Some(among(rights.iter().copied(), &reached)),
            };
            Rung {
                route: route.name.clone(),
                threshold: chain.rungs.contains(&i).then_some(point.threshold),
                accuracy: route.score.accuracy as f32,
                reached: Some(among(right, &reached)),
                tokens: route.score.mean_generated_tokens as f32,
                latent_steps: route.score.mean_latent_steps as f32,
                layer_passes: route.score.mean_layer_passes as f32,
                sorted: point.sorted[i],
                limited: SHARES.iter().zip(&limited[i]).map(limit).collect(),
            }
        };
        LadderSpec {
            rungs: rungs.iter().enumerate().map(rung).collect(),
            calibration: Some(LadderCalibration {
                data_sha256: report.data_sha256.to_owned(),
                n: report.n,
                accuracy: point.accuracy as f32,
                tokens: point.tokens as f32,
                layer_passes: point.layer_passes as f32,
                loss: point.pairs.loss() as f32,
                loss_upper: point.loss_upper as f32,
                max_loss: self.max_loss as f32,
                failure: self.failure as f32,
            }),
        }
    }
}

/// Share of right answers.
fn accuracy(right: impl Iterator<Item = bool>) -> f32 {
    let (mut n, mut hits) = (0usize, 0usize);
    for right in right {
        n += 1;
        hits += usize::from(right);
    }
    hits as f32 / n.max(1) as f32
}

/// Share of right answers among some of the questions.
fn among(right: impl Iterator<Item = bool>, these: &[bool]) -> f32 {
    accuracy(
        right
            .zip(these)
            .filter_map(|(right, &is)| is.then_some(right)),
    )
}
