//! Intervals of accuracies and of differences between two arms.
//!
//! Arms are compared on the same questions and the same seeds, so the bootstrap draws pairs: first seeds, then questions, both with replacement,
//! the same draw for both arms. So an interval covers which questions were asked and how lucky a training was. With few seeds the second part is
//! known only roughly: three seeds can differ in ten ways, and the interval is rather too narrow than too wide.
//!
//! Source: Efron & Tibshirani, "An Introduction to the Bootstrap" (1993), chapters 6 and 13 (percentile interval).

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Draws of a bootstrap: the ends of a 95 % interval then vary by about a thirtieth of its width.
pub const DRAWS: usize = 4000;

/// An estimate with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The estimate.
    pub value: f64,
    /// Lower and upper end.
    pub interval: [f64; 2],
}

/// What a paired difference says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The whole interval is above zero.
    Higher,
    /// The whole interval is below zero.
    Lower,
    /// The interval contains zero.
    NotResolved,
}

impl Verdict {
    /// The words in reports.
    pub fn words(self) -> &'static str {
        match self {
            Verdict::Higher => "higher",
            Verdict::Lower => "lower",
            Verdict::NotResolved => "not resolved",
        }
    }
}

impl Estimate {
    /// What the interval says about a difference. An interval that touches zero contains it.
    pub fn verdict(&self) -> Verdict {
        match self.interval {
            [low, _] if low > 0.0 => Verdict::Higher,
            [_, high] if high < 0.0 => Verdict::Lower,
            _ => Verdict::NotResolved,
        }
    }
}

/// The mean of `values` `[seeds][questions]` with a percentile interval over seeds and questions.
///
/// # Panics
/// If there are no values or seeds have different numbers of questions: the caller pairs them.
pub fn bootstrap(values: &[Vec<f64>], seed: u64) -> Estimate {
    let questions = values[0].len();
    assert!(questions > 0 && values.iter().all(|v| v.len() == questions));
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut draw = || {
        let seeds: Vec<usize> = (0..values.len())
            .map(|_| rng.random_range(0..values.len()))
            .collect();
        let total: f64 = (0..questions)
            .map(|_| {
                let question = rng.random_range(0..questions);
                seeds.iter().map(|s| values[*s][question]).sum::<f64>()
            })
            .sum();
        total / (questions * values.len()) as f64
    };
    let mut means: Vec<f64> = (0..DRAWS).map(|_| draw()).collect();
    means.sort_by(f64::total_cmp);
    let rank = |share: f64| means[((share * DRAWS as f64).ceil() as usize).clamp(1, DRAWS) - 1];
    let total: f64 = values.iter().flatten().sum();
    Estimate {
        value: total / (questions * values.len()) as f64,
        interval: [rank(0.025), rank(0.975)],
    }
}

/// The mean of `a − b`, both `[seeds][questions]` over the same seeds and questions, with its interval.
///
/// # Panics
/// As [`bootstrap`].
pub fn paired(a: &[Vec<f64>], b: &[Vec<f64>], seed: u64) -> Estimate {
    assert_eq!(a.len(), b.len(), "arms are paired by seed");
    let differences: Vec<Vec<f64>> = a
        .iter()
        .zip(b)
        .map(|(a, b)| {
            assert_eq!(a.len(), b.len(), "arms are paired by question");
            a.iter().zip(b).map(|(a, b)| a - b).collect()
        })
        .collect();
    bootstrap(&differences, seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paired_difference_agrees_with_the_binomial() {
        // Ten of a hundred questions are won, none lost, one seed: a draw's sum is binomial(100, 0.1), whose 2.5 % and 97.5 % quantiles are
        // 5 (P(X ≤ 4) = 0.0237, P(X ≤ 5) = 0.0576) and 16 (P(X ≤ 15) = 0.9601, P(X ≤ 16) = 0.9794).
        let a = vec![(0..100).map(|i| f64::from(u8::from(i < 60))).collect()];
        let b = vec![(0..100).map(|i| f64::from(u8::from(i < 50))).collect()];
        let estimate = paired(&a, &b, 1);
        assert!((estimate.value - 0.1).abs() < 1e-12);
        let [low, high] = estimate.interval;
        assert!((low - 0.05).abs() < 0.0101 && (high - 0.16).abs() < 0.0101);
        assert_eq!(estimate.verdict(), Verdict::Higher);
        assert_eq!(paired(&b, &a, 1).verdict(), Verdict::Lower);
        assert_eq!(paired(&a, &b, 1), estimate, "the seed decides");
    }

    #[test]
    fn what_crosses_zero_is_not_resolved() {
        let arm = |values: [f64; 4]| vec![values.to_vec()];
        let same = paired(&arm([1.0, 0.0, 1.0, 0.0]), &arm([1.0, 0.0, 1.0, 0.0]), 1);
        assert_eq!((same.value, same.interval), (0.0, [0.0, 0.0]));
        assert_eq!(same.verdict(), Verdict::NotResolved);
        let mixed = paired(&arm([1.0, 1.0, 1.0, 0.0]), &arm([0.0, 0.0, 0.0, 1.0]), 1);
        assert!(mixed.value > 0.0 && mixed.interval[0] < 0.0);
        assert_eq!(mixed.verdict(), Verdict::NotResolved);
        assert_eq!(mixed.verdict().words(), "not resolved");
    }

    #[test]
    fn seeds_that_disagree_widen_the_interval() {
        // One seed wins every question, the other loses every one: questions are certain, seeds are not.
        let estimate = bootstrap(&[vec![1.0; 50], vec![-1.0; 50]], 1);
        assert_eq!((estimate.value, estimate.interval), (0.0, [-1.0, 1.0]));
    }
}
