//! `skim bench`: tokens per second and bytes of memory.
//!
//! Prefill and decode are measured apart, each from a session that already holds `--depth` tokens: prefill reads `--prompt`
//! tokens in one call, decode takes `--gen` steps of one token. The ids are arbitrary, since the time does not depend on them.
//! Reported is the median of the repetitions, with the slowest and the fastest. `--host` does it on a [board](remote).

mod remote;

use std::io::{self, Write};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use skimstone::{Error, ErrorKind, Model, OpenOptions, Session, SessionOptions, TokenId};

use crate::failure::{Failure, Result, done};
use crate::interrupt;
use crate::model::{ModelArgs, at_least_one};
use crate::process_memory::ProcessMemory;
use crate::statistics::Samples;
use crate::terminal::{Style, bytes, counted, print_json, progress_bar};
use remote::RemoteArgs;

/// Lengths when the user names none, cut to what the context holds: llama-bench's, for comparison.
const PROMPT: usize = 512;
const GEN: usize = 128;

/// Steps before the first measured one: caches, page tables and clocks settle.
const WARM_UP: usize = 8;

/// Arguments of `skim bench`.
#[derive(clap::Args)]
#[command(after_help = "\
With --json: prefill_tokens_per_s, decode_tokens_per_s, load_ms (medians), spread ([slowest, fastest] of
each), peak_rss_bytes, anonymous_rss_bytes (null where the system does not tell), prompt, gen, depth,
reps, weight_bytes, kernels, threads; with --host also host and machine, as skim doctor describes it.
Loading includes comparing the checksums of the whole file.")]
pub(crate) struct Bench {
    #[command(flatten)]
    model: ModelArgs,

    /// Tokens of the prompt [default: 512, or what fits].
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    prompt: Option<usize>,

    /// Tokens to generate [default: 128, or what fits].
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    r#gen: Option<usize>,

    /// Tokens that are in the session before.
    #[arg(long, value_name = "N", default_value_t = 0)]
    depth: usize,

    /// Repetitions.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = at_least_one)]
    reps: usize,

    #[command(flatten)]
    remote: RemoteArgs,

    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize, Deserialize)]
struct Report {
    prefill_tokens_per_s: f64,
    decode_tokens_per_s: f64,
    load_ms: f64,
    peak_rss_bytes: Option<u64>,
    anonymous_rss_bytes: Option<u64>,
    spread: Spread,
    prompt: usize,
    r#gen: usize,
    depth: usize,
    reps: usize,
    weight_bytes: usize,
    kernels: String,
    threads: usize,
}

/// The slowest and the fastest repetition.
#[derive(Serialize, Deserialize)]
struct Spread {
    prefill_tokens_per_s: [f64; 2],
    decode_tokens_per_s: [f64; 2],
    /// Slowest first here, too.
    load_ms: [f64; 2],
}

