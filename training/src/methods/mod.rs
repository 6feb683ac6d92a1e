//! Ways to teach a student, as an experiment compares them.
//!
//! | method | learns | source |
//! |---|---|---|
//! | [`Method::NoCot`] | question → answer | |
//! | [`Method::Cot`] | question → full rationale → answer | |
//! | [`Method::Stt`] | rationales without what the student itself does not need | Skip-Thinking, arXiv 2505.18642 |
//! | [`Method::DeletionByCost`] | the same, judged by what a deletion costs | ours |
//! | [`Method::RandomDeletion`] | rationales without random chunks | control |
//! | [`Method::Cwt`] | one chunk of each rationale at a time | Skip-Thinking |
//! | [`Method::CotSmallBatch`] | full rationales, as few tokens in a step as `cwt` | control |
//! | [`Method::CotChunkNormalised`] | full rationales, each chunk with the same weight | control |
//! | [`Method::Icot`] | rationales that lose their beginning bit by bit | arXiv 2405.14838 |
//! | [`Method::Pause`] | question → pause tokens → answer | arXiv 2310.02226, fine-tuning only |
//! | [`Method::Coconut`] | rationales whose steps become hidden states fed back, one after the other | arXiv 2412.06769 |
//! | [`Method::PauseAsThought`] | the same curriculum with pause tokens in their place | control, ibid. |
//! | [`Method::NoThought`] | the same curriculum with nothing in their place | control, ibid. |
//! | [`Method::Codi`] | latent steps, held to the states of a student that thinks in words | arXiv 2502.21074 |
//! | [`Method::LatentAlignment`] | latent steps, each held to the state at the end of the steps that it stands for | stage 1 of arXiv 2505.18962 |
//! | [`Method::System15`] | the same, then routers and adapters that leave out layers of latent steps | arXiv 2505.18962, in our reading |
//! | [`Method::System15R`] | the same with routers that are pushed | after the same; terms ours |
//! | [`Method::EarlyExits`] | full rationales, with a loss after every layer | LITE 2310.18581, CALM 2207.07061, LayerSkip 2404.16710 |
//! | [`Method::Condensed`] | rationales without what the task says may go | upper bound of deletion |
//! | [`Method::DifficultyRewrite`] | short rationales for easy questions | after DAP, arXiv 2505.19716; rule ours |
//! | [`Method::RandomLength`] | rationales as short as those, for random questions | control |
//!
//! Every method makes the same number of optimizer steps in all its trainings together. A method is its parameters and [`Method::teach`]; trainings
//! go on from their checkpoints, files appear whole or not at all, so that a method that was killed goes on where it was.

pub mod chunks;
pub(crate) mod context;
pub mod deletion;
pub mod exits;
pub mod internalize;
pub mod latent;
pub mod plain;
pub mod rewrite;
pub mod self_distillation;
pub mod shortcut;

use serde::{Deserialize, Serialize};

use crate::error::Result;
pub use chunks::{CotChunkNormalised, CotSmallBatch, Cwt};
pub use context::{Context, Taught};
pub use deletion::{Base, DeletionByCost, LabelStats, RandomDeletion, Stt};
pub use exits::EarlyExits;
pub use internalize::Icot;
use latent::Thought;
pub use latent::{Coconut, NoThought, PauseAsThought};
pub use plain::{Cot, NoCot, Pause};
pub use rewrite::{Condensed, DifficultyRewrite, RandomLength};
pub use self_distillation::Codi;
pub use shortcut::{Alignment, System15, System15R};

/// A method with its parameters. In experiments a table with the method's `name`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
pub enum Method {
    /// The answer at once.
    NoCot(NoCot),
    /// The full rationale.
    Cot(Cot),
    /// Chunks go at random.
    RandomDeletion(RandomDeletion),
    /// Chunks go that the student does not need for the answer.
    Stt(Stt),
    /// Chunks go that cost the student little (ours).
    DeletionByCost(DeletionByCost),
    /// One chunk at a time.
    Cwt(Cwt),
    /// Full rationales in small batches.
    CotSmallBatch(CotSmallBatch),
    /// Full rationales, chunks of equal weight.
    CotChunkNormalised(CotChunkNormalised),
    /// Stepwise internalization.
    Icot(Icot),
    /// Pause tokens before the answer.
    Pause(Pause),
    /// Steps become latent steps.
    Coconut(Coconut),
    /// Steps become pauses.
    PauseAsThought(PauseAsThought),
    /// Steps go and nothing takes their place.
    NoThought(NoThought),
    /// Latent steps, held to the states of a student that thinks in words.
    Codi(Codi),
    /// Latent steps, each held to the state at the end of the steps that it stands for.
    LatentAlignment(Alignment),
    /// The same with routers that leave out layers.
    #[serde(rename = "system-1.5")]
    System15(System15),
    /// The same with routers that are pushed (ours).
    #[serde(rename = "s1.5-r")]
    System15R(System15R),
    /// Full rationales, with a loss after every layer.
    EarlyExits(EarlyExits),
    /// Only what the task says is needed.
    Condensed(Condensed),
    /// Rationales as long as the question is difficult (ours).
    DifficultyRewrite(DifficultyRewrite),
    /// Rationales of random length with the same histogram.
    RandomLength(RandomLength),
}

