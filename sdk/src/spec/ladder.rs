//! The effort dial as a ladder: routes from cheap to dear, and how sure an answer of each must be to stand.

use serde::{Deserialize, Serialize};

use super::auto::{count, digest, share};

/// The route `auto` as a ladder: a question is answered along a cheap route first, and again along a dearer one from the same prompt if
/// the student was not sure enough of it, as far as the limits allow.
///
/// What each rung costs and gives was measured; from that the engine chooses the rungs that what is left of tokens, time or layer passes
/// is best spent on. A rung whose route is that of [`AutoSpec`](super::AutoSpec) thinks with its gate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LadderSpec {
    /// From the cheapest to the dearest; an answer of the last one always stands.
    pub rungs: Vec<Rung>,
    /// How the thresholds were found; `None` if somebody chose them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<LadderCalibration>,
}

/// One route of a [`LadderSpec`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rung {
    /// Its name among the routes, whatever its kind.
    pub route: String,
    /// An answer stands from this confidence on, from 0 to 1: the smallest probability of any of its tokens, the end token included.
    /// `None`: it always stands, and the route is taken only where the limits leave nothing better.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f32>,
    /// Share of right answers of the route alone, without limits.
    pub accuracy: f32,
    /// The same among the questions that reach the rung, those whose answers on lower rungs did not stand; `None` if that was not
    /// measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reached: Option<f32>,
    /// Mean of its generated tokens.
    pub tokens: f32,
    /// Mean of its latent steps.
    #[serde(default)]
    pub latent_steps: f32,
    /// Mean of its layer passes; more than 0.
    pub layer_passes: f32,
    /// What the threshold did to the questions that reached the rung; `None` if that was not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sorted: Option<Sorted>,
    /// What is left of its accuracy under a limit, by ascending shares.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limited: Vec<Limited>,
}

/// How a threshold sorted answers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sorted {
    /// Share of the answers that stood.
    pub accepted: f32,
    /// Share of right ones among them.
    pub accepted_accuracy: f32,
    /// Share of right ones among the others.
    pub rejected_accuracy: f32,
}

/// A route under a limit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limited {
    /// The limit, as a multiple of the mean that the route takes without one.
    pub share: f32,
    /// Share of right answers.
    pub accuracy: f32,
    /// The same among the questions that reach the rung; `None` if that was not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reached: Option<f32>,
}

/// What the thresholds of a ladder were calibrated on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LadderCalibration {
    /// SHA-256 of the question file, in hexadecimal digits.
    pub data_sha256: String,
    /// Questions.
    pub n: usize,
    /// Share of right answers of the ladder.
    pub accuracy: f32,
    /// Its mean of generated tokens, those of answers that did not stand included.
    pub tokens: f32,
    /// Its mean of layer passes.
    pub layer_passes: f32,
    /// Accuracy that it loses against its last rung, the most accurate route; negative where it gains.
    pub loss: f32,
    /// Upper end of the interval of that loss, at the level that allows for all ladders that were tried.
    pub loss_upper: f32,
    /// The loss that was allowed; `loss_upper` is at most this.
    pub max_loss: f32,
    /// The probability with which more is lost all the same.
    pub failure: f32,
}

impl LadderSpec {
    /// Most rungs.
    pub const MAX_RUNGS: usize = 16;

    /// Most limits under which a rung was measured: a table, not a log.
    const MAX_LIMITED: usize = 64;

    /// The first field that makes no sense, and why; whether the routes exist is checked by the specification that it stands in.
    pub(super) fn fault(&self) -> Option<(String, String)> {
        let most = Self::MAX_RUNGS;
        if !(1..=most).contains(&self.rungs.len()) {
            let message = format!("{} rungs; from 1 to {most} are allowed", self.rungs.len());
            return Some(("rungs".to_owned(), message));
        }
        for (i, rung) in self.rungs.iter().enumerate() {
            let at = |(place, message): (String, String)| (format!("rungs[{i}].{place}"), message);
            if self.rungs[..i]
                .iter()
                .any(|other| other.route == rung.route)
            {
                let message = format!("`{}` is on a lower rung, too", rung.route);
                return Some(at(("route".to_owned(), message)));
            }
            if i + 1 == self.rungs.len() && rung.threshold.is_some() {
                let message = "an answer of the last rung always stands".to_owned();
                return Some(at(("threshold".to_owned(), message)));
            }
            if let Some(fault) = rung.fault() {
                return Some(at(fault));
            }
        }
        self.calibration
            .as_ref()?
            .fault()
            .map(|(place, message)| (format!("calibration.{place}"), message))
    }
}

