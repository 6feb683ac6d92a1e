//! The input format of sleep students: one [`Night`], where asked with its week, as the text that the student was trained on.
//!
//! ```text
//! night.json ─Night::from_json─▶ Night ─prompt(question)─▶ "age 34. in bed 23:05, …\nhow long was I asleep?"
//! ```
//!
//! Every field is optional: what a phone or wearable did not record is left out of the text, and the student was trained on records with gaps.
//! The text is part of a student's contract: change a word here and every trained sleep student has to be trained again.

use std::fmt;
use std::fmt::Write as _;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Minutes in a day.
const DAY: u16 = 24 * 60;
/// Clock times are counted from this hour, so that a night never crosses zero.
const ORIGIN: u16 = 18 * 60;

/// A time of day in whole minutes, written `HH:MM`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Clock(u16);

impl Clock {
    /// The clock time `minutes` after midnight, wrapped to one day.
    pub fn from_minutes(minutes: u32) -> Self {
        Clock((minutes % u32::from(DAY)) as u16)
    }

    /// The clock time that is `minutes` after 18:00.
    pub fn from_evening(minutes: u32) -> Self {
        Self::from_minutes(minutes + u32::from(ORIGIN))
    }

    /// Hour of the day, 0 to 23.
    pub fn hour(self) -> u16 {
        self.0 / 60
    }

    /// Minute of the hour, 0 to 59.
    pub fn minute(self) -> u16 {
        self.0 % 60
    }

    /// Minutes since the last 18:00, 0 to 1439: monotonic over a night.
    pub fn evening_minutes(self) -> u32 {
        u32::from((self.0 + DAY - ORIGIN) % DAY)
    }
}

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.hour(), self.minute())
    }
}

impl std::str::FromStr for Clock {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected a time as HH:MM (00:00 to 23:59), found {text:?}");
        let (h, m) = text.split_once(':').ok_or_else(wrong)?;
        let two = |s: &str| {
            (s.len() == 2 && s.bytes().all(|b| b.is_ascii_digit()))
                .then(|| s.parse::<u16>().ok())
                .flatten()
        };
        match (two(h), two(m)) {
            (Some(h @ 0..=23), Some(m @ 0..=59)) => Ok(Clock(h * 60 + m)),
            _ => Err(wrong()),
        }
    }
}

impl Serialize for Clock {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Clock {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// Minutes that a wearable assigned to each stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stages {
    /// Light sleep (N1 + N2), minutes.
    pub light: u32,
    /// Deep sleep (N3), minutes.
    pub deep: u32,
    /// REM sleep, minutes.
    pub rem: u32,
}

impl Stages {
    /// Total sleep time of the stages, minutes.
    pub fn total(self) -> u32 {
        self.light + self.deep + self.rem
    }
}

/// Asleep and awake times of one kind of night (work or free), averaged over a week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// Mean sleep onset.
    pub sleep_onset: Clock,
    /// Mean final wake.
    pub final_wake: Clock,
}

/// What was recorded over the last seven nights.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Week {
    /// Bedtime of each night.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bedtimes: Vec<Clock>,
    /// Minutes asleep in each night.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub minutes_asleep: Vec<u32>,
    /// Nights before work or school.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work_nights: Option<Window>,
    /// Nights before free days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_nights: Option<Window>,
}

/// One night as a phone or wearable recorded it. All fields are optional.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Night {
    /// Age in years, 5 to 110.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age: Option<u32>,
    /// Got into bed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bedtime: Option<Clock>,
    /// Tried to sleep.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lights_out: Option<Clock>,
    /// First fell asleep.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sleep_onset: Option<Clock>,
    /// Length of each awakening after sleep onset, minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub awakenings: Option<Vec<u32>>,
    /// Woke up for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub final_wake: Option<Clock>,
    /// Got out of bed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rise: Option<Clock>,
    /// Minutes asleep, where the device reports a total.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minutes_asleep: Option<u32>,
    /// Minutes in bed, where the device reports a total.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minutes_in_bed: Option<u32>,
    /// Sleep stages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stages: Option<Stages>,
    /// Resting heart rate, beats per minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resting_heart_rate: Option<u32>,
    /// Heart-rate variability (RMSSD), milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hrv: Option<u32>,
    /// Last caffeine of the day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_caffeine: Option<Clock>,
    /// The last seven nights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub week: Option<Week>,
}

