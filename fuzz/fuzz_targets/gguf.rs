//! Any bytes as a GGUF file to import. What is imported must open.
#![no_main]

#[path = "../../sdk/tests/common/mod.rs"]
mod common;
#[path = "seeds.rs"]
mod seeds;
#[path = "../../sdk/tests/tiny/mod.rs"]
mod tiny;
#[path = "../../sdk/tests/gguf/writer.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod writer;

use libfuzzer_sys::fuzz_target;
use skimstone::Bundle;
use skimstone::import::{ImportOptions, import};

fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let file = |family: &str, kind: u32| {
        let mut config = common::config_json(family);
        // A few kilobytes.
        config["num_hidden_layers"] = 1.into();
        writer::file(&config, kind).bytes()
    };
    vec![
        ("llama-f16", file("llama", writer::F16)),
        ("qwen2-bf16", file("qwen2", writer::BF16)),
        ("qwen3-f16", file("qwen3", writer::F16)),
    ]
}

fuzz_target!(init: seeds::write(seeds), |data: &[u8]| {
    let (source, out) = (seeds::scratch("gguf"), seeds::scratch("imported"));
    // Known by its first bytes, else it would be looked for as a folder.
    let mut bytes = data.to_vec();
    if let Some(magic) = bytes.first_chunk_mut::<4>() {
        *magic = *b"GGUF";
    }
    std::fs::write(&source, &bytes).expect("a file can be written");
    if import(&source, &out, &ImportOptions::default(), &mut |_, _, _| {}).is_ok() {
        Bundle::open(&out).expect("what was imported opens");
    }
    let _ = std::fs::remove_file(&out);
});
