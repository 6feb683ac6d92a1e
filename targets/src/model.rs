//! Opening models, and turning what the user typed into the tokens that a model reads.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use skimstone::kernels::{Format, KvFormat};
use skimstone::reason::{Ask, Budget, ThermalLevel};
use skimstone::{
    ChatOptions, ChatTemplate, Error, ErrorKind, Message, Model, ModelOptions, OpenOptions, TokenId,
};

use crate::depth::DepthArgs;
use crate::failure::Result;

/// Place in the help of options that every command has: behind its own.
const LAST: usize = 100;

/// The model, and how to open it.
#[derive(clap::Args)]
pub(crate) struct ModelArgs {
    /// The bundle.
    #[arg(value_name = "MODEL")]
    path: PathBuf,

    /// Threads that compute [default: one per fast core].
    #[arg(long, value_name = "N", display_order = LAST, value_parser = at_least_one)]
    threads: Option<usize>,

    /// Positions of the context [default: the model's, at most 4096].
    #[arg(long, value_name = "N", display_order = LAST, value_parser = at_least_one)]
    context: Option<usize>,

    /// Store keys and values as f32, f16 or q8 [default: f32 beside f32 weights, else f16].
    #[arg(long, value_name = "FORMAT", display_order = LAST, value_parser = kv_format)]
    kv: Option<KvFormat>,

    /// Copy the weights into memory, in huge pages where the system has them, instead of mapping the file: slightly faster, for as much memory.
    #[arg(long, display_order = LAST)]
    copy_weights: bool,
}

impl ModelArgs {
    /// Opens the model with the context that was asked for, or its own.
    pub(crate) fn open(&self) -> Result<Model> {
        self.open_with(self.context)
    }

    /// Opens the model; without `--context` with exactly `positions`, as far as it has them.
    pub(crate) fn open_for(&self, positions: usize) -> Result<Model> {
        let context = match self.context {
            Some(context) => context,
            None => {
                let bundle = OpenOptions::new().verify(false).open(&self.path)?;
                positions.clamp(1, bundle.config().max_position_embeddings)
            }
        };
        self.open_with(Some(context))
    }

    fn open_with(&self, context: Option<usize>) -> Result<Model> {
        let mut options = ModelOptions::new().with_threads(self.threads.unwrap_or(0));
        options.context = context;
        options.kv_format = self.kv;
        options.copy_weights = self.copy_weights;
        Ok(Model::open(&self.path, options)?)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The options as they were typed, without the path: for the same command elsewhere.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        let mut add = |name: &str, value: Option<String>| {
            arguments.extend(value.map(|value| format!("{name}={value}")));
        };
        add("--threads", self.threads.map(|n| n.to_string()));
        add("--context", self.context.map(|n| n.to_string()));
        add("--kv", self.kv.map(|format| format.name().to_owned()));
        if self.copy_weights {
            arguments.push("--copy-weights".to_owned());
        }
        arguments
    }
}

/// What a question may cost; an answer is always kept room for.
#[derive(clap::Args)]
pub(crate) struct BudgetArgs {
    /// Tokens for thinking and answer together; an answer is always kept room for.
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    budget_tokens: Option<usize>,

    /// Milliseconds for prompt, thinking and answer together.
    #[arg(long, value_name = "N")]
    pub(crate) budget_ms: Option<u64>,

    /// Layers run per position, after the prompt.
    #[arg(long, value_name = "N")]
    budget_layer_passes: Option<usize>,
}

impl BudgetArgs {
    /// The arguments' names, for those that they make no sense with.
    pub(crate) const IDS: [&'static str; 3] = ["budget_tokens", "budget_ms", "budget_layer_passes"];

    pub(crate) fn budget(&self) -> Budget {
        let mut budget = Budget::unlimited();
        budget.tokens = self.budget_tokens;
        budget.milliseconds = self.budget_ms;
        budget.layer_passes = self.budget_layer_passes;
        budget
    }
}

/// What a question may cost beside its route and its budgets.
#[derive(clap::Args)]
pub(crate) struct EffortArgs {
    /// Answer within so many milliseconds, with the best answer by then; the student answers aside at the end of every chunk.
    #[arg(long, value_name = "MS")]
    pub(crate) answer_by: Option<u64>,

