//! Real weights: the TinyStories model of 260 thousand parameters says what it said elsewhere.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::harness::{data, ids, skim};

fn generated(folder: &Path, quant: &str) -> Value {
    let out = tempfile::tempdir().unwrap();
    let model = out.path().join("stories.skim");
    skim![
        "import",
        folder.join("hf"),
        model,
        "--quant",
        quant,
        "--no-tokenizer"
    ]
    .text();
    skim![
        "run",
        model,
        "--tokens",
        "1",
        "--raw",
        "--temperature",
        "0",
        "--json"
    ]
    .json()
}

#[test]
fn stories_greedy_ids() {
    let Some(folder) = data("models/stories260K") else {
        return;
    };
    let golden = fs::read_to_string(folder.join("golden_greedy.json")).unwrap();
    let golden: Value = serde_json::from_str(&golden).unwrap();
    let expected = ids(&golden["greedy_ids"]);

    let exact = generated(&folder, "f32");
    assert_eq!(ids(&exact["prompt_ids"]), ids(&golden["prompt_ids"]));
    let all = [ids(&exact["prompt_ids"]), ids(&exact["generated_ids"])].concat();
    assert_eq!(all, ids(&exact["ids"]));
    assert_eq!(all, expected);

    let quantized = ids(&generated(&folder, "q8")["ids"]);
    assert_eq!(quantized[..33], expected[..33]);
}
