//! Which rung of a ladder to take next, from what is left of the limits and what the rungs were measured to cost and give.
//!
//! ```text
//! 1  the last rung that pays:  largest accuracy under what is left, by the rungs' tables
//! 2  a cheaper one before it:  the first with a threshold whose trial is not expected to cost more right answers than it gives
//! ```
//!
//! Without limits that is the whole ladder, as it was calibrated.

use super::budget::Limit;
use crate::spec::{LadderSpec, Rung};

/// What is left of the limits; infinite where there is none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Left {
    pub(super) tokens: f64,
    pub(super) layer_passes: f64,
    /// Positions for which there is time, by the speed so far.
    pub(super) positions: f64,
}

impl Left {
    #[cfg(test)]
    const ALL: Left = Left {
        tokens: f64::INFINITY,
        layer_passes: f64::INFINITY,
        positions: f64::INFINITY,
    };

    /// The smallest of what is left, as a multiple of what `rung` takes in the mean, and of which limit that is.
    pub(super) fn share(&self, rung: &Rung) -> (f64, Option<Limit>) {
        let [tokens, steps, passes] =
            [rung.tokens, rung.latent_steps, rung.layer_passes].map(f64::from);
        // Nothing of a limit is enough of it for what takes nothing.
        let of = |left: f64, cost: f64| match cost > 0.0 {
            true => left.max(0.0) / cost,
            false => f64::INFINITY,
        };
        [
            (of(self.tokens, tokens), Limit::Tokens),
            (of(self.layer_passes, passes), Limit::LayerPasses),
            (of(self.positions, tokens + steps), Limit::Milliseconds),
        ]
        .into_iter()
        .filter(|(share, _)| share.is_finite())
        .min_by(|a, b| a.0.total_cmp(&b.0))
        .map_or((f64::INFINITY, None), |(share, limit)| (share, Some(limit)))
    }

    /// What is left after `rung` took its mean.
    fn after(&self, rung: &Rung) -> Left {
        let [tokens, steps, passes] =
            [rung.tokens, rung.latent_steps, rung.layer_passes].map(f64::from);
        Left {
            tokens: self.tokens - tokens,
            layer_passes: self.layer_passes - passes,
            positions: self.positions - tokens - steps,
        }
    }

    /// Accuracy that `rung` is expected to have with this, among all questions or those that reach it.
    fn accuracy(&self, rung: &Rung, reached: bool) -> f64 {
        rung.accuracy_at(self.share(rung).0, reached)
    }
}

/// The rung to take next, from `from` on; `None` if none is expected to be right more often than `floor`. Above the lowest rung, the
/// question is one of those whose answers did not stand.
pub(super) fn choose(ladder: &LadderSpec, from: usize, left: Left, floor: f64) -> Option<usize> {
    let rungs = ladder.rungs.get(from..).filter(|rungs| !rungs.is_empty())?;
    let reached = from > 0;
    let unlimited = rungs.iter().all(|rung| left.share(rung).1.is_none());
    let last = match unlimited {
        true => rungs.len() - 1,
        false => {
            let mut best = 0;
            for (i, rung) in rungs.iter().enumerate() {
                // Among equals the cheapest.
                if left.accuracy(rung, reached) > left.accuracy(&rungs[best], reached) {
                    best = i;
                }
            }
            best
        }
    };
    if !unlimited && left.accuracy(&rungs[last], reached) <= floor {
        return None;
    }
    let first = rungs[..last]
        .iter()
        .position(|rung| pays(rung, &rungs[last], left, reached));
    Some(from + first.unwrap_or(last))
}

