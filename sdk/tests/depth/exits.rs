//! Tokens that leave the stack early.

use std::collections::HashMap;

use skimstone::kernels::{Format, KvFormat};
use skimstone::{
    DepthPolicy, ErrorKind, ExitDecay, ExitMeasure, ExitSpec, MissingKv, Model, ModelConfig,
    ModelOptions, ModelType, Session, TokenId,
};

use crate::tiny::{Pass, Random, bundle, config, model, naive_logits_with, reasoning, weights};
use crate::{best, each_model, session};

const KEPT: [MissingKv; 2] = [MissingKv::Propagate, MissingKv::Ragged];
const POLICIES: [DepthPolicy; 2] = [DepthPolicy::Halt, DepthPolicy::Bypass];

fn spec(layers: &[usize], threshold: f32, policy: DepthPolicy, missing_kv: MissingKv) -> ExitSpec {
    let mut spec = ExitSpec::new(layers, threshold);
    (spec.policy, spec.missing_kv) = (policy, missing_kv);
    spec
}

/// Oracles: ragged KV without exits is dense; a threshold of 1 is the whole depth.
#[test]
fn without_an_exit_all_is_as_in_a_plain_step() {
    each_model(|model| {
        let ids = Random::new(3).ids(60);
        let mut plain = session(model);
        plain.feed(&ids[..35]).unwrap();
        let mut cases = Vec::new();
        for measure in ExitMeasure::ALL {
            for policy in POLICIES {
                for missing in KEPT {
                    // Asked at every exit but never reached, and not asked at all.
                    for threshold in [0.999_999, 1.0] {
                        let mut spec = spec(&[1, 2], threshold, policy, missing);
                        spec.measure = measure;
                        cases.push((spec, plain.fork().unwrap()));
                    }
                }
            }
        }
        for &id in &ids[35..] {
            plain.step(id).unwrap();
            for (spec, session) in &mut cases {
                assert_eq!(session.step_exit(id, spec, 0).unwrap(), 3, "{spec:?}");
                assert_eq!(session.logits(), plain.logits(), "{spec:?}");
                assert_eq!(session.hidden(), plain.hidden(), "{spec:?}");
            }
        }
        for (spec, session) in &cases {
            let asked = spec.threshold < 1.0 && spec.measure == ExitMeasure::Softmax;
            let usage = session.usage();
            assert_eq!(
                (
                    usage.layer_passes,
                    usage.head_passes,
                    usage.exits,
                    usage.kv_passes
                ),
                (3 * 25, if asked { 3 * 25 } else { 25 }, 0, 0)
            );
            assert!((0..3).all(|layer| session.kv_len(layer) == 60));
        }
    });
}

/// A model of the first layers of another.
fn first_layers(config: &ModelConfig, weights: &HashMap<String, Vec<f32>>, layers: usize) -> Model {
    let config = ModelConfig {
        num_hidden_layers: layers,
        ..config.clone()
    };
    let bundle = bundle(&config, weights, Format::Q8, reasoning(), None);
    let options = ModelOptions::default().with_threads(2);
    Model::from_bundle(bundle, options.with_kv_format(KvFormat::Q8)).unwrap()
}

#[test]
fn an_exit_of_every_token_is_a_model_of_fewer_layers() {
    for family in ModelType::ALL {
        let config = config(family);
        let weights = weights(&config, 4);
        let model = first_layers(&config, &weights, 3);
        let ids = Random::new(5).ids(70);
        for exit in [1, 2] {
            let small = first_layers(&config, &weights, exit);
            for missing in KEPT {
                for measure in ExitMeasure::ALL {
                    let mut spec = spec(&[exit], -1.0, DepthPolicy::Halt, missing);
                    spec.measure = measure;
                    let (mut want, mut got) = (session(&small), session(&model));
                    want.feed(&ids[..40]).unwrap();
                    got.feed(&ids[..40]).unwrap();
                    for (i, &id) in ids[40..].iter().enumerate() {
                        want.step(id).unwrap();
                        assert_eq!(got.step_exit(id, &spec, i).unwrap(), exit);
                        assert_eq!(got.logits(), want.logits(), "{family} {spec:?}");
                        assert_eq!(got.hidden(), want.hidden());
                    }
                    let usage = got.usage();
                    let (kept, above) = match missing {
                        MissingKv::Propagate => (70, 3 - exit),
                        _ => (40, 0),
                    };
                    assert_eq!(got.kv_len(2), kept);
                    assert_eq!(
                        (usage.exits, usage.kv_passes, usage.head_passes),
                        (30, 30 * above, 30)
                    );
                    assert_eq!(usage.layer_passes, 40 * 3 + 30 * exit);
                }
            }
        }
    }
}

