//! Tokenizers out of metadata: stored vectors of real ones, SentencePiece against its own definition, and what is refused.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};

use serde_json::{Value, json};
use skimstone::import::ImportOptions;
use skimstone::{ChatOptions, ErrorKind, Message, TokenId, Tokenizer};

use crate::common::{config_json, data, values};
use crate::run;
use crate::writer::{F16, File, Meta, file};

/// The smallest model with this vocabulary, without a tokenizer.
fn model(vocab_size: usize) -> File {
    let mut config = config_json("qwen2");
    for key in ["hidden_size", "head_dim", "intermediate_size"] {
        config[key] = json!(2);
    }
    config["vocab_size"] = json!(vocab_size);
    file(&config, F16)
}

fn tokenizer(file: &File) -> skimstone::Result<Tokenizer> {
    let bundle = run(&file.bytes(), &ImportOptions::default())?;
    Ok(bundle.tokenizer()?.expect("one was asked for"))
}

/// Puts a `tokenizer.json` of byte-level BPE into a file, as llama.cpp's converter does.
fn byte_level(json: &Value, pre: &str) -> File {
    let vocab = json["model"]["vocab"].as_object().unwrap();
    let mut tokens: HashMap<u64, (&str, i32)> = HashMap::new();
    for (token, id) in vocab {
        tokens.insert(id.as_u64().unwrap(), (token, 1));
    }
    for added in json["added_tokens"].as_array().unwrap() {
        let kind = if added["special"] == true { 3 } else { 4 };
        let content = added["content"].as_str().unwrap();
        tokens.insert(added["id"].as_u64().unwrap(), (content, kind));
    }
    let merge = |merge: &Value| match merge {
        Value::Array(pair) => format!(
            "{} {}",
            pair[0].as_str().unwrap(),
            pair[1].as_str().unwrap()
        ),
        merge => merge.as_str().unwrap().to_owned(),
    };
    let merges = json["model"]["merges"]
        .as_array()
        .unwrap()
        .iter()
        .map(merge);
    // Two more rows than tokens, which the converter fills up.
    let size = tokens.len() as u64 + 2;
    let padding: Vec<String> = (0..size).map(|id| format!("[PAD{id}]")).collect();
    let token = |id: u64| {
        tokens
            .get(&id)
            .copied()
            .unwrap_or((&padding[id as usize], 5))
    };
    let mut file = model(size as usize);
    file.set("tokenizer.ggml.model", Meta::str("gpt2"));
    file.set("tokenizer.ggml.pre", Meta::str(pre));
    let texts = (0..size).map(|id| token(id).0.to_owned()).collect();
    file.set("tokenizer.ggml.tokens", Meta::Strs(texts));
    let types = (0..size).map(|id| token(id).1).collect();
    file.set("tokenizer.ggml.token_type", Meta::I32s(types));
    file.set("tokenizer.ggml.merges", Meta::Strs(merges.collect()));
    file
}

fn golden(name: &str) -> Vec<(String, Vec<TokenId>)> {
    let path = data(&format!("tokenizers/golden_{name}.jsonl.gz")).expect("it lies there, too");
    let file = flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap());
    let row = |line: std::io::Result<String>| {
        let row: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let ids = serde_json::from_value(row["ids"].clone()).unwrap();
        (row["text"].as_str().unwrap().to_owned(), ids)
    };
    BufReader::new(file).lines().map(row).collect()
}

#[test]
fn stored_vectors() {
    for (folder, name, pre) in [
        ("qwen2.5", "qwen", "qwen2"),
        ("gpt2", "gpt2", "gpt-2"),
        ("smollm", "smollm", "smollm"),
    ] {
        let Some(path) = data(&format!("tokenizers/{folder}/tokenizer.json")) else {
            return;
        };
        let bytes = std::fs::read(path).unwrap();
        let json: Value = serde_json::from_slice(&bytes).unwrap();
        let made = tokenizer(&byte_level(&json, pre)).unwrap();
        let original = Tokenizer::from_bytes(&bytes, 200_000).unwrap();
        assert_eq!(made.vocab_size(), original.vocab_size());
        for (text, ids) in golden(name) {
            assert_eq!(made.encode(&text, true).unwrap(), ids, "{name}: {text}");
            assert_eq!(
                made.decode(&ids, false).unwrap(),
                original.decode(&ids, false).unwrap()
            );
        }
        // Special tokens in text, blanks, digits and what is not composed.
        for text in [
            "<|im_start|>user\n 12345 don't\n\n  x\u{301}e\u{301}<|im_end|>\n",
            "a<|endoftext|> b\t\t c\r\n",
        ] {
            let ids = made.encode(text, false).unwrap();
            assert_eq!(ids, original.encode(text, false).unwrap(), "{name}: {text}");
            for skip in [false, true] {
                assert_eq!(
                    made.decode(&ids, skip).unwrap(),
                    original.decode(&ids, skip).unwrap()
                );
            }
        }
    }
}

