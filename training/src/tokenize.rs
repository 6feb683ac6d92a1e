//! Training the student's tokenizer: byte-level BPE over the corpus.
//!
//! Digits are split one by one, so that arithmetic has one token per digit; a space stays with the word after it; all 256 bytes
//! are in the alphabet, so that any text can be written.

use std::path::Path;

use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer};

use crate::data::read_rows;
use crate::error::{Error, Result};

/// Opens the route without thinking.
pub const DIRECT: &str = "<|direct|>";
/// Opens the route with the full chain of thought.
pub const COT: &str = "<|cot|>";
/// Opens the route with a chain of thought that skips.
pub const SKIP: &str = "<|skip|>";
/// Ends the thinking and starts the answer.
pub const ANSWER: &str = "<|answer|>";
/// Stands between two chunks of the thinking.
pub const SEPARATOR: &str = "<|sep|>";
/// Ends the answer.
pub const END: &str = "<|end|>";

/// A position to compute in before the answer, see [`crate::recipe::Route::pauses`]. Only tokenizers of experiments have it
/// ([`add_tokens`]).
pub const PAUSE: &str = "<|pause|>";
/// Opens the route that thinks in hidden states. Only tokenizers of students that do have it ([`add_tokens`]).
pub const LATENT: &str = "<|latent|>";

/// Every special token of a student, in the order of their ids, which begin at 0.
pub const SPECIAL_TOKENS: [&str; 6] = [END, ANSWER, SEPARATOR, DIRECT, COT, SKIP];

/// What a token can be at most: one digit, or a word with the space before or after it. A space stays with the word, not with a
/// digit, so that a number costs its digits and nothing else.
const WORDS: &str = r"\d|\s?[^\s\d]+\s?|\s+";

/// Learns a vocabulary of at most `vocab_size` tokens from questions, chunks and answers of the files' rows.
///
/// # Errors
/// [`Error::Row`] for a malformed row, [`Error::Tokenizer`] if the vocabulary cannot hold bytes and special tokens.
pub fn train_tokenizer(
    paths: &[impl AsRef<Path>],
    vocab_size: usize,
    max_rows: usize,
) -> Result<Tokenizer> {
    let smallest = 256 + SPECIAL_TOKENS.len();
    if vocab_size < smallest {
        return Err(Error::Tokenizer(format!(
            "a vocabulary of {vocab_size} cannot hold 256 bytes and the special tokens; ask for {smallest} or more"
        )));
    }
    let mut texts = Vec::new();
    for path in paths {
        for row in read_rows(path.as_ref())?.take(max_rows) {
            let row = row?;
            texts.push(row.question);
            texts.extend(row.chunks);
            texts.push(row.answer);
        }
    }
    let fail = |error: tokenizers::Error| Error::Tokenizer(error.to_string());
    let byte_level = ByteLevel::new(false, true, false);
    let words = Split::new(
        SplitPattern::Regex(WORDS.to_owned()),
        SplitDelimiterBehavior::Isolated,
        false,
    )
    .map_err(fail)?;
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer
        .with_pre_tokenizer(Some(Sequence::new(vec![
            PreTokenizerWrapper::Split(words),
            PreTokenizerWrapper::ByteLevel(byte_level),
        ])))
        .with_decoder(Some(byte_level));
    let special: Vec<AddedToken> = SPECIAL_TOKENS
        .iter()
        .map(|token| AddedToken::from(*token, true))
        .collect();
    let mut trainer = tokenizers::models::TrainerWrapper::BpeTrainer(
        BpeTrainer::builder()
            .show_progress(false)
            .vocab_size(vocab_size)
            .min_frequency(2)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .special_tokens(special)
            .build(),
    );
    tokenizer
        .train(&mut trainer, texts.into_iter())
        .map_err(fail)?;
    Ok(tokenizer)
}

/// Adds special tokens to a vocabulary, after all others.
pub fn add_tokens(tokenizer: &mut Tokenizer, tokens: &[&str]) {
    let tokens: Vec<AddedToken> = tokens.iter().map(|t| AddedToken::from(*t, true)).collect();
    tokenizer.add_special_tokens(&tokens);
}

/// [`train_tokenizer`] into a `tokenizer.json`.
///
/// # Errors
/// As [`train_tokenizer`], and [`Error::Tokenizer`] if the file cannot be written.
pub fn train_to_file(
    paths: &[impl AsRef<Path>],
    vocab_size: usize,
    max_rows: usize,
    out: &Path,
) -> Result<()> {
    let tokenizer = train_tokenizer(paths, vocab_size, max_rows)?;
    let fail = |error| Error::Tokenizer(format!("{}: {error}", out.display()));
    tokenizer.save(out, false).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trained() -> Tokenizer {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        let line = r#"{"question":"asleep 23:45, awake 12 min","chunks":["asleep 23:45 is later"],"answer":"12 min"}"#;
        std::fs::write(&path, format!("{line}\n").repeat(5)).unwrap();
        train_tokenizer(&[&path], 320, 100).unwrap()
    }

    #[test]
    fn any_text_comes_back_and_digits_stand_alone() {
        let tokenizer = trained();
        for text in ["asleep 23:45", " leading", "ünïcode 眠り 😴\n\ttabs", "x"] {
            let ids = tokenizer.encode(text, false).unwrap().get_ids().to_vec();
            assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
        }
        let tokens = tokenizer
            .encode("awake 1234 min", false)
            .unwrap()
            .get_tokens()
            .to_vec();
        assert_eq!(
            tokens
                .iter()
                .filter(|token| token.len() == 1 && token.as_bytes()[0].is_ascii_digit())
                .count(),
            4
        );
        assert!(
            tokens[0].starts_with("awake"),
            "words of the corpus are one token: {tokens:?}"
        );
    }

    #[test]
    fn special_tokens_come_first_and_are_whole() {
        let tokenizer = trained();
        for (id, token) in SPECIAL_TOKENS.iter().enumerate() {
            assert_eq!(tokenizer.token_to_id(token), Some(id as u32));
            assert_eq!(
                tokenizer.encode(*token, false).unwrap().get_ids(),
                [id as u32]
            );
        }
    }

    #[test]
    fn a_vocabulary_without_room_for_bytes_is_refused() {
        let none: [&Path; 0] = [];
        let error = train_tokenizer(&none, 200, 1).unwrap_err().to_string();
        assert!(error.contains("200 cannot hold 256 bytes"), "{error}");
    }
}
