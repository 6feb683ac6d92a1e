//! Latent steps that stand for groups of a rationale's steps, and routers that leave out layers of those that matter least.
//!
//! ```text
//! teacher  q <|cot|> c1 <|sep|> c2 <|sep|> c3 <|sep|> c4 <|answer|> a      cross-entropy; its states stay as they are
//!                              ▲                          ▲ last token of each of two groups
//! student  q <|latent|>        z1                         z2  <|cot|> <|answer|> a      cross-entropy of the answer; states drawn to those above
//! ```
//!
//! First the student learns the rationale in words, as a teacher's states mean nothing before. Stage 1: each latent token's last state is drawn to that of the last token of its group. `z2` reads what `z1` computed, or, for most rows, what the
//! teacher computed at `z1`'s group, so that all of them learn at once. Stage 2: the student stays as it is; a router and an adapter before every layer
//! but the first learn which latent steps can do without it.
//!
//! Source: Wang et al., "System-1.5 Reasoning: Traversal in Language and Latent Spaces with Dynamic Shortcuts", arXiv 2505.18962. No code is published;
//! how a rationale becomes latent steps, the share of rows that read their own states, and that teacher and student are one model are our choices.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use skimstone::{DepthPolicy, ShortcutSize, ShortcutSpec};

use super::context::{COT, Context, LATENT, Taught, Training};
use super::self_distillation::pairs;
use crate::curriculum::{Change, Curriculum};
use crate::data::{Encoder, Row, Thought, TokenizedRow};
use crate::error::{Error, Result};
use crate::loss::{Objective, ShortcutWeights};
use crate::student::Student;

/// Words, then stage 1: all steps of the experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Alignment {
    /// Latent steps.
    pub latents: usize,
    /// Weight of the distance to the teacher's states, α.
    pub alpha: f32,
    /// Share of the rows whose latent tokens read their own states instead of the teacher's; drawn anew in every epoch.
    pub self_fed: f64,
    /// Share of the steps in words alone, before.
    pub words: f64,
}

impl Default for Alignment {
    fn default() -> Self {
        Alignment {
            latents: 4,
            alpha: 1.0,
            self_fed: 0.3,
            words: 0.3,
        }
    }
}

/// Words, then both stages, with the loss of the paper in our reading.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct System15(pub Shortcut);

/// The same with terms of ours that push routers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct System15R(pub Shortcut);

/// Parameters of both stages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Shortcut {
    /// As [`Alignment::latents`].
    pub latents: usize,
    /// As [`Alignment::alpha`].
    pub alpha: f32,
    /// As [`Alignment::self_fed`].
    pub self_fed: f64,
    /// As [`Alignment::words`].
    pub words: f64,
    /// Share of the steps that stage 2 takes.
    pub second: f64,
    /// Width of a router's hidden layer.
    pub router_size: usize,
    /// Width of an adapter's hidden layer.
    pub adapter_size: usize,
    /// Weight of the exit loss, β.
    pub exit: f32,
    /// Weight of the push of routers to what the task knows about a step. Left out: 1 for `s1.5-r`, 0 for `system-1.5`, which has none.
    pub router_push: Option<f32>,
    /// Weight of the layers that run. Left out: 0.1 for `s1.5-r`, 0 for `system-1.5`, which has none.
    pub budget: Option<f32>,
    /// λ of the exported student.
    pub threshold: f32,
    /// What a router's word leaves out in the exported student.
    pub policy: DepthPolicy,
}

impl Default for Shortcut {
    fn default() -> Self {
        let Alignment {
            latents,
            alpha,
            self_fed,
            words,
        } = Alignment::default();
        Shortcut {
            latents,
            alpha,
            self_fed,
            words,
            second: 0.3,
            router_size: 8,
            adapter_size: 16,
            exit: 1.0,
            router_push: None,
            budget: None,
            threshold: 0.6,
            policy: DepthPolicy::Halt,
        }
    }
}

/// More latent steps than any task's rationale has tokens are no shortcut.
const MOST_LATENTS: usize = 512;

impl Alignment {
    pub(super) fn check(&self) -> Result<(), String> {
        if !(1..=MOST_LATENTS).contains(&self.latents) {
            let latents = self.latents;
            return Err(format!(
                "`latents` is {latents}; expected 1 to {MOST_LATENTS}"
            ));
        }
        if !(self.alpha.is_finite() && self.alpha >= 0.0) {
            return Err(format!("`alpha` is {}; expected 0 or more", self.alpha));
        }
        if !(0.0..=1.0).contains(&self.self_fed) {
            return Err(format!("`self_fed` is {}; expected a share", self.self_fed));
        }
        if !(0.0..1.0).contains(&self.words) {
            return Err(format!(
                "`words` is {}; expected a share below 1",
                self.words
            ));
        }
        Ok(())
    }

