//! What a question asks for: the arithmetic over a night, the comparison with a published bound, the verdict and the advice.

use skimstone::sleep::{Clock, Night};

use super::Kind;
use super::arithmetic::{add, mean, minutes, percent, subtract, sum, until_evening};
use super::definitions as def;
use super::phrases::Advice;

/// The steps of one quantity, collected in order.
#[derive(Default)]
pub(super) struct Steps(pub(super) Vec<String>);

impl Steps {
    fn take<T>(&mut self, (text, value): (String, T)) -> T {
        self.0.push(text);
        value
    }

    fn take_all<T>(&mut self, (texts, value): (Vec<String>, T)) -> T {
        self.0.extend(texts);
        value
    }

    /// Total sleep time: recorded, from the stages, or from the times, whichever the record holds.
    /// `recorded` says whether the device's own total may be used.
    fn total_sleep(&mut self, night: &Night, recorded: bool) -> Option<u32> {
        if let (true, Some(asleep)) = (recorded, night.minutes_asleep) {
            return Some(asleep);
        }
        if let Some(stages) = night.stages {
            return Some(self.take_all(sum(&[stages.light, stages.deep, stages.rem])));
        }
        let (onset, wake, awake) = (
            night.sleep_onset?,
            night.final_wake?,
            night.awakenings.as_ref()?,
        );
        let onset = self.take(minutes(onset));
        let wake = self.take(minutes(wake));
        let period = self.take(subtract(wake, onset));
        if awake.is_empty() {
            return Some(period);
        }
        let awake = if let [one] = awake[..] {
            one
        } else {
            self.take_all(sum(awake))
        };
        Some(self.take(subtract(period, awake)))
    }

    fn time_in_bed(&mut self, night: &Night, recorded: bool) -> Option<u32> {
        if let (true, Some(in_bed)) = (recorded, night.minutes_in_bed) {
            return Some(in_bed);
        }
        let (bed, rise) = (night.bedtime?, night.rise?);
        let bed = self.take(minutes(bed));
        let rise = self.take(minutes(rise));
        Some(self.take(subtract(rise, bed)))
    }
}

/// The result of a chain: what the answer says and how it compares.
pub(super) struct Verdict {
    /// The quantity as the answer gives it, for example `403 min`.
    pub(super) quantity: String,
    /// The comparison as a sentence.
    pub(super) comparison: String,
    /// One or two words.
    pub(super) verdict: &'static str,
    pub(super) advice: Advice,
}

fn verdict(
    quantity: String,
    comparison: String,
    verdict: &'static str,
    advice: Advice,
) -> Option<Verdict> {
    Some(Verdict {
        quantity,
        comparison,
        verdict,
        advice,
    })
}

fn at_least(value: u32, bound: u32, unit: &str) -> String {
    if value >= bound {
        format!("{value} {unit} is at least {bound}.")
    } else {
        format!("{value} {unit} is below {bound}.")
    }
}

fn at_most(value: u32, bound: u32, unit: &str) -> String {
    if value <= bound {
        format!("{value} {unit} is not above {bound}.")
    } else {
        format!("{value} {unit} is above {bound}.")
    }
}

