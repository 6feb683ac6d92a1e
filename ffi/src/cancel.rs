//! Cancel handles: stop a session's work from anywhere.

use skimstone::CancelHandle;

use crate::guard;
use crate::object::{Handle, Object, reference};
use crate::status::SKIM_STATUS_OK;

/// Stops the work of one session. Outlives it without harm.
pub struct skim_cancel {
    flag: CancelHandle,
}
impl Object for skim_cancel {
    const NAME: &'static str = "cancel";
}

/// Gives a flag to C.
pub(crate) fn handle(flag: CancelHandle) -> *mut skim_cancel {
    Handle::new(skim_cancel { flag }).give()
}

/// Asks the session to stop. The question that is being answered finishes with what it has and the finish reason "cancelled",
/// within one layer of one chunk of the prompt or one step. Without a question it does nothing: the next skim_session_begin takes
/// the request back.
///
/// Owner: `cancel` stays the caller's.
/// Threads: any, at any time, also in a signal handler: one atomic store, without lock or allocation.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_cancel_trigger(cancel: *const skim_cancel) -> i32 {
    // Not through the guard: it may allocate. Nothing here can panic.
    if cancel.is_null() {
        return crate::status::SKIM_STATUS_INVALID_ARGUMENT;
    }
    // SAFETY: the caller keeps the conventions of the header.
    match unsafe { reference(cancel) } {
        Ok(cancel) => {
            cancel.flag.cancel();
            SKIM_STATUS_OK
        }
        Err(failure) => failure.status,
    }
}

/// Frees a cancel handle. Null does nothing. The session is not concerned.
///
/// Owner: takes `cancel`.
/// Threads: any; no other thread or signal handler may use `cancel`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn skim_cancel_free(cancel: *mut skim_cancel) -> i32 {
    // SAFETY: the caller keeps the conventions of the header.
    unsafe { guard::free("skim_cancel_free", cancel, |_| Ok(())) }
}
