//! Packing changes the cost of a batch and nothing else.

use std::collections::HashMap;

use skimstone::ModelConfig;
use skimstone_training::data::{Span, TokenizedRow};
use skimstone_training::loss::supervised;
use skimstone_training::pack::{Batch, Packing, build};
use skimstone_training::score::predictions;
use skimstone_training::student::Student;

fn student(model_type: &str) -> Student {
    let json = format!(
        r#"{{"model_type":"{model_type}","hidden_size":32,"intermediate_size":48,"num_hidden_layers":3,
        "num_attention_heads":4,"num_key_value_heads":2,"head_dim":8,"vocab_size":50,"max_position_embeddings":512,
        "rms_norm_eps":1e-6,"rope_theta":10000,"tie_word_embeddings":{},"eos_token_id":1}}"#,
        model_type != "llama"
    );
    Student::random(&ModelConfig::from_json(&json).unwrap(), 3, 0.2).unwrap()
}

/// A row that begins with `shared` tokens common to its group; its last third is scored.
fn row(group: u32, shared: usize, own: usize, salt: u32) -> TokenizedRow {
    let common = (0..shared as u32).map(|i| (i * 7 + group * 11) % 50);
    let tail = (0..own as u32).map(|i| (i * i * 3 + salt * 13 + 5) % 50);
    let tokens: Vec<u32> = common.chain(tail).collect();
    let from = tokens.len() - (tokens.len() / 3).max(1);
    TokenizedRow {
        group,
        spans: vec![Span {
            range: from..tokens.len(),
            weight: 1.0,
        }],
        tokens,
        ..TokenizedRow::default()
    }
}

/// Trees with ragged branches, a branch of one token scored from the prefix, and a row alone.
fn rows() -> Vec<TokenizedRow> {
    let mut rows: Vec<TokenizedRow> = (0..5).map(|i| row(0, 40, 3 + 9 * i as usize, i)).collect();
    rows.push(row(0, 40, 1, 9));
    rows.extend((0..3).map(|i| row(1, 90, 70, i + 20)));
    rows.push(row(2, 0, 30, 31));
    rows
}

fn separate(rows: &[TokenizedRow]) -> Batch {
    let mut batch = Batch::default();
    rows.iter().for_each(|row| batch.push_row(row));
    batch
}

#[test]
fn a_tree_computes_what_separate_rows_compute() {
    let (student, rows) = (student("qwen3"), rows());
    let plan = Packing {
        micro_batch_tokens: 4096,
        micro_batch_rows: 0,
        tree_rows: 16,
        seed: 1,
    }
    .in_order(&rows);
    assert_eq!(
        plan,
        vec![vec![vec![0, 1, 2, 3, 4, 5], vec![6, 7, 8], vec![9]]]
    );
    let (tree, alone) = (build(&rows, &plan[0]), separate(&rows));
    assert!(
        tree.len() < alone.len() - 350,
        "{} tokens in trees, {} alone",
        tree.len(),
        alone.len()
    );
    assert_eq!(
        (&tree.targets, &tree.row_targets),
        (&alone.targets, &alone.row_targets)
    );

    let logits =
        |batch: &Batch| -> Vec<Vec<f32>> { student.forward(batch).unwrap().to_vec2().unwrap() };
    let differ = logits(&tree)
        .concat()
        .iter()
        .zip(logits(&alone).concat())
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(differ < 2e-5, "logits differ by {differ}");

    let (a, b) = (
        supervised(&student, &tree).unwrap(),
        supervised(&student, &alone).unwrap(),
    );
    let (a, b) = (a.sum.backward().unwrap(), b.sum.backward().unwrap());
    for (name, variable) in student.variables() {
        let read = |grads: &candle_core::backprop::GradStore| -> Vec<f32> {
            grads
                .get(variable)
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1()
                .unwrap()
        };
        let (a, b) = (read(&a), read(&b));
        let scale = b.iter().fold(0f32, |m, x| m.max(x.abs()));
        let differ = a
            .iter()
            .zip(&b)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(
            differ <= 2e-5 * (1.0 + scale),
            "{name}: gradients differ by {differ} of {scale}"
        );
    }
}

#[test]
fn every_variable_of_every_family_has_a_gradient() {
    for family in ["llama", "qwen2", "qwen3"] {
        let student = student(family);
        let grads = supervised(&student, &separate(&rows()))
            .unwrap()
            .sum
            .backward()
            .unwrap();
        for (name, variable) in student.variables() {
            let grad = grads
                .get(variable)
                .unwrap_or_else(|| panic!("{family}: `{name}` has no gradient"));
            let largest: f32 = grad
                .abs()
                .unwrap()
                .flatten_all()
                .unwrap()
                .max(0)
                .unwrap()
                .to_scalar()
                .unwrap();
            // A key's bias moves all scores of a query alike and softmax cannot see it; rounding is all that is left.
            let floor = if name.ends_with("k_proj.bias") {
                0.0
            } else {
                1e-4
            };
            assert!(
                largest > floor,
                "{family}: gradient of `{name}` is at most {largest}"
            );
        }
    }
}

#[test]
fn a_plan_holds_every_row_once_within_the_budget() {
    let rows: Vec<TokenizedRow> = (0..200)
        .map(|i| row(i / 7, 30, 10 + (i as usize * 5) % 40, i))
        .collect();
    let packing = Packing {
        micro_batch_tokens: 300,
        micro_batch_rows: 0,
        tree_rows: 4,
        seed: 9,
    };
    let (first, again, other) = (
        packing.plan(&rows, 0),
        packing.plan(&rows, 0),
        packing.plan(&rows, 1),
    );
    assert_eq!(first, again, "the same seed and epoch give the same plan");
    assert_ne!(first, other, "epochs differ");
    for plan in [first, other] {
        let mut seen: HashMap<usize, usize> = HashMap::new();
        for trees in &plan {
            assert!(build(&rows, trees).len() <= 300);
            assert!(trees.iter().all(|tree| !tree.is_empty() && tree.len() <= 4));
            trees
                .iter()
                .flatten()
                .for_each(|index| *seen.entry(*index).or_default() += 1);
        }
        assert_eq!(seen.len(), rows.len());
        assert!(seen.values().all(|count| *count == 1));
    }
}

#[test]
fn predictions_come_back_in_the_order_of_the_rows() {
    let (student, mut rows) = (student("qwen3"), rows());
    // Neighbours of different groups, so that packing has to reorder.
    rows.swap(0, 7);
    rows.swap(3, 9);
    let packed = predictions(&student, &rows).unwrap();
    for (row, packed) in rows.iter().zip(&packed) {
        let mut batch = Batch::default();
        batch.push_row(row);
        let logits: Vec<Vec<f32>> = student.forward(&batch).unwrap().to_vec2().unwrap();
        for ((logits, target), packed) in logits.iter().zip(&batch.targets).zip(packed) {
            let target = logits[*target as usize];
            let is_picked = logits.iter().all(|value| *value <= target);
            let sum: f32 = logits.iter().map(|value| (value - target).exp()).sum();
            assert_eq!(packed.is_picked, is_picked);
            assert!((packed.probability - 1.0 / sum).abs() < 1e-4);
        }
    }
}