impl Bench {
    pub(crate) fn run(self) -> Result {
        if let Some(host) = self.remote.host() {
            return self.run_on(host);
        }
        let mut load = Samples::default();
        let mut model = self.load(&mut load)?;
        for _ in 1..self.reps {
            // Never two at once: the peak is to be that of one.
            drop(model);
            model = self.load(&mut load)?;
            if interrupt::asked() {
                return Err(Failure::Interrupted);
            }
        }
        let (prompt, r#gen) = self.lengths(model.context())?;
        let Rates { prefill, decode } = measure(&model, self.depth, prompt, r#gen, self.reps)?;

        let memory = ProcessMemory::now();
        let [fastest, slowest] = load.range();
        let report = Report {
            prefill_tokens_per_s: prefill.median(),
            decode_tokens_per_s: decode.median(),
            load_ms: load.median(),
            peak_rss_bytes: memory.peak_rss,
            anonymous_rss_bytes: memory.anonymous_rss,
            spread: Spread {
                prefill_tokens_per_s: prefill.range(),
                decode_tokens_per_s: decode.range(),
                load_ms: [slowest, fastest],
            },
            prompt,
            r#gen,
            depth: self.depth,
            // Fewer than asked for after an interrupt.
            reps: decode.len(),
            weight_bytes: model.bundle().weight_bytes(),
            kernels: model.kernels().to_owned(),
            threads: model.threads(),
        };
        if self.json {
            print_json(&report)?;
        } else {
            report.print()?;
        }
        done()
    }

    fn run_on(&self, host: &str) -> Result {
        // Refused here, before anything is copied.
        OpenOptions::new().verify(false).open(self.model.path())?;
        let mut arguments = self.model.arguments();
        let mut add = |name: &str, value: Option<usize>| {
            if let Some(value) = value {
                arguments.extend([name.to_owned(), value.to_string()]);
            }
        };
        add("--prompt", self.prompt);
        add("--gen", self.r#gen);
        add("--depth", Some(self.depth));
        add("--reps", Some(self.reps));
        let record = self.remote.bench(host, self.model.path(), &arguments)?;
        if self.json {
            return print_json(&record);
        }
        let report: Report = serde_json::from_value(record).map_err(|error| {
            Error::new(ErrorKind::Data, error.to_string())
                .at(host)
                .with_hint("is the `skim` of --binary of this version?")
        })?;
        report.print()
    }

    fn load(&self, times: &mut Samples) -> Result<Model> {
        let start = Instant::now();
        let model = self.model.open_for(self.positions())?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
        Ok(model)
    }

    /// The context that the measurement needs.
    fn positions(&self) -> usize {
        let (prompt, r#gen) = (self.prompt.unwrap_or(PROMPT), self.r#gen.unwrap_or(GEN));
        self.depth.saturating_add(prompt.max(r#gen))
    }

    /// Prompt and generation that fit behind the depth. Only defaults are cut to what fits.
    fn lengths(&self, context: usize) -> Result<(usize, usize)> {
        let room = context.saturating_sub(self.depth);
        let prompt = self.prompt.unwrap_or(PROMPT.min(room));
        let r#gen = self.r#gen.unwrap_or(GEN.min(room));
        let needed = self.depth.saturating_add(prompt.max(r#gen).max(1));
        if needed > context {
            let message = format!("{needed} positions are needed, the context is {context}");
            return Err(Error::new(ErrorKind::ContextFull, message)
                .with_hint("use a smaller --depth, --prompt or --gen, or a larger --context")
                .into());
        }
        Ok((prompt, r#gen))
    }
}

/// Tokens per second of every repetition.
pub(crate) struct Rates {
    pub(crate) prefill: Samples,
    pub(crate) decode: Samples,
}

/// Measures `reps` times a prefill of `prompt` tokens and a decode of `gen`, each behind `depth` positions; after an interrupt those
/// that were complete.
pub(crate) fn measure(
    model: &Model,
    depth: usize,
    prompt: usize,
    r#gen: usize,
    reps: usize,
) -> Result<Rates> {
    let positions = depth + prompt.max(r#gen);
    let options = SessionOptions::new().with_context(positions);
    let mut session = Session::new(model, options)?;
    interrupt::stops(session.cancel_handle())?;
    let ids = ids(positions, model.config().vocab_size);
    session.prefill(&ids[..WARM_UP.min(positions)])?;
    session.truncate(0)?;
    let (past, new) = ids.split_at(depth);
    if !past.is_empty() {
        session.feed(past)?;
    }

    let (mut prefill, mut decode) = (Samples::default(), Samples::default());
    let bar = progress_bar(reps as u64, "{bar:30} {pos} / {len} repetitions");
    for _ in 0..reps {
        match repetition(&mut session, depth, &new[..prompt], &new[..r#gen]) {
            Ok([read, generated]) => {
                prefill.push(read);
                decode.push(generated);
            }
            Err(error) if error.kind() == ErrorKind::Cancelled => break,
            Err(error) => return Err(error.into()),
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    if decode.len() == 0 {
        return Err(Failure::Interrupted);
    }
    Ok(Rates { prefill, decode })
}

/// Tokens per second of reading `prompt`, and of stepping through `gen`.
fn repetition(
    session: &mut Session,
    depth: usize,
    prompt: &[TokenId],
    r#gen: &[TokenId],
) -> Result<[f64; 2], Error> {
    session.truncate(depth)?;
    let start = Instant::now();
    session.prefill(prompt)?;
    let read = prompt.len() as f64 / start.elapsed().as_secs_f64();

    session.truncate(depth)?;
    let start = Instant::now();
    for &id in r#gen {
        session.step(id)?;
    }
    Ok([read, r#gen.len() as f64 / start.elapsed().as_secs_f64()])
}

/// Arbitrary ids, spread over the vocabulary so that embedding rows do not stay in the cache.
fn ids(count: usize, vocab_size: usize) -> Vec<TokenId> {
    // Knuth's multiplicative hash.
    (0..count)
        .map(|i| (i as u32).wrapping_mul(2_654_435_761) % vocab_size as u32)
        .collect()
}

impl Report {
    fn print(&self) -> Result {
        let mut out = io::stdout().lock();
        let style = Style::of(&out);
        let spread = |[slowest, fastest]: [f64; 2]| format!("({slowest:.1} to {fastest:.1})");
        let mut line = |name: &str, value: String, note: String| {
            writeln!(
                out,
                "{}  {value:>14}  {}",
                style.strong(&format!("{name:9}")),
                style.dim(&note)
            )
        };
        let memory = |value: Option<u64>| value.map_or("unknown".to_owned(), bytes);
        line(
            "prefill",
            format!("{:.1} tok/s", self.prefill_tokens_per_s),
            format!(
                "{} {}",
                counted(self.prompt, "token"),
                spread(self.spread.prefill_tokens_per_s)
            ),
        )?;
        line(
            "decode",
            format!("{:.1} tok/s", self.decode_tokens_per_s),
            format!(
                "{} {}",
                counted(self.r#gen, "token"),
                spread(self.spread.decode_tokens_per_s)
            ),
        )?;
        line(
            "load",
            format!("{:.2} ms", self.load_ms),
            format!("{} of weights", bytes(self.weight_bytes as u64)),
        )?;
        line(
            "peak",
            memory(self.peak_rss_bytes),
            "resident, mapped weights included".to_owned(),
        )?;
        line(
            "anonymous",
            memory(self.anonymous_rss_bytes),
            "resident, what an app is charged for".to_owned(),
        )?;
        let depth = match self.depth {
            0 => String::new(),
            depth => format!(" · at depth {depth}"),
        };
        let note = format!(
            "{} · {} · median of {}{depth}",
            self.kernels,
            counted(self.threads, "thread"),
            self.reps
        );
        writeln!(out, "{}", style.dim(&note))?;
        Ok(out.flush()?)
    }
}
