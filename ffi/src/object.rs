//! Handles: pointers that C holds, turned into references after everything that can be checked was checked.
//!
//! Every handle begins its life as a `Box` and carries a tag that says what it is. Null, misaligned and tiny addresses are
//! refused without being read; a handle of another type, or one that was freed and not yet reused, has another tag. What cannot
//! be checked is an address that was never a handle.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::status::{Failure, Outcome};

/// No handle lies on the first page: it is never mapped.
const FIRST_PAGE: usize = 4096;

/// A type whose pointers C holds.
pub(crate) trait Object {
    /// Its name in C, without the prefix.
    const NAME: &'static str;
}

/// What a pointer of C really points to. The tag comes first in every handle, so that it can be read of one of another type, too.
#[repr(C)]
pub(crate) struct Handle<T> {
    tag: AtomicU64,
    poisoned: AtomicBool,
    /// Whether C may look at it, but not free it.
    lent: AtomicBool,
    object: T,
}

impl<T: Object> Handle<T> {
    pub(crate) fn new(object: T) -> Handle<T> {
        Handle {
            tag: AtomicU64::new(tag_of(T::NAME)),
            poisoned: AtomicBool::new(false),
            lent: AtomicBool::new(false),
            object,
        }
    }

    /// The address, for C to look at as long as this lives.
    pub(crate) fn lend(&self) -> *const T {
        self.lent.store(true, Ordering::Relaxed);
        std::ptr::from_ref(self).cast()
    }

    /// Gives it to C.
    pub(crate) fn give(self) -> *mut T {
        self.lent.store(false, Ordering::Relaxed);
        Box::into_raw(Box::new(self)).cast()
    }

    pub(crate) fn poison(&self) {
        self.poisoned.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::Relaxed)
    }
}

impl<T> Deref for Handle<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.object
    }
}

/// 64-bit FNV-1a, so that no number has to be invented for each type.
const fn tag_of(name: &str) -> u64 {
    let (bytes, mut hash, mut i) = (name.as_bytes(), 0xcbf2_9ce4_8422_2325_u64, 0);
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u64).wrapping_mul(0x0100_0000_01b3);
        i += 1;
    }
    hash
}

/// Refuses addresses at which no `T` can be.
pub(crate) fn check_address<T>(pointer: *const T, what: &str) -> Outcome<()> {
    if pointer.is_null() {
        return Err(Failure::argument(format!("{what} is null")));
    }
    if pointer.addr() < FIRST_PAGE || !pointer.is_aligned() {
        let message = format!(
            "{what} is {:#x}, which is no address of one",
            pointer.addr()
        );
        return Err(Failure::argument(message));
    }
    Ok(())
}

/// The object behind a handle.
///
/// # Safety
/// `pointer` is null, or comes from [`Handle::give`] or [`Handle::lend`], was not freed, and nobody frees it while the reference is
/// used. Other pointers are refused where that can be seen.
pub(crate) unsafe fn reference<'a, T: Object>(pointer: *const T) -> Outcome<&'a Handle<T>> {
    let pointer = pointer.cast::<Handle<T>>();
    check_address(pointer, T::NAME)?;
    // SAFETY: a live handle of some type, which begins with its tag.
    let tag = unsafe { &*pointer.cast::<AtomicU64>() };
    if tag.load(Ordering::Relaxed) != tag_of(T::NAME) {
        let message = format!("{0} is not a skim_{0}, or was freed", T::NAME);
        return Err(Failure::argument(message));
    }
    // SAFETY: a live handle, by its tag of this type.
    Ok(unsafe { &*pointer })
}

/// [`reference`] of a handle that may be left out.
///
/// # Safety
/// As [`reference`].
pub(crate) unsafe fn optional<'a, T: Object>(pointer: *const T) -> Outcome<Option<&'a Handle<T>>> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: as the caller promises.
    unsafe { reference(pointer) }.map(Some)
}

/// Takes an object back from C and drops it.
///
/// # Safety
/// As [`reference`] of what [`Handle::give`] gave, and no other reference is in use.
pub(crate) unsafe fn drop_handle<T: Object>(pointer: *mut T) -> Outcome<()> {
    // SAFETY: as the caller promises.
    let handle = unsafe { reference(pointer)? };
    if handle.lent.load(Ordering::Relaxed) {
        let message = format!("the {} is only lent to this call", T::NAME);
        return Err(Failure::argument(message));
    }
    handle.tag.store(0, Ordering::Relaxed);
    // SAFETY: it came from a box of this type, and its tag was still there: this is the first time that it is freed.
    drop(unsafe { Box::from_raw(pointer.cast::<Handle<T>>()) });
    Ok(())
}
