//! Definitions that build on each other, solved one equation at a time; some of them do not matter to the question.
//!
//! ```text
//! question  p = 4; c = 7; k = p + c; m = c * 2; a = k - 3; a = ?        (or in words)
//! chunks    <<4+7=11>> | <<7*2=14>> | <<11-3=8>>
//! skippable false      | true       | false
//! parents   []         | []         | [0]
//! answer    8
//! ```
//!
//! A step without parents uses given numbers alone, one with parents is derived. Skippable are the steps from which no path leads to the asked one;
//! every other step is needed. Equations are written as in GSM8K-Aug (the data of arXiv 2405.14838), definitions and words are ours.

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use serde::{Deserialize, Serialize};

use super::check_range;
use crate::data::Row;
use crate::error::{Error, Result};

/// Who has something, in words; as many as there are letters for symbols.
const NAMES: [&str; 26] = [
    "Ada", "Ben", "Cleo", "Dan", "Edna", "Finn", "Gwen", "Hugo", "Iris", "Jon", "Kim", "Lars",
    "Mia", "Nils", "Olga", "Paul", "Quin", "Rosa", "Seth", "Tara", "Ugo", "Vera", "Walt", "Xena",
    "Yann", "Zoe",
];

/// Numbers that a question gives, fewest and most.
const GIVENS: (usize, usize) = (2, 4);
/// The largest number that a question gives.
const LARGEST_GIVEN: u32 = 20;
/// The largest number that a definition adds, takes away or multiplies by.
const LARGEST_CONSTANT: u32 = 9;
/// Draws of operands and operator for one step before the whole question is drawn anew.
const DRAWS_PER_STEP: usize = 30;

/// How definitions are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// `k = p + c;`
    Symbols,
    /// `Kim has as many as Paul and Cleo together.`
    Words,
    /// Either, by turns of a coin.
    Mixed,
}

/// The definitions task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields)]
pub struct Expressions {
    /// Fewest steps that the answer needs.
    #[arg(long, default_value_t = Expressions::default().min_steps)]
    pub min_steps: usize,
    /// Most steps that the answer needs.
    #[arg(long, default_value_t = Expressions::default().max_steps)]
    pub max_steps: usize,
    /// Fewest steps beside them.
    #[arg(long, default_value_t = Expressions::default().min_extra)]
    pub min_extra: usize,
    /// Most steps beside them.
    #[arg(long, default_value_t = Expressions::default().max_extra)]
    pub max_extra: usize,
    /// Results are from 1 to this.
    #[arg(long, default_value_t = Expressions::default().largest)]
    pub largest: u32,
    /// How definitions are written.
    #[arg(long, value_enum, default_value_t = Expressions::default().form)]
    pub form: Form,
}

impl Default for Expressions {
    fn default() -> Self {
        Expressions {
            min_steps: 2,
            max_steps: 5,
            min_extra: 1,
            max_extra: 3,
            largest: 99,
            form: Form::Mixed,
        }
    }
}

/// One definition; operands are indices of earlier ones.
#[derive(Clone, Copy, Debug)]
enum Definition {
    Given,
    Sum(usize, usize),
    /// The first is larger.
    Difference(usize, usize),
    More(usize, u32),
    Fewer(usize, u32),
    Times(usize, u32),
}

impl Definition {
    fn operands(self) -> Vec<usize> {
        match self {
            Definition::Given => Vec::new(),
            Definition::Sum(a, b) | Definition::Difference(a, b) => vec![a, b],
            Definition::More(a, _) | Definition::Fewer(a, _) | Definition::Times(a, _) => vec![a],
        }
    }
}

/// Definitions with their values, each after those it uses.
#[derive(Default)]
struct Graph(Vec<(Definition, u32)>);