/// The arithmetic of `kind` and its verdict.
pub(super) fn solve(kind: Kind, night: &Night, steps: &mut Steps) -> Option<Verdict> {
    let (need, need_max) = def::need(night.age);
    match kind {
        Kind::TimeInBed => {
            let minutes = steps.time_in_bed(night, false)?;
            let (word, advice) = if minutes >= need {
                ("enough", Advice::Keep)
            } else {
                ("short", Advice::Earlier)
            };
            verdict(
                format!("{minutes} min"),
                at_least(minutes, need, "min"),
                word,
                advice,
            )
        }
        Kind::Latency => {
            let (lights, onset) = (night.lights_out?, night.sleep_onset?);
            let lights = steps.take(minutes(lights));
            let onset = steps.take(minutes(onset));
            let latency = steps.take(subtract(onset, lights));
            let (word, advice) = if latency <= def::LATENCY_MAX {
                ("normal", Advice::Keep)
            } else {
                ("long", Advice::Dim)
            };
            verdict(
                format!("{latency} min"),
                at_most(latency, def::LATENCY_MAX, "min"),
                word,
                advice,
            )
        }
        Kind::Waso => {
            let awake = steps.take_all(sum(night.awakenings.as_ref()?));
            let bound = def::waso_max(night.age);
            let (word, advice) = match awake {
                a if a <= bound => ("normal", Advice::Keep),
                a if a <= 60 => ("high", Advice::Room),
                _ => ("high", Advice::LeaveBed),
            };
            verdict(
                format!("{awake} min"),
                at_most(awake, bound, "min"),
                word,
                advice,
            )
        }
        Kind::TotalSleep => {
            let asleep = steps.total_sleep(night, false)?;
            let (word, advice) = match asleep {
                a if a < need => ("short", Advice::Earlier),
                a if a > need_max => ("long", Advice::FixedRise),
                _ => ("in range", Advice::Keep),
            };
            let comparison =
                format!("The range for the age is {need} to {need_max}, and {asleep} is {word}.");
            verdict(format!("{asleep} min"), comparison, word, advice)
        }
        Kind::Efficiency => {
            let recorded = night.minutes_asleep.is_some() && night.minutes_in_bed.is_some();
            let asleep = steps.total_sleep(night, recorded)?;
            let in_bed = steps.time_in_bed(night, recorded)?;
            let share = steps.take_all(percent(asleep, in_bed)?);
            let (word, advice) = if share >= def::EFFICIENCY_MIN {
                ("good", Advice::Keep)
            } else {
                ("low", Advice::LessInBed)
            };
            verdict(
                format!("{share} %"),
                at_least(share, def::EFFICIENCY_MIN, "%"),
                word,
                advice,
            )
        }
        Kind::Midpoint => {
            let (onset, wake) = (night.sleep_onset?, night.final_wake?);
            let onset = steps.take(minutes(onset));
            let wake = steps.take(minutes(wake));
            let middle = steps.take(mean(onset, wake));
            let clock = Clock::from_evening(middle);
            let minute = u32::from(clock.minute());
            steps.0.push(format!(
                "{middle} is {} + {minute}, so {clock}.",
                middle - minute
            ));
            let (word, advice) = match middle {
                m if m < def::MIDPOINT_EARLY => ("early", Advice::Keep),
                m if m > def::MIDPOINT_LATE => ("late", Advice::Daylight),
                _ => ("average", Advice::Keep),
            };
            let (low, high) = (
                Clock::from_evening(def::MIDPOINT_EARLY),
                Clock::from_evening(def::MIDPOINT_LATE),
            );
            verdict(
                clock.to_string(),
                format!("Between {low} and {high} is average, and {clock} is {word}."),
                word,
                advice,
            )
        }
        Kind::SocialJetLag => {
            let week = night.week.as_ref()?;
            let mut middle = |window: skimstone::sleep::Window| {
                let onset = steps.take(minutes(window.sleep_onset));
                let wake = steps.take(minutes(window.final_wake));
                steps.take(mean(onset, wake))
            };
            let (work, free) = (middle(week.work_nights?), middle(week.free_nights?));
            let lag = steps.take(subtract(work.max(free), work.min(free)));
            let (word, advice) = if lag >= def::SOCIAL_JET_LAG_MIN {
                ("notable", Advice::ShiftFree)
            } else {
                ("small", Advice::Keep)
            };
            verdict(
                format!("{lag} min"),
                at_least(lag, def::SOCIAL_JET_LAG_MIN, "min"),
                word,
                advice,
            )
        }
        Kind::SleepDebt => {
            let nights = &night.week.as_ref()?.minutes_asleep;
            if nights.is_empty() {
                return None;
            }
            let asleep: u32 = nights.iter().sum();
            let owed = nights.len() as u32 * need;
            steps.0.push(format!("{} x {need} = {owed}.", nights.len()));
            let debt = steps.take(subtract(owed.max(asleep), owed.min(asleep)));
            if asleep < owed {
                let comparison = format!("{asleep} is less than {owed}.");
                verdict(
                    format!("{debt} min"),
                    comparison,
                    "a debt",
                    if debt > 210 {
                        Advice::AddSleep
                    } else {
                        Advice::Earlier
                    },
                )
            } else {
                verdict(
                    format!("{debt} min"),
                    format!("{asleep} is not less than {owed}."),
                    "no debt",
                    Advice::Keep,
                )
            }
        }
        Kind::DeepShare | Kind::RemShare => {
            let stages = night.stages?;
            let (part, bound, low) = match kind {
                Kind::DeepShare => (stages.deep, def::DEEP_MIN, Advice::Exercise),
                _ => (stages.rem, def::REM_MIN, Advice::Alcohol),
            };
            let asleep = steps.total_sleep(night, true)?;
            let share = steps.take_all(percent(part, asleep)?);
            let (word, advice) = if share >= bound {
                ("enough", Advice::Keep)
            } else {
                ("low", low)
            };
            verdict(
                format!("{share} %"),
                at_least(share, bound, "%"),
                word,
                advice,
            )
        }
        Kind::Regularity => {
            let times = &night.week.as_ref()?.bedtimes;
            let earliest = *times.iter().min_by_key(|t| t.evening_minutes())?;
            let latest = *times.iter().max_by_key(|t| t.evening_minutes())?;
            let first = steps.take(minutes(earliest));
            let last = steps.take(minutes(latest));
            let range = steps.take(subtract(last, first));
            let (word, advice) = if range <= def::REGULARITY_MAX {
                ("regular", Advice::Keep)
            } else {
                ("irregular", Advice::FixedRise)
            };
            verdict(
                format!("{range} min"),
                at_most(range, def::REGULARITY_MAX, "min"),
                word,
                advice,
            )
        }
        Kind::Caffeine => {
            let (cup, bed) = (night.last_caffeine?, night.bedtime?);
            let (cup_minutes, bed_minutes) = (cup.evening_minutes(), bed.evening_minutes());
            let gap = if cup.hour() < 18 && cup.hour() > 4 {
                let before = steps.take(until_evening(cup));
                let after = steps.take(minutes(bed));
                steps.take(add(before, after))
            } else if cup_minutes <= bed_minutes {
                let after = steps.take(minutes(bed));
                let before = steps.take(minutes(cup));
                steps.take(subtract(after, before))
            } else {
                return None;
            };
            let (word, advice) = if gap >= def::CAFFEINE_GAP_MIN {
                ("early enough", Advice::Keep)
            } else {
                ("too late", Advice::Caffeine)
            };
            verdict(
                format!("{gap} min"),
                at_least(gap, def::CAFFEINE_GAP_MIN, "min"),
                word,
                advice,
            )
        }
        Kind::Need => {
            let asleep = steps.total_sleep(night, true)?;
            let gap = steps.take(subtract(need.max(asleep), need.min(asleep)));
            if asleep < need {
                verdict(
                    format!("{gap} min"),
                    format!("{asleep} is below the need of {need}."),
                    "too little",
                    Advice::Earlier,
                )
            } else {
                verdict(
                    format!("{gap} min"),
                    format!("{asleep} reaches the need of {need}."),
                    "need met",
                    Advice::Keep,
                )
            }
        }
        Kind::RedFlag => {
            let rate = night.resting_heart_rate?;
            let asleep = steps.total_sleep(night, true)?;
            let heart = at_most(rate, def::RESTING_HEART_MAX, "resting heart");
            let comparison = format!("{heart} {}", at_least(asleep, def::RED_FLAG_SLEEP, "min"));
            let (quantity, word) =
                match (rate > def::RESTING_HEART_MAX, asleep < def::RED_FLAG_SLEEP) {
                    (true, true) => ("yes", "fast heart and short night"),
                    (true, false) => ("yes", "fast heart"),
                    (false, true) => ("yes", "short night"),
                    (false, false) => ("no", "nothing found"),
                };
            let advice = if quantity == "yes" {
                Advice::Clinician
            } else {
                Advice::Keep
            };
            verdict(quantity.to_owned(), comparison, word, advice)
        }
    }
}