impl Method {
    /// The name in experiments.
    pub fn name(&self) -> &'static str {
        match self {
            Method::NoCot(_) => "no-cot",
            Method::Cot(_) => "cot",
            Method::RandomDeletion(_) => "random-deletion",
            Method::Stt(_) => "stt",
            Method::DeletionByCost(_) => "deletion-by-cost",
            Method::Cwt(_) => "cwt",
            Method::CotSmallBatch(_) => "cot-small-batch",
            Method::CotChunkNormalised(_) => "cot-chunk-normalised",
            Method::Icot(_) => "icot",
            Method::Pause(_) => "pause",
            Method::Coconut(_) => "coconut",
            Method::PauseAsThought(_) => "pause-as-thought",
            Method::NoThought(_) => "no-thought",
            Method::Codi(_) => "codi",
            Method::LatentAlignment(_) => "latent-alignment",
            Method::System15(_) => "system-1.5",
            Method::System15R(_) => "s1.5-r",
            Method::EarlyExits(_) => "early-exits",
            Method::Condensed(_) => "condensed",
            Method::DifficultyRewrite(_) => "difficulty-rewrite",
            Method::RandomLength(_) => "random-length",
        }
    }

    /// What the method is usually held against, for messages.
    pub(crate) fn usual_control(&self) -> &'static str {
        match self {
            Method::NoCot(_) | Method::Cot(_) | Method::Icot(_) | Method::Pause(_) => "`no-cot`",
            Method::RandomDeletion(_) | Method::Stt(_) | Method::DeletionByCost(_) => {
                "`random-deletion` at the same rate"
            }
            Method::Cwt(_) | Method::CotSmallBatch(_) | Method::CotChunkNormalised(_) => {
                "`cot-small-batch` and `cot-chunk-normalised`"
            }
            Method::Coconut(_)
            | Method::Codi(_)
            | Method::PauseAsThought(_)
            | Method::NoThought(_) => "`pause-as-thought` and `no-thought`",
            Method::LatentAlignment(_) => "`pause-as-thought` and `cot`",
            Method::System15(_) | Method::System15R(_) => "`latent-alignment` and `cot`",
            Method::EarlyExits(_) | Method::Condensed(_) => "`cot`",
            Method::DifficultyRewrite(_) | Method::RandomLength(_) => "`random-length`",
        }
    }

    /// Whether the parameters make sense in an experiment of `steps` optimizer steps.
    ///
    /// # Errors
    /// What is wrong, naming the parameter and its value.
    pub fn check(&self, steps: u64) -> Result<(), String> {
        match self {
            Method::NoCot(_) | Method::Cot(_) | Method::Condensed(_) => Ok(()),
            Method::RandomDeletion(method) => method.check(steps),
            Method::Stt(method) => method.check(steps),
            Method::DeletionByCost(method) => method.check(steps),
            Method::Cwt(method) => method.check(),
            Method::CotSmallBatch(method) => chunks::check_chunks(method.chunks),
            Method::CotChunkNormalised(method) => chunks::check_chunks(method.chunks),
            Method::Icot(method) => method.check(),
            Method::Pause(method) => method.check(),
            Method::LatentAlignment(method) => method.check(),
            Method::System15(System15(knobs)) => knobs.check(steps, false),
            Method::System15R(System15R(knobs)) => knobs.check(steps, true),
            Method::EarlyExits(method) => method.check(),
            Method::Codi(method) => method.check(),
            Method::Coconut(Coconut(stages))
            | Method::PauseAsThought(PauseAsThought(stages))
            | Method::NoThought(NoThought(stages)) => stages.check(steps),
            Method::DifficultyRewrite(method) => method.check(),
            Method::RandomLength(method) => method.rewrite().check(),
        }
    }

    /// The label of the method whose measured deletion rate this one takes.
    pub fn depends_on(&self) -> Option<&String> {
        match self {
            Method::RandomDeletion(method) => method.rate_of.as_ref(),
            _ => None,
        }
    }

    /// Whether the method tells a measured deletion rate.
    pub fn measures_deletion(&self) -> bool {
        matches!(self, Method::Stt(_) | Method::DeletionByCost(_))
    }

    /// Whether the student's rows have [`crate::tokenize::LATENT`] in them.
    pub(crate) fn thinks_in_latents(&self) -> bool {
        matches!(
            self,
            Method::Codi(_)
                | Method::Coconut(_)
                | Method::PauseAsThought(_)
                | Method::NoThought(_)
                | Method::LatentAlignment(_)
                | Method::System15(_)
                | Method::System15R(_)
        )
    }

    /// Whether the student's rows have [`crate::tokenize::PAUSE`] or [`crate::tokenize::LATENT`] in them.
    pub(crate) fn needs_tokens(&self) -> bool {
        self.thinks_in_latents() || matches!(self, Method::Pause(_))
    }

    /// Teaches a student. Goes on where an earlier call was stopped.
    ///
    /// # Errors
    /// [`Error::Stopped`](crate::Error::Stopped) if the context's stop handle is set; whatever a training reports.
    pub fn teach(&self, context: &Context) -> Result<Taught> {
        match self {
            Method::NoCot(_) => plain::no_cot(context),
            Method::Cot(_) => plain::cot(context),
            Method::RandomDeletion(method) => method.teach(context),
            Method::Stt(method) => method.teach(context),
            Method::DeletionByCost(method) => method.teach(context),
            Method::Cwt(method) => method.teach(context),
            Method::CotSmallBatch(method) => method.teach(context),
            Method::CotChunkNormalised(method) => method.teach(context),
            Method::Icot(method) => method.teach(context),
            Method::Pause(method) => method.teach(context),
            Method::LatentAlignment(method) => method.teach(context),
            Method::System15(System15(knobs)) => knobs.teach(context, false),
            Method::System15R(System15R(knobs)) => knobs.teach(context, true),
            Method::EarlyExits(method) => method.teach(context),
            Method::Codi(method) => method.teach(context),
            Method::Coconut(Coconut(stages)) => stages.teach(context, Thought::Latent),
            Method::PauseAsThought(PauseAsThought(stages)) => stages.teach(context, Thought::Pause),
            Method::NoThought(NoThought(stages)) => stages.teach(context, Thought::None),
            Method::Condensed(_) => rewrite::condensed(context),
            Method::DifficultyRewrite(method) => method.teach(context),
            Method::RandomLength(method) => method.teach(context),
        }
    }
}

