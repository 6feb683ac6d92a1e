//! Text ↔ ids: stored vectors of real tokenizers, streams, and files that are not what they claim to be.

mod common;
mod tiny;

use std::io::{BufRead, BufReader, Cursor};

use proptest::prelude::*;
use serde_json::{Value, json};
use skimstone::kernels::Format;
use skimstone::{
    Bundle, BundleSpec, BundleWriter, DecodeStream, ErrorKind, ModelConfig, ModelType, TensorDecl,
    TokenId, Tokenizer,
};

/// Tokenizer folder and golden file of each family in the data.
const FAMILIES: [(&str, &str); 3] = [("qwen2.5", "qwen"), ("gpt2", "gpt2"), ("smollm", "smollm")];

fn load(folder: &str) -> Option<Tokenizer> {
    let path = common::data(&format!("tokenizers/{folder}/tokenizer.json"))?;
    Some(Tokenizer::from_bytes(&std::fs::read(path).unwrap(), 200_000).unwrap())
}

fn golden(name: &str) -> Vec<(String, Vec<TokenId>)> {
    let path = common::data(&format!("tokenizers/golden_{name}.jsonl.gz"))
        .expect("it lies beside the tokenizer");
    let file = flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap());
    let row = |line: std::io::Result<String>| {
        let row: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let ids = serde_json::from_value(row["ids"].clone()).unwrap();
        (row["text"].as_str().unwrap().to_owned(), ids)
    };
    BufReader::new(file).lines().map(row).collect()
}

/// All pieces of a stream, joined; each piece is whole characters by its type, and none is empty.
fn stream(mut stream: DecodeStream, ids: &[TokenId]) -> String {
    let mut text = String::new();
    for &id in ids {
        if let Some(piece) = stream.push(id).unwrap() {
            assert!(
                !piece.is_empty() && !piece.ends_with(char::REPLACEMENT_CHARACTER),
                "{piece:?}"
            );
            text += &piece;
        }
    }
    text + &stream.finish().unwrap().unwrap_or_default()
}

#[test]
fn stored_vectors() {
    for (folder, name) in FAMILIES {
        let Some(tokenizer) = load(folder) else {
            return;
        };
        let rows = golden(name);
        assert!(rows.len() > 100);
        for (text, ids) in rows {
            assert_eq!(
                tokenizer.encode(&text, false).unwrap(),
                ids,
                "{name}: {text}"
            );
            let decoded = tokenizer.decode(&ids, false).unwrap();
            assert_eq!(
                stream(tokenizer.decode_stream(false), &ids),
                decoded,
                "{name}: {text}"
            );
        }
    }
}

#[test]
fn a_stream_of_any_ids_equals_their_text() {
    for (folder, _) in FAMILIES {
        let Some(tokenizer) = load(folder) else {
            return;
        };
        // Ids in any order: characters are cut everywhere, special tokens stand in the middle.
        for seed in 0..20 {
            let size = tokenizer.vocab_size() as f32;
            let mut ids: Vec<TokenId> = common::values(seed + 1, 200)
                .iter()
                .map(|v| ((v + 1.0) / 2.0 * size) as TokenId)
                .collect();
            // Single bytes, of which most are no character.
            ids.extend(
                common::values(seed + 99, 200)
                    .iter()
                    .map(|v| ((v + 1.0) * 128.0) as TokenId),
            );
            for skip in [false, true] {
                let text = tokenizer.decode(&ids, skip).unwrap();
                assert_eq!(
                    stream(tokenizer.decode_stream(skip), &ids),
                    text,
                    "{folder} {seed}"
                );
            }
        }
    }
}

#[test]
fn a_stream_of_fallback_bytes_equals_their_text() {
    let tokenizer = build(&sentencepiece()).unwrap();
    for seed in 0..200 {
        let ids: Vec<TokenId> = common::values(seed + 1, 40)
            .iter()
            .map(|v| ((v + 1.0) * 132.0) as TokenId)
            .collect();
        for skip in [false, true] {
            assert_eq!(
                stream(tokenizer.decode_stream(skip), &ids),
                tokenizer.decode(&ids, skip).unwrap(),
                "{ids:?}"
            );
        }
    }
}

/// A tokenizer in the manner of Llama 2: `▁` for blanks, bytes as a fallback, the leading blank stripped.
fn sentencepiece() -> Value {
    let mut vocab = serde_json::Map::new();
    for token in ["<unk>", "<s>", "</s>", "▁", "▁how", "▁long", "s", "!"] {
        vocab.insert(token.to_owned(), json!(vocab.len()));
    }
    for byte in 0..=255 {
        vocab.insert(format!("<0x{byte:02X}>"), json!(vocab.len()));
    }
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false, "special": true})
    };
    json!({
        "version": "1.0", "truncation": {"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": null, "pre_tokenizer": null, "post_processor": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "byte_fallback": true, "fuse_unk": true, "vocab": vocab, "merges": [],
            "ignore_merges": true, "dropout": null, "continuing_subword_prefix": null, "end_of_word_suffix": null},
    })
}

fn build(json: &Value) -> skimstone::Result<Tokenizer> {
    Tokenizer::from_bytes(json.to_string().as_bytes(), 264)
}

