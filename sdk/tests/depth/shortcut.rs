//! Latent steps with shortcuts: routers, adapters, halting, bypassing, resuming.

use std::collections::HashMap;

use skimstone::kernels::Format;
use skimstone::reason::{Ask, Budget, Engine, EngineOptions};
use skimstone::{
    Depth, DepthPolicy, ErrorKind, LatentMap, LatentStep, Model, ModelConfig, ModelOptions,
    ModelType, ReasoningSpec, RouteDepth, Session, ShortcutSize, ShortcutSpec,
};

use crate::session;
use crate::tiny::{
    Pass, Random, VOCAB, bundle, config, naive_logits_with, reasoning, weights, weights_of,
};

const SIZE: ShortcutSize = ShortcutSize {
    router: 6,
    adapter: 10,
};

fn routed(shortcut: ShortcutSpec) -> ReasoningSpec {
    let mut spec = reasoning();
    spec.shortcut = Some(shortcut);
    let latent = spec.routes.get_mut("latent").unwrap();
    latent.depth = RouteDepth::Shortcut;
    spec
}

type Values = HashMap<String, Vec<f32>>;

/// Weights with random routers and adapters.
fn values(config: &ModelConfig, seed: u64) -> Values {
    let mut values = weights(config, seed);
    let side = routed(ShortcutSpec::new(SIZE, 0.5)).side_modules();
    values.extend(weights_of(&side.tensors(config), seed + 1));
    values
}

fn model_of(config: &ModelConfig, values: &Values, format: Format, spec: ReasoningSpec) -> Model {
    let options = ModelOptions::default().with_threads(1);
    Model::from_bundle(bundle(config, values, format, spec, None), options).unwrap()
}

fn model(family: ModelType, format: Format, shortcut: ShortcutSpec) -> Model {
    let config = config(family);
    model_of(&config, &values(&config, 3), format, routed(shortcut))
}

fn begun(model: &Model) -> Session {
    let mut session = session(model);
    session.feed(&Random::new(5).ids(20)).unwrap();
    session
}

#[test]
fn a_threshold_of_one_is_the_full_path() {
    let map = LatentMap::default();
    for family in ModelType::ALL {
        for format in Format::ALL {
            let shortcut = ShortcutSpec::new(SIZE, 1.0);
            let model = model(family, format, shortcut);
            let (mut plain, mut steps) = (begun(&model), begun(&model));
            for step in 0..4 {
                plain.step_hidden(&map).unwrap();
                let ran = steps.step_shortcut(&map, &shortcut, step == 3).unwrap();
                let whole = LatentStep {
                    begin: 0,
                    layers: 3,
                    halted: None,
                };
                assert_eq!(ran, whole);
                assert_eq!(steps.hidden(), plain.hidden(), "{family} {format}");
            }
            assert_eq!(steps.step(7).unwrap(), plain.step(7).unwrap());
            assert_eq!(steps.usage(), plain.usage());

            // The same through the engine.
            let mut engine = Engine::new(&model, EngineOptions::default()).unwrap();
            let ask = Ask::new().with_route("latent").with_max_answer_tokens(6);
            let by_route = engine.answer(&[1, 2, 3], &ask).unwrap();
            let full = ask.clone().with_depth(Depth::Full);
            let by_depth = engine.answer(&[1, 2, 3], &full).unwrap();
            assert_eq!(by_route.ids, by_depth.ids);
            assert_eq!(by_route.usage.layer_passes, by_depth.usage.layer_passes);
        }
    }
}

fn product(values: &Values, name: &str, x: &[f64]) -> Vec<f64> {
    let bias = values[&format!("{name}.bias")].iter();
    let rows = values[&format!("{name}.weight")].chunks(x.len());
    rows.zip(bias)
        .map(|(row, bias)| {
            let products = row.iter().zip(x).map(|(w, x)| f64::from(*w) * x);
            products.sum::<f64>() + f64::from(*bias)
        })
        .collect()
}

fn silu(x: &mut [f64]) {
    x.iter_mut().for_each(|x| *x /= 1.0 + (-*x).exp());
}

