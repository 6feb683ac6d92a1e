//! Rationales without some of their chunks: by the student's own judgement, by what a deletion costs, or at random.
//!
//! ```text
//! base (cot or cwt) ─▶ student ─deletion test on every row─▶ kept chunks ─train─▶ student ─▶ … rounds
//! ```
//!
//! All students of a method together make the experiment's optimizer steps: the base takes `base_share`, the rounds share the rest equally. Each
//! round tests the full rationales with the student of the round before. A row that the student does not solve keeps its full rationale.

use serde::{Deserialize, Serialize};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::chunks::{Chunker, Cwt};
use super::context::{COT, Context, Taught, Training};
use crate::checkpoint::load_student;
use crate::data::Row;
use crate::error::Result;
use crate::skip::{Criterion, Order, Rule, kept_chunks, without};

/// How the first student is taught.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Base {
    /// Full rationales.
    #[default]
    Cot,
    /// One chunk at a time; the shortened rationales, too.
    Cwt,
}

/// The deletion test of Skip-Thinking's second stage with the student itself: what the answer does not need goes.
///
/// Source: arXiv 2505.18642 by third-party notes; order, protection and margin are not public, so they are parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Stt {
    /// How the first student is taught.
    pub base: Base,
    /// Chunks of a rationale where `base` is `cwt`.
    pub chunks: usize,
    /// `cumulative` or `independent`.
    pub order: Order,
    /// Whether the first and the last chunk always stay.
    pub protect_ends: bool,
    /// Instead of an exact match: the most that the answer's log-probability may fall, in nats.
    pub margin: Option<f32>,
    /// Rounds of test and training, each with the student of the one before.
    pub rounds: usize,
    /// Share of the steps for the first student.
    pub base_share: f64,
    /// Rows that are tested and that the rounds learn from, the first ones; 0: all.
    pub round_rows: usize,
}

impl Default for Stt {
    fn default() -> Self {
        Stt {
            base: Base::Cot,
            chunks: 4,
            order: Order::Cumulative,
            protect_ends: false,
            margin: None,
            rounds: 1,
            base_share: 0.5,
            round_rows: 0,
        }
    }
}

/// A deletion stays when it costs the student little in the answer and in the numbers of the kept chunks. Ours.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeletionByCost {
    /// The most that a deletion may cost, in nats over the whole row.
    pub margin: f32,
    /// In which order chunks are tried.
    pub order: Order,
    /// Largest share of chunks that rows lose at random while the first student is taught, so that a gap alone does not confuse it.
    pub gaps: f64,
    /// Rounds of test and training.
    pub rounds: usize,
    /// Share of the steps for the first student.
    pub base_share: f64,
    /// Rows that are tested and that the rounds learn from, the first ones; 0: all.
    pub round_rows: usize,
}

impl Default for DeletionByCost {
    fn default() -> Self {
        DeletionByCost {
            margin: 0.7,
            order: Order::Joint,
            gaps: 0.5,
            rounds: 1,
            base_share: 0.5,
            round_rows: 0,
        }
    }
}

/// Chunks go at random: the control of every deletion test.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RandomDeletion {
    /// Share of chunks that go.
    pub rate: Option<f64>,
    /// Label of the method whose measured rate is taken, seed by seed.
    pub rate_of: Option<String>,
    /// Whether the first and the last chunk always stay; the others then go the more often.
    pub protect_ends: bool,
    /// Share of the steps on full rationales, as in the method that this one is held against.
    pub base_share: f64,
    /// Rows that are learned from afterwards, as in that method; 0: all.
    pub round_rows: usize,
}

impl Default for RandomDeletion {
    fn default() -> Self {
        RandomDeletion {
            rate: None,
            rate_of: None,
            protect_ends: false,
            base_share: 0.5,
            round_rows: 0,
        }
    }
}

