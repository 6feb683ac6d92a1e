//! The rule-based teacher: a chain of thought in varied words around the arithmetic of a question.

use rand::Rng;
use skimstone::sleep::Night;

use super::Kind;
use super::definitions as def;
use super::phrases::{self, Advice};
use super::solve::{Steps, solve};

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