impl Expressions {
    pub(super) fn check(&self) -> Result<()> {
        let steps = (self.min_steps, self.max_steps);
        let most = NAMES.len() - GIVENS.1;
        check_range("expressions", "steps", steps, 1..=most)?;
        let extra = (self.min_extra, self.max_extra);
        check_range("expressions", "extra", extra, 0..=most - self.max_steps)?;
        if !(2 * LARGEST_GIVEN..=1_000_000).contains(&self.largest) {
            return Err(Error::Task(format!(
                "`expressions`: largest is {}; expected {} to 1000000",
                self.largest,
                2 * LARGEST_GIVEN
            )));
        }
        Ok(())
    }

    pub(super) fn draw(&self, rng: &mut impl Rng) -> Row {
        let in_words = match self.form {
            Form::Symbols => false,
            Form::Words => true,
            Form::Mixed => rng.random_bool(0.5),
        };
        loop {
            let steps = rng.random_range(self.min_steps..=self.max_steps);
            let extra = rng.random_range(self.min_extra..=self.max_extra);
            let Some(graph) = self.graph(steps, extra, rng) else {
                continue;
            };
            let row = write(&graph, steps, in_words, rng);
            // Two equal equations, one needed and one not, would make the truth depend on which of them is meant.
            let mut texts = row.chunks.clone();
            texts.sort_unstable();
            texts.dedup();
            if texts.len() == row.chunks.len() {
                return row;
            }
        }
    }

    /// Givens, then `steps` definitions of which each but the last is used by a later one, then `extra` that no earlier one uses.
    fn graph(&self, steps: usize, extra: usize, rng: &mut impl Rng) -> Option<Graph> {
        let givens = rng.random_range(GIVENS.0..=GIVENS.1);
        let mut graph = Graph::default();
        for _ in 0..givens {
            let value = rng.random_range(1..=LARGEST_GIVEN);
            graph.0.push((Definition::Given, value));
        }
        // Steps that nothing uses yet. One step can use two and adds itself, so at most one more may be open than steps follow.
        let mut open: Vec<usize> = Vec::new();
        for step in 0..steps {
            let after = steps - step - 1;
            let uses: Vec<usize> = (0..=open.len().min(2))
                .filter(|uses| open.len() + 1 - uses <= after + 1)
                .collect();
            let uses = *uses.choose(rng)?;
            open.shuffle(rng);
            let used = open.split_off(open.len() - uses);
            let others: Vec<usize> = (0..graph.0.len()).filter(|n| !open.contains(n)).collect();
            self.add(&mut graph, &used, &others, rng)?;
            open.push(graph.0.len() - 1);
        }
        for _ in 0..extra {
            let others: Vec<usize> = (0..graph.0.len()).collect();
            self.add(&mut graph, &[], &others, rng)?;
        }
        Some(graph)
    }

    /// Adds a definition that uses all of `used` (at most two) and else any of `others` or a constant.
    fn add(
        &self,
        graph: &mut Graph,
        used: &[usize],
        others: &[usize],
        rng: &mut impl Rng,
    ) -> Option<()> {
        for _ in 0..DRAWS_PER_STEP {
            let first = *used.first().or_else(|| others.choose(rng))?;
            let second = used.get(1).or_else(|| others.choose(rng));
            let value = |node: usize| graph.0[node].1;
            let constant = rng.random_range(2..=LARGEST_CONSTANT);
            let with_constant = used.len() < 2 && rng.random_bool(0.5);
            let (definition, result) = if with_constant {
                match rng.random_range(0..3) {
                    0 => (
                        Definition::More(first, constant),
                        Some(value(first) + constant),
                    ),
                    1 => (
                        Definition::Fewer(first, constant),
                        value(first).checked_sub(constant),
                    ),
                    _ => (
                        Definition::Times(first, constant),
                        Some(value(first) * constant),
                    ),
                }
            } else {
                let Some(&second) = second.filter(|second| **second != first) else {
                    continue;
                };
                let (low, high) = if value(first) < value(second) {
                    (first, second)
                } else {
                    (second, first)
                };
                if rng.random_bool(0.5) {
                    (
                        Definition::Sum(first, second),
                        Some(value(low) + value(high)),
                    )
                } else {
                    (
                        Definition::Difference(high, low),
                        Some(value(high) - value(low)),
                    )
                }
            };
            if let Some(result) = result.filter(|result| (1..=self.largest).contains(result)) {
                graph.0.push((definition, result));
                return Some(());
            }
        }
        None
    }
}

