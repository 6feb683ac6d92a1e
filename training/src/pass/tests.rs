//! Every gradient against candle's graph.

use std::sync::Arc;

use skimstone::ShortcutSize;

use super::*;
use crate::data::{Span, Thought, TokenizedRow};
use crate::loss::{supervised, supervised_gradient};
use crate::student::Student;

/// What sets the families apart: biases, QK-norm, tied and untied heads, `head_dim` ≠ E/H.
const CONFIGS: [&str; 4] = [
    r#""model_type":"llama","num_key_value_heads":2,"tie_word_embeddings":false,"attention_bias":true,"mlp_bias":true"#,
    r#""model_type":"llama","num_key_value_heads":4,"tie_word_embeddings":true"#,
    r#""model_type":"qwen2","num_key_value_heads":1,"tie_word_embeddings":true"#,
    r#""model_type":"qwen3","num_key_value_heads":2,"tie_word_embeddings":false"#,
];

const NONE: SideModules = SideModules {
    latent_map_size: None,
    shortcut: None,
};
const MAP: SideModules = SideModules {
    latent_map_size: Some(20),
    shortcut: None,
};
const ROUTED: SideModules = SideModules {
    latent_map_size: None,
    shortcut: Some(ShortcutSize {
        router: 5,
        adapter: 7,
    }),
};

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
    for (batch, side) in [
        (batch as fn() -> Batch, NONE),
        (latent_batch, NONE),
        (latent_batch, MAP),
    ] {
        compare_gradients(batch, side);
    }
}

