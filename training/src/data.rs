//! Rows: from JSONL to token sequences with weights.
//!
//! ```text
//! {"id":"7","kind":"waso","group":"night-3","question":"…","chunks":["…","…"],"answer":"…"}
//!
//! cot     tok(question) <|cot|> tok(chunk) <|sep|> tok(chunk) <|answer|> tok(answer) <|end|>
//! direct  tok(question) <|direct|> tok(answer) <|end|>
//! latent  tok(question) <|latent|> z z z <|cot|> <|answer|> tok(answer) <|end|>
//! ```
//!
//! Each `z` stands for a latent step: what is read there is the hidden state of the token before.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use skimstone::{RouteKind, Tokenizer};

use crate::error::{Error, Result};
use crate::recipe::{Data, Route};
use crate::sleep::Role;
use crate::tokenize::{ANSWER, COT, END, PAUSE, SEPARATOR};

/// One solved question.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Row {
    /// Unique in its file.
    #[serde(default)]
    pub id: String,
    /// The question kind, for reports.
    #[serde(default)]
    pub kind: String,
    /// Rows of one group share a long beginning of the question.
    #[serde(default)]
    pub group: String,
    /// The prompt.
    pub question: String,
    /// The thinking, cut where a part may be skipped.
    #[serde(default)]
    pub chunks: Vec<String>,
    /// What each chunk is for, where the teacher says so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<Role>,
    /// Whether each chunk may go without changing the answer, where the task knows it: empty, or as long as `chunks`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skippable: Vec<bool>,
    /// For each chunk the earlier chunks whose results it uses, where the task knows it: empty, or as long as `chunks`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<Vec<usize>>,
    /// The final text.
    pub answer: String,
}

/// Reads rows of a `.jsonl` or `.jsonl.gz` file one by one.
///
/// # Errors
/// [`Error::Io`] if the file cannot be opened; the iterator yields [`Error::Row`] with line and field.
pub fn read_rows(path: &Path) -> Result<impl Iterator<Item = Result<Row>>> {
    read_lines(path, parse)
}

/// What is wrong with a line: the field at fault and a message.
pub(crate) type LineError = (String, String);

/// Reads the lines of a `.jsonl` or `.jsonl.gz` file one by one, empty ones left out.
///
/// # Errors
/// As [`read_rows`].
pub(crate) fn read_lines<T>(
    path: &Path,
    parse: impl Fn(&str) -> Result<T, LineError>,
) -> Result<impl Iterator<Item = Result<T>>> {
    let file = File::open(path).map_err(Error::io(path))?;
    let reader: Box<dyn Read> = match path.extension().is_some_and(|e| e == "gz") {
        true => Box::new(MultiGzDecoder::new(file)),
        false => Box::new(file),
    };
    let path = path.to_owned();
    let lines = BufReader::with_capacity(1 << 16, reader)
        .lines()
        .enumerate();
    Ok(lines.filter_map(move |(index, line)| match line {
        Err(error) => Some(Err(Error::io(&path)(error))),
        Ok(line) if line.trim().is_empty() => None,
        Ok(line) => Some(parse(&line).map_err(|(field, message)| Error::Row {
            path: path.clone(),
            line: index + 1,
            field,
            message,
        })),
    }))
}

/// Writes rows as JSONL, in gzip if the name ends in `.gz`.
///
/// # Errors
/// [`Error::Io`].
pub fn write_rows(path: &Path, rows: &[Row]) -> Result<()> {
    let file = BufWriter::new(File::create(path).map_err(Error::io(path))?);
    let mut out: Box<dyn Write> = match path.extension().is_some_and(|e| e == "gz") {
        true => Box::new(GzEncoder::new(file, Compression::default())),
        false => Box::new(file),
    };
    for row in rows {
        let line =
            serde_json::to_string(row).expect("a row has no map with keys that are not text");
        writeln!(out, "{line}").map_err(Error::io(path))?;
    }
    out.flush().map_err(Error::io(path))
}

/// The record of one line, of this or a foreign format.
pub(crate) fn record<T: DeserializeOwned>(line: &str) -> Result<T, LineError> {
    serde_json::from_str(line).map_err(|error| {
        let text = error.to_string();
        let field = text
            .split('`')
            .nth(1)
            .filter(|_| text.starts_with("missing field"))
            .unwrap_or("(line)");
        (field.to_owned(), text)
    })
}

