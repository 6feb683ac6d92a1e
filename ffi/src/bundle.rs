//! Bundles: opened from a path, a file descriptor or memory, and looked at before anything is loaded.

use std::ffi::{c_char, c_void};
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use skimstone::{Bundle, OpenOptions, memory};

use crate::error::skim_error;
use crate::guard;
use crate::knobs::Settings;
use crate::object::{Handle, Object};
use crate::options::{settings_of, skim_options};
use crate::status::{Failure, Outcome, SKIM_STATUS_MEMORY, SKIM_STATUS_OK};
use crate::text::{Out, UserData, c_str, skim_destroy, slice};

/// An open bundle: one file with weights, configuration and tokenizer. Immutable.
pub struct skim_bundle {
    pub(crate) bundle: Arc<Bundle>,
}
impl Object for skim_bundle {
    const NAME: &'static str = "bundle";
}

fn handle(bundle: Bundle) -> *mut skim_bundle {
    Handle::new(skim_bundle {
        bundle: Arc::new(bundle),
    })
    .give()
}

/// Opens the bundle at `path`: maps it, checks its header and structure, and unless `verify` is false its checksums, which reads
/// the whole file. The file must not be changed in place while it is open; replacing it by a rename is fine. `path` is
/// NUL-terminated: UTF-8, on Unix any bytes. Uses `verify`, `copy_weights` and `max_bytes` of `options`, which may be null.
///
/// Owner: `*bundle` is the caller's, to free with skim_bundle_free; `*error` is the caller's.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_bundle_open(
    path: *const c_char,
    options: *const skim_options,
    bundle: *mut *mut skim_bundle,
    error: *mut *mut skim_error,
) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe {
        guard::entry("skim_bundle_open", error, || {
            let out = Out::new(bundle, "bundle")?;
            let (path, settings) = (path_of(path)?, settings_of(options)?);
            out.write(handle(open_path(path, &settings)?));
            Ok(SKIM_STATUS_OK)
        })
    }
}

/// Opens a bundle that is a part of an open file, such as an uncompressed asset of an APK: `length` bytes from `offset` on, which
/// is a multiple of 64. A `length` of 0 means up to the end of the file. The descriptor is duplicated; the caller may close its
/// own at once, and its read position does not change. Not on Windows. Otherwise as skim_bundle_open.
///
/// Owner: `fd` stays the caller's; `*bundle` is the caller's, to free with skim_bundle_free; `*error` is the caller's.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_bundle_open_fd(
    fd: i32,
    offset: u64,
    length: u64,
    options: *const skim_options,
    bundle: *mut *mut skim_bundle,
    error: *mut *mut skim_error,
) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe {
        guard::entry("skim_bundle_open_fd", error, || {
            let out = Out::new(bundle, "bundle")?;
            let settings = settings_of(options)?;
            let file = duplicate(fd)?;
            let end = match length {
                0 => file.metadata().map_err(|e| unusable(fd, &e))?.len(),
                length => offset.checked_add(length).ok_or_else(|| {
                    Failure::argument(format!("{length} bytes from byte {offset} on overflow"))
                })?,
            };
            out.write(handle(open_range(&file, offset..end, &settings)?));
            Ok(SKIM_STATUS_OK)
        })
    }
}

/// Opens a bundle in memory. Without `destroy` the bytes are copied. With it they are used in place, and must begin at a multiple
/// of 64 and stay unchanged until `destroy(user_data)` is called: once, when the last model made from the bundle is gone, on
/// the thread that frees it; also, before this function returns, if it fails. Otherwise as skim_bundle_open.
///
/// Owner: `data` stays the caller's without `destroy`, and is borrowed until that call with it; `*bundle` is the caller's, to
/// free with skim_bundle_free; `*error` is the caller's.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_bundle_open_memory(
    data: *const c_void,
    length: usize,
    destroy: skim_destroy,
    user_data: *mut c_void,
    options: *const skim_options,
    bundle: *mut *mut skim_bundle,
    error: *mut *mut skim_error,
) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe {
        guard::entry("skim_bundle_open_memory", error, || {
            // Made first, so that whatever fails below gives the caller's memory back.
            let owner = destroy.is_some().then(|| UserData::new(user_data, destroy));
            let bytes: &'static [u8] = slice(data.cast(), length, "data")?;
            let out = Out::new(bundle, "bundle")?;
            let settings = settings_of(options)?;
            let opened = match owner {
                Some(owner) => {
                    let shared = Borrowed {
                        bytes,
                        _owner: owner,
                    };
                    open_options(&settings).open_shared(Box::new(shared))?
                }
                None => {
                    check_cap(bytes.len() as u64, &settings)?;
                    open_options(&settings).open_bytes(bytes)?
                }
            };
            out.write(handle(opened));
            Ok(SKIM_STATUS_OK)
        })
    }
}

/// Memory of the caller, until its destructor is called.
struct Borrowed {
    /// Not longer than `_owner` lives: nobody gets at it but through `self`.
    bytes: &'static [u8],
    _owner: UserData,
}

impl AsRef<[u8]> for Borrowed {
    fn as_ref(&self) -> &[u8] {
        self.bytes
    }
}

/// Describes the bundle as JSON: `file_bytes`, `weight_bytes`, `tensors`, `config`, `reasoning` with the routes and the default
/// one, `provenance`, `tokenizer` and `chat_template` as whether they are there.
///
/// Owner: `*json` is the caller's, to free with skim_string_free; `*error` is the caller's.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_bundle_inspect(
    bundle: *const skim_bundle,
    json: *mut *mut c_char,
    error: *mut *mut skim_error,
) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe {
        guard::entry_on("skim_bundle_inspect", bundle, error, |bundle| {
            let out = Out::new(json, "json")?;
            out.give_string(describe(&bundle.bundle).to_string());
            Ok(SKIM_STATUS_OK)
        })
    }
}

