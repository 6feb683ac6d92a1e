//! Steps of a rationale become latent steps, one after the other.
//!
//! ```text
//! q <|latent|> <|cot|> c1 c2 c3 c4 <|answer|> a       stage 0
//! q <|latent|> z z <|cot|> c2 c3 c4 <|answer|> a      stage 1 of 3, two latent steps for a chunk
//! q <|latent|> z z z z <|cot|> c3 c4 <|answer|> a     stage 2
//! q <|latent|> z z z z z z <|cot|> <|answer|> a       stage 3: all chunks are gone
//! ```
//!
//! Each `z` reads the hidden state of the token before it, after the final norm; gradients flow back through all of them. The loss is on the words
//! that are left. The optimizer forgets its moments at each stage; a row with fewer chunks than stages has fewer latent steps until the last stage,
//! where all rows have as many. In the controls a pause token stands for each `z`, or nothing.
//!
//! Source: Hao et al., "Training Large Language Models to Reason in a Continuous Latent Space", arXiv 2412.06769 and its code. There the student is
//! pretrained and stages last epochs; here it starts from random weights and stages are shares of the steps. The learning rate stays at its peak.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::context::{COT, Context, LATENT, Taught};
use crate::curriculum::{Change, Curriculum};
use crate::data::{Span, TokenizedRow};
use crate::error::{Error, Result};
use crate::student::Student;

/// Steps become latent steps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Coconut(pub Stages);

/// Steps become pause tokens: as many positions, known before.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PauseAsThought(pub Stages);

/// Steps go and nothing takes their place.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NoThought(pub Stages);

/// When how many steps go, and what for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Stages {
    /// Chunks that go one by one; at the last stage all do.
    pub stages: usize,
    /// Positions for each.
    pub per_stage: usize,
    /// Share of the steps with the full rationale.
    pub full: f64,
    /// Share of the steps without any of it. Together with `full` 1 at most: the stages between share the rest.
    pub none: f64,
}

impl Default for Stages {
    fn default() -> Self {
        Stages {
            stages: 3,
            per_stage: 2,
            full: 0.3,
            none: 0.3,
        }
    }
}

/// More positions than any task's rationale has tokens are no shortcut.
const MOST_POSITIONS: usize = 512;

/// What stands for a chunk that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Thought {
    Latent,
    Pause,
    None,
}

impl Stages {
    pub(super) fn check(&self, steps: u64) -> Result<(), String> {
        for (name, value) in [("stages", self.stages), ("per_stage", self.per_stage)] {
            if value == 0 {
                return Err(format!("`{name}` is 0; expected at least 1"));
            }
        }
        if self.positions() > MOST_POSITIONS {
            return Err(format!(
                "`stages` · `per_stage` is {}; expected at most {MOST_POSITIONS}",
                self.positions()
            ));
        }
        let is_share = |share: f64| (0.0..=1.0).contains(&share);
        if !is_share(self.full) || !is_share(self.none) || self.full + self.none > 1.0 {
            return Err(format!(
                "`full` is {} and `none` is {}; expected shares whose sum is at most 1",
                self.full, self.none
            ));
        }
        let between = self.begin(self.stages, steps) - self.begin(1, steps);
        if between < self.stages as u64 - 1 {
            return Err(format!(
                "{} stages do not fit the {between} steps between `full` and `none`",
                self.stages - 1
            ));
        }
        Ok(())
    }

    /// Positions at the last stage.
    fn positions(&self) -> usize {
        self.stages.saturating_mul(self.per_stage)
    }

    /// The first step of a stage, counted from 1.
    fn begin(&self, stage: usize, steps: u64) -> u64 {
        let first = steps as f64 * self.full;
        let last = steps as f64 * (1.0 - self.none);
        let share = (stage - 1) as f64 / (self.stages - 1).max(1) as f64;
        match stage == self.stages {
            true => last.round() as u64,
            false => (first + (last - first) * share).round() as u64,
        }
    }

