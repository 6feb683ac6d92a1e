//! Whether routers know what they leave out: the same questions with other rules in their place.
//!
//! | rule | a layer of a latent step is left out where |
//! |---|---|
//! | full | nowhere |
//! | router λ | its router says more than λ |
//! | random | a coin says so, as often in each layer as routers do at the student's own λ |
//! | fixed | it is this layer, in every step |
//!
//! Each rule runs as the step ends there and the next one resumes, routers as well with single layers left out ([`DepthPolicy`]). Routers are worth
//! something where they are right more often than a coin or a fixed layer that runs as many layers. On the way it is looked at whether they say more of
//! steps that are not critical.

use std::collections::BTreeMap;
use std::path::Path;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use skimstone::{
    DepthPolicy, Model, ModelOptions, RouteSpec, Session, SessionOptions, ShortcutSpec,
};

use super::interventions::Asker;
use crate::data::{Encoder, Row};
use crate::error::Result;
use crate::methods::shortcut::{critical, groups};
use crate::pack::Batch;
use crate::pass::{Depth, Pass};
use crate::recipe::Recipe;
use crate::score::argmax;
use crate::student::Student;
use crate::tasks::Task;

/// Questions that are asked by each rule.
const QUESTIONS: usize = 500;

/// Thresholds that are looked at.
const THRESHOLDS: [f32; 6] = [0.3, 0.4, 0.5, 0.6, 0.7, 0.8];

/// Questions of one pass.
const ROWS: usize = 50;

/// Seed of the coins.
const SEED: u64 = 1;

/// What rules in the place of routers did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Routing {
    /// Questions.
    pub n: usize,
    /// Right answers of the student as it was trained, where latent tokens take a mix of layer and adapter: every token of the answer the likeliest, given
    /// those before.
    pub mixed: usize,
    /// One entry per rule.
    pub rules: Vec<RuleOutcome>,
    /// Probability that the routers say more of a step that is not critical than of one that is, for each student; empty if the task has steps of one
    /// kind only.
    pub auroc: Vec<f64>,
}

/// What one rule did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleOutcome {
    /// The rule.
    pub rule: String,
    /// Right answers.
    pub right: usize,
    /// Layers that all latent steps of all questions ran.
    pub layers: usize,
}

impl Routing {
    /// Both students' counts; rules in the same order.
    pub(crate) fn add(mut self, other: Routing) -> Routing {
        self.n += other.n;
        self.mixed += other.mixed;
        for (own, other) in self.rules.iter_mut().zip(other.rules) {
            own.right += other.right;
            own.layers += other.layers;
        }
        self.auroc.extend(other.auroc);
        self
    }
}

/// Asks the first rows greedily by every rule; `None` for a bundle without routers. `student` is what the bundle was made of, `recipe` how it was taught.
pub(crate) fn route(
    bundle: &Path,
    (student, recipe): (&Student, &Recipe),
    rows: &[Row],
    task: &Task,
    route_name: &str,
    max_answer_tokens: usize,
) -> Result<Option<Routing>> {
    let model = Model::open(bundle, ModelOptions::new().with_threads(1))?;
    let spec = model.reasoning();
    let (Some(own), route) = (spec.shortcut, spec.route(route_name)?.clone()) else {
        return Ok(None);
    };
    let (layers, steps) = (model.config().num_hidden_layers, route.latent_steps);
    let mut asker = Asker {
        session: Session::new(&model, SessionOptions::new())?,
        stop: spec.stop.clone(),
        route,
        max_answer_tokens,
    };
    let halt = ShortcutSpec {
        policy: DepthPolicy::Halt,
        resume: true,
        ..own
    };
    let bypass = ShortcutSpec {
        policy: DepthPolicy::Bypass,
        resume: false,
        ..own
    };
    let rows = &rows[..rows.len().min(QUESTIONS)];
    let mut found = Routing {
        n: rows.len(),
        mixed: mixed(student, recipe, rows, route_name)?,
        ..Routing::default()
    };
    let mut ask = |name: String, how: ShortcutSpec, rule: &mut Rule<'_>| -> Result<()> {
        let mut outcome = RuleOutcome {
            rule: name,
            right: 0,
            layers: 0,
        };
        for (index, row) in rows.iter().enumerate() {
            let text = asker.ask_by(&row.question, |session, route, step| {
                let is_last = step + 1 == steps;
                let leaves_out = |layer: usize, gate: f32| rule(index, step, layer, gate);
                let ran = session.step_routed(&route.latent_map, &how, is_last, leaves_out)?;
                outcome.layers += ran.layers;
                Ok(())
            })?;
            outcome.right += usize::from(task.grade(row, &text));
        }
        found.rules.push(outcome);
        Ok(())
    };

    // What routers say of whole steps, and whether these are critical.
    let mut said: Vec<(f64, bool)> = Vec::new();
    let mut sums = BTreeMap::<(usize, usize), f64>::new();
    ask("full".to_owned(), halt, &mut |row, step, _, gate| {
        *sums.entry((row, step)).or_default() += f64::from(gate);
        false
    })?;
    for (index, row) in rows.iter().enumerate() {
        let critical = critical(row);
        for (step, group) in groups(critical.len().max(1), steps).into_iter().enumerate() {
            let is_critical = group
                .clone()
                .any(|chunk| critical.get(chunk) == Some(&true));
            let sum = sums.get(&(index, step)).copied().unwrap_or_default();
            said.push((sum, !is_critical));
        }
    }
    for threshold in THRESHOLDS {
        let mut rule = |_: usize, _: usize, _: usize, gate: f32| gate > threshold;
        ask(format!("router {threshold}, halt"), halt, &mut rule)?;
        ask(format!("router {threshold}, bypass"), bypass, &mut rule)?;
    }
    // How often routers leave out each layer where they are asked at the student's own threshold.
    let mut asked = vec![[0usize; 2]; layers];
    ask(
        "router, own λ, halt".to_owned(),
        halt,
        &mut |_, _, layer, gate| {
            let leaves_out = gate > own.threshold;
            asked[layer][0] += 1;
            asked[layer][1] += usize::from(leaves_out);
            leaves_out
        },
    )?;
    let mut coins = ChaCha8Rng::seed_from_u64(SEED);
    ask("random, halt".to_owned(), halt, &mut |_, _, layer, _| {
        let [of, left] = asked[layer];
        of > 0 && coins.random_ratio(left as u32, of as u32)
    })?;
    for fixed in 1..layers {
        let mut rule = |_: usize, _: usize, layer: usize, _: f32| layer == fixed;
        ask(format!("fixed, halt before layer {fixed}"), halt, &mut rule)?;
    }
    found.auroc = auroc_of(&said).into_iter().collect();
    Ok(Some(found))
}

