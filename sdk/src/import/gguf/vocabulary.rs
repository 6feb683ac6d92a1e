//! The tokens of a GGUF file, and what is special about them.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value, json};

use super::config::token;
use super::value::{Metadata, required};
use crate::config::TokenId;
use crate::error::{Error, ErrorKind, Result};

/// Tokens by which chats of the supported families end a turn. Their files often name only one of them as the end token, but
/// models generate the others, too; llama.cpp stops at them by name, and so does an import.
const END_TOKENS: [&str; 7] = [
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|end|>",
    "<｜end▁of▁sentence｜>",
];

/// What a token is, by its number in `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenType {
    Normal,
    /// Stands for what the vocabulary cannot express.
    Unknown,
    /// Never the result of plain text, and not shown.
    Control,
    /// Found in text before anything is merged, and shown.
    UserDefined,
    /// A filler row of the embedding.
    Unused,
    /// One byte, `<0x0A>`.
    Byte,
}

/// All tokens by id.
pub(super) struct Vocabulary<'a> {
    pub(super) tokens: Vec<&'a str>,
    pub(super) types: Vec<TokenType>,
}

impl<'a> Vocabulary<'a> {
    pub(super) fn read(metadata: &Metadata<'a>) -> Result<Vocabulary<'a>> {
        let key = "tokenizer.ggml.tokens";
        let tokens = required(key, metadata.strings(key)?)?;
        let key = "tokenizer.ggml.token_type";
        let types = match metadata.integers(key)? {
            None => vec![TokenType::Normal; tokens.len()],
            Some(numbers) => numbers
                .into_iter()
                .enumerate()
                .map(|(id, number)| token_type(id, number))
                .collect::<Result<Vec<_>>>()
                .map_err(|error| error.at(format_args!("key `{key}`")))?,
        };
        same_length(key, tokens.len(), types.len())?;
        let vocabulary = Vocabulary { tokens, types };
        vocabulary.refuse_twins()?;
        Ok(vocabulary)
    }

    fn refuse_twins(&self) -> Result<()> {
        let mut ids = HashMap::new();
        for (id, token) in self.used() {
            if let Some(first) = ids.insert(token, id) {
                let message = format!("tokens {first} and {id} are both {token:?}");
                return Err(Error::new(ErrorKind::Tokenizer, message).at("tokenizer.ggml.tokens"));
            }
        }
        Ok(())
    }

    /// Ids and texts of all tokens but fillers.
    pub(super) fn used(&self) -> impl Iterator<Item = (usize, &'a str)> {
        let typed = self.tokens.iter().zip(&self.types).enumerate();
        typed
            .filter(|(_, (_, kind))| **kind != TokenType::Unused)
            .map(|(id, (token, _))| (id, *token))
    }

    pub(super) fn text(&self, id: TokenId) -> Option<&'a str> {
        self.tokens.get(id as usize).copied()
    }

    /// `vocab` of a `tokenizer.json`.
    pub(super) fn vocab_json(&self) -> Value {
        let ids: Map<String, Value> = self
            .used()
            .map(|(id, token)| (token.to_owned(), id.into()))
            .collect();
        Value::Object(ids)
    }

