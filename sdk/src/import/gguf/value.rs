//! Metadata of a GGUF file: typed values that borrow from the map, and the questions that an import asks them.

use std::collections::BTreeMap;

use super::reader::Reader;
use crate::error::{Error, ErrorKind, Result};

/// Arrays inside arrays deeper than this are not read. No published key nests at all.
const MAX_DEPTH: usize = 4;

/// The type of a value, by its number in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl Kind {
    /// In the order of their numbers.
    const ALL: [Kind; 13] = [
        Kind::U8,
        Kind::I8,
        Kind::U16,
        Kind::I16,
        Kind::U32,
        Kind::I32,
        Kind::F32,
        Kind::Bool,
        Kind::String,
        Kind::Array,
        Kind::U64,
        Kind::I64,
        Kind::F64,
    ];

    fn read(reader: &mut Reader<'_>) -> Result<Kind> {
        let number = reader.u32("a value type")?;
        let kind = usize::try_from(number)
            .ok()
            .and_then(|n| Kind::ALL.get(n).copied());
        kind.ok_or_else(|| {
            let message = format!("value type {number} is not one of 0 to 12");
            Error::new(ErrorKind::Format, message)
        })
    }

    /// Bytes of one value; `None` where each has a length of its own.
    fn bytes(self) -> Option<u64> {
        match self {
            Kind::U8 | Kind::I8 | Kind::Bool => Some(1),
            Kind::U16 | Kind::I16 => Some(2),
            Kind::U32 | Kind::I32 | Kind::F32 => Some(4),
            Kind::U64 | Kind::I64 | Kind::F64 => Some(8),
            Kind::String | Kind::Array => None,
        }
    }
}

/// One value of the metadata.
#[derive(Clone, Debug)]
pub(super) enum Value<'a> {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    /// Not yet known to be UTF-8: what nobody asks for need not be.
    String(&'a [u8]),
    Array(Array<'a>),
}

/// An array that was walked once, so that its count is true.
#[derive(Clone, Debug)]
pub(super) struct Array<'a> {
    kind: Kind,
    len: u64,
    bytes: &'a [u8],
}

impl<'a> Value<'a> {
    /// Reads a type and a value of it.
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Value<'a>> {
        let kind = Kind::read(reader)?;
        Value::of(kind, reader, 0)
    }

    fn of(kind: Kind, reader: &mut Reader<'a>, depth: usize) -> Result<Value<'a>> {
        const WHAT: &str = "a value";
        Ok(match kind {
            Kind::U8 => Value::Unsigned(u8::from_le_bytes(reader.array(WHAT)?).into()),
            Kind::U16 => Value::Unsigned(u16::from_le_bytes(reader.array(WHAT)?).into()),
            Kind::U32 => Value::Unsigned(reader.u32(WHAT)?.into()),
            Kind::U64 => Value::Unsigned(reader.u64(WHAT)?),
            Kind::I8 => Value::Signed(i8::from_le_bytes(reader.array(WHAT)?).into()),
            Kind::I16 => Value::Signed(i16::from_le_bytes(reader.array(WHAT)?).into()),
            Kind::I32 => Value::Signed(i32::from_le_bytes(reader.array(WHAT)?).into()),
            Kind::I64 => Value::Signed(i64::from_le_bytes(reader.array(WHAT)?)),
            Kind::F32 => Value::Float(f32::from_le_bytes(reader.array(WHAT)?).into()),
            Kind::F64 => Value::Float(f64::from_le_bytes(reader.array(WHAT)?)),
            Kind::Bool => match reader.array::<1>(WHAT)? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => {
                    let message = format!("a bool is 0 or 1, found {other}");
                    return Err(Error::new(ErrorKind::Format, message));
                }
            },
            Kind::String => Value::String(reader.string("a string")?),
            Kind::Array => Value::Array(Array::read(reader, depth + 1)?),
        })
    }

    /// With its article, for messages.
    fn noun(&self) -> &'static str {
        match self {
            Value::Unsigned(_) | Value::Signed(_) => "an integer",
            Value::Float(_) => "a float",
            Value::Bool(_) => "a bool",
            Value::String(_) => "a string",
            Value::Array(_) => "an array",
        }
    }

    fn integer(&self) -> Option<i64> {
        match *self {
            Value::Unsigned(value) => i64::try_from(value).ok(),
            Value::Signed(value) => Some(value),
            _ => None,
        }
    }

    fn number(&self) -> Option<f64> {
        match *self {
            Value::Float(value) => Some(value),
            _ => self.integer().map(|value| value as f64),
        }
    }
}

