//! The student and the runtime are two independent implementations of the same model: same weights, same logits.

use skimstone::kernels::Format;
use skimstone::{
    BundleSpec, DepthPolicy, LatentMap, Model, ModelConfig, ModelOptions, RouteSpec, Session,
    SessionOptions, ShortcutSize, ShortcutSpec, SideModules,
};
use skimstone_training::data::{Span, Thought, TokenizedRow};
use skimstone_training::export::write_bundle;
use skimstone_training::pack::Batch;
use skimstone_training::pass::{Depth, Pass};
use skimstone_training::student::Student;

/// The families with what sets them apart: biases, QK-norm, tied and untied heads, stretched frequencies, head_dim ≠ E/H.
const CONFIGS: [(&str, &str); 4] = [
    (
        "llama with llama3 rope scaling and all biases",
        r#"{"model_type":"llama","hidden_size":48,"intermediate_size":80,
        "num_hidden_layers":3,"num_attention_heads":4,"num_key_value_heads":2,"head_dim":12,"vocab_size":61,
        "max_position_embeddings":256,"rms_norm_eps":1e-5,"rope_theta":10000,"tie_word_embeddings":false,
        "attention_bias":true,"mlp_bias":true,"eos_token_id":1,
        "rope_scaling":{"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,
        "original_max_position_embeddings":32}}"#,
    ),
    (
        "llama, multi-head, tied",
        r#"{"model_type":"llama","hidden_size":32,"intermediate_size":64,"num_hidden_layers":2,
        "num_attention_heads":2,"num_key_value_heads":2,"head_dim":16,"vocab_size":61,"max_position_embeddings":256,
        "rms_norm_eps":1e-6,"rope_theta":10000,"tie_word_embeddings":true,"eos_token_id":1}"#,
    ),
    (
        "qwen2",
        r#"{"model_type":"qwen2","hidden_size":64,"intermediate_size":96,"num_hidden_layers":2,
        "num_attention_heads":8,"num_key_value_heads":2,"head_dim":8,"vocab_size":61,"max_position_embeddings":256,
        "rms_norm_eps":1e-6,"rope_theta":1000000,"tie_word_embeddings":true,"eos_token_id":1}"#,
    ),
    (
        "qwen3",
        r#"{"model_type":"qwen3","hidden_size":64,"intermediate_size":96,"num_hidden_layers":3,
        "num_attention_heads":4,"num_key_value_heads":2,"head_dim":32,"vocab_size":61,"max_position_embeddings":256,
        "rms_norm_eps":1e-6,"rope_theta":1000000,"tie_word_embeddings":true,"eos_token_id":1}"#,
    ),
];

/// Biases and norms start at zero and one; a test that left them there would not see them missing.
fn disturbed(config: &ModelConfig, side: SideModules) -> Student {
    let student = Student::random_with(config, side, 7, 0.15).unwrap();
    for (index, (_, variable)) in student.variables().iter().enumerate() {
        if variable.rank() == 1 {
            let wave: Vec<f32> = (0..variable.elem_count())
                .map(|i| ((i + index) as f32 * 0.7).sin() * 0.3)
                .collect();
            let wave =
                candle_core::Tensor::from_vec(wave, variable.shape(), variable.device()).unwrap();
            variable
                .set(&(variable.as_tensor() + wave).unwrap())
                .unwrap();
        }
    }
    student
}

#[test]
fn logits_agree_with_the_runtime() {
    let folder = tempfile::tempdir().unwrap();
    for (name, json) in CONFIGS {
        let config = ModelConfig::from_json(json).unwrap();
        let student = disturbed(&config, SideModules::default());
        let tokens: Vec<u32> = (0..90u32).map(|i| (i * i * 7 + i * 3) % 61).collect();
        let row = TokenizedRow {
            group: 0,
            // One more token so that the last of `tokens` predicts something.
            tokens: tokens.iter().copied().chain([0]).collect(),
            spans: vec![Span {
                range: 1..tokens.len() + 1,
                weight: 1.0,
            }],
            ..TokenizedRow::default()
        };
        let mut batch = Batch::default();
        batch.push_row(&row);
        let ours: Vec<Vec<f32>> = student.forward(&batch).unwrap().to_vec2().unwrap();

        let path = folder.path().join("student.skim");
        write_bundle(&student, BundleSpec::new(config), Format::F32, &path).unwrap();
        let model = Model::open(&path, ModelOptions::new().with_threads(1)).unwrap();
        let mut session = Session::new(&model, SessionOptions::new()).unwrap();
        let mut largest = 0f32;
        let mut worst = 0f32;
        session
            .prefill_each(&tokens, |index, logits| {
                for (ours, theirs) in ours[index].iter().zip(logits) {
                    worst = worst.max((ours - theirs).abs());
                    largest = largest.max(theirs.abs());
                }
            })
            .unwrap();
        assert!(
            largest > 0.5,
            "{name}: logits of at most {largest} would hide a difference"
        );
        assert!(worst < 1e-4, "{name}: logits differ by {worst}");
    }
}

