//! `Tokenizer`: text ↔ [`TokenId`]s, by the bundle's `tokenizer.json` and the `tokenizers` crate.
//!
//! The vocabulary of a byte-pair model is [read in place](table) instead of being built into hash tables: a bundle of such a model has
//! it packed beside `tokenizer.json`.

mod byte_pairs;
mod json;
mod model;
mod table;
#[cfg(test)]
mod tests;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::config::TokenId;
use crate::error::{Error, ErrorKind, Result};

pub(crate) use json::pack;
pub(crate) use table::TableBytes;

/// Whether a bundle's tokenizer can be used.
pub(crate) const BUILT_IN: bool = true;

/// What is missing and what to do, where a model must have a tokenizer and has none.
pub(crate) const MISSING: (&str, &str) = (
    "the bundle has no tokenizer",
    "give token ids, or import the model with its tokenizer",
);

/// Shown for bytes that are not (yet) a character.
const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

/// A bundle's tokenizer. Cloning it is cheap.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<json::Inner>,
    /// Rows of the model's embedding: every id is below.
    limit: usize,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Builds a tokenizer from the bytes of a `tokenizer.json`, for a model with `vocab_size` rows in its embedding.
    ///
    /// Truncation and padding that the file asks for are left out: a prompt is never cut in silence.
    ///
    /// # Errors
    /// [`ErrorKind::Tokenizer`] if the file is malformed or gives an id that the model does not have.
    pub fn from_bytes(json: &[u8], vocab_size: usize) -> Result<Tokenizer> {
        let tokenizer = Tokenizer::from_json(json, vocab_size)?;
        let added = tokenizer.inner.get_added_tokens_decoder().into_keys().max();
        let own = tokenizer.inner.get_model().id_limit().checked_sub(1);
        let highest = added.max(own.and_then(|id| TokenId::try_from(id).ok()));
        if let Some(id) = highest {
            tokenizer.check(id, || tokenizer.id_to_token(id).unwrap_or_default())?;
        }
        Ok(tokenizer)
    }

    /// As [`from_bytes`](Self::from_bytes), without looking for the highest id: one that the model does not have is an error of the text
    /// that has it.
    pub(crate) fn from_json(json: &[u8], vocab_size: usize) -> Result<Tokenizer> {
        Tokenizer::build("tokenizer.json", vocab_size, || json::read(json))
    }

    /// As [`from_json`](Self::from_json), from what [`pack`] made of a `tokenizer.json` with this checksum.
    pub(crate) fn from_table(
        table: TableBytes,
        json_crc: u32,
        vocab_size: usize,
    ) -> Result<Tokenizer> {
        Tokenizer::build("tokenizer.bpe", vocab_size, || {
            let table = table::Table::open(table).ok_or("the sections do not fill the tensor")?;
            if table.source_crc() != json_crc {
                return Err("it was made from another tokenizer.json".into());
            }
            json::read_table(table)
        })
    }

    fn build(
        place: &str,
        vocab_size: usize,
        read: impl FnOnce() -> tokenizers::Result<json::Inner>,
    ) -> Result<Tokenizer> {
        Ok(Tokenizer {
            inner: Arc::new(guarded(place, read)?),
            limit: vocab_size,
        })
    }

    /// Refuses an id that the model does not have.
    fn check(&self, id: TokenId, token: impl FnOnce() -> String) -> Result<()> {
        if (id as usize) < self.limit {
            return Ok(());
        }
        let (token, limit) = (token(), self.limit);
        let message = format!("token `{token}` has id {id}, the model's vocabulary has {limit}");
        Err(Error::new(ErrorKind::Tokenizer, message)
            .at("tokenizer.json")
            .with_hint("is it the tokenizer of another model?"))
    }

    /// The ids of `text`. Special tokens that are spelled out in `text` are recognized; `add_special` also adds those that the
    /// tokenizer puts around every text (such as a begin token).
    ///
    /// # Errors
    /// [`ErrorKind::Tokenizer`] if the tokenizer cannot express `text`.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<TokenId>> {
        let encoding = guarded("encode", || self.inner.encode_fast(text, add_special))?;
        let ids = encoding.get_ids();
        if let Some(highest) = ids.iter().max() {
            self.check(*highest, || self.id_to_token(*highest).unwrap_or_default())?;
        }
        Ok(ids.to_vec())
    }

    /// The text of `ids`. Bytes that are no character become U+FFFD; unknown ids are left out, and with `skip_special` special
    /// tokens, too.
    ///
    /// # Errors
    /// [`ErrorKind::Tokenizer`] if the tokenizer's decoder refuses.
    pub fn decode(&self, ids: &[TokenId], skip_special: bool) -> Result<String> {
        guarded("decode", || self.inner.decode(ids, skip_special))
    }

    /// Decodes ids one by one as they are generated.
    pub fn decode_stream(&self, skip_special: bool) -> DecodeStream {
        DecodeStream {
            tokenizer: self.clone(),
            skip_special,
            window: Vec::new(),
            emitted: 0,
            shown: String::new(),
        }
    }

    /// The token with this id, as the vocabulary spells it.
    pub fn id_to_token(&self, id: TokenId) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The id of a token that is spelled as in the vocabulary.
    pub fn token_to_id(&self, token: &str) -> Option<TokenId> {
        self.inner.token_to_id(token)
    }

    /// The token with this id, unless [`decode`](Self::decode) leaves it out.
    fn shown_token(&self, id: TokenId, skip_special: bool) -> Option<String> {
        let special = |token: &String| self.inner.get_added_vocabulary().is_special_token(token);
        self.id_to_token(id)
            .filter(|token| !skip_special || !special(token))
    }

    /// Number of tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }
}

