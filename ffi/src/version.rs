//! Versions: of the ABI, which decides what can be linked, and of the library.

use std::ffi::c_char;

use crate::error::skim_error;
use crate::guard;
use crate::status::{Failure, SKIM_STATUS_ABI, SKIM_STATUS_OK};

/// Major number of the ABI: programs built for another one do not work with this library. Also in the library's name.
pub const SKIM_ABI_MAJOR: u32 = 0;

/// Minor number of the ABI: grows with every addition. A library serves programs built for the same or a lower one.
pub const SKIM_ABI_MINOR: u32 = 2;

/// The ABI that a program is built for; give it to skim_init.
pub const SKIM_ABI_VERSION: u32 = 2;

const _: () = assert!(SKIM_ABI_VERSION == SKIM_ABI_MAJOR << 16 | SKIM_ABI_MINOR);

/// Checks that this library serves programs built for `abi_version`, which is always SKIM_ABI_VERSION. Nothing is set up: no
/// other function needs this call, and it may be made any number of times.
///
/// Returns SKIM_STATUS_ABI if the library is too old or too new; use nothing else of it then.
///
/// Owner: `*error` is the caller's.
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_init(abi_version: u32, error: *mut *mut skim_error) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe {
        guard::entry("skim_init", error, || {
            let (major, minor) = (abi_version >> 16, abi_version & 0xffff);
            if major == SKIM_ABI_MAJOR && minor <= SKIM_ABI_MINOR {
                return Ok(SKIM_STATUS_OK);
            }
            let message = format!(
                "the program was built for ABI {major}.{minor}, this library has {SKIM_ABI_MAJOR}.{SKIM_ABI_MINOR}"
            );
            Err(Failure::new(SKIM_STATUS_ABI, "abi", message)
                .with_hint("link the library that the header came with"))
        })
    }
}

/// The ABI of the library that is loaded: major number × 65536 + minor number.
///
/// Owner: nothing changes hands.
/// Threads: any.
#[unsafe(no_mangle)]
pub extern "C" fn skim_abi_version() -> u32 {
    SKIM_ABI_VERSION
}

/// The version of the library that is loaded, such as "0.1.0".
///
/// Owner: the library's, for ever.
/// Threads: any.
#[unsafe(no_mangle)]
pub extern "C" fn skim_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}