/// A row from one line.
fn parse(line: &str) -> Result<Row, LineError> {
    let row: Row = record(line)?;
    for (field, text) in [("question", &row.question), ("answer", &row.answer)] {
        if text.is_empty() {
            return Err((field.to_owned(), "is empty".to_owned()));
        }
    }
    let chunks = row.chunks.len();
    for (field, len) in [
        ("skippable", row.skippable.len()),
        ("parents", row.parents.len()),
    ] {
        if len != 0 && len != chunks {
            let message = format!("has {len} entries, the row has {chunks} chunks");
            return Err((field.to_owned(), message));
        }
    }
    for (index, parents) in row.parents.iter().enumerate() {
        if let Some(parent) = parents.iter().find(|parent| **parent >= index) {
            let message = format!("names chunk {parent}, which is not an earlier one");
            return Err((format!("parents[{index}]"), message));
        }
    }
    match row.chunks.iter().position(String::is_empty) {
        Some(index) => Err((format!("chunks[{index}]"), "is empty".to_owned())),
        None => Ok(row),
    }
}

/// A run of tokens of one weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// Token indices in the row.
    pub range: Range<usize>,
    /// Weight of predicting each of them.
    pub weight: f32,
}

/// A row as the student sees it on one route.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenizedRow {
    /// Which rows to pack together.
    pub group: u32,
    /// The whole sequence.
    pub tokens: Vec<u32>,
    /// Weights, in order and without gaps or overlaps.
    pub spans: Vec<Span>,
    /// Index of the answer's first token.
    pub answer: usize,
    /// Latent tokens: their input is what the token before computed, whatever stands in `tokens`; never the first token, never predicted.
    pub latents: Range<usize>,
    /// The same question with its rationale in words, learned in the same step: what the student of an objective that compares the two is held to.
    pub teacher: Option<Arc<TokenizedRow>>,
    /// For each latent token what it stands for, where an objective asks; else empty.
    pub thoughts: Vec<Thought>,
    /// Whether each latent token but the first reads what its teacher computed at the step before, instead of what the latent token before it did.
    pub is_forced: bool,
}

/// What a latent token stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thought {
    /// The last token of a group of steps, in the teacher's row.
    pub step: usize,
    /// Whether a step of the group uses the result of another one.
    pub critical: bool,
}

impl TokenizedRow {
    /// Indices and weights of the tokens that are predicted. The first token has nothing before it.
    pub fn scored(&self) -> impl Iterator<Item = (usize, f32)> {
        self.spans
            .iter()
            .filter(|span| span.weight > 0.0)
            .flat_map(|span| {
                span.range
                    .clone()
                    .filter(|at| *at > 0)
                    .map(|at| (at, span.weight))
            })
    }

    /// Tokens of the row and of its teacher.
    pub fn total_len(&self) -> usize {
        self.tokens.len() + self.teacher.as_ref().map_or(0, |row| row.total_len())
    }

    /// Whether it shares no prefix with other rows.
    pub(crate) fn is_alone(&self) -> bool {
        !self.latents.is_empty() || self.teacher.is_some()
    }

    fn push(&mut self, tokens: &[u32], weight: f32) {
        let start = self.tokens.len();
        self.tokens.extend_from_slice(tokens);
        match self.spans.last_mut() {
            Some(last) if last.weight == weight => last.range.end = self.tokens.len(),
            _ => self.spans.push(Span {
                range: start..self.tokens.len(),
                weight,
            }),
        }
    }
}

/// Turns rows into token sequences.
#[derive(Clone, Debug)]
pub struct Encoder {
    tokenizer: Tokenizer,
    routes: BTreeMap<String, (Route, Vec<u32>)>,
    separator: u32,
    answer: u32,
    end: u32,
    digits: Vec<u32>,
    cot: u32,
}

