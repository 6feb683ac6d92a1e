//! What every route answers, and what that costs.

use std::time::Instant;

use serde::Serialize;
use skimstone::eval::{Score, Tally};
use skimstone::reason::{Answer, Ask, Budget, Engine, EngineOptions, Gated};
use skimstone::{Error, FinishReason, Model};

use super::super::calibration::Questions;
use crate::failure::Result;
use crate::model::Prompter;
use crate::terminal::progress_bar;

/// One answer of one route.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outcome {
    pub(super) right: bool,
    /// Smallest probability of its tokens; 0 if it has no end.
    pub(super) certainty: f32,
    pub(super) tokens: usize,
    pub(super) layer_passes: usize,
}

/// One route on all questions.
#[derive(Debug, Serialize)]
pub(super) struct Route {
    pub(super) name: String,
    /// The route that is at least as accurate at no more cost.
    pub(super) dropped: Option<String>,
    pub(super) score: Score,
    /// Layer passes of reading its open, where another rung was before.
    #[serde(skip)]
    pub(super) open: usize,
    #[serde(skip)]
    pub(super) outcomes: Vec<Outcome>,
}

/// A model that answers the same questions along all routes.
pub(super) struct Exam<'a> {
    model: &'a Model,
    prompter: Prompter<'a>,
    questions: &'a Questions,
    bar: indicatif::ProgressBar,
}

impl<'a> Exam<'a> {
    pub(super) fn new(model: &'a Model, questions: &'a Questions) -> Result<Self> {
        model.require_tokenizer()?;
        Ok(Exam {
            model,
            prompter: Prompter::new(model)?,
            questions,
            bar: progress_bar(0, "{bar:30} {pos} / {len} · {elapsed} · {wide_msg}"),
        })
    }

    /// Every route to its end; `shares` further passes are announced.
    pub(super) fn routes(&self, names: &[String], shares: usize) -> Result<Vec<Route>> {
        let (spec, layers) = (
            self.model.reasoning(),
            self.model.config().num_hidden_layers,
        );
        // What can be refused is refused before the first answer.
        for name in names {
            spec.route(name)?;
        }
        let rows = self.questions.rows.len();
        self.bar
            .set_length((names.len() * rows * (1 + shares)) as u64);
        let mut routes = Vec::with_capacity(names.len());
        for name in names {
            let mut tally = Tally::default();
            let mut outcomes = Vec::with_capacity(rows);
            self.bar.set_message(name.clone());
            self.each(name, Budget::unlimited(), |answer, right, ms| {
                tally.count(right, &answer.usage, ms);
                let ended = answer.finish_reason == FinishReason::Stop;
                outcomes.push(Outcome {
                    right,
                    certainty: if ended { answer.certainty } else { 0.0 },
                    tokens: answer.usage.generated_tokens,
                    layer_passes: answer.usage.layer_passes,
                });
            })?;
            routes.push(Route {
                name: name.clone(),
                dropped: None,
                score: tally.score(),
                open: spec.route(name)?.open.len().max(1) * layers,
                outcomes,
            });
        }
        Ok(routes)
    }