/// What the router of `layer` says of a state, and what its adapter makes of it.
fn side_by_hand(config: &ModelConfig, values: &Values, layer: usize, h: &[f32]) -> (f64, Vec<f64>) {
    let h: Vec<f64> = h.iter().map(|&x| f64::from(x)).collect();
    let mean = h.iter().map(|x| x * x).sum::<f64>() / h.len() as f64;
    let root = (mean + f64::from(config.rms_norm_eps)).sqrt();
    let norm = &values[&format!("model.layers.{layer}.input_layernorm.weight")];
    let x: Vec<f64> = h
        .iter()
        .zip(norm)
        .map(|(x, w)| x / root * f64::from(*w))
        .collect();
    let name = |part: &str| format!("shortcut.layers.{layer}.{part}");
    let mut inner = product(values, &name("router.up_proj"), &x);
    silu(&mut inner);
    let gate = product(values, &name("router.gate"), &inner)[0];
    let mut inner = product(values, &name("adapter.down_proj"), &x);
    silu(&mut inner);
    let mut out = product(values, &name("adapter.up_proj"), &inner);
    out.iter_mut().zip(&h).for_each(|(y, x)| *y += x);
    (1.0 / (1.0 + (-gate).exp()), out)
}

fn close(got: &[f32], want: &[f64]) -> bool {
    let far = |(got, want): (&f32, &f64)| (f64::from(*got) - want).abs() > 1e-4;
    got.len() == want.len() && !got.iter().zip(want).any(far)
}

#[test]
fn routers_and_adapters_are_those_of_their_definition() {
    let map = LatentMap::default();
    for family in ModelType::ALL {
        let config = config(family);
        let values = values(&config, 3);
        // With adapters that add nothing a step that halts shows the state before the layer.
        let mut bare = values.clone();
        for (name, values) in &mut bare {
            if name.contains("adapter.up_proj") {
                values.fill(0.0);
            }
        }
        let mut shortcut = ShortcutSpec::new(SIZE, 0.5);
        for halting in 1..3 {
            let spec = routed(shortcut);
            let mut seen = [&values, &bare].map(|values| {
                let mut session = begun(&model_of(&config, values, Format::F32, spec.clone()));
                let mut gates = Vec::new();
                let step = session
                    .step_routed(&map, &shortcut, false, |layer, gate| {
                        gates.push(gate);
                        layer == halting
                    })
                    .unwrap();
                assert_eq!(step.halted, Some(halting));
                assert_eq!((step.layers, gates.len()), (halting, halting));
                (session.hidden().unwrap().to_vec(), gates[halting - 1])
            });
            let [(adapted, gate), (before, _)] = &mut seen;
            let (want_gate, want) = side_by_hand(&config, &values, halting, before);
            assert!((f64::from(*gate) - want_gate).abs() < 1e-5, "{family}");
            assert!(close(adapted, &want), "{family} layer {halting}");

            // The threshold decides as the caller did.
            for (threshold, leaves) in [(*gate - 1e-4, true), (*gate + 1e-4, false)] {
                shortcut.threshold = threshold;
                let model = model_of(&config, &values, Format::F32, spec.clone());
                let mut session = begun(&model);
                let decide = |layer: usize, gate: f32| layer == halting && gate > threshold;
                let step = session.step_routed(&map, &shortcut, false, decide).unwrap();
                assert_eq!(step.halted.is_some(), leaves);
            }
        }
    }
}

/// The embedding table with rows for what latent steps read, so that the naive pass reads them as tokens.
fn with_rows(mut values: Values, rows: &[Vec<f32>]) -> Values {
    let table = values.get_mut("model.embed_tokens.weight").unwrap();
    rows.iter().for_each(|row| table.extend(row));
    values
}