    pub(super) fn teach(&self, context: &Context) -> Result<Taught> {
        self.stages(context, context.spec.steps)
    }

    /// Words and stage 1 in `steps` steps.
    fn stages(&self, context: &Context, steps: u64) -> Result<Taught> {
        let words = (context.spec.steps as f64 * self.words).round() as u64;
        let mut after = None;
        if words > 0 {
            let mut training = context.training(COT);
            training.name = "words".to_owned();
            training.steps = words;
            training.constant_rate = true;
            let rows = context.encode(&context.encoder()?, COT, context.rows)?;
            after = Some(context.train_on(training, rows)?);
            context.unless_stopped()?;
        }
        let mut training = context.training(LATENT);
        training.name = "stage-1".to_owned();
        training.steps = steps - words;
        training.after = after;
        self.stage(context, training)
    }

    fn stage(&self, context: &Context, mut training: Training) -> Result<Taught> {
        training.positions.latents = self.latents;
        training.objective = Objective::Alignment { alpha: self.alpha };
        let encoder = context.encoder_of(&training)?;
        let teachers = context.encode(&encoder, COT, context.rows)?;
        let students = context.encode(&encoder, LATENT, context.rows)?;
        let thoughts: Vec<Vec<Thought>> = context
            .rows
            .iter()
            .zip(&teachers)
            .map(|(row, teacher)| thoughts(&encoder, row, teacher, self.latents))
            .collect();
        let mut rows = pairs(students, teachers);
        for (row, thoughts) in rows.iter_mut().zip(thoughts) {
            row.thoughts = thoughts;
        }
        let curriculum = Feeding {
            rows,
            self_fed: self.self_fed,
            seed: context.seed,
            state: State::default(),
        };
        context.train_with(training, Box::new(curriculum))
    }
}

impl Shortcut {
    fn alignment(&self) -> Alignment {
        Alignment {
            latents: self.latents,
            alpha: self.alpha,
            self_fed: self.self_fed,
            words: self.words,
        }
    }

    fn size(&self) -> ShortcutSize {
        ShortcutSize {
            router: self.router_size,
            adapter: self.adapter_size,
        }
    }

    /// Steps of stage 2.
    fn second_steps(&self, steps: u64) -> u64 {
        (steps as f64 * self.second).round() as u64
    }

    /// `is_ours`: whether there are terms that push routers.
    pub(super) fn check(&self, steps: u64, is_ours: bool) -> Result<(), String> {
        self.alignment().check()?;
        let second = self.second_steps(steps);
        let words = (steps as f64 * self.words).round() as u64;
        if !(0.0..1.0).contains(&self.second) || second == 0 || second + words >= steps {
            return Err(format!(
                "`second` is {} and `words` is {}; expected shares that leave each stage a step of {steps}",
                self.second, self.words
            ));
        }
        for (name, size) in [
            ("router_size", self.router_size),
            ("adapter_size", self.adapter_size),
        ] {
            if size == 0 {
                return Err(format!("`{name}` is 0; expected at least 1"));
            }
        }
        for (name, weight) in [
            ("exit", Some(self.exit)),
            ("router_push", self.router_push),
            ("budget", self.budget),
            ("threshold", Some(self.threshold)),
        ] {
            if weight.is_some_and(|weight| !(weight.is_finite() && weight >= 0.0)) {
                let weight = weight.unwrap_or_default();
                return Err(format!("`{name}` is {weight}; expected 0 or more"));
            }
        }
        let pushes = [self.router_push, self.budget];
        if !is_ours && pushes.iter().flatten().any(|weight| *weight > 0.0) {
            let message = "`router_push` and `budget` are no part of it; call the method `s1.5-r`";
            return Err(message.to_owned());
        }
        Ok(())
    }

    pub(super) fn teach(&self, context: &Context, is_ours: bool) -> Result<Taught> {
        let layers = context.spec.model.num_hidden_layers;
        if layers < 2 {
            return Err(Error::Experiment(format!(
                "`model.num_hidden_layers` is {layers}; routers need at least 2"
            )));
        }
        let second = self.second_steps(context.spec.steps);
        let first = self
            .alignment()
            .stages(context, context.spec.steps - second)?;
        context.unless_stopped()?;

        let mut training = context.training(LATENT);
        training.name = "stage-2".to_owned();
        training.steps = second;
        training.after = Some(first);
        training.positions.latents = self.latents;
        training.shortcut = Some(ShortcutSpec {
            policy: self.policy,
            resume: self.policy == DepthPolicy::Halt,
            ..ShortcutSpec::new(self.size(), self.threshold)
        });
        let ours = |weight: Option<f32>, usual: f32| match is_ours {
            true => weight.unwrap_or(usual),
            false => 0.0,
        };
        training.objective = Objective::Shortcut(ShortcutWeights {
            exit: self.exit,
            router: ours(self.router_push, 1.0),
            budget: ours(self.budget, 0.1),
        });
        let encoder = context.encoder_of(&training)?;
        let mut rows = context.encode(&encoder, LATENT, context.rows)?;
        for (tokens, row) in rows.iter_mut().zip(context.rows) {
            let teacher = encoder.encode(COT, &row.question, &row.chunks, &row.answer)?;
            tokens.thoughts = thoughts(&encoder, row, &teacher, self.latents);
        }
        if !rows
            .iter()
            .flat_map(|row| &row.thoughts)
            .any(|t| !t.critical)
        {
            return Err(Error::Experiment(
                "no latent step of any row stands for steps that are not critical: the task does not tell, or there are too few latent steps"
                    .to_owned(),
            ));
        }
        context.train_on(training, rows)
    }
}

