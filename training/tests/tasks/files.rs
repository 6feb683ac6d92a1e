//! The published files: formats are met to the byte, what they state is true, and what they leak is found.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use skimstone_training::data::Row;
use skimstone_training::tasks::contamination::contamination;
use skimstone_training::tasks::multiplication::solved;
use skimstone_training::tasks::{Babi, Gsm8k, Knights, Prosqa, Split, Task, fingerprint};

use crate::evaluators::reversed;
use crate::truth::check_graph;
use crate::{SPLITS, rows};

/// A file of the real data; prints a line and returns `None` where it is absent.
fn data(path: &str) -> Option<PathBuf> {
    let root = match std::env::var_os("SKIMSTONE_DATA") {
        Some(root) => PathBuf::from(root),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"),
    };
    let path = root.join(path);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {} is absent; set SKIMSTONE_DATA", path.display());
    None
}

/// A count over a row.
type Measure<'a> = &'a dyn Fn(&Row) -> usize;

/// Every row of a task that reads files, of all splits.
fn all(task: &Task) -> Vec<Row> {
    SPLITS
        .iter()
        .flat_map(|split| task.generate(*split, usize::MAX, 1).unwrap())
        .collect()
}

#[test]
fn multiplication_is_written_as_published() {
    #[derive(serde::Deserialize)]
    struct Published {
        question: String,
        rationale: String,
        answer: String,
    }
    for size in ["4x4", "5x5", "7x7"] {
        let Some(path) = data(&format!("mult_{size}_dev.jsonl.gz")) else {
            return;
        };
        let file = std::fs::File::open(path).unwrap();
        let text = std::io::read_to_string(flate2::read::GzDecoder::new(file)).unwrap();
        let mut count = 0;
        for line in text.lines() {
            let published: Published = serde_json::from_str(line).unwrap();
            let (a, b) = published.question.split_once('*').unwrap();
            let factor = |text| u64::try_from(reversed(text)).unwrap();
            let row = solved(factor(a), factor(b));
            assert_eq!(row.question, published.question);
            assert_eq!(row.chunks.join(" "), published.rationale);
            assert_eq!(row.answer, published.answer);
            assert_eq!(row.kind, size);
            count += 1;
        }
        assert_eq!(count, 1000);
    }
}

#[test]
fn published_graphs_are_sound_and_generated_ones_look_like_them() {
    let Some(file) = data("prosqa_valid.jsonl.gz") else {
        return;
    };
    let task = Task::Prosqa(Prosqa {
        test: Some(file),
        balanced: false,
    });
    let published = task.generate(Split::Test, usize::MAX, 1).unwrap();
    assert_eq!(published.len(), 300);
    let made = rows(&task, 1000, 1);
    let test: HashSet<u64> = published.iter().map(|r| fingerprint(&r.question)).collect();
    assert!(
        made.iter()
            .all(|row| !test.contains(&fingerprint(&row.question)))
    );

    let mean = |rows: &[Row], of: Measure<'_>| {
        rows.iter().map(of).sum::<usize>() as f64 / rows.len() as f64
    };
    let edges = |row: &Row| check_graph(row).edges.len();
    let nodes = |row: &Row| {
        let edges = check_graph(row).edges;
        let ends = edges.iter().flat_map(|(from, to)| [from, to]);
        ends.collect::<HashSet<_>>().len()
    };
    let steps = |row: &Row| row.chunks.len();
    let reached = |row: &Row| check_graph(row).distances().len();
    let leaves = |row: &Row| {
        let edges = check_graph(row).edges;
        let inner: HashSet<&String> = edges.iter().map(|(from, _)| from).collect();
        let ends: HashSet<&String> = edges.iter().map(|(_, to)| to).collect();
        ends.difference(&inner).count()
    };
    let shortcut = |row: &Row| {
        let (right, wrong) = check_graph(row).depths();
        usize::from(right > wrong)
    };
    let cases: [(&str, Measure<'_>, f64); 6] = [
        ("statements", &edges, 1.5),
        ("nodes", &nodes, 0.75),
        ("steps", &steps, 0.1),
        ("leaves", &leaves, 0.75),
        ("right class is farther from the people", &shortcut, 0.06),
        ("classes that follow from the person", &reached, 1.5),
    ];
    let mut differences = Vec::new();
    for (what, of, tolerance) in cases {
        let (real, ours) = (mean(&published, of), mean(&made, of));
        println!("{what}: published {real:.2}, generated {ours:.2}");
        differences.push((what, (real - ours).abs(), tolerance));
    }
    for (what, difference, tolerance) in differences {
        assert!(difference < tolerance, "{what}: {difference}");
    }
}

#[test]
fn published_puzzles_have_the_solution_that_they_state() {
    let Some(file) = data("knights_knaves_train.jsonl.gz") else {
        return;
    };
    // The reader solves each puzzle and refuses the file if one has another solution.
    let task = Task::Knights(Knights {
        file: Some(file),
        ..Knights::default()
    });
    let rows = all(&task);
    assert_eq!(rows.len(), 1800);
    for row in &rows {
        assert!(task.grade(row, &row.answer) && !row.chunks.is_empty());
        let named = row
            .answer
            .split(", ")
            .map(|part| part.split(' ').next().unwrap());
        assert!(named.into_iter().all(|name| row.question.contains(name)));
    }
}

#[test]
fn stories_come_once_with_the_facts_that_matter() {
    let files = ["babi_qa15_train2k.jsonl.gz", "babi_qa16_train2k.jsonl.gz"].map(data);
    let [Some(deduction), Some(induction)] = files else {
        return;
    };
    let rows = all(&Task::Babi(Babi {
        files: vec![deduction, induction],
    }));
    let of = |kind: &str| rows.iter().filter(|row| row.kind == kind).count();
    assert_eq!(of("babi_qa15_train2k"), 1383, "of 2000 published rows");
    assert_eq!(of("babi_qa16_train2k"), 2000);
    for row in &rows {
        let needed = row
            .skippable
            .iter()
            .filter(|skippable| !**skippable)
            .count();
        let expected = if row.kind.contains("qa15") { 2 } else { 3 };
        assert_eq!(needed, expected, "{}", row.question);
    }
}

#[test]
fn the_equation_test_is_kept_out_of_the_training() {
    let files = ["gsm8k_train.jsonl.gz", "icot_gsm8k_eqn_valid.jsonl.gz"].map(data);
    let [Some(train), Some(test)] = files else {
        return;
    };
    // As published the one contains the other.
    let report = contamination(std::slice::from_ref(&train), &test, true).unwrap();
    assert_eq!(
        (report.train, report.evaluation, report.common),
        (7473, 500, 500)
    );
    assert_eq!(report.gram_share, Some(1.0));

    let task = Task::Gsm8k(Gsm8k { train, test });
    let [train, validation, test] =
        SPLITS.map(|split| task.generate(split, usize::MAX, 1).unwrap());
    assert_eq!(test.len(), 500);
    assert!(validation.len() > 600 && train.len() > 5600);
    assert!(train.len() + validation.len() + test.len() <= 7473);
    let mut seen = HashSet::new();
    for row in train.iter().chain(&validation).chain(&test) {
        assert!(seen.insert(fingerprint(&row.question)));
        assert!(task.grade(row, &row.answer), "{}", row.answer);
        let whole = |chunk: &String| chunk.starts_with("<<") && chunk.ends_with(">>");
        assert!(row.chunks.iter().all(whole));
    }
}