#[test]
fn routed_steps_are_those_of_the_naive_forward_pass() {
    let map = LatentMap::default();
    for family in ModelType::ALL {
        let config = config(family);
        let mut values = values(&config, 8);
        for (name, values) in &mut values {
            if name.contains("adapter.up_proj") {
                values.fill(0.0);
            }
        }
        // What each of five steps leaves out, of layers 1 and 2.
        let chains: [(DepthPolicy, [Option<usize>; 5]); 3] = [
            (DepthPolicy::Halt, [Some(1), None, Some(2), Some(1), None]),
            (
                DepthPolicy::Halt,
                [Some(1), Some(2), Some(1), Some(1), None],
            ),
            (
                DepthPolicy::Bypass,
                [Some(1), Some(2), None, Some(2), Some(1)],
            ),
        ];
        for (policy, chain) in chains {
            for resume in [true, false] {
                let mut shortcut = ShortcutSpec::new(SIZE, 0.5);
                (shortcut.policy, shortcut.resume) =
                    (policy, resume && policy == DepthPolicy::Halt);
                let model = model_of(&config, &values, Format::F32, routed(shortcut));
                let prompt = Random::new(5).ids(20);
                let mut session = begun(&model);
                let (mut rows, mut ran) = (Vec::new(), vec![[true; 3]; 20]);
                let mut expected_begin = 0;
                for (index, leave) in chain.into_iter().enumerate() {
                    let mut input = vec![0.0; config.hidden_size];
                    if expected_begin > 0 {
                        input.copy_from_slice(session.hidden().unwrap());
                    } else {
                        session.latent_input(&map, &mut input).unwrap();
                    }
                    rows.push(input);
                    let is_last = index == 4;
                    let step = session
                        .step_routed(&map, &shortcut, is_last, |layer, _| Some(layer) == leave)
                        .unwrap();
                    assert_eq!(step.begin, expected_begin);
                    let left = leave.filter(|&layer| layer >= expected_begin && layer > 0);
                    let runs = |layer: usize| match (left, policy) {
                        _ if layer < expected_begin => false,
                        (Some(left), DepthPolicy::Halt) if !is_last => layer < left,
                        (Some(left), DepthPolicy::Bypass) => layer != left,
                        _ => true,
                    };
                    let layers = [0, 1, 2].map(runs);
                    assert_eq!(step.layers, layers.iter().filter(|ran| **ran).count());
                    expected_begin = match step.halted {
                        Some(1) if shortcut.resume => 2,
                        _ => 0,
                    };
                    ran.push(layers);
                }
                let tail = Random::new(6).ids(4);
                let mut logits = Vec::new();
                session
                    .prefill_each(&tail, |_, row| logits.push(row.to_vec()))
                    .unwrap();
                ran.extend([[true; 3]; 4]);

                let states = (0..rows.len()).map(|row| (VOCAB + row) as u32);
                let ids: Vec<u32> = prompt.iter().copied().chain(states).chain(tail).collect();
                let values = with_rows(values.clone(), &rows);
                let want = naive_logits_with(&config, &values, &ids, |layer, position| {
                    match ran[position][layer] {
                        true => Pass::Run,
                        false => Pass::Nothing,
                    }
                });
                for (got, want) in logits.iter().zip(&want[25..]) {
                    assert!(close(got, &want[..VOCAB]), "{family} {policy:?} {chain:?}");
                }
                let kept = |layer: usize| ran.iter().filter(|ran| ran[layer]).count();
                assert!((0..3).all(|layer| session.kv_len(layer) == kept(layer)));
            }
        }
    }
}

#[test]
fn a_chain_survives_fork_save_and_failure() {
    let map = LatentMap::default();
    let shortcut = ShortcutSpec::new(SIZE, 0.5);
    let model = model(ModelType::Qwen3, Format::Q8, shortcut);
    let first = |layer: usize, _: f32| layer == 1;
    let mut whole = begun(&model);
    whole.step_routed(&map, &shortcut, false, first).unwrap();
    let mut bytes = Vec::new();
    whole.save(&[], &mut bytes).unwrap();
    let (mut fork, snapshot) = (whole.fork().unwrap(), whole.snapshot().unwrap());
    let (mut restored, mut loaded) = (session(&model), session(&model));
    restored.restore(&snapshot).unwrap();
    loaded.restore_saved(&bytes).unwrap();

    let mut cancelled = whole.fork().unwrap();
    cancelled.cancel_handle().cancel();
    let error = cancelled.step_shortcut(&map, &shortcut, true).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    cancelled.cancel_handle().reset();

    let step = whole.step_shortcut(&map, &shortcut, true).unwrap();
    assert_eq!((step.begin, step.layers), (2, 1));
    for session in [&mut fork, &mut restored, &mut loaded, &mut cancelled] {
        let other = session.step_shortcut(&map, &shortcut, true).unwrap();
        assert_eq!(other, step);
        assert_eq!(session.hidden(), whole.hidden());
    }
    // A token in between ends the chain: the next step begins at the first layer.
    whole.step_routed(&map, &shortcut, false, first).unwrap();
    whole.step(3).unwrap();
    assert_eq!(whole.step_shortcut(&map, &shortcut, true).unwrap().begin, 0);
}

