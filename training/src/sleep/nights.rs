//! Real nights from CSV files: Fitbit daily sleep, sleep efficiency surveys, lifestyle surveys, Sleep Cycle exports.
//!
//! The format is recognised by its header. What a file does not record stays out of the night and so out of its questions.

use std::collections::BTreeMap;
use std::path::Path;

use skimstone::sleep::{Clock, Night, Stages, Week};

/// A CSV file that cannot be read as nights.
#[derive(Debug, thiserror::Error)]
pub enum NightsError {
    /// The file cannot be opened or is not CSV.
    #[error("{path}: {source}")]
    Csv {
        /// The file.
        path: String,
        /// The reader's error, with its line.
        source: csv::Error,
    },
    /// The header is none of the known formats.
    #[error("{path}: no known sleep format has the columns [{found}]; known: {known}")]
    Format {
        /// The file.
        path: String,
        /// Its columns.
        found: String,
        /// What each known format needs.
        known: &'static str,
    },
    /// A value cannot be used.
    #[error("{path}, line {line}, field `{field}`: {problem}")]
    Field {
        /// The file.
        path: String,
        /// 1-based line.
        line: u64,
        /// The column.
        field: String,
        /// What is wrong.
        problem: String,
    },
    /// A header without a usable row.
    #[error("{path}: no nights in the file (a header and {blank} rows without values)")]
    Empty {
        /// The file.
        path: String,
        /// Rows without values.
        blank: usize,
    },
}

const KNOWN: &str = "fitbit (Id, SleepDay, TotalMinutesAsleep, TotalTimeInBed); efficiency survey (Age, Sleep_duration, Sleep_efficiency, REM_sleep_percentage, \
                     Deep_sleep_percentage, Light_sleep_percentage); lifestyle survey (Age, Sleep Duration, Heart Rate); sleep cycle (Start, End, Time in bed; separated by `;`)";

struct Record<'a> {
    path: &'a str,
    line: u64,
    columns: &'a BTreeMap<String, usize>,
    values: &'a csv::StringRecord,
}

impl Record<'_> {
    fn text(&self, field: &str) -> Option<&str> {
        self.columns
            .get(field)
            .and_then(|&i| self.values.get(i))
            .map(str::trim)
            .filter(|v| !v.is_empty())
    }

    fn number(&self, field: &str) -> Result<Option<f64>, NightsError> {
        let Some(text) = self.text(field) else {
            return Ok(None);
        };
        match text.parse::<f64>() {
            Ok(x) if x.is_finite() && x >= 0.0 => Ok(Some(x)),
            _ => Err(self.wrong(
                field,
                format!("expected a number that is not negative, found {text:?}"),
            )),
        }
    }

    fn wrong(&self, field: &str, problem: String) -> NightsError {
        NightsError::Field {
            path: self.path.to_owned(),
            line: self.line,
            field: field.to_owned(),
            problem,
        }
    }
}

fn whole(x: f64) -> u32 {
    x.round() as u32
}

