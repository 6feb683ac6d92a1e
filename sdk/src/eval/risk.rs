//! Promises about a risk, from counts: Learn-then-Test over settings in an order that the data have no part in.

/// Probability of at most `hits` of `n` where each comes with probability `p`: the lower tail of the binomial distribution.
///
/// As a p-value it tests whether a risk is larger than `p`: for losses of 0 or 1 it is exact, and never weaker than Hoeffding's bound.
/// Without observations it is 1.
pub fn binomial_tail(hits: usize, n: usize, p: f64) -> f64 {
    if hits >= n || p <= 0.0 {
        return 1.0;
    }
    if p >= 1.0 {
        return 0.0;
    }
    // In logarithms: (1 - p)^n is 0 in f64 from some thousands of questions on.
    let odds = p.ln() - (-p).ln_1p();
    let mut term = n as f64 * (-p).ln_1p();
    let mut sum = term;
    for i in 0..hits {
        term += ((n - i) as f64 / (i + 1) as f64).ln() + odds;
        let (large, small) = if term > sum { (term, sum) } else { (sum, term) };
        sum = large + (small - large).exp().ln_1p();
    }
    sum.exp().min(1.0)
}

/// How many of some settings keep a promise, from the first one on: with probability `1 - failure` over the draw of the `n` questions, the
/// share of lost ones is at most `risk` for all of them. `lost` are the questions that each setting loses; the order of the settings must
/// not depend on the questions.
///
/// Fixed-sequence testing: each setting is tested at the full level as long as those before it passed, which keeps the probability of any
/// false promise below `failure`.
///
/// Source: Angelopoulos et al., "Learn then Test", arXiv 2110.01052, as CALM (arXiv 2207.07061) uses it; the p-value is the binomial tail.
pub fn learn_then_test(
    lost: impl IntoIterator<Item = usize>,
    n: usize,
    risk: f64,
    failure: f64,
) -> usize {
    let kept = lost.into_iter();
    kept.take_while(|&lost| binomial_tail(lost, n, risk) <= failure)
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_by_hand() {
        // 0.95^100; and Pr(at most 2 of 100), from a table of the binomial distribution.
        assert!((binomial_tail(0, 100, 0.05) - 0.005_920_5).abs() < 1e-6);
        assert!((binomial_tail(2, 100, 0.05) - 0.118_263).abs() < 1e-5);
        assert!((binomial_tail(5, 10, 0.5) - 0.623_047).abs() < 1e-6);
        assert_eq!(binomial_tail(0, 0, 0.1), 1.0);
        assert_eq!(binomial_tail(10, 10, 0.1), 1.0);
        assert_eq!(
            (binomial_tail(3, 9, 0.0), binomial_tail(3, 9, 1.0)),
            (1.0, 0.0)
        );
        // Half of the mass, where the terms themselves are far below the smallest f64.
        let half = binomial_tail(50_000, 100_000, 0.5);
        assert!((half - 0.501_26).abs() < 1e-4, "{half}");
        // Hoeffding's bound is weaker.
        for (lost, n, risk) in [(3, 400, 0.02), (0, 100, 0.03), (40, 1000, 0.06)] {
            let mean = lost as f64 / n as f64;
            let hoeffding = (-2.0 * n as f64 * (risk - mean).powi(2)).exp();
            assert!(binomial_tail(lost, n, risk) <= hoeffding);
        }
    }

    /// The promise itself: of many calibrations, no larger a share breaks it than was said.
    #[test]
    fn a_promise_is_broken_no_more_often_than_said() {
        let (n, risk, failure) = (300, 0.05, 0.1);
        // True risks of the settings; the first three are allowed.
        let truth = [0.01, 0.03, 0.05, 0.055, 0.08, 0.2];
        let mut state = 9u64;
        let mut unit = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        let (mut broken, mut useful, calibrations) = (0u32, 0u32, 3000u32);
        for _ in 0..calibrations {
            // One question loses under every setting whose risk is above its draw: settings share questions, as they do in truth.
            let draws: Vec<f64> = (0..n).map(|_| unit()).collect();
            let lost = truth.map(|risk| draws.iter().filter(|&&draw| draw < risk).count());
            let kept = learn_then_test(lost, n, risk, failure);
            broken += u32::from(kept > 3);
            useful += u32::from(kept >= 1);
        }
        // The bound, and three standard deviations of what is drawn.
        let most = failure + 3.0 * (failure * (1.0 - failure) / f64::from(calibrations)).sqrt();
        assert!(
            f64::from(broken) / f64::from(calibrations) <= most,
            "{broken}"
        );
        assert!(useful > calibrations * 9 / 10, "{useful}");
    }
}
