//! Nights to training rows: which questions are asked of a night, and the row's JSON.

use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use skimstone::sleep::Night;

use super::teacher::teach;
use super::{Kind, generate};
use crate::data::Row;

/// Questions asked of one generated night: they share its record as a prefix, so a night is read once in training.
pub(crate) const QUESTIONS_PER_NIGHT: usize = 4;

/// The rows of one night: up to `limit` questions that its record can answer, kinds drawn by weight without repetition.
pub fn of_night(night: &Night, group: &str, limit: usize, rng: &mut impl Rng) -> Vec<Row> {
    let mut lessons: Vec<(Kind, _)> = Kind::ALL
        .iter()
        .filter_map(|&k| teach(k, night, rng).map(|l| (k, l)))
        .collect();
    let mut rows = Vec::new();
    while rows.len() < limit && !lessons.is_empty() {
        let total: u32 = lessons.iter().map(|(k, _)| k.weight()).sum();
        let mut draw = rng.random_range(0..total);
        let index = lessons
            .iter()
            .position(|(k, _)| {
                let hit = draw < k.weight();
                draw = draw.saturating_sub(k.weight());
                hit
            })
            .expect("the draw is below the sum of the weights");
        let (kind, lesson) = lessons.swap_remove(index);
        let questions = kind.questions();
        let question = questions[rng.random_range(0..questions.len())];
        let (chunks, roles) = lesson.chunks.into_iter().map(|c| (c.text, c.role)).unzip();
        rows.push(Row {
            id: format!("{group}-{}", kind.name()),
            kind: kind.name().to_owned(),
            group: group.to_owned(),
            question: night.prompt(question),
            chunks,
            roles,
            answer: lesson.answer,
            ..Row::default()
        });
    }
    rows
}

/// `n` rows from generated nights.
pub fn generated(n: usize, seed: u64) -> Vec<Row> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut rows = Vec::with_capacity(n + QUESTIONS_PER_NIGHT);
    let mut index = 0;
    while rows.len() < n {
        let night = generate::night(&mut rng);
        rows.extend(of_night(
            &night,
            &format!("g{seed}-{index}"),
            QUESTIONS_PER_NIGHT,
            &mut rng,
        ));
        index += 1;
    }
    rows.truncate(n);
    rows
}

/// Rows from given nights, every question that each record can answer, at most `n` in all.
pub fn of_nights(nights: &[(String, Night)], n: Option<usize>, seed: u64) -> Vec<Row> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut rows: Vec<Row> = nights
        .iter()
        .flat_map(|(id, night)| of_night(night, id, usize::MAX, &mut rng))
        .collect();
    rows.truncate(n.unwrap_or(usize::MAX));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn same_seed_same_rows_and_all_kinds_appear() {
        let rows = generated(2000, 7);
        assert_eq!(rows, generated(2000, 7));
        assert_ne!(rows[..50], generated(50, 8)[..]);
        let mut kinds: HashMap<&str, usize> = HashMap::new();
        for row in &rows {
            *kinds.entry(&row.kind).or_default() += 1;
        }
        assert_eq!(kinds.len(), Kind::ALL.len(), "{kinds:?}");
        assert!(kinds.values().all(|&n| n > 30), "{kinds:?}");
    }
}