/// The memory that a model of this bundle and `sessions` sessions of it will take, in bytes, before anything of it is taken:
/// `*file_backed` is mapped, and the system may drop and re-read it; `*anonymous` is what the app is charged for and `max_bytes`
/// limits. Uses `context`, `kv_format` and `copy_weights` of `options`, which may be null.
///
/// Owner: nothing but `*error`, which is the caller's.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_bundle_estimate(
    bundle: *const skim_bundle,
    options: *const skim_options,
    sessions: u32,
    file_backed: *mut u64,
    anonymous: *mut u64,
    error: *mut *mut skim_error,
) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe {
        guard::entry_on("skim_bundle_estimate", bundle, error, |bundle| {
            let file_backed = Out::new(file_backed, "file_backed")?;
            let anonymous = Out::new(anonymous, "anonymous")?;
            let settings = settings_of(options)?;
            let bundle = &bundle.bundle;
            let context = settings.model.context_for(bundle.config())?;
            let estimate =
                memory::estimate(bundle, context, sessions as usize, settings.model.kv_format);
            // A mapped bundle that will be copied counts in full.
            let copied = match settings.model.copy_weights && !bundle.is_copy() {
                true => bundle.file_bytes() as u64,
                false => 0,
            };
            file_backed.write(estimate.file_backed - copied);
            anonymous.write(estimate.anonymous + copied);
            Ok(SKIM_STATUS_OK)
        })
    }
}

/// Frees a bundle. Null does nothing. Models made from it keep what they need of it.
///
/// Owner: takes `bundle`.
/// Threads: any; no other thread may use `bundle`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_bundle_free(bundle: *mut skim_bundle) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe { guard::free("skim_bundle_free", bundle, |_| Ok(())) }
}

/// A path from C.
///
/// # Safety
/// As [`c_str`].
pub(crate) unsafe fn path_of<'a>(path: *const c_char) -> Outcome<&'a Path> {
    // SAFETY: as the caller promises.
    let path = unsafe { c_str(path, "path")? };
    path_of_bytes(path.to_bytes())
}

#[cfg(unix)]
fn path_of_bytes(path: &[u8]) -> Outcome<&Path> {
    use std::os::unix::ffi::OsStrExt;

    Ok(Path::new(std::ffi::OsStr::from_bytes(path)))
}

#[cfg(not(unix))]
fn path_of_bytes(path: &[u8]) -> Outcome<&Path> {
    let path = std::str::from_utf8(path);
    path.map(Path::new)
        .map_err(|error| Failure::argument(format!("path is not UTF-8: {error}")))
}

fn open_path(path: &Path, settings: &Settings) -> Outcome<Bundle> {
    if settings.model.copy_weights {
        // Told by the length, before anything is copied.
        let bytes = std::fs::metadata(path).map_or(0, |file| file.len());
        check_cap(bytes, settings)?;
    }
    Ok(open_options(settings).open(path)?)
}

fn open_range(file: &File, range: Range<u64>, settings: &Settings) -> Outcome<Bundle> {
    if settings.model.copy_weights {
        check_cap(range.end.saturating_sub(range.start), settings)?;
    }
    Ok(open_options(settings).open_file(file, Some(range))?)
}

fn open_options(settings: &Settings) -> OpenOptions {
    OpenOptions::new()
        .verify(settings.model.verify)
        .copy(settings.model.copy_weights)
}

/// Refuses a copy that the cap does not allow.
fn check_cap(bytes: u64, settings: &Settings) -> Outcome<()> {
    match settings.model.max_bytes {
        Some(cap) if bytes > cap => {
            let message =
                format!("{bytes} bytes of weights would be copied, the cap is {cap} bytes");
            Err(Failure::new(SKIM_STATUS_MEMORY, "memory", message)
                .with_hint("map the weights instead of copying them"))
        }
        _ => Ok(()),
    }
}

#[cfg(unix)]
fn duplicate(fd: i32) -> Outcome<File> {
    use std::os::fd::BorrowedFd;

    if fd < 0 {
        return Err(Failure::argument(format!("{fd} is no file descriptor")));
    }
    // SAFETY: not -1. A number that is not open makes the duplication fail; the borrow does not last longer.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    let owned = borrowed
        .try_clone_to_owned()
        .map_err(|e| unusable(fd, &e))?;
    Ok(owned.into())
}

#[cfg(not(unix))]
fn duplicate(_fd: i32) -> Outcome<File> {
    let message = "file descriptors are not supported on this system";
    Err(Failure::new(
        crate::status::SKIM_STATUS_UNSUPPORTED,
        "unsupported",
        message,
    )
    .with_hint("open the path, or memory"))
}

fn unusable(fd: i32, error: &std::io::Error) -> Failure {
    Failure::new(crate::status::SKIM_STATUS_IO, "io", error.to_string())
        .at(format!("file descriptor {fd}"))
}

/// A bundle as JSON.
pub(crate) fn describe(bundle: &Bundle) -> Value {
    let config = bundle.config();
    json!({
        "file_bytes": bundle.file_bytes(),
        "weight_bytes": bundle.weight_bytes(),
        "is_copy": bundle.is_copy(),
        "tensors": bundle.tensors().count(),
        "tokenizer": bundle.tokenizer_json().is_some(),
        "chat_template": bundle.chat_template().is_some(),
        "config": serde_json::from_str::<Value>(&config.to_json()).unwrap_or_default(),
        "reasoning": bundle.reasoning(),
        "provenance": bundle.provenance(),
    })
}