/// A byte-level vocabulary of letters, digits and a few merges.
fn tiny() -> Value {
    let tokens = [
        "1", "2", "3", "4", "'", "S", "s", "a", "Ġ", "12", "23", "123", "'S", "Ġa", "sa", "aas",
        "aa",
    ];
    let vocab: serde_json::Map<String, Value> = tokens
        .iter()
        .enumerate()
        .map(|(id, token)| ((*token).to_owned(), json!(id)))
        .collect();
    json!({
        "added_tokens": [{"id": 17, "content": "<|eot_id|>", "special": true}, {"id": 18, "content": "<think>", "special": false}],
        "model": {"vocab": vocab, "merges": ["1 2", "2 3", "12 3", "' S", "Ġ a", "a a"]},
    })
}

#[test]
fn words_are_cut_by_the_named_rule() {
    struct Case(&'static str, &'static str, &'static [TokenId]);
    let cases = [
        // Up to three digits together; whole words that are tokens need no merges.
        Case("llama-bpe", "1234", &[11, 3]),
        Case("llama-bpe", "aas", &[15]),
        Case("llama-bpe", "a'S a", &[7, 12, 13]),
        Case("qwen2", "1234", &[0, 1, 2, 3]),
        Case("qwen2", "aas", &[16, 6]),
        Case("smollm", "1234", &[0, 1, 2, 3]),
        Case("gpt-2", "1234", &[11, 3]),
        // GPT-2 knows contractions in lower case only.
        Case("gpt-2", "a's", &[7, 4, 6]),
        Case("gpt-2", "a<think>a<|eot_id|>", &[7, 18, 7, 17]),
    ];
    for Case(pre, text, ids) in cases {
        let mut file = byte_level(&tiny(), pre);
        file.set("tokenizer.ggml.add_bos_token", Meta::Bool(false));
        let tokenizer = tokenizer(&file).unwrap();
        assert_eq!(tokenizer.encode(text, true).unwrap(), ids, "{pre}: {text}");
        assert_eq!(tokenizer.decode(ids, false).unwrap(), text);
    }
}

#[test]
fn begin_and_end_tokens_are_added_as_the_file_says() {
    struct Case(&'static str, Option<bool>, Option<bool>, &'static [TokenId]);
    let cases = [
        Case("llama-bpe", None, None, &[17, 7]),
        Case("llama-bpe", Some(false), None, &[7]),
        Case("qwen2", None, None, &[7]),
        Case("qwen2", Some(true), Some(true), &[17, 7, 18]),
    ];
    for Case(pre, bos, eos, ids) in cases {
        let mut file = byte_level(&tiny(), pre);
        file.set("tokenizer.ggml.bos_token_id", Meta::U32(17));
        file.set("tokenizer.ggml.eos_token_id", Meta::U32(18));
        for (key, value) in [("bos", bos), ("eos", eos)] {
            if let Some(value) = value {
                file.set(
                    &format!("tokenizer.ggml.add_{key}_token"),
                    Meta::Bool(value),
                );
            }
        }
        let tokenizer = tokenizer(&file).unwrap();
        assert_eq!(tokenizer.encode("a", true).unwrap(), ids, "{pre}");
        assert_eq!(tokenizer.encode("a", false).unwrap(), [7]);
    }
}

#[test]
fn template_special_and_end_tokens_come_along() {
    let mut file = byte_level(&tiny(), "qwen2");
    file.set("tokenizer.ggml.bos_token_id", Meta::U32(3));
    file.set("tokenizer.ggml.eos_token_id", Meta::U32(2));
    file.set("tokenizer.ggml.eot_token_id", Meta::U32(5));
    let template = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}";
    file.set("tokenizer.chat_template", Meta::str(template));
    let bundle = run(&file.bytes(), &ImportOptions::default()).unwrap();
    // The end token, the end of turn, and `<|eot_id|>` by its name.
    assert_eq!(bundle.reasoning().stop, [2, 5, 17]);
    let chat = bundle.chat().unwrap().unwrap();
    let prompt = chat
        .render(&[Message::user("sleep")], &ChatOptions::default())
        .unwrap();
    assert_eq!(prompt, "4sleep3");

    let bundle = run(&file.bytes(), &ImportOptions::default().tokenizer(false)).unwrap();
    assert!(bundle.tokenizer().unwrap().is_none() && bundle.chat_template().is_none());
    assert_eq!(bundle.reasoning().stop, [2]);
}

