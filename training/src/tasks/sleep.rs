//! The sleep task of [`crate::sleep`] with splits.
//!
//! A night's record and not the question after it decides on the split: a student must not have seen a test night under another question.
//! Skippable are definitions and fillers, which carry no number; conclusions and recommendations put the answer into words and stay.

use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::data::Row;
use crate::sleep::{Role, generate, rows};

/// The sleep task; it has no parameters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(deny_unknown_fields)]
pub struct Sleep {}

/// The questions about one night, which share a group.
pub(super) fn draw(group: &str, rng: &mut impl Rng) -> Vec<Row> {
    let night = generate::night(rng);
    let mut rows = rows::of_night(&night, group, rows::QUESTIONS_PER_NIGHT, rng);
    for row in &mut rows {
        let carries_nothing = |role: &Role| matches!(role, Role::Definition | Role::Filler);
        row.skippable = row.roles.iter().map(carries_nothing).collect();
    }
    rows
}

/// The record of the night: all but the last line of the prompt.
pub(super) fn record(question: &str) -> &str {
    question
        .rsplit_once('\n')
        .map_or(question, |(record, _)| record)
}
