//! The rule-based teacher: one chain of thought per question kind.

use rand::Rng;
use skimstone::sleep::{Clock, Night};

use super::Kind;
use super::arithmetic::{add, mean, minutes, percent, subtract, sum, until_evening};
use super::definitions as def;
use super::phrases::{self, Advice};

/// What a chunk is for: the ground truth of what may be skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// What the asked quantity means.
    Definition,
    /// Words that carry nothing.
    Filler,
    /// Arithmetic.
    Step,
    /// The result against a threshold.
    Comparison,
    /// The result in words.
    Conclusion,
    /// What to try next.
    Recommendation,
}

impl Role {
    /// The name in rows and reports.
    pub fn name(self) -> &'static str {
        match self {
            Role::Definition => "definition",
            Role::Filler => "filler",
            Role::Step => "step",
            Role::Comparison => "comparison",
            Role::Conclusion => "conclusion",
            Role::Recommendation => "recommendation",
        }
    }
}

/// One chunk of a chain of thought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// What it is for.
    pub role: Role,
    /// The words.
    pub text: String,
}

/// A chain of thought and the answer that it ends in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lesson {
    /// The chain, in order.
    pub chunks: Vec<Chunk>,
    /// `<value>, <verdict>; <recommendation>`.
    pub answer: String,
}