/// What about half of the tokens reach after the first layer of random weights; qwen3's embedding is its head, too, so that it is sure of
/// the token that it has just read.
fn threshold(family: ModelType) -> f32 {
    match family {
        ModelType::Qwen3 => 0.2,
        _ => 0.04,
    }
}

/// Some tokens leave and some do not; what later ones then see in the layers left out is what the specification says.
#[test]
fn mixed_depths_are_those_of_the_naive_forward_pass() {
    for family in ModelType::ALL {
        let config = config(family);
        let weights = weights(&config, 6);
        let bundle = bundle(&config, &weights, Format::F32, reasoning(), None);
        let model = Model::from_bundle(bundle, ModelOptions::default().with_threads(1)).unwrap();
        let ids = Random::new(7).ids(80);
        let fed = 20;
        for policy in POLICIES {
            for missing in KEPT {
                // With one exit the number of layers says which ones ran.
                let spec = spec(&[1], threshold(family), policy, missing);
                let mut session = session(&model);
                session.feed(&ids[..fed]).unwrap();
                let mut ran = vec![3; fed];
                let mut logits = Vec::new();
                for &id in &ids[fed..] {
                    ran.push(session.step_exit(id, &spec, 0).unwrap());
                    logits.push(session.logits().unwrap().to_vec());
                }
                let left = match policy {
                    DepthPolicy::Halt => 1..3,
                    _ => 1..2,
                };
                let exits = ran.iter().filter(|&&layers| layers < 3).count();
                assert!((5..=55).contains(&exits), "{exits} of 60 leave in {family}");
                assert_eq!(session.usage().exits, exits);
                let want = naive_logits_with(&config, &weights, &ids, |layer, position| {
                    match ran[position] < 3 && left.contains(&layer) {
                        true if missing == MissingKv::Propagate => Pass::KeepKv,
                        true => Pass::Nothing,
                        false => Pass::Run,
                    }
                });
                for (got, want) in logits.iter().flatten().zip(want[fed..].iter().flatten()) {
                    assert!((f64::from(*got) - want).abs() < 1e-4, "{family} {spec:?}");
                }
            }
        }
    }
}