/// A night file that cannot be used: which field, on which line, and what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("night, line {line}, field `{field}`: {problem}")]
pub struct NightError {
    /// 1-based line of the JSON text.
    pub line: usize,
    /// Path of the field, for example `week.bedtimes[2]`.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

/// The 1-based line on which the key of `field` (a path such as `week.bedtimes[2]`) first stands.
fn line_of(text: &str, field: &str) -> Option<usize> {
    let key = field
        .rsplit('.')
        .next()?
        .split('[')
        .next()
        .filter(|k| !k.is_empty())?;
    let key = format!("\"{key}\"");
    text.lines().position(|l| l.contains(&key)).map(|i| i + 1)
}

impl Night {
    /// Reads and checks a night from JSON text.
    ///
    /// # Errors
    /// [`NightError`] for broken JSON, an unknown field, a value of the wrong type or out of range, and times that are out of order.
    pub fn from_json(text: &str) -> Result<Self, NightError> {
        let mut reader = serde_json::Deserializer::from_str(text);
        let night: Night = serde_path_to_error::deserialize(&mut reader).map_err(|e| {
            let inner = e.inner();
            let problem = inner.to_string();
            let problem = problem
                .split(" at line ")
                .next()
                .unwrap_or_default()
                .to_owned();
            // An unknown field has no path of its own: serde names it in the message.
            let unknown = problem
                .strip_prefix("unknown field `")
                .and_then(|rest| rest.split('`').next());
            let field = match (e.path().to_string(), unknown) {
                (path, Some(name)) if path == "." => name.to_owned(),
                (path, _) => path,
            };
            let line = line_of(text, &field).unwrap_or(inner.line());
            NightError {
                line,
                field,
                problem,
            }
        })?;
        reader.end().map_err(|e| NightError {
            line: e.line(),
            field: ".".into(),
            problem: "unexpected text after the night".into(),
        })?;
        night.validate().map_err(|(field, problem)| NightError {
            line: line_of(text, field).unwrap_or(1),
            field: field.to_owned(),
            problem,
        })?;
        Ok(night)
    }

