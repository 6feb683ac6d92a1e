//! Knights and knaves: knights tell the truth, knaves lie, exactly one world fits what they say.
//!
//! ```text
//! question  Knights always tell the truth, knaves always lie. Ada says: Ben is a knave. Ben says: … Who is what?
//! chunks    Suppose Ada is a knight: possible. | Suppose Ben is a knight: then Ada, a knight, would lie. No. | Suppose Ben is a knave: possible. | …
//! answer    Ada is a knight, Ben is a knave, Cleo is a knight
//! ```
//!
//! The chain is a search: people in order, knight first, back when neither fits. No truth is claimed about which of its chunks are
//! skippable: the dead ends are not in the answer, but how a student could know that without them is the question.
//!
//! The kinds of statement are those of Xie et al., "On Memorization of Large Language Models in Logical Reasoning", arXiv 2410.23123, whose
//! puzzles [`Knights::file`] reads; words and search are ours.

mod published;
mod statement;

use std::path::PathBuf;

use rand::Rng;
use rand::seq::IndexedRandom;
use serde::{Deserialize, Serialize};

pub(super) use published::read;
use statement::Statement;

use super::check_range;
use crate::data::Row;
use crate::error::Result;

/// Who lives on the island.
const NAMES: [&str; 16] = [
    "Ada", "Ben", "Cleo", "Dan", "Edna", "Finn", "Gwen", "Hugo", "Iris", "Jon", "Kim", "Lars",
    "Mia", "Nils", "Olga", "Paul",
];

/// The island.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields)]
pub struct Knights {
    /// Fewest people of a puzzle.
    #[arg(long, default_value_t = Knights::default().min_people)]
    pub min_people: usize,
    /// Most people of a puzzle.
    #[arg(long, default_value_t = Knights::default().max_people)]
    pub max_people: usize,
    /// Real puzzles: a file of the published format, split by hash. Without it puzzles are generated.
    #[arg(long)]
    pub file: Option<PathBuf>,
}

impl Default for Knights {
    fn default() -> Self {
        Knights {
            min_people: 3,
            max_people: 4,
            file: None,
        }
    }
}

impl Knights {
    pub(super) fn check(&self) -> Result<()> {
        // A search over more than eight people is longer than a small student's context.
        let people = (self.min_people, self.max_people);
        check_range("knights", "people", people, 2..=8)
    }

    pub(super) fn draw(&self, rng: &mut impl Rng) -> Row {
        let n = rng.random_range(self.min_people..=self.max_people);
        let (said, world) = loop {
            let said: Vec<Statement> = (0..n).map(|_| Statement::draw(n, rng)).collect();
            if let [world] = solutions(&said)[..] {
                break (said, world);
            }
        };
        let names: Vec<&str> = NAMES.choose_multiple(rng, n).copied().collect();
        let mut question = "Knights always tell the truth, knaves always lie.".to_owned();
        for (name, statement) in names.iter().zip(&said) {
            question += &format!(" {name} says: {}.", statement.text(&names));
        }
        Row {
            kind: format!("{n} people"),
            question: question + " Who is what?",
            chunks: solve(&said, &names),
            answer: answer(&names, world),
            ..Row::default()
        }
    }
}

/// Every world in which knights tell the truth and knaves lie. Bit p of a world: person p is a knight.
fn solutions(said: &[Statement]) -> Vec<u32> {
    let fits = |world: &u32| {
        let mut people = said.iter().enumerate();
        people.all(|(p, statement)| statement.holds(*world) == (world >> p & 1 == 1))
    };
    (0..1 << said.len()).filter(fits).collect()
}

fn role(is_knight: bool) -> &'static str {
    if is_knight { "knight" } else { "knave" }
}

fn answer(names: &[impl AsRef<str>], world: u32) -> String {
    let people = names.iter().enumerate();
    let parts: Vec<String> = people
        .map(|(p, name)| format!("{} is a {}", name.as_ref(), role(world >> p & 1 == 1)))
        .collect();
    parts.join(", ")
}

/// The search for the world that fits, as chunks.
fn solve(said: &[Statement], names: &[&str]) -> Vec<String> {
    let mut chunks = Vec::new();
    search(said, names, 0, 0, &mut chunks);
    chunks
}