impl Encoder {
    /// An encoder over `tokenizer`, which must know every special token that `routes` name.
    ///
    /// # Errors
    /// [`Error::Tokenizer`], naming the token that it lacks.
    pub fn new(tokenizer: Tokenizer, routes: &BTreeMap<String, Route>) -> Result<Encoder> {
        let id = |token: &str| {
            tokenizer
                .token_to_id(token)
                .ok_or_else(|| Error::Tokenizer(format!("has no special token `{token}`")))
        };
        let with_ids = routes.iter().map(|(name, route)| {
            let mut open = vec![id(&route.open)?];
            if route.pauses > 0 {
                open.resize(1 + route.pauses, id(PAUSE)?);
            }
            Ok((name.clone(), (route.clone(), open)))
        });
        Ok(Encoder {
            routes: with_ids.collect::<Result<_>>()?,
            separator: id(SEPARATOR)?,
            answer: id(ANSWER)?,
            end: id(END)?,
            cot: id(COT)?,
            digits: (0..10)
                .filter_map(|d: u8| tokenizer.token_to_id(&d.to_string()))
                .collect(),
            tokenizer,
        })
    }

    /// Reads `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::Runtime`] if it is malformed, [`Error::Tokenizer`] if it lacks a special token.
    pub fn open(path: &Path, routes: &BTreeMap<String, Route>) -> Result<Encoder> {
        let json = std::fs::read(path).map_err(Error::io(path))?;
        // The student's embedding is made for this tokenizer, so any id it gives is right.
        let tokenizer = Tokenizer::from_bytes(&json, usize::MAX)?;
        Encoder::new(tokenizer, routes)
    }

    /// Size of the vocabulary, special tokens included.
    pub fn vocab_size(&self) -> usize {
        self.tokenizer.vocab_size()
    }

    /// The token that ends an answer.
    pub fn end(&self) -> u32 {
        self.end
    }

    /// The token that separates chunks.
    pub fn separator(&self) -> u32 {
        self.separator
    }

    /// The token that ends thinking and starts the answer.
    pub fn answer(&self) -> u32 {
        self.answer
    }

    /// What ends the thinking of a route and starts its answer; empty for `direct`.
    pub fn close(&self, kind: RouteKind) -> Vec<u32> {
        match kind {
            RouteKind::Direct => Vec::new(),
            // The words that latent steps stand for would begin here, as they do in training before all of them are gone.
            RouteKind::Latent => vec![self.cot, self.answer],
            _ => vec![self.answer],
        }
    }

    /// The knobs of a route and the tokens that open it, pauses included.
    pub fn route(&self, name: &str) -> Option<(&Route, &[u32])> {
        let (route, open) = self.routes.get(name)?;
        Some((route, open))
    }

    /// Whether a token is one decimal digit.
    pub fn is_digit(&self, token: u32) -> bool {
        self.digits.contains(&token)
    }

    /// Tokens of a text.
    ///
    /// # Errors
    /// [`Error::Runtime`] if the tokenizer refuses it.
    pub fn tokens(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.tokenizer.encode(text, false)?)
    }

    /// The sequence of a question with its thinking and answer on a route.
    ///
    /// # Errors
    /// [`Error::Recipe`] for a route that the encoder does not know.
    pub fn encode(
        &self,
        route: &str,
        question: &str,
        chunks: &[String],
        answer: &str,
    ) -> Result<TokenizedRow> {
        let Some((knobs, open)) = self.route(route) else {
            return Err(Error::Recipe(format!("unknown route `{route}`")));
        };
        let mut row = TokenizedRow::default();
        row.push(&self.tokens(question)?, knobs.question_weight);
        // The engine forces the opening tokens, so there is nothing to learn about them.
        row.push(open, 0.0);
        if knobs.kind == RouteKind::Latent {
            row.latents = row.tokens.len()..row.tokens.len() + knobs.latents;
            row.push(&vec![open[0]; knobs.latents], 0.0);
            row.push(&self.close(knobs.kind), 0.0);
        } else if knobs.kind != RouteKind::Direct {
            for (index, chunk) in chunks.iter().enumerate() {
                if index > 0 {
                    row.push(&[self.separator], knobs.thinking_weight);
                }
                row.push(&self.tokens(chunk)?, knobs.thinking_weight);
            }
            row.push(&[self.answer], knobs.thinking_weight);
        }
        row.answer = row.tokens.len();
        row.push(&self.tokens(answer)?, knobs.answer_weight);
        row.push(&[self.end], knobs.answer_weight);
        Ok(row)
    }
}

/// Rows in memory, tokenized once per route.
#[derive(Debug, Default)]
pub struct Dataset {
    /// The rows, in file order, routes of a row after each other.
    pub rows: Vec<TokenizedRow>,
    groups: HashMap<String, u32>,
}