/// Whether a token stands for one byte of a character, as in SentencePiece vocabularies: `<0x0A>`.
fn is_fallback_byte(token: &str) -> bool {
    let digits = token
        .strip_prefix("<0x")
        .and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2)
}

/// Runs code of the `tokenizers` crate on a file from outside. It indexes by ids that the file gave, so a crafted file may make it
/// panic; that is an error of the file, not of the app.
fn guarded<T>(place: &str, run: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result.map_err(|error| error_of(place, error)),
        Err(_) => Err(Error::new(ErrorKind::Tokenizer, "the tokenizer is inconsistent").at(place)),
    }
}

fn error_of(place: &str, error: tokenizers::Error) -> Error {
    Error::new(ErrorKind::Tokenizer, error.to_string())
        .at(place)
        .with_source(error)
}

/// Text from ids as they come: only whole characters, and in the end the same text as [`Tokenizer::decode`] of all ids.
///
/// A token may be part of a character, and a decoder may treat the first token of a text differently (a leading space). So a window
/// is decoded: the tokens that gave the last text, then the new ones; what is new is what the longer text adds.
#[derive(Clone, Debug)]
pub struct DecodeStream {
    tokenizer: Tokenizer,
    skip_special: bool,
    window: Vec<TokenId>,
    /// Tokens of the window whose text was given out.
    emitted: usize,
    /// The text of those tokens, decoded from the window's start.
    shown: String,
}

impl DecodeStream {
    /// Takes the next id; returns the text that is now certain, if any.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn push(&mut self, id: TokenId) -> Result<Option<String>> {
        // What shows nothing does not end a run of bytes, either.
        let Some(token) = self.tokenizer.shown_token(id, self.skip_special) else {
            return Ok(None);
        };
        self.window.push(id);
        let text = self.tokenizer.decode(&self.window, self.skip_special)?;
        // An unfinished character shows as a replacement at the end: wait for the token that completes it. A run of fallback
        // bytes is decoded as one, so it is certain only when it has ended.
        let unfinished = text.ends_with(REPLACEMENT) || is_fallback_byte(&token);
        if unfinished || text.len() <= self.shown.len() {
            return Ok(None);
        }
        let new = self.new_part(&text);
        self.window.drain(..self.emitted);
        self.emitted = self.window.len();
        self.shown = self.tokenizer.decode(&self.window, self.skip_special)?;
        Ok(Some(new))
    }

    /// The rest: bytes that never became a character, as U+FFFD. The stream is then as new.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn finish(&mut self) -> Result<Option<String>> {
        let text = self.tokenizer.decode(&self.window, self.skip_special)?;
        let new = self.new_part(&text);
        self.window.clear();
        self.emitted = 0;
        self.shown.clear();
        Ok(Some(new).filter(|new| !new.is_empty()))
    }

    fn new_part(&self, text: &str) -> String {
        // `get`: should a decoder change what it showed before, the cut might not be a character boundary.
        text.get(self.shown.len()..).unwrap_or_default().to_owned()
    }
}
