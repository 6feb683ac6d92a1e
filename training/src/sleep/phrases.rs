//! The varied words around the arithmetic: definitions, fillers as real rationales have them, comparisons, conclusions, recommendations.

use rand::Rng;
use rand::seq::IndexedRandom;

use super::Kind;

/// What to try next. Each verdict of the teacher has exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the text stands beside each variant below")]
pub enum Advice {
    Keep,
    Earlier,
    FixedRise,
    LeaveBed,
    Room,
    Caffeine,
    LessInBed,
    ShiftFree,
    Daylight,
    Alcohol,
    Exercise,
    AddSleep,
    Dim,
    Clinician,
}

impl Advice {
    /// All recommendations.
    pub const ALL: [Advice; 14] = [
        Advice::Keep,
        Advice::Earlier,
        Advice::FixedRise,
        Advice::LeaveBed,
        Advice::Room,
        Advice::Caffeine,
        Advice::LessInBed,
        Advice::ShiftFree,
        Advice::Daylight,
        Advice::Alcohol,
        Advice::Exercise,
        Advice::AddSleep,
        Advice::Dim,
        Advice::Clinician,
    ];

    /// The words of the recommendation.
    pub fn text(self) -> &'static str {
        match self {
            Advice::Keep => "keep this schedule",
            Advice::Earlier => "go to bed earlier",
            Advice::FixedRise => "get up at a fixed time",
            Advice::LeaveBed => "leave the bed when awake",
            Advice::Room => "keep the room cool and dark",
            Advice::Caffeine => "stop caffeine six hours before bed",
            Advice::LessInBed => "spend less time awake in bed",
            Advice::ShiftFree => "shift free nights toward work nights",
            Advice::Daylight => "get daylight in the morning",
            Advice::Alcohol => "skip alcohol in the evening",
            Advice::Exercise => "move more in the daytime",
            Advice::AddSleep => "add half an hour of sleep per night",
            Advice::Dim => "dim the lights in the evening",
            Advice::Clinician => "see a clinician",
        }
    }
}

fn pick<'a>(rng: &mut impl Rng, from: &[&'a str]) -> &'a str {
    from.choose(rng).expect("phrase lists are not empty")
}

/// A definition of the asked quantity.
pub(crate) fn definition(kind: Kind, rng: &mut impl Rng) -> String {
    let list: &[&str] = match kind {
        Kind::TimeInBed => &[
            "Time in bed runs from getting into bed to getting up in the morning.",
            "By definition, time in bed is the time between going to bed and leaving it.",
            "Time in bed counts every minute from bedtime until the person is up.",
        ],
        Kind::Latency => &[
            "Sleep latency is the time between lights out and the first sleep.",
            "Latency means how long it takes from lights out until sleep begins.",
            "The onset latency counts the minutes from lights out to falling asleep.",
        ],
        Kind::Waso => &[
            "Wake after sleep onset adds up all the times awake between falling asleep and the final wake.",
            "This is the sum of the awakenings after sleep has begun.",
            "Time awake in the night means every awakening after onset taken together.",
        ],
        Kind::TotalSleep => &[
            "Total sleep time is the time from sleep onset to the final wake without the time awake in between.",
            "To sleep time belongs everything between onset and final wake except the awakenings.",
            "Total sleep counts only the minutes that were really slept.",
        ],
        Kind::Efficiency => &[
            "Sleep efficiency is total sleep time divided by time in bed, as a percentage.",
            "Efficiency tells what share of the time in bed was really slept.",
            "By definition, efficiency compares the time asleep with the time in bed.",
        ],
        Kind::Midpoint => &[
            "The midpoint lies halfway between sleep onset and the final wake.",
            "Midsleep is the clock time in the middle of the sleep period.",
            "To find the middle of sleep, half of the sleep period is added to the onset.",
        ],
        Kind::SocialJetLag => &[
            "Social jet lag is the difference between the midpoints of sleep on work nights and on free nights.",
            "It compares the middle of sleep before work days with the middle of sleep before free days.",
            "Social jet lag tells how far the free nights have drifted from the work nights.",
        ],
        Kind::SleepDebt => &[
            "Sleep debt is the need for the age over all nights minus the sleep that was obtained.",
            "A debt builds up when the nights together give less sleep than the age needs.",
            "To find the debt, the sleep of the week is compared with seven times the nightly need.",
        ],
        Kind::DeepShare => &[
            "The deep share is deep sleep divided by total sleep.",
            "Deep sleep is given as a percentage of all the sleep of the night.",
            "This share compares the minutes of deep sleep with total sleep time.",
        ],
        Kind::RemShare => &[
            "The rem share is rem sleep divided by total sleep.",
            "Rem sleep is given as a percentage of all the sleep of the night.",
            "This share compares the minutes of rem sleep with total sleep time.",
        ],
        Kind::Regularity => &[
            "Regularity is judged here by the range between the earliest and the latest bedtime of the week.",
            "The spread of bedtimes is the latest one minus the earliest one.",
            "A regular sleeper goes to bed at nearly the same time on all seven nights.",
        ],
        Kind::Caffeine => &[
            "Caffeine stays in the body for hours, so the gap between the last cup and bedtime matters.",
            "The question is how many minutes lie between the last caffeine and going to bed.",
            "Caffeine taken within six hours of bed can still cost sleep.",
        ],
        Kind::Need => &[
            "The need for sleep depends on age, so the sleep of the night is compared with the range for the age.",
            "Each age has a recommended range, and its lower end is taken as the need.",
            "What counts is whether total sleep reaches the recommended minimum for the age.",
        ],
        Kind::RedFlag => &[
            "A red flag here is a very fast resting heart or a very short night; both are for a clinician to judge.",
            "I only look for signs that a clinician should see, and I do not diagnose anything.",
            "Two things are checked, the resting heart rate and the length of sleep.",
        ],
    };
    pick(rng, list).to_owned()
}