impl Rung {
    fn fault(&self) -> Option<(String, String)> {
        if !self.layer_passes.is_finite() || self.layer_passes <= 0.0 {
            let message = format!("{} is no mean of more than 0", self.layer_passes);
            return Some(("layer_passes".to_owned(), message));
        }
        let most = LadderSpec::MAX_LIMITED;
        if self.limited.len() > most {
            let message = format!("{} limits; at most {most} are allowed", self.limited.len());
            return Some(("limited".to_owned(), message));
        }
        let ascending = self.limited.iter().all(|limited| limited.share > 0.0)
            && self.limited.is_sorted_by(|a, b| a.share < b.share);
        if !ascending {
            let message = "the shares are not positive and ascending".to_owned();
            return Some(("limited".to_owned(), message));
        }
        let of_limits = self.limited.iter().enumerate().flat_map(|(i, limited)| {
            [
                count(&format!("limited[{i}].share"), limited.share),
                share(&format!("limited[{i}].accuracy"), limited.accuracy),
                limited
                    .reached
                    .and_then(|reached| share(&format!("limited[{i}].reached"), reached)),
            ]
        });
        let of_sorted = self.sorted.iter().flat_map(|sorted| {
            [
                share("sorted.accepted", sorted.accepted),
                share("sorted.accepted_accuracy", sorted.accepted_accuracy),
                share("sorted.rejected_accuracy", sorted.rejected_accuracy),
            ]
        });
        [
            self.threshold
                .and_then(|threshold| share("threshold", threshold)),
            share("accuracy", self.accuracy),
            self.reached.and_then(|reached| share("reached", reached)),
            count("tokens", self.tokens),
            count("latent_steps", self.latent_steps),
        ]
        .into_iter()
        .chain(of_sorted)
        .chain(of_limits)
        .flatten()
        .next()
    }

    /// Accuracy with a limit of `share` times the mean cost, among all questions or those that reach the rung: between two limits
    /// that were measured, on the line between them.
    pub(crate) fn accuracy_at(&self, share: f64, reached: bool) -> f64 {
        let of = |all: f32, those: Option<f32>| f64::from(those.filter(|_| reached).unwrap_or(all));
        let whole = of(self.accuracy, self.reached);
        let mut below = (0.0, 0.0);
        for limited in &self.limited {
            let accuracy = of(limited.accuracy, limited.reached);
            let above = (f64::from(limited.share), accuracy);
            if share < above.0 {
                let part = (share - below.0) / (above.0 - below.0);
                return below.1 + part * (above.1 - below.1);
            }
            below = above;
        }
        match self.limited.is_empty() && share < 1.0 {
            true => whole * share,
            false => whole,
        }
    }
}

