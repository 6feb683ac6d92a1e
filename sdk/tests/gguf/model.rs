//! Configuration and tensors: every family, the order of rows, and what is refused.

use serde_json::json;
use skimstone::import::ImportOptions;
use skimstone::kernels::Format;
use skimstone::{ErrorKind, ModelConfig, RopeScaling};

use crate::common::config_json;
use crate::run;
use crate::writer::{BF16, F16, F32, File, Meta, Tensor, encode, file, tensor_values};

/// Options of an import without a tokenizer.
fn weights_only() -> ImportOptions {
    ImportOptions::default().tokenizer(false)
}

#[test]
fn every_family_from_every_float_type() {
    for model_type in ["llama", "qwen2", "qwen3"] {
        for attention_bias in [false, true] {
            let mut config = config_json(model_type);
            config["attention_bias"] = json!(attention_bias);
            let expected = ModelConfig::from_json(&config.to_string()).unwrap();
            for (kind, format) in [(F32, Format::F32), (F16, Format::F16), (BF16, Format::F16)] {
                let bundle = run(&file(&config, kind).bytes(), &weights_only()).unwrap();
                assert_eq!(bundle.config(), &expected);
                for (index, tensor) in expected.tensors().into_iter().enumerate() {
                    let values = tensor_values(index, &tensor);
                    let (format, stored) = match tensor.is_matrix() {
                        // bf16 has fewer bits than f16, so values of this size pass through unchanged.
                        true if kind == BF16 => {
                            let rounded = encode(BF16, &values);
                            let wide = rounded.as_chunks::<2>().0.iter();
                            let values: Vec<f32> = wide
                                .map(|&le| half::bf16::from_le_bytes(le).to_f32())
                                .collect();
                            (format, encode(F16, &values))
                        }
                        true => (format, encode(kind, &values)),
                        false => (Format::F32, encode(F32, &values)),
                    };
                    let name = tensor.name.as_str();
                    let info = bundle.tensors().find(|info| info.name() == name).unwrap();
                    assert_eq!(info.format(), Some(format), "{name}");
                    assert!(
                        bundle.data(name).unwrap() == stored,
                        "{model_type} {kind} {name}"
                    );
                }
            }
        }
    }
}

#[test]
fn an_explicit_format_wins() {
    let file = file(&config_json("llama"), F16).bytes();
    for format in Format::ALL {
        let options = ImportOptions::new(format).tokenizer(false);
        let bundle = run(&file, &options).unwrap();
        assert_eq!(bundle.provenance()["format"], format.name());
        for tensor in bundle.tensors() {
            let matrix = tensor.shape().len() == 2;
            assert_eq!(
                tensor.format(),
                Some(if matrix { format } else { Format::F32 })
            );
        }
    }
}

#[test]
fn a_missing_head_is_the_embedding() {
    let mut file = file(&config_json("llama"), F32);
    assert!(
        !run(&file.bytes(), &weights_only())
            .unwrap()
            .config()
            .tie_word_embeddings
    );
    file.tensors.retain(|tensor| tensor.0 != "output.weight");
    let bundle = run(&file.bytes(), &weights_only()).unwrap();
    assert!(bundle.config().tie_word_embeddings);
    assert!(bundle.matrix("lm_head.weight").is_none());
}

#[test]
fn version_two_and_other_alignments_are_read() {
    let mut file = file(&config_json("qwen3"), F16);
    let whole = run(&file.bytes(), &weights_only()).unwrap();
    file.version = 2;
    for alignment in [8, 128] {
        file.alignment = alignment;
        file.set("general.alignment", Meta::U32(alignment as u32));
        // Other widths and signs of integers are as good.
        file.set("qwen3.block_count", Meta::U64(2));
        file.set("qwen3.embedding_length", Meta::I32(24));
        let bundle = run(&file.bytes(), &weights_only()).unwrap();
        for tensor in whole.tensors() {
            assert!(whole.data(tensor.name()) == bundle.data(tensor.name()));
        }
    }
}

#[test]
fn progress_ends_at_the_total() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("m.gguf");
    std::fs::write(&source, file(&config_json("llama"), F16).bytes()).unwrap();
    let mut reports = Vec::new();
    let out = folder.path().join("m.skim");
    skimstone::import::import(&source, &out, &weights_only(), &mut |done, total, name| {
        reports.push((done, total, name.to_owned()));
    })
    .unwrap();
    assert!(reports.is_sorted());
    let (done, total, name) = reports.last().unwrap();
    assert_eq!((done, name.as_str()), (total, "lm_head.weight"));
}

/// Frequency factors as llama.cpp's converter computes them, in f32.
fn frequency_factors(head_dim: usize, theta: f32, factor: f32, original: f32) -> Vec<f32> {
    (0..head_dim / 2)
        .map(|i| {
            let frequency = 1.0 / theta.powf((2 * i) as f32 / head_dim as f32);
            let wavelength = 2.0 * std::f32::consts::PI / frequency;
            let (short, long) = (original / 4.0, original / 1.0);
            if wavelength < short {
                1.0
            } else if wavelength > long {
                factor
            } else {
                let smooth = (original / wavelength - 1.0) / (4.0 - 1.0);
                1.0 / ((1.0 - smooth) / factor + smooth)
            }
        })
        .collect()
}