fn compare_gradients(batch: fn() -> Batch, side: SideModules) {
    for family in CONFIGS {
        let config = config(family);
        let student = Student::random_with(&config, side, 7, 0.15).unwrap();
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
        let mut pass = Pass::new(&config, side);
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
    let mut pass = Pass::new(&config, NONE);
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

/// Holds the gradient that `loss` adds to what it is handed against differences of what it returns, for some of the weights.
fn check_differences(
    weights: &[f32],
    some: impl Iterator<Item = usize>,
    about: &str,
    loss: &mut dyn FnMut(&[f32], &mut [f32]) -> f64,
) {
    let mut gradient = vec![0f32; weights.len()];
    loss(weights, &mut gradient);
    let mut spare = vec![0f32; weights.len()];
    for index in some {
        let mut at = |delta: f32| {
            let mut moved = weights.to_vec();
            moved[index] += delta;
            loss(&moved, &mut spare)
        };
        let step = 1e-2;
        let expected = (at(step) - at(-step)) / f64::from(2.0 * step);
        let found = f64::from(gradient[index]);
        assert!(
            (found - expected).abs() < 2e-2 * (1.0 + expected.abs()),
            "{about} weight {index}: {found} and {expected}"
        );
    }
}

/// States of tapped tokens take part in the loss: against differences of the loss itself.
#[test]
fn gradients_of_taps_are_differences() {
    let config = config(CONFIGS[3]);
    let student = Student::random_with(&config, MAP, 7, 0.15).unwrap();
    let weights = student.flat_weights().unwrap();
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
    let mut pass = Pass::new(&config, MAP);
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
    let some = (0..weights.len()).step_by(weights.len() / 60);
    check_differences(&weights, some, "taps", &mut loss);
}

/// Heads after each layer, and rows that layers are left out for: against differences of the loss itself.
#[test]
fn gradients_of_exits_are_differences() {
    let config = config(CONFIGS[3]);
    let student = Student::random(&config, 7, 0.15).unwrap();
    let weights = student.flat_weights().unwrap();
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
        let mut pass = Pass::new(&config, NONE);
        let depth = Depth {
            exits: &[1, 2],
            left_out,
            ..Depth::default()
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
        let some = (0..weights.len()).step_by(weights.len() / 60);
        check_differences(&weights, some, "exits", &mut loss);
    }
}

/// Weights of a student one after the other, none of them at a value where a mistake would not show.
fn disturbed(config: &ModelConfig, side: SideModules) -> Vec<f32> {
    let student = Student::random_with(config, side, 7, 0.15).unwrap();
    let read = |variable: &candle_core::Var| -> Vec<f32> {
        variable.flatten_all().unwrap().to_vec1().unwrap()
    };
    let values = student.variables().iter().flat_map(|(name, variable)| {
        let is_new = name.starts_with("shortcut.");
        let values = read(variable).into_iter().enumerate();
        values.map(move |(i, x)| match is_new {
            true => x * 0.5 + (i as f32 * 0.7).sin() * 0.4,
            false => x,
        })
    });
    values.collect()
}

/// A student's row with its teacher's, three latent tokens.
fn thoughtful(is_forced: bool, with_teacher: bool) -> TokenizedRow {
    let mut teacher = row(2, 14);
    teacher.answer = 11;
    let mut student = row(3, 12);
    (student.answer, student.latents, student.is_forced) = (8, 4..7, is_forced);
    student.spans[0].range.end = 7;
    student.spans[1].range.start = 7;
    student.teacher = with_teacher.then(|| Arc::new(teacher));
    let thought = |step, critical| Thought { step, critical };
    student.thoughts = vec![thought(5, true), thought(8, false), thought(10, true)];
    student
}

#[test]
fn forced_latent_tokens_wait_for_the_teacher_alone() {
    let mut batch = Batch::default();
    batch.push_row(&thoughtful(true, true));
    batch.push_row(&thoughtful(false, true));
    assert_eq!(batch.taps[..6], [5, 14 + 4, 8, 14 + 5, 10, 14 + 6]);
    assert_eq!(batch.critical[..6], [true, true, false, false, true, true]);
    // Each but the first reads what the teacher computed for the one before.
    assert_eq!(batch.fed, [(14 + 5, 5), (14 + 6, 8)]);
    assert_eq!(batch.read_by(14 + 4), (14 + 3, false));
    assert_eq!(batch.read_by(14 + 6), (8, true));
    let sizes: Vec<usize> = batch.waves().iter().map(|wave| wave.len()).collect();
    // Teachers and beginnings; the first row's rest and one; one; the second row's rest.
    assert_eq!(sizes, [2 * (14 + 4), 8 + 1, 1, 6]);
}

/// Fed tokens read the teacher's states themselves, and send nothing back there.
#[test]
fn a_forced_row_is_the_free_one_with_the_teachers_states() {
    let config = config(CONFIGS[3]);
    let weights = disturbed(&config, NONE);
    let mut batch = Batch::default();
    batch.push_row(&thoughtful(true, true));
    let mut pass = Pass::new(&config, NONE);
    let mut states = Vec::new();
    let mut gradient = vec![0f32; weights.len()];
    pass.run(&weights, &batch, &mut gradient, |logits, taps| {
        // Only the last latent token has a gradient: it read the teacher's second step.
        logits.fill(0.0);
        states.clone_from(taps.states.last().unwrap());
        let width = states.len() / taps.count;
        taps.gradients.last_mut().unwrap()[5 * width..].fill(1.0);
        Ok(())
    })
    .unwrap();
    let read = &pass.kept[0].x;
    let width = config.hidden_size;
    // In the order of the waves: teacher, beginning, then the three latent tokens.
    for (latent, tap) in [(1, 0), (2, 2)] {
        let at = (14 + 4 + latent) * width;
        assert_eq!(read[at..at + width], states[tap * width..][..width]);
    }
    // The teacher's own tokens learn nothing from it: those that the student's row does not have.
    let embedding = &gradient[..config.vocab_size * width];
    let teacher = row(2, 14).tokens;
    let own = row(3, 12).tokens;
    let foreign = teacher.iter().filter(|token| !own.contains(token));
    let mut seen = 0;
    for token in foreign {
        let row = &embedding[*token as usize * width..][..width];
        assert!(row.iter().all(|x| *x == 0.0), "token {token}");
        seen += 1;
    }
    assert!(seen > 3);
}

/// Routers, adapters and everything below them: against differences of the loss itself.
#[test]
fn gradients_of_shortcuts_are_differences() {
    // All that sets the families apart lies in these two.
    for (family, with_teacher) in [(CONFIGS[0], true), (CONFIGS[3], false)] {
        let config = config(family);
        let weights = disturbed(&config, ROUTED);
        let mut batch = Batch::default();
        batch.push_row(&row(3, 9));
        batch.push_row(&thoughtful(false, with_teacher));
        // Differences do not know what is held back, so that no row is fed.
        batch.push_row(&thoughtful(false, true));
        let mut pass = Pass::new(&config, ROUTED);
        let depth = Depth {
            routed: true,
            ..Depth::default()
        };
        let readout = |index: usize| (index as f32 * 0.37).sin() * 0.3;
        let mut loss = |weights: &[f32], gradient: &mut [f32]| -> f64 {
            let mut sum = 0.0;
            let run = pass.run_with(weights, &batch, depth, gradient, |_, logits, taps| {
                for (index, x) in logits.iter_mut().enumerate() {
                    sum += f64::from(*x * readout(index)) * 0.1;
                    *x = readout(index) * 0.1;
                }
                let states = taps.states.iter().zip(&mut taps.gradients);
                let gates = taps.gates.iter().zip(&mut taps.dgates);
                let pairs = states.chain(gates).flat_map(|(x, dx)| x.iter().zip(dx));
                for (index, (x, dx)) in pairs.enumerate() {
                    sum += f64::from(*x * readout(index));
                    *dx += readout(index);
                }
                assert_eq!(taps.gates.len(), 2);
                Ok(())
            });
            run.unwrap();
            sum
        };
        let own = config.num_parameters() as usize;
        let side = (own..weights.len()).step_by(11);
        let some = (0..own).step_by(own / 40).chain(side);
        check_differences(&weights, some, family, &mut loss);
    }
}
