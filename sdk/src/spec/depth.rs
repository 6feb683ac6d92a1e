//! How deep tokens run: early exits, and guesses of the lower layers that the upper ones verify.

use serde::{Deserialize, Serialize};

use super::auto::{count, digest, share};
use super::shortcut::ShortcutSpec;

/// How deep the generated tokens and the latent steps of a route run. The prompt always runs all layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum RouteDepth {
    /// All layers.
    #[default]
    Full,
    /// As the specification's [`exits`](super::ReasoningSpec::exits) say.
    Exits,
    /// All layers, after guesses as the specification's [`drafts`](super::ReasoningSpec::drafts) say. The tokens are those of `full`.
    Drafts,
    /// All layers for tokens; latent steps as the specification's [`shortcut`](super::ReasoningSpec::shortcut) says.
    Shortcut,
}

impl RouteDepth {
    /// Every kind.
    pub const ALL: [RouteDepth; 4] = [
        RouteDepth::Full,
        RouteDepth::Exits,
        RouteDepth::Drafts,
        RouteDepth::Shortcut,
    ];

    /// The name in bundles and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            RouteDepth::Full => "full",
            RouteDepth::Exits => "exits",
            RouteDepth::Drafts => "drafts",
            RouteDepth::Shortcut => "shortcut",
        }
    }

    /// The kind of that name.
    pub fn from_name(name: &str) -> Option<RouteDepth> {
        RouteDepth::ALL.into_iter().find(|kind| kind.name() == name)
    }

    pub(crate) fn is_full(&self) -> bool {
        *self == RouteDepth::Full
    }
}

/// How deep generated tokens run, with all that it takes.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum Depth {
    /// All layers.
    #[default]
    Full,
    /// Until a confidence is reached.
    Exits(ExitSpec),
    /// All layers, several tokens at once where guesses are right.
    Drafts(DraftSpec),
    /// All layers for tokens, those that routers ask for in latent steps.
    Shortcut(ShortcutSpec),
}

/// What tells at an exit whether the layers above may be left out. Larger when surer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ExitMeasure {
    /// The difference of the two largest probabilities of the next token, through the final norm and the LM head: one pass of the head
    /// at every exit that is asked. From 0 to 1.
    #[default]
    Softmax,
    /// The cosine of the states before and after the layer. From -1 to 1; costs no pass.
    Saturation,
}

impl ExitMeasure {
    /// Every measure.
    pub const ALL: [ExitMeasure; 2] = [ExitMeasure::Softmax, ExitMeasure::Saturation];

    /// The name in bundles and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            ExitMeasure::Softmax => "softmax",
            ExitMeasure::Saturation => "saturation",
        }
    }

    /// The measure of that name.
    pub fn from_name(name: &str) -> Option<ExitMeasure> {
        ExitMeasure::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
    }
}

/// What a confident exit leaves out. The literature has both readings of a depth shortcut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum DepthPolicy {
    /// All layers above: the state goes to the final norm and the head. CALM, LITE, LayerSkip.
    #[default]
    Halt,
    /// The one layer that follows; the state goes on unchanged to the layer after it, and the next exit is asked again.
    Bypass,
}

impl DepthPolicy {
    /// Every policy.
    pub const ALL: [DepthPolicy; 2] = [DepthPolicy::Halt, DepthPolicy::Bypass];

    /// The name in bundles and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            DepthPolicy::Halt => "halt",
            DepthPolicy::Bypass => "bypass",
        }
    }

    /// The policy of that name.
    pub fn from_name(name: &str) -> Option<DepthPolicy> {
        DepthPolicy::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
    }
}

/// What the layers that a token left out hold for it in the KV cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum MissingKv {
    /// Keys and values of the state that the token left with: state propagation, as CALM does. Two products per layer left out, and later
    /// tokens find an entry for every position.
    #[default]
    Propagate,
    /// Nothing. Later tokens do not see the position in those layers; positions stay absolute. For students that were trained so.
    Ragged,
}

