//! Distills chains of thought into small quantized students.
//!
//! ```text
//! rows.jsonl ─tokenizer─▶ tokenizer.json
//!     └─train (recipe.toml)─▶ checkpoints, events.jsonl, curve.svg ─export─▶ student.skim ─eval (through the runtime)─▶ card.json
//! ```
//!
//! A stage reads files and writes files; the recipe and hashes of its inputs are saved beside its outputs, so that a run can be repeated.

pub mod card;
pub mod checkpoint;
pub mod curriculum;
pub mod data;
pub mod error;
pub mod eval;
pub mod experiment;
pub mod export;
pub mod flops;
pub mod loss;
pub mod manifest;
pub mod methods;
pub mod ops;
pub mod optimizer;
pub mod pack;
pub mod pass;
pub mod pipeline;
pub mod progress;
pub mod recipe;
pub mod score;
pub mod skip;
pub mod sleep;
pub mod student;
pub mod tasks;
pub mod tokenize;
pub mod trainer;
pub mod unpack;

pub use error::{Error, Result};
