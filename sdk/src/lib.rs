//! sdk
#[cfg(feature = "sleep")]
pub mod sleep;
