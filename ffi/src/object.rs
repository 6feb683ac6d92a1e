//! Handles: pointers that C holds, turned into references after everything that can be checked was checked.
//!
//! Every handle begins its life as a `Box` and carries a tag that says what it is. Null, misaligned and tiny addresses are
//! refused without being read; a handle of another type, or one that was freed and not yet reused, has another tag. What cannot
//! be checked is an address that was never a handle.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::status::{Failure, Outcome};

/// No handle lies on the first page: it is never mapped.
const FIRST_PAGE: usize = 4096;

/// What every handle carries.
pub(crate) struct Head {
    tag: AtomicU64,
    poisoned: AtomicBool,
}

impl Head {
    pub(crate) fn of<T: Object>() -> Head {
        Head {
            tag: AtomicU64::new(tag_of(T::NAME)),
            poisoned: AtomicBool::new(false),
        }
    }

    pub(crate) fn poison(&self) {
        self.poisoned.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::Relaxed)
    }
}

/// A type whose pointers C holds.
///
/// # Safety
/// `HEAD` is the offset of a [`Head`] in the type.
pub(crate) unsafe trait Object {
    /// Its name in C, without the prefix.
    const NAME: &'static str;
    /// Where its head lies.
    const HEAD: usize;

    /// Its head.
    fn head(&self) -> &Head;
}

/// Implements [`Object`] for a type with a field `head`.
macro_rules! object {
    ($type:ty, $name:literal) => {
        // SAFETY: the offset is that of the field.
        unsafe impl crate::object::Object for $type {
            const NAME: &'static str = $name;
            const HEAD: usize = std::mem::offset_of!($type, head);

            fn head(&self) -> &crate::object::Head {
                &self.head
            }
        }
    };
}
pub(crate) use object;

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
/// `pointer` is null, or comes from [`into_handle`] and was not freed, and nobody frees it while the reference is used. Other
/// pointers are refused where that can be seen.
pub(crate) unsafe fn reference<'a, T: Object>(pointer: *const T) -> Outcome<&'a T> {
    check_address(pointer, T::NAME)?;
    // SAFETY: a live handle, so its head is readable; it is only accessed through atomics.
    let head = unsafe { &*pointer.byte_add(T::HEAD).cast::<Head>() };
    if head.tag.load(Ordering::Relaxed) != tag_of(T::NAME) {
        let message = format!("{0} is not a skim_{0}, or was freed", T::NAME);
        return Err(Failure::argument(message));
    }
    // SAFETY: a live handle of this type, of which C only ever holds the address.
    Ok(unsafe { &*pointer })
}

/// [`reference`] of a handle that may be left out.
///
/// # Safety
/// As [`reference`].
pub(crate) unsafe fn optional<'a, T: Object>(pointer: *const T) -> Outcome<Option<&'a T>> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: as the caller promises.
    unsafe { reference(pointer) }.map(Some)
}

/// Gives an object to C.
pub(crate) fn into_handle<T: Object>(object: T) -> *mut T {
    Box::into_raw(Box::new(object))
}

/// Takes an object back from C and drops it.
///
/// # Safety
/// As [`reference`], and no other reference is in use.
pub(crate) unsafe fn drop_handle<T: Object>(pointer: *mut T) -> Outcome<()> {
    // SAFETY: as the caller promises.
    unsafe { reference(pointer)? }
        .head()
        .tag
        .store(0, Ordering::Relaxed);
    // SAFETY: it came from `into_handle`, and its tag was still there: this is the first time that it is freed.
    drop(unsafe { Box::from_raw(pointer) });
    Ok(())
}