    /// `added_tokens` of a `tokenizer.json`: what is found in text before anything is merged. They stand in the vocabulary, too,
    /// which is what gives each its id.
    pub(super) fn added_json(&self) -> Value {
        let added = self.used().filter_map(|(id, token)| {
            let special = match self.types[id] {
                TokenType::Control | TokenType::Unknown => true,
                TokenType::UserDefined => false,
                TokenType::Normal | TokenType::Unused | TokenType::Byte => return None,
            };
            Some(json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": special,
            }))
        });
        added.collect()
    }

    /// The tokens that end a text besides the end token itself.
    pub(super) fn end_tokens(&self, metadata: &Metadata<'_>) -> Result<Vec<TokenId>> {
        let mut ids = Vec::new();
        for key in ["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"] {
            ids.extend(token(metadata, key)?);
        }
        let special = |id: usize| self.types[id] != TokenType::Normal;
        let named = self
            .used()
            .filter(|(id, token)| special(*id) && END_TOKENS.contains(token));
        ids.extend(named.filter_map(|(id, _)| TokenId::try_from(id).ok()));
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    /// The named tokens that chat templates print.
    pub(super) fn special_tokens(
        &self,
        metadata: &Metadata<'_>,
    ) -> Result<BTreeMap<String, String>> {
        let mut named = BTreeMap::new();
        for (name, key) in [
            ("bos_token", "tokenizer.ggml.bos_token_id"),
            ("eos_token", "tokenizer.ggml.eos_token_id"),
            ("unk_token", "tokenizer.ggml.unknown_token_id"),
            ("pad_token", "tokenizer.ggml.padding_token_id"),
        ] {
            if let Some(text) = token(metadata, key)?.and_then(|id| self.text(id)) {
                named.insert(name.to_owned(), text.to_owned());
            }
        }
        Ok(named)
    }

    /// `post_processor` of a `tokenizer.json`: the tokens around every text.
    ///
    /// `add_bos` says what holds where the file does not.
    pub(super) fn around_json(&self, metadata: &Metadata<'_>, add_bos: bool) -> Result<Value> {
        let ends = [
            (
                "tokenizer.ggml.add_bos_token",
                add_bos,
                "tokenizer.ggml.bos_token_id",
            ),
            (
                "tokenizer.ggml.add_eos_token",
                false,
                "tokenizer.ggml.eos_token_id",
            ),
        ];
        let mut around = [None, None];
        for (slot, (add_key, default, id_key)) in around.iter_mut().zip(ends) {
            if metadata.bool(add_key)?.unwrap_or(default) {
                let id = required(id_key, token(metadata, id_key)?)
                    .map_err(|error| error.with_hint(format!("`{add_key}` asks for it")))?;
                let text = self.text(id).ok_or_else(|| {
                    let message = format!("token {id} is not one of {}", self.tokens.len());
                    Error::new(ErrorKind::Tokenizer, message).at(format_args!("key `{id_key}`"))
                })?;
                *slot = Some((id, text));
            }
        }
        if around == [None, None] {
            return Ok(Value::Null);
        }
        let piece = |slot: &Option<(TokenId, &str)>, kind: u32| {
            let token =
                slot.map(|(_, text)| json!({"SpecialToken": {"id": text, "type_id": kind}}));
            token.into_iter()
        };
        let sequence = |name: &str, kind: u32| {
            let text = json!({"Sequence": {"id": name, "type_id": kind}});
            piece(&around[0], kind)
                .chain([text])
                .chain(piece(&around[1], kind))
                .collect::<Vec<Value>>()
        };
        let named: Map<String, Value> = around
            .iter()
            .flatten()
            .map(|(id, text)| {
                let token = json!({"id": text, "ids": [id], "tokens": [text]});
                ((*text).to_owned(), token)
            })
            .collect();
        let pair = [sequence("A", 0), sequence("B", 1)].concat();
        Ok(json!({
            "type": "TemplateProcessing",
            "single": sequence("A", 0),
            "pair": pair,
            "special_tokens": named,
        }))
    }
}

/// Checks that a list beside the tokens has as many elements.
pub(super) fn same_length(key: &str, tokens: usize, len: usize) -> Result<()> {
    if tokens == len {
        return Ok(());
    }
    let message = format!("{len} elements for {tokens} tokens");
    Err(Error::new(ErrorKind::Tokenizer, message).at(format_args!("key `{key}`")))
}

fn token_type(id: usize, number: i64) -> Result<TokenType> {
    Ok(match number {
        // 0 is undefined in the specification, and treated as normal by llama.cpp.
        0 | 1 => TokenType::Normal,
        2 => TokenType::Unknown,
        3 => TokenType::Control,
        4 => TokenType::UserDefined,
        5 => TokenType::Unused,
        6 => TokenType::Byte,
        _ => {
            let message = format!("token {id} is of type {number}, which is not one of 0 to 6");
            return Err(Error::new(ErrorKind::Tokenizer, message));
        }
    })
}
