//! Every claim about chunks: the answer comes out without the skippable ones and not without the others.

use std::collections::HashMap;

use skimstone_training::data::Row;
use skimstone_training::tasks::{
    Chain, Expressions, Knights, Multiplication, Prosqa, Task, expressions::Form,
};

use crate::{evaluators as eval, generated, rows};

#[test]
fn no_needed_chunk_has_a_skippable_parent() {
    for task in &generated()[..4] {
        for row in rows(task, 300, 11) {
            assert_eq!(row.parents.len(), row.chunks.len());
            assert_eq!(row.skippable.len(), row.chunks.len());
            let needed = (0..row.chunks.len()).filter(|chunk| !row.skippable[*chunk]);
            for chunk in needed {
                let parents = &row.parents[chunk];
                assert!(parents.iter().all(|p| *p < chunk && !row.skippable[*p]));
            }
        }
    }
}

#[test]
fn chain() {
    let task = Task::Chain(Chain::default());
    let rows = rows(&task, 3000, 1);
    for row in &rows {
        let (start, operations) = eval::operations(&row.question);
        let answer: i64 = row.answer.parse().unwrap();
        assert_eq!(eval::chain(start, &operations), answer);

        let steps: Vec<usize> = (0..row.chunks.len())
            .filter(|chunk| row.chunks[*chunk].contains('='))
            .collect();
        assert_eq!(steps.len(), operations.len());
        let mut value = start;
        for (chunk, operation) in steps.iter().zip(&operations) {
            let (operator, operand) = operation;
            let result = eval::chain(value, std::slice::from_ref(operation));
            let text = format!("{value}{operator}{operand}={result}");
            assert_eq!(row.chunks[*chunk], text);
            value = result;
        }
        let fillers = row.chunks.iter().zip(&row.skippable);
        let mut fillers = fillers.filter(|(chunk, _)| !chunk.contains('='));
        assert!(fillers.all(|(_, skippable)| *skippable));

        let without = |gone: &dyn Fn(usize) -> bool| {
            let kept = steps.iter().zip(&operations).filter(|(c, _)| !gone(**c));
            let kept: Vec<_> = kept.map(|(_, operation)| operation.clone()).collect();
            eval::chain(start, &kept)
        };
        assert_eq!(without(&|chunk| row.skippable[chunk]), answer);
        for step in steps.iter().filter(|step| !row.skippable[**step]) {
            assert_ne!(without(&|chunk| chunk == *step), answer, "{}", row.question);
        }
    }

    let mut answers: HashMap<&str, usize> = HashMap::new();
    for row in &rows {
        *answers.entry(&row.answer).or_default() += 1;
    }
    assert_eq!(answers.len(), 11);
    let most = *answers.values().max().unwrap();
    assert!(100 * most < 12 * rows.len(), "{answers:?}");
    let planted = |row: &Row| {
        let steps = row.chunks.iter().zip(&row.skippable);
        steps.filter(|(c, s)| **s && c.contains('=')).count()
    };
    let steps: usize = rows
        .iter()
        .map(|r| eval::operations(&r.question).1.len())
        .sum();
    let share = rows.iter().map(planted).sum::<usize>() as f64 / steps as f64;
    assert!((share - 1.0 / 3.0).abs() < 0.02, "{share}");
}

#[test]
fn expressions() {
    for form in [Form::Symbols, Form::Words] {
        let task = Task::Expressions(Expressions {
            form,
            ..Expressions::default()
        });
        for row in rows(&task, 1000, 1) {
            let (definitions, asked) = eval::definitions(&row.question);
            let answer: i64 = row.answer.parse().unwrap();
            let solve = |may_use: &dyn Fn(&str) -> bool| {
                eval::value(&asked, &definitions, may_use).map(|(value, _)| value)
            };
            let at = |equation: &str| row.chunks.iter().position(|c| c == equation);
            // Without what may go the answer comes out; without any other equation it does not.
            let kept = |equation: &str| at(equation).is_some_and(|chunk| !row.skippable[chunk]);
            assert_eq!(solve(&kept), Some(answer), "{}", row.question);
            for chunk in (0..row.chunks.len()).filter(|chunk| !row.skippable[*chunk]) {
                let others = |equation: &str| equation != row.chunks[chunk];
                assert_eq!(solve(&others), None, "{}: {chunk}", row.question);
            }

            let chunk_of = |name: &str| {
                let equation = eval::value(name, &definitions, &|_| true)?.1?;
                at(&equation)
            };
            let mut seen = 0;
            for (name, definition) in &definitions {
                let Some(chunk) = chunk_of(name) else {
                    continue;
                };
                seen += 1;
                let right = definition.right.iter().map(|(_, operand)| operand);
                let mut parents: Vec<usize> = std::iter::once(&definition.left)
                    .chain(right)
                    .filter_map(|operand| match operand {
                        eval::Operand::Name(name) => chunk_of(name),
                        eval::Operand::Number(_) => None,
                    })
                    .collect();
                parents.sort_unstable();
                let mut stated = row.parents[chunk].clone();
                stated.sort_unstable();
                assert_eq!(stated, parents, "{}", row.question);
            }
            assert_eq!(seen, row.chunks.len(), "a chunk per definition");
        }
    }
}

