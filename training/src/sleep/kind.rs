//! The question kinds and the ways they are asked.

/// What a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the variants are the terms of `definitions`")]
pub enum Kind {
    TimeInBed,
    Latency,
    Waso,
    TotalSleep,
    Efficiency,
    Midpoint,
    SocialJetLag,
    SleepDebt,
    DeepShare,
    RemShare,
    Regularity,
    Caffeine,
    Need,
    RedFlag,
}

impl Kind {
    /// All kinds, in the order of the reports.
    pub const ALL: [Kind; 14] = [
        Kind::TimeInBed,
        Kind::Latency,
        Kind::Waso,
        Kind::TotalSleep,
        Kind::Efficiency,
        Kind::Midpoint,
        Kind::SocialJetLag,
        Kind::SleepDebt,
        Kind::DeepShare,
        Kind::RemShare,
        Kind::Regularity,
        Kind::Caffeine,
        Kind::Need,
        Kind::RedFlag,
    ];

    /// The name in rows and reports.
    pub fn name(self) -> &'static str {
        match self {
            Kind::TimeInBed => "time_in_bed",
            Kind::Latency => "latency",
            Kind::Waso => "waso",
            Kind::TotalSleep => "total_sleep",
            Kind::Efficiency => "efficiency",
            Kind::Midpoint => "midpoint",
            Kind::SocialJetLag => "social_jet_lag",
            Kind::SleepDebt => "sleep_debt",
            Kind::DeepShare => "deep_share",
            Kind::RemShare => "rem_share",
            Kind::Regularity => "regularity",
            Kind::Caffeine => "caffeine",
            Kind::Need => "need",
            Kind::RedFlag => "red_flag",
        }
    }

    /// How often the kind is drawn, against the others: kinds that need a week or a full record can be asked less often.
    pub(crate) fn weight(self) -> u32 {
        match self {
            Kind::Efficiency | Kind::SleepDebt | Kind::SocialJetLag | Kind::Regularity => 2,
            _ => 1,
        }
    }

    /// Ways to ask.
    pub fn questions(self) -> &'static [&'static str] {
        match self {
            Kind::TimeInBed => &[
                "How long was I in bed?",
                "What was my time in bed?",
                "How much time did I spend in bed last night?",
                "Was my time in bed long enough?",
            ],
            Kind::Latency => &[
                "How long did I take to fall asleep?",
                "What was my sleep latency?",
                "Did I fall asleep fast enough?",
                "How many minutes did falling asleep take?",
            ],
            Kind::Waso => &[
                "How long was I awake during the night?",
                "What was my wake time after sleep onset?",
                "How many minutes did I lie awake in the night?",
                "Was I awake too long in the night?",
            ],
            Kind::TotalSleep => &[
                "How long did I sleep?",
                "What was my total sleep time?",
                "How much sleep did I get last night?",
                "Did I sleep long enough?",
            ],
            Kind::Efficiency => &[
                "What was my sleep efficiency?",
                "How efficient was my sleep?",
                "How much of my time in bed did I sleep?",
                "Was my sleep efficiency good?",
            ],
            Kind::Midpoint => &[
                "When was the midpoint of my sleep?",
                "What was my midsleep?",
                "At what time was the middle of my sleep?",
                "Is my sleep early or late?",
            ],
            Kind::SocialJetLag => &[
                "How large is my social jet lag?",
                "Do I have social jet lag?",
                "How far apart are my work and free nights?",
                "What is my social jet lag this week?",
            ],
            Kind::SleepDebt => &[
                "How large is my sleep debt this week?",
                "Do I have a sleep debt?",
                "How much sleep do I owe this week?",
                "Did I sleep enough this week?",
            ],
            Kind::DeepShare => &[
                "What share of my sleep was deep?",
                "How much deep sleep did I get?",
                "Was my deep sleep enough?",
                "What percentage was deep sleep?",
            ],
            Kind::RemShare => &[
                "What share of my sleep was rem?",
                "How much rem sleep did I get?",
                "Was my rem sleep enough?",
                "What percentage was rem sleep?",
            ],
            Kind::Regularity => &[
                "How regular were my bedtimes?",
                "How much did my bedtime vary this week?",
                "Is my bedtime regular?",
                "Do I go to bed at a regular time?",
            ],
            Kind::Caffeine => &[
                "Was my last caffeine too late?",
                "How long before bed was my last caffeine?",
                "Did I stop caffeine early enough?",
                "Could caffeine have cost me sleep?",
            ],
            Kind::Need => &[
                "Did I get the sleep that my age needs?",
                "Is that enough sleep for my age?",
                "How far was I from the sleep I need?",
                "Did I meet my sleep need?",
            ],
            Kind::RedFlag => &[
                "Is there anything a clinician should see?",
                "Do you see a red flag?",
                "Should I talk to someone about this night?",
                "Is anything here worrying?",
            ],
        }
    }
}