impl<'a> Array<'a> {
    /// Walks over the array; nothing is allocated, so a count that lies ends where the file does.
    fn read(reader: &mut Reader<'a>, depth: usize) -> Result<Array<'a>> {
        if depth > MAX_DEPTH {
            let message = format!("arrays are nested deeper than {MAX_DEPTH}");
            return Err(Error::new(ErrorKind::Format, message));
        }
        let kind = Kind::read(reader)?;
        let len = reader.u64("the length of an array")?;
        let start = reader.position();
        match kind.bytes() {
            Some(bytes) => {
                reader.take(len.saturating_mul(bytes), "an array")?;
            }
            None => {
                for _ in 0..len {
                    Value::of(kind, reader, depth)?;
                }
            }
        }
        Ok(Array {
            kind,
            len,
            bytes: reader.since(start),
        })
    }

    /// The values one after the other.
    fn values(&self) -> impl Iterator<Item = Result<Value<'a>>> {
        let (kind, mut reader) = (self.kind, Reader::new(self.bytes));
        (0..self.len).map(move |_| Value::of(kind, &mut reader, 0))
    }

    fn collect<T>(
        &self,
        key: &str,
        expected: &str,
        get: impl Fn(&Value<'a>) -> Option<T>,
    ) -> Result<Vec<T>> {
        let values = self.values().enumerate().map(|(index, value)| {
            let value = value?;
            get(&value).ok_or_else(|| {
                let message = format!(
                    "element {index}: expected {expected}, found {}",
                    shown(&value)
                );
                Error::new(ErrorKind::Format, message)
            })
        });
        values
            .collect::<Result<Vec<T>>>()
            .map_err(|error| error.at(format_args!("key `{key}`")))
    }
}

fn shown(value: &Value<'_>) -> &'static str {
    match value {
        Value::String(_) => "a string that is not UTF-8",
        value => value.noun(),
    }
}

/// All keys of a file.
#[derive(Debug, Default)]
pub(super) struct Metadata<'a>(BTreeMap<&'a str, Value<'a>>);

impl<'a> Metadata<'a> {
    /// Adds a key; `false` if it was there before.
    pub(super) fn insert(&mut self, key: &'a str, value: Value<'a>) -> bool {
        self.0.insert(key, value).is_none()
    }

    pub(super) fn contains(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    fn find<T>(
        &self,
        key: &str,
        expected: &str,
        get: impl FnOnce(&Value<'a>) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.0.get(key) else {
            return Ok(None);
        };
        let wrong = || {
            let message = format!("expected {expected}, found {}", value.noun());
            Error::new(ErrorKind::Format, message).at(format_args!("key `{key}`"))
        };
        get(value).map(Some).ok_or_else(wrong)
    }

    pub(super) fn string(&self, key: &str) -> Result<Option<&'a str>> {
        self.find(key, "a UTF-8 string", |value| match value {
            Value::String(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        })
    }

    /// An integer of any width that is not negative.
    pub(super) fn count(&self, key: &str) -> Result<Option<usize>> {
        self.find(key, "an integer of at least 0", |value| {
            usize::try_from(value.integer()?).ok()
        })
    }

    /// A number of any type.
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>> {
        self.find(key, "a number", Value::number)
    }

    pub(super) fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.find(key, "a bool", |value| match *value {
            Value::Bool(value) => Some(value),
            _ => None,
        })
    }

    fn array(&self, key: &str) -> Result<Option<Array<'a>>> {
        self.find(key, "an array", |value| match value {
            Value::Array(array) => Some(array.clone()),
            _ => None,
        })
    }

    pub(super) fn strings(&self, key: &str) -> Result<Option<Vec<&'a str>>> {
        let utf8 = |value: &Value<'a>| match value {
            Value::String(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        };
        let array = self.array(key)?;
        array
            .map(|array| array.collect(key, "a UTF-8 string", utf8))
            .transpose()
    }

    pub(super) fn integers(&self, key: &str) -> Result<Option<Vec<i64>>> {
        let array = self.array(key)?;
        array
            .map(|array| array.collect(key, "an integer", Value::integer))
            .transpose()
    }

    pub(super) fn floats(&self, key: &str) -> Result<Option<Vec<f64>>> {
        let array = self.array(key)?;
        array
            .map(|array| array.collect(key, "a number", Value::number))
            .transpose()
    }
}

/// The value of a key that must be there.
pub(super) fn required<T>(key: &str, value: Option<T>) -> Result<T> {
    value.ok_or_else(|| {
        Error::new(ErrorKind::Format, "the key is missing").at(format_args!("key `{key}`"))
    })
}
