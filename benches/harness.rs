//! Measurements of skimstone and their record.
//!
//! A bench verifies its kernel against the scalar reference before it times it, reads buffers larger than the last cache, and sets every
//! figure against what the machine gave in the same run ([`ceiling`]): a shared machine drifts by a third, a ratio does not.
//! Rows of a real device go to `record/`, and a claim of speed anywhere cites its row.

pub mod ceiling;

/// The middle value, of an even number the mean of the middle two; 0 without values.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n.is_multiple_of(2) => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
        n => sorted[n / 2],
    }
}

/// The median distance from the median.
pub fn mad(values: &[f64]) -> f64 {
    let middle = median(values);
    let distances: Vec<f64> = values.iter().map(|v| (v - middle).abs()).collect();
    median(&distances)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn middle_and_spread() {
        assert_eq!((median(&[]), mad(&[])), (0.0, 0.0));
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(mad(&[1.0, 2.0, 10.0]), 1.0);
    }
}
