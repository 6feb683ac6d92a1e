//! One student learns each question twice in a step: in words, and with latent steps whose outcome is held to that of the words.
//!
//! ```text
//! teacher  q <|cot|> c1 c2 c3 <|answer|> a            cross-entropy of the rationale and the answer
//! student  q <|latent|> z z z z z z <|cot|> <|answer|> a   cross-entropy of the answer; at `<|answer|>` all states are drawn to the teacher's
//! ```
//!
//! What a `z` reads is what a small network makes of the hidden state before it. The rationale's last chunk is left out, as it would tell the teacher
//! the answer.
//!
//! Source: Shen et al., "CODI: Compressing Chain-of-Thought into Continuous Space via Self-Distillation", arXiv 2502.21074 and its code. There adapters
//! of a pretrained student are trained; here all weights are, from random ones.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::context::{COT, Context, LATENT, Taught};
use crate::data::{Row, TokenizedRow};
use crate::error::Result;
use crate::loss::Objective;

/// Latent steps, held to the states of a student that thinks in words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Codi {
    /// Latent steps.
    pub latents: usize,
    /// Weight of the distance between the states, `γ`.
    pub gamma: f32,
    /// Width of the hidden layer of the latent map; 0: the student's width.
    pub latent_map_size: usize,
    /// Whether the teacher's rationale keeps its last chunk.
    pub keep_last: bool,
}

impl Default for Codi {
    fn default() -> Self {
        Codi {
            latents: 6,
            gamma: 1.0,
            latent_map_size: 0,
            keep_last: false,
        }
    }
}

/// More latent steps than any task's rationale has tokens are no shortcut.
const MOST_LATENTS: usize = 512;

impl Codi {
    pub(super) fn check(&self) -> Result<(), String> {
        if !(1..=MOST_LATENTS).contains(&self.latents) {
            return Err(format!(
                "`latents` is {}; expected 1 to {MOST_LATENTS}",
                self.latents
            ));
        }
        match self.gamma.is_finite() && self.gamma >= 0.0 {
            true => Ok(()),
            false => Err(format!("`gamma` is {}; expected 0 or more", self.gamma)),
        }
    }

    pub(super) fn teach(&self, context: &Context) -> Result<Taught> {
        let mut training = context.training(LATENT);
        training.positions.latents = self.latents;
        training.objective = Objective::SelfDistillation { gamma: self.gamma };
        training.latent_map_size = Some(match self.latent_map_size {
            0 => context.spec.model.hidden_size,
            size => size,
        });
        let encoder = context.encoder_of(&training)?;
        let mut words: Vec<Row> = context.rows.to_vec();
        if !self.keep_last {
            words.iter_mut().for_each(|row| {
                row.chunks.pop();
            });
        }
        let teachers = context.encode(&encoder, COT, &words)?;
        let students = context.encode(&encoder, LATENT, context.rows)?;
        context.train_on(training, pairs(students, teachers))
    }
}

/// Each row with its teacher. Targets of a student weigh as much more as there are fewer of them, so that both losses are means of the same weight.
pub(super) fn pairs(students: Vec<TokenizedRow>, teachers: Vec<TokenizedRow>) -> Vec<TokenizedRow> {
    let targets =
        |rows: &[TokenizedRow]| -> usize { rows.iter().map(|row| row.scored().count()).sum() };
    let weight = targets(&teachers) as f32 / targets(&students).max(1) as f32;
    let pairs = students.into_iter().zip(teachers);
    pairs
        .map(|(mut student, teacher)| {
            student
                .spans
                .iter_mut()
                .for_each(|span| span.weight *= weight);
            student.teacher = Some(Arc::new(teacher));
            student
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Span;
    use crate::pack::Batch;

    #[test]
    fn both_losses_weigh_the_same_and_the_token_before_the_answer_is_tapped() {
        let row = |len: u32, first: usize, answer: usize| TokenizedRow {
            tokens: (0..len).collect(),
            answer,
            spans: vec![
                Span {
                    range: 0..first,
                    weight: 0.0,
                },
                Span {
                    range: first..len as usize,
                    weight: 1.0,
                },
            ],
            ..TokenizedRow::default()
        };
        let mut student = row(12, 10, 10);
        student.latents = 4..8;
        let rows = pairs(
            vec![student.clone(), student],
            vec![row(9, 3, 7), row(11, 3, 9)],
        );
        let mut batch = Batch::default();
        rows.iter().for_each(|row| batch.push_row(row));
        assert_eq!(batch.total_weight(), 2.0 * (6.0 + 8.0));
        assert_eq!(batch.taps, [6, 9 + 9, 9 + 12 + 8, 9 + 12 + 11 + 9]);
        assert_eq!(batch.latents.len(), 2);
        assert_eq!(rows[0].total_len(), 21);
    }
}