/// Gives a file a SentencePiece tokenizer: `<unk>`, `<s>`, `</s>`, then `pieces` with their scores, then `bytes`.
pub(crate) fn sentence_piece(file: &mut File, pieces: &[(&str, f32)], bytes: &[u8]) {
    let special = ["<unk>", "<s>", "</s>"].map(|token| (token.to_owned(), 0.0, 3));
    let normal = pieces
        .iter()
        .map(|&(piece, score)| (piece.to_owned(), score, 1));
    let bytes = bytes.iter().map(|byte| (format!("<0x{byte:02X}>"), 0.0, 6));
    let mut all: Vec<(String, f32, i32)> = special.into_iter().chain(normal).chain(bytes).collect();
    all[0].2 = 2;
    file.set("tokenizer.ggml.model", Meta::str("llama"));
    let tokens = all.iter().map(|token| token.0.clone()).collect();
    file.set("tokenizer.ggml.tokens", Meta::Strs(tokens));
    let scores = all.iter().map(|token| token.1).collect();
    file.set("tokenizer.ggml.scores", Meta::F32s(scores));
    let types = all.iter().map(|token| token.2).collect();
    file.set("tokenizer.ggml.token_type", Meta::I32s(types));
    file.set("tokenizer.ggml.unknown_token_id", Meta::U32(0));
}

/// SentencePiece by its definition: join the neighbours whose union has the best score, leftmost first, until none is a token.
fn by_definition(text: &str, pieces: &[(&str, f32)]) -> Vec<String> {
    let text = format!("▁{}", text.replace(' ', "▁"));
    let mut parts: Vec<String> = text.chars().map(String::from).collect();
    loop {
        let mut best: Option<(f32, usize)> = None;
        for at in 1..parts.len() {
            let joined = parts[at - 1].clone() + &parts[at];
            let score = pieces
                .iter()
                .find(|(piece, _)| *piece == joined)
                .map(|p| p.1);
            if let Some(score) = score
                && best.is_none_or(|(best, _)| score > best)
            {
                best = Some((score, at));
            }
        }
        let Some((_, at)) = best else { return parts };
        let right = parts.remove(at);
        parts[at - 1] += &right;
    }
}

#[test]
fn sentence_piece_joins_the_best_score_first() {
    let pieces = [
        ("▁a", -1.0),
        ("ab", -2.0),
        ("bc", -3.0),
        ("abc", -4.0),
        ("▁ab", -5.0),
        ("cc", -6.0),
        ("▁abc", -7.0),
        ("aab", -8.0),
        ("ca", -9.0),
        ("bca", -10.0),
        ("▁▁", -11.0),
        ("▁", -20.0),
        ("a", -21.0),
        ("b", -22.0),
        ("c", -23.0),
    ];
    let all_bytes: Vec<u8> = (0..=255).collect();
    let mut file = model(3 + pieces.len() + 256);
    sentence_piece(&mut file, &pieces, &all_bytes);
    let tokenizer = tokenizer(&file).unwrap();
    let letters = ['a', 'b', 'c', ' '];
    for seed in 0..300 {
        let random = values(seed + 1, 1 + seed as usize % 17);
        let text: String = random
            .iter()
            .map(|v| letters[((v + 1.0) * 2.0) as usize % 4])
            .collect();
        let ids = tokenizer.encode(&text, false).unwrap();
        let parts: Vec<String> = ids
            .iter()
            .map(|&id| tokenizer.id_to_token(id).unwrap())
            .collect();
        assert_eq!(parts, by_definition(&text, &pieces), "{text:?}");
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
    }
    // Unknown characters are bytes, the begin token is added, special tokens are found and get a blank of their own after them.
    let text = "a</s>é";
    let ids = tokenizer.encode(text, true).unwrap();
    let parts: Vec<String> = ids
        .iter()
        .map(|&id| tokenizer.id_to_token(id).unwrap())
        .collect();
    assert_eq!(parts, ["<s>", "▁a", "</s>", "▁", "<0xC3>", "<0xA9>"]);
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "a é");

    file.set("tokenizer.ggml.add_space_prefix", Meta::Bool(false));
    file.set("tokenizer.ggml.add_bos_token", Meta::Bool(false));
    let tokenizer = self::tokenizer(&file).unwrap();
    let ids = tokenizer.encode("ab a", true).unwrap();
    assert_eq!(tokenizer.id_to_token(ids[0]).as_deref(), Some("ab"));
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "ab a");
}