/// What was deleted from training rows, against the truth where the task knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelStats {
    /// Rows.
    pub rows: usize,
    /// Rows that the student did not solve with the full rationale: left as they were.
    pub not_solved: usize,
    /// Chunks of all rows.
    pub chunks: usize,
    /// Chunks deleted.
    pub deleted: usize,
    /// Chunks of rows with truth.
    pub known: usize,
    /// Of these, chunks that may go.
    pub skippable: usize,
    /// Of these, deleted ones.
    pub deleted_known: usize,
    /// Chunks that may go and were deleted.
    pub hits: usize,
}

impl LabelStats {
    /// Share of chunks that were deleted.
    pub fn rate(&self) -> f64 {
        self.deleted as f64 / self.chunks.max(1) as f64
    }

    /// Counts a row of which the chunks `keep` stay.
    pub fn count(&mut self, row: &Row, keep: &[bool]) {
        self.rows += 1;
        self.chunks += keep.len();
        self.deleted += keep.iter().filter(|k| !**k).count();
        for (skippable, keep) in row.skippable.iter().zip(keep) {
            self.known += 1;
            self.skippable += usize::from(*skippable);
            self.deleted_known += usize::from(!keep);
            self.hits += usize::from(*skippable && !keep);
        }
    }
}

/// The decisions of a round, kept on disk: one string per row, `1` for each chunk that stays.
#[derive(Debug, Serialize, Deserialize)]
struct Decisions {
    flops: u64,
    stats: LabelStats,
    kept: Vec<String>,
}

/// Rows that are tested between two looks at the stop handle.
const ROWS_PER_BATCH: usize = 256;

fn check_rounds(rounds: usize, base_share: f64, steps: u64) -> Result<(), String> {
    if rounds == 0 {
        return Err("`rounds` is 0; expected at least 1".to_owned());
    }
    if !(0.0..1.0).contains(&base_share) || base_share == 0.0 {
        return Err(format!(
            "`base_share` is {base_share}; expected more than 0 and less than 1"
        ));
    }
    let base = base_steps(steps, base_share);
    if base == 0 || (steps - base) < rounds as u64 {
        return Err(format!(
            "{steps} steps leave {base} for the first student and {} for {rounds} rounds; every training needs at least 1",
            steps - base
        ));
    }
    Ok(())
}

fn base_steps(steps: u64, share: f64) -> u64 {
    (steps as f64 * share).round() as u64
}

/// Steps of round `round` (from 0): the rest in equal parts, what is left over goes to the first rounds.
fn round_steps(rest: u64, rounds: usize, round: usize) -> u64 {
    let (rounds, round) = (rounds as u64, round as u64);
    rest / rounds + u64::from(round < rest % rounds)
}

impl Stt {
    pub(super) fn check(&self, steps: u64) -> Result<(), String> {
        check_rounds(self.rounds, self.base_share, steps)?;
        super::chunks::check_chunks(self.chunks)?;
        if self.order == Order::Joint {
            return Err(
                "`order = \"joint\"` is a variant of ours; call the method `deletion-by-cost`"
                    .to_owned(),
            );
        }
        check_margin(self.margin.unwrap_or(0.0))
    }

    fn rule(&self) -> Rule {
        let (criterion, margin) = match self.margin {
            Some(margin) => (Criterion::AnswerProbability, margin),
            None => (Criterion::Answer, f32::INFINITY),
        };
        Rule {
            criterion,
            margin,
            order: self.order,
            protect_ends: self.protect_ends,
        }
    }

    pub(super) fn teach(&self, context: &Context) -> Result<Taught> {
        let cwt = (self.base == Base::Cwt).then(|| Cwt {
            chunks: self.chunks,
            chunker: Chunker::Average,
            ..Cwt::default()
        });
        let learn = |training: Training, rows: &[Row]| match &cwt {
            Some(cwt) => cwt.train(context, training, rows),
            None => learn_whole(context, training, rows),
        };
        let base = base_steps(context.spec.steps, self.base_share);
        let first = learn(named(context, "base", base, None), context.rows)?;
        let rows = first_rows(context, self.round_rows);
        rounds(context, rows, first, self.rounds, self.rule(), learn)
    }
}

