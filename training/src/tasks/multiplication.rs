//! Long multiplication with the digits reversed, in the format of "implicit chain of thought".
//!
//! ```text
//! question  5 6 3 2 * 7 4 3 4                      2365 · 4347, units first
//! chunks    5 5 5 6 1 | + 0 0 6 4 9 0 | ( 5 5 1 1 1 1 ) | + 0 0 5 9 0 7 0 | ( 5 5 6 0 2 8 0 ) | + 0 0 0 0 6 4 9 0
//! answer    5 5 6 0 8 2 0 1
//! ```
//!
//! The multiplicand (k digits) times digit i of the multiplier stands in k + 1 + i digits, as does the sum up to it in brackets. The first
//! product is its own sum and the last sum is the answer, so neither is written. What adds zero is skippable: the product with a digit 0, and the
//! sum after it or after nothing but zeros.
//!
//! Source: Deng, Choi & Shieber, "From Explicit CoT to Implicit CoT", arXiv 2405.14838; the format was read off its published files.

use std::path::{Path, PathBuf};

use rand::Rng;
use serde::{Deserialize, Serialize};

use super::check_range;
use crate::data::{Row, read_lines, record};
use crate::error::{Error, Result};

/// Digits of a factor at most: all numbers of 18 digits fit `u64`.
const MOST_DIGITS: usize = 18;

/// The multiplication of two numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields)]
pub struct Multiplication {
    /// Digits of the first factor.
    #[arg(long, default_value_t = Multiplication::default().multiplicand_digits)]
    pub multiplicand_digits: usize,
    /// Digits of the second factor: products that are summed.
    #[arg(long, default_value_t = Multiplication::default().multiplier_digits)]
    pub multiplier_digits: usize,
    /// Leave out the spaces: half of the tokens, as a digit is a token with or without them. Not the published format.
    #[arg(long)]
    pub compact: bool,
    /// The test split: a file of the published format. Without it the test split is generated, too.
    #[arg(long)]
    pub test: Option<PathBuf>,
}

impl Default for Multiplication {
    fn default() -> Self {
        Multiplication {
            multiplicand_digits: 4,
            multiplier_digits: 4,
            compact: false,
            test: None,
        }
    }
}

/// A published row: the digits are reversed and spaced; the rationale follows from the question.
#[derive(Deserialize)]
struct Published {
    question: String,
    answer: String,
}

impl Multiplication {
    pub(super) fn check(&self) -> Result<()> {
        for (what, digits) in [
            ("multiplicand_digits", self.multiplicand_digits),
            ("multiplier_digits", self.multiplier_digits),
        ] {
            check_range("multiplication", what, (digits, digits), 1..=MOST_DIGITS)?;
        }
        Ok(())
    }

    pub(super) fn draw(&self, rng: &mut impl Rng) -> Row {
        let a = factor(self.multiplicand_digits, rng);
        let b = factor(self.multiplier_digits, rng);
        self.written(solved(a, b))
    }

    /// The rows of a published file, their rationales written anew.
    pub(super) fn read(&self, path: &Path) -> Result<Vec<Row>> {
        let fail = |question: &str, what: String| {
            Error::Task(format!(
                "`multiplication`: {}: `{question}`: {what}",
                path.display()
            ))
        };
        let lines = read_lines(path, record::<Published>)?;
        let rows = lines.map(|line| {
            let Published { question, answer } = line?;
            let factors = question.split_once('*');
            let factors = factors.and_then(|(a, b)| Some((number(a)?, number(b)?)));
            let (a, b) = factors.ok_or_else(|| {
                let expected = "expected two factors like `5 6 3 2 * 7 4 3 4`, units first";
                fail(&question, expected.to_owned())
            })?;
            let row = solved(a, b);
            if super::grade::same_characters(&row.answer, &answer) {
                return Ok(self.written(row));
            }
            let what = format!(
                "the file's answer is `{answer}`, the product is `{}`",
                row.answer
            );
            Err(fail(&question, what))
        });
        rows.collect()
    }

    fn written(&self, mut row: Row) -> Row {
        if self.compact {
            let texts = [&mut row.question, &mut row.answer];
            for text in texts.into_iter().chain(&mut row.chunks) {
                text.retain(|c| c != ' ');
            }
        }
        row
    }
}