#[test]
fn multiplication() {
    for (multiplicand_digits, multiplier_digits) in [(4, 4), (1, 2), (2, 5), (18, 18)] {
        let task = Task::Multiplication(Multiplication {
            multiplicand_digits,
            multiplier_digits,
            ..Multiplication::default()
        });
        let mut zeros = 0;
        for row in rows(&task, 300, 1) {
            let (a, b) = row.question.split_once('*').unwrap();
            let product = eval::reversed(a) * eval::reversed(b);
            assert_eq!(eval::reversed(&row.answer), product);
            let is_sum = |chunk: usize| row.chunks[chunk].starts_with('(');
            let number = |chunk: usize| eval::reversed(&row.chunks[chunk]);
            let products = (0..row.chunks.len()).filter(|chunk| !is_sum(*chunk));
            let kept = products.clone().filter(|chunk| !row.skippable[*chunk]);
            assert_eq!(kept.clone().map(number).sum::<u128>(), product);
            assert!(kept.clone().all(|chunk| number(chunk) != 0));
            zeros += products.count() - kept.count();
            for sum in (0..row.chunks.len()).filter(|chunk| is_sum(*chunk)) {
                let parents = &row.parents[sum];
                let total: u128 = parents.iter().map(|parent| number(*parent)).sum();
                assert_eq!(number(sum), total, "{:?}", row.chunks);
                assert_eq!(row.skippable[sum], parents.len() < 2);
            }
        }
        assert!(zeros > 0 || multiplier_digits < 3, "zeros come up");
    }
}

/// What a graph row must be, generated or published.
pub(crate) fn check_graph(row: &Row) -> eval::Graph {
    let graph = eval::Graph::parse(&row.question);
    let distances = graph.distances();
    let (person, target) = eval::statement(&row.answer);
    assert_eq!(person, graph.person);
    let steps = distances[target.as_str()];
    assert_eq!(steps, row.chunks.len(), "a shortest path");
    let reached = |choice: &&String| distances.contains_key(choice.as_str());
    let right: Vec<&String> = graph.choices.iter().filter(reached).collect();
    assert_eq!(right, [&target]);
    let path: Vec<(String, String)> = row.chunks.iter().map(|c| eval::statement(c)).collect();
    assert!(path.iter().all(|step| graph.edges.contains(step)));
    assert!(path.windows(2).all(|pair| pair[0].1 == pair[1].0));
    assert_eq!((&path[0].0, &path[steps - 1].1), (&person, &target));
    // Without any one step of it the path is none.
    assert!(row.skippable.iter().all(|skippable| !skippable));
    graph
}

#[test]
fn prosqa() {
    let rows = rows(&Task::Prosqa(Prosqa::default()), 1000, 1);
    let mut first = 0;
    for row in &rows {
        let graph = check_graph(row);
        first += usize::from(row.answer.contains(&graph.choices[0]));
    }
    // A fair coin over 1000 questions leaves this range once in 10,000 tests.
    assert!((438..=562).contains(&first), "{first}");

    let balanced = Prosqa {
        balanced: true,
        ..Prosqa::default()
    };
    for row in crate::rows(&Task::Prosqa(balanced), 200, 1) {
        let (right, wrong) = check_graph(&row).depths();
        assert_eq!(right, wrong, "{}", row.question);
    }
}

#[test]
fn knights() {
    let rows = rows(&Task::Knights(Knights::default()), 500, 1);
    for row in &rows {
        let worlds = eval::worlds(&row.question);
        let [world] = &worlds[..] else {
            panic!("{} solutions: {}", worlds.len(), row.question);
        };
        let role = |is_knight: &bool| if *is_knight { "knight" } else { "knave" };
        let parts: Vec<String> = world
            .iter()
            .map(|(name, is_knight)| format!("{name} is a {}", role(is_knight)))
            .collect();
        assert_eq!(row.answer, parts.join(", "));
        // The last supposition about everybody that was not withdrawn is the answer.
        let mut held: Vec<&str> = Vec::new();
        for chunk in &row.chunks {
            if let Some(person) = chunk
                .strip_prefix("Suppose ")
                .and_then(|c| c.strip_suffix(": possible."))
            {
                held.push(person);
            } else if chunk.starts_with("Neither") {
                held.pop();
            }
        }
        assert_eq!(held.join(", "), row.answer);
    }
    assert!(
        rows.iter()
            .any(|row| row.chunks.iter().any(|c| c.starts_with("Neither")))
    );
}
