//! The boundary: no panic passes it, every failure becomes a status and, where the caller asked for it, an error.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use crate::error::skim_error;
use crate::object::{Handle, Object, check_address, drop_handle, reference};
use crate::status::{Failure, Outcome, SKIM_STATUS_OK, SKIM_STATUS_PANIC, SKIM_STATUS_POISONED};

thread_local! {
    /// Calls into this library that this thread is in.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
    /// Where the last panic of this thread came from.
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs the body of a function that has no handle of its own.
///
/// # Safety
/// `error` is null or may be written to.
pub(crate) unsafe fn entry(
    function: &'static str,
    error: *mut *mut skim_error,
    body: impl FnOnce() -> Outcome,
) -> i32 {
    let outcome = run(function, body).unwrap_or_else(Err);
    // SAFETY: as the caller promises.
    unsafe { report(error, outcome) }
}

/// Runs the body of a function of the handle `this`, which a panic poisons.
///
/// # Safety
/// `error` is null or may be written to; `this` as in [`reference`].
pub(crate) unsafe fn entry_on<T: Object>(
    function: &'static str,
    this: *const T,
    error: *mut *mut skim_error,
    body: impl FnOnce(&T) -> Outcome,
) -> i32 {
    // SAFETY: as the caller promises.
    let outcome = unsafe { reference(this) }.and_then(|object| {
        if object.is_poisoned() {
            return Err(poisoned(T::NAME));
        }
        run(function, || body(object)).unwrap_or_else(|panic| {
            object.poison();
            Err(panic)
        })
    });
    // SAFETY: as the caller promises.
    unsafe { report(error, outcome) }
}

/// Frees a handle, null included. `ready` may refuse.
///
/// # Safety
/// As [`drop_handle`], for a handle that is not null.
pub(crate) unsafe fn free<T: Object>(
    function: &'static str,
    this: *mut T,
    ready: impl FnOnce(&T) -> Outcome<()>,
) -> i32 {
    if this.is_null() {
        return SKIM_STATUS_OK;
    }
    let body = || {
        // SAFETY: as the caller promises.
        ready(unsafe { reference(this)? })?;
        // SAFETY: as the caller promises; the reference above is gone.
        unsafe { drop_handle(this)? };
        Ok(SKIM_STATUS_OK)
    };
    let outcome = run(function, body).unwrap_or_else(Err);
    outcome.unwrap_or_else(|failure| failure.status)
}

/// Runs `body`; a panic is the outer error.
fn run(function: &'static str, body: impl FnOnce() -> Outcome) -> Result<Outcome, Failure> {
    install_hook();
    DEPTH.set(DEPTH.get() + 1);
    // What a panic leaves half done is behind the handle, which is refused from then on.
    let result = catch_unwind(AssertUnwindSafe(|| {
        injected_panic(function);
        body()
    }));
    DEPTH.set(DEPTH.get() - 1);
    result.map_err(|payload| {
        let what = message_of(payload.as_ref());
        // Dropping a payload of unknown type could panic again.
        if !payload.is::<&str>() && !payload.is::<String>() {
            std::mem::forget(payload);
        }
        let place = PLACE.take();
        log::error!("{function}: panicked: {what}");
        Failure {
            place,
            ..Failure::new(
                SKIM_STATUS_PANIC,
                "panic",
                format!("{function} panicked: {what}"),
            )
        }
        .with_hint("this is a bug in the library; free the handle, and report it")
    })
}

fn poisoned(name: &str) -> Failure {
    let message = format!("an earlier call on this {name} panicked");
    Failure::new(SKIM_STATUS_POISONED, "poisoned", message).with_hint("free it and make a new one")
}

fn message_of(payload: &(dyn Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned());
    let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "no message".to_owned())
}

/// A panic that is caught here is told as a status, not printed to the app's standard error.
fn install_hook() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let other = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            // `try_with`: a thread may panic while its locals are destroyed.
            if DEPTH.try_with(Cell::get).unwrap_or(0) == 0 {
                return other(info);
            }
            let _ = PLACE.try_with(|place| {
                *place.borrow_mut() = info.location().map(ToString::to_string);
            });
        }));
    });
}

/// Turns an outcome into what C sees.
///
/// # Safety
/// `error` is null or may be written to.
unsafe fn report(error: *mut *mut skim_error, outcome: Outcome) -> i32 {
    match outcome {
        Ok(status) => status,
        Err(failure) => {
            let status = failure.status;
            if check_address(error, "error").is_ok() {
                // SAFETY: as the caller promises.
                unsafe { error.write(Handle::new(skim_error::new(failure)).give()) };
            }
            status
        }
    }
}

#[cfg(not(test))]
fn injected_panic(_function: &'static str) {}

#[cfg(test)]
use crate::tests::injected_panic;
