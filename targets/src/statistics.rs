//! Intervals, medians and percentiles of what was measured.

/// The 97.5 % quantile of the normal distribution: 95 % of it lie within this many standard deviations.
const Z95: f64 = 1.959_963_984_540_054;

/// Wilson's 95 % score interval of a proportion: `hits` of `n`.
///
/// Unlike the normal approximation it stays within 0 and 1 and is right near them, where accuracies are.
///
/// Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
pub(crate) fn wilson(hits: usize, n: usize) -> [f64; 2] {
    if n == 0 {
        return [0.0, 1.0];
    }
    let (n, p) = (n as f64, hits as f64 / n as f64);
    let scale = 1.0 + Z95 * Z95 / n;
    let center = (p + Z95 * Z95 / (2.0 * n)) / scale;
    let half = Z95 / scale * (p * (1.0 - p) / n + Z95 * Z95 / (4.0 * n * n)).sqrt();
    [(center - half).max(0.0), (center + half).min(1.0)]
}

/// Repeated measurements of one thing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn push(&mut self, value: f64) {
        let at = self.0.partition_point(|x| *x <= value);
        self.0.insert(at, value);
    }

    /// The smallest value that at least `percent` of all do not exceed (nearest rank); 0 without values.
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        let rank = (self.0.len() * percent).div_ceil(100);
        self.0
            .get(rank.saturating_sub(1))
            .copied()
            .unwrap_or_default()
    }

    /// The middle value; of an even number the mean of the middle two.
    pub(crate) fn median(&self) -> f64 {
        let n = self.0.len();
        match n {
            0 => 0.0,
            _ if n.is_multiple_of(2) => (self.0[n / 2 - 1] + self.0[n / 2]) / 2.0,
            _ => self.0[n / 2],
        }
    }

    /// The smallest and the largest value; zeros without values.
    pub(crate) fn range(&self) -> [f64; 2] {
        [
            self.0.first().copied().unwrap_or_default(),
            self.0.last().copied().unwrap_or_default(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wilson_agrees_with_published_values() {
        // Newcombe, "Two-sided confidence intervals for the single proportion" (1998), table I, method 3.
        let cases = [
            (81, 263, [0.2553, 0.3662]),
            (15, 148, [0.0624, 0.1605]),
            (0, 20, [0.0, 0.1611]),
            (1, 29, [0.0061, 0.1718]),
        ];
        for (hits, n, expected) in cases {
            let interval = wilson(hits, n);
            for (value, expected) in interval.iter().zip(expected) {
                assert!((value - expected).abs() < 5e-5, "{hits}/{n}: {interval:?}");
            }
        }
        assert_eq!(wilson(0, 0), [0.0, 1.0]);
    }

    #[test]
    fn ranks() {
        let mut samples = Samples::default();
        assert_eq!((samples.median(), samples.percentile(95)), (0.0, 0.0));
        for value in [4.0, 1.0, 3.0, 2.0] {
            samples.push(value);
        }
        assert_eq!(samples.median(), 2.5);
        assert_eq!(samples.percentile(50), 2.0);
        assert_eq!(samples.percentile(95), 4.0);
        assert_eq!(samples.range(), [1.0, 4.0]);
    }
}
