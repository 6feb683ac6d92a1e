//! Real weights: `stories260K` reproduces the ids that its authors' code generates.

mod common;

use std::io::Cursor;
use std::path::PathBuf;

use skimstone::kernels::Format;
use skimstone::{
    Bundle, BundleSpec, BundleWriter, Generate, GenerateOptions, Model, ModelConfig, ModelOptions,
    Session, SessionOptions, TensorDecl, TokenId,
};

/// The folder of shared data, if there is one.
fn data(path: &str) -> Option<PathBuf> {
    let root = std::env::var_os("SKIMSTONE_DATA").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"),
        PathBuf::from,
    );
    let path = root.join(path);
    if !path.exists() {
        println!(
            "skipped: {} is not there; set SKIMSTONE_DATA",
            path.display()
        );
        return None;
    }
    Some(path)
}

fn import(folder: &std::path::Path, format: Format) -> Model {
    let config =
        ModelConfig::from_json(&std::fs::read_to_string(folder.join("config.json")).unwrap())
            .unwrap();
    let file = std::fs::read(folder.join("model.safetensors")).unwrap();
    let source = safetensors::SafeTensors::deserialize(&file).unwrap();
    let tensors = TensorDecl::for_model(&config, format);
    let mut writer =
        BundleWriter::new(Cursor::new(Vec::new()), BundleSpec::new(config), &tensors).unwrap();
    for tensor in &tensors {
        let bytes = source.tensor(&tensor.name).unwrap();
        let values: Vec<f32> = bytes
            .data()
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect();
        writer.write_f32(&tensor.name, &values).unwrap();
    }
    let bundle = Bundle::from_bytes(writer.finish().unwrap().into_inner()).unwrap();
    Model::from_bundle(bundle, ModelOptions::default().with_threads(2)).unwrap()
}

#[test]
fn stories260k_greedy() {
    let Some(folder) = data("models/stories260K") else {
        return;
    };
    let golden: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(folder.join("golden_greedy.json")).unwrap())
            .unwrap();
    let ids = |key: &str| -> Vec<TokenId> { serde_json::from_value(golden[key].clone()).unwrap() };
    let (prompt, want) = (ids("prompt_ids"), ids("greedy_ids"));
    for (format, exact) in [
        (Format::F32, want.len()),
        (Format::F16, 32),
        (Format::Q8, 32),
    ] {
        let model = import(&folder.join("hf"), format);
        let mut session = Session::new(&model, SessionOptions::new()).unwrap();
        let options = GenerateOptions {
            max_tokens: Some(want.len() - prompt.len()),
            stop_ids: Some(Vec::new()),
            ..GenerateOptions::default()
        };
        let piece = Generate::new(&mut session, &prompt, options)
            .unwrap()
            .collect_all()
            .unwrap();
        let got = [prompt.as_slice(), &piece.ids].concat();
        assert_eq!(got.len(), want.len());
        assert_eq!(got[..exact], want[..exact], "{}", format.name());
    }
}