impl LadderCalibration {
    fn fault(&self) -> Option<(String, String)> {
        let difference = |place: &str, value: f32| {
            let message = || format!("{value} is not from -1 to 1");
            (!(-1.0..=1.0).contains(&value)).then(|| (place.to_owned(), message()))
        };
        [
            digest("data_sha256", &self.data_sha256),
            share("accuracy", self.accuracy),
            count("tokens", self.tokens),
            count("layer_passes", self.layer_passes),
            difference("loss", self.loss),
            difference("loss_upper", self.loss_upper),
            share("max_loss", self.max_loss),
            share("failure", self.failure),
        ]
        .into_iter()
        .flatten()
        .next()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn rung(route: &str, accuracy: f32, tokens: f32) -> Rung {
        Rung {
            route: route.to_owned(),
            threshold: None,
            accuracy,
            reached: None,
            tokens,
            latent_steps: 0.0,
            layer_passes: 5.0 * tokens,
            sorted: None,
            limited: Vec::new(),
        }
    }

    fn ladder() -> LadderSpec {
        let mut cheap = rung("direct", 0.2, 10.0);
        cheap.threshold = Some(0.9);
        cheap.sorted = Some(Sorted {
            accepted: 0.1,
            accepted_accuracy: 0.98,
            rejected_accuracy: 0.1,
        });
        let mut dear = rung("cot", 0.97, 160.0);
        dear.limited = [(0.5, 0.2), (1.0, 0.6), (2.0, 0.97)]
            .map(|(share, accuracy)| Limited {
                share,
                accuracy,
                reached: Some(accuracy / 2.0),
            })
            .to_vec();
        LadderSpec {
            rungs: vec![cheap, dear],
            calibration: Some(LadderCalibration {
                data_sha256: "0f".repeat(32),
                n: 100,
                accuracy: 0.969,
                tokens: 150.0,
                layer_passes: 750.0,
                loss: 0.001,
                loss_upper: 0.009,
                max_loss: 0.01,
                failure: 0.05,
            }),
        }
    }

    #[test]
    fn accuracy_under_a_limit_is_read_off_the_table() {
        let dear = &ladder().rungs[1];
        for (share, want) in [
            (0.0, 0.0),
            (0.25, 0.1),
            (0.5, 0.2),
            (0.75, 0.4),
            (1.5, 0.785),
            (2.0, 0.97),
            (f64::INFINITY, 0.97),
        ] {
            let got = dear.accuracy_at(share, false);
            assert!((got - want).abs() < 1e-6, "{share}: {got}");
            // Of the questions that reach it half, but where that was not measured.
            let half = if share > 2.0 { want } else { want / 2.0 };
            let got = dear.accuracy_at(share, true);
            assert!(share == 2.0 || (got - half).abs() < 1e-6, "{share}: {got}");
        }
        // Without a table: as much of it as there is of the cost.
        let cheap = &ladder().rungs[0];
        assert!((cheap.accuracy_at(0.5, false) - 0.1).abs() < 1e-6);
        assert!((cheap.accuracy_at(1.0, true) - 0.2).abs() < 1e-6);
    }

    #[test]
    fn nonsense_is_refused_by_field() {
        assert_eq!(ladder().fault(), None);
        let json = serde_json::to_string(&ladder()).unwrap();
        assert_eq!(serde_json::from_str::<LadderSpec>(&json).unwrap(), ladder());
        type Spoil = fn(&mut LadderSpec);
        let cases: [(Spoil, &str, &str); 17] = [
            (|l| l.rungs.clear(), "rungs", "0 rungs"),
            (
                |l| l.rungs = vec![l.rungs[1].clone(); 17],
                "rungs",
                "17 rungs; from 1 to 16",
            ),
            (
                |l| l.rungs[1].route = "direct".to_owned(),
                "rungs[1].route",
                "on a lower rung",
            ),
            (
                |l| l.rungs[1].threshold = Some(0.5),
                "rungs[1].threshold",
                "always stands",
            ),
            (
                |l| l.rungs[0].threshold = Some(f32::NAN),
                "rungs[0].threshold",
                "NaN is not",
            ),
            (
                |l| l.rungs[0].accuracy = 1.5,
                "rungs[0].accuracy",
                "1.5 is not",
            ),
            (
                |l| l.rungs[1].reached = Some(-0.1),
                "rungs[1].reached",
                "-0.1 is not",
            ),
            (
                |l| l.rungs[1].limited[0].reached = Some(f32::NAN),
                "rungs[1].limited[0].reached",
                "NaN is not",
            ),
            (
                |l| l.rungs[0].tokens = f32::INFINITY,
                "rungs[0].tokens",
                "inf is no mean",
            ),
            (
                |l| l.rungs[0].layer_passes = 0.0,
                "rungs[0].layer_passes",
                "0 is no mean",
            ),
            (
                |l| l.rungs[0].latent_steps = -1.0,
                "rungs[0].latent_steps",
                "-1 is no mean",
            ),
            (
                |l| l.rungs[0].sorted.as_mut().unwrap().accepted = 2.0,
                "rungs[0].sorted.accepted",
                "2 is not",
            ),
            (
                |l| l.rungs[1].limited[1].share = 0.5,
                "rungs[1].limited",
                "ascending",
            ),
            (
                |l| l.rungs[1].limited[0].share = f32::NAN,
                "rungs[1].limited",
                "positive",
            ),
            (
                |l| l.rungs[1].limited[2].accuracy = -0.5,
                "rungs[1].limited[2].accuracy",
                "-0.5",
            ),
            (
                |l| l.calibration.as_mut().unwrap().loss = -2.0,
                "calibration.loss",
                "-2 is not",
            ),
            (
                |l| l.calibration.as_mut().unwrap().data_sha256 = "12".to_owned(),
                "calibration.data_sha256",
                "64",
            ),
        ];
        for (spoil, place, message) in cases {
            let mut spec = ladder();
            spoil(&mut spec);
            let (at, why) = spec.fault().unwrap();
            assert_eq!(at, place);
            assert!(why.contains(message), "{at}: {why}");
        }
    }
}
