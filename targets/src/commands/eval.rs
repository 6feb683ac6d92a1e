//! `skim eval`: accuracy and cost on a file of questions.
//!
//! Every question is answered alone, greedily, from an empty session: what an app would pay that asks it. An answer is right if it
//! is the expected text, blanks at both ends aside.

mod report;

use std::path::PathBuf;
use std::time::Instant;

use skimstone::reason::{Ask, Engine, EngineOptions};
use skimstone::{Error, FinishReason, Model};

use self::report::{Counts, Report};
use crate::data::{Row, read_rows};
use crate::failure::{Failure, Result, done};
use crate::interrupt;
use crate::model::{BudgetArgs, EffortArgs, ModelArgs, Prompter, at_least_one};
use crate::terminal::{print_json, progress_bar};

/// Arguments of `skim eval`.
#[derive(clap::Args)]
#[command(after_help = "\
With --json: accuracy, interval (Wilson, 95 %), n, correct, mean_generated_tokens, mean_thinking_tokens,
mean_latent_steps, mean_layer_passes, mean_head_passes, mean_exits, mean_kv_passes, mean_drafted_tokens,
mean_accepted_tokens, mean_probes, mean_probe_tokens, mean_rungs, mean_rejected_tokens (means per question; the
prompt's layers are not counted; heads at exits and of guesses are), peak_kv_bytes, p50_ms, p95_ms, p99_ms
(prompt included), route, by_kind, model, data, kernels, threads. With several routes these are of the first one,
and `routes` has all of them. `ends` has of each route how many answers have words, how many have an end, and with
a limit of time how many came within it; `pairs` holds the first route against each other one, question by question:
lost and gained questions, accuracy that is lost with its 95 % interval, p_value (McNemar, exact).")]
pub(crate) struct Eval {
    #[command(flatten)]
    model: ModelArgs,

    /// Rows {"question", "answer"} and optionally "kind"; JSONL, plain or gzipped.
    data: PathBuf,

    /// How to reason: routes of the bundle, separated by commas [default: the bundle's].
    #[arg(long, value_name = "ROUTE", value_delimiter = ',')]
    route: Vec<String>,

    #[command(flatten)]
    budget: BudgetArgs,

    #[command(flatten)]
    effort: EffortArgs,

    /// Take the first N rows only.
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    limit: Option<usize>,

    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Eval {
    pub(crate) fn run(self) -> Result {
        let rows = read_rows(&self.data, self.limit)?;
        let model = self.model.open()?;
        self.effort.prepare(&model);
        let default = || model.reasoning().default_route.clone();
        let routes = match self.route.is_empty() {
            true => vec![default()],
            false => self.route.clone(),
        };
        // A long file that fails near its end is a waste: what can be refused is refused before the first answer.
        for route in &routes {
            let mut exam = Exam::new(&model, route, &self)?;
            for row in &rows {
                exam.check(row).map_err(|error| self.at(row, error))?;
            }
        }

        let mut counts = Vec::new();
        let bar = progress_bar(
            (rows.len() * routes.len()) as u64,
            "{bar:30} {pos} / {len} · {elapsed} · {eta} left · {wide_msg}",
        );
        for route in routes {
            let mut exam = Exam::new(&model, &route, &self)?;
            let mut of_route = Counts::default();
            for row in &rows {
                let counted = exam.ask(row, &mut of_route);
                if !counted.map_err(|error| self.at(row, error))? {
                    break;
                }
                bar.set_message(format!(
                    "{route}: {:.1} % right",
                    100.0 * of_route.accuracy()
                ));
                bar.inc(1);
            }
            if !of_route.is_empty() {
                counts.push((route, of_route));
            }
            if interrupt::asked() {
                break;
            }
        }
        bar.finish_and_clear();
        if counts.is_empty() {
            return Err(Failure::Interrupted);
        }

        let limits = [self.budget.budget_ms, self.effort.answer_by];
        let deadline = limits.into_iter().flatten().min();
        let report = Report::new(&counts, self.model.path(), &self.data, &model, deadline);
        if self.json {
            print_json(&report)?;
        } else {
            report.print()?;
        }
        done()
    }

    fn at(&self, row: &Row, error: Error) -> Error {
        error
            .at(format_args!("line {}", row.line))
            .at(self.data.display())
    }
}

/// A model under examination.
struct Exam<'a> {
    prompter: Prompter<'a>,
    engine: Engine,
    ask: Ask,
}

impl<'a> Exam<'a> {
    fn new(model: &'a Model, route: &str, args: &Eval) -> Result<Self> {
        // Before the first row is blamed for it.
        model.reasoning().route(route)?;
        model.require_tokenizer()?;
        let engine = Engine::new(model, EngineOptions::default())?;
        interrupt::stops(engine.cancel_handle())?;
        Ok(Exam {
            prompter: Prompter::new(model)?,
            engine,
            ask: args
                .effort
                .apply(Ask::new().with_route(route), model)?
                .with_budget(args.budget.budget()),
        })
    }

    /// Everything that may be refused about a question, without computing an answer.
    fn check(&mut self, row: &Row) -> Result<(), Error> {
        let prompt = self.prompter.ids(&row.question)?;
        self.engine.ask(&prompt, &self.ask)
    }

    /// Whether the question was answered to its end; an interrupt leaves it out.
    fn ask(&mut self, row: &Row, counts: &mut Counts) -> Result<bool, Error> {
        let asked = Instant::now();
        let prompt = self.prompter.ids(&row.question)?;
        self.engine.ask(&prompt, &self.ask)?;
        if interrupt::asked() {
            self.engine.cancel_handle().cancel();
        }
        let answer = self.engine.wait()?;
        if answer.finish_reason == FinishReason::Cancelled {
            return Ok(false);
        }
        let ms = asked.elapsed().as_secs_f64() * 1e3;
        let right = answer.text.trim() == row.answer.trim();
        counts.count(row.kind.as_deref(), right, &answer, ms);
        Ok(true)
    }
}
