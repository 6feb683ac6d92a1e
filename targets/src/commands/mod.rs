//! One module per command: its arguments, what it does, and what it tells.

pub(crate) mod bench;
pub(crate) mod build;
pub(crate) mod calibrate;
pub(crate) mod calibrate_effort;
pub(crate) mod calibrate_exits;
mod calibration;
pub(crate) mod doctor;
pub(crate) mod eval;
pub(crate) mod import;
pub(crate) mod inspect;
pub(crate) mod logits;
pub(crate) mod package;
pub(crate) mod plan;
pub(crate) mod run;
pub(crate) mod synth;
pub(crate) mod targets;
