//! Accuracy over tokens, threshold after threshold, and the choice of one.

use serde::Serialize;
use skimstone::eval::{Pairs, wilson};
use skimstone::{CalibrationPoint, GateKind};

use super::trace::Traces;

/// Most thresholds of a curve.
const THRESHOLDS: usize = 200;

/// What one threshold, or one budget, gives.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Point {
    /// The threshold, or the budget of thinking tokens.
    pub(super) setting: f32,
    pub(super) accuracy: f64,
    /// Wilson, 95 %.
    pub(super) interval: [f64; 2],
    /// Questions that were right without a gate and are wrong now, and the reverse.
    pub(super) lost: usize,
    pub(super) gained: usize,
    /// Upper end of the 95 % interval of the accuracy that is lost.
    pub(super) loss_upper: f64,
    /// Mean of all tokens generated, those of probes included.
    pub(super) tokens: f64,
    /// Mean of the thinking tokens.
    pub(super) thinking_tokens: f64,
}

impl Point {
    /// A point without a comparison, from (right, tokens, thinking tokens) of every question.
    pub(super) fn new(setting: f32, outcomes: &[(bool, usize, usize)]) -> Point {
        let n = outcomes.len() as f64;
        let right = outcomes.iter().filter(|outcome| outcome.0).count();
        Point {
            setting,
            accuracy: right as f64 / n,
            interval: wilson(right, outcomes.len()),
            lost: 0,
            gained: 0,
            loss_upper: 0.0,
            tokens: outcomes.iter().map(|outcome| outcome.1).sum::<usize>() as f64 / n,
            thinking_tokens: outcomes.iter().map(|outcome| outcome.2).sum::<usize>() as f64 / n,
        }
    }
}

/// Every threshold of `gate`, the surest first.
pub(super) fn curve(traces: &Traces, gate: GateKind) -> Vec<Point> {
    let ends = traces.questions.iter().flat_map(|question| &question.ends);
    let mut thresholds: Vec<f32> = ends.map(|end| end.confidence(gate)).collect();
    thresholds.sort_by(|a, b| b.total_cmp(a));
    thresholds.dedup();
    let step = thresholds.len().div_ceil(THRESHOLDS).max(1);
    let thresholds = thresholds.into_iter().step_by(step);
    thresholds
        .map(|threshold| replay(traces, gate, threshold))
        .collect()
}

/// What the questions would have given with this threshold.
fn replay(traces: &Traces, gate: GateKind, threshold: f32) -> Point {
    let (mut lost, mut gained) = (0, 0);
    let mut outcomes = Vec::with_capacity(traces.questions.len());
    for question in &traces.questions {
        let mut probes = 0;
        let mut outcome = (question.right, question.tokens, question.thinking_tokens);
        for end in &question.ends {
            if end.confidence(gate) >= threshold {
                outcome = (end.right, end.tokens(), end.thinking_tokens + end.close);
                break;
            }
            probes += end.failed_probe(gate, threshold);
        }
        lost += usize::from(question.right && !outcome.0);
        gained += usize::from(!question.right && outcome.0);
        outcomes.push((outcome.0, outcome.1 + probes, outcome.2));
    }
    let pairs = Pairs {
        n: outcomes.len(),
        lost,
        gained,
    };
    Point {
        lost,
        gained,
        loss_upper: pairs.loss_interval()[1],
        ..Point::new(threshold, &outcomes)
    }
}

/// A choice among points.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Chosen {
    pub(super) point: usize,
}

/// The cheapest of the points before the first whose loss may be larger than `max_loss`; `None` if none is cheaper than `tokens`.
///
/// The points are tried from the surest down and no further than the first failure. So there is one test that can go wrong, not
/// one per threshold.
pub(super) fn choose(points: &[Point], max_loss: f64, tokens: f64) -> Option<Chosen> {
    let safe = points
        .iter()
        .take_while(|point| point.loss_upper <= max_loss);
    let (point, best) = safe
        .enumerate()
        .min_by(|a, b| a.1.tokens.total_cmp(&b.1.tokens))?;
    (best.tokens < tokens).then_some(Chosen { point })
}

/// At most `count` points over the whole curve, with the one that was chosen.
pub(super) fn thinned(points: &[Point], chosen: usize, count: usize) -> Vec<CalibrationPoint> {
    let step = points.len().div_ceil(count).max(1);
    let kept = points.iter().enumerate();
    kept.filter(|(i, _)| i % step == 0 || *i == chosen)
        .map(|(_, point)| CalibrationPoint {
            threshold: point.setting,
            accuracy: point.accuracy as f32,
            tokens: point.tokens as f32,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(setting: f32, loss_upper: f64, tokens: f64) -> Point {
        Point {
            loss_upper,
            tokens,
            ..Point::new(setting, &[(true, 1, 1)])
        }
    }

    #[test]
    fn the_cheapest_before_the_first_failure_is_chosen() {
        let points = [
            point(0.99, 0.002, 101.0),
            point(0.9, 0.004, 80.0),
            point(0.8, 0.009, 85.0),
            point(0.7, 0.02, 60.0),
            point(0.6, 0.003, 40.0),
        ];
        let chosen = |max_loss, tokens| choose(&points, max_loss, tokens).map(|c| c.point);
        assert_eq!(chosen(0.01, 100.0), Some(1));
        assert_eq!(chosen(0.05, 100.0), Some(4));
        assert_eq!(chosen(0.003, 100.0), None);
        assert_eq!(chosen(0.001, 100.0), None);
        assert_eq!(chosen(0.01, 80.0), None);
        let kept: Vec<f32> = thinned(&points, 3, 2).iter().map(|p| p.threshold).collect();
        assert_eq!(kept, [0.99, 0.7]);
    }
}
