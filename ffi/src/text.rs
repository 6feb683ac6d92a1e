//! Text and out-parameters: what crosses the boundary besides handles.

use std::ffi::{CStr, CString, c_char, c_void};

use crate::guard;
use crate::object::check_address;
use crate::status::{Failure, Outcome, SKIM_STATUS_OK};

/// Frees a string that the library gave away. Null does nothing.
///
/// Owner: takes `text`.
/// Threads: any; no other thread may use `text`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_string_free(text: *mut c_char) -> i32 {
    // SAFETY: no error is asked for.
    unsafe {
        guard::entry("skim_string_free", std::ptr::null_mut(), || {
            if !text.is_null() {
                check_address(text, "text")?;
                // SAFETY: the caller gives back what `give_string` gave.
                drop(CString::from_raw(text));
            }
            Ok(SKIM_STATUS_OK)
        })
    }
}

/// An out-parameter that was checked and may be written once the call succeeds.
pub(crate) struct Out<T>(*mut T);

impl<T> Out<T> {
    /// # Safety
    /// `pointer` is null or may be written to.
    pub(crate) unsafe fn new(pointer: *mut T, what: &str) -> Outcome<Out<T>> {
        check_address(pointer, what)?;
        Ok(Out(pointer))
    }

    pub(crate) fn write(self, value: T) {
        // SAFETY: `new` had this promised.
        unsafe { self.0.write(value) };
    }
}

impl Out<u32> {
    /// Writes several values from this address on.
    ///
    /// # Safety
    /// There is room for all of them.
    pub(crate) unsafe fn write_all(self, values: &[u32]) {
        // SAFETY: as the caller promises; the values are the library's own.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), self.0, values.len()) };
    }
}

impl Out<*mut c_char> {
    /// Writes a string that the caller frees with [`skim_string_free`].
    pub(crate) fn give_string(self, text: String) {
        self.write(c_text(&text).into_raw());
    }
}

/// `text` for C; a NUL inside, at which C would stop reading, becomes U+FFFD.
pub(crate) fn c_text(text: &str) -> CString {
    match CString::new(text) {
        Ok(text) => text,
        Err(_) => CString::new(text.replace('\0', "\u{fffd}")).unwrap_or_default(),
    }
}

/// A NUL-terminated argument.
///
/// # Safety
/// `text` is null or ends in a NUL, and does not change while it is used.
pub(crate) unsafe fn c_str<'a>(text: *const c_char, what: &str) -> Outcome<&'a CStr> {
    check_address(text, what)?;
    // SAFETY: as the caller promises.
    Ok(unsafe { CStr::from_ptr(text) })
}

/// A NUL-terminated argument in UTF-8.
///
/// # Safety
/// As [`c_str`].
pub(crate) unsafe fn name<'a>(text: *const c_char, what: &str) -> Outcome<&'a str> {
    // SAFETY: as the caller promises.
    let bytes = unsafe { c_str(text, what)? }.to_bytes();
    utf8(bytes, what)
}

/// [`name`] of an argument that may be left out.
///
/// # Safety
/// As [`c_str`].
pub(crate) unsafe fn optional_name<'a>(
    text: *const c_char,
    what: &str,
) -> Outcome<Option<&'a str>> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: as the caller promises.
    unsafe { name(text, what) }.map(Some)
}

/// `len` elements from outside; null stands for none at all.
///
/// # Safety
/// `data` is null or has `len` elements that do not change while they are used.
pub(crate) unsafe fn slice<'a, T: Copy>(
    data: *const T,
    len: usize,
    what: &str,
) -> Outcome<&'a [T]> {
    if len == 0 {
        return Ok(&[]);
    }
    check_address(data, what)?;
    let bytes = len.checked_mul(size_of::<T>());
    if bytes.is_none_or(|bytes| bytes > isize::MAX as usize) {
        let message = format!("{what} has {len} elements, more than memory can hold");
        return Err(Failure::argument(message));
    }
    // SAFETY: as the caller promises; the address and the length are possible ones.
    Ok(unsafe { std::slice::from_raw_parts(data, len) })
}

/// `len` bytes of UTF-8.
///
/// # Safety
/// As [`slice`].
pub(crate) unsafe fn text<'a>(data: *const c_char, len: usize, what: &str) -> Outcome<&'a str> {
    // SAFETY: as the caller promises.
    let bytes = unsafe { slice(data.cast::<u8>(), len, what)? };
    utf8(bytes, what)
}

fn utf8<'a>(bytes: &'a [u8], what: &str) -> Outcome<&'a str> {
    std::str::from_utf8(bytes)
        .map_err(|error| Failure::argument(format!("{what} is not UTF-8: {error}")))
}

/// What the app gave along with a callback, and how to give it back. Dropping it calls the destructor, once.
pub(crate) struct UserData {
    pub(crate) pointer: *mut c_void,
    destroy: skim_destroy,
}

/// Called once, when the library no longer needs `user_data`. It must not throw, and not call back into the handle it was given to.
pub type skim_destroy = Option<unsafe extern "C" fn(user_data: *mut c_void)>;

// SAFETY: the library never looks behind the pointer. It hands it to the callback and the destructor that came with it, and the
// header says from which threads that happens, so whoever gives it promises that it may be used there.
unsafe impl Send for UserData {}
// SAFETY: as above; through `&UserData` only the address can be read.
unsafe impl Sync for UserData {}

impl UserData {
    pub(crate) fn new(pointer: *mut c_void, destroy: skim_destroy) -> UserData {
        UserData { pointer, destroy }
    }
}

impl Drop for UserData {
    fn drop(&mut self) {
        if let Some(destroy) = self.destroy {
            // SAFETY: the header asks for a function that may be called with what came along with it, once.
            unsafe { destroy(self.pointer) };
        }
    }
}
