//! The sleep task: nights, questions, and a rule-based teacher that thinks aloud.
//!
//! ```text
//! night (generated or a CSV of real ones) ─▶ record text + question ─teacher─▶ chunks + answer ─▶ row.jsonl
//! ```
//!
//! [`definitions`] holds the published definitions and thresholds with their sources, [`arithmetic`] the steps that a chain is made of,
//! [`solve`] what each [`Kind`] asks for, [`teacher`] the chain around it, [`phrases`] the varied words around them, [`generate`] and [`nights`] the inputs.
//! The teacher reports and compares; it never diagnoses. Red flags refer to a clinician.

pub mod arithmetic;
pub mod command;
pub mod definitions;
pub mod generate;
pub mod kind;
pub mod nights;
pub mod phrases;
pub mod rows;
pub mod solve;
pub mod teacher;

pub use kind::Kind;
pub use teacher::{Chunk, Lesson, Role};
