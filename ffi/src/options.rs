//! Options: settings by name, for whatever is opened or created next.

use std::ffi::c_char;
use std::sync::{Mutex, PoisonError};

use crate::error::skim_error;
use crate::guard;
use crate::knobs::{Settings, When, bounds};
use crate::object::{Handle, Object, optional};
use crate::status::{Outcome, SKIM_STATUS_OK};
use crate::text::{Out, name, optional_name};

/// Settings by name. A call that takes options uses the settings that concern it; none is required.
pub struct skim_options {
    settings: Mutex<Settings>,
}
impl Object for skim_options {
    const NAME: &'static str = "options";
}

impl skim_options {
    fn settings(&self) -> std::sync::MutexGuard<'_, Settings> {
        // A setting is changed in one assignment, so a panic elsewhere leaves nothing half done.
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where any setting may be made.
const EVERYWHERE: &[When] = &[When::Open, When::Session, When::Ask];

/// A copy of the settings; the defaults for null.
///
/// # Safety
/// As [`optional`].
pub(crate) unsafe fn settings_of(options: *const skim_options) -> Outcome<Settings> {
    // SAFETY: as the caller promises.
    let options = unsafe { optional(options)? };
    Ok(options.map_or_else(Settings::default, |options| options.settings().clone()))
}

/// Makes options in which nothing is set.
///
/// Owner: `*options` is the caller's, to free with skim_options_free; `*error` is the caller's.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_options_new(
    options: *mut *mut skim_options,
    error: *mut *mut skim_error,
) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe {
        guard::entry("skim_options_new", error, || {
            let out = Out::new(options, "options")?;
            out.write(
                Handle::new(skim_options {
                    settings: Mutex::default(),
                })
                .give(),
            );
            Ok(SKIM_STATUS_OK)
        })
    }
}

/// Sets `key` to `value`, both NUL-terminated UTF-8: numbers in decimal, `true` or `false`, words, or JSON where
/// skim_options_get_bounds says so. Null for `value` sets it back to its default. A model or session that was made before does
/// not change.
///
/// Owner: `key` and `value` stay the caller's, they are copied; `*error` is the caller's.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_options_set(
    options: *mut skim_options,
    key: *const c_char,
    value: *const c_char,
    error: *mut *mut skim_error,
) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe {
        guard::entry_on("skim_options_set", options, error, |options| {
            let (key, value) = (name(key, "key")?, optional_name(value, "value")?);
            options.settings().set(key, value, EVERYWHERE, None)?;
            Ok(SKIM_STATUS_OK)
        })
    }
}

/// The value of `key` as JSON; `null` where nothing was set and there is no default value.
///
/// Owner: `*value` is the caller's, to free with skim_string_free; `*error` is the caller's.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_options_get(
    options: *const skim_options,
    key: *const c_char,
    value: *mut *mut c_char,
    error: *mut *mut skim_error,
) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe {
        guard::entry_on("skim_options_get", options, error, |options| {
            let out = Out::new(value, "value")?;
            out.give_string(options.settings().get(name(key, "key")?, EVERYWHERE)?);
            Ok(SKIM_STATUS_OK)
        })
    }
}

/// What may be set, as JSON: `key`, `type`, `min`, `max`, `values`, `default`, `unit`, `about`, and `when` it takes effect. Null
/// for `key` lists every one.
///
/// Owner: `*bounds_json` is the caller's, to free with skim_string_free; `*error` is the caller's.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_options_get_bounds(
    key: *const c_char,
    bounds_json: *mut *mut c_char,
    error: *mut *mut skim_error,
) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe {
        guard::entry("skim_options_get_bounds", error, || {
            let out = Out::new(bounds_json, "bounds_json")?;
            out.give_string(bounds(optional_name(key, "key")?, EVERYWHERE, None)?);
            Ok(SKIM_STATUS_OK)
        })
    }
}

/// Frees options. Null does nothing. What was made from them is not concerned.
///
/// Owner: takes `options`.
/// Threads: any; no other thread may use `options`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_options_free(options: *mut skim_options) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe { guard::free("skim_options_free", options, |_| Ok(())) }
}
