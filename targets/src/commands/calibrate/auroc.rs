//! How well a confidence tells right from wrong.

use serde::Serialize;

/// Resamples of the bootstrap.
const RESAMPLES: usize = 1000;

/// Probability that a right one has the larger confidence; ties count half.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Auroc {
    pub(super) value: f64,
    /// 95 %, from resampled questions: the ends of one question's chunks belong together.
    pub(super) interval: [f64; 2],
    pub(super) right: usize,
    pub(super) wrong: usize,
}

/// The AUROC of the confidences of some questions, with its interval; 0.5 with nothing to tell apart.
pub(super) fn auroc(questions: &[Vec<(f32, bool)>]) -> Auroc {
    let mut seen: Vec<(f32, bool, usize)> = questions
        .iter()
        .enumerate()
        .flat_map(|(q, ends)| ends.iter().map(move |&(x, right)| (x, right, q)))
        .collect();
    seen.sort_by(|a, b| a.0.total_cmp(&b.0));
    let right = seen.iter().filter(|seen| seen.1).count();
    let mut random = SplitMix(1);
    let mut values: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let mut weights = vec![0u32; questions.len()];
            for _ in 0..questions.len() {
                weights[(random.next() % questions.len() as u64) as usize] += 1;
            }
            weighted(&seen, &weights)
        })
        .collect();
    values.sort_by(f64::total_cmp);
    let quantile = |share: f64| values[(share * (RESAMPLES - 1) as f64).round() as usize];
    Auroc {
        value: weighted(&seen, &vec![1; questions.len()]),
        interval: [quantile(0.025), quantile(0.975)],
        right,
        wrong: seen.len() - right,
    }
}

/// The AUROC of ends in ascending order, each as often as its question weighs.
fn weighted(seen: &[(f32, bool, usize)], weights: &[u32]) -> f64 {
    let (mut below, mut won, mut all_right) = (0.0, 0.0, 0.0);
    for ties in seen.chunk_by(|a, b| a.0 == b.0) {
        let sum = |right: bool| -> f64 {
            let of_kind = ties.iter().filter(|seen| seen.1 == right);
            of_kind.map(|seen| f64::from(weights[seen.2])).sum()
        };
        let (right, wrong) = (sum(true), sum(false));
        won += right * (below + wrong / 2.0);
        below += wrong;
        all_right += right;
    }
    let pairs = all_right * below;
    if pairs > 0.0 { won / pairs } else { 0.5 }
}

/// SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014).
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auroc_is_the_share_of_pairs_in_order() {
        let perfect = [
            vec![(0.1, false), (0.9, true)],
            vec![(0.2, false), (0.8, true)],
        ];
        let found = auroc(&perfect);
        assert_eq!((found.value, found.interval), (1.0, [1.0, 1.0]));
        assert_eq!((found.right, found.wrong), (2, 2));
        // Right: 3, 1. Wrong: 2, 1. Pairs in order: 3>2, 3>1, half of 1=1.
        let some = [
            vec![(3.0, true), (2.0, false)],
            vec![(1.0, true), (1.0, false)],
        ];
        assert_eq!(auroc(&some).value, 2.5 / 4.0);
        assert_eq!(auroc(&[vec![(1.0, true)]]).value, 0.5);
        // Nothing to see: half, with an interval around it.
        let mut random = SplitMix(7);
        let blind: Vec<_> = (0..400)
            .map(|_| {
                vec![(
                    (random.next() % 100) as f32,
                    random.next().is_multiple_of(2),
                )]
            })
            .collect();
        let blind = auroc(&blind);
        assert!(
            blind.interval[0] < 0.5 && blind.interval[1] > 0.5,
            "{blind:?}"
        );
        assert!(blind.interval[1] - blind.interval[0] < 0.2, "{blind:?}");
    }
}