/// Goes on from a world of which the first `known` people are decided; whether one that fits was found.
fn search(
    said: &[Statement],
    names: &[&str],
    known: usize,
    world: u32,
    chunks: &mut Vec<String>,
) -> bool {
    if known == said.len() {
        return true;
    }
    for is_knight in [true, false] {
        let world = world | u32::from(is_knight) << known;
        let suppose = format!("Suppose {} is a {}:", names[known], role(is_knight));
        let speaker = (0..=known).find(|&p| {
            let should_hold = world >> p & 1 == 1;
            said[p].is_impossible(should_hold, world, known + 1, said.len())
        });
        let Some(p) = speaker else {
            chunks.push(format!("{suppose} possible."));
            if search(said, names, known + 1, world, chunks) {
                return true;
            }
            continue;
        };
        let speaks_truth = world >> p & 1 == 1;
        let contradiction = if speaks_truth {
            "lie"
        } else {
            "tell the truth"
        };
        let who = if p == known {
            "they".to_owned()
        } else {
            format!("{}, a {},", names[p], role(speaks_truth))
        };
        chunks.push(format!("{suppose} then {who} would {contradiction}. No."));
    }
    if let Some(before) = known.checked_sub(1) {
        chunks.push(format!(
            "Neither fits {}, back to {}.",
            names[known], names[before]
        ));
    }
    false
}

/// Whether two answers say the same of everybody. The order of the people, "and" and a final dot do not count; who is named twice or not at all
/// does.
pub(super) fn same_roles(expected: &str, generated: &str) -> bool {
    match (roles(expected), roles(generated)) {
        (Some(expected), Some(generated)) => expected == generated,
        _ => false,
    }
}

/// The parts of an answer in alphabetical order; `None` if a part is not `<name> is a knight` or `<name> is a knave`.
fn roles(answer: &str) -> Option<Vec<(String, String)>> {
    let answer = answer.trim().trim_end_matches('.').to_lowercase();
    let mut roles = answer
        .split(',')
        .map(|part| {
            let part = part.trim();
            let part = part.strip_prefix("and ").unwrap_or(part);
            let words: Vec<&str> = part.split_whitespace().collect();
            match words[..] {
                [name, "is", "a", role @ ("knight" | "knave")] => {
                    Some((name.to_owned(), role.to_owned()))
                }
                _ => None,
            }
        })
        .collect::<Option<Vec<_>>>()?;
    roles.sort();
    Some(roles)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grading() {
        let expected = "Ada is a knight, Ben is a knave";
        for right in [
            "Ada is a knight, Ben is a knave.",
            " ben is a knave,  and ada is a Knight",
        ] {
            assert!(same_roles(expected, right), "{right}");
        }
        for wrong in [
            "",
            "Ada is a knight",
            "Ada is a knight, Ben is a knight",
            "Ada is a knight, Ben is a knave, Ben is a knight",
            "Ada is a knight, Ada is a knight, Ben is a knave",
            "knight, knave",
        ] {
            assert!(!same_roles(expected, wrong), "{wrong}");
        }
    }

    #[test]
    fn the_search_by_hand() {
        // Ada: Ada or Ben is a knight. Ben: Ada is a knight exactly if Ben is a knave. Only two knaves fit.
        let said = [
            Statement::parse("('or', ('telling-truth', 0), ('telling-truth', 1))").unwrap(),
            Statement::parse("('<=>', ('telling-truth', 0), ('lying', 1))").unwrap(),
        ];
        assert_eq!(solutions(&said), [0]);
        assert_eq!(
            solve(&said, &["Ada", "Ben"]),
            [
                "Suppose Ada is a knight: possible.",
                "Suppose Ben is a knight: then they would lie. No.",
                "Suppose Ben is a knave: then they would tell the truth. No.",
                "Neither fits Ben, back to Ada.",
                "Suppose Ada is a knave: possible.",
                "Suppose Ben is a knight: then Ada, a knave, would tell the truth. No.",
                "Suppose Ben is a knave: possible.",
            ]
        );
    }
}
