//! Round trips; what hostile files do is in `tests/hostile_bundle.rs`.

use std::io::Cursor;

use serde_json::json;

use super::*;
use crate::config::ModelType;

fn config(model_type: ModelType) -> ModelConfig {
    // Odd sizes on purpose: rows that end inside a block, tensors that end off the alignment.
    let json = json!({
        "model_type": model_type, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
        "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 10, "vocab_size": 50,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "tie_word_embeddings": model_type == ModelType::Qwen3,
        "attention_bias": model_type != ModelType::Qwen3, "mlp_bias": model_type == ModelType::Llama,
    });
    ModelConfig::from_json(&json.to_string()).unwrap()
}

/// A value that says where it stands.
fn value(tensor: usize, index: usize) -> f32 {
    ((tensor * 31 + index * 7) % 127) as f32 / 64.0 - 1.0
}

fn write(config: &ModelConfig, format: Format) -> Vec<u8> {
    let decls = TensorDecl::for_model(config, format);
    let mut spec = BundleSpec::new(config.clone());
    spec.chat_template = Some("{{ messages }}".to_owned());
    spec.provenance = json!({"recipe": "test"});
    let mut writer = BundleWriter::new(Cursor::new(Vec::new()), spec, &decls).unwrap();
    for (tensor, decl) in decls.iter().enumerate() {
        let len = decl.shape.iter().product();
        let values: Vec<f32> = (0..len).map(|index| value(tensor, index)).collect();
        writer.write_f32(&decl.name, &values).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

#[test]
fn every_family_and_format_reads_back() {
    for model_type in ModelType::ALL {
        let config = config(model_type);
        for format in Format::ALL {
            let bundle = Bundle::from_bytes(write(&config, format)).unwrap();
            assert_eq!(bundle.config(), &config);
            assert_eq!(bundle.chat_template(), Some("{{ messages }}"));
            assert_eq!(bundle.provenance()["recipe"], "test");
            assert!(bundle.tokenizer().unwrap().is_none());

            let decls = TensorDecl::for_model(&config, format);
            for (tensor, decl) in decls
                .iter()
                .enumerate()
                .filter(|(_, decl)| decl.shape.len() == 2)
            {
                let matrix = bundle.matrix(&decl.name).unwrap();
                let mut row = vec![0.0; matrix.cols()];
                matrix.row_into(1, &mut row).unwrap();
                // Steps of each format on values up to 1: half a unit of the block scale.
                let tolerance = match format {
                    Format::Q8 => 0.5 / 127.0 + 1e-3,
                    Format::Q4 => 1.0 / 7.0,
                    _ => 1e-3,
                };
                for (col, &found) in row.iter().enumerate() {
                    let expected = value(tensor, matrix.cols() + col);
                    assert!(
                        (found - expected).abs() <= tolerance,
                        "{} {format}: {found} {expected}",
                        decl.name
                    );
                }
            }
        }
    }
}

#[test]
fn views_are_the_tensors_of_their_names() {
    for model_type in ModelType::ALL {
        let config = config(model_type);
        let bundle = Bundle::from_bytes(write(&config, Format::Q8)).unwrap();
        let weights = bundle.weights();
        assert_eq!(weights.num_layers(), 2);
        let layer = weights.layer(1);
        let name = |name: &str| format!("model.layers.1.{name}");
        let same = |matrix: Matrix<'_>, tensor: &str| {
            assert!(
                std::ptr::eq(matrix.bytes(), bundle.data(&name(tensor)).unwrap()),
                "{tensor}"
            );
        };
        same(layer.q_proj.weight, "self_attn.q_proj.weight");
        same(layer.k_proj.weight, "self_attn.k_proj.weight");
        same(layer.v_proj.weight, "self_attn.v_proj.weight");
        same(layer.o_proj.weight, "self_attn.o_proj.weight");
        same(layer.gate_proj.weight, "mlp.gate_proj.weight");
        same(layer.up_proj.weight, "mlp.up_proj.weight");
        same(layer.down_proj.weight, "mlp.down_proj.weight");
        let vectors = [
            (Some(layer.input_layernorm), "input_layernorm.weight"),
            (
                Some(layer.post_attention_layernorm),
                "post_attention_layernorm.weight",
            ),
            (layer.q_proj.bias, "self_attn.q_proj.bias"),
            (layer.k_proj.bias, "self_attn.k_proj.bias"),
            (layer.v_proj.bias, "self_attn.v_proj.bias"),
            (layer.o_proj.bias, "self_attn.o_proj.bias"),
            (layer.q_norm, "self_attn.q_norm.weight"),
            (layer.k_norm, "self_attn.k_norm.weight"),
            (layer.gate_proj.bias, "mlp.gate_proj.bias"),
            (layer.up_proj.bias, "mlp.up_proj.bias"),
            (layer.down_proj.bias, "mlp.down_proj.bias"),
        ];
        for (view, tensor) in vectors {
            assert_eq!(
                view,
                bundle.data(&name(tensor)).and_then(as_f32s),
                "{model_type} {tensor}"
            );
        }
        let head = if config.tie_word_embeddings {
            "model.embed_tokens.weight"
        } else {
            "lm_head.weight"
        };
        assert!(std::ptr::eq(
            weights.lm_head().bytes(),
            bundle.data(head).unwrap()
        ));
    }
}

#[test]
fn any_safetensors_reader_opens_it() {
    let bytes = write(&config(ModelType::Qwen3), Format::Q4);
    let bundle = Bundle::from_bytes(&bytes).unwrap();
    let (_, metadata) = ::safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "skimstone");
    let tensors = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
    for info in bundle.tensors() {
        let view = tensors.tensor(info.name()).unwrap();
        assert_eq!(view.data(), bundle.data(info.name()).unwrap());
        let offset = view.data().as_ptr().addr() - bytes.as_ptr().addr();
        assert!(
            offset.is_multiple_of(format::ALIGNMENT),
            "{} starts at {offset}",
            info.name()
        );
    }
}