    /// The stage of a step.
    fn stage(&self, step: u64, steps: u64) -> usize {
        let mut begun = (1..=self.stages).filter(|stage| self.begin(*stage, steps) <= step);
        begun.next_back().unwrap_or(0)
    }

    pub(super) fn teach(&self, context: &Context, thought: Thought) -> Result<Taught> {
        let mut training = context.training(LATENT);
        training.constant_rate = true;
        match thought {
            Thought::Latent => training.positions.latents = self.positions(),
            Thought::Pause => training.positions.pauses = self.positions(),
            Thought::None => {}
        }
        let encoder = context.encoder_of(&training)?;
        let (_, open) = encoder
            .route(LATENT)
            .ok_or_else(|| Error::Tokenizer("has no latent route".to_owned()))?;
        let rows = context.encode(&encoder, COT, context.rows)?;
        let rows = rows
            .into_iter()
            .map(|row| {
                let chunks = super::segments(&encoder, &row, COT);
                // The last segment is the answer; the one before it ends with the token that starts the answer.
                let starts = chunks[..chunks.len() - 1].iter().map(|chunk| chunk.start);
                Words {
                    starts: starts.collect(),
                    row,
                }
            })
            .collect();
        let curriculum = Replacing {
            rows,
            open: open[0],
            thought,
            pause: open.last().copied().unwrap_or(open[0]),
            stages: self.clone(),
            steps: context.spec.steps,
            state: State::default(),
        };
        let longest = curriculum.longest();
        let most = context.spec.model.max_position_embeddings;
        if longest > most {
            return Err(Error::Experiment(format!(
                "a row has up to {longest} tokens with its positions, the context has {most}"
            )));
        }
        context.train_with(training, Box::new(curriculum))
    }
}

/// A row in words.
#[derive(Debug)]
struct Words {
    /// On the route `cot`.
    row: TokenizedRow,
    /// First token of each chunk.
    starts: Vec<usize>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct State {
    stage: usize,
}

#[derive(Debug)]
struct Replacing {
    rows: Vec<Words>,
    open: u32,
    pause: u32,
    thought: Thought,
    stages: Stages,
    steps: u64,
    state: State,
}

impl Replacing {
    /// A row at a stage.
    fn row(&self, words: &Words, stage: usize) -> TokenizedRow {
        let Words { row, starts } = words;
        let is_last = stage == self.stages.stages;
        let gone = if is_last {
            starts.len()
        } else {
            stage.min(starts.len())
        };
        let positions = match self.thought {
            Thought::None => 0,
            _ if is_last => self.stages.positions(),
            _ => gone * self.stages.per_stage,
        };
        // `<|cot|>` stands before the first chunk, `<|answer|>` before the answer.
        let cot = starts.first().map_or(row.answer - 1, |start| *start) - 1;
        let rest = starts.get(gone).map_or(row.answer - 1, |start| *start);
        let mut tokens = row.tokens[..cot].to_vec();
        tokens.push(self.open);
        let first = tokens.len();
        let filler = if self.thought == Thought::Pause {
            self.pause
        } else {
            self.open
        };
        tokens.resize(first + positions, filler);
        tokens.push(row.tokens[cot]);
        let words = tokens.len();
        tokens.extend_from_slice(&row.tokens[rest..]);
        let answer = words + row.answer - rest;
        // With no words left the engine writes the token that starts the answer.
        let learned = if rest == row.answer - 1 {
            answer
        } else {
            words
        };
        let span = |range, weight| Span { range, weight };
        TokenizedRow {
            group: row.group,
            answer,
            latents: match self.thought {
                Thought::Latent => first..first + positions,
                _ => 0..0,
            },
            spans: vec![span(0..learned, 0.0), span(learned..tokens.len(), 1.0)],
            tokens,
            ..TokenizedRow::default()
        }
    }

