//! Hugging Face folders → bundles: every family, every source type, and what is refused.

mod common;

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use half::{bf16, f16};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use skimstone::import::{ImportOptions, import, synth};
use skimstone::kernels::Format;
use skimstone::{Bundle, ErrorKind, ModelConfig, RouteKind};

use common::{config_json, values};

/// A checkpoint's tensors as f32.
type Tensors = Vec<(String, Vec<usize>, Vec<f32>)>;

fn tensors(config: &Value) -> Tensors {
    let config = ModelConfig::from_json(&config.to_string()).unwrap();
    let with_values = |(index, tensor): (usize, skimstone::TensorShape)| {
        let len = tensor.shape.iter().product();
        (tensor.name, tensor.shape, values(index as u64 + 1, len))
    };
    config
        .tensors()
        .into_iter()
        .enumerate()
        .map(with_values)
        .collect()
}

fn encode(dtype: Dtype, values: &[f32]) -> Vec<u8> {
    match dtype {
        Dtype::BF16 => values
            .iter()
            .flat_map(|&v| bf16::from_f32(v).to_le_bytes())
            .collect(),
        Dtype::F16 => values
            .iter()
            .flat_map(|&v| f16::from_f32(v).to_le_bytes())
            .collect(),
        _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}

fn save(path: &Path, dtype: Dtype, tensors: &[(String, Vec<usize>, Vec<f32>)]) {
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, _, values)| encode(dtype, values))
        .collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        (
            name.clone(),
            TensorView::new(dtype, shape.clone(), bytes).unwrap(),
        )
    });
    safetensors::serialize_to_file(views, None, path).unwrap();
}

/// A word-level tokenizer; `words` get the ids from 0.
fn tokenizer_json(words: &[&str]) -> String {
    let vocab: HashMap<&str, usize> = words
        .iter()
        .enumerate()
        .map(|(id, word)| (*word, id))
        .collect();
    let added = |id: usize| {
        json!({"id": id, "content": words[id], "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false, "special": true})
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null, "decoder": null,
        "added_tokens": (0..words.len()).filter(|&id| words[id].starts_with('<')).map(added).collect::<Vec<_>>(),
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
    })
    .to_string()
}

/// Writes a folder with one weights file and a tokenizer.
fn folder(config: &Value, dtype: Dtype) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("config.json"), config.to_string()).unwrap();
    fs::write(
        at("tokenizer.json"),
        tokenizer_json(&["<unk>", "<s>", "</s>", "how", "much", "sleep"]),
    )
    .unwrap();
    save(&at("model.safetensors"), dtype, &tensors(config));
    folder
}

fn run(source: &Path, options: &ImportOptions) -> skimstone::Result<Bundle> {
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("out.skim");
    let result = import(source, &path, options, &mut |_, _, _| {});
    let files = out.path().read_dir().unwrap().count();
    match result {
        Ok(()) => {
            assert_eq!(files, 1, "no temporary file is left");
            Bundle::open(&path)
        }
        Err(error) => {
            assert_eq!(files, 0, "nothing is written on failure");
            Err(error)
        }
    }
}

#[test]
fn every_family_from_every_source_type() {
    for model_type in ["llama", "qwen2", "qwen3"] {
        for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
            let config = config_json(model_type);
            let folder = folder(&config, dtype);
            let bundle = run(folder.path(), &ImportOptions::new(Format::F32)).unwrap();
            assert_eq!(
                bundle.config(),
                &ModelConfig::from_json(&config.to_string()).unwrap()
            );
            for (name, shape, values) in tensors(&config) {
                // f32 holds every value of f16 and bf16: the import must be exact.
                let stored = bundle.data(&name).unwrap();
                let expected = match dtype {
                    Dtype::F16 => values.iter().map(|&v| f16::from_f32(v).to_f32()).collect(),
                    Dtype::BF16 => values.iter().map(|&v| bf16::from_f32(v).to_f32()).collect(),
                    _ => values,
                };
                assert_eq!(
                    stored,
                    encode(Dtype::F32, &expected),
                    "{model_type} {dtype:?} {name} {shape:?}"
                );
            }
        }
    }
}

#[test]
fn formats_change_matrices_only() {
    let folder = folder(&config_json("qwen2"), Dtype::BF16);
    for format in Format::ALL {
        let bundle = run(folder.path(), &ImportOptions::new(format)).unwrap();
        for tensor in bundle
            .tensors()
            .filter(|tensor| tensor.name() != "tokenizer.json")
        {
            let expected = if tensor.shape().len() == 2 {
                format
            } else {
                Format::F32
            };
            assert_eq!(tensor.format(), Some(expected), "{}", tensor.name());
        }
        assert_eq!(bundle.provenance()["format"], format.name());
        assert_eq!(bundle.reasoning().stop, [2]);
    }
}

