//! Statuses: what every function returns, and how the runtime's errors map to them.

use skimstone::{Error, ErrorKind};

/// Success.
pub const SKIM_STATUS_OK: i32 = 0;
/// The time was over before anything happened; call again to go on.
pub const SKIM_STATUS_TIMEOUT: i32 = 1;
/// There is no further event.
pub const SKIM_STATUS_END: i32 = 2;

/// An argument is null, outside its range, not UTF-8, or not a handle of this type.
pub const SKIM_STATUS_INVALID_ARGUMENT: i32 = -1;
/// A bug in the library. The handle that the call was made on is poisoned.
pub const SKIM_STATUS_PANIC: i32 = -2;
/// An earlier call on this handle ended in SKIM_STATUS_PANIC; it can only be freed.
pub const SKIM_STATUS_POISONED: i32 = -3;
/// The handle is in use by another thread, or by the function whose callback this call was made from.
pub const SKIM_STATUS_BUSY: i32 = -4;
/// Not possible in the present state of the handle.
pub const SKIM_STATUS_STATE: i32 = -5;
/// The library serves another ABI.
pub const SKIM_STATUS_ABI: i32 = -6;
/// Cancelled where no answer can tell so.
pub const SKIM_STATUS_CANCELLED: i32 = -7;
/// An error of a kind that this ABI has no number for.
pub const SKIM_STATUS_OTHER: i32 = -8;
/// The system refused to read or write.
pub const SKIM_STATUS_IO: i32 = -20;
/// The file or data break the rules of their format; skim_error_kind says which.
pub const SKIM_STATUS_FORMAT: i32 = -21;
/// The bytes are not those that were written.
pub const SKIM_STATUS_CHECKSUM: i32 = -22;
/// A format version that this library does not know.
pub const SKIM_STATUS_VERSION: i32 = -23;
/// A model family or option that this library does not implement.
pub const SKIM_STATUS_UNSUPPORTED: i32 = -24;
/// The model's configuration is malformed.
pub const SKIM_STATUS_CONFIG: i32 = -25;
/// The tokenizer is missing or malformed.
pub const SKIM_STATUS_TOKENIZER: i32 = -26;
/// The chat template is missing, malformed, or refused the messages.
pub const SKIM_STATUS_TEMPLATE: i32 = -27;
/// The reasoning specification is malformed.
pub const SKIM_STATUS_REASONING: i32 = -28;
/// The model does not know the route; the message lists those it knows.
pub const SKIM_STATUS_UNKNOWN_ROUTE: i32 = -29;
/// A token outside the vocabulary.
pub const SKIM_STATUS_TOKEN: i32 = -30;
/// The prompt, or what must follow it, exceeds the context.
pub const SKIM_STATUS_CONTEXT_FULL: i32 = -31;
/// More memory would be needed than is allowed or there.
pub const SKIM_STATUS_MEMORY: i32 = -32;
/// The device or its kernels refused.
pub const SKIM_STATUS_BACKEND: i32 = -33;
/// A record or field of a data file is malformed.
pub const SKIM_STATUS_DATA: i32 = -34;

/// What a function body returns: a status that is no error, or why it failed.
pub(crate) type Outcome<T = i32> = Result<T, Failure>;

/// Why a call failed, on its way to the caller.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: i32,
    /// The exact kind, such as `truncated`.
    pub(crate) kind: String,
    pub(crate) message: String,
    pub(crate) place: Option<String>,
    pub(crate) hint: Option<String>,
}

impl Failure {
    pub(crate) fn new(status: i32, kind: &str, message: impl Into<String>) -> Failure {
        Failure {
            status,
            kind: kind.to_owned(),
            message: message.into(),
            place: None,
            hint: None,
        }
    }

    pub(crate) fn argument(message: impl Into<String>) -> Failure {
        Failure::new(SKIM_STATUS_INVALID_ARGUMENT, "argument", message)
    }

    pub(crate) fn state(message: impl Into<String>) -> Failure {
        Failure::new(SKIM_STATUS_STATE, "state", message)
    }

    pub(crate) fn at(mut self, place: impl Into<String>) -> Failure {
        self.place = Some(place.into());
        self
    }

    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure {
            status: status_of(error.kind()),
            kind: snake_case(&format!("{:?}", error.kind())),
            message: error.message().to_owned(),
            place: error.place().map(str::to_owned),
            hint: error.hint().map(str::to_owned),
        }
    }
}

fn status_of(kind: ErrorKind) -> i32 {
    match kind {
        ErrorKind::Io => SKIM_STATUS_IO,
        ErrorKind::Format
        | ErrorKind::HeaderTooLarge
        | ErrorKind::Truncated
        | ErrorKind::TrailingBytes
        | ErrorKind::Offsets
        | ErrorKind::Misaligned
        | ErrorKind::Dtype
        | ErrorKind::Layout
        | ErrorKind::NonFinite
        | ErrorKind::MissingTensor
        | ErrorKind::Shape => SKIM_STATUS_FORMAT,
        ErrorKind::Version => SKIM_STATUS_VERSION,
        ErrorKind::Checksum => SKIM_STATUS_CHECKSUM,
        ErrorKind::Config => SKIM_STATUS_CONFIG,
        ErrorKind::Unsupported => SKIM_STATUS_UNSUPPORTED,
        ErrorKind::Tokenizer => SKIM_STATUS_TOKENIZER,
        ErrorKind::Template => SKIM_STATUS_TEMPLATE,
        ErrorKind::Reasoning => SKIM_STATUS_REASONING,
        ErrorKind::UnknownRoute => SKIM_STATUS_UNKNOWN_ROUTE,
        ErrorKind::Token => SKIM_STATUS_TOKEN,
        ErrorKind::ContextFull => SKIM_STATUS_CONTEXT_FULL,
        ErrorKind::Memory => SKIM_STATUS_MEMORY,
        ErrorKind::Cancelled => SKIM_STATUS_CANCELLED,
        ErrorKind::Backend => SKIM_STATUS_BACKEND,
        ErrorKind::Argument => SKIM_STATUS_INVALID_ARGUMENT,
        ErrorKind::Data => SKIM_STATUS_DATA,
        _ => SKIM_STATUS_OTHER,
    }
}

fn snake_case(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}