/// A chunk that plans and carries no number.
pub(crate) fn plan(rng: &mut impl Rng) -> String {
    pick(
        rng,
        &[
            "Let me look at the record first and take one thing after another.",
            "Okay, I will go through the numbers step by step.",
            "First I collect what the record says and then I calculate.",
            "I count all times in minutes after six in the evening to keep it simple.",
            "Let me think about which of these fields I need here.",
            "The other fields of the record do not matter for this question.",
            "Good, everything that is needed stands in the record.",
        ],
    )
    .to_owned()
}

/// A chunk in the middle that carries no number.
pub(crate) fn pause(rng: &mut impl Rng) -> String {
    pick(
        rng,
        &[
            "So far so good, now the next part.",
            "That was the easy part, let me go on.",
            "Now I have what I need for the next step.",
            "Fine, I keep this number in mind.",
            "Let me continue with the rest of it.",
        ],
    )
    .to_owned()
}

/// A chunk that claims to check and carries no number.
pub(crate) fn check(rng: &mut impl Rng) -> String {
    pick(
        rng,
        &[
            "Let me check that again, yes, the numbers agree.",
            "That looks plausible for a night like this one.",
            "Looking back over the steps, I see no mistake.",
            "The result is of the size that one would expect.",
            "Good, this fits with the rest of the record.",
        ],
    )
    .to_owned()
}

/// The closing words around a verdict.
pub(crate) fn conclusion(quantity: &str, verdict: &str, rng: &mut impl Rng) -> String {
    match rng.random_range(0..4) {
        0 => format!("So the result is {quantity}, which is {verdict}."),
        1 => format!("Taken together that gives {quantity}, and I call it {verdict}."),
        2 => format!("In short, {quantity}, so this counts as {verdict}."),
        _ => format!("That settles it, {quantity} in the end, {verdict}."),
    }
}

/// The recommendation as a chunk.
pub(crate) fn recommendation(advice: Advice, rng: &mut impl Rng) -> String {
    let text = advice.text();
    match (advice, rng.random_range(0..4)) {
        (Advice::Clinician, 0) => format!("This is not for me to judge, so please {text}."),
        (Advice::Clinician, 1) => {
            format!("I cannot diagnose anything, so the right step is to {text}.")
        }
        (Advice::Clinician, _) => {
            format!("A number like this belongs in front of a person, so {text}.")
        }
        (_, 0) => format!("The most useful next step is simple: {text}."),
        (_, 1) => format!("What I would suggest for the coming nights: {text}."),
        (_, 2) => format!("One thing that could help from here on is this: {text}."),
        (_, _) => format!("My advice after this night would be to {text}."),
    }
}