#[test]
fn bytes_wait_for_their_character() {
    let tokenizer = build(&sentencepiece()).unwrap();
    let byte = |b: u8| tokenizer.token_to_id(&format!("<0x{b:02X}>")).unwrap();
    let mut stream = tokenizer.decode_stream(true);
    assert_eq!(stream.push(1).unwrap(), None);
    assert_eq!(
        stream.push(4).unwrap().as_deref(),
        Some("how"),
        "the leading blank is stripped"
    );
    assert_eq!(
        stream.push(5).unwrap().as_deref(),
        Some(" long"),
        "this one is not"
    );
    for b in "😴".bytes() {
        assert_eq!(stream.push(byte(b)).unwrap(), None);
    }
    assert_eq!(
        stream.push(6).unwrap().as_deref(),
        Some("😴s"),
        "the run of bytes has ended"
    );
    assert_eq!(stream.push(byte(0xf0)).unwrap(), None);
    assert_eq!(
        stream.finish().unwrap().as_deref(),
        Some("\u{fffd}"),
        "what never became a character"
    );
    assert_eq!(
        stream.push(4).unwrap().as_deref(),
        Some("how"),
        "the stream is as new"
    );
}

#[test]
fn a_prompt_is_never_cut_in_silence() {
    let tokenizer = build(&sentencepiece()).unwrap();
    assert_eq!(
        tokenizer.encode("sssss!", false).unwrap().len(),
        7,
        "the file asks for truncation to 2"
    );
    assert_eq!(tokenizer.token_to_id("</s>"), Some(2));
    assert_eq!(tokenizer.id_to_token(2).as_deref(), Some("</s>"));
    assert_eq!(tokenizer.id_to_token(9999), None);
}

#[test]
fn an_id_that_the_model_lacks_is_named() {
    let error = Tokenizer::from_bytes(sentencepiece().to_string().as_bytes(), 200).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tokenizer);
    assert!(
        error
            .to_string()
            .contains("token `<0xFF>` has id 263, the model's vocabulary has 200"),
        "{error}"
    );
}

#[test]
fn malformed_files_are_errors() {
    let file = sentencepiece().to_string();
    for cut in (0..file.len())
        .step_by(97)
        .filter(|&cut| file.is_char_boundary(cut))
    {
        assert_eq!(
            Tokenizer::from_bytes(&file.as_bytes()[..cut], 264)
                .unwrap_err()
                .kind(),
            ErrorKind::Tokenizer
        );
    }
    for json in [
        "",
        "[]",
        "null",
        "{}",
        r#"{"model":{"type":"BPE","vocab":{"a":0},"merges":["a b"]}}"#,
    ] {
        assert_eq!(
            Tokenizer::from_bytes(json.as_bytes(), 264)
                .unwrap_err()
                .kind(),
            ErrorKind::Tokenizer,
            "{json}"
        );
    }
}

/// Parts of a `tokenizer.json` that a crafted file may replace.
const PARTS: [&str; 12] = [
    "/normalizer",
    "/normalizer/normalizers/0",
    "/decoder",
    "/decoder/decoders/3/start",
    "/decoder/decoders/0/pattern",
    "/model/type",
    "/model/unk_token",
    "/model/vocab/<unk>",
    "/model/merges",
    "/added_tokens/0/id",
    "/added_tokens/0/content",
    "/pre_tokenizer",
];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn crafted_files_never_panic(part in prop::sample::select(&PARTS[..]), value in prop::sample::select(vec![
        json!(null), json!(0), json!(-1), json!(4294967295u32), json!("x"), json!(""), json!([]), json!([["s", "!"]]), json!({}),
        json!({"type": "ByteLevel"}), json!({"type": "Unigram", "vocab": [], "unk_id": 3}), json!({"Regex": "(a+)+$"}),
        json!({"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated"}),
    ]), text in ".{0,24}") {
        let mut file = sentencepiece();
        *file.pointer_mut(part).unwrap() = value;
        if let Ok(tokenizer) = build(&file) {
            let ids = tokenizer.encode(&text, true).unwrap_or_default();
            let _ = tokenizer.decode(&ids, false);
            let _ = tokenizer.decode(&[0, 7, 263, 9999], true);
        }
    }
}

/// A bundle with this tokenizer and weights that are all zero.
fn bundle_of(json: &[u8]) -> Bundle {
    let mut spec = BundleSpec::new(ModelConfig {
        vocab_size: 200_000,
        ..tiny::config(ModelType::Llama)
    });
    spec.tokenizer_json = Some(json.to_vec());
    let tensors = TensorDecl::for_model(&spec.config, Format::Q4);
    let mut writer = BundleWriter::new(Cursor::new(Vec::new()), spec, &tensors).unwrap();
    for tensor in &tensors {
        writer.write_rows(&tensor.name, |_, _| Ok(())).unwrap();
    }
    Bundle::from_bytes(writer.finish().unwrap().into_inner()).unwrap()
}

#[test]
fn a_bundle_s_packed_vocabulary_gives_the_stored_vectors() {
    for (folder, name) in FAMILIES {
        let Some(path) = common::data(&format!("tokenizers/{folder}/tokenizer.json")) else {
            return;
        };
        let json = std::fs::read(path).unwrap();
        let bundle = bundle_of(&json);
        assert!(
            bundle
                .tensors()
                .any(|tensor| tensor.name() == "tokenizer.bpe"),
            "{folder}"
        );
        assert_eq!(bundle.tokenizer_json(), Some(&json[..]));
        let packed = bundle.tokenizer().unwrap().expect("it has one");
        let whole = Tokenizer::from_bytes(&json, 200_000).unwrap();
        for (text, ids) in golden(name) {
            assert_eq!(packed.encode(&text, false).unwrap(), ids, "{name}: {text}");
            assert_eq!(
                packed.decode(&ids, false).unwrap(),
                whole.decode(&ids, false).unwrap()
            );
        }
    }
}
