//! The effort dial: which route `auto` thinks along, when it stops, and what it was calibrated on.

use serde::{Deserialize, Serialize};

/// What tells, at the end of a chunk, whether the answer is settled. Each is a confidence from 0 to 1, larger when surer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum GateKind {
    /// The thinking is closed on the side and the answer decoded greedily: the smallest probability of any of its tokens, the end
    /// token included. Stops early when a token falls below the threshold.
    #[default]
    Answer,
    /// `1 - entropy / ln V` of the next thinking token. Costs no pass.
    Entropy,
    /// The largest probability of the next thinking token. Costs no pass.
    MaxProb,
    /// `1 - entropy / ln V` of the answer's first token, once the thinking is closed on the side.
    CloseEntropy,
    /// The largest probability of the answer's first token, once the thinking is closed on the side.
    CloseMaxProb,
}

impl GateKind {
    /// Every kind.
    pub const ALL: [GateKind; 5] = [
        GateKind::Answer,
        GateKind::Entropy,
        GateKind::MaxProb,
        GateKind::CloseEntropy,
        GateKind::CloseMaxProb,
    ];

    /// The name in bundles and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            GateKind::Answer => "answer",
            GateKind::Entropy => "entropy",
            GateKind::MaxProb => "max-prob",
            GateKind::CloseEntropy => "close-entropy",
            GateKind::CloseMaxProb => "close-max-prob",
        }
    }

    /// The kind of that name.
    pub fn from_name(name: &str) -> Option<GateKind> {
        GateKind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// The route `auto`: thinks along another route and stops at the end of the first chunk after which the answer is settled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AutoSpec {
    /// The route that it thinks along; one that thinks in tokens and has a close.
    pub route: String,
    /// What tells whether the answer is settled.
    pub gate: GateKind,
    /// The confidence from which on it is, from 0 to 1.
    pub threshold: f32,
    /// How the threshold was found; `None` if somebody chose it.
    #[serde(default)]
    pub calibration: Option<Calibration>,
}

/// What a threshold was calibrated on, and what others would have given there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// SHA-256 of the question file, in hexadecimal digits.
    pub data_sha256: String,
    /// Questions.
    pub n: usize,
    /// Share of right answers of the route itself, without a gate.
    pub accuracy: f32,
    /// Its mean of generated tokens.
    pub tokens: f32,
    /// The loss of accuracy that was allowed: the upper end of the 95 % interval of the loss is below it.
    pub max_loss: f32,
    /// Probability that a right answer at a chunk's end has a larger confidence than a wrong one.
    pub auroc: f32,
    /// Its 95 % interval (bootstrap over questions).
    pub auroc_interval: [f32; 2],
    /// Threshold after threshold, descending.
    pub points: Vec<CalibrationPoint>,
}

/// One threshold on the calibration questions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CalibrationPoint {
    /// The threshold.
    pub threshold: f32,
    /// Share of right answers.
    pub accuracy: f32,
    /// Mean of generated tokens, those of probes included.
    pub tokens: f32,
}

impl AutoSpec {
    /// The name under which it is asked for.
    pub const NAME: &'static str = "auto";

    /// Most points of a calibration: a table, not a log.
    const MAX_POINTS: usize = 256;

    /// The first field that makes no sense, and why; the route itself is checked by the specification that it stands in.
    pub(super) fn fault(&self) -> Option<(String, String)> {
        let Some(calibration) = &self.calibration else {
            return share("threshold", self.threshold);
        };
        let place = "calibration.data_sha256";
        if let Some(fault) = digest(place, &calibration.data_sha256) {
            return Some(fault);
        }
        if calibration.points.len() > Self::MAX_POINTS {
            let (count, most) = (calibration.points.len(), Self::MAX_POINTS);
            let message = format!("{count} points; at most {most} are allowed");
            return Some(("calibration.points".to_owned(), message));
        }
        let [low, high] = calibration.auroc_interval;
        let of_points = calibration
            .points
            .iter()
            .enumerate()
            .flat_map(|(i, point)| {
                let place = |field: &str| format!("calibration.points[{i}].{field}");
                [
                    share(&place("threshold"), point.threshold),
                    share(&place("accuracy"), point.accuracy),
                    count(&place("tokens"), point.tokens),
                ]
            });
        [
            share("threshold", self.threshold),
            share("calibration.accuracy", calibration.accuracy),
            count("calibration.tokens", calibration.tokens),
            share("calibration.max_loss", calibration.max_loss),
            share("calibration.auroc", calibration.auroc),
            share("calibration.auroc_interval", low),
            share("calibration.auroc_interval", high),
        ]
        .into_iter()
        .chain(of_points)
        .flatten()
        .next()
    }
}

/// What is wrong with a number that must be from 0 to 1.
pub(super) fn share(place: &str, value: f32) -> Option<(String, String)> {
    let message = || format!("{value} is not from 0 to 1");
    (!(0.0..=1.0).contains(&value)).then(|| (place.to_owned(), message()))
}

/// What is wrong with a SHA-256.
pub(super) fn digest(place: &str, hash: &str) -> Option<(String, String)> {
    let good = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    (!good).then(|| (place.to_owned(), "not 64 hexadecimal digits".to_owned()))
}

/// What is wrong with a mean of counts.
pub(super) fn count(place: &str, value: f32) -> Option<(String, String)> {
    let good = value.is_finite() && value >= 0.0;
    (!good).then(|| (place.to_owned(), format!("{value} is no mean of counts")))
}