#[test]
fn shards_are_found_by_their_index() {
    let config = config_json("llama");
    let folder = folder(&config, Dtype::F32);
    let whole = run(folder.path(), &ImportOptions::new(Format::Q8)).unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::remove_file(at("model.safetensors")).unwrap();
    let tensors = tensors(&config);
    let mut weight_map = serde_json::Map::new();
    for (shard, part) in tensors.chunks(7).enumerate() {
        let file = format!("model-{shard}.safetensors");
        save(&at(&file), Dtype::F32, part);
        weight_map.extend(part.iter().map(|(name, _, _)| (name.clone(), json!(file))));
    }
    let write_index = |map: &serde_json::Map<String, Value>| {
        fs::write(
            at("model.safetensors.index.json"),
            json!({"weight_map": map}).to_string(),
        )
        .unwrap();
    };
    write_index(&weight_map);
    let sharded = run(folder.path(), &ImportOptions::new(Format::Q8)).unwrap();
    for tensor in whole.tensors() {
        assert_eq!(
            whole.data(tensor.name()),
            sharded.data(tensor.name()),
            "{}",
            tensor.name()
        );
    }

    weight_map["lm_head.weight"] = json!("../model-0.safetensors");
    write_index(&weight_map);
    let error = run(folder.path(), &ImportOptions::new(Format::Q8)).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("is not the name of a file in this folder"),
        "{error}"
    );
    weight_map["lm_head.weight"] = json!("model-0.safetensors");
    write_index(&weight_map);
    fs::remove_file(at("model-2.safetensors")).unwrap();
    assert_eq!(
        run(folder.path(), &ImportOptions::new(Format::Q8))
            .unwrap_err()
            .kind(),
        ErrorKind::Io
    );
}

#[test]
fn what_does_not_fit_is_named_and_nothing_is_written() {
    type Change = fn(&mut Value, &mut Tensors);
    struct Case(&'static str, Change, ErrorKind, &'static str);
    let cases = [
        Case(
            "qwen3",
            |config, _| config["model_type"] = json!("gemma3"),
            ErrorKind::Unsupported,
            "architecture `gemma3` (TestForCausalLM) is not supported; supported: llama, qwen2, qwen3",
        ),
        Case(
            "qwen3",
            |config, _| config["rope_scaling"] = json!({"rope_type": "yarn", "factor": 4.0}),
            ErrorKind::Unsupported,
            "rope scaling `yarn` is not supported; supported: default, llama3",
        ),
        Case(
            "qwen3",
            |_, tensors| tensors.retain(|tensor| tensor.0 != "model.norm.weight"),
            ErrorKind::MissingTensor,
            "tensor `model.norm.weight` is missing; looked in model.safetensors",
        ),
        Case(
            "llama",
            |_, tensors| tensors.retain(|tensor| tensor.0 != "lm_head.weight"),
            ErrorKind::MissingTensor,
            "is `tie_word_embeddings` missing in the config?",
        ),
        Case(
            "qwen3",
            |_, tensors| {
                let tensor = tensors
                    .iter_mut()
                    .find(|t| t.0 == "model.layers.1.self_attn.k_proj.weight")
                    .unwrap();
                tensor.1 = vec![24, 20];
            },
            ErrorKind::Shape,
            "tensor `model.layers.1.self_attn.k_proj.weight`: expected [20, 24] by the config, checkpoint has [24, 20]",
        ),
        Case(
            "llama",
            |_, tensors| {
                tensors.push((
                    "model.layers.0.self_attn.q_proj.bias".to_owned(),
                    vec![40],
                    vec![0.0; 40],
                ))
            },
            ErrorKind::Unsupported,
            "tensor `model.layers.0.self_attn.q_proj.bias` has no place in a llama of this config",
        ),
        Case(
            "qwen3",
            |_, tensors| tensors[0].2[25] = f32::INFINITY,
            ErrorKind::NonFinite,
            "tensor `model.embed_tokens.weight`: row 1: column 1 is inf",
        ),
    ];
    for Case(model_type, change, kind, message) in cases {
        let mut config = config_json(model_type);
        let folder = folder(&config, Dtype::F32);
        let mut tensors = tensors(&config);
        change(&mut config, &mut tensors);
        fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        save(
            &folder.path().join("model.safetensors"),
            Dtype::F32,
            &tensors,
        );
        let error = run(folder.path(), &ImportOptions::new(Format::Q8)).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(message), "{error}");
    }
}

