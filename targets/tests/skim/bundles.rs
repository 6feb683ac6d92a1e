//! `skim import`, `skim synth` and `skim inspect`.

use std::fs;

use serde_json::json;

use crate::harness::{CONTEXT, Folder, VOCAB, config_json, data, save_weights, skim};

#[test]
fn import_in_every_format_and_inspect() {
    let folder = Folder::new();
    for quant in ["f32", "f16", "q8", "q4"] {
        let out = folder.path("model.skim");
        let said = skim!["import", folder.path("hf"), out, "--quant", quant].text();
        assert!(said.contains("qwen3") && said.contains(quant), "{said}");

        let report = skim!["inspect", out, "--json"].json();
        assert_eq!(report["config"]["model_type"], "qwen3");
        assert_eq!(report["config"]["vocab_size"], VOCAB);
        assert_eq!(report["file_bytes"], fs::metadata(&out).unwrap().len());
        assert_eq!(report["tokenizer"]["vocab_size"], VOCAB);
        assert_eq!(report["provenance"]["format"], quant);
        assert_eq!(report["default_route"], "cot");
        let routes: Vec<&String> = report["routes"].as_object().unwrap().keys().collect();
        assert_eq!(routes, ["cot", "direct"]);
        assert_eq!(report["memory"]["context"], CONTEXT);
        let memory = |name: &str| report["memory"][name].as_u64().unwrap();
        assert_eq!(memory("total"), memory("file_backed") + memory("anonymous"));

        let tensors = report["tensors"].as_array().unwrap();
        let tensor = |name: &str| {
            tensors
                .iter()
                .find(|tensor| tensor["name"] == name)
                .unwrap()
        };
        let embedding = tensor("model.embed_tokens.weight");
        assert_eq!(embedding["format"], quant);
        assert_eq!(embedding["shape"], json!([VOCAB, 32]));
        assert!(embedding["bytes"].as_u64().unwrap() > 0);
        assert_eq!(tensor("model.norm.weight")["format"], "f32");
    }
    let text = skim!["inspect", folder.path("model.skim")].text();
    for word in [
        "config",
        "routes",
        "provenance",
        "tensors",
        "(default)",
        "model.norm.weight",
    ] {
        assert!(text.contains(word), "no {word} in {text}");
    }
    assert_eq!(
        folder.names(),
        ["hf", "model.skim"],
        "no temporary file is left"
    );
}

#[test]
fn import_refuses_and_writes_nothing() {
    let folder = Folder::new();
    let (source, out) = (folder.path("hf"), folder.path("out.skim"));
    let refused = |words: &[&str]| {
        skim!["import", source, out].refused(words);
        assert_eq!(folder.names(), ["hf"], "nothing is written");
    };

    let mut config = config_json();
    config["model_type"] = json!("gemma3");
    folder.write("hf/config.json", config.to_string());
    refused(&["config.json", "`gemma3`", "llama, qwen2, qwen3"]);
    folder.write("hf/config.json", config_json().to_string());

    let weights = folder.path("hf/model.safetensors");
    save_weights(&weights, &config_json(), |name, shape| {
        if name == "model.layers.1.mlp.up_proj.weight" {
            shape.reverse();
        }
    });
    refused(&["model.layers.1.mlp.up_proj.weight", "[48, 32]", "[32, 48]"]);

    save_weights(&weights, &config_json(), |_, _| {});
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() - 8]).unwrap();
    refused(&["model.safetensors"]);
    fs::write(&weights, &bytes).unwrap();

    let tokenizer = fs::read(folder.path("hf/tokenizer.json")).unwrap();
    fs::remove_file(folder.path("hf/tokenizer.json")).unwrap();
    refused(&["tokenizer.json", "--no-tokenizer"]);
    folder.write("hf/tokenizer.json", tokenizer);

    skim!["import", folder.path("missing"), out].refused(&["missing"]);
    skim!["import", source, folder.path("no/such/out.skim")].refused(&["out.skim", "No such file"]);
    skim!["import", source, out, "--quant", "q5"].refused(&["q5", "f32, f16, q8, q4"]);
    assert_eq!(folder.names(), ["hf"]);
}

#[test]
fn import_knows_gguf_by_its_first_bytes() {
    let folder = Folder::new();
    let out = folder.path("out.skim");
    let cut = folder.write("cut.gguf", b"GGUF\x03\0\0\0");
    skim!["import", cut, out].refused(&[
        "cut.gguf",
        "the number of tensors needs 8 bytes at offset 8, there are 0 left",
    ]);
    let other = folder.write("other.gguf", b"GGML\x03\0\0\0");
    skim!["import", other, out].refused(&["other.gguf", "nor a GGUF file"]);
    assert!(!out.exists(), "nothing is written");

    let Some(file) = data("models/stories260K/gguf/stories260K-Q8_0.gguf") else {
        return;
    };
    // Rows that are not whole blocks are f16 in the file, so without `--quant` both stand in the bundle.
    let said = skim!["import", file, out].text();
    assert!(said.contains("260,032 parameters in f16 and q8"), "{said}");
    let said = skim!["run", out, "Once upon a time", "--budget-tokens", "8"].text();
    assert!(said.contains("there was a little girl"), "{said}");
    let said = skim!["import", file, out, "--quant", "q4", "--no-tokenizer"].text();
    assert!(said.contains("parameters in q4"), "{said}");
    assert!(skim!["inspect", out, "--json"].json()["tokenizer"].is_null());
}

#[test]
fn synth_makes_random_weights_and_says_so() {
    let folder = Folder::new();
    let (config, out) = (folder.path("hf/config.json"), folder.path("random.skim"));
    skim!["synth", "--config", config, "--quant", "q4", out].text();
    let first = fs::read(&out).unwrap();
    let report = skim!["inspect", out, "--json"].json();
    assert_eq!(report["provenance"]["random"], true);
    assert!(report["tokenizer"].is_null());

    skim![
        "synth", "--config", config, "--quant", "q4", out, "--seed", "0"
    ]
    .text();
    assert!(
        fs::read(&out).unwrap() == first,
        "the same seed gives the same file"
    );
    skim![
        "synth", "--config", config, "--quant", "q4", out, "--seed", "1"
    ]
    .text();
    assert!(fs::read(&out).unwrap() != first);

    let bad = folder.write("bad.json", r#"{"model_type": "mamba"}"#);
    let other = folder.path("other.skim");
    skim!["synth", "--config", bad, other].refused(&["bad.json", "mamba"]);
    skim!["synth", "--config", folder.path("no.json"), other].refused(&["no.json"]);
    assert!(!other.exists());
}

#[test]
fn help_names_every_command() {
    let help = skim!["--help"].text();
    for command in [
        "run", "eval", "logits", "bench", "import", "inspect", "synth",
    ] {
        assert!(help.contains(command), "{help}");
        let text = skim![command, "--help"].text();
        assert!(text.contains("Usage: skim"), "{text}");
    }
    assert!(skim!["--version"].text().starts_with("skim "));
    skim!["fly"].refused(&["fly"]);
}