fn check_margin(margin: f32) -> Result<(), String> {
    match margin >= 0.0 {
        true => Ok(()),
        false => Err(format!("`margin` is {margin}; expected nats, at least 0")),
    }
}

impl DeletionByCost {
    pub(super) fn check(&self, steps: u64) -> Result<(), String> {
        check_rounds(self.rounds, self.base_share, steps)?;
        if !(0.0..=1.0).contains(&self.gaps) {
            return Err(format!("`gaps` is {}; expected 0 to 1", self.gaps));
        }
        check_margin(self.margin)
    }

    pub(super) fn teach(&self, context: &Context) -> Result<Taught> {
        let rule = Rule {
            order: self.order,
            ..Rule::new(Criterion::AnswerAndNumbers, self.margin)
        };
        let base = base_steps(context.spec.steps, self.base_share);
        let mut rows = context.rows.to_vec();
        crate::skip::drop_at_random(&mut rows, self.gaps, context.seed);
        let first = learn_whole(context, named(context, "base", base, None), &rows)?;
        let tested = first_rows(context, self.round_rows);
        rounds(
            context,
            tested,
            first,
            self.rounds,
            rule,
            |training, rows| learn_whole(context, training, rows),
        )
    }
}

impl RandomDeletion {
    pub(super) fn check(&self, steps: u64) -> Result<(), String> {
        check_rounds(1, self.base_share, steps)?;
        match (self.rate, &self.rate_of) {
            (Some(rate), None) if (0.0..=1.0).contains(&rate) => Ok(()),
            (Some(rate), None) => Err(format!("`rate` is {rate}; expected 0 to 1")),
            (None, Some(_)) => Ok(()),
            _ => Err("expected either `rate` or `rate_of`, the label of a method".to_owned()),
        }
    }

    pub(super) fn teach(&self, context: &Context) -> Result<Taught> {
        let rate = self.rate.or(context.measured_rate).unwrap_or(0.0);
        let base = base_steps(context.spec.steps, self.base_share);
        let first = learn_whole(context, named(context, "base", base, None), context.rows)?;
        let rows = first_rows(context, self.round_rows);
        let decisions = context.kept("kept-1.json", || Ok(self.draw(rows, rate, context.seed)))?;
        let rows = apply(rows, &decisions);
        let rest = context.spec.steps - base;
        let mut taught = learn_whole(context, named(context, "round-1", rest, Some(first)), &rows)?;
        taught.labels = Some(decisions.stats);
        Ok(taught)
    }

    fn draw(&self, rows: &[Row], rate: f64, seed: u64) -> Decisions {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let is_free =
            |index: usize, chunks: usize| !self.protect_ends || (index > 0 && index + 1 < chunks);
        let all: usize = rows.iter().map(|row| row.chunks.len()).sum();
        let free: usize = rows
            .iter()
            .map(|row| (0..row.chunks.len()).filter(|i| is_free(*i, row.chunks.len())))
            .map(Iterator::count)
            .sum();
        // The stated rate is one of all chunks.
        let chance = (rate * all as f64 / free.max(1) as f64).min(1.0);
        let mut stats = LabelStats::default();
        let kept = rows.iter().map(|row| {
            let chunks = row.chunks.len();
            let keep: Vec<bool> = (0..chunks)
                .map(|index| !(is_free(index, chunks) && rng.random_bool(chance)))
                .collect();
            stats.count(row, &keep);
            mask(&keep)
        });
        let kept = kept.collect();
        Decisions {
            flops: 0,
            stats,
            kept,
        }
    }
}

fn named(context: &Context, name: &str, steps: u64, after: Option<Taught>) -> Training {
    Training {
        name: name.to_owned(),
        steps,
        after,
        ..context.training(COT)
    }
}

fn learn_whole(context: &Context, training: Training, rows: &[Row]) -> Result<Taught> {
    let rows = context.encode(&context.encoder()?, COT, rows)?;
    context.train_on(training, rows)
}