#[test]
fn a_missing_tokenizer_says_how_to_go_on() {
    let folder = folder(&config_json("qwen3"), Dtype::F32);
    let tokenizer = folder.path().join("tokenizer.json");
    fs::remove_file(&tokenizer).unwrap();
    let options = ImportOptions::new(Format::F16);
    let error = run(folder.path(), &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tokenizer);
    assert!(error.to_string().contains("--no-tokenizer"), "{error}");
    let bundle = run(folder.path(), &options.clone().tokenizer(false)).unwrap();
    assert!(bundle.tokenizer().unwrap().is_none());

    let words: Vec<String> = (0..61).map(|word| format!("w{word}")).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    fs::write(&tokenizer, tokenizer_json(&words)).unwrap();
    let error = run(folder.path(), &options).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("token `w60` has id 60, the model's vocabulary has 60"),
        "{error}"
    );
    fs::write(&tokenizer, "{}").unwrap();
    assert_eq!(
        run(folder.path(), &options).unwrap_err().kind(),
        ErrorKind::Tokenizer
    );
}

#[test]
fn thinking_tokens_become_routes() {
    let folder = folder(&config_json("qwen3"), Dtype::F32);
    let at = |name: &str| folder.path().join(name);
    let words = ["<unk>", "<s>", "</s>", "<think>", "</think>", "sleep"];
    fs::write(at("tokenizer.json"), tokenizer_json(&words)).unwrap();
    fs::write(
        at("generation_config.json"),
        r#"{"eos_token_id": [2, 1], "temperature": 0.6}"#,
    )
    .unwrap();
    let config = json!({"bos_token": {"content": "<s>"}, "eos_token": "</s>", "chat_template": "{{ bos_token }}{{ messages[0].content }}"});
    fs::write(at("tokenizer_config.json"), config.to_string()).unwrap();

    let bundle = run(folder.path(), &ImportOptions::new(Format::Q4)).unwrap();
    let reasoning = bundle.reasoning();
    let cot = reasoning.route("cot").unwrap();
    assert_eq!(
        (cot.kind, cot.open.as_slice(), cot.close.as_slice()),
        (RouteKind::Cot, &[3][..], &[4][..])
    );
    assert_eq!(reasoning.route("direct").unwrap().open, [3, 4]);
    assert_eq!(
        (reasoning.default_route.as_str(), reasoning.stop.as_slice()),
        ("cot", &[1, 2][..])
    );
    assert_eq!(bundle.generation().temperature, Some(0.6));
    let chat = bundle.chat().unwrap().unwrap();
    let prompt = chat
        .render(
            &[skimstone::Message::user("sleep")],
            &skimstone::ChatOptions::default(),
        )
        .unwrap();
    assert_eq!(prompt, "<s>sleep");

    // A template file wins over the one in the configuration; this one begins the thinking itself.
    fs::write(
        at("chat_template.jinja"),
        "{{ messages[0].content }}<think>\n",
    )
    .unwrap();
    let bundle = run(folder.path(), &ImportOptions::new(Format::Q4)).unwrap();
    assert!(bundle.reasoning().route("cot").unwrap().open.is_empty());
    assert_eq!(bundle.reasoning().route("direct").unwrap().open, [4]);
}

#[test]
fn progress_ends_at_the_total() {
    let folder = folder(&config_json("llama"), Dtype::F16);
    let out = tempfile::tempdir().unwrap();
    let mut reports = Vec::new();
    import(
        folder.path(),
        &out.path().join("m.skim"),
        &ImportOptions::new(Format::Q8),
        &mut |done, total, name| {
            reports.push((done, total, name.to_owned()));
        },
    )
    .unwrap();
    assert!(reports.is_sorted());
    let (done, total, name) = reports.last().unwrap();
    assert_eq!((done, name.as_str()), (total, "lm_head.weight"));
}

#[test]
fn random_weights_are_marked_and_repeatable() {
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("random.skim");
    let config = config_json("qwen3").to_string();
    let make = |seed| {
        synth(&config, Format::Q4, &path, seed, &mut |_, _, _| {}).unwrap();
        fs::read(&path).unwrap()
    };
    let (first, again, other) = (make(1), make(1), make(2));
    assert!(first == again && first != other);
    let bundle = Bundle::from_bytes(first).unwrap();
    assert_eq!(bundle.provenance()["random"], true);
    assert!(bundle.weights().norm().iter().all(|&v| v == 1.0));
}

#[test]
fn real_weights_import() {
    let Some(folder) = common::data("models/stories260K/hf") else {
        return;
    };
    for format in Format::ALL {
        let bundle = run(&folder, &ImportOptions::new(format).tokenizer(false)).unwrap();
        assert_eq!(bundle.config().num_parameters(), 260_032);
        assert_eq!(bundle.weights().num_layers(), 5);
    }
    let error = run(&folder, &ImportOptions::new(Format::F32)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tokenizer);
}
