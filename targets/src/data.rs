//! Question files: JSONL, plain or gzipped, one row `{"question", "answer"}` per line; `kind` is optional, other fields are ignored.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use serde_json::Value;
use skimstone::{Error, ErrorKind};

use crate::failure::Result;

/// The first bytes of a gzip file (RFC 1952).
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// A question with its right answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    /// Line in the file, from 1.
    pub(crate) line: usize,
    pub(crate) question: String,
    pub(crate) answer: String,
    pub(crate) kind: Option<String>,
}

/// Reads the first `limit` rows of `path`. Blank lines are no rows.
///
/// # Errors
/// [`ErrorKind::Data`] with file, line and field.
pub(crate) fn read_rows(path: &Path, limit: Option<usize>) -> Result<Vec<Row>> {
    let mut file = BufReader::new(File::open(path).map_err(|error| Error::io(path, error))?);
    let start = file.fill_buf().map_err(|error| Error::io(path, error))?;
    let reader: Box<dyn Read> = if start.starts_with(&GZIP_MAGIC) {
        Box::new(MultiGzDecoder::new(file))
    } else {
        Box::new(file)
    };
    let mut rows = Vec::new();
    for (index, line) in BufReader::new(reader).lines().enumerate() {
        if limit.is_some_and(|limit| rows.len() >= limit) {
            break;
        }
        let row = line
            .map_err(|error| Error::new(ErrorKind::Data, error.to_string()).with_source(error))
            .and_then(|line| parse(&line, index + 1))
            .map_err(|error| {
                error
                    .at(format_args!("line {}", index + 1))
                    .at(path.display())
            })?;
        rows.extend(row);
    }
    if rows.is_empty() {
        return Err(Error::new(ErrorKind::Data, "has no rows")
            .at(path.display())
            .into());
    }
    Ok(rows)
}

fn parse(text: &str, line: usize) -> Result<Option<Row>, Error> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    let row: Value = serde_json::from_str(text).map_err(|error| {
        Error::new(
            ErrorKind::Data,
            format!("not JSON: {} at column {}", reason(&error), error.column()),
        )
        .with_source(error)
    })?;
    let Value::Object(fields) = &row else {
        return Err(wrong_type("an object", &row));
    };
    let string = |name: &str| match fields.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(wrong_type("a string", other).at(format_args!("field `{name}`"))),
    };
    let required = |name: &str| {
        string(name)?.ok_or_else(|| {
            Error::new(ErrorKind::Data, "is missing").at(format_args!("field `{name}`"))
        })
    };
    Ok(Some(Row {
        line,
        question: required("question")?,
        answer: required("answer")?,
        kind: string("kind")?,
    }))
}

/// What is wrong, without the line number that `serde_json` adds: it counts within this one line.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or(&text).to_owned()
}

fn wrong_type(expected: &str, found: &Value) -> Error {
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    Error::new(
        ErrorKind::Data,
        format!("expected {expected}, found {found}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_what_is_wrong_with_them() {
        let row = parse(r#"{"question":"q","answer":"a","kind":"k","id":7}"#, 3).unwrap();
        let expected = Row {
            line: 3,
            question: "q".to_owned(),
            answer: "a".to_owned(),
            kind: Some("k".to_owned()),
        };
        assert_eq!(row, Some(expected));
        assert_eq!(parse("  ", 1).unwrap(), None);
        let cases = [
            (r#"{"question":"q"}"#, "field `answer`: is missing"),
            (
                r#"{"question":"q","answer":4}"#,
                "field `answer`: expected a string, found a number",
            ),
            ("[]", "expected an object, found a list"),
            (
                r#"{"question":"#,
                "not JSON: EOF while parsing a value at column 12",
            ),
        ];
        for (text, message) in cases {
            assert_eq!(parse(text, 1).unwrap_err().to_string(), message);
        }
    }
}