#[test]
fn the_writer_refuses_what_it_could_not_read_back() {
    let config = config(ModelType::Qwen3);
    let decls = TensorDecl::for_model(&config, Format::F16);
    let new = |spec: BundleSpec, decls: &[TensorDecl]| {
        BundleWriter::new(Cursor::new(Vec::new()), spec, decls)
    };
    let spec = BundleSpec::new(config);

    let Err(error) = new(spec.clone(), &decls[1..]) else {
        panic!("a tensor is missing")
    };
    assert_eq!(error.kind(), ErrorKind::MissingTensor);
    let mut wrong = decls.clone();
    wrong[0].shape = vec![50, 23];
    let Err(error) = new(spec.clone(), &wrong) else {
        panic!("a shape is wrong")
    };
    assert_eq!(
        error.to_string(),
        "tensor `model.embed_tokens.weight`: expected [50, 24], declared is [50, 23]"
    );

    let mut writer = new(spec.clone(), &decls).unwrap();
    assert_eq!(
        writer
            .write_f32("model.norm.weight", &[0.0; 24])
            .unwrap_err()
            .kind(),
        ErrorKind::Argument
    );
    assert_eq!(
        writer
            .write_f32(&decls[0].name, &[0.0; 24])
            .unwrap_err()
            .kind(),
        ErrorKind::Shape
    );
    let mut values = vec![0.5; 50 * 24];
    values[30] = f32::NAN;
    let error = writer.write_f32(&decls[0].name, &values).unwrap_err();
    assert_eq!(
        error.to_string(),
        "tensor `model.embed_tokens.weight`: row 1: column 6 is NaN"
    );
    let mut writer = new(spec.clone(), &decls).unwrap();
    values[30] = 1e6;
    assert_eq!(
        writer
            .write_f32(&decls[0].name, &values)
            .unwrap_err()
            .kind(),
        ErrorKind::NonFinite
    );
    let writer = new(spec, &decls).unwrap();
    assert_eq!(
        writer.finish().unwrap_err().kind(),
        ErrorKind::MissingTensor
    );
}

#[test]
fn a_file_appears_whole_or_not_at_all() {
    let config = config(ModelType::Qwen3);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("student.skim");
    let decls = TensorDecl::for_model(&config, Format::F32);
    let mut writer = BundleWriter::create(&path, BundleSpec::new(config.clone()), &decls).unwrap();
    writer
        .write_f32(&decls[0].name, &vec![0.0; 50 * 24])
        .unwrap();
    drop(writer);
    assert_eq!(folder.path().read_dir().unwrap().count(), 0);

    let mut writer = BundleWriter::create(&path, BundleSpec::new(config), &decls).unwrap();
    for decl in &decls {
        writer
            .write_rows(&decl.name, |_, row| {
                row.fill(0.25);
                Ok(())
            })
            .unwrap();
    }
    writer.commit().unwrap();
    assert_eq!(folder.path().read_dir().unwrap().count(), 1);
    let bundle = Bundle::open(&path).unwrap();
    assert_eq!(bundle.file_bytes() as u64, path.metadata().unwrap().len());
    assert_eq!(bundle.weights().norm(), [0.25; 24]);
}

#[test]
fn a_rewritten_bundle_differs_in_its_reasoning_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new.skim");
    for format in Format::ALL {
        let old = Bundle::from_bytes(write(&config(ModelType::Llama), format)).unwrap();
        let mut reasoning = old.reasoning().clone();
        reasoning.answer_reserve = 9;
        old.rewrite(&path, reasoning.clone()).unwrap();
        let new = Bundle::open(&path).unwrap();
        assert_eq!(new.reasoning(), &reasoning);
        assert_eq!(
            (new.config(), new.provenance()),
            (old.config(), old.provenance())
        );
        assert_eq!(new.chat_template(), old.chat_template());
        assert_eq!(new.tensors().count(), old.tensors().count());
        for tensor in old.tensors() {
            assert_eq!(
                new.data(tensor.name()),
                old.data(tensor.name()),
                "{}",
                tensor.name()
            );
        }
        // What does not fit the model leaves what stood there.
        reasoning.answer_reserve = 64;
        let error = old.rewrite(&path, reasoning).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Reasoning);
        assert_eq!(Bundle::open(&path).unwrap().reasoning().answer_reserve, 9);
    }
}
