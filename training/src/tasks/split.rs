//! Which split a question belongs to, and drawing questions of one.
//!
//! A question belongs to a split by the hash of its text, so that no seed, parameter or run can move it: rows that were made at different
//! times for different splits have no question in common.

use std::collections::HashSet;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::data::Row;
use crate::error::{Error, Result};

/// A part of a task's questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// Eight tenths: what a student learns from.
    Train,
    /// One tenth: what choices are made on.
    Validation,
    /// One tenth: what results are reported on.
    Test,
}

impl Split {
    /// The split of a question.
    pub fn of(question: &str) -> Split {
        match fingerprint(question) % 10 {
            0 => Split::Validation,
            1 => Split::Test,
            _ => Split::Train,
        }
    }

    /// The name in commands and recipes.
    pub fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Validation => "validation",
            Split::Test => "test",
        }
    }
}

/// The hash of a question without regard to case and white space: the first 8 bytes of its SHA-256.
///
/// Among a million questions the chance that any two collide is below 1 in 30 million (n²/2⁶⁵).
pub fn fingerprint(question: &str) -> u64 {
    let mut hasher = Sha256::new();
    for word in question.split_whitespace() {
        hasher.update(word.to_lowercase());
        hasher.update(b" ");
    }
    let bytes = hasher.finalize();
    u64::from_le_bytes(bytes[..8].try_into().expect("SHA-256 has 32 bytes"))
}

/// Draws without a new question of the split after which a task counts as exhausted. A split that still has one question in a thousand draws
/// is missed with probability e⁻¹⁰.
const DRAWS_IN_VAIN: usize = 10_000;

/// `n` rows of different questions of `split`, none of them among `taken` (fingerprints). A draw gives one row or several of one kind of input;
/// `key` is the part of a question that decides on the split.
///
/// # Errors
/// [`Error::Task`] if the task has too few questions.
pub(super) fn draw_rows(
    task: &str,
    split: Split,
    n: usize,
    seed: u64,
    mut taken: HashSet<u64>,
    key: impl Fn(&str) -> &str,
    mut draw: impl FnMut(&mut ChaCha8Rng) -> Vec<Row>,
) -> Result<Vec<Row>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut rows = Vec::new();
    let mut in_vain = 0;
    while rows.len() < n {
        let before = rows.len();
        rows.extend(draw(&mut rng).into_iter().filter(|row| {
            Split::of(key(&row.question)) == split && taken.insert(fingerprint(&row.question))
        }));
        in_vain = if rows.len() > before { 0 } else { in_vain + 1 };
        if in_vain == DRAWS_IN_VAIN {
            return Err(Error::Task(format!(
                "`{task}`: found {} different questions for split {}, asked for {n}; ask for fewer or let the parameters allow more",
                rows.len(),
                split.name()
            )));
        }
    }
    rows.truncate(n);
    Ok(rows)
}

/// At most `n` rows of a file in random order, every question once.
pub(super) fn some_of(mut rows: Vec<Row>, n: usize, seed: u64) -> Vec<Row> {
    let mut seen = HashSet::new();
    rows.retain(|row| seen.insert(fingerprint(&row.question)));
    rows.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    rows.truncate(n);
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_and_white_space_do_not_make_another_question() {
        let one = fingerprint("What is 3 + 4?");
        assert_eq!(one, fingerprint("  what IS\t3 + 4?\n"));
        assert_ne!(one, fingerprint("What is 3 + 5?"));
        assert_ne!(fingerprint("a bc"), fingerprint("ab c"));
    }

    #[test]
    fn a_question_keeps_its_split_for_ever() {
        // Rows that were written with an earlier version must stay disjoint from those of this one.
        assert_eq!(fingerprint("What is 3 + 4?"), 0x62cf8735ffb3ecaa);
        let mut counts = [0_usize; 3];
        for i in 0..10_000 {
            counts[Split::of(&format!("question {i}")) as usize] += 1;
        }
        assert!(counts[0].abs_diff(8000) < 150, "{counts:?}");
        assert!(counts[1].abs_diff(1000) < 120, "{counts:?}");
    }
}
