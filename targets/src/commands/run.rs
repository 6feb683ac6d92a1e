//! `skim run`: one prompt, one answer.
//!
//! Two ways. Normally the engine runs a route: the prompt goes through the model's chat template if it has one, the thinking
//! streams dimmed, the answer follows, and budgets are kept. With `--raw` nothing of that: the tokens go in as they are, and
//! plain generation follows until an end token or the length.

mod report;
mod view;

use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};

use skimstone::reason::{Ask, Budget, Decision, Engine, EngineOptions, Event, Usage};
use skimstone::{
    Error, ErrorKind, FinishReason, Generate, GenerateOptions, Model, SamplerOptions, Session,
    SessionOptions, TokenId,
};

use self::report::{Report, ThinkingIds};
use self::view::{View, print_costs};
use crate::failure::{Result, done};
use crate::interrupt;
use crate::model::{
    BudgetArgs, EffortArgs, ModelArgs, Prompter, at_least_one, plain_ids, read_prompt,
};
use crate::terminal::print_json;

/// Tokens of `--raw` generation when the user names no number.
const RAW_MAX_TOKENS: usize = 256;

/// Arguments of `skim run`.
#[derive(clap::Args)]
#[command(after_help = "\
With --json: text, thinking, ids, prompt_ids, generated_ids, route, along (the route that the answer came by),
confidence, certainty (smallest probability of a token of the answer), usage, finish_reason, decisions, seed, temperature, kernels, threads. `generated_ids` are the tokens after the prompt without
the end token; `ids` are the same, but with --raw they begin with the prompt.")]
pub(crate) struct Run {
    #[command(flatten)]
    model: ModelArgs,

    /// The prompt; - reads it from standard input.
    #[arg(required_unless_present = "tokens", conflicts_with = "tokens")]
    prompt: Option<String>,

    /// Token ids instead of a prompt, separated by commas.
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    tokens: Vec<TokenId>,

    /// How to reason: a route of the bundle [default: the bundle's].
    #[arg(long, conflicts_with = "raw")]
    route: Option<String>,

    /// Most tokens to generate, thinking included [default: 256 with --raw, else no limit but the context].
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    max_tokens: Option<usize>,

    #[command(flatten)]
    budget: BudgetArgs,

    /// Follow the decisions of an answer that --json printed: the same tokens again, whatever the time is now. Prompt, budgets, seed and
    /// temperature must be as they were then.
    #[arg(long, value_name = "ANSWER.json", conflicts_with_all = ["raw", "route"])]
    replay: Option<PathBuf>,

    #[command(flatten)]
    effort: EffortArgs,

    /// Seed of the sampler.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// Spread of the sampler; 0 takes the most likely token [default: as the bundle's authors sample, else 0].
    #[arg(long, value_name = "T")]
    temperature: Option<f32>,

    /// Plain generation: no chat template, no route, no end tokens but the config's.
    #[arg(long, conflicts_with_all = BudgetArgs::IDS)]
    raw: bool,

    /// Print one JSON object instead of streaming.
    #[arg(long)]
    json: bool,
}

impl Run {
    pub(crate) fn run(self) -> Result {
        // The process ends with the answer. To take a large vocabulary apart before would be a fifth of a short run.
        let model = ManuallyDrop::new(self.model.open()?);
        let report = if self.raw {
            self.generate(&model)?
        } else {
            self.answer(&model)?
        };
        if self.json {
            print_json(&report)?;
            return done();
        }
        // Costs are a courtesy: a closed standard error is no reason to fail.
        let _ = print_costs(&report);
        done()
    }

