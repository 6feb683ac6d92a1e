//! Policies that look on the side how sure the student is: the gate of the route `auto`, and answers for whenever time is up.

use super::policy::{NextStep, Observation, ReasoningPolicy, Think};
use crate::spec::GateKind;

/// Thinks in tokens, and stops at the end of the first chunk after which the confidence reaches a threshold.
#[derive(Debug, Clone, Copy)]
pub struct Gated {
    /// What tells the confidence.
    pub gate: GateKind,
    /// Stop from this confidence on.
    pub threshold: f32,
}

impl ReasoningPolicy for Gated {
    fn next_step(&mut self, seen: &Observation) -> NextStep {
        match seen.confidence {
            Some(confidence) if confidence >= self.threshold => NextStep::Answer,
            None if seen.chunk_ended => NextStep::Probe {
                gate: self.gate,
                at_least: self.threshold,
            },
            _ => Think.next_step(seen),
        }
    }
}

/// Another policy, with an answer in reserve: probes before the thinking begins and at the end of every chunk, to the end of the
/// answer each time.
pub(super) struct Anytime(pub(super) Box<dyn ReasoningPolicy>);

impl ReasoningPolicy for Anytime {
    fn next_step(&mut self, seen: &Observation) -> NextStep {
        let first = seen.thinking_tokens == 0 && seen.latent_steps == 0;
        match self.0.next_step(seen) {
            NextStep::Probe { gate, .. } => NextStep::Probe {
                gate,
                at_least: 0.0,
            },
            NextStep::Token | NextStep::Latent
                if (first || seen.chunk_ended) && seen.confidence.is_none() =>
            {
                NextStep::Probe {
                    gate: GateKind::Answer,
                    at_least: 0.0,
                }
            }
            step => step,
        }
    }
}

/// How sure a distribution is of its next token, from 0 to 1: by its entropy, or by its largest probability.
///
/// Shapes: `logits` is `[V]`.
pub(super) fn certainty(gate: GateKind, logits: &[f32]) -> f32 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let shifted = logits.iter().map(|&x| f64::from(x - max));
    let sum: f64 = shifted.clone().map(f64::exp).sum();
    match gate {
        GateKind::Entropy | GateKind::CloseEntropy => {
            // H = ln Z - Σ p·x, with x relative to the largest; a weight of 0 adds nothing, whatever its logit.
            let mean: f64 = shifted
                .filter(|x| x.is_finite())
                .map(|x| x.exp() * x)
                .sum::<f64>()
                / sum;
            let most = (logits.len().max(2) as f64).ln();
            (1.0 - (sum.ln() - mean) / most).clamp(0.0, 1.0) as f32
        }
        GateKind::Answer | GateKind::MaxProb | GateKind::CloseMaxProb => (1.0 / sum) as f32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certainty_is_one_for_one_token_and_least_for_all() {
        let sure = [0.0, 100.0, f32::NEG_INFINITY, 0.0];
        let even = [0.5; 4];
        for gate in GateKind::ALL {
            assert!(certainty(gate, &sure) > 0.9999, "{gate:?}");
        }
        assert!(certainty(GateKind::Entropy, &even).abs() < 1e-6);
        assert_eq!(certainty(GateKind::MaxProb, &even), 0.25);
        // Two of four alike: ln 2 of ln 4.
        let two = [3.0, 3.0, f32::NEG_INFINITY, f32::NEG_INFINITY];
        assert!((certainty(GateKind::CloseEntropy, &two) - 0.5).abs() < 1e-6);
        assert_eq!(certainty(GateKind::CloseMaxProb, &two), 0.5);
    }
}