#[test]
fn llama3_scaling_is_found_again() {
    let mut config = config_json("llama");
    config["head_dim"] = json!(64);
    config["rope_theta"] = json!(500_000.0);
    let mut file = file(&config, F32);
    let factors = frequency_factors(64, 500_000.0, 32.0, 8192.0);
    file.tensors.push(Tensor(
        "rope_freqs.weight".to_owned(),
        vec![32],
        F32,
        encode(F32, &factors),
    ));
    let bundle = run(&file.bytes(), &weights_only()).unwrap();
    let expected = RopeScaling::Llama3 {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    assert_eq!(bundle.config().rope_scaling, expected);

    let scaling = |file: &mut File, factors: &[f32]| {
        file.tensor("rope_freqs.weight").3 = encode(F32, factors);
        run(&file.bytes(), &weights_only()).map(|bundle| bundle.config().rope_scaling)
    };
    assert_eq!(
        scaling(&mut file, &[1.0; 32]).unwrap(),
        RopeScaling::Default
    );
    for bad in [f32::NAN, f32::INFINITY, -1.0, 2.0] {
        let mut factors = factors.clone();
        factors[3] = bad;
        let error = scaling(&mut file, &factors).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(
            error
                .to_string()
                .contains("tensor `rope_freqs.weight`: frequency factors"),
            "{error}"
        );
    }
}

#[test]
fn what_does_not_fit_is_named() {
    type Change = fn(&mut File);
    struct Case(Change, ErrorKind, &'static str);
    let cases = [
        Case(
            |file| file.set("general.architecture", Meta::str("gemma3")),
            ErrorKind::Unsupported,
            "key `general.architecture`: architecture `gemma3` is not supported; supported: llama, qwen2, qwen3",
        ),
        Case(
            |file| file.remove("general.architecture"),
            ErrorKind::Format,
            "key `general.architecture`: the key is missing",
        ),
        Case(
            |file| file.remove("llama.block_count"),
            ErrorKind::Format,
            "key `llama.block_count`: the key is missing",
        ),
        Case(
            |file| file.set("llama.attention.head_count", Meta::I32s(vec![4, 4])),
            ErrorKind::Format,
            "key `llama.attention.head_count`: expected an integer of at least 0, found an array",
        ),
        Case(
            |file| file.set("llama.attention.head_count", Meta::U32(0)),
            ErrorKind::Config,
            "`num_attention_heads`: 0 is not between 1",
        ),
        Case(
            |file| file.set("llama.rope.dimension_count", Meta::U32(6)),
            ErrorKind::Unsupported,
            "key `llama.rope.dimension_count`: 6 is not supported; supported: the head size 10",
        ),
        Case(
            |file| {
                file.set("llama.rope.scaling.type", Meta::str("linear"));
                file.set("llama.rope.scaling.factor", Meta::F32(4.0));
            },
            ErrorKind::Unsupported,
            "key `llama.rope.scaling.factor`: rope scaling `linear` by 4 is not supported; supported: none, llama3",
        ),
        Case(
            |file| file.set("llama.rope.scaling.type", Meta::str("yarn")),
            ErrorKind::Unsupported,
            "rope scaling `yarn` is not supported",
        ),
        Case(
            |file| file.set("llama.expert_count", Meta::U32(8)),
            ErrorKind::Unsupported,
            "a mixture of 8 experts",
        ),
        Case(
            |file| file.set("llama.attention.sliding_window", Meta::U32(16)),
            ErrorKind::Unsupported,
            "a sliding window of 16",
        ),
        Case(
            |file| file.set("split.count", Meta::U32(3)),
            ErrorKind::Unsupported,
            "the model is in 3 files; join them with `llama-gguf-split --merge`",
        ),
        Case(
            |file| {
                file.tensors
                    .retain(|tensor| tensor.0 != "blk.1.ffn_up.weight")
            },
            ErrorKind::MissingTensor,
            "tensor `blk.1.ffn_up.weight` is missing",
        ),
        Case(
            |file| file.tensor("blk.1.attn_k.weight").1 = vec![24, 20],
            ErrorKind::Shape,
            "tensor `blk.1.attn_k.weight`: expected [20, 24] by the metadata, file has [24, 20]",
        ),
        Case(
            |file| {
                let bias = Tensor("blk.0.ffn_up.bias".to_owned(), vec![40], F32, vec![0; 160]);
                file.tensors.push(bias);
            },
            ErrorKind::Unsupported,
            "tensor `blk.0.ffn_up.bias` has no place in a llama of this shape",
        ),
        Case(
            |file| {
                file.tensor("blk.0.ffn_up.weight").3[100..104]
                    .copy_from_slice(&f32::NAN.to_le_bytes())
            },
            ErrorKind::NonFinite,
            "tensor `model.layers.0.mlp.up_proj.weight`: row 1: column 1 is NaN",
        ),
        Case(
            |file| file.tensor("blk.0.ffn_up.weight").2 = 23,
            ErrorKind::Dtype,
            "`blk.0.ffn_up.weight`: type 23 (IQ4_XS) is not supported; supported: F32, F16, BF16, Q4_0",
        ),
    ];
    for Case(change, kind, message) in cases {
        let mut file = file(&config_json("llama"), F32);
        change(&mut file);
        let error = run(&file.bytes(), &weights_only()).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(message), "{error}");
    }
}
