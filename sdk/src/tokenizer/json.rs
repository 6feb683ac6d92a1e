//! Reading `tokenizer.json`: the parts that the `tokenizers` crate builds, and the vocabulary of a byte-pair model without a tree of JSON
//! values, which would take longer than everything else at the start of a large model.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use tokenizers::models::ModelWrapper;
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    TokenizerImpl,
};

use super::byte_pairs::{BytePairs, Settings};
use super::model::Model;
use super::table::{self, Table, TableBytes};
use crate::config::TokenId;

/// The version of `tokenizer.json` that there is.
const VERSION: &str = "1.0";

const MODEL: &str = "model";

/// A tokenizer of this crate: the parts of the `tokenizers` crate around our [`Model`].
pub(super) type Inner = TokenizerImpl<
    Model,
    NormalizerWrapper,
    PreTokenizerWrapper,
    PostProcessorWrapper,
    DecoderWrapper,
>;

/// What stands around the model. Truncation and padding are not wanted, so they are not read.
#[derive(Deserialize)]
struct Parts {
    version: Option<String>,
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    normalizer: Option<NormalizerWrapper>,
    pre_tokenizer: Option<PreTokenizerWrapper>,
    post_processor: Option<PostProcessorWrapper>,
    decoder: Option<DecoderWrapper>,
}

/// Builds a tokenizer from a whole `tokenizer.json`.
pub(super) fn read(json: &[u8]) -> tokenizers::Result<Inner> {
    if let Some(document) = read_byte_pairs(json)
        && let Some(table) = table::pack(&document.model.vocab.0, &document.model.merges, &[], 0)
        && let Some(table) = Table::open(TableBytes::Owned(table))
    {
        let model = BytePairs::new(table, document.model.settings());
        return build(document.rest, Model::BytePairs(model));
    }
    let document: Document<ModelWrapper> = serde_json::from_slice(json)?;
    build(document.rest, Model::Other(document.model))
}

/// Builds a tokenizer from a table and the rest of `tokenizer.json` that lies in it.
pub(super) fn read_table(table: Table) -> tokenizers::Result<Inner> {
    let document: Document<Settings> = serde_json::from_slice(table.rest())?;
    let model = BytePairs::new(table, document.model);
    build(document.rest, Model::BytePairs(model))
}

fn build(rest: Map<String, Value>, model: Model) -> tokenizers::Result<Inner> {
    let parts: Parts = serde_json::from_value(Value::Object(rest))?;
    if let Some(version) = parts.version.filter(|version| version != VERSION) {
        return Err(format!("version `{version}` is not known, only `{VERSION}`").into());
    }
    let mut inner = Inner::new(model);
    inner.with_normalizer(parts.normalizer);
    inner.with_pre_tokenizer(parts.pre_tokenizer);
    inner.with_post_processor(parts.post_processor);
    inner.with_decoder(parts.decoder);
    inner.add_tokens(&parts.added_tokens);
    Ok(inner)
}

/// The table of a `tokenizer.json` as a bundle stores it; `None` if its model is not one that we run ourselves, or is malformed.
pub(crate) fn pack(json: &[u8]) -> Option<Vec<u8>> {
    let Document { mut rest, model } = read_byte_pairs(json)?;
    for unused in ["truncation", "padding"] {
        rest.remove(unused);
    }
    rest.insert(
        MODEL.to_owned(),
        serde_json::to_value(model.settings()).ok()?,
    );
    let rest = serde_json::to_vec(&rest).ok()?;
    table::pack(&model.vocab.0, &model.merges, &rest, crc32fast::hash(json))
}

/// A tokenizer of a byte-pair model, if it is one and we run all that it asks for.
fn read_byte_pairs(json: &[u8]) -> Option<Document<BytePairModel<'_>>> {
    let document: Document<BytePairModel<'_>> = serde_json::from_slice(json).ok()?;
    let model = &document.model;
    let is_set = |affix: &Option<String>| affix.as_ref().is_some_and(|affix| !affix.is_empty());
    let is_other = model.kind.as_ref().is_some_and(|kind| kind != "BPE")
        || model.dropout.is_some_and(|dropout| dropout != 0.0)
        || is_set(&model.continuing_subword_prefix)
        || is_set(&model.end_of_word_suffix);
    (!is_other).then_some(document)
}

