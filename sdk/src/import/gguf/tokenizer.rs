//! `tokenizer.ggml.*` → a `tokenizer.json` for the `tokenizers` crate.
//!
//! **`gpt2`** is byte-level BPE: tokens and merges are in the file, the rule that cuts text into words only by its name
//! (`tokenizer.ggml.pre`). [`WORDS`] has the rules of the supported families, as their own `tokenizer.json` has them.
//!
//! **`llama`** is SentencePiece: neighbouring pieces are joined, best score first, as long as the result is a token; what is left
//! becomes bytes. As BPE, every way to cut a token into two tokens is a merge, and merges are ranked by the score of what they
//! make. That is what Hugging Face's converter does; where two tokens have the same score, the one with the lower id goes first.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::reader::shorten;
use super::value::{Metadata, required};
use super::vocabulary::{TokenType, Vocabulary, same_length};
use crate::error::{Error, ErrorKind, Result};

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const MERGES: &str = "tokenizer.ggml.merges";
const SCORES: &str = "tokenizer.ggml.scores";

/// SentencePiece's sign for a blank.
const BLANK: &str = "▁";

/// Longer pieces would make the search for merges quadratic. The longest of published vocabularies are runs of some 64 blanks.
const MAX_PIECE_BYTES: usize = 512;

/// How text is cut into words, by llama.cpp's name of the rule.
struct Words {
    names: &'static [&'static str],
    /// Text is composed (NFC) before it is cut.
    nfc: bool,
    cut: Cut,
    /// A word that is a token as a whole is not put together by merges.
    whole_words: bool,
    /// Whether a text begins with the begin token where the file does not say.
    add_bos: bool,
}

enum Cut {
    /// GPT-2's own rule, built into the crate.
    Gpt2,
    /// Every digit alone, the rest as GPT-2.
    DigitsThenGpt2,
    /// The matches of this expression.
    Regex(&'static str),
}

const WORDS: [Words; 5] = [
    Words {
        names: &["qwen2"],
        nfc: true,
        cut: Cut::Regex(QWEN2),
        whole_words: false,
        add_bos: false,
    },
    Words {
        names: &["deepseek-r1-qwen"],
        nfc: false,
        cut: Cut::Regex(QWEN2),
        whole_words: false,
        add_bos: false,
    },
    Words {
        names: &["llama-bpe", "llama-v3", "llama3"],
        nfc: false,
        cut: Cut::Regex(LLAMA3),
        whole_words: true,
        add_bos: true,
    },
    Words {
        names: &["smollm", "starcoder", "refact"],
        nfc: false,
        cut: Cut::DigitsThenGpt2,
        whole_words: false,
        add_bos: false,
    },
    Words {
        names: &["gpt-2"],
        nfc: false,
        cut: Cut::Gpt2,
        whole_words: false,
        add_bos: false,
    },
];

/// From Qwen2's `tokenizer.json`; digits stand alone.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// From Llama 3's `tokenizer.json`; up to three digits stand together.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The `tokenizer.json` that the metadata describe.
pub(super) fn tokenizer_json(
    metadata: &Metadata<'_>,
    vocabulary: &Vocabulary<'_>,
) -> Result<Value> {
    match required(MODEL, metadata.string(MODEL)?)? {
        "gpt2" => byte_level(metadata, vocabulary),
        "llama" => sentence_piece(metadata, vocabulary),
        other => {
            let message = format!(
                "tokenizer `{}` is not supported; supported: gpt2, llama",
                shorten(other)
            );
            Err(unsupported(MODEL, message))
        }
    }
}

fn unsupported(key: &str, message: String) -> Error {
    Error::new(ErrorKind::Tokenizer, message)
        .at(format_args!("key `{key}`"))
        .with_hint("import with --no-tokenizer a model that is used by token ids only")
}

fn byte_level(metadata: &Metadata<'_>, vocabulary: &Vocabulary<'_>) -> Result<Value> {
    let words = words(metadata.string(PRE)?)?;
    let merges = required(MERGES, metadata.strings(MERGES)?)?;
    let merges = merges.iter().enumerate().map(|(index, merge)| {
        merge.split_once(' ').ok_or_else(|| {
            let message =
                format!("element {index}: {merge:?} is not two tokens with a blank between");
            Error::new(ErrorKind::Tokenizer, message).at(format_args!("key `{MERGES}`"))
        })
    });
    let merges = merges.collect::<Result<Vec<(&str, &str)>>>()?;

    let bytes = |own_rule: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": own_rule});
    let sequence = |first: Value, own_rule: bool| json!({"type": "Sequence", "pretokenizers": [first, bytes(own_rule)]});
    let pre_tokenizer = match words.cut {
        Cut::Gpt2 => bytes(true),
        Cut::DigitsThenGpt2 => sequence(json!({"type": "Digits", "individual_digits": true}), true),
        Cut::Regex(regex) => sequence(
            json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false}),
            false,
        ),
    };
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": vocabulary.added_json(),
        "normalizer": if words.nfc { json!({"type": "NFC"}) } else { Value::Null },
        "pre_tokenizer": pre_tokenizer,
        "post_processor": vocabulary.around_json(metadata, words.add_bos)?,
        "decoder": bytes(true),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": words.whole_words, "vocab": vocabulary.vocab_json(), "merges": merges,
        },
    }))
}

