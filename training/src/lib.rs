//! training
pub mod sleep;