    /// What each rung answers with `shares` of its mean layer passes: rung by rung, share by share, which questions are right.
    pub(super) fn limited(&self, rungs: &[&Route], shares: &[f32]) -> Result<Vec<Vec<Vec<bool>>>> {
        let layers = self.model.config().num_hidden_layers;
        let mut tables = Vec::with_capacity(rungs.len());
        for rung in rungs {
            self.bar.set_message(format!("{} under limits", rung.name));
            let close = self.model.reasoning().route(&rung.name)?.close.len();
            let mut table = Vec::with_capacity(shares.len());
            for &share in shares {
                let passes = (f64::from(share) * rung.score.mean_layer_passes).ceil() as usize;
                // Less than the engine begins with is no answer.
                if passes < close * layers {
                    table.push(vec![false; self.questions.rows.len()]);
                    continue;
                }
                let budget = Budget::unlimited().with_layer_passes(passes);
                let mut rights = Vec::with_capacity(self.questions.rows.len());
                self.each(&rung.name, budget, |_, right, _| rights.push(right))?;
                table.push(rights);
            }
            tables.push(table);
        }
        Ok(tables)
    }

    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }

    /// Answers every question, from an empty session each.
    fn each(
        &self,
        route: &str,
        budget: Budget,
        mut take: impl FnMut(&Answer, bool, f64),
    ) -> Result {
        let mut engine = Engine::new(self.model, EngineOptions::default())?;
        let ask = Ask::new().with_route(route).with_budget(budget);
        // As the rung of that route thinks.
        let gate = self.model.reasoning().auto.as_ref();
        let gate = gate.filter(|auto| auto.route == route).map(|auto| Gated {
            gate: auto.gate,
            threshold: auto.threshold,
        });
        for row in &self.questions.rows {
            let asked = Instant::now();
            let answer = self
                .prompter
                .ids(&row.question)
                .and_then(|prompt| match gate {
                    Some(gate) => {
                        engine.ask_with_policy(&prompt, &ask, Box::new(gate))?;
                        engine.wait()
                    }
                    None => engine.answer(&prompt, &ask),
                })
                .map_err(|error: Error| self.questions.at(row.line, error))?;
            let ms = asked.elapsed().as_secs_f64() * 1e3;
            take(&answer, answer.text.trim() == row.answer.trim(), ms);
            self.bar.inc(1);
        }
        Ok(())
    }
}

/// Sorts routes from cheap to dear, and marks those that another one beats at no more layer passes.
pub(super) fn drop_dominated(routes: &mut [Route]) {
    routes.sort_by(|a, b| {
        let cost = |route: &Route| route.score.mean_layer_passes;
        cost(a)
            .total_cmp(&cost(b))
            .then(b.score.correct.cmp(&a.score.correct))
    });
    let mut best: Option<(usize, String)> = None;
    for route in routes.iter_mut() {
        match &best {
            Some((correct, name)) if route.score.correct <= *correct => {
                route.dropped = Some(name.clone());
            }
            _ => best = Some((route.score.correct, route.name.clone())),
        }
    }
}

/// The routes that are left.
pub(super) fn front(routes: &[Route]) -> Vec<&Route> {
    let kept = routes.iter().filter(|route| route.dropped.is_none());
    kept.collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A route from (right, certainty) of its questions, each at `tokens`.
    pub(crate) fn route(name: &str, tokens: usize, seen: &[(bool, f32)]) -> Route {
        let mut tally = Tally::default();
        let usage = skimstone::reason::Usage {
            generated_tokens: tokens,
            layer_passes: 5 * tokens,
            ..Default::default()
        };
        for (right, _) in seen {
            tally.count(*right, &usage, 1.0);
        }
        let outcome = |&(right, certainty): &(bool, f32)| Outcome {
            right,
            certainty,
            tokens,
            layer_passes: 5 * tokens,
        };
        Route {
            name: name.to_owned(),
            dropped: None,
            score: tally.score(),
            open: 5,
            outcomes: seen.iter().map(outcome).collect(),
        }
    }

    #[test]
    fn what_is_dearer_and_no_better_is_dropped() {
        let (yes, no) = ((true, 0.9), (false, 0.9));
        let mut routes = [
            route("worse", 30, &[yes, no, no, no]),
            route("best", 40, &[yes, yes, yes, no]),
            route("cheap", 10, &[yes, no, no, no]),
            route("dear", 50, &[yes, yes, yes, no]),
            route("middle", 20, &[yes, yes, no, no]),
        ];
        drop_dominated(&mut routes);
        let kept: Vec<&str> = front(&routes)
            .iter()
            .map(|route| route.name.as_str())
            .collect();
        assert_eq!(kept, ["cheap", "middle", "best"]);
        let dropped = routes
            .iter()
            .filter_map(|route| Some((route.name.as_str(), route.dropped.as_deref()?)));
        let dropped: Vec<_> = dropped.collect();
        assert_eq!(dropped, [("worse", "middle"), ("dear", "best")]);
    }
}