/// The tokens of a row's segments with what follows each (separator or answer token), and of the answer, last.
///
/// A segment's share of the loss includes the decision of what comes after it.
pub(crate) fn segments(
    encoder: &crate::data::Encoder,
    row: &crate::data::TokenizedRow,
    route: &str,
) -> Vec<std::ops::Range<usize>> {
    let open = encoder.route(route).map_or(&[][..], |(_, open)| open);
    let Some(last_open) = open.last() else {
        return Vec::new();
    };
    let opened = row.tokens.iter().position(|token| token == last_open);
    let mut out: Vec<std::ops::Range<usize>> = Vec::new();
    for at in opened.map_or(0, |at| at + 1)..row.answer {
        let ends_before = at
            .checked_sub(1)
            .is_none_or(|before| [*last_open, encoder.separator()].contains(&row.tokens[before]));
        match out.last_mut() {
            Some(segment) if !ends_before => segment.end = at + 1,
            _ => out.push(at..at + 1),
        }
    }
    out.push(row.answer..row.tokens.len());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Encoder;
    use crate::tokenize::{PAUSE, add_tokens, train_tokenizer};

    #[test]
    fn segments_hold_what_follows_them_and_the_answer_is_the_last() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        let line = r#"{"question":"q","chunks":["c"],"answer":"a"}"#;
        std::fs::write(&path, line).unwrap();
        let mut tokenizer = train_tokenizer(&[&path], 262, 10).unwrap();
        add_tokens(&mut tokenizer, &[PAUSE]);
        let file = folder.path().join("tokenizer.json");
        tokenizer.save(&file, false).unwrap();
        let mut routes = crate::recipe::default_routes();
        routes.get_mut("direct").unwrap().pauses = 2;
        let encoder = Encoder::open(&file, &routes).unwrap();
        assert_eq!(encoder.vocab_size(), 263, "the pause token comes last");
        let chunks = ["xy", "z"].map(str::to_owned);
        // q q <|cot|> x y <|sep|> z <|answer|> a <|end|>
        let row = encoder.encode("cot", "qq", &chunks, "a").unwrap();
        assert_eq!(segments(&encoder, &row, "cot"), [3..6, 6..8, 8..10]);
        let none = encoder.encode("cot", "qq", &[], "a").unwrap();
        assert_eq!(segments(&encoder, &none, "cot"), [3..4, 4..6]);
        let direct = encoder.encode("direct", "q", &[], "a").unwrap();
        assert_eq!(direct.tokens[1..4], [3, 262, 262]);
        let scored: Vec<usize> = direct.scored().map(|(at, _)| at).collect();
        assert_eq!(scored, [4, 5], "nothing is learned about pauses");
    }

    #[test]
    fn wrong_parameters_are_named() {
        let cases = [
            (
                r#"name = "stt"
                rounds = 0"#,
                "`rounds` is 0",
            ),
            (
                r#"name = "stt"
                order = "joint""#,
                "call the method `deletion-by-cost`",
            ),
            (
                r#"name = "stt"
                margin = -1.0"#,
                "`margin` is -1",
            ),
            (
                r#"name = "stt"
                base_share = 1.0"#,
                "`base_share` is 1",
            ),
            (
                r#"name = "stt"
                rounds = 60"#,
                "50 for 60 rounds",
            ),
            (
                r#"name = "deletion-by-cost"
                gaps = 1.5"#,
                "`gaps` is 1.5",
            ),
            (r#"name = "random-deletion""#, "either `rate` or `rate_of`"),
            (
                r#"name = "random-deletion"
                rate = 2.0"#,
                "`rate` is 2",
            ),
            (
                r#"name = "cwt"
                chunks = 0"#,
                "`chunks` is 0",
            ),
            (
                r#"name = "cwt"
                search_every = 0"#,
                "`search_every` is 0",
            ),
            (
                r#"name = "cot-small-batch"
                chunks = 0"#,
                "`chunks` is 0",
            ),
            (
                r#"name = "icot"
                full = 0.9
                none = 0.2"#,
                "sum is below 1",
            ),
            (
                r#"name = "icot"
                tokens_per_stage = 0"#,
                "`tokens_per_stage` is 0",
            ),
            (
                r#"name = "icot"
                smoothing = 0.0"#,
                "`smoothing` is 0",
            ),
            (
                r#"name = "pause"
                tokens = 0"#,
                "without pauses it is `no-cot`",
            ),
            (
                r#"name = "early-exits"
                layer_dropout = 1.0"#,
                "`layer_dropout` is 1",
            ),
            (
                r#"name = "system-1.5"
                budget = 0.1"#,
                "call the method `s1.5-r`",
            ),
            (
                r#"name = "s1.5-r"
                second = 1.0"#,
                "`second` is 1",
            ),
            (
                r#"name = "latent-alignment"
                self_fed = 2.0"#,
                "`self_fed` is 2",
            ),
            (
                r#"name = "codi"
                latents = 0"#,
                "`latents` is 0",
            ),
            (
                r#"name = "coconut"
                per_stage = 0"#,
                "`per_stage` is 0",
            ),
            (
                r#"name = "pause-as-thought"
                full = 0.6
                none = 0.6"#,
                "sum is at most 1",
            ),
            (
                r#"name = "no-thought"
                stages = 90"#,
                "89 stages do not fit the 40 steps",
            ),
            (
                r#"name = "difficulty-rewrite"
                easy = 0.8
                medium = 0.4"#,
                "sum is at most 1",
            ),
            (
                r#"name = "random-length"
                easy = -0.1"#,
                "`easy` is -0.1",
            ),
        ];
        for (text, message) in cases {
            let method: Method = toml::from_str(text).unwrap();
            let error = method.check(100).unwrap_err();
            assert!(error.contains(message), "{text}: {error}");
        }
        for text in [
            "name = \"cot\"\nchunks = 3",
            "name = \"no-cot\"\nx = 1",
            "name = \"pause\"",
            "name = \"coconut\"\nx = 1",
            "name = \"skip-thinking\"",
        ] {
            let error = toml::from_str::<Method>(text).unwrap_err().to_string();
            let is_named = ["chunks", "`x`", "tokens", "skip-thinking"];
            assert!(is_named.iter().any(|n| error.contains(n)), "{error}");
        }
    }
}
