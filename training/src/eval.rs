//! Evaluation of a bundle through the runtime: what a user gets, not what a loss says.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};
use skimstone::eval::{Score, Tally};
use skimstone::reason::{Ask, Engine, EngineOptions, Usage};
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
    pub all: Score,
    /// By question kind.
    pub kinds: BTreeMap<String, Score>,
}

/// What one question cost and whether its answer was right.
#[derive(Clone, Debug)]
struct Outcome {
    kind: String,
    is_right: bool,
    usage: Usage,
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
        let (mut all, mut kinds) = (Tally::default(), BTreeMap::<String, Tally>::new());
        for outcome in &outcomes {
            let usage = &outcome.usage;
            let ms = usage.ms_prefill + usage.ms_thinking + usage.ms_answer;
            all.count(outcome.is_right, usage, ms);
            let of_kind = kinds.entry(outcome.kind.clone()).or_default();
            of_kind.count(outcome.is_right, usage, ms);
        }
        let kinds = kinds.into_iter().map(|(kind, t)| (kind, t.score()));
        cards.insert(
            route,
            RouteCard {
                all: all.score(),
                kinds: kinds.collect(),
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
            let is_right = answer.text.trim() == row.answer.trim();
            if !is_right {
                wrong(route, row, &answer.text);
            }
            let outcome = Outcome {
                kind: row.kind.clone(),
                is_right,
                usage: answer.usage,
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
