//! Two ways to answer the same questions, question by question.

use serde::Serialize;

use super::{Z95, binomial_tail, wilson_at};

/// Questions that one way answers right and another answers wrong, and the reverse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pairs {
    /// Questions.
    pub n: usize,
    /// Right before, wrong now.
    pub lost: usize,
    /// Wrong before, right now.
    pub gained: usize,
}

impl Pairs {
    /// Counts which answers were right before and now.
    pub fn new(pairs: impl IntoIterator<Item = (bool, bool)>) -> Pairs {
        let mut counts = Pairs::default();
        for (before, now) in pairs {
            counts.n += 1;
            counts.lost += usize::from(before && !now);
            counts.gained += usize::from(!before && now);
        }
        counts
    }

    /// Accuracy that is lost; negative where more is gained.
    pub fn loss(&self) -> f64 {
        self.share(self.lost) - self.share(self.gained)
    }

    /// The 95 % interval of the loss.
    pub fn loss_interval(&self) -> [f64; 2] {
        self.loss_interval_at(Z95)
    }

    /// The interval of the loss at the level that lies within `z` standard deviations, by Newcombe's square-and-add of the Wilson
    /// intervals of both shares.
    ///
    /// Source: R. G. Newcombe, "Improved confidence intervals for the difference between binomial proportions based on paired data",
    /// Statistics in Medicine 17 (1998); applied to the shares of lost and of gained questions, without their small covariance.
    pub fn loss_interval_at(&self, z: f64) -> [f64; 2] {
        let [lost_low, lost_high] = wilson_at(self.lost, self.n, z);
        let [gained_low, gained_high] = wilson_at(self.gained, self.n, z);
        let (lost, gained) = (self.share(self.lost), self.share(self.gained));
        [
            self.loss() - (lost - lost_low).hypot(gained_high - gained),
            self.loss() + (lost_high - lost).hypot(gained - gained_low),
        ]
    }

    /// Probability of a difference as large as this, either way, between two ways that are equally good: McNemar's exact test.
    pub fn p_value(&self) -> f64 {
        let differing = self.lost + self.gained;
        let tail = binomial_tail(self.lost.min(self.gained), differing, 0.5);
        (2.0 * tail).min(1.0)
    }

    fn share(&self, count: usize) -> f64 {
        count as f64 / self.n.max(1) as f64
    }
}

/// The number of standard deviations below which a share `p` of the normal distribution lies; `p` from 0.5 to 1.
///
/// Bisection of the distribution's series around 0, which ends where `f64` does, at about 8 deviations.
pub fn normal_quantile(p: f64) -> f64 {
    let (mut low, mut high) = (0.0, 8.0);
    for _ in 0..64 {
        let middle = 0.5 * (low + high);
        match normal_share(middle) < p {
            true => low = middle,
            false => high = middle,
        }
    }
    0.5 * (low + high)
}

/// The share of the normal distribution below `z`, not negative: 1/2 + φ(z) · (z + z³/3 + z⁵/15 + …).
fn normal_share(z: f64) -> f64 {
    let (mut term, mut sum, mut odd) = (z, z, 1.0);
    while term > 1e-17 * sum {
        odd += 2.0;
        term *= z * z / odd;
        sum += term;
    }
    0.5 + sum * (-0.5 * z * z).exp() / std::f64::consts::TAU.sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(lost: usize, gained: usize, n: usize) -> Pairs {
        Pairs { n, lost, gained }
    }

    #[test]
    fn pairs_are_counted() {
        let seen = [(true, true), (true, false), (false, true), (true, false)];
        assert_eq!(Pairs::new(seen), pairs(2, 1, 4));
        assert_eq!(pairs(2, 1, 4).loss(), 0.25);
        assert_eq!(Pairs::default().loss(), 0.0);
    }

    #[test]
    fn a_loss_is_never_known_better_than_the_questions_allow() {
        // Nothing lost of 1000: by Wilson's interval it may still be 0.38 %.
        let upper = |lost, gained| pairs(lost, gained, 1000).loss_interval()[1];
        assert!((upper(0, 0) - 0.00383).abs() < 1e-4);
        assert!(upper(10, 0) > 0.01 && upper(10, 10) > 0.005);
        assert!(upper(0, 40) < 0.0);
        // Seen from the other side it is the same interval.
        let [low, high] = pairs(30, 12, 1000).loss_interval();
        let [other_low, other_high] = pairs(12, 30, 1000).loss_interval();
        assert!((low + other_high).abs() < 1e-12 && (high + other_low).abs() < 1e-12);
        assert!(low < 0.018 && 0.018 < high);
    }

    #[test]
    fn mcnemar_by_hand() {
        // 2 · (1 + 10) / 2^10; and no difference at all.
        assert!((pairs(1, 9, 100).p_value() - 22.0 / 1024.0).abs() < 1e-12);
        assert_eq!(pairs(5, 5, 100).p_value(), 1.0);
        assert_eq!(pairs(0, 0, 100).p_value(), 1.0);
    }

    #[test]
    fn quantiles_of_a_table() {
        for (p, want) in [
            (0.5, 0.0),
            (0.975, Z95),
            (0.99, 2.326_348),
            (0.9995, 3.290_527),
        ] {
            let got = normal_quantile(p);
            assert!((got - want).abs() < 1e-6, "{p}: {got}");
        }
    }
}
