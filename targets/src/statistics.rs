//! Medians and ranges of what was measured.

/// Repeated measurements of one thing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn push(&mut self, value: f64) {
        let at = self.0.partition_point(|x| *x <= value);
        self.0.insert(at, value);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
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
    fn medians_and_ranges() {
        let mut samples = Samples::default();
        assert_eq!((samples.median(), samples.range()), (0.0, [0.0, 0.0]));
        for value in [4.0, 1.0, 3.0, 2.0] {
            samples.push(value);
        }
        assert_eq!(samples.median(), 2.5);
        assert_eq!(samples.range(), [1.0, 4.0]);
    }
}
