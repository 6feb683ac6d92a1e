//! The one error type of the crate.
//!
//! An [`Error`] says what went wrong ([`Error::kind`]), where ([`Error::place`]: a file, a tensor, a field) and, where there is
//! one, what to do next ([`Error::hint`]). Programs match on the kind; people read the message, which is
//! `place: what happened, with both values; hint`.

use std::error::Error as StdError;
use std::fmt;

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of thing went wrong. New kinds may be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operating system refused to read or write.
    Io,
    /// The file is not a bundle, or its header breaks the format's grammar.
    Format,
    /// The header claims to be larger than any bundle's header is.
    HeaderTooLarge,
    /// The file ends before the bytes that its header promises.
    Truncated,
    /// The file holds more bytes than its header describes.
    TrailingBytes,
    /// Tensor offsets overlap, leave holes, run backwards or overflow.
    Offsets,
    /// Tensor data do not start where the CPU may read them in place.
    Misaligned,
    /// A data type, or a type for this use, that is not supported.
    Dtype,
    /// A block layout that this version does not know.
    Layout,
    /// A format version that this version does not know.
    Version,
    /// The bytes are not those that were written: a checksum differs.
    Checksum,
    /// A NaN or an infinity where a weight must be finite.
    NonFinite,
    /// The model's configuration is malformed or contradicts itself.
    Config,
    /// A model family or option that this runtime does not implement.
    Unsupported,
    /// A tensor that the configuration requires is not there.
    MissingTensor,
    /// A tensor has another shape than the configuration requires.
    Shape,
    /// The tokenizer is missing, malformed, or does not fit the model.
    Tokenizer,
    /// The chat template is missing, malformed, or refused its input.
    Template,
    /// The reasoning specification is malformed or does not fit the model.
    Reasoning,
    /// The route is not one that this model knows.
    UnknownRoute,
    /// A token id outside the vocabulary.
    Token,
    /// The prompt, or the prompt and what must follow, exceed the context.
    ContextFull,
    /// More bytes would be needed than the caller allowed.
    Memory,
    /// The caller cancelled.
    Cancelled,
    /// The device or its kernels refused.
    Backend,
    /// An argument outside its range.
    Argument,
    /// A row or field of a data file is malformed.
    Data,
}

/// Why an operation of this crate failed.
pub struct Error(Box<Repr>);

struct Repr {
    kind: ErrorKind,
    message: String,
    place: Option<String>,
    hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind`; `message` is lower case, without a final dot, and names both values where two disagree.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error(Box::new(Repr {
            kind,
            message: message.into(),
            place: None,
            hint: None,
            source: None,
        }))
    }

    /// Says where: a file, a tensor, a field. The innermost place is the most exact and comes last.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Error {
        self.0.place = Some(match self.0.place.take() {
            Some(inner) => format!("{place}: {inner}"),
            None => place.to_string(),
        });
        self
    }

    /// Says what the reader may do next.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Error {
        self.0.hint = Some(hint.into());
        self
    }

    /// Keeps the error that caused this one.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
        self.0.source = Some(source.into());
        self
    }

    /// An I/O error on the file at `path`.
    pub fn io(path: impl AsRef<std::path::Path>, source: std::io::Error) -> Error {
        Error::new(ErrorKind::Io, source.to_string())
            .at(path.as_ref().display())
            .with_source(source)
    }

    /// What kind of thing went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Where it went wrong, outermost first: a file, a tensor, a field.
    pub fn place(&self) -> Option<&str> {
        self.0.place.as_deref()
    }

    /// What happened, without place and hint.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What the reader may do next, where something can be done.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.0.place {
            write!(f, "{place}: ")?;
        }
        f.write_str(&self.0.message)?;
        if let Some(hint) = &self.0.hint {
            write!(f, "; {hint}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({self})", self.0.kind)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0
            .source
            .as_deref()
            .map(|source| source as &(dyn StdError + 'static))
    }
}

impl From<skimstone_kernels::KernelError> for Error {
    fn from(source: skimstone_kernels::KernelError) -> Error {
        Error::new(ErrorKind::Backend, source.to_string()).with_source(source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_reads_from_the_outer_place_to_the_hint() {
        let error = Error::new(ErrorKind::Shape, "expected [2, 3], file has [3, 2]")
            .at("tensor `lm_head.weight`")
            .at("student.skim")
            .with_hint("was it exported for another config?");
        assert_eq!(
            error.to_string(),
            "student.skim: tensor `lm_head.weight`: expected [2, 3], file has [3, 2]; was it exported for another config?"
        );
        assert_eq!(error.kind(), ErrorKind::Shape);
    }

    #[test]
    fn one_word_is_enough_to_carry_an_error() {
        assert_eq!(size_of::<Result<()>>(), size_of::<usize>());
    }
}
