//! Experiments: methods × tasks × seeds, equal steps and equal learning-rate sweeps, a report that says what is resolved.
//!
//! ```text
//! FILE.toml ─prepare─▶ rows, tokenizer of each task
//!     ├─cell: method, task, seed, learning rate ─teach─▶ checkpoint ─export─▶ bundle ─runtime─▶ result.json   one process each
//!     ├─cell …
//!     └─time every chosen bundle alone ─▶ timing.json
//! all result.json ─▶ report.json, report.md, pareto-TASK.svg        all timing.json ─▶ timings.json
//! ```
//!
//! The first seed is taught at every learning rate; the rate with the highest accuracy on the validation rows is taken for the other seeds (ties go
//! to the rate that stands first). Nothing is chosen on test rows.
//!
//! A cell's `result.json` appears whole or not at all and holds no time and no path, so a grid that was killed and started again has the report of one
//! that never stopped, byte for byte. A cell whose definition has changed is done again.

mod cell;
mod evaluate;
mod interventions;
mod markdown;
mod plot;
mod prepare;
mod publish;
mod report;
mod routing;
mod run;
mod spec;
pub mod stats;

pub use cell::{CellId, Items, Record, Skips, Timing};
pub use interventions::Interventions;
pub use markdown::markdown;
pub use publish::publish;
pub use report::{
    Comparison, Difference, MethodReport, Proportion, Report, Retrieval, SeedReport, TaskReport,
    compare,
};
pub use routing::{Routing, RuleOutcome};
pub use run::{RunOptions, run, run_cell};
pub use spec::{Adam, Course, Evaluation, MethodEntry, Rows, Spec, TaskEntry};
