//! Every gradient against candle's graph.

use super::*;
use crate::data::{Span, TokenizedRow};
use crate::loss::{supervised, supervised_gradient};
use crate::student::Student;

/// What sets the families apart: biases, QK-norm, tied and untied heads, `head_dim` ≠ E/H.
const CONFIGS: [&str; 4] = [
    r#""model_type":"llama","num_key_value_heads":2,"tie_word_embeddings":false,"attention_bias":true,"mlp_bias":true"#,
    r#""model_type":"llama","num_key_value_heads":4,"tie_word_embeddings":true"#,
    r#""model_type":"qwen2","num_key_value_heads":1,"tie_word_embeddings":true"#,
    r#""model_type":"qwen3","num_key_value_heads":2,"tie_word_embeddings":false"#,
];

fn config(family: &str) -> ModelConfig {
    let json = format!(
        r#"{{{family},"hidden_size":32,"intermediate_size":56,"num_hidden_layers":3,"num_attention_heads":4,"head_dim":12,
        "vocab_size":61,"max_position_embeddings":256,"rms_norm_eps":1e-5,"rope_theta":10000,"eos_token_id":1}}"#
    );
    ModelConfig::from_json(&json).unwrap()
}

fn row(seed: u32, len: u32) -> TokenizedRow {
    TokenizedRow {
        tokens: (0..len).map(|i| (i * i * 7 + i * seed + 3) % 61).collect(),
        spans: vec![
            Span {
                range: 0..3,
                weight: 0.0,
            },
            Span {
                range: 3..len as usize,
                weight: 0.5 + seed as f32,
            },
        ],
        ..TokenizedRow::default()
    }
}

/// A tree whose branches share a source, a long row and a short one.
fn batch() -> Batch {
    let mut batch = Batch::default();
    let branch = |last: u32| {
        let mut row = row(1, 9);
        row.tokens.truncate(4);
        row.tokens.extend([last, 8, last, 9, 10]);
        row
    };
    batch.push_tree(&[&branch(11), &branch(12), &branch(13)]);
    batch.push_row(&row(2, 100));
    batch.push_row(&row(3, 4));
    batch
}

/// Rows with three, one and no latent tokens, beside a tree.
fn latent_batch() -> Batch {
    let latent = |seed: u32, len: u32, latents: std::ops::Range<usize>| {
        let mut row = row(seed, len);
        row.spans[0].range.end = latents.end;
        row.spans[1].range.start = latents.end;
        row.latents = latents;
        row
    };
    let mut batch = batch();
    batch.push_row(&latent(2, 20, 5..8));
    batch.push_row(&row(3, 9));
    // The last latent token predicts, and one directly after the first token.
    batch.push_row(&latent(4, 11, 6..7));
    batch.push_row(&latent(1, 90, 1..4));
    batch
}

#[test]
fn waves_cut_rows_where_latent_tokens_wait() {
    let waves = latent_batch().waves();
    let sizes: Vec<(usize, usize)> = waves.iter().map(|w| (w.len(), w.latents.len())).collect();
    assert_eq!(sizes[1..], [(1 + 5 + 1, 3), (2, 2), (12 + 1 + 86 + 1, 2)]);
}

#[test]
fn gradients_are_those_of_the_graph() {
    for (batch, latent_map_size) in [
        (batch as fn() -> Batch, None),
        (latent_batch, None),
        (latent_batch, Some(20)),
    ] {
        compare_gradients(batch, latent_map_size);
    }
}

