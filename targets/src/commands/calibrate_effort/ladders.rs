//! Ladders on the outcomes of their routes, and the choice of one.

use serde::Serialize;
use skimstone::Sorted;
use skimstone::eval::{Pairs, normal_quantile};

use super::super::calibration::THRESHOLDS;
use super::outcomes::Route;

/// Most rungs below the last one of which every choice is tested; of more, only the choice of all.
const MOST_CHOICES: usize = 5;

/// One ladder with one threshold.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Point {
    pub(super) threshold: f32,
    pub(super) accuracy: f64,
    pub(super) tokens: f64,
    pub(super) layer_passes: f64,
    /// Against the last rung.
    pub(super) pairs: Pairs,
    /// Upper end of the interval of the accuracy that is lost.
    pub(super) loss_upper: f64,
    /// Rung by rung of the front, what the threshold did there.
    pub(super) sorted: Vec<Option<Sorted>>,
}

/// A choice of rungs before the last one, with falling thresholds.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Chain {
    /// Indices into the front; the last rung is always taken.
    pub(super) rungs: Vec<usize>,
    pub(super) points: Vec<Point>,
    /// How many of the points, from the first on, keep the promise.
    pub(super) safe: usize,
    #[serde(skip)]
    last: usize,
}

/// The ladder that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Chosen {
    pub(super) chain: usize,
    pub(super) point: usize,
}

impl Chain {
    /// Only the last of `rungs` rungs.
    pub(super) fn alone(rungs: usize) -> Chain {
        Chain {
            rungs: Vec::new(),
            points: Vec::new(),
            safe: 0,
            last: rungs - 1,
        }
    }

    /// Itself without a threshold.
    pub(super) fn replayed(&self, front: &[&Route], failure: f64) -> Point {
        self.replay(front, 1.0, normal_quantile(1.0 - failure / 2.0))
    }

    /// Which questions reach rung `rung` of the front with this threshold.
    pub(super) fn reached(&self, front: &[&Route], threshold: f32, rung: usize) -> Vec<bool> {
        let stays = |question: usize| {
            let mut below = self.rungs.iter().filter(|&&below| below < rung);
            below.all(|&below| front[below].outcomes[question].certainty < threshold)
        };
        (0..front[self.last].outcomes.len()).map(stays).collect()
    }

    /// What the questions would have given with this threshold.
    fn replay(&self, front: &[&Route], threshold: f32, z: f64) -> Point {
        let last = front[self.last];
        let n = last.outcomes.len();
        let (mut right, mut tokens, mut layer_passes) = (Vec::with_capacity(n), 0, 0);
        // Of each rung: accepted, right among them; rejected, right among them.
        let mut counts = vec![[0usize; 4]; front.len()];
        for (question, reference) in last.outcomes.iter().enumerate() {
            let mut answer = None;
            for (tried, &rung) in self.rungs.iter().chain([&self.last]).enumerate() {
                let outcome = front[rung].outcomes[question];
                tokens += outcome.tokens;
                layer_passes += outcome.layer_passes;
                if tried > 0 {
                    layer_passes += front[rung].open;
                }
                let stands = rung == self.last || outcome.certainty >= threshold;
                let at = if stands { 0 } else { 2 };
                counts[rung][at] += 1;
                counts[rung][at + 1] += usize::from(outcome.right);
                if stands {
                    answer = Some(outcome.right);
                    break;
                }
            }
            right.push((reference.right, answer.unwrap_or(reference.right)));
        }
        let pairs = Pairs::new(right.iter().copied());
        let mean = |sum: usize| sum as f64 / n as f64;
        let sorted = |(i, counts): (usize, &[usize; 4])| {
            let share = |hits: usize, of: usize| hits as f32 / of.max(1) as f32;
            self.rungs.contains(&i).then(|| Sorted {
                accepted: share(counts[0], counts[0] + counts[2]),
                accepted_accuracy: share(counts[1], counts[0]),
                rejected_accuracy: share(counts[3], counts[2]),
            })
        };
        Point {
            threshold,
            accuracy: mean(right.iter().filter(|(_, now)| *now).count()),
            tokens: mean(tokens),
            layer_passes: mean(layer_passes),
            pairs,
            loss_upper: pairs.loss_interval_at(z)[1],
            sorted: counts.iter().enumerate().map(sorted).collect(),
        }
    }
}

/// Every choice of rungs, each tested from the surest threshold down to the first that may lose more than `max_loss`.
///
/// Within a choice there is one test that can go wrong, at the full level of the choice (fixed sequence, as in Learn-then-Test);
/// `failure` is divided by the number of choices (Bonferroni).
pub(super) fn chains(front: &[&Route], max_loss: f64, failure: f64) -> Vec<Chain> {
    let below = front.len() - 1;
    let choices: Vec<Vec<usize>> = match below {
        0 => Vec::new(),
        1..=MOST_CHOICES => (1usize..1 << below)
            .map(|bits| (0..below).filter(|rung| bits >> rung & 1 == 1).collect())
            .collect(),
        _ => vec![(0..below).collect()],
    };
    let z = normal_quantile(1.0 - failure / 2.0 / choices.len().max(1) as f64);
    let test = |rungs: Vec<usize>| {
        let mut chain = Chain {
            rungs,
            ..Chain::alone(front.len())
        };
        for threshold in THRESHOLDS {
            let point = chain.replay(front, threshold, z);
            let safe = point.loss_upper <= max_loss;
            chain.points.push(point);
            if !safe {
                break;
            }
            chain.safe += 1;
        }
        chain
    };
    choices.into_iter().map(test).collect()
}