    /// Checks ranges and the order of times; the field and the problem otherwise.
    fn validate(&self) -> Result<(), (&'static str, String)> {
        let within = |field, value: Option<u32>, low: u32, high: u32, unit: &str| match value {
            Some(v) if !(low..=high).contains(&v) => {
                Err((field, format!("expected {low} to {high} {unit}, found {v}")))
            }
            _ => Ok(()),
        };
        within("age", self.age, 5, 110, "years")?;
        within("minutes_asleep", self.minutes_asleep, 1, 1200, "minutes")?;
        within("minutes_in_bed", self.minutes_in_bed, 1, 1439, "minutes")?;
        within(
            "resting_heart_rate",
            self.resting_heart_rate,
            25,
            220,
            "beats per minute",
        )?;
        within("hrv", self.hrv, 1, 400, "milliseconds")?;
        if let (Some(asleep), Some(in_bed)) = (self.minutes_asleep, self.minutes_in_bed)
            && asleep > in_bed
        {
            return Err((
                "minutes_asleep",
                format!("{asleep} minutes asleep do not fit in {in_bed} minutes in bed"),
            ));
        }
        for (field, value) in [("stages.light", 0), ("stages.deep", 1), ("stages.rem", 2)] {
            let minutes = self.stages.map(|s| [s.light, s.deep, s.rem][value]);
            within(field, minutes, 0, 900, "minutes")?;
        }
        if self.stages.is_some_and(|s| s.total() == 0) {
            return Err(("stages", "all stages are zero".into()));
        }
        if let Some(list) = &self.awakenings {
            if list.len() > 6 {
                return Err((
                    "awakenings",
                    format!(
                        "expected at most 6 awakenings, found {}; join the short ones",
                        list.len()
                    ),
                ));
            }
            for &minutes in list {
                within("awakenings", Some(minutes), 1, 600, "minutes")?;
            }
        }
        let mut last: Option<(&str, u32)> = None;
        for (field, time) in [
            ("bedtime", self.bedtime),
            ("lights_out", self.lights_out),
            ("sleep_onset", self.sleep_onset),
            ("final_wake", self.final_wake),
            ("rise", self.rise),
        ] {
            let Some(now) = time.map(Clock::evening_minutes) else {
                continue;
            };
            if let Some((before, earlier)) = last
                && now < earlier
            {
                return Err((
                    field,
                    format!(
                        "{} is before `{before}` {}; times must not cross 18:00",
                        Clock::from_evening(now),
                        Clock::from_evening(earlier)
                    ),
                ));
            }
            last = Some((field, now));
        }
        if let (Some(onset), Some(wake), Some(list)) =
            (self.sleep_onset, self.final_wake, &self.awakenings)
        {
            let (awake, period) = (
                list.iter().sum::<u32>(),
                wake.evening_minutes() - onset.evening_minutes(),
            );
            if awake >= period {
                return Err((
                    "awakenings",
                    format!(
                        "{awake} minutes awake do not fit in {period} minutes between `sleep_onset` and `final_wake`"
                    ),
                ));
            }
        }
        let Some(week) = &self.week else {
            return Ok(());
        };
        for (field, n) in [
            ("week.bedtimes", week.bedtimes.len()),
            ("week.minutes_asleep", week.minutes_asleep.len()),
        ] {
            if n != 0 && n != 7 {
                return Err((field, format!("expected 7 nights, found {n}")));
            }
        }
        for &minutes in &week.minutes_asleep {
            within("week.minutes_asleep", Some(minutes), 1, 1200, "minutes")?;
        }
        for (field, window) in [
            ("week.work_nights", week.work_nights),
            ("week.free_nights", week.free_nights),
        ] {
            if window
                .is_some_and(|w| w.final_wake.evening_minutes() <= w.sleep_onset.evening_minutes())
            {
                return Err((field, "`final_wake` is not after `sleep_onset`".into()));
            }
        }
        Ok(())
    }

    /// The record as one line of text, fields in a fixed order, missing ones left out.
    pub fn record(&self) -> String {
        let mut out = String::with_capacity(256);
        let mut sentence = |parts: &[Option<String>]| {
            let known: Vec<&str> = parts.iter().flatten().map(String::as_str).collect();
            if !known.is_empty() {
                let _ = write!(
                    out,
                    "{}{}.",
                    if out.is_empty() { "" } else { " " },
                    known.join(", ")
                );
            }
        };
        let at = |label: &str, time: Option<Clock>| time.map(|t| format!("{label} {t}"));
        let list = |items: &[u32]| {
            items
                .iter()
                .map(u32::to_string)
                .collect::<Vec<_>>()
                .join(" + ")
        };
        sentence(&[self.age.map(|a| format!("age {a}"))]);
        sentence(&[
            at("in bed", self.bedtime),
            at("lights out", self.lights_out),
            at("asleep", self.sleep_onset),
            self.awakenings.as_ref().map(|a| {
                if a.is_empty() {
                    "awake 0 min".to_owned()
                } else {
                    format!("awake {} min", list(a))
                }
            }),
            at("woke", self.final_wake),
            at("up", self.rise),
        ]);
        sentence(&[
            self.minutes_asleep.map(|m| format!("slept {m} min")),
            self.minutes_in_bed.map(|m| format!("lay {m} min")),
        ]);
        sentence(&[self
            .stages
            .map(|s| format!("light {}, deep {}, rem {} min", s.light, s.deep, s.rem))]);
        sentence(&[
            self.resting_heart_rate
                .map(|r| format!("resting heart {r}")),
            self.hrv.map(|h| format!("hrv {h}")),
            at("last caffeine", self.last_caffeine),
        ]);
        if let Some(week) = &self.week {
            let window = |label: &str, w: Option<Window>| {
                w.map(|w| format!("{label} nights {} to {}", w.sleep_onset, w.final_wake))
            };
            // A week is summed up as phones do: a range of bedtimes and a total.
            let by_evening = |t: &&Clock| t.evening_minutes();
            let range = (week.bedtimes.iter().min_by_key(by_evening))
                .zip(week.bedtimes.iter().max_by_key(by_evening));
            sentence(&[
                range.map(|(first, last)| format!("week in bed from {first} to {last}")),
                (!week.minutes_asleep.is_empty()).then(|| {
                    let total: u32 = week.minutes_asleep.iter().sum();
                    format!(
                        "week slept {total} min in {} nights",
                        week.minutes_asleep.len()
                    )
                }),
            ]);
            sentence(&[
                window("work", week.work_nights),
                window("free", week.free_nights),
            ]);
        }
        out
    }

