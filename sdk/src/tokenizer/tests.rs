//! Our byte pairs against those of the `tokenizers` crate, and tables that are not what they claim to be.

use proptest::prelude::*;
use serde_json::{Value, json};
use tokenizers::Tokenizer as Reference;

use super::table::{Table, TableBytes};
use super::{Tokenizer, pack};

/// Letters that the vocabulary knows, two that it does not, and characters of two and four bytes.
const TEXT: &str = "[abcdxy é🦀]{0,24}";

/// A model of a few letters, whose merges overlap: which one goes first decides what comes out.
fn tokenizer_json(settings: &Value) -> Value {
    let tokens = [
        "<unk>", "a", "b", "c", "d", " ", "é", "ab", "bc", "abc", "cd", "aa", "aaa", "bcd", "abcd",
        " a", "<0xF0>", "<0x9F>", "<0xA6>", "<0x80>", "<0x78>",
    ];
    let vocab: serde_json::Map<_, _> = tokens
        .iter()
        .enumerate()
        // One id stays without a token.
        .map(|(i, token)| ((*token).to_owned(), json!(if i > 9 { i + 1 } else { i })))
        .collect();
    let merges = json!([
        ["b", "c"],
        ["a", "b"],
        ["a", "a"],
        ["bc", "d"],
        ["a", "bc"],
        ["ab", "c"],
        ["aa", "a"],
        ["c", "d"],
        ["ab", "cd"],
        ["abc", "d"],
        [" ", "a"],
        ["a", "bcd"]
    ]);
    let mut model = json!({"type": "BPE", "vocab": vocab, "merges": merges});
    for (key, value) in settings.as_object().unwrap() {
        model[key] = value.clone();
    }
    let added = |id: u32, content: &str, special: bool| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false, "special": special})
    };
    json!({
        "version": "1.0", "padding": null, "normalizer": null, "post_processor": null,
        "truncation": {"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "added_tokens": [added(0, "<unk>", true), added(22, "xy", false)],
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": " ?[^ ]+"}, "behavior": "Isolated", "invert": false},
        "decoder": {"type": "ByteFallback"}, "model": model,
    })
}

fn bytes(json: &Value) -> Vec<u8> {
    json.to_string().into_bytes()
}

fn from_table(json: &[u8], table: Vec<u8>) -> crate::Result<Tokenizer> {
    Tokenizer::from_table(TableBytes::Owned(table), crc32fast::hash(json), 64)
}

proptest! {
    #[test]
    fn ids_and_text_are_those_of_the_tokenizers_crate(
        text in TEXT, unk in any::<bool>(), fuse in any::<bool>(), fallback in any::<bool>(), whole in any::<bool>(),
    ) {
        let unk = unk.then_some("<unk>");
        let settings = json!({"unk_token": unk, "fuse_unk": fuse, "byte_fallback": fallback, "ignore_merges": whole,
            "end_of_word_suffix": "", "dropout": null});
        let json = bytes(&tokenizer_json(&settings));
        let mut reference = Reference::from_bytes(&json).unwrap();
        reference.with_truncation(None).unwrap();
        let whole_file = Tokenizer::from_bytes(&json, 64).unwrap();
        let packed = from_table(&json, pack(&json).unwrap()).unwrap();
        let expected = reference.encode_fast(text.as_str(), false).unwrap().get_ids().to_vec();
        for tokenizer in [whole_file, packed] {
            let ids = tokenizer.encode(&text, false).unwrap();
            prop_assert_eq!(&ids, &expected);
            prop_assert_eq!(tokenizer.decode(&ids, false).unwrap(), reference.decode(&ids, false).unwrap());
            prop_assert_eq!(tokenizer.vocab_size(), reference.get_vocab_size(true));
            for id in 0..24 {
                prop_assert_eq!(tokenizer.id_to_token(id), reference.id_to_token(id));
            }
        }
    }

    #[test]
    fn a_damaged_table_never_panics(at in 0usize..1200, value in any::<u8>(), text in TEXT) {
        let json = bytes(&tokenizer_json(&json!({"unk_token": "<unk>", "byte_fallback": true})));
        let mut table = pack(&json).unwrap();
        let at = at % table.len();
        table[at] = value;
        if let Ok(tokenizer) = from_table(&json, table) {
            if let Ok(ids) = tokenizer.encode(&text, true) {
                let _ = tokenizer.decode(&ids, false);
            }
            let _ = tokenizer.inner.get_vocab(true);
        }
    }
}