/// `tokenizer.json`, read in one pass: the model as `M`, which may borrow from the file, and all else, which is small.
struct Document<M> {
    rest: Map<String, Value>,
    model: M,
}

impl<'de, M: Deserialize<'de>> Deserialize<'de> for Document<M> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys<M>(PhantomData<M>);
        impl<'de, M: Deserialize<'de>> Visitor<'de> for Keys<M> {
            type Value = Document<M>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a tokenizer")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let (mut rest, mut model) = (Map::new(), None);
                while let Some(key) = map.next_key::<String>()? {
                    if key == MODEL {
                        model = Some(map.next_value()?);
                    } else {
                        rest.insert(key, map.next_value()?);
                    }
                }
                let model = model.ok_or_else(|| de::Error::missing_field(MODEL))?;
                Ok(Document { rest, model })
            }
        }
        deserializer.deserialize_map(Keys(PhantomData))
    }
}

#[derive(Deserialize)]
struct BytePairModel<'a> {
    #[serde(rename = "type")]
    kind: Option<String>,
    dropout: Option<f32>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    unk_token: Option<String>,
    fuse_unk: Option<bool>,
    byte_fallback: Option<bool>,
    ignore_merges: Option<bool>,
    #[serde(borrow)]
    vocab: Vocabulary<'a>,
    #[serde(borrow)]
    merges: Vec<Merge<'a>>,
}

impl BytePairModel<'_> {
    fn settings(&self) -> Settings {
        Settings {
            unk_token: self.unk_token.clone(),
            fuse_unk: self.fuse_unk.unwrap_or_default(),
            byte_fallback: self.byte_fallback.unwrap_or_default(),
            ignore_merges: self.ignore_merges.unwrap_or_default(),
        }
    }
}

/// A string of the file, copied only if it is written with escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// The tokens in the order of the file.
struct Vocabulary<'a>(Vec<(Cow<'a, str>, TokenId)>);

impl<'de: 'a, 'a> Deserialize<'de> for Vocabulary<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Tokens<'a>(PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for Tokens<'a> {
            type Value = Vocabulary<'a>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("tokens with their ids")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut tokens = Vec::new();
                while let Some((Text(token), id)) = map.next_entry()? {
                    tokens.push((token, id));
                }
                Ok(Vocabulary(tokens))
            }
        }
        deserializer.deserialize_map(Tokens(PhantomData))
    }
}

/// The left and the right token of a merge: `["a", "b"]`, or in older files `"a b"`.
pub(super) struct Merge<'a>(pub(super) Cow<'a, str>, pub(super) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Merge<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pair<'a>(PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for Pair<'a> {
            type Value = Merge<'a>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("two tokens")
            }

            fn visit_borrowed_str<E: de::Error>(self, line: &'de str) -> Result<Merge<'a>, E> {
                let (left, right) = halves(line).ok_or_else(|| E::custom("not two tokens"))?;
                Ok(Merge(left.into(), right.into()))
            }

            fn visit_str<E: de::Error>(self, line: &str) -> Result<Merge<'a>, E> {
                let (left, right) = halves(line).ok_or_else(|| E::custom("not two tokens"))?;
                Ok(Merge(left.to_owned().into(), right.to_owned().into()))
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Merge<'a>, S::Error> {
                let mut text = || {
                    seq.next_element()?
                        .ok_or_else(|| de::Error::custom("too short"))
                };
                let (Text(left), Text(right)) = (text()?, text()?);
                match seq.next_element::<IgnoredAny>()? {
                    None => Ok(Merge(left, right)),
                    Some(_) => Err(de::Error::custom("more than two tokens")),
                }
            }
        }
        deserializer.deserialize_any(Pair(PhantomData))
    }
}

/// Cuts `"a b"`, which has exactly one blank.
fn halves(line: &str) -> Option<(&str, &str)> {
    line.split_once(' ')
        .filter(|(_, right)| !right.contains(' '))
}
