//! Rows that change while a student learns: which part of each row is learned now, and how much of it is there.

use std::fmt::Debug;

use serde_json::Value;

use crate::data::TokenizedRow;
use crate::error::Result;
use crate::student::Student;

/// That the rows are other ones from now on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Whether the optimizer forgets its moments.
    pub restarts_optimizer: bool,
    /// Floating-point operations that finding the new rows took.
    pub flops: u64,
}

/// A selection of rows that may change on the way.
///
/// What it remembers is saved with every checkpoint, so that a run that goes on is the run that never stopped.
pub trait Curriculum: Debug + Send {
    /// Called before every optimizer step but a run's first with `epoch_ended` false, and with true when all rows have been used, step 0 included.
    /// `Some` if the rows are other ones from this step on.
    ///
    /// # Errors
    /// If the student cannot read the rows.
    fn advance(
        &mut self,
        step: u64,
        epoch_ended: bool,
        student: &Student,
    ) -> Result<Option<Change>>;

    /// The present rows: a function of what [`Curriculum::state`] tells.
    ///
    /// # Errors
    /// If a row cannot be made.
    fn rows(&self) -> Result<Vec<TokenizedRow>>;

    /// What must be remembered.
    fn state(&self) -> Value;

    /// Takes back what [`Curriculum::state`] told.
    ///
    /// # Errors
    /// If it is of another curriculum.
    fn restore(&mut self, state: Value) -> Result<()>;
}
