//! The published puzzles: `(('<=>', ('telling-truth', 2), ('lying', 0)), …)`, one statement per person.

use std::path::Path;

use serde::Deserialize;

use super::statement::{Claim, Statement};
use super::{answer, solutions};
use crate::data::{LineError, Row, read_lines, record};
use crate::error::Result;

#[derive(Deserialize)]
struct Published {
    question: String,
    names: Vec<String>,
    solution: Vec<bool>,
    statements: String,
    rationale: String,
}

/// The puzzles of a file with so many people, in their own words, a chunk per line of the published chain.
///
/// # Errors
/// [`Error::Row`](crate::Error::Row) for a line that is malformed, or whose statements have another solution than the one it states.
pub(crate) fn read(path: &Path, people: std::ops::RangeInclusive<usize>) -> Result<Vec<Row>> {
    let rows: Vec<Option<Row>> =
        read_lines(path, |line| row(line, &people))?.collect::<Result<_>>()?;
    Ok(rows.into_iter().flatten().collect())
}

fn row(line: &str, people: &std::ops::RangeInclusive<usize>) -> Result<Option<Row>, LineError> {
    let published: Published = record(line)?;
    let n = published.names.len();
    if !people.contains(&n) {
        return Ok(None);
    }
    let fault = |field: &str, message: &str| (field.to_owned(), message.to_owned());
    let said = Statement::parse_all(&published.statements)
        .filter(|said| said.len() == n && published.solution.len() == n)
        .ok_or_else(|| fault("statements", "are not one statement per person"))?;
    let bits = published.solution.iter().enumerate();
    let world = bits.fold(0, |world, (p, is_knight)| {
        world | u32::from(*is_knight) << p
    });
    if solutions(&said) != [world] {
        return Err(fault("solution", "is not the only one of the statements"));
    }
    Ok(Some(Row {
        kind: format!("{n} people"),
        question: published.question,
        chunks: published
            .rationale
            .lines()
            .filter(|line| !line.trim().is_empty())
            .map(str::to_owned)
            .collect(),
        answer: answer(&published.names, world),
        ..Row::default()
    }))
}

impl Statement {
    /// The statements of a tuple of tuples; `None` if it is malformed or names a person beyond the number of statements.
    fn parse_all(text: &str) -> Option<Vec<Statement>> {
        let mut words = words(text);
        let mut said = Vec::new();
        while !words.is_empty() {
            said.push(take_statement(&mut words)?);
        }
        let people = said.len();
        let mut claims = said.iter().flat_map(|statement| match *statement {
            Statement::Is(a) | Statement::Not(a) => [a, a],
            Statement::And(a, b)
            | Statement::Or(a, b)
            | Statement::If(a, b)
            | Statement::Iff(a, b) => [a, b],
        });
        let in_range = claims.all(|claim| claim.person < people);
        in_range.then_some(said)
    }

    #[cfg(test)]
    pub(super) fn parse(text: &str) -> Option<Statement> {
        take_statement(&mut words(text))
    }
}

/// The words of a tuple, last first. Brackets, commas and quotes go: every operator has a fixed number of operands.
fn words(text: &str) -> Vec<&str> {
    let between = |c: char| c.is_whitespace() || "(),'\"".contains(c);
    let mut words: Vec<&str> = text
        .split(between)
        .filter(|word| !word.is_empty())
        .collect();
    words.reverse();
    words
}

fn take_statement(words: &mut Vec<&str>) -> Option<Statement> {
    let binary: fn(Claim, Claim) -> Statement = match *words.last()? {
        "telling-truth" | "lying" => return Some(Statement::Is(take_claim(words)?)),
        "not" => {
            words.pop();
            return Some(Statement::Not(take_claim(words)?));
        }
        "and" => Statement::And,
        "or" => Statement::Or,
        "->" => Statement::If,
        "<=>" => Statement::Iff,
        _ => return None,
    };
    words.pop();
    let first = take_claim(words)?;
    Some(binary(first, take_claim(words)?))
}

fn take_claim(words: &mut Vec<&str>) -> Option<Claim> {
    let is_knight = match words.pop()? {
        "telling-truth" => true,
        "lying" => false,
        _ => return None,
    };
    let person = words.pop()?.parse().ok()?;
    Some(Claim { person, is_knight })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(statements: &str, solution: &str) -> String {
        format!(
            r#"{{"question":"q","names":["A","B"],"solution":{solution},"statements":"{statements}","rationale":"one\ntwo"}}"#
        )
    }

    #[test]
    fn a_puzzle_is_checked_where_it_enters() {
        // A: B is a knave. B: A is a knave and B is a knave (a knight cannot say so).
        let statements = "(('lying', 1), ('and', ('lying', 0), ('lying', 1)))";
        let good = row(&line(statements, "[true,false]"), &(2..=4)).unwrap();
        let good = good.expect("two people are asked for");
        assert_eq!(good.answer, "A is a knight, B is a knave");
        assert_eq!(good.chunks, ["one", "two"]);
        assert_eq!(row(&line(statements, "[true,false]"), &(3..=4)), Ok(None));
        for (statements, solution, field) in [
            (statements, "[false,true]", "solution"),
            (
                "(('lying', 1), ('xor', ('lying', 0)))",
                "[true,false]",
                "statements",
            ),
            ("(('lying', 1),)", "[true,false]", "statements"),
            ("(('lying', 7), ('lying', 0))", "[true,false]", "statements"),
            (
                "(('lying', -1), ('lying', 0))",
                "[true,false]",
                "statements",
            ),
        ] {
            let (at, _) = row(&line(statements, solution), &(2..=4)).unwrap_err();
            assert_eq!(at, field, "{statements}");
        }
    }
}
