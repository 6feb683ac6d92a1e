//! Real weights: `stories260K`, imported, reproduces the ids that its authors' code generates.

mod common;

use common::{data, generate_greedily};
use skimstone::import::{ImportOptions, import};
use skimstone::kernels::Format;
use skimstone::{Model, ModelOptions, TokenId};

#[test]
fn stories260k_greedy() {
    let Some(folder) = data("models/stories260K") else {
        return;
    };
    let golden = std::fs::read_to_string(folder.join("golden_greedy.json")).unwrap();
    let golden: serde_json::Value = serde_json::from_str(&golden).unwrap();
    let ids = |key: &str| -> Vec<TokenId> { serde_json::from_value(golden[key].clone()).unwrap() };
    let (prompt, want) = (ids("prompt_ids"), ids("greedy_ids"));
    let out = tempfile::tempdir().unwrap();
    // Rounded weights move logits by more than the smallest gaps between them, so not all ids are demanded of q8.
    for (format, exact) in [(Format::F32, want.len()), (Format::Q8, 32)] {
        let path = out.path().join(format.name());
        let options = ImportOptions::new(format).tokenizer(false);
        import(&folder.join("hf"), &path, &options, &mut |_, _, _| {}).unwrap();
        let model = Model::open(&path, ModelOptions::default().with_threads(2)).unwrap();
        let got = generate_greedily(&model, &prompt, want.len());
        assert_eq!(got.len(), want.len());
        assert_eq!(got[..exact], want[..exact], "{}", format.name());
    }
}