/// The difference of the two largest probabilities, in f64.
fn gap(logits: &[f32]) -> f64 {
    let mut weights: Vec<f64> = logits.iter().map(|&x| f64::from(x).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.sort_by(f64::total_cmp);
    let n = weights.len();
    (weights[n - 1] - weights[n - 2]) / sum
}

#[test]
fn a_token_leaves_from_its_threshold_on_and_later_ones_sooner() {
    let model = model(ModelType::Llama, Format::Q8);
    let mut at_first = session(&model);
    at_first.feed(&Random::new(9).ids(30)).unwrap();
    let fork = |session: &Session| session.fork().unwrap();
    let confidence = |id: TokenId| {
        let mut measured = fork(&at_first);
        measured
            .step_exit(id, &ExitSpec::new([2], -1.0), 0)
            .unwrap();
        gap(measured.logits().unwrap()) as f32
    };
    let middling = |id: &TokenId| (0.1..0.9).contains(&confidence(*id));
    let id = (0..80).find(middling).unwrap();
    let confidence = confidence(id);
    let layers = |spec: &ExitSpec, index: usize| {
        let mut session = fork(&at_first);
        session.step_exit(id, spec, index).unwrap()
    };
    for (threshold, ran) in [(confidence - 1e-4, 2), (confidence + 1e-4, 3)] {
        assert_eq!(layers(&ExitSpec::new([2], threshold), 0), ran);
    }
    // At 0.9 λ + 0.1 for the first token and less for later ones.
    let mut spec = ExitSpec::new([2], (confidence - 0.05) / 0.9);
    spec.decay = Some(ExitDecay {
        rate: 4.0,
        tokens: 100,
    });
    assert_eq!([layers(&spec, 0), layers(&spec, 100)], [3, 2]);
    let mut never = ExitSpec::new([1, 2], 1.0);
    never.decay = spec.decay;
    assert_eq!(layers(&never, 100), 3);
}

#[test]
fn sessions_of_ragged_depth_fork_truncate_and_come_back() {
    let model = model(ModelType::Qwen3, Format::Q4);
    let ids = Random::new(11).ids(90);
    let exits = spec(&[1, 2], 0.1, DepthPolicy::Halt, MissingKv::Ragged);
    let mut whole = session(&model);
    whole.feed(&ids[..20]).unwrap();
    let mut kept = None;
    for (i, &id) in ids[20..].iter().enumerate() {
        if i == 30 {
            let mut bytes = Vec::new();
            whole.save(&ids[..20], &mut bytes).unwrap();
            kept = Some((whole.fork().unwrap(), whole.snapshot().unwrap(), bytes));
        }
        whole.step_exit(id, &exits, 0).unwrap();
    }
    assert!(whole.kv_len(2) < whole.kv_len(1) && whole.kv_len(1) < whole.kv_len(0));
    let (mut fork, snapshot, bytes) = kept.unwrap();
    let (mut restored, mut loaded) = (session(&model), session(&model));
    restored.restore(&snapshot).unwrap();
    loaded.restore_saved(&bytes).unwrap();
    let mut cut = whole.fork().unwrap();
    cut.truncate(50).unwrap();
    for session in [&mut fork, &mut restored, &mut loaded, &mut cut] {
        for &id in &ids[50..] {
            session.step_exit(id, &exits, 0).unwrap();
        }
        assert_eq!(session.logits(), whole.logits());
        assert!((0..3).all(|layer| session.kv_len(layer) == whole.kv_len(layer)));
    }
    // And it goes on at full depth.
    assert_eq!(fork.step(1).unwrap(), whole.step(1).unwrap());
}

#[test]
fn a_step_that_fails_leaves_the_position() {
    let model = model(ModelType::Qwen2, Format::F32);
    let mut session = session(&model);
    session.feed(&[1, 2, 3]).unwrap();
    let refused = [
        (vec![3], "there is no layer 3"),
        (vec![2, 1], "do not ascend"),
        (vec![0], "do not ascend"),
    ];
    for (layers, message) in refused {
        let error = session
            .step_exit(4, &ExitSpec::new(layers, 0.999), 0)
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Argument);
        assert!(error.to_string().contains(message), "{error}");
    }
    let exits = ExitSpec::new([1], 0.5);
    session.cancel_handle().cancel();
    assert_eq!(
        session.step_exit(4, &exits, 0).unwrap_err().kind(),
        ErrorKind::Cancelled
    );
    assert!((0..3).all(|layer| session.kv_len(layer) == 3) && session.position() == 3);
    session.cancel_handle().reset();
    assert_eq!(
        session.step_exit(96, &exits, 0).unwrap_err().kind(),
        ErrorKind::Token
    );
    session.step_exit(4, &ExitSpec::new([1], 1.0), 0).unwrap();
    let mut fresh = crate::session(&model);
    fresh.prefill(&[1, 2, 3, 4]).unwrap();
    assert_eq!(session.logits(), fresh.logits());
    assert_eq!(
        best(session.logits().unwrap()),
        best(fresh.logits().unwrap())
    );
}
