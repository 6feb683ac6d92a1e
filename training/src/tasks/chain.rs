//! Planted chain: left-to-right arithmetic modulo 11 with steps that change nothing.
//!
//! ```text
//! question  7 + 3 - 0 * 4 =
//! chunks    7+3=10 | 10-0=10 | so far so good | 10*4=7
//! skippable false  | true    | true           | false
//! answer    7
//! ```
//!
//! Every step but the planted ones changes the running value, and every step is one-to-one modulo 11 (multipliers are never 0). So the truth is
//! exact in both directions: without the planted chunks the answer is the same, without any other single step it is another one. Modulo 11
//! instead of 10, because even multipliers and 5 would merge values until most answers are 0.

use rand::Rng;
use rand::seq::{IndexedRandom, index};
use serde::{Deserialize, Serialize};

use super::{check_range, check_share};
use crate::data::Row;
use crate::error::Result;

/// Values are taken modulo this prime.
const MODULUS: u32 = 11;

/// Chunks that carry nothing.
const FILLERS: [&str; 6] = [
    "so far so good",
    "on to the next one",
    "nothing special here",
    "step by step",
    "keep going",
    "that was easy",
];

/// Most steps of a chain: ten times what a small student can do without thinking.
const MOST_STEPS: usize = 64;

/// The planted chain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields)]
pub struct Chain {
    /// Fewest operations of a question.
    #[arg(long, default_value_t = Chain::default().min_steps)]
    pub min_steps: usize,
    /// Most operations of a question.
    #[arg(long, default_value_t = Chain::default().max_steps)]
    pub max_steps: usize,
    /// Share of the operations that change nothing (+0, -0, *1), rounded to whole operations.
    #[arg(long, default_value_t = Chain::default().identity)]
    pub identity: f64,
    /// Chance of a filler chunk after each step.
    #[arg(long, default_value_t = Chain::default().filler)]
    pub filler: f64,
}

impl Default for Chain {
    fn default() -> Self {
        Chain {
            min_steps: 4,
            max_steps: 12,
            identity: 1.0 / 3.0,
            filler: 0.2,
        }
    }
}

impl Chain {
    pub(super) fn check(&self) -> Result<()> {
        check_range(
            "chain",
            "steps",
            (self.min_steps, self.max_steps),
            1..=MOST_STEPS,
        )?;
        check_share("chain", "identity", self.identity)?;
        check_share("chain", "filler", self.filler)
    }

    pub(super) fn draw(&self, rng: &mut impl Rng) -> Row {
        let steps = rng.random_range(self.min_steps..=self.max_steps);
        let planted = (steps as f64 * self.identity).round() as usize;
        let planted = index::sample(rng, steps, planted.min(steps)).into_vec();
        let mut value = rng.random_range(0..MODULUS);
        let mut row = Row {
            kind: format!("{steps} steps"),
            question: value.to_string(),
            ..Row::default()
        };
        // The chunk that made the running value, which planted steps only repeat.
        let mut source = None;
        for step in 0..steps {
            let is_planted = planted.contains(&step);
            let (operator, operand) = if is_planted {
                *[('+', 0), ('-', 0), ('*', 1)]
                    .choose(rng)
                    .expect("there are three")
            } else {
                changing(value, rng)
            };
            let result = apply(value, operator, operand);
            row.question += &format!(" {operator} {operand}");
            row.chunks
                .push(format!("{value}{operator}{operand}={result}"));
            row.skippable.push(is_planted);
            row.parents.push(source.into_iter().collect());
            if !is_planted {
                source = Some(row.chunks.len() - 1);
            }
            value = result;
            if rng.random_bool(self.filler) {
                let filler = FILLERS.choose(rng).expect("there are fillers");
                row.chunks.push((*filler).to_owned());
                row.skippable.push(true);
                row.parents.push(Vec::new());
            }
        }
        row.question += " =";
        row.answer = value.to_string();
        row
    }
}

/// An operation that gives another value. No multiple of 0 is one.
fn changing(value: u32, rng: &mut impl Rng) -> (char, u32) {
    match rng.random_range(0..if value == 0 { 2 } else { 3 }) {
        0 => ('+', rng.random_range(1..MODULUS)),
        1 => ('-', rng.random_range(1..MODULUS)),
        _ => ('*', rng.random_range(2..MODULUS)),
    }
}

fn apply(value: u32, operator: char, operand: u32) -> u32 {
    let result = match operator {
        '+' => value + operand,
        '-' => value + MODULUS - operand,
        _ => value * operand,
    };
    result % MODULUS
}