/// Rows whose answers the student gives as it was trained.
fn mixed(student: &Student, recipe: &Recipe, rows: &[Row], route: &str) -> Result<usize> {
    let encoder = Encoder::open(&recipe.tokenizer, &recipe.routes)?;
    let weights = student.flat_weights()?;
    let mut pass = Pass::new(student.config(), student.side());
    let mut spare = vec![0f32; weights.len()];
    let depth = Depth {
        routed: true,
        ..Depth::default()
    };
    let (mut right, vocabulary) = (0, student.config().vocab_size);
    for rows in rows.chunks(ROWS) {
        let mut batch = Batch::default();
        for row in rows {
            batch.push_row(&encoder.encode(route, &row.question, &row.chunks, &row.answer)?);
        }
        pass.run_with(&weights, &batch, depth, &mut spare, |_, logits, _| {
            let picked = logits.chunks_exact(vocabulary).map(argmax);
            let mut hits = picked
                .zip(&batch.targets)
                .map(|(id, target)| id == *target as usize);
            for count in &batch.row_targets {
                let missed = hits.by_ref().take(*count).filter(|hit| !hit).count();
                right += usize::from(missed == 0);
            }
            // Nothing is learned.
            logits.fill(0.0);
            Ok(())
        })?;
    }
    Ok(right)
}

/// Told the question, the step, the layer and what its router says: whether the layer is left out.
type Rule<'a> = dyn FnMut(usize, usize, usize, f32) -> bool + 'a;

impl Asker {
    /// The answer to a question whose latent steps `step` takes.
    fn ask_by(
        &mut self,
        question: &str,
        mut step: impl FnMut(&mut Session, &RouteSpec, usize) -> Result<()>,
    ) -> Result<String> {
        self.begin(question)?;
        for index in 0..self.route.latent_steps {
            step(&mut self.session, &self.route, index)?;
        }
        self.finish()
    }
}

/// Probability that a value with the label is larger than one without; half for equal ones. `None` if one kind is missing.
fn auroc_of(values: &[(f64, bool)]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut below, mut pairs) = (0.0, 0.0);
    for equal in sorted.chunk_by(|a, b| a.0 == b.0) {
        let with = equal.iter().filter(|(_, label)| *label).count() as f64;
        let without = equal.len() as f64 - with;
        pairs += with * (below + without / 2.0);
        below += without;
    }
    let with = values.len() as f64 - below;
    (with > 0.0 && below > 0.0).then(|| pairs / (with * below))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auroc_counts_pairs_in_order() {
        let values = [(0.1, false), (0.4, true), (0.4, false), (0.9, true)];
        // Of four pairs three are in order and one is equal.
        assert_eq!(auroc_of(&values), Some(3.5 / 4.0));
        assert_eq!(auroc_of(&values[..1]), None);
    }

    #[test]
    fn students_add_up() {
        let one = |right| Routing {
            n: 10,
            mixed: right,
            rules: vec![RuleOutcome {
                rule: "full".to_owned(),
                right,
                layers: 30,
            }],
            auroc: vec![0.5],
        };
        let both = one(3).add(one(4));
        assert_eq!(
            (both.n, both.rules[0].right, both.rules[0].layers),
            (20, 7, 60)
        );
        assert_eq!((both.auroc, both.mixed), (vec![0.5, 0.5], 7));
    }
}