    /// Tokens of the longest row at any stage.
    fn longest(&self) -> usize {
        let stages = 0..=self.stages.stages;
        let lengths = stages.flat_map(|stage| {
            let rows = self.rows.iter();
            rows.map(move |words| self.row(words, stage).tokens.len())
        });
        lengths.max().unwrap_or(0)
    }
}

impl Curriculum for Replacing {
    fn advance(&mut self, step: u64, _: bool, _: &Student) -> Result<Option<Change>> {
        let stage = self.stages.stage(step, self.steps);
        if stage == self.state.stage && step > 0 {
            return Ok(None);
        }
        self.state.stage = stage;
        Ok(Some(Change {
            restarts_optimizer: step > 0,
            flops: 0,
        }))
    }

    fn rows(&self) -> Result<Vec<TokenizedRow>> {
        let stage = self.state.stage;
        Ok(self
            .rows
            .iter()
            .map(|words| self.row(words, stage))
            .collect())
    }

    fn state(&self) -> Value {
        serde_json::to_value(&self.state).expect("a number serialises")
    }

    fn restore(&mut self, state: Value) -> Result<()> {
        self.state = serde_json::from_value(state)
            .map_err(|error| Error::Experiment(format!("state of the stages: {error}")))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: u32 = 90;
    const PAUSE: u32 = 91;

    /// `q q <cot 50> a a <sep 60> b <answer 70> x <end 80>`, as stages of two positions.
    fn replacing(thought: Thought) -> Replacing {
        Replacing {
            rows: vec![Words {
                row: TokenizedRow {
                    tokens: vec![1, 2, 50, 3, 3, 60, 4, 70, 5, 80],
                    answer: 8,
                    ..TokenizedRow::default()
                },
                starts: vec![3, 6],
            }],
            open: OPEN,
            pause: PAUSE,
            thought,
            stages: Stages {
                stages: 3,
                ..Stages::default()
            },
            steps: 100,
            state: State::default(),
        }
    }

    #[test]
    fn chunks_become_latent_tokens() {
        let curriculum = replacing(Thought::Latent);
        let z = OPEN;
        let expected: [(&[u32], std::ops::Range<usize>, usize); 4] = [
            (&[1, 2, OPEN, 50, 3, 3, 60, 4, 70, 5, 80], 3..3, 4),
            (&[1, 2, OPEN, z, z, 50, 4, 70, 5, 80], 3..5, 6),
            // The row has no third chunk: two stand for all.
            (&[1, 2, OPEN, z, z, z, z, 50, 70, 5, 80], 3..7, 9),
            (&[1, 2, OPEN, z, z, z, z, z, z, 50, 70, 5, 80], 3..9, 11),
        ];
        for (stage, (tokens, latents, first)) in expected.into_iter().enumerate() {
            let row = curriculum.row(&curriculum.rows[0], stage);
            assert_eq!(row.tokens, tokens, "stage {stage}");
            assert_eq!(row.latents, latents, "stage {stage}");
            assert_eq!(row.scored().next().unwrap().0, first, "stage {stage}");
            assert_eq!(row.tokens[row.answer], 5);
        }
        assert_eq!(curriculum.longest(), 13);
    }

    #[test]
    fn controls_have_pauses_or_nothing() {
        let curriculum = replacing(Thought::Pause);
        let row = curriculum.row(&curriculum.rows[0], 1);
        assert_eq!(row.tokens, [1, 2, OPEN, PAUSE, PAUSE, 50, 4, 70, 5, 80]);
        assert!(row.latents.is_empty());
        let curriculum = replacing(Thought::None);
        let row = curriculum.row(&curriculum.rows[0], 3);
        assert_eq!(row.tokens, [1, 2, OPEN, 50, 70, 5, 80]);
    }

    #[test]
    fn stages_begin_at_equal_distances() {
        let stages = Stages::default();
        let at = [0, 29, 30, 49, 50, 69, 70, 99].map(|step| stages.stage(step, 100));
        assert_eq!(at, [0, 0, 1, 1, 2, 2, 3, 3]);
        let at_once = Stages {
            full: 0.0,
            none: 1.0,
            stages: 1,
            ..Stages::default()
        };
        assert_eq!((at_once.check(100), at_once.stage(0, 100)), (Ok(()), 1));
    }
}