    /// Of every finished chunk of thinking keep only the last N tokens in memory.
    #[arg(long, value_name = "N")]
    drop_chunks: Option<usize>,

    /// As if the device were so hot: nominal, fair, serious or critical. The hotter, the less effort goes into a question.
    #[arg(long, value_name = "LEVEL", value_parser = thermal_level)]
    thermal: Option<ThermalLevel>,

    #[command(flatten)]
    depth: DepthArgs,
}

fn thermal_level(name: &str) -> Result<ThermalLevel, String> {
    ThermalLevel::from_name(name).ok_or_else(|| {
        let names = ThermalLevel::ALL.map(ThermalLevel::name);
        format!("expected one of: {}", names.join(", "))
    })
}

impl EffortArgs {
    /// What holds for all questions of a model.
    pub(crate) fn prepare(&self, model: &Model) {
        model.set_thermal(self.thermal.unwrap_or_default());
    }

    pub(crate) fn apply(&self, mut ask: Ask, model: &Model) -> Result<Ask> {
        ask.answer_by = self.answer_by.map(Duration::from_millis);
        ask.drop_chunks = self.drop_chunks;
        ask.depth = self.depth.resolve(model)?;
        Ok(ask)
    }
}

/// Makes prompts for one model: through its chat template if it has one, as they are otherwise.
pub(crate) struct Prompter<'a> {
    model: &'a Model,
    template: Option<ChatTemplate>,
}

impl<'a> Prompter<'a> {
    pub(crate) fn new(model: &'a Model) -> Result<Self> {
        Ok(Prompter {
            model,
            template: model.bundle().chat()?,
        })
    }

    /// The tokens of `text` as one message of a user.
    pub(crate) fn ids(&self, text: &str) -> Result<Vec<TokenId>, Error> {
        let Some(template) = &self.template else {
            return plain_ids(self.model, text);
        };
        // The routes of a bundle continue a prompt that leaves the thinking on; they switch it off themselves.
        let options = ChatOptions {
            enable_thinking: Some(true),
            ..ChatOptions::default()
        };
        let prompt = template.render(&[Message::user(text)], &options)?;
        self.model.require_tokenizer()?.encode(&prompt, false)
    }
}

/// The tokens of `text`, with those that the tokenizer puts around every text.
pub(crate) fn plain_ids(model: &Model, text: &str) -> Result<Vec<TokenId>, Error> {
    model.require_tokenizer()?.encode(text, true)
}

/// The prompt that the user gave; `-` stands for standard input.
pub(crate) fn read_prompt(argument: &str) -> Result<String> {
    if argument != "-" {
        return Ok(argument.to_owned());
    }
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .map_err(|error| {
            Error::new(ErrorKind::Io, error.to_string())
                .at("standard input")
                .with_source(error)
        })?;
    Ok(text)
}

/// Parses a count that must not be 0.
pub(crate) fn at_least_one(argument: &str) -> Result<usize, String> {
    match argument.parse() {
        Ok(0) => Err("at least 1 is needed".to_owned()),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("{error}")),
    }
}

/// Parses the name of a weight format.
pub(crate) fn format(argument: &str) -> Result<Format, String> {
    Format::from_name(argument).ok_or_else(|| known(Format::ALL.map(Format::name)))
}

/// Parses the name of a format of keys and values.
pub(crate) fn kv_format(argument: &str) -> Result<KvFormat, String> {
    KvFormat::from_name(argument).ok_or_else(|| known(KvFormat::ALL.map(KvFormat::name)))
}

fn known<const N: usize>(names: [&str; N]) -> String {
    format!("known formats: {}", names.join(", "))
}
