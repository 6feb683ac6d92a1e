//! Evaluation of a bundle through the runtime: what a user gets, not what a loss says.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};
use skimstone::reason::{Ask, Engine, EngineOptions};
use skimstone::{Model, ModelOptions};

use crate::data::{Row, read_rows};
use crate::error::Result;
use crate::manifest::Input;

/// How to evaluate.
#[derive(Clone, Debug)]
pub struct EvalOptions {
    /// Routes to take; all of the bundle if empty.
    pub routes: Vec<String>,
    /// Only the first rows.
    pub limit: Option<usize>,
    /// Questions answered at the same time, each on one thread.
    pub threads: usize,
    /// Most tokens of an answer; a student that never ends would otherwise fill its context.
    pub max_answer_tokens: usize,
}

impl Default for EvalOptions {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        EvalOptions {
            routes: Vec::new(),
            limit: None,
            threads,
            max_answer_tokens: 128,
        }
    }
}

/// The result, written as JSON.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Card {
    /// The bundle that was asked.
    pub bundle: Input,
    /// The questions.
    pub data: Input,
    /// Kernel table of this machine, for the milliseconds.
    pub kernels: String,
    /// Questions answered at the same time.
    pub threads: usize,
    /// One line per route.
    pub routes: BTreeMap<String, RouteCard>,
}

/// How a route did.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct RouteCard {
    /// Over all rows.
    #[serde(flatten)]
    pub all: Line,
    /// By question kind.
    pub kinds: BTreeMap<String, Line>,
}

/// Accuracy and cost over some rows.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Line {
    /// Share of answers equal to the expected text.
    pub accuracy: f64,
    /// Wilson interval of it at 95 %.
    pub interval: [f64; 2],
    /// Rows.
    pub n: usize,
    /// Tokens generated per row, thinking and answer.
    pub mean_generated_tokens: f64,
    /// Of these, thinking.
    pub mean_thinking_tokens: f64,
    /// Latent steps per row.
    pub mean_latent_steps: f64,
    /// Layers run per position after the prompt, per row.
    pub mean_layer_passes: f64,
    /// Median milliseconds per row, prompt included.
    pub p50_ms: f64,
    /// 95th percentile of them.
    pub p95_ms: f64,
}

/// What one question cost and whether its answer was right.
#[derive(Clone, Debug)]
struct Outcome {
    kind: String,
    right: bool,
    generated_tokens: usize,
    thinking_tokens: usize,
    latent_steps: usize,
    layer_passes: usize,
    milliseconds: f64,
}

/// Asks every row of `data` on every route, greedily; `wrong` hears of each answer that is not the expected one.
///
/// # Errors
/// If the bundle or a row is at fault, or a route is unknown.
pub fn evaluate(
    bundle: &Path,
    data: &Path,
    options: &EvalOptions,
    wrong: impl Fn(&str, &Row, &str) + Sync,
) -> Result<Card> {
    let rows = read_rows(data)?
        .take(options.limit.unwrap_or(usize::MAX))
        .collect::<Result<Vec<_>>>()?;
    let model = Model::open(bundle, ModelOptions::new().with_threads(1))?;
    let known = model.reasoning().routes.keys().cloned();
    let routes: Vec<String> = if options.routes.is_empty() {
        known.collect()
    } else {
        options.routes.clone()
    };
    let mut cards = BTreeMap::new();
    for route in routes {
        model.reasoning().route(&route)?;
        let outcomes = ask_all(bundle, &rows, &route, options, &wrong)?;
        let mut kinds: BTreeMap<String, Vec<&Outcome>> = BTreeMap::new();
        for outcome in &outcomes {
            kinds.entry(outcome.kind.clone()).or_default().push(outcome);
        }
        let kinds = kinds
            .into_iter()
            .map(|(kind, outcomes)| (kind, line(&outcomes)))
            .collect();
        cards.insert(
            route,
            RouteCard {
                all: line(&outcomes.iter().collect::<Vec<_>>()),
                kinds,
            },
        );
    }
    Ok(Card {
        bundle: Input::of(bundle)?,
        data: Input::of(data)?,
        kernels: model.kernels().to_owned(),
        threads: options.threads,
        routes: cards,
    })
}