/// The row of a graph whose needed steps come right after its givens.
fn write(graph: &Graph, steps: usize, in_words: bool, rng: &mut impl Rng) -> Row {
    let givens = graph
        .0
        .iter()
        .filter(|(definition, _)| matches!(definition, Definition::Given))
        .count();
    let asked = givens + steps - 1;
    let mut names: Vec<String> = if in_words {
        NAMES.iter().map(|name| (*name).to_owned()).collect()
    } else {
        ('a'..='z').map(String::from).collect()
    };
    names.shuffle(rng);
    let mut row = Row {
        kind: format!("{steps} steps"),
        answer: graph.0[asked].1.to_string(),
        ..Row::default()
    };
    let mut chunk_of = vec![None; graph.0.len()];
    for node in random_order(graph, rng) {
        let (definition, value) = graph.0[node];
        row.question += &sentence(&names, node, definition, value, in_words);
        let number = |operand: usize| graph.0[operand].1;
        let equation = match definition {
            Definition::Given => continue,
            Definition::Sum(a, b) => format!("{}+{}", number(a), number(b)),
            Definition::Difference(a, b) => format!("{}-{}", number(a), number(b)),
            Definition::More(a, constant) => format!("{}+{constant}", number(a)),
            Definition::Fewer(a, constant) => format!("{}-{constant}", number(a)),
            Definition::Times(a, constant) => format!("{}*{constant}", number(a)),
        };
        chunk_of[node] = Some(row.chunks.len());
        row.chunks.push(format!("<<{equation}={value}>>"));
        row.skippable.push(node > asked);
        let parents = definition.operands();
        row.parents
            .push(parents.iter().filter_map(|p| chunk_of[*p]).collect());
    }
    let asked = &names[asked];
    row.question += &if in_words {
        format!("How many does {asked} have?")
    } else {
        format!("{asked} = ?")
    };
    row
}

/// All nodes in a random order in which each comes after those it uses.
fn random_order(graph: &Graph, rng: &mut impl Rng) -> Vec<usize> {
    let mut order: Vec<usize> = Vec::with_capacity(graph.0.len());
    while order.len() < graph.0.len() {
        let ready: Vec<usize> = (0..graph.0.len())
            .filter(|node| !order.contains(node))
            .filter(|node| {
                graph.0[*node]
                    .0
                    .operands()
                    .iter()
                    .all(|o| order.contains(o))
            })
            .collect();
        order.push(*ready.choose(rng).expect("operands come first in the graph"));
    }
    order
}

/// A definition as the question states it, with a space after it.
fn sentence(
    names: &[String],
    node: usize,
    definition: Definition,
    value: u32,
    in_words: bool,
) -> String {
    let name = |node: usize| names[node].as_str();
    let subject = name(node);
    if in_words {
        let object = match definition {
            Definition::Given => value.to_string(),
            Definition::Sum(a, b) => format!("as many as {} and {} together", name(a), name(b)),
            Definition::Difference(a, b) => {
                format!("the difference of {} and {}", name(a), name(b))
            }
            Definition::More(a, constant) => format!("{constant} more than {}", name(a)),
            Definition::Fewer(a, constant) => format!("{constant} fewer than {}", name(a)),
            Definition::Times(a, constant) => format!("{constant} times as many as {}", name(a)),
        };
        format!("{subject} has {object}. ")
    } else {
        let expression = match definition {
            Definition::Given => value.to_string(),
            Definition::Sum(a, b) => format!("{} + {}", name(a), name(b)),
            Definition::Difference(a, b) => format!("{} - {}", name(a), name(b)),
            Definition::More(a, constant) => format!("{} + {constant}", name(a)),
            Definition::Fewer(a, constant) => format!("{} - {constant}", name(a)),
            Definition::Times(a, constant) => format!("{} * {constant}", name(a)),
        };
        format!("{subject} = {expression}; ")
    }
}
