//! Published definitions and thresholds, each with its source.
//!
//! | quantity | definition | source |
//! |---|---|---|
//! | time in bed | getting up − getting into bed | consensus sleep diary, Carney et al., *Sleep* 35(2), 2012 |
//! | sleep-onset latency | sleep onset − lights out; ≤ 30 min indicates good quality | Carney 2012; Ohayon et al., *Sleep Health* 3(1), 2017 (National Sleep Foundation) |
//! | wake after sleep onset | sum of awakenings between onset and final wake; ≤ 20 min (≥ 65 y: ≤ 30) indicates good quality | Carney 2012; Ohayon 2017 |
//! | total sleep time | final wake − onset − wake after sleep onset | Carney 2012 |
//! | sleep efficiency | total sleep time ÷ time in bed, whole percent rounded down; ≥ 85 % indicates good quality | Reed & Sacco, *J Clin Sleep Med* 12(2), 2016; Ohayon 2017 |
//! | midpoint of sleep | onset + half of the sleep period | Roenneberg et al., *J Biol Rhythms* 18(1), 2003 |
//! | social jet lag | absolute difference of the midpoints of free and work nights | Wittmann et al., *Chronobiol Int* 23(1–2), 2006 |
//! | need for the age | 3–5 y: 10–13 h; 6–13 y: 9–11 h; 14–17 y: 8–10 h; 18–64 y: 7–9 h; ≥ 65 y: 7–8 h | Hirshkowitz et al., *Sleep Health* 1(1), 2015 |
//! | sleep debt | need × nights − sleep obtained, with the lower bound of the recommended range as the need | after Van Dongen et al., *Sleep* 26(2), 2003 |
//! | stage shares | stage ÷ total sleep time; deep 16–20 % and REM 21–30 % indicate good quality in adults | Ohayon 2017 |
//! | regularity | latest − earliest bedtime of seven nights | ours: the range stands in for the standard deviation of onset used by Huang, Mariani & Redline, *JACC* 75(9), 2020 |
//! | caffeine gap | bedtime − last caffeine; 400 mg six hours before bed still cost sleep | Drake et al., *J Clin Sleep Med* 9(11), 2013 |
//! | resting heart rate | above 100 beats per minute is tachycardia at rest | American Heart Association, patient information |
//!
//! The cut-offs for social jet lag and regularity (60 min), for an early or late midpoint, and for the short-sleep red flag are this
//! project's own, chosen to be plain and cautious; no source is claimed for them. Panel statements were taken from the papers' abstracts and
//! public summaries.

/// Recommended sleep for an age, minutes: lower and upper bound. Without an age the adult range is used.
pub fn need(age: Option<u32>) -> (u32, u32) {
    match age {
        Some(..=5) => (600, 780),
        Some(6..=13) => (540, 660),
        Some(14..=17) => (480, 600),
        Some(65..) => (420, 480),
        _ => (420, 540),
    }
}

/// Sleep-onset latency up to which sleep quality is good, minutes.
pub const LATENCY_MAX: u32 = 30;

/// Wake after sleep onset up to which sleep quality is good, minutes.
pub fn waso_max(age: Option<u32>) -> u32 {
    if age.is_some_and(|a| a >= 65) { 30 } else { 20 }
}

/// Sleep efficiency from which sleep quality is good, percent.
pub const EFFICIENCY_MIN: u32 = 85;
/// Share of deep sleep from which it counts as enough, percent.
pub const DEEP_MIN: u32 = 16;
/// Share of REM sleep from which it counts as enough, percent.
pub const REM_MIN: u32 = 21;
/// Social jet lag from which it is notable, minutes (ours).
pub const SOCIAL_JET_LAG_MIN: u32 = 60;
/// Range of bedtimes up to which a week is regular, minutes (ours).
pub const REGULARITY_MAX: u32 = 60;
/// Midpoints before this are early, minutes after 18:00 (02:30, ours).
pub const MIDPOINT_EARLY: u32 = 510;
/// Midpoints after this are late, minutes after 18:00 (04:30, ours).
pub const MIDPOINT_LATE: u32 = 630;
/// Gap between the last caffeine and bed that is early enough, minutes.
pub const CAFFEINE_GAP_MIN: u32 = 360;
/// Resting heart rate above which the teacher refers to a clinician, beats per minute.
pub const RESTING_HEART_MAX: u32 = 100;
/// Sleep below which the teacher refers to a clinician, minutes (ours).
pub const RED_FLAG_SLEEP: u32 = 300;