/// Whether to try `rung` before `last`: it is expected to end, and to leave no fewer right answers than `last` alone.
fn pays(rung: &Rung, last: &Rung, left: Left, reached: bool) -> bool {
    if rung.threshold.is_none() || left.share(rung).0 < 1.0 {
        return false;
    }
    let rest = left.after(rung);
    // Where the limits do not bind, the calibration has said what the trial costs.
    if rest.accuracy(last, false) >= left.accuracy(last, false) {
        return true;
    }
    rung.sorted.is_some_and(|sorted| {
        let accepted = f64::from(sorted.accepted);
        let stands = accepted * f64::from(sorted.accepted_accuracy);
        stands + (1.0 - accepted) * rest.accuracy(last, true) >= left.accuracy(last, reached)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Limited, Sorted, rung};

    fn ladder() -> LadderSpec {
        let limited = |table: &[(f32, f32)]| {
            // What is easy enough for a lower rung is what a limit leaves the dearer ones.
            let of = |&(share, accuracy): &(f32, f32)| Limited {
                share,
                accuracy,
                reached: Some((accuracy - 0.14) / 0.86),
            };
            table.iter().map(of).collect()
        };
        let mut direct = rung("direct", 0.2, 10.0);
        direct.threshold = Some(0.9);
        direct.sorted = Some(Sorted {
            accepted: 0.15,
            accepted_accuracy: 0.97,
            rejected_accuracy: 0.05,
        });
        direct.limited = limited(&[(0.9, 0.1), (1.5, 0.2)]);
        let mut skip = rung("skip", 0.96, 90.0);
        skip.threshold = Some(0.8);
        skip.sorted = Some(Sorted {
            accepted: 0.9,
            accepted_accuracy: 0.99,
            rejected_accuracy: 0.6,
        });
        skip.limited = limited(&[(0.5, 0.3), (1.0, 0.6), (1.5, 0.95), (2.0, 0.96)]);
        let mut cot = rung("cot", 0.97, 160.0);
        cot.limited = limited(&[(0.5, 0.2), (1.0, 0.6), (1.5, 0.96), (2.0, 0.97)]);
        LadderSpec {
            rungs: vec![direct, skip, cot],
            calibration: None,
        }
    }

    fn tokens(tokens: f64) -> Left {
        Left {
            tokens,
            ..Left::ALL
        }
    }

    #[test]
    fn without_limits_every_rung_with_a_threshold_is_tried() {
        let mut ladder = ladder();
        assert_eq!(choose(&ladder, 0, Left::ALL, 0.0), Some(0));
        assert_eq!(choose(&ladder, 1, Left::ALL, 0.05), Some(1));
        assert_eq!(choose(&ladder, 2, Left::ALL, 0.6), Some(2));
        assert_eq!(choose(&ladder, 3, Left::ALL, 0.0), None);
        ladder.rungs[0].threshold = None;
        assert_eq!(choose(&ladder, 0, Left::ALL, 0.0), Some(1));
        // The last one always, whatever was measured.
        ladder.rungs[1].threshold = None;
        assert_eq!(choose(&ladder, 0, Left::ALL, 0.99), Some(2));
    }

    #[test]
    fn a_limit_takes_the_rung_that_is_right_most_often_under_it() {
        let ladder = ladder();
        // Half of skip is better than all of direct, and a trial of direct costs it more than that gives.
        assert_eq!(choose(&ladder, 0, tokens(45.0), 0.0), Some(1));
        assert_eq!(choose(&ladder, 0, tokens(12.0), 0.0), Some(0));
        // Just enough for skip, and nothing to try before it; with more, direct costs nothing.
        assert_eq!(choose(&ladder, 0, tokens(90.0), 0.0), Some(1));
        assert_eq!(choose(&ladder, 0, tokens(400.0), 0.0), Some(0));
        // Where the same questions are left for skip as if direct had taken none, half of it after direct is better than all of it.
        let mut independent = ladder.clone();
        for limited in &mut independent.rungs[1].limited {
            limited.reached = None;
        }
        assert_eq!(choose(&independent, 0, tokens(45.0), 0.0), Some(0));
        // After skip: what is left for cot is not worth an answer that is right six times of ten.
        assert_eq!(choose(&ladder, 2, tokens(60.0), 0.6), None);
        assert_eq!(choose(&ladder, 2, tokens(300.0), 0.6), Some(2));
        // Nothing is left, and something has to be answered.
        assert_eq!(choose(&ladder, 0, tokens(0.0), -1.0), Some(0));
    }

    #[test]
    fn the_scarcest_limit_counts() {
        let rung = &ladder().rungs[1];
        assert_eq!(Left::ALL.share(rung), (f64::INFINITY, None));
        let left = Left {
            tokens: 90.0,
            layer_passes: 225.0,
            positions: 60.0,
        };
        assert_eq!(left.share(rung), (0.5, Some(Limit::LayerPasses)));
        let mut latent = rung.clone();
        (latent.tokens, latent.latent_steps) = (0.0, 6.0);
        let time = Left {
            positions: 3.0,
            tokens: 0.0,
            ..Left::ALL
        };
        assert_eq!(time.share(&latent), (0.5, Some(Limit::Milliseconds)));
        let overdrawn = Left {
            layer_passes: -3.0,
            ..Left::ALL
        };
        assert_eq!(overdrawn.share(rung).0, 0.0);
    }
}
