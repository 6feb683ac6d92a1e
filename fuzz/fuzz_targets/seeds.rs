//! What the targets share: a model of a few kilobytes, and seeds that are made rather than kept by hand.
#![allow(dead_code, reason = "each target uses its part")]

use std::path::PathBuf;

use skimstone::kernels::Format;
use skimstone::{
    BundleSpec, BundleWriter, Model, ModelConfig, ModelOptions, ModelType, TensorDecl,
};

use crate::tiny;

/// Writes `seeds` and ends the process, if the environment says where; `fuzz/run seeds` asks for it.
pub fn write(seeds: impl FnOnce() -> Vec<(&'static str, Vec<u8>)>) {
    let Some(folder) = std::env::var_os("SKIMSTONE_SEEDS").map(PathBuf::from) else {
        return;
    };
    std::fs::create_dir_all(&folder).expect("the folder of seeds can be made");
    for (name, bytes) in seeds() {
        std::fs::write(folder.join(name), bytes).expect("a seed can be written");
    }
    std::process::exit(0);
}

/// One layer, in `format`, with every part that a bundle can have.
pub fn bundle(format: Format) -> Vec<u8> {
    let config = ModelConfig {
        hidden_size: 32,
        intermediate_size: 32,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        head_dim: 16,
        ..tiny::config(ModelType::Qwen3)
    };
    let weights = tiny::weights(&config, 1);
    let tensors = TensorDecl::for_model(&config, format);
    let spec = BundleSpec {
        reasoning: tiny::reasoning(),
        tokenizer_json: Some(tiny::byte_tokenizer()),
        chat_template: Some("{% for m in messages %}{{ m.content }}{% endfor %}".into()),
        ..BundleSpec::new(config)
    };
    let mut writer = BundleWriter::new(std::io::Cursor::new(Vec::new()), spec, &tensors)
        .expect("the model is valid");
    for tensor in &tensors {
        writer
            .write_f32(&tensor.name, &weights[&tensor.name])
            .expect("a tensor of the model");
    }
    writer.finish().expect("all tensors are there").into_inner()
}

pub fn model(bytes: &[u8]) -> skimstone::Result<Model> {
    let bundle = skimstone::OpenOptions::new()
        .verify(false)
        .open_bytes(bytes)?;
    let options = ModelOptions::default()
        .with_threads(1)
        .with_max_bytes(64 << 20)
        .with_context(bundle.config().max_position_embeddings.clamp(1, 96));
    Model::from_bundle(bundle, options)
}

/// A file of this process that needs no storage where the system has such a place.
pub fn scratch(name: &str) -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    let folder = if memory.is_dir() {
        memory
    } else {
        std::env::temp_dir()
    };
    folder.join(format!("skimstone-fuzz-{}-{name}", std::process::id()))
}