fn compare_gradients(batch: fn() -> Batch, latent_map_size: Option<usize>) {
    for family in CONFIGS {
        let config = config(family);
        let student = Student::random_with(&config, latent_map_size, 7, 0.15).unwrap();
        // Biases and norms start at zero and one, where a mistake would not show.
        for (index, (_, variable)) in student.variables().iter().enumerate() {
            if variable.rank() == 1 {
                let wave = (0..variable.elem_count())
                    .map(|i| 0.8 + ((i + index) as f32 * 0.7).sin() * 0.3)
                    .collect();
                let wave: candle_core::Tensor =
                    candle_core::Tensor::from_vec(wave, variable.shape(), variable.device())
                        .unwrap();
                variable.set(&wave).unwrap();
            }
        }
        let read = |tensor: &candle_core::Tensor| -> Vec<f32> {
            tensor.flatten_all().unwrap().to_vec1().unwrap()
        };
        let weights: Vec<f32> = student
            .variables()
            .iter()
            .flat_map(|(_, variable)| read(variable))
            .collect();
        let mut pass = Pass::new(&config, latent_map_size);
        let mut gradient = vec![0f32; weights.len()];
        let mut short = Batch::default();
        short.push_row(&row(5, 30));
        // Twice, with another batch in between: buffers of other sizes must not leave traces, gradients add up.
        let (loss, correct) =
            supervised_gradient(&mut pass, &weights, &batch(), &mut gradient).unwrap();
        let mut other = vec![0f32; weights.len()];
        supervised_gradient(&mut pass, &weights, &short, &mut other).unwrap();
        supervised_gradient(&mut pass, &weights, &batch(), &mut gradient).unwrap();

        let graph = supervised(&student, &batch()).unwrap();
        let expected = f64::from(graph.sum.to_scalar::<f32>().unwrap());
        assert!(
            (loss - expected).abs() < 1e-5 * expected,
            "{family}: {loss} and {expected}"
        );
        assert_eq!(correct, graph.correct, "{family}");
        let grads = graph.sum.backward().unwrap();
        let mut start = 0;
        for (name, variable) in student.variables() {
            let theirs = read(grads.get(variable).unwrap());
            let ours = &gradient[start..start + theirs.len()];
            start += theirs.len();
            let norm = theirs.iter().map(|x| x * x).sum::<f32>().sqrt();
            // Both run the same kernels; only sums of a few terms are taken in another order.
            for (a, b) in ours.iter().zip(&theirs) {
                assert!(
                    (a / 2.0 - b).abs() < 1e-5 * norm,
                    "{family} {name}: {a} / 2 and {b}"
                );
            }
        }
    }
}

#[test]
fn foreign_tokens_sources_and_segments_are_refused() {
    let config = config(CONFIGS[1]);
    let mut pass = Pass::new(&config, None);
    let weights = vec![0f32; config.num_parameters() as usize];
    type Spoil = fn(&mut Batch);
    let cases: [(Spoil, &str); 4] = [
        (|b| b.tokens[3] = 61, "token 61"),
        (|b| b.sources[0] = 999, "source 999"),
        (|b| b.segments[0].len = 999, "Segment"),
        (|b| b.targets[0] = 61, "target 61"),
    ];
    for (spoil, expected) in cases {
        let mut batch = batch();
        spoil(&mut batch);
        let mut gradient = vec![0f32; weights.len()];
        let error = supervised_gradient(&mut pass, &weights, &batch, &mut gradient)
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{error}");
    }
}