impl MissingKv {
    /// Every choice.
    pub const ALL: [MissingKv; 2] = [MissingKv::Propagate, MissingKv::Ragged];

    /// The name in bundles and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            MissingKv::Propagate => "propagate",
            MissingKv::Ragged => "ragged",
        }
    }

    /// The choice of that name.
    pub fn from_name(name: &str) -> Option<MissingKv> {
        MissingKv::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// A threshold that falls with the number of tokens: `clip(0.9 λ + 0.1 e^(-τ t / N), 0, 1)` for token `t` from 0, since an early mistake
/// has more to spoil.
///
/// Source: CALM, arXiv 2207.07061, whose τ is 4.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExitDecay {
    /// How fast, τ.
    pub rate: f32,
    /// Tokens over which it falls, N.
    pub tokens: usize,
}

/// Early exits: a generated token leaves the stack after the first of some layers that is confident enough, through the final norm and
/// LM head that the whole stack uses (LITE, arXiv 2310.18581).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExitSpec {
    /// After how many layers a token may leave; ascending, each from 1 to one less than the model has.
    pub layers: Vec<usize>,
    /// What tells the confidence.
    #[serde(default)]
    pub measure: ExitMeasure,
    /// The confidence from which on a token leaves, λ. From 1 on none does, whatever the decay.
    pub threshold: f32,
    /// How the threshold falls; `None`: it is the same for all tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decay: Option<ExitDecay>,
    /// What is left out.
    #[serde(default)]
    pub policy: DepthPolicy,
    /// What is kept of the layers left out.
    #[serde(default)]
    pub missing_kv: MissingKv,
    /// How the threshold was found; `None` if somebody chose it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<ExitCalibration>,
}

impl ExitSpec {
    /// Exits after `layers` with this threshold; softmax, halt and propagate.
    pub fn new(layers: impl Into<Vec<usize>>, threshold: f32) -> ExitSpec {
        ExitSpec {
            layers: layers.into(),
            measure: ExitMeasure::default(),
            threshold,
            decay: None,
            policy: DepthPolicy::default(),
            missing_kv: MissingKv::default(),
            calibration: None,
        }
    }

    /// The confidence at which generated token `index` (from 0) leaves; `None`: at none.
    pub fn threshold_at(&self, index: usize) -> Option<f32> {
        if self.threshold >= 1.0 {
            return None;
        }
        Some(match self.decay {
            None => self.threshold,
            Some(ExitDecay { rate, tokens }) => {
                let fallen = (-rate * index as f32 / tokens.max(1) as f32).exp();
                (0.9 * self.threshold + 0.1 * fallen).clamp(0.0, 1.0)
            }
        })
    }

    /// The first field that makes no sense for a model of `layers` layers, and why.
    pub(crate) fn fault(&self, layers: usize) -> Option<(String, String)> {
        let fault = |place: &str, message: String| Some((place.to_owned(), message));
        let within = self.layers.iter().all(|exit| (1..layers).contains(exit));
        if self.layers.is_empty() || !within || !self.layers.is_sorted_by(|a, b| a < b) {
            let message = format!(
                "{:?} are not ascending numbers of layers from 1 to {}",
                self.layers,
                layers.saturating_sub(1)
            );
            return fault("layers", message);
        }
        if !(-1.0..=1.0).contains(&self.threshold) {
            let message = format!("{} is not from -1 to 1", self.threshold);
            return fault("threshold", message);
        }
        if let Some(decay) = self.decay {
            if !(decay.rate.is_finite() && decay.rate >= 0.0) {
                return fault("decay.rate", format!("{} is no rate", decay.rate));
            }
            if decay.tokens == 0 {
                return fault("decay.tokens", "0 tokens, at least 1 is needed".to_owned());
            }
        }
        let (place, message) = self.calibration.as_ref()?.fault()?;
        fault(&format!("calibration.{place}"), message)
    }
}