/// A row with latent tokens: batched waves here, latent steps over a cache there.
#[test]
fn latent_steps_agree_with_the_runtime() {
    let folder = tempfile::tempdir().unwrap();
    let maps = [None, Some(24)];
    for ((name, json), latent_map_size) in CONFIGS.into_iter().flat_map(|c| maps.map(|m| (c, m))) {
        let config = ModelConfig::from_json(json).unwrap();
        let side = SideModules {
            latent_map_size,
            ..SideModules::default()
        };
        let student = disturbed(&config, side);
        let tokens: Vec<u32> = (0..40u32).map(|i| (i * i * 7 + i * 3) % 61).collect();
        let latents = 12..17;
        let row = TokenizedRow {
            tokens: tokens.iter().copied().chain([0]).collect(),
            spans: vec![Span {
                range: latents.end..tokens.len() + 1,
                weight: 1.0,
            }],
            latents: latents.clone(),
            ..TokenizedRow::default()
        };
        let mut batch = Batch::default();
        batch.push_row(&row);
        let ours: Vec<Vec<f32>> = student.forward(&batch).unwrap().to_vec2().unwrap();

        let path = folder.path().join("student.skim");
        let map = match latent_map_size {
            Some(inner_size) => LatentMap::Mlp { inner_size },
            None => LatentMap::default(),
        };
        let mut spec = BundleSpec::new(config);
        let latent = RouteSpec {
            latent_map: map,
            ..RouteSpec::default()
        };
        spec.reasoning.routes.insert("latent".to_owned(), latent);
        write_bundle(&student, spec, Format::F32, &path).unwrap();
        let model = Model::open(&path, ModelOptions::new().with_threads(1)).unwrap();
        let mut session = Session::new(&model, SessionOptions::new()).unwrap();
        session.feed(&tokens[..latents.start]).unwrap();
        for _ in latents.clone() {
            session.step_hidden(&map).unwrap();
        }
        // The last latent step predicts the first word after it.
        let mut theirs = vec![session.head().unwrap().to_vec()];
        let rest = &tokens[latents.end..];
        session
            .prefill_each(rest, |_, logits| theirs.push(logits.to_vec()))
            .unwrap();
        assert_eq!(ours.len(), theirs.len());
        let pairs = ours.iter().flatten().zip(theirs.iter().flatten());
        let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        let largest = theirs
            .iter()
            .flatten()
            .fold(0f32, |most, x| most.max(x.abs()));
        assert!(largest > 0.5, "{name}: logits of at most {largest}");
        assert!(worst < 1e-4, "{name}: logits differ by {worst}");
    }
}

/// Routers that are sure: what training mixes is then what the runtime chooses. The states of latent tokens that nothing was left out before.
#[test]
fn sure_routers_agree_with_the_runtime() {
    let folder = tempfile::tempdir().unwrap();
    let size = ShortcutSize {
        router: 6,
        adapter: 9,
    };
    let side = SideModules {
        shortcut: Some(size),
        ..SideModules::default()
    };
    for (name, json) in CONFIGS {
        let config = ModelConfig::from_json(json).unwrap();
        let layers = config.num_hidden_layers;
        // No layer left out, in three steps; each layer left out, in one.
        let cases = std::iter::once((0, 3)).chain((1..layers).map(|layer| (layer, 1)));
        for (left_out, latents) in cases {
            let student = disturbed(&config, side);
            for (name, variable) in student.variables() {
                if name.ends_with("router.gate.bias") {
                    let is_sure = name.contains(&format!("layers.{left_out}."));
                    let bias = [if is_sure { 60.0f32 } else { -60.0 }];
                    let bias = candle_core::Tensor::from_slice(&bias, 1, variable.device());
                    variable.set(&bias.unwrap()).unwrap();
                }
                if name.ends_with("adapter.up_proj.weight") {
                    let noise = variable.as_tensor().randn_like(0.0, 0.3).unwrap();
                    variable.set(&noise).unwrap();
                }
            }
            let tokens: Vec<u32> = (0..20u32).map(|i| (i * i * 7 + i * 3) % 61).collect();
            let thought = Thought {
                step: 0,
                critical: false,
            };
            let mut batch = Batch::default();
            batch.push_row(&TokenizedRow {
                tokens: tokens.clone(),
                answer: 18,
                spans: vec![Span {
                    range: 18..20,
                    weight: 1.0,
                }],
                latents: 10..10 + latents,
                thoughts: vec![thought; latents],
                ..TokenizedRow::default()
            });
            let weights = student.flat_weights().unwrap();
            let mut pass = Pass::new(&config, side);
            let mut gradient = vec![0f32; weights.len()];
            let depth = Depth {
                routed: true,
                ..Depth::default()
            };
            let mut ours = Vec::new();
            pass.run_with(&weights, &batch, depth, &mut gradient, |_, _, taps| {
                ours.clone_from(&taps.written);
                Ok(())
            })
            .unwrap();

            let path = folder.path().join("student.skim");
            let mut shortcut = ShortcutSpec::new(size, 0.5);
            (shortcut.policy, shortcut.resume) = (DepthPolicy::Bypass, false);
            let mut spec = BundleSpec::new(config.clone());
            spec.reasoning.shortcut = Some(shortcut);
            write_bundle(&student, spec, Format::F32, &path).unwrap();
            let model = Model::open(&path, ModelOptions::new().with_threads(1)).unwrap();
            let mut session = Session::new(&model, SessionOptions::new()).unwrap();
            session.feed(&tokens[..10]).unwrap();
            let mut theirs = Vec::new();
            for _ in 0..latents {
                let step = session
                    .step_shortcut(&LatentMap::default(), &shortcut, false)
                    .unwrap();
                assert_eq!(step.layers, layers - usize::from(left_out > 0));
                theirs.extend_from_slice(session.hidden().unwrap());
            }
            assert_eq!(ours.len(), theirs.len());
            let pairs = ours.iter().zip(&theirs);
            let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            assert!(
                worst < 1e-4,
                "{name}: states differ by {worst} without layer {left_out}"
            );
        }
    }
}