/// States of tapped tokens take part in the loss: against differences of the loss itself.
#[test]
fn gradients_of_taps_are_differences() {
    let config = config(CONFIGS[3]);
    let student = Student::random_with(&config, Some(20), 7, 0.15).unwrap();
    let mut weights = Vec::new();
    for (_, variable) in student.variables() {
        let values: Vec<f32> = variable.flatten_all().unwrap().to_vec1().unwrap();
        weights.extend(values);
    }
    let mut batch = latent_batch();
    let count = batch.len() as u32;
    // In a prefix, in rows with and without latent tokens, and a latent token itself.
    batch.taps = vec![
        2,
        count - 1,
        batch.latents[0].start as u32,
        batch.sources[5],
        40,
    ];
    let mut pass = Pass::new(&config, Some(20));
    let readout = |index: usize| (index as f32 * 0.37).sin();
    let mut loss = |weights: &[f32], gradient: &mut [f32]| -> f64 {
        let run = pass.run(weights, &batch, gradient, |logits, taps| {
            logits.fill(0.0);
            let mut sum = 0.0;
            let pairs = taps.states.iter().zip(&mut taps.gradients);
            for (index, (state, gradient)) in pairs.flat_map(|(s, g)| s.iter().zip(g)).enumerate() {
                sum += f64::from(*state * readout(index));
                *gradient += readout(index);
            }
            Ok(sum)
        });
        run.unwrap()
    };
    let mut gradient = vec![0f32; weights.len()];
    loss(&weights, &mut gradient);
    let mut spare = vec![0f32; weights.len()];
    for index in (0..weights.len()).step_by(weights.len() / 60) {
        let at =
            |delta: f32, loss: &mut dyn FnMut(&[f32], &mut [f32]) -> f64, spare: &mut [f32]| {
                let mut moved = weights.clone();
                moved[index] += delta;
                loss(&moved, spare)
            };
        let step = 1e-2;
        let up = at(step, &mut loss, &mut spare);
        let down = at(-step, &mut loss, &mut spare);
        let expected = (up - down) / f64::from(2.0 * step);
        let found = f64::from(gradient[index]);
        assert!(
            (found - expected).abs() < 2e-2 * (1.0 + expected.abs()),
            "weight {index}: {found} and {expected}"
        );
    }
}

/// Heads after each layer, and rows that layers are left out for: against differences of the loss itself.
#[test]
fn gradients_of_exits_are_differences() {
    let config = config(CONFIGS[3]);
    let student = Student::random(&config, 7, 0.15).unwrap();
    let mut weights = Vec::new();
    for (_, variable) in student.variables() {
        let values: Vec<f32> = variable.flatten_all().unwrap().to_vec1().unwrap();
        weights.extend(values);
    }
    let mut rows = Batch::default();
    (1..5).for_each(|seed| rows.push_row(&row(seed, 9 + seed)));
    let left_out: Vec<Vec<bool>> = (0..3)
        .map(|layer| {
            let rows = rows.segments.iter().enumerate();
            rows.flat_map(|(row, segment)| vec![(row + layer) % 3 == 0; segment.len])
                .collect()
        })
        .collect();
    let cases: [(Batch, &[Vec<bool>]); 3] =
        [(rows, &left_out), (batch(), &[]), (latent_batch(), &[])];
    for (batch, left_out) in cases {
        let mut pass = Pass::new(&config, None);
        let depth = Depth {
            exits: &[1, 2],
            left_out,
        };
        let mut loss = |weights: &[f32], gradient: &mut [f32]| -> f64 {
            let mut sum = 0.0;
            let run = pass.run_with(weights, &batch, depth, gradient, |layers, logits, _| {
                for (index, x) in logits.iter_mut().enumerate() {
                    let readout = ((index + layers) as f32 * 0.37).sin() * 0.1;
                    sum += f64::from(*x * readout);
                    *x = readout;
                }
                Ok(())
            });
            run.unwrap();
            sum
        };
        let mut gradient = vec![0f32; weights.len()];
        loss(&weights, &mut gradient);
        let mut spare = vec![0f32; weights.len()];
        for index in (0..weights.len()).step_by(weights.len() / 60) {
            let step = 1e-2;
            let mut moved = weights.clone();
            moved[index] += step;
            let up = loss(&moved, &mut spare);
            moved[index] -= 2.0 * step;
            let down = loss(&moved, &mut spare);
            let expected = (up - down) / f64::from(2.0 * step);
            let found = f64::from(gradient[index]);
            assert!(
                (found - expected).abs() < 2e-2 * (1.0 + expected.abs()),
                "weight {index}: {found} and {expected}"
            );
        }
    }
}