/// The rule of that name.
fn words(name: Option<&str>) -> Result<&'static Words> {
    let known = || {
        let names: Vec<&str> = WORDS
            .iter()
            .flat_map(|words| words.names)
            .copied()
            .collect();
        names.join(", ")
    };
    let Some(name) = name else {
        // llama.cpp would guess; a wrong guess gives other ids for the same text, in silence.
        let message = format!("the key is missing; supported: {}", known());
        return Err(unsupported(PRE, message));
    };
    let words = WORDS.iter().find(|words| words.names.contains(&name));
    words.ok_or_else(|| {
        let message = format!(
            "pre-tokenizer `{}` is not supported; supported: {}",
            shorten(name),
            known()
        );
        unsupported(PRE, message)
    })
}

fn sentence_piece(metadata: &Metadata<'_>, vocabulary: &Vocabulary<'_>) -> Result<Value> {
    let scores = required(SCORES, metadata.floats(SCORES)?)?;
    same_length(SCORES, vocabulary.tokens.len(), scores.len())?;
    // As llama.cpp: a blank before every text and after every special token, unless the file says no.
    let add_blank = metadata
        .bool("tokenizer.ggml.add_space_prefix")?
        .unwrap_or(true);
    let blanks = json!({"type": "Replace", "pattern": {"String": " "}, "content": BLANK});
    let mut normalizers = vec![blanks];
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": BLANK}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if add_blank {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": BLANK}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let mut unknown = vocabulary
        .used()
        .filter(|(id, _)| vocabulary.types[*id] == TokenType::Unknown)
        .map(|(_, token)| token);
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": vocabulary.added_json(),
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": null,
        "post_processor": vocabulary.around_json(metadata, true)?,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": unknown.next(), "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocabulary.vocab_json(), "merges": merges_of(vocabulary, &scores)?,
        },
    }))
}

/// Every pair of tokens that is a token when joined, best score first.
fn merges_of<'a>(vocabulary: &Vocabulary<'a>, scores: &[f64]) -> Result<Vec<(&'a str, &'a str)>> {
    let pieces: HashMap<&str, usize> = vocabulary
        .used()
        .filter(|(id, _)| vocabulary.types[*id] == TokenType::Normal)
        .map(|(id, token)| (token, id))
        .collect();
    let mut merges = Vec::new();
    for (&token, &id) in &pieces {
        if token.len() > MAX_PIECE_BYTES {
            let message = format!(
                "token {id} has {} bytes, at most {MAX_PIECE_BYTES} are allowed",
                token.len()
            );
            return Err(Error::new(ErrorKind::Tokenizer, message).at("tokenizer.ggml.tokens"));
        }
        let cuts = token
            .char_indices()
            .skip(1)
            .map(|(at, _)| token.split_at(at));
        let whole =
            |(left, right): &(&str, &str)| pieces.contains_key(left) && pieces.contains_key(right);
        merges.extend(cuts.filter(whole).map(|pair| (scores[id], id, pair)));
    }
    // The map has no order of its own, so ties are broken down to the cut.
    merges.sort_by(|(score, id, pair), (other_score, other_id, other_pair)| {
        let by_score = (other_score + 0.0).total_cmp(&(score + 0.0));
        by_score
            .then(id.cmp(other_id))
            .then(pair.0.len().cmp(&other_pair.0.len()))
    });
    Ok(merges.into_iter().map(|(_, _, pair)| pair).collect())
}