/// A number of at most [`MOST_DIGITS`] reversed digits.
fn number(text: &str) -> Option<u64> {
    let digits: String = text.chars().rev().filter(|c| !c.is_whitespace()).collect();
    let is_number = digits.bytes().all(|b| b.is_ascii_digit()) && digits.len() <= MOST_DIGITS;
    digits.parse().ok().filter(|_| is_number)
}

/// A number of so many digits, the highest not 0.
fn factor(digits: usize, rng: &mut impl Rng) -> u64 {
    let low = 10_u64.pow(digits as u32 - 1);
    rng.random_range(low..low * 10)
}

/// The row of `a * b`.
pub fn solved(a: u64, b: u64) -> Row {
    let (digits_a, digits_b) = (a.to_string(), b.to_string());
    let (k, m) = (digits_a.len(), digits_b.len());
    let (a, b) = (u128::from(a), u128::from(b));
    let mut row = Row {
        kind: format!("{k}x{m}"),
        question: format!("{} * {}", reversed(a, k), reversed(b, m)),
        answer: reversed(a * b, k + m),
        ..Row::default()
    };
    let mut push = |text: String, skippable: bool, parents: Vec<usize>| {
        row.chunks.push(text);
        row.skippable.push(skippable);
        row.parents.push(parents);
        row.chunks.len() - 1
    };
    let mut sum = 0;
    // The chunk that holds the running sum, if it is not 0.
    let mut held = None;
    for (place, digit) in digits_b.bytes().rev().enumerate() {
        let product = a * u128::from(digit - b'0') * 10_u128.pow(place as u32);
        let width = k + 1 + place;
        let sign = if place == 0 { "" } else { "+ " };
        let text = format!("{sign}{}", reversed(product, width));
        let written = push(text, product == 0, Vec::new());
        let adds_zero = product == 0 || sum == 0;
        sum += product;
        let addends: Vec<usize> = held
            .into_iter()
            .chain((product != 0).then_some(written))
            .collect();
        if adds_zero {
            held = addends.first().copied();
        }
        if place > 0 && place + 1 < m {
            let text = format!("( {} )", reversed(sum, width));
            let written = push(text, adds_zero, addends);
            if !adds_zero {
                held = Some(written);
            }
        }
    }
    row
}

/// The digits of a number, units first, filled up with zeros to `width`, with spaces between.
fn reversed(value: u128, width: usize) -> String {
    let digits: Vec<String> = format!("{value:0width$}")
        .chars()
        .rev()
        .map(String::from)
        .collect();
    digits.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_by_hand() {
        // 105 * 203: the middle digit of the multiplier is 0.
        let row = solved(105, 203);
        assert_eq!(row.question, "5 0 1 * 3 0 2");
        let chunks = ["5 1 3 0", "+ 0 0 0 0 0", "( 5 1 3 0 0 )", "+ 0 0 0 1 2 0"];
        assert_eq!(row.chunks, chunks);
        assert_eq!(row.skippable, [false, true, true, false]);
        assert_eq!(row.parents, [vec![], vec![], vec![0], vec![]]);
        assert_eq!(row.answer, "5 1 3 1 2 0");
    }

    #[test]
    fn published_rows_are_read_and_checked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        let read = |compact: bool, line: &str| {
            std::fs::write(&path, line).unwrap();
            let task = Multiplication {
                compact,
                ..Multiplication::default()
            };
            task.read(&path)
        };
        let good = r#"{"question":"5 0 1 * 3 0 2","rationale":"5 1 3 0","answer":"5 1 3 1 2 0"}"#;
        assert_eq!(read(false, good).unwrap(), [solved(105, 203)]);
        let compact = read(true, good).unwrap();
        assert_eq!(
            (&*compact[0].question, &*compact[0].chunks[1]),
            ("501*302", "+00000")
        );
        let wrong = read(false, &good.replace("1 2 0\"", "1 2 1\"")).unwrap_err();
        assert!(
            wrong.to_string().contains("the product is `5 1 3 1 2 0`"),
            "{wrong}"
        );
        for question in [
            "5 0 1",
            "5 x * 3",
            "* 3",
            "5 * 1 2 3 4 5 6 7 8 9 1 2 3 4 5 6 7 8 9 1",
        ] {
            let error = read(false, &good.replace("5 0 1 * 3 0 2", question)).unwrap_err();
            assert!(
                error.to_string().contains("expected two factors"),
                "{error}"
            );
        }
    }
}