    /// Reasons by a route.
    fn answer<'a>(&self, model: &'a Model) -> Result<Report<'a>> {
        let prompt = match &self.prompt {
            Some(prompt) => Prompter::new(model)?.ids(&read_prompt(prompt)?)?,
            None => self.tokens.clone(),
        };
        self.effort.prepare(model);
        let sampler = self.sampler(model);
        let mut ask = self
            .effort
            .apply(Ask::new(), model)?
            .with_budget(self.budget())
            .with_sampler(sampler.clone());
        ask.route.clone_from(&self.route);
        ask.max_answer_tokens = self.max_tokens;
        ask.replay = self.replay.as_deref().map(read_log).transpose()?;

        let mut engine = Engine::new(model, EngineOptions::default())?;
        engine.ask(&prompt, &ask)?;
        interrupt::stops(engine.cancel_handle())?;
        let mut view = (!self.json).then(|| View::new(model));
        let mut thinking = ThinkingIds::new(model.reasoning().chunk);
        while let Some(event) = engine.next_event()? {
            thinking.follow(&event);
            if let Some(view) = &mut view {
                view.show(&event)?;
            }
            if let Event::Finished(answer) = event {
                let route = model.reasoning().route(&answer.along)?;
                let generated_ids = thinking.with_answer(&route.close, &answer.ids);
                return Ok(Report {
                    text: answer.text,
                    thinking: answer.thinking,
                    ids: generated_ids.clone(),
                    prompt_ids: [prompt, route.open.clone()].concat(),
                    generated_ids,
                    route: Some(answer.route),
                    along: Some(answer.along),
                    confidence: Some(answer.confidence),
                    certainty: Some(answer.certainty),
                    usage: answer.usage,
                    finish_reason: answer.finish_reason,
                    decisions: answer.decisions,
                    seed: sampler.seed,
                    temperature: sampler.temperature,
                    kernels: model.kernels(),
                    threads: model.threads(),
                });
            }
        }
        unreachable!("an engine that was asked tells when it has finished")
    }

    /// Generates without a route.
    fn generate<'a>(&self, model: &'a Model) -> Result<Report<'a>> {
        let prompt = match &self.prompt {
            Some(prompt) => plain_ids(model, &read_prompt(prompt)?)?,
            None => self.tokens.clone(),
        };
        let mut session = Session::new(model, SessionOptions::new())?;
        check_length(&prompt, session.context())?;
        interrupt::stops(session.cancel_handle())?;
        let sampler = SamplerOptions {
            temperature: self.temperature.unwrap_or(0.0),
            seed: self.seed,
            ..SamplerOptions::default()
        };
        let options = GenerateOptions {
            max_tokens: Some(self.max_tokens.unwrap_or(RAW_MAX_TOKENS)),
            sampler: sampler.clone(),
            stop_ids: Some(model.config().eos_token_id.clone()),
            ..GenerateOptions::default()
        };
        let mut view = (!self.json).then(|| View::new(model));
        let mut generate = Generate::new(&mut session, &prompt, options)?;
        let (mut text, mut generated_ids) = (String::new(), Vec::new());
        while let Some(piece) = generate.next_piece()? {
            if let Some(view) = &mut view {
                view.answer(&piece)?;
            }
            text.push_str(&piece.text);
            generated_ids.extend(piece.ids);
        }
        if let Some(view) = &mut view {
            view.end()?;
        }
        let (stats, finish_reason) = (generate.stats(), generate.finish_reason());
        let done = session.usage();
        let layers = model.config().num_hidden_layers;
        let prompt_layer_passes = layers * prompt.len().min(done.tokens);
        let usage = Usage {
            prompt_tokens: prompt.len(),
            answer_tokens: stats.generated_tokens,
            generated_tokens: stats.generated_tokens,
            layer_passes: done.layer_passes - prompt_layer_passes,
            prompt_layer_passes,
            head_passes: done.head_passes,
            peak_kv_bytes: session.kv_bytes(),
            ms_prefill: stats.prefill.as_secs_f64() * 1e3,
            ms_answer: stats.decode.as_secs_f64() * 1e3,
            kv_bytes: session.kv_bytes(),
            ..Usage::default()
        };
        Ok(Report {
            text,
            thinking: String::new(),
            ids: [prompt.as_slice(), &generated_ids].concat(),
            prompt_ids: prompt,
            generated_ids,
            route: None,
            along: None,
            confidence: None,
            certainty: None,
            usage,
            finish_reason: finish_reason.unwrap_or(FinishReason::Length),
            decisions: Vec::new(),
            seed: sampler.seed,
            temperature: sampler.temperature,
            kernels: model.kernels(),
            threads: model.threads(),
        })
    }

    /// `--max-tokens` and `--budget-tokens` both limit what is generated; they differ in how the end is named.
    fn budget(&self) -> Budget {
        let mut budget = self.budget.budget();
        budget.tokens = budget.tokens.into_iter().chain(self.max_tokens).min();
        budget
    }

    /// As the bundle's authors sample, unless the user says otherwise.
    fn sampler(&self, model: &Model) -> SamplerOptions {
        let default = SamplerOptions::default();
        let authors = model.bundle().generation();
        let temperature = match authors.do_sample {
            Some(true) => authors.temperature.unwrap_or(1.0),
            _ => default.temperature,
        };
        SamplerOptions {
            temperature: self.temperature.unwrap_or(temperature),
            top_k: authors.top_k.unwrap_or(default.top_k),
            top_p: authors.top_p.unwrap_or(default.top_p),
            min_p: authors.min_p.unwrap_or(default.min_p),
            repetition_penalty: authors
                .repetition_penalty
                .unwrap_or(default.repetition_penalty),
            seed: self.seed,
            ..default
        }
    }
}

/// The decisions in a file that `--json` printed.
fn read_log(path: &Path) -> Result<Vec<Decision>> {
    #[derive(serde::Deserialize)]
    struct Log {
        decisions: Vec<Decision>,
    }
    let bytes = std::fs::read(path).map_err(|error| Error::io(path, error))?;
    let log: Log = serde_json::from_slice(&bytes).map_err(|error| {
        Error::new(ErrorKind::Data, error.to_string())
            .at(path.display())
            .with_hint("what `skim run --json` printed is expected")
            .with_source(error)
    })?;
    Ok(log.decisions)
}

/// The prompt's own limit, told in its words before anything is computed.
fn check_length(prompt: &[TokenId], context: usize) -> Result {
    if prompt.len() > context {
        let message = format!(
            "the prompt has {} tokens, the context is {context}",
            prompt.len()
        );
        return Err(Error::new(ErrorKind::ContextFull, message)
            .with_hint("shorten the prompt or open a larger context")
            .into());
    }
    Ok(())
}
