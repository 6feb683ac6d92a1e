//! The C ABI over `skimstone`: `libskimstone` and the header `include/skimstone.h`, which is generated from this crate.
//!
//! ```text
//! extern "C" fn skim_…   one file per C type: bundle, model, session, event, cancel, options, error, log
//!    └─ guard             panics end here; the handle that they went through is poisoned
//!        └─ object        pointer ⇄ owner; null, misaligned, foreign and freed handles are refused
//!            └─ text      pointer + length ⇄ str; out-parameters
//! ```
//!
//! The rules of the ABI stand at the top of the header and in `ABI.md`. Every function names who owns what (`Owner:`) and which
//! threads may call it (`Threads:`); a test keeps it so. What this crate adds to the runtime is only this boundary: events are
//! those of [`Engine`](skimstone::reason::Engine), with their fields as JSON, so that a new event or field changes no symbol.

#![allow(
    unsafe_code,
    reason = "a C ABI: pointers come in, exported names go out"
)]
#![allow(
    non_camel_case_types,
    reason = "the types have the names that they have in C"
)]
#![allow(
    clippy::missing_safety_doc,
    reason = "the promises of a C caller are the conventions at the top of the header, and `Owner:` and `Threads:` of each function"
)]

pub mod bundle;
pub mod cancel;
pub mod error;
pub mod event;
mod guard;
mod knobs;
pub mod log;
pub mod memory;
pub mod model;
mod object;
pub mod options;
mod reserve;
pub mod session;
#[cfg(feature = "experimental")]
pub mod sleep;
pub mod status;
#[cfg(test)]
mod tests;
pub mod text;
pub mod version;