#[test]
fn older_files_write_a_merge_as_a_line() {
    let pairs = tokenizer_json(&json!({}));
    let mut lines = pairs.clone();
    for merge in lines["model"]["merges"].as_array_mut().unwrap() {
        // A token with a blank cannot be written so.
        let (left, right) = (merge[0].as_str().unwrap(), merge[1].as_str().unwrap());
        *merge = json!(format!("{left} {right}"));
    }
    let merges = lines["model"]["merges"].as_array_mut().unwrap();
    merges.retain(|line| line.as_str().unwrap().matches(' ').count() == 1);
    let (pairs, lines) = (bytes(&pairs), bytes(&lines));
    let ids = |json: &[u8]| {
        let tokenizer = from_table(json, pack(json).unwrap()).unwrap();
        tokenizer.encode("abcdaaabcd", false).unwrap()
    };
    assert_eq!(ids(&pairs), ids(&lines));
}

#[test]
fn what_a_table_cannot_hold_is_left_to_the_tokenizers_crate() {
    struct Case(&'static str, Value);
    let model = |settings: Value| tokenizer_json(&settings);
    let mut double = model(json!({}));
    double["model"]["vocab"]["zz"] = json!(1);
    let mut far = model(json!({}));
    far["model"]["vocab"]["zz"] = json!(4_000_000_000u32);
    let cases = [
        Case("dropout", model(json!({"dropout": 0.5}))),
        Case("prefix", model(json!({"continuing_subword_prefix": "a"}))),
        Case("suffix", model(json!({"end_of_word_suffix": "d"}))),
        Case("two tokens of one id", double),
        Case("an id far away", far),
    ];
    for Case(name, json) in cases {
        assert!(pack(&bytes(&json)).is_none(), "{name}");
    }
    assert!(pack(b"{}").is_none() && pack(b"[1").is_none());
    // And it is: the crate reads what it can, and says what is wrong.
    let suffix = bytes(&model(
        json!({"end_of_word_suffix": "d", "unk_token": "<unk>"}),
    ));
    let reference = Reference::from_bytes(&suffix).unwrap();
    let expected = reference.encode_fast("a", false).unwrap();
    let tokenizer = Tokenizer::from_bytes(&suffix, 64).unwrap();
    assert_eq!(tokenizer.encode("a", false).unwrap(), expected.get_ids());
    let mut unmerged = model(json!({}));
    unmerged["model"]["merges"] = json!([["a", "zz"]]);
    let error = Tokenizer::from_bytes(&bytes(&unmerged), 64).unwrap_err();
    assert!(error.to_string().contains("zz"), "{error}");
}

#[test]
fn a_table_of_another_file_or_length_is_refused() {
    let json = bytes(&tokenizer_json(&json!({})));
    let table = pack(&json).unwrap();
    assert!(Table::open(TableBytes::Owned(table.clone())).is_some());
    let other = Tokenizer::from_table(TableBytes::Owned(table.clone()), 1, 64).unwrap_err();
    assert!(
        other.to_string().contains("another tokenizer.json"),
        "{other}"
    );
    for length in 0..table.len() {
        assert!(Table::open(TableBytes::Owned(table[..length].to_vec())).is_none());
    }
    let mut longer = table;
    longer.push(0);
    let error = from_table(&json, longer).unwrap_err();
    assert!(error.to_string().contains("tokenizer.bpe"), "{error}");
}
