//! Counting an evaluation: how often a route was right, how sure that is, and what it cost.
//!
//! ```text
//! Engine::answer ─▶ (right or wrong, Usage, milliseconds) ─Tally::count─▶ Tally ─Tally::score─▶ Score
//! ```

use serde::{Deserialize, Serialize};

use crate::reason::Usage;

/// The running counts of a set of questions.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    correct: usize,
    generated_tokens: usize,
    thinking_tokens: usize,
    latent_steps: usize,
    layer_passes: usize,
    head_passes: usize,
    /// One entry per question.
    ms: Vec<f64>,
}

impl Tally {
    /// Counts one answer that took `ms` milliseconds.
    pub fn count(&mut self, correct: bool, usage: &Usage, ms: f64) {
        self.correct += usize::from(correct);
        self.generated_tokens += usage.generated_tokens;
        self.thinking_tokens += usage.thinking_tokens;
        self.latent_steps += usage.latent_steps;
        self.layer_passes += usage.layer_passes;
        self.head_passes += usage.head_passes;
        self.ms.push(ms);
    }

    /// The share of right answers, 0 before the first.
    pub fn accuracy(&self) -> f64 {
        self.mean(self.correct)
    }

    /// Accuracy and costs so far.
    pub fn score(&self) -> Score {
        let mut ms = self.ms.clone();
        ms.sort_by(f64::total_cmp);
        Score {
            accuracy: self.accuracy(),
            interval: wilson(self.correct, ms.len()),
            n: ms.len(),
            correct: self.correct,
            mean_generated_tokens: self.mean(self.generated_tokens),
            mean_thinking_tokens: self.mean(self.thinking_tokens),
            mean_latent_steps: self.mean(self.latent_steps),
            mean_layer_passes: self.mean(self.layer_passes),
            mean_head_passes: self.mean(self.head_passes),
            p50_ms: nearest_rank(&ms, 50),
            p95_ms: nearest_rank(&ms, 95),
        }
    }

    fn mean(&self, sum: usize) -> f64 {
        sum as f64 / self.ms.len().max(1) as f64
    }
}

/// Accuracy and costs of a set of questions. Means are per question; layers and head are counted after the prompt.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Share of right answers.
    pub accuracy: f64,
    /// Its Wilson interval at 95 %, lower and upper end.
    pub interval: [f64; 2],
    /// Questions.
    pub n: usize,
    /// Right answers.
    pub correct: usize,
    /// Tokens generated, thinking and answer.
    pub mean_generated_tokens: f64,
    /// Of these, thinking.
    pub mean_thinking_tokens: f64,
    /// Latent steps.
    pub mean_latent_steps: f64,
    /// Layers run per position.
    pub mean_layer_passes: f64,
    /// Times the LM head ran.
    pub mean_head_passes: f64,
    /// Median milliseconds, prompt included (nearest rank).
    pub p50_ms: f64,
    /// 95th percentile of the milliseconds (nearest rank).
    pub p95_ms: f64,
}

/// The smallest of the `sorted` values that at least `percent` of them do not exceed; 0 without values.
fn nearest_rank(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

/// Wilson's 95 % score interval of a proportion: `hits` of `n`; 0 to 1 without observations.
///
/// Unlike the normal approximation it stays within 0 and 1 and is right near them, where accuracies are.
///
/// Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
pub fn wilson(hits: usize, n: usize) -> [f64; 2] {
    /// The 97.5 % quantile of the normal distribution: 95 % of it lie within this many standard deviations.
    const Z95: f64 = 1.959_963_984_540_054;
    if n == 0 {
        return [0.0, 1.0];
    }
    let (n, p) = (n as f64, hits as f64 / n as f64);
    let scale = 1.0 + Z95 * Z95 / n;
    let center = (p + Z95 * Z95 / (2.0 * n)) / scale;
    let half = Z95 / scale * (p * (1.0 - p) / n + Z95 * Z95 / (4.0 * n * n)).sqrt();
    [(center - half).max(0.0), (center + half).min(1.0)]
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
    fn a_tally_sums_up() {
        let mut tally = Tally::default();
        assert_eq!((tally.accuracy(), tally.score().p95_ms), (0.0, 0.0));
        let usage = Usage {
            generated_tokens: 10,
            layer_passes: 50,
            ..Usage::default()
        };
        for (correct, ms) in [(true, 4.0), (false, 1.0), (true, 3.0), (true, 2.0)] {
            tally.count(correct, &usage, ms);
        }
        let score = tally.score();
        assert_eq!((score.accuracy, score.n, score.correct), (0.75, 4, 3));
        assert_eq!(
            (score.mean_generated_tokens, score.mean_layer_passes),
            (10.0, 50.0)
        );
        assert_eq!((score.p50_ms, score.p95_ms), (2.0, 4.0));
    }
}