    /// The whole prompt of a sleep student: the record, a line break, the question.
    pub fn prompt(&self, question: &str) -> String {
        format!("{}\n{}", self.record(), question.trim())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_counts_from_the_evening() {
        let cases = [
            ("18:00", 0),
            ("23:44", 344),
            ("00:00", 360),
            ("06:52", 772),
            ("17:59", 1439),
        ];
        for (text, minutes) in cases {
            let clock: Clock = text.parse().expect("a valid time");
            assert_eq!(clock.evening_minutes(), minutes, "{text}");
            assert_eq!(Clock::from_evening(minutes).to_string(), text);
        }
        for text in ["", "7:05", "24:00", "12:60", "12.30", "ab:cd", "12:3x"] {
            assert!(text.parse::<Clock>().is_err(), "{text}");
        }
    }

    #[test]
    fn record_leaves_out_what_is_missing() {
        let night = Night::from_json(r#"{"age": 34, "sleep_onset": "23:44", "awakenings": [12, 5], "final_wake": "06:52", "hrv": 46}"#).expect("a valid night");
        assert_eq!(
            night.record(),
            "age 34. asleep 23:44, awake 12 + 5 min, woke 06:52. hrv 46."
        );
        assert_eq!(Night::default().prompt(" why? "), "\nwhy?");
    }

    #[test]
    fn errors_name_line_and_field() {
        struct Case(&'static str, usize, &'static str, &'static str);
        let cases = [
            Case("{\n \"age\": 34,\n \"rise\": \"7h\"\n}", 3, "rise", "HH:MM"),
            Case(
                "{\n \"age\": 340\n}",
                2,
                "age",
                "expected 5 to 110 years, found 340",
            ),
            Case("{\n\n \"agee\": 34\n}", 3, "agee", "unknown field"),
            Case(
                "{\"bedtime\": \"23:00\",\n \"rise\": \"22:00\"}",
                2,
                "rise",
                "before `bedtime` 23:00",
            ),
            Case(
                "{\"week\":\n {\"bedtimes\": [\"23:00\"]}}",
                2,
                "week.bedtimes",
                "expected 7 nights, found 1",
            ),
            Case(
                "{\"week\":\n {\"bedtimes\": [\"23:00\", \"x\"]}}",
                2,
                "week.bedtimes[1]",
                "HH:MM",
            ),
            Case("{\n \"awakenings\": [1,2,", 2, "awakenings", "EOF"),
            Case("{} {}", 1, ".", "after the night"),
        ];
        for Case(text, line, field, problem) in cases {
            let error = Night::from_json(text).expect_err(text);
            assert_eq!((error.line, error.field.as_str()), (line, field), "{error}");
            assert!(error.problem.contains(problem), "{error}");
        }
    }

    #[test]
    fn json_round_trip() {
        let night = Night {
            age: Some(41),
            bedtime: "22:50".parse().ok(),
            stages: Some(Stages {
                light: 200,
                deep: 70,
                rem: 90,
            }),
            week: Some(Week {
                minutes_asleep: vec![400; 7],
                ..Week::default()
            }),
            ..Night::default()
        };
        let text = serde_json::to_string(&night).expect("serialises");
        assert_eq!(Night::from_json(&text).expect("round trip"), night);
    }
}