fn ask_all(
    bundle: &Path,
    rows: &[Row],
    route: &str,
    options: &EvalOptions,
    wrong: &(impl Fn(&str, &Row, &str) + Sync),
) -> Result<Vec<Outcome>> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<(usize, Outcome)>> {
        // A model of its own per thread: the map is shared, the pool of one thread is not.
        let model = Model::open(bundle, ModelOptions::new().with_threads(1))?;
        let mut engine = Engine::new(&model, EngineOptions::default())?;
        let ask = Ask::new()
            .with_route(route)
            .with_max_answer_tokens(options.max_answer_tokens);
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(row) = rows.get(index) else {
                return Ok(done);
            };
            let answer = engine.answer_text(&row.question, &ask)?;
            let right = answer.text.trim() == row.answer.trim();
            if !right {
                wrong(route, row, &answer.text);
            }
            let usage = answer.usage;
            let outcome = Outcome {
                kind: row.kind.clone(),
                right,
                generated_tokens: usage.generated_tokens,
                thinking_tokens: usage.thinking_tokens,
                latent_steps: usage.latent_steps,
                layer_passes: usage.layer_passes,
                milliseconds: usage.ms_prefill + usage.ms_thinking + usage.ms_answer,
            };
            done.push((index, outcome));
        }
    };
    let parts = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..options.threads.clamp(1, rows.len().max(1)))
            .map(|_| scope.spawn(work))
            .collect();
        let joined = handles
            .into_iter()
            .map(|handle| handle.join().expect("an evaluation worker does not panic"));
        joined.collect::<Result<Vec<_>>>()
    })?;
    let mut outcomes: Vec<(usize, Outcome)> = parts.into_iter().flatten().collect();
    outcomes.sort_by_key(|(index, _)| *index);
    Ok(outcomes.into_iter().map(|(_, outcome)| outcome).collect())
}

fn line(outcomes: &[&Outcome]) -> Line {
    let n = outcomes.len();
    let right = outcomes.iter().filter(|outcome| outcome.right).count();
    let mean = |of: fn(&Outcome) -> usize| {
        outcomes.iter().map(|o| of(o) as f64).sum::<f64>() / n.max(1) as f64
    };
    let mut milliseconds: Vec<f64> = outcomes.iter().map(|o| o.milliseconds).collect();
    milliseconds.sort_by(f64::total_cmp);
    let percentile = |share: f64| {
        let index = (share * n as f64).ceil() as usize;
        milliseconds
            .get(index.clamp(1, n.max(1)) - 1)
            .copied()
            .unwrap_or(0.0)
    };
    Line {
        accuracy: right as f64 / n.max(1) as f64,
        interval: wilson(right, n),
        n,
        mean_generated_tokens: mean(|o| o.generated_tokens),
        mean_thinking_tokens: mean(|o| o.thinking_tokens),
        mean_latent_steps: mean(|o| o.latent_steps),
        mean_layer_passes: mean(|o| o.layer_passes),
        p50_ms: percentile(0.5),
        p95_ms: percentile(0.95),
    }
}

/// The Wilson score interval of `right` out of `n` at 95 % (Wilson 1927): unlike the normal one it stays inside 0 and 1 and does
/// not vanish when all are right.
pub fn wilson(right: usize, n: usize) -> [f64; 2] {
    if n == 0 {
        return [0.0, 1.0];
    }
    // The normal deviate that leaves 2.5 % on each side.
    const Z: f64 = 1.959_963_984_540_054;
    let (n, share) = (n as f64, right as f64 / n as f64);
    let centre = share + Z * Z / (2.0 * n);
    let spread = Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    [
        ((centre - spread) / scale).max(0.0),
        ((centre + spread) / scale).min(1.0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wilson_matches_published_values() {
        struct Case(usize, usize, [f64; 2]);
        // Newcombe 1998, table I: 81/263, 15/148, 0/20, 1/29, method 3 (score, without continuity correction).
        let cases = [
            Case(81, 263, [0.2553, 0.3662]),
            Case(15, 148, [0.0624, 0.1605]),
            Case(0, 20, [0.0, 0.1611]),
            Case(1, 29, [0.0061, 0.1718]),
        ];
        for Case(right, n, expected) in cases {
            let found = wilson(right, n);
            assert!(
                found
                    .iter()
                    .zip(expected)
                    .all(|(a, b)| (a - b).abs() < 5e-5),
                "{right}/{n}: {found:?}"
            );
        }
        assert_eq!(wilson(0, 0), [0.0, 1.0]);
    }

    #[test]
    fn a_line_sums_up() {
        let outcome = |right, milliseconds| Outcome {
            kind: String::new(),
            right,
            generated_tokens: 10,
            thinking_tokens: 7,
            latent_steps: 0,
            layer_passes: 50,
            milliseconds,
        };
        let outcomes = [
            outcome(true, 3.0),
            outcome(false, 1.0),
            outcome(true, 2.0),
            outcome(true, 9.0),
        ];
        let line = line(&outcomes.iter().collect::<Vec<_>>());
        assert_eq!(
            (line.accuracy, line.n, line.p50_ms, line.p95_ms),
            (0.75, 4, 2.0, 9.0)
        );
        assert_eq!(line.mean_generated_tokens, 10.0);
    }
}