/// The first rows, all for 0.
fn first_rows<'a>(context: &Context<'a>, rows: usize) -> &'a [Row] {
    match rows {
        0 => context.rows,
        rows => &context.rows[..rows.min(context.rows.len())],
    }
}

/// Test and training in turn.
fn rounds(
    context: &Context,
    rows: &[Row],
    mut taught: Taught,
    rounds: usize,
    rule: Rule,
    learn: impl Fn(Training, &[Row]) -> Result<Taught>,
) -> Result<Taught> {
    let rest = context.spec.steps - taught.steps;
    for round in 0..rounds {
        let number = round + 1;
        let decisions = context.kept(&format!("kept-{number}.json"), || {
            judge(context, rows, &taught, rule)
        })?;
        let shorter = apply(rows, &decisions);
        taught.flops += decisions.flops;
        let steps = round_steps(rest, rounds, round);
        let training = named(context, &format!("round-{number}"), steps, Some(taught));
        taught = learn(training, &shorter)?;
        taught.labels = Some(decisions.stats);
    }
    Ok(taught)
}

/// The deletion test of a student on rows.
fn judge(context: &Context, rows: &[Row], taught: &Taught, rule: Rule) -> Result<Decisions> {
    let student = load_student(&taught.checkpoint)?;
    let encoder = context.encoder()?;
    let mut decisions = Decisions {
        flops: 0,
        stats: LabelStats::default(),
        kept: Vec::with_capacity(rows.len()),
    };
    for batch in rows.chunks(ROWS_PER_BATCH) {
        context.unless_stopped()?;
        let (kept, flops) = kept_chunks(&student, &encoder, COT, batch, rule)?;
        decisions.flops += flops;
        for (row, kept) in batch.iter().zip(kept) {
            decisions.stats.not_solved += usize::from(kept.is_none());
            let keep = kept.unwrap_or_else(|| vec![true; row.chunks.len()]);
            decisions.stats.count(row, &keep);
            decisions.kept.push(mask(&keep));
        }
    }
    Ok(decisions)
}

fn apply(rows: &[Row], decisions: &Decisions) -> Vec<Row> {
    let pairs = rows.iter().zip(&decisions.kept);
    pairs
        .map(|(row, kept)| without(row, &kept.bytes().map(|b| b == b'1').collect::<Vec<_>>()))
        .collect()
}

fn mask(keep: &[bool]) -> String {
    keep.iter()
        .map(|keep| if *keep { '1' } else { '0' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Row> {
        let row = Row {
            chunks: ["a", "b", "c", "d"].map(str::to_owned).to_vec(),
            skippable: vec![false, true, true, false],
            ..Row::default()
        };
        vec![row; 500]
    }

    #[test]
    fn random_deletion_meets_its_rate_with_and_without_protected_ends() {
        for protect_ends in [false, true] {
            let method = RandomDeletion {
                rate: Some(0.3),
                protect_ends,
                ..RandomDeletion::default()
            };
            let drawn = method.draw(&rows(), 0.3, 1);
            assert!((drawn.stats.rate() - 0.3).abs() < 0.03, "{:?}", drawn.stats);
            let precision = drawn.stats.hits as f64 / drawn.stats.deleted as f64;
            // Half of all chunks may go; of the inner ones all.
            let expected = if protect_ends { 1.0 } else { 0.5 };
            assert!((precision - expected).abs() < 0.05, "{precision}");
            assert!(!protect_ends || drawn.kept.iter().all(|k| k.starts_with('1')));
            assert_eq!(apply(&rows(), &drawn).len(), 500);
        }
    }

    #[test]
    fn rounds_use_all_steps() {
        for (rest, rounds) in [(100, 1), (101, 2), (7, 3)] {
            let sum: u64 = (0..rounds).map(|r| round_steps(rest, rounds, r)).sum();
            assert_eq!(sum, rest);
        }
    }
}
