//! Errors: owned objects that a failed call leaves behind.

use std::ffi::{CString, c_char};

use crate::guard;
use crate::object::{Object, reference};
use crate::status::{Failure, SKIM_STATUS_OK};
use crate::text::c_text;

/// Why a call failed. May go from thread to thread.
pub struct skim_error {
    status: i32,
    kind: CString,
    message: CString,
    place: CString,
    hint: CString,
}
impl Object for skim_error {
    const NAME: &'static str = "error";
}

impl skim_error {
    pub(crate) fn new(failure: Failure) -> skim_error {
        let Failure {
            status,
            kind,
            message,
            place,
            hint,
        } = failure;
        // As the runtime writes its errors: place, message, hint.
        let mut whole = place
            .as_ref()
            .map_or(String::new(), |place| format!("{place}: "));
        whole.push_str(&message);
        if let Some(hint) = &hint {
            whole.push_str("; ");
            whole.push_str(hint);
        }
        skim_error {
            status,
            kind: c_text(&kind),
            message: c_text(&whole),
            place: c_text(&place.unwrap_or_default()),
            hint: c_text(&hint.unwrap_or_default()),
        }
    }
}

/// The status that the failed call returned; SKIM_STATUS_OK for null.
///
/// Owner: `error` stays the caller's.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_error_status(error: *const skim_error) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe { reference(error) }.map_or(SKIM_STATUS_OK, |error| error.status)
}

/// What went wrong, for people: place, message, hint. Empty for null.
///
/// Owner: the text is the error's, valid until it is freed.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_error_message(error: *const skim_error) -> *const c_char {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe { field(error, |error| &error.message) }
}

/// The exact kind, such as "truncated" or "unknown_route". Kinds may be added. Empty for null.
///
/// Owner: the text is the error's, valid until it is freed.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_error_kind(error: *const skim_error) -> *const c_char {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe { field(error, |error| &error.kind) }
}

/// Where it went wrong: a file, a tensor, a field. Empty if there is no place.
///
/// Owner: the text is the error's, valid until it is freed.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_error_place(error: *const skim_error) -> *const c_char {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe { field(error, |error| &error.place) }
}

/// What can be done. Empty if there is no hint.
///
/// Owner: the text is the error's, valid until it is freed.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_error_hint(error: *const skim_error) -> *const c_char {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe { field(error, |error| &error.hint) }
}

/// Frees an error. Null does nothing.
///
/// Owner: takes `error`.
/// Threads: any; no other thread may use `error`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_error_free(error: *mut skim_error) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe { guard::free("skim_error_free", error, |_| Ok(())) }
}

/// A text of an error, or an empty one.
///
/// # Safety
/// As [`reference`].
unsafe fn field(error: *const skim_error, of: fn(&skim_error) -> &CString) -> *const c_char {
    // SAFETY: as the caller promises.
    unsafe { reference(error) }.map_or(c"".as_ptr(), |error| of(error).as_ptr())
}