/// Whether each chunk of a row is critical: it uses the result of an earlier one, and the answer may not do without it.
pub(crate) fn critical(row: &Row) -> Vec<bool> {
    let is_critical = |chunk: usize| {
        let is_derived = row.parents.get(chunk).is_none_or(|from| !from.is_empty());
        is_derived && !row.skippable.get(chunk).is_some_and(|skippable| *skippable)
    };
    (0..row.chunks.len()).map(is_critical).collect()
}

/// The chunks that each of `latents` latent steps stands for: groups that follow each other, as equal as can be; the same chunk again where there are
/// fewer of them than steps.
pub(crate) fn groups(chunks: usize, latents: usize) -> Vec<std::ops::Range<usize>> {
    (0..latents)
        .map(|latent| {
            let end = ((latent + 1) * chunks).div_ceil(latents);
            let start = (latent * chunks).div_ceil(latents);
            start.min(end.saturating_sub(1))..end
        })
        .collect()
}

/// What the latent steps of a row stand for.
fn thoughts(encoder: &Encoder, row: &Row, teacher: &TokenizedRow, latents: usize) -> Vec<Thought> {
    let segments = super::segments(encoder, teacher, COT);
    let critical = critical(row);
    // The last segment is the answer. A row without chunks has one for the token that starts the answer.
    let chunks = segments.len() - 1;
    groups(chunks, latents)
        .into_iter()
        .map(|group| Thought {
            step: segments[group.end - 1].end - 1,
            critical: group
                .clone()
                .any(|chunk| critical.get(chunk).is_some_and(|c| *c)),
        })
        .collect()
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct State {
    epochs: u64,
}

/// Rows of which some read their own states, other ones in every epoch.
#[derive(Debug)]
struct Feeding {
    rows: Vec<TokenizedRow>,
    self_fed: f64,
    seed: u64,
    state: State,
}

impl Curriculum for Feeding {
    fn advance(&mut self, _: u64, epoch_ended: bool, _: &Student) -> Result<Option<Change>> {
        self.state.epochs += u64::from(epoch_ended);
        Ok(epoch_ended.then(Change::default))
    }

    fn rows(&self) -> Result<Vec<TokenizedRow>> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(self.state.epochs);
        let rows = self.rows.iter().map(|row| TokenizedRow {
            is_forced: !rng.random_bool(self.self_fed),
            ..row.clone()
        });
        Ok(rows.collect())
    }

    fn state(&self) -> Value {
        serde_json::to_value(&self.state).expect("a number serialises")
    }

    fn restore(&mut self, state: Value) -> Result<()> {
        self.state = serde_json::from_value(state)
            .map_err(|error| Error::Experiment(format!("state of the epochs: {error}")))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_as_equal_as_can_be() {
        assert_eq!(groups(4, 2), [0..2, 2..4]);
        assert_eq!(groups(5, 2), [0..3, 3..5]);
        assert_eq!(groups(2, 4), [0..1, 0..1, 1..2, 1..2]);
        assert_eq!(groups(1, 3), [0..1, 0..1, 0..1]);
        for (chunks, latents) in [(7, 3), (3, 7), (12, 5)] {
            let groups = groups(chunks, latents);
            assert_eq!((groups[0].start, groups[latents - 1].end), (0, chunks));
            assert!(groups.iter().all(|group| !group.is_empty()));
            assert!(groups.windows(2).all(|pair| pair[1].start <= pair[0].end));
        }
    }

    #[test]
    fn a_step_is_critical_if_it_is_derived_and_needed() {
        let row = Row {
            chunks: ["1+2=3", "5+0=5", "3*2=6", "6+0=6"]
                .map(str::to_owned)
                .to_vec(),
            skippable: vec![false, true, false, true],
            parents: vec![vec![], vec![], vec![0], vec![2]],
            ..Row::default()
        };
        assert_eq!(critical(&row), [false, false, true, false]);
        let untold = Row {
            parents: Vec::new(),
            skippable: Vec::new(),
            ..row
        };
        assert_eq!(critical(&untold), [true; 4], "nothing is known");
    }
}