#[test]
fn the_engine_takes_shortcuts_and_counts_them() {
    // A threshold below every router: all but the last step run one layer, the step after it the last.
    let shortcut = ShortcutSpec::new(SIZE, 0.0);
    let model = model(ModelType::Qwen2, Format::Q4, shortcut);
    let mut engine = Engine::new(&model, EngineOptions::default()).unwrap();
    let ask = Ask::new().with_route("latent").with_max_answer_tokens(5);
    let short = engine.answer(&[1, 2, 3], &ask).unwrap();
    let full = ask.clone().with_depth(Depth::Full);
    let whole = engine.answer(&[1, 2, 3], &full).unwrap();
    assert_eq!(short.usage.latent_steps, 3);
    let tokens = |answer: &skimstone::reason::Answer| 3 * answer.usage.answer_tokens;
    let latents = |answer: &skimstone::reason::Answer| answer.usage.layer_passes - tokens(answer);
    // Layer 0 and the adapter of 1; the adapter of 2, which ends the stack; all three.
    assert_eq!(latents(&whole) - latents(&short), 9 - 4);

    // What is wrong with a specification is said before anything runs.
    let mut bad = ShortcutSpec::new(SIZE, f32::NAN);
    let error = engine
        .answer(&[1], &ask.clone().with_depth(Depth::Shortcut(bad)))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "shortcut.threshold: NaN is not 0 or more"
    );
    (bad.threshold, bad.policy) = (0.5, DepthPolicy::Bypass);
    let error = engine
        .answer(&[1], &ask.clone().with_depth(Depth::Shortcut(bad)))
        .unwrap_err();
    assert!(
        error.to_string().starts_with("shortcut.resume: "),
        "{error}"
    );

    let plain = crate::tiny::model(ModelType::Qwen2, Format::Q4);
    let mut engine = Engine::new(&plain, EngineOptions::default()).unwrap();
    let ask = ask.with_depth(Depth::Shortcut(shortcut));
    let error = engine.answer(&[1, 2], &ask).unwrap_err();
    assert!(error.to_string().contains("no routers"), "{error}");
    let budget = Budget::unlimited().with_layer_passes(40);
    let direct = Ask::new().with_route("direct").with_budget(budget);
    engine.answer(&[1, 2], &direct).unwrap();
}

#[test]
fn nonsense_in_a_bundle_is_refused_by_field() {
    let config = config(ModelType::Llama);
    type Spoil = fn(&mut ShortcutSpec);
    let cases: [(Spoil, &str); 4] = [
        (|s| s.size.router = 0, "shortcut.size.router: 0"),
        (
            |s| s.size.adapter = 81,
            "shortcut.size.adapter: 81 is not from 1 to 80",
        ),
        (|s| s.threshold = -0.5, "shortcut.threshold: -0.5"),
        (|s| s.policy = DepthPolicy::Bypass, "shortcut.resume"),
    ];
    for (spoil, place) in cases {
        let mut shortcut = ShortcutSpec::new(SIZE, 0.5);
        spoil(&mut shortcut);
        let error = routed(shortcut).validate(&config).unwrap_err().to_string();
        assert!(error.starts_with(&format!("reasoning: {place}")), "{error}");
    }
    let mut spec = routed(ShortcutSpec::new(SIZE, 0.5));
    assert_eq!(ReasoningSpec::from_json(&spec.to_json()).unwrap(), spec);
    spec.shortcut = None;
    let error = spec.validate(&config).unwrap_err().to_string();
    assert!(
        error.contains("routes.latent.depth: there is no section `shortcut`"),
        "{error}"
    );
}