/// The safe ladder with the fewest layer passes; `None` if none has fewer than the last rung alone.
pub(super) fn cheapest(chains: &[Chain], front: &[&Route]) -> Option<Chosen> {
    let alone = front[front.len() - 1].score.mean_layer_passes;
    let mut best: Option<(f64, Chosen)> = None;
    for (chain, tested) in chains.iter().enumerate() {
        for (point, tried) in tested.points[..tested.safe].iter().enumerate() {
            if tried.layer_passes < best.map_or(alone, |(passes, _)| passes) {
                best = Some((tried.layer_passes, Chosen { chain, point }));
            }
        }
    }
    best.map(|(_, chosen)| chosen)
}

#[cfg(test)]
mod tests {
    use super::super::outcomes::tests::route;
    use super::*;

    /// A cheap route that is right and sure of half of the questions, and unsure of the others.
    fn routes(n: usize, wrongly_sure: usize) -> [Route; 2] {
        let cheap: Vec<(bool, f32)> = (0..n)
            .map(|i| match i {
                _ if i < wrongly_sure => (false, 0.9995),
                _ if i % 2 == 0 => (true, 0.97),
                _ => (false, 0.3),
            })
            .collect();
        let dear = vec![(true, 0.99); n];
        [route("cheap", 10, &cheap), route("dear", 100, &dear)]
    }

    #[test]
    fn the_cheapest_safe_ladder_is_taken() {
        let routes = routes(2000, 0);
        let front: Vec<&Route> = routes.iter().collect();
        let chains = chains(&front, 0.01, 0.05);
        assert_eq!(chains.len(), 1);
        let chosen = cheapest(&chains, &front).unwrap();
        let point = &chains[0].points[chosen.point];
        // The first threshold that lets the sure ones stand, and all down to the unsure ones, are alike.
        assert_eq!(point.threshold, 0.97);
        assert_eq!((point.accuracy, point.tokens), (1.0, 10.0 + 50.0));
        // Of the half that goes on, the open is read.
        assert_eq!(point.layer_passes, 50.0 + 0.5 * (500.0 + 5.0));
        assert_eq!((point.pairs.lost, point.pairs.gained), (0, 0));
        let sorted = point.sorted[0].unwrap();
        assert_eq!(
            (
                sorted.accepted,
                sorted.accepted_accuracy,
                sorted.rejected_accuracy
            ),
            (0.5, 1.0, 0.0)
        );
        assert_eq!(point.sorted[1], None);
        let reached = chains[0].reached(&front, point.threshold, 1);
        assert!((0..2000).all(|i| reached[i] == (i % 2 == 1)));
        assert!(
            chains[0]
                .reached(&front, point.threshold, 0)
                .iter()
                .all(|&is| is)
        );
        // Below the unsure ones half is lost: there the sequence ends.
        let tested = &chains[0];
        assert_eq!(tested.points.len(), tested.safe + 1);
        assert_eq!(tested.points[tested.safe].threshold, 0.3);
    }

    #[test]
    fn nothing_is_taken_that_may_lose_too_much_or_saves_nothing() {
        // One of a hundred is surely wrong.
        let wrong = routes(2000, 20);
        let front: Vec<&Route> = wrong.iter().collect();
        let tested = chains(&front, 0.01, 0.05);
        assert_eq!(cheapest(&tested, &front), None);
        assert!(cheapest(&chains(&front, 0.02, 0.05), &front).is_some());
        // Too few questions.
        let few = routes(100, 0);
        let front: Vec<&Route> = few.iter().collect();
        assert_eq!(cheapest(&chains(&front, 0.01, 0.05), &front), None);
        // Never sure: a trial only costs.
        let n = 2000;
        let unsure = [
            route("cheap", 10, &vec![(true, 0.0); n]),
            route("dear", 100, &vec![(true, 0.99); n]),
        ];
        let front: Vec<&Route> = unsure.iter().collect();
        let tested = chains(&front, 0.0, 0.05);
        assert_eq!(cheapest(&tested, &front), None);
    }

    #[test]
    fn more_choices_are_tested_more_strictly() {
        let [cheap, dear] = routes(2000, 0);
        let two: Vec<&Route> = vec![&cheap, &dear];
        let three: Vec<&Route> = vec![&cheap, &cheap, &dear];
        let (few, many) = (chains(&two, 0.01, 0.05), chains(&three, 0.01, 0.05));
        let sets: Vec<&[usize]> = many.iter().map(|chain| chain.rungs.as_slice()).collect();
        assert_eq!(sets, [&[0][..], &[1], &[0, 1]]);
        assert!(many[0].points[0].loss_upper > few[0].points[0].loss_upper);
        assert!(chains(&two[..1], 0.01, 0.05).is_empty());
        // The last rung alone loses nothing against itself.
        let alone = Chain::alone(2).replayed(&two, 0.05);
        assert_eq!(
            (alone.accuracy, alone.tokens, alone.pairs.loss()),
            (1.0, 100.0, 0.0)
        );
    }
}