#[test]
fn tokenizers_that_do_not_fit_are_named() {
    type Change = fn(&mut File);
    struct Case(Change, &'static str);
    let cases = [
        Case(
            |f| f.remove("tokenizer.ggml.model"),
            "the file has no tokenizer; import with --no-tokenizer",
        ),
        Case(
            |f| f.set("tokenizer.ggml.model", Meta::str("t5")),
            "key `tokenizer.ggml.model`: tokenizer `t5` is not supported; supported: gpt2, llama; import with --no-tokenizer",
        ),
        Case(
            |f| f.set("tokenizer.ggml.pre", Meta::str("tekken")),
            "key `tokenizer.ggml.pre`: pre-tokenizer `tekken` is not supported; supported: qwen2, deepseek-r1-qwen, llama-bpe",
        ),
        Case(
            |f| f.remove("tokenizer.ggml.pre"),
            "key `tokenizer.ggml.pre`: the key is missing",
        ),
        Case(
            |f| f.remove("tokenizer.ggml.tokens"),
            "key `tokenizer.ggml.tokens`: the key is missing",
        ),
        Case(
            |f| f.set("tokenizer.ggml.token_type", Meta::I32s(vec![1])),
            "key `tokenizer.ggml.token_type`: 1 elements for 21 tokens",
        ),
        Case(
            |f| f.set("tokenizer.ggml.token_type", Meta::I32s(vec![9])),
            "key `tokenizer.ggml.token_type`: token 0 is of type 9, which is not one of 0 to 6",
        ),
        Case(
            |f| f.set("tokenizer.ggml.tokens", Meta::I32s(vec![9])),
            "key `tokenizer.ggml.tokens`: element 0: expected a UTF-8 string, found an integer",
        ),
        Case(
            |f| {
                f.set(
                    "tokenizer.ggml.tokens",
                    Meta::Strs(vec!["x".to_owned(); 21]),
                )
            },
            "tokenizer.ggml.tokens: tokens 0 and 1 are both \"x\"",
        ),
        Case(
            |f| f.set("tokenizer.ggml.merges", Meta::Strs(vec!["ab".to_owned()])),
            "key `tokenizer.ggml.merges`: element 0: \"ab\" is not two tokens with a blank between",
        ),
        Case(
            |f| f.set("tokenizer.ggml.merges", Meta::Strs(vec!["a b".to_owned()])),
            "tokenizer.json: ",
        ),
        Case(
            |f| f.set("tokenizer.ggml.add_bos_token", Meta::str("yes")),
            "key `tokenizer.ggml.add_bos_token`: expected a bool, found a string",
        ),
        Case(
            |f| {
                f.remove("tokenizer.ggml.bos_token_id");
                f.set("tokenizer.ggml.add_bos_token", Meta::Bool(true));
            },
            "key `tokenizer.ggml.bos_token_id`: the key is missing; `tokenizer.ggml.add_bos_token` asks for it",
        ),
        Case(
            |f| f.set("tokenizer.ggml.eot_token_id", Meta::U32(21)),
            "end token 21 is outside the vocabulary of 21",
        ),
        Case(
            |f| f.set("tokenizer.ggml.model", Meta::str("llama")),
            "key `tokenizer.ggml.scores`: the key is missing",
        ),
    ];
    for Case(change, message) in cases {
        let mut file = byte_level(&tiny(), "qwen2");
        change(&mut file);
        let error = tokenizer(&file).unwrap_err();
        assert!(
            [ErrorKind::Tokenizer, ErrorKind::Format].contains(&error.kind()),
            "{error:?}"
        );
        assert!(error.to_string().contains(message), "{error}");
    }
}