impl Dataset {
    /// Reads and tokenizes files; rows longer than `context` are refused.
    ///
    /// # Errors
    /// [`Error::Row`] with file, line and field.
    pub fn load(data: &[Data], encoder: &Encoder, context: usize) -> Result<Dataset> {
        let mut dataset = Dataset::default();
        for source in data {
            for (index, row) in read_rows(&source.path)?
                .take(source.limit.unwrap_or(usize::MAX))
                .enumerate()
            {
                let row = row?;
                let group = dataset.group(&row);
                for route in &source.routes {
                    let mut tokenized =
                        encoder.encode(route, &row.question, &row.chunks, &row.answer)?;
                    if tokenized.tokens.len() > context {
                        let message = format!(
                            "{} tokens on route `{route}`, the context has {context}",
                            tokenized.tokens.len()
                        );
                        return Err(Error::Row {
                            path: source.path.clone(),
                            line: index + 1,
                            field: "question".to_owned(),
                            message,
                        });
                    }
                    tokenized.group = group;
                    dataset.rows.push(tokenized);
                }
            }
        }
        Ok(dataset)
    }

    /// The number of a row's group; a row without one is its own.
    fn group(&mut self, row: &Row) -> u32 {
        let next = self.groups.len() as u32;
        let key = if row.group.is_empty() {
            format!("\0{next}")
        } else {
            row.group.clone()
        };
        *self.groups.entry(key).or_insert(next)
    }

    /// Groups of rows.
    pub fn group_count(&self) -> usize {
        self.groups.len()
    }

    /// Tokens of all rows, prefixes counted for each row.
    pub fn token_count(&self) -> usize {
        self.rows.iter().map(|row| row.tokens.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenize::train_tokenizer;

    #[test]
    fn truth_about_chunks_is_optional_and_checked() {
        let plain = Row {
            question: "q".into(),
            chunks: vec!["a".into(), "b".into()],
            answer: "x".into(),
            ..Row::default()
        };
        let line = serde_json::to_string(&plain).unwrap();
        assert!(!line.contains("skippable") && !line.contains("parents"));
        let full = Row {
            skippable: vec![true, false],
            parents: vec![vec![], vec![0]],
            ..plain
        };
        let line = serde_json::to_string(&full).unwrap();
        assert_eq!(parse(&line), Ok(full));
        for (from, to, field) in [
            ("[true,false]", "[true]", "skippable"),
            ("[[],[0]]", "[[0]]", "parents"),
            ("[[],[0]]", "[[],[1]]", "parents[1]"),
        ] {
            let (at, _) = parse(&line.replace(from, to)).unwrap_err();
            assert_eq!(at, field);
        }
    }

    #[test]
    fn sequences_follow_the_contract() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        std::fs::write(
            &path,
            "{\"question\":\"q\",\"chunks\":[\"c\"],\"answer\":\"a\"}\n",
        )
        .unwrap();
        let tokenizer = folder.path().join("tokenizer.json");
        train_tokenizer(&[&path], 262, 10)
            .unwrap()
            .save(&tokenizer, false)
            .unwrap();
        let mut routes = crate::recipe::default_routes();
        routes.get_mut("cot").unwrap().answer_weight = 2.0;
        let encoder = Encoder::open(&tokenizer, &routes).unwrap();
        let text = |row: &TokenizedRow| -> String {
            row.tokens
                .iter()
                .map(|id| encoder.tokenizer.id_to_token(*id).unwrap())
                .collect()
        };
        let chunks = ["x".to_owned(), "y".to_owned()];

        let cot = encoder.encode("cot", "qq", &chunks, "a").unwrap();
        assert_eq!(text(&cot), "qq<|cot|>x<|sep|>y<|answer|>a<|end|>");
        assert_eq!(cot.answer, 7);
        let scored: Vec<(usize, f32)> = cot.scored().collect();
        assert_eq!(
            scored,
            [(3, 1.0), (4, 1.0), (5, 1.0), (6, 1.0), (7, 2.0), (8, 2.0)]
        );

        let direct = encoder.encode("direct", "qq", &chunks, "a").unwrap();
        assert_eq!(text(&direct), "qq<|direct|>a<|end|>");
        assert_eq!(
            direct.scored().map(|(at, _)| at).collect::<Vec<_>>(),
            [3, 4]
        );

        let none = encoder.encode("skip", "qq", &[], "a").unwrap();
        assert_eq!(text(&none), "qq<|skip|><|answer|>a<|end|>");
    }
}