/// What a threshold of exits was calibrated on, and what it promises.
///
/// Learn-then-Test over thresholds from the surest down, as CALM does: with probability `1 - failure` over the draw of the calibration
/// questions, the share of questions that all layers answer right and the exits answer wrong is at most `risk`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExitCalibration {
    /// SHA-256 of the question file, in hexadecimal digits.
    pub data_sha256: String,
    /// Questions.
    pub n: usize,
    /// The route that was taken.
    pub route: String,
    /// The share of questions that may be lost, δ.
    pub risk: f32,
    /// Probability that this does not hold, ε.
    pub failure: f32,
    /// Share of right answers with all layers.
    pub accuracy: f32,
    /// Mean layer passes with all layers.
    pub layer_passes: f32,
    /// Mean head passes with all layers.
    pub head_passes: f32,
    /// Threshold after threshold, from the surest down to the first that may break the promise.
    pub points: Vec<ExitPoint>,
}

/// One threshold on the calibration questions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExitPoint {
    /// The threshold.
    pub threshold: f32,
    /// Share of right answers.
    pub accuracy: f32,
    /// Questions that all layers answer right and the exits answer wrong.
    pub lost: usize,
    /// Probability of so few if the risk were larger than allowed.
    pub p_value: f32,
    /// Mean layer passes.
    pub layer_passes: f32,
    /// Mean head passes.
    pub head_passes: f32,
}

impl ExitCalibration {
    /// Most points: a table, not a log.
    const MAX_POINTS: usize = 256;

    fn fault(&self) -> Option<(String, String)> {
        if let Some(fault) = digest("data_sha256", &self.data_sha256) {
            return Some(fault);
        }
        if self.points.len() > Self::MAX_POINTS {
            let (points, most) = (self.points.len(), Self::MAX_POINTS);
            let message = format!("{points} points; at most {most} are allowed");
            return Some(("points".to_owned(), message));
        }
        let of_points = self.points.iter().enumerate().flat_map(|(i, point)| {
            let place = |field: &str| format!("points[{i}].{field}");
            [
                share(&place("accuracy"), point.accuracy),
                share(&place("p_value"), point.p_value),
                count(&place("layer_passes"), point.layer_passes),
                count(&place("head_passes"), point.head_passes),
            ]
        });
        [
            share("risk", self.risk),
            share("failure", self.failure),
            share("accuracy", self.accuracy),
            count("layer_passes", self.layer_passes),
            count("head_passes", self.head_passes),
        ]
        .into_iter()
        .chain(of_points)
        .flatten()
        .next()
    }
}

/// Self-speculative decoding: the first layers guess some tokens through the final norm and LM head, the others verify them in one pass. The
/// tokens are those of plain decoding, bit for bit, whatever the sampler.
///
/// Source: LayerSkip, arXiv 2404.16710. As there, guess and verification share keys and values of the first layers, and the states that
/// left them. Unlike there a guess is held against what the sampler takes, so that it need not be greedy.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DraftSpec {
    /// Layers that guess; from 1 to one less than the model has.
    pub layers: usize,
    /// Most tokens that are guessed before they are verified; from 1 to [`DraftSpec::MAX_TOKENS`].
    pub tokens: usize,
    /// A guess of a smaller probability ends the guessing; 0: none does.
    #[serde(default)]
    pub confidence: f32,
}

impl DraftSpec {
    /// Guesses that one pass can verify: with the token before them they fill the scratch of a session.
    pub const MAX_TOKENS: usize = crate::session::PREFILL_CHUNK - 1;

    /// `tokens` guesses of the first `layers` layers.
    pub fn new(layers: usize, tokens: usize) -> DraftSpec {
        DraftSpec {
            layers,
            tokens,
            confidence: 0.0,
        }
    }

