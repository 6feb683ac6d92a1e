//! The `tojson` filter as transformers defines it: Python's `json.dumps(value, ensure_ascii=False)`.
//!
//! Python puts a blank after `,` and `:`, and models were trained on that; Jinja's own filter also escapes `<`, which would break
//! the tags around tool calls.

use std::io;

use minijinja::value::Kwargs;
use minijinja::{Error, ErrorKind, Value};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

/// The filter. `ensure_ascii`, `separators` and `sort_keys` are accepted and ignored; templates pass their defaults.
pub(super) fn tojson(value: &Value, options: Kwargs) -> Result<Value, Error> {
    for ignored in ["ensure_ascii", "separators", "sort_keys"] {
        let _: Option<Value> = options.get(ignored)?;
    }
    let indent: Option<usize> = options.get("indent")?;
    options.assert_all_used()?;
    let mut out = Vec::new();
    let result = match indent {
        None => value.serialize(&mut Serializer::with_formatter(&mut out, PythonFormatter)),
        Some(width) => {
            // Wider than any screen: a width from a template must not become an allocation.
            let blanks = " ".repeat(width.min(64));
            value.serialize(&mut Serializer::with_formatter(
                &mut out,
                PrettyFormatter::with_indent(blanks.as_bytes()),
            ))
        }
    };
    let fail =
        |error: &dyn std::fmt::Display| Error::new(ErrorKind::BadSerialization, error.to_string());
    result.map_err(|error| fail(&error))?;
    let text = String::from_utf8(out).map_err(|error| fail(&error))?;
    Ok(Value::from_safe_string(text))
}

/// Separators `", "` and `": "`.
struct PythonFormatter;

impl Formatter for PythonFormatter {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first {
            Ok(())
        } else {
            writer.write_all(b", ")
        }
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first {
            Ok(())
        } else {
            writer.write_all(b", ")
        }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}