/// All nights of the file, each with an id made of the file's stem and its line.
///
/// # Errors
/// [`NightsError`] names the file, and where it can the line and field.
pub fn read_csv(path: &Path) -> Result<Vec<(String, Night)>, NightsError> {
    let name = path.display().to_string();
    let csv_error = |source| NightsError::Csv {
        path: name.clone(),
        source,
    };
    let open = |delimiter| {
        csv::ReaderBuilder::new()
            .delimiter(delimiter)
            .flexible(true)
            .from_path(path)
    };
    let mut reader = open(b',').map_err(csv_error)?;
    if reader.headers().map_err(csv_error)?.len() == 1 {
        reader = open(b';').map_err(csv_error)?;
    }
    let columns: BTreeMap<String, usize> = reader
        .headers()
        .map_err(csv_error)?
        .iter()
        .enumerate()
        .map(|(i, h)| (h.trim().to_owned(), i))
        .collect();
    let has = |fields: &[&str]| fields.iter().all(|f| columns.contains_key(*f));
    let read: fn(&Record<'_>) -> Result<Option<Night>, NightsError> =
        if has(&["SleepDay", "TotalMinutesAsleep", "TotalTimeInBed"]) {
            fitbit
        } else if has(&["Sleep_duration", "Sleep_efficiency"]) {
            efficiency_survey
        } else if has(&["Sleep Duration", "Heart Rate", "Age"]) {
            lifestyle_survey
        } else if has(&["Start", "End", "Time in bed"]) {
            sleep_cycle
        } else {
            let found = columns.keys().cloned().collect::<Vec<_>>().join(", ");
            return Err(NightsError::Format {
                path: name,
                found,
                known: KNOWN,
            });
        };
    let stem = path
        .file_stem()
        .and_then(|s| s.to_str())
        .unwrap_or("nights");
    let mut nights: Vec<(String, String, Night)> = Vec::new();
    let mut blank = 0;
    for values in reader.records() {
        let values = values.map_err(|source| NightsError::Csv {
            path: name.clone(),
            source,
        })?;
        let line = values.position().map_or(0, csv::Position::line);
        let record = Record {
            path: &name,
            line,
            columns: &columns,
            values: &values,
        };
        if values.iter().all(|v| v.trim().is_empty()) {
            blank += 1;
            continue;
        }
        let Some(night) = read(&record)? else {
            continue;
        };
        let text = serde_json::to_string(&night).expect("a night serialises");
        Night::from_json(&text).map_err(|e| record.wrong(&e.field, e.problem))?;
        let person = record.text("Id").unwrap_or_default().to_owned();
        nights.push((format!("{stem}-{line}"), person, night));
    }
    if nights.is_empty() {
        return Err(NightsError::Empty { path: name, blank });
    }
    add_weeks(&mut nights);
    Ok(nights
        .into_iter()
        .map(|(id, _, night)| (id, night))
        .collect())
}

/// Gives every seventh night of one person the week that ends with it.
fn add_weeks(nights: &mut [(String, String, Night)]) {
    for i in 6..nights.len() {
        let week = &nights[i - 6..=i];
        let person = &nights[i].1;
        if person.is_empty() || week.iter().any(|n| n.1 != *person) {
            continue;
        }
        let minutes: Vec<u32> = week.iter().filter_map(|n| n.2.minutes_asleep).collect();
        if minutes.len() == 7 {
            nights[i].2.week = Some(Week {
                minutes_asleep: minutes,
                ..Week::default()
            });
        }
    }
}

fn fitbit(r: &Record<'_>) -> Result<Option<Night>, NightsError> {
    Ok(Some(Night {
        minutes_asleep: r.number("TotalMinutesAsleep")?.map(whole),
        minutes_in_bed: r.number("TotalTimeInBed")?.map(whole),
        ..Night::default()
    }))
}

fn efficiency_survey(r: &Record<'_>) -> Result<Option<Night>, NightsError> {
    let (Some(hours), Some(share)) = (r.number("Sleep_duration")?, r.number("Sleep_efficiency")?)
    else {
        return Ok(None);
    };
    let in_bed = whole(hours * 60.0);
    let asleep = whole(hours * 60.0 * share);
    let part = |field| {
        r.number(field)
            .map(|p| p.map(|p| whole(f64::from(asleep) * p / 100.0)))
    };
    let stages = match (
        part("Deep_sleep_percentage")?,
        part("REM_sleep_percentage")?,
    ) {
        (Some(deep), Some(rem)) if deep + rem <= asleep => Some(Stages {
            light: asleep - deep - rem,
            deep,
            rem,
        }),
        _ => None,
    };
    Ok(Some(Night {
        age: age(r)?,
        minutes_asleep: Some(asleep),
        minutes_in_bed: Some(in_bed),
        stages,
        ..Night::default()
    }))
}

fn lifestyle_survey(r: &Record<'_>) -> Result<Option<Night>, NightsError> {
    Ok(Some(Night {
        age: age(r)?,
        minutes_asleep: r.number("Sleep Duration")?.map(|h| whole(h * 60.0)),
        resting_heart_rate: r.number("Heart Rate")?.map(whole),
        ..Night::default()
    }))
}

/// `Start` and `End` are `YYYY-MM-DD HH:MM:SS`.
fn sleep_cycle(r: &Record<'_>) -> Result<Option<Night>, NightsError> {
    let time = |field: &str| -> Result<Option<Clock>, NightsError> {
        let Some(text) = r.text(field) else {
            return Ok(None);
        };
        let clock = text
            .split([' ', 'T'])
            .nth(1)
            .and_then(|t| t.get(..5))
            .unwrap_or(text);
        clock
            .parse()
            .map(Some)
            .map_err(|problem| r.wrong(field, problem))
    };
    Ok(Some(Night {
        bedtime: time("Start")?,
        rise: time("End")?,
        resting_heart_rate: r.number("Heart rate")?.map(whole),
        ..Night::default()
    }))
}

fn age(r: &Record<'_>) -> Result<Option<u32>, NightsError> {
    Ok(r.number("Age")?
        .map(whole)
        .filter(|a| (5..=110).contains(a)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn read(text: &str) -> Result<Vec<(String, Night)>, NightsError> {
        let mut file = tempfile::Builder::new()
            .suffix(".csv")
            .tempfile()
            .expect("a temporary file");
        file.write_all(text.as_bytes()).expect("written");
        read_csv(file.path())
    }

    #[test]
    fn formats_are_recognised_by_header() {
        let fitbit = "Id,SleepDay,TotalSleepRecords,TotalMinutesAsleep,TotalTimeInBed\n".to_owned()
            + &"7,04/12/2016,1,327,346\n".repeat(7);
        let nights = read(&fitbit).expect("fitbit");
        assert_eq!(nights.len(), 7);
        assert_eq!(
            nights[6].1.week.as_ref().map(|w| w.minutes_asleep.len()),
            Some(7)
        );
        assert_eq!(nights[5].1.week, None);
        let survey = "Age,Sleep_duration,Sleep_efficiency,REM_sleep_percentage,Deep_sleep_percentage,Light_sleep_percentage\n65,6,0.88,18,70,12\n";
        let nights = read(survey).expect("survey");
        assert_eq!(
            nights[0].1.record(),
            "age 65. slept 317 min, lay 360 min. light 38, deep 222, rem 57 min."
        );
        let cycle = "Start;End;Sleep quality;Time in bed;Wake up;Heart rate\n2014-12-29 22:57:49;2014-12-30 07:30:13;100%;8:32;:);59\n";
        assert_eq!(
            read(cycle).expect("cycle")[0].1.record(),
            "in bed 22:57, up 07:30. resting heart 59."
        );
    }

    #[test]
    fn errors_name_file_line_and_field() {
        let header = "Id,SleepDay,TotalSleepRecords,TotalMinutesAsleep,TotalTimeInBed\n";
        let error = read(&format!("{header}7,x,1,abc,346\n"))
            .expect_err("not a number")
            .to_string();
        assert!(
            error.contains("line 2, field `TotalMinutesAsleep`"),
            "{error}"
        );
        let error = read(&format!("{header}7,x,1,400,346\n"))
            .expect_err("does not fit")
            .to_string();
        assert!(error.contains("do not fit in 346"), "{error}");
        assert!(
            read("a,b\n1,2\n")
                .expect_err("unknown")
                .to_string()
                .contains("known: fitbit")
        );
        assert!(matches!(
            read(&format!("{header},,,,\n")),
            Err(NightsError::Empty { blank: 1, .. })
        ));
    }
}