    /// The first field that makes no sense for a model of `layers` layers, and why.
    pub(crate) fn fault(&self, layers: usize) -> Option<(String, String)> {
        let outside = |place: &str, value: usize, most: usize| {
            let message = format!("{value} is not from 1 to {most}");
            (!(1..=most).contains(&value)).then(|| (place.to_owned(), message))
        };
        outside("layers", self.layers, layers.saturating_sub(1))
            .or_else(|| outside("tokens", self.tokens, Self::MAX_TOKENS))
            .or_else(|| share("confidence", self.confidence))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_fall_as_published() {
        let mut spec = ExitSpec::new([1], 0.8);
        assert_eq!(spec.threshold_at(1000), Some(0.8));
        spec.decay = Some(ExitDecay {
            rate: 4.0,
            tokens: 100,
        });
        // 0.9 · 0.8 + 0.1 · (1, e^-1, e^-4)
        for (index, want) in [(0, 0.82), (25, 0.756_788), (100, 0.721_832)] {
            let got = spec.threshold_at(index).unwrap();
            assert!((got - want).abs() < 1e-5, "{index}: {got}");
        }
        spec.threshold = -1.0;
        assert_eq!(spec.threshold_at(0), Some(0.0), "clipped");
        spec.threshold = 1.0;
        assert_eq!(spec.threshold_at(100), None, "1 is off, decay or not");
    }

    #[test]
    fn names_are_those_in_bundles() {
        for kind in RouteDepth::ALL {
            assert_eq!(RouteDepth::from_name(kind.name()), Some(kind));
            assert_eq!(
                serde_json::to_string(&kind).unwrap(),
                format!("\"{}\"", kind.name())
            );
        }
        for kind in ExitMeasure::ALL {
            assert_eq!(ExitMeasure::from_name(kind.name()), Some(kind));
            assert_eq!(
                serde_json::to_string(&kind).unwrap(),
                format!("\"{}\"", kind.name())
            );
        }
        for kind in DepthPolicy::ALL {
            assert_eq!(DepthPolicy::from_name(kind.name()), Some(kind));
            assert_eq!(
                serde_json::to_string(&kind).unwrap(),
                format!("\"{}\"", kind.name())
            );
        }
        for kind in MissingKv::ALL {
            assert_eq!(MissingKv::from_name(kind.name()), Some(kind));
            assert_eq!(
                serde_json::to_string(&kind).unwrap(),
                format!("\"{}\"", kind.name())
            );
        }
    }

    #[test]
    fn nonsense_is_refused_by_field() {
        let good = ExitSpec::new([1, 3], 0.5);
        assert_eq!(good.fault(4), None);
        type Spoil = fn(&mut ExitSpec);
        let cases: [(Spoil, &str, &str); 7] = [
            (|s| s.layers.clear(), "layers", "[] are not"),
            (|s| s.layers = vec![0, 1], "layers", "from 1 to 3"),
            (|s| s.layers = vec![4], "layers", "from 1 to 3"),
            (|s| s.layers = vec![2, 2], "layers", "ascending"),
            (|s| s.threshold = f32::NAN, "threshold", "NaN is not"),
            (
                |s| {
                    s.decay = Some(ExitDecay {
                        rate: -1.0,
                        tokens: 1,
                    });
                },
                "decay.rate",
                "-1 is no rate",
            ),
            (
                |s| {
                    s.decay = Some(ExitDecay {
                        rate: 1.0,
                        tokens: 0,
                    });
                },
                "decay.tokens",
                "at least 1",
            ),
        ];
        for (spoil, place, message) in cases {
            let mut spec = good.clone();
            spoil(&mut spec);
            let (at, why) = spec.fault(4).unwrap();
            assert_eq!(at, place);
            assert!(why.contains(message), "{why}");
        }
        assert_eq!(good.fault(1).unwrap().0, "layers", "one layer has no exit");
        let draft = DraftSpec::new(1, 4);
        assert_eq!(draft.fault(2), None);
        assert_eq!(draft.fault(1).unwrap().0, "layers");
        assert_eq!(DraftSpec::new(1, 64).fault(2).unwrap().0, "tokens");
        assert_eq!(DraftSpec::new(1, 0).fault(2).unwrap().0, "tokens");
    }
}