/// The steps of one quantity, collected in order.
#[derive(Default)]
struct Steps(Vec<String>);

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
struct Verdict {
    /// The quantity as the answer gives it, for example `403 min`.
    quantity: String,
    /// The comparison as a sentence.
    comparison: String,
    /// One or two words.
    verdict: &'static str,
    advice: Advice,
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

/// The chain of `kind` over `night`; `None` where the record lacks what the question needs.
pub fn teach(kind: Kind, night: &Night, rng: &mut impl Rng) -> Option<Lesson> {
    let mut steps = Steps::default();
    let mut result = solve(kind, night, &mut steps)?;
    let alarm = night
        .resting_heart_rate
        .filter(|&r| r > def::RESTING_HEART_MAX);
    if alarm.is_some() {
        result.advice = Advice::Clinician;
    }

    let mut chunks = vec![Chunk {
        role: Role::Definition,
        text: phrases::definition(kind, rng),
    }];
    let filler = |chunks: &mut Vec<Chunk>, text: String| {
        chunks.push(Chunk {
            role: Role::Filler,
            text,
        })
    };
    if rng.random_bool(0.8) {
        let text = phrases::plan(rng);
        filler(&mut chunks, text);
    }
    let pause_after =
        (steps.0.len() > 1 && rng.random_bool(0.5)).then(|| rng.random_range(1..steps.0.len()));
    for (i, text) in steps.0.into_iter().enumerate() {
        if pause_after == Some(i) {
            let text = phrases::pause(rng);
            filler(&mut chunks, text);
        }
        chunks.push(Chunk {
            role: Role::Step,
            text,
        });
    }
    if rng.random_bool(0.7) {
        let text = phrases::check(rng);
        filler(&mut chunks, text);
    }
    chunks.push(Chunk {
        role: Role::Comparison,
        text: result.comparison,
    });
    chunks.push(Chunk {
        role: Role::Conclusion,
        text: phrases::conclusion(&result.quantity, result.verdict, rng),
    });
    if let (Some(rate), true) = (alarm, kind != Kind::RedFlag) {
        chunks.push(Chunk {
            role: Role::Comparison,
            text: format!(
                "The resting heart of {rate} is above {}.",
                def::RESTING_HEART_MAX
            ),
        });
    }
    chunks.push(Chunk {
        role: Role::Recommendation,
        text: phrases::recommendation(result.advice, rng),
    });
    Some(Lesson {
        chunks,
        answer: format!(
            "{}, {}; {}.",
            result.quantity,
            result.verdict,
            result.advice.text()
        ),
    })
}

/// The arithmetic of `kind` and its verdict.
fn solve(kind: Kind, night: &Night, steps: &mut Steps) -> Option<Verdict> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    fn night() -> Night {
        Night::from_json(
            r#"{"age":34,"bedtime":"23:05","lights_out":"23:20","sleep_onset":"23:44","awakenings":[12,5,8],"final_wake":"06:52","rise":"07:05",
                "resting_heart_rate":58,"last_caffeine":"15:30","week":{"bedtimes":["23:10","22:50","23:30","00:15","23:20","01:05","00:40"],
                "minutes_asleep":[391,402,380,415,390,455,430],"work_nights":{"sleep_onset":"23:40","final_wake":"06:50"},
                "free_nights":{"sleep_onset":"01:10","final_wake":"09:20"}}}"#,
        )
        .expect("a valid night")
    }

    #[test]
    fn answers_are_what_a_person_would_calculate() {
        let staged = Night {
            stages: Some(skimstone::sleep::Stages {
                light: 231,
                deep: 72,
                rem: 98,
            }),
            ..night()
        };
        let fast = Night {
            resting_heart_rate: Some(104),
            ..night()
        };
        let cases = [
            (
                Kind::TimeInBed,
                night(),
                "480 min, enough; keep this schedule.",
            ),
            (
                Kind::Latency,
                night(),
                "24 min, normal; keep this schedule.",
            ),
            (
                Kind::Waso,
                night(),
                "25 min, high; keep the room cool and dark.",
            ),
            (
                Kind::TotalSleep,
                night(),
                "403 min, short; go to bed earlier.",
            ),
            (
                Kind::Efficiency,
                night(),
                "83 %, low; spend less time awake in bed.",
            ),
            (
                Kind::Midpoint,
                night(),
                "03:18, average; keep this schedule.",
            ),
            (
                Kind::SocialJetLag,
                night(),
                "120 min, notable; shift free nights toward work nights.",
            ),
            (
                Kind::SleepDebt,
                night(),
                "77 min, a debt; go to bed earlier.",
            ),
            (
                Kind::DeepShare,
                staged.clone(),
                "17 %, enough; keep this schedule.",
            ),
            (Kind::RemShare, staged, "24 %, enough; keep this schedule."),
            (
                Kind::Regularity,
                night(),
                "135 min, irregular; get up at a fixed time.",
            ),
            (
                Kind::Caffeine,
                night(),
                "455 min, early enough; keep this schedule.",
            ),
            (
                Kind::Need,
                night(),
                "17 min, too little; go to bed earlier.",
            ),
            (
                Kind::RedFlag,
                night(),
                "no, nothing found; keep this schedule.",
            ),
            (
                Kind::RedFlag,
                fast.clone(),
                "yes, fast heart; see a clinician.",
            ),
            (Kind::Latency, fast, "24 min, normal; see a clinician."),
        ];
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for (kind, night, answer) in cases {
            let lesson = teach(kind, &night, &mut rng).unwrap_or_else(|| panic!("{}", kind.name()));
            assert_eq!(
                lesson.answer,
                answer,
                "{}: {:?}",
                kind.name(),
                lesson.chunks
            );
            let has = |role| lesson.chunks.iter().any(|c| c.role == role);
            assert!(
                has(Role::Definition)
                    && has(Role::Comparison)
                    && has(Role::Conclusion)
                    && has(Role::Recommendation)
            );
        }
    }

    #[test]
    fn half_of_the_kinds_need_three_dependent_steps() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let long = Kind::ALL
            .iter()
            .filter(|&&k| {
                teach(k, &night(), &mut rng)
                    .is_some_and(|l| l.chunks.iter().filter(|c| c.role == Role::Step).count() >= 3)
            })
            .count();
        assert!(2 * long >= Kind::ALL.len(), "{long} of {}", Kind::ALL.len());
    }

    #[test]
    fn fillers_carry_no_number() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        for _ in 0..50 {
            for kind in Kind::ALL {
                let Some(lesson) = teach(kind, &night(), &mut rng) else {
                    continue;
                };
                for chunk in lesson
                    .chunks
                    .iter()
                    .filter(|c| matches!(c.role, Role::Filler | Role::Definition))
                {
                    assert!(
                        !chunk.text.bytes().any(|b| b.is_ascii_digit()),
                        "{}",
                        chunk.text
                    );
                }
            }
        }
    }

    #[test]
    fn missing_fields_leave_the_question_out() {
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        assert!(
            Kind::ALL
                .iter()
                .all(|&k| teach(k, &Night::default(), &mut rng).is_none())
        );
    }
}
