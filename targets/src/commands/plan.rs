//! `skim plan`: does a model fit a device, and how fast will it be there?
//!
//! Memory is the sdk's own estimate, compared with what the device has and what its system allows. Speed is predicted from
//! ceilings ([`crate::roofline`]); `--measure` shows on a machine of the target's class how wrong the prediction is.

mod print;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;
use skimstone::kernels::{Format, KvFormat};
use skimstone::memory::MemoryEstimate;
use skimstone::{Error, ErrorKind, Model, ModelOptions, RouteKind};

use super::bench::{Rates, measure};
use crate::failure::{Failure, Result};
use crate::interrupt;
use crate::model::{at_least_one, format, kv_format};
use crate::profiles::{self, Profile, State, Target};
use crate::roofline::{Machine, RECORD, Rate, Roofline, Shares, is_between_recorded};
use crate::statistics::Samples;
use crate::subject::{RouteMeans, Subject, card};
use crate::terminal::print_json;

/// Context of the plan where none is asked for, cut to the model's; as that of the other commands.
const CONTEXT: usize = 4096;
/// Tokens of a prompt where none are given.
const PROMPT: usize = 256;
/// Thinking tokens of a route that thinks, where neither a card nor the route says it.
const THINKING: f64 = 128.0;
/// Answer tokens where no card says it.
const ANSWER: f64 = 32.0;
/// Decoded tokens and repetitions of a measurement.
const MEASURED_GEN: usize = 128;
const MEASURED_REPS: usize = 5;

/// Arguments of `skim plan`.
#[derive(clap::Args)]
#[command(after_help = "\
With --json: target, model, context, kv, memory (file_backed, anonymous, total, parts), fits,
fits_in_background (null where no limit is known), checks (rule, state, limit_bytes, needed_bytes,
over_bytes, entitlement), largest_context (null if none fits), alternatives, prefill and decode
(tokens_per_s, low, high; null where the profile lacks a number), upper_bound, routes, assumptions,
unknown, measured (null without --measure).
The exit status is 0 for a model that does not fit, too: the plan is the answer.")]
pub(crate) struct Plan {
    /// A bundle, or a Hugging Face config.json.
    #[arg(value_name = "MODEL")]
    model: PathBuf,

    /// A device of `skim targets list`, or the path of a profile (.toml).
    #[arg(long)]
    target: String,

    /// Positions of the context [default: the model's, at most 4096].
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    context: Option<usize>,

    /// Store keys and values as f32, f16 or q8 [default: f32 beside f32 weights, else f16].
    #[arg(long, value_name = "FORMAT", value_parser = kv_format)]
    kv: Option<KvFormat>,

    /// Weight format that a config.json is planned in [default: q4].
    #[arg(long, value_name = "FORMAT", value_parser = format)]
    quant: Option<Format>,

    /// Tokens of the prompt [default: 256, or what fits].
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    prompt: Option<usize>,

    /// Evaluation card with the routes' mean tokens [default: NAME.card.json beside the bundle].
    #[arg(long, value_name = "FILE")]
    card: Option<PathBuf>,

    /// Measure here, too, and say how wrong the prediction is; only on a machine of the target's class.
    #[arg(long)]
    measure: bool,

    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    target: TargetReport,
    model: ModelReport,
    context: usize,
    kv: &'static str,
    memory: MemoryReport,
    fits: bool,
    fits_in_background: Option<bool>,
    checks: Vec<Check>,
    largest_context: Option<usize>,
    alternatives: Vec<Alternative>,
    prompt: usize,
    prefill: Option<Rate>,
    decode: Option<Rate>,
    /// The rates come from a bandwidth that cores do not reach.
    upper_bound: bool,
    routes: Vec<Route>,
    assumptions: Vec<String>,
    unknown: Vec<String>,
    measured: Option<Measured>,
}

#[derive(Serialize)]
struct TargetReport {
    name: String,
    title: String,
}

#[derive(Serialize)]
struct ModelReport {
    path: String,
    parameters: u64,
    format: &'static str,
    file_bytes: u64,
}

#[derive(Serialize)]
struct MemoryReport {
    file_backed: u64,
    anonymous: u64,
    total: u64,
    parts: BTreeMap<&'static str, u64>,
}

/// One rule, and how the model stands to it.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Check {
    rule: String,
    state: &'static str,
    limit_bytes: u64,
    needed_bytes: u64,
    over_bytes: u64,
    entitlement: Option<String>,
}

/// The same shape in another format, or loaded differently.
#[derive(Serialize)]
struct Alternative {
    format: &'static str,
    file_backed: u64,
    anonymous: u64,
    /// With the weights mapped from the file.
    fits: bool,
    /// With the weights copied into memory, where they count as anonymous.
    fits_copied: bool,
    largest_context: Option<usize>,
    decode_tokens_per_s: Option<f64>,
}

#[derive(Serialize)]
struct Route {
    name: String,
    /// `card` or `assumption`.
    tokens_from: &'static str,
    generated_tokens: f64,
    latent_steps: f64,
    /// Of prompt and generation.
    ms: Option<f64>,
}

#[derive(Serialize)]
struct Measured {
    kernels: &'static str,
    threads: usize,
    reps: usize,
    gen_tokens: usize,
    prefill: Comparison,
    decode: Comparison,
}

/// Measured tokens per second beside the prediction.
#[derive(Serialize)]
struct Comparison {
    tokens_per_s: f64,
    /// Slowest and fastest repetition.
    spread: [f64; 2],
    /// Predicted over measured, less 1.
    error: Option<f64>,
}

impl Plan {
    pub(crate) fn run(self) -> Result {
        let target = profiles::find(&self.target)?;
        let subject = Subject::open(&self.model, self.quant)?;
        let most = subject.config.max_position_embeddings;
        let context = self.context.unwrap_or(CONTEXT.min(most));
        if context > most {
            let message = format!("a context of {context} is longer than the model's {most}");
            return Err(Error::new(ErrorKind::Argument, message).into());
        }
        let prompt = self.prompt.unwrap_or(PROMPT.min(context));
        if prompt > context {
            let message =
                format!("a prompt of {prompt} tokens does not fit a context of {context}");
            return Err(Error::new(ErrorKind::Argument, message).into());
        }
        let means = card(self.card.as_ref(), &self.model, subject.bundle.as_ref())?;
        let path = self.model.display().to_string();
        let mut report = Report::new(
            target.clone(),
            path,
            &subject,
            context,
            self.kv,
            prompt,
            &means,
        );
        if self.measure {
            report.measured = Some(self.measured(&target, subject, &report)?);
        }
        if self.json {
            print_json(&report)
        } else {
            report.print()
        }
    }

    /// Measures prefill of the prompt, and decode behind it.
    fn measured(&self, target: &Target, subject: Subject, report: &Report) -> Result<Measured> {
        let refuse = |message: String| Err(Error::new(ErrorKind::Argument, message).into());
        if subject.bundle.is_none() {
            return refuse(
                "a config.json cannot be measured; `skim synth` makes a bundle".to_owned(),
            );
        }
        // The header is enough for a plan; what runs is opened with all checks.
        drop(subject);
        let room = report.context.saturating_sub(report.prompt);
        if room == 0 {
            return refuse("the prompt fills the context, nothing can be generated".to_owned());
        }
        let mut options = ModelOptions::new().with_context(report.context);
        options.kv_format = self.kv;
        let model = Model::open(&self.model, options)?;
        let (kernels, threads) = (model.kernels(), model.threads());
        let (class, cores) = (
            target.profile.cpu.kernels.as_deref(),
            target.profile.core_count(),
        );
        if class != Some(kernels) || cores != threads {
            return refuse(format!(
                "this machine is not of the target's class: it runs {kernels} on {threads} threads, `{}` has {} and {cores} cores",
                target.name,
                class.unwrap_or("unknown kernels"),
            ));
        }
        let r#gen = MEASURED_GEN.min(room);
        let prefill = measure(&model, 0, report.prompt, 1, MEASURED_REPS)?.prefill;
        let Rates { decode, .. } = measure(&model, report.prompt, 1, r#gen, MEASURED_REPS)?;
        if interrupt::asked() {
            return Err(Failure::Interrupted);
        }
        Ok(Measured {
            kernels,
            threads,
            reps: MEASURED_REPS,
            gen_tokens: r#gen,
            prefill: Comparison::new(&prefill, report.prefill),
            decode: Comparison::new(&decode, report.decode),
        })
    }
}

impl Comparison {
    fn new(samples: &Samples, predicted: Option<Rate>) -> Comparison {
        let tokens_per_s = samples.median();
        Comparison {
            tokens_per_s,
            spread: samples.range(),
            error: predicted.map(|rate| rate.tokens_per_s / tokens_per_s - 1.0),
        }
    }
}

impl Report {
    fn new(
        target: Target,
        path: String,
        subject: &Subject,
        context: usize,
        asked_kv: Option<KvFormat>,
        prompt: usize,
        means: &BTreeMap<String, RouteMeans>,
    ) -> Report {
        let profile = &target.profile;
        let machine = Machine::of(profile);
        let kv = subject.kv(asked_kv);
        let memory = subject.memory(context, kv);
        let found = checks(profile, &memory);
        let roofline = |subject: &Subject, kv| Roofline {
            machine,
            shares: Shares::recorded(kv, subject.work(kv).layer_macs),
            work: subject.work(kv),
        };
        let line = roofline(subject, kv);
        let depth = prompt as f64 + MEASURED_GEN as f64 / 2.0;
        let routes = routes(subject, &line, prompt, means);
        let alternatives = [Format::F16, Format::Q8, Format::Q4].map(|format| {
            let other = subject.in_format(format);
            let kv = other.kv(asked_kv);
            let memory = other.memory(context, kv);
            let copied = MemoryEstimate {
                file_backed: 0,
                anonymous: memory.total,
                ..memory.clone()
            };
            Alternative {
                format: format.name(),
                file_backed: memory.file_backed,
                anonymous: memory.anonymous,
                fits: fits(&checks(profile, &memory), State::Foreground).unwrap_or(true),
                fits_copied: fits(&checks(profile, &copied), State::Foreground).unwrap_or(true),
                largest_context: largest_context(profile, &other, kv),
                decode_tokens_per_s: roofline(&other, kv).decode(depth).map(|r| r.tokens_per_s),
            }
        });
        Report {
            model: ModelReport {
                path,
                parameters: subject.config.num_parameters(),
                format: subject.format.name(),
                file_bytes: subject.file_bytes,
            },
            context,
            kv: kv.name(),
            fits: fits(&found, State::Foreground).unwrap_or(true),
            fits_in_background: fits(&found, State::Background),
            checks: found,
            largest_context: largest_context(profile, subject, kv),
            alternatives: alternatives.into(),
            prompt,
            prefill: line.prefill(prompt as f64),
            decode: line.decode(depth),
            upper_bound: machine.is_peak,
            assumptions: assumptions(profile, &line, &routes, depth),
            unknown: unknown(profile, &line),
            routes,
            measured: None,
            memory: MemoryReport {
                file_backed: memory.file_backed,
                anonymous: memory.anonymous,
                total: memory.total,
                parts: memory.parts.into_iter().collect(),
            },
            target: TargetReport {
                title: target.profile.title.clone(),
                name: target.name,
            },
        }
    }
}

/// Every rule of the target. Limits of the system look at anonymous memory; the memory of the device has to hold the file, too, or
/// every token reads it from storage again.
fn checks(profile: &Profile, memory: &MemoryEstimate) -> Vec<Check> {
    let check = |rule: &str, state: State, limit_bytes: u64, needed_bytes: u64| Check {
        rule: rule.to_owned(),
        state: state.name(),
        limit_bytes,
        needed_bytes,
        over_bytes: needed_bytes.saturating_sub(limit_bytes),
        entitlement: None,
    };
    let whole = profile.memory.memory_gib.as_ref().map(|memory_gib| {
        let bytes = (memory_gib.value * (1u64 << 30) as f64) as u64;
        check(
            "the memory of the device",
            State::Foreground,
            bytes,
            memory.total,
        )
    });
    let limits = profile.limits.iter().map(|limit| {
        let bytes = (limit.anonymous_gb.value * 1e9) as u64;
        Check {
            entitlement: limit.entitlement.clone(),
            ..check(&limit.rule, limit.state, bytes, memory.anonymous)
        }
    });
    whole.into_iter().chain(limits).collect()
}

/// Whether all rules of a state hold that need no entitlement; `None` if there is none.
fn fits(checks: &[Check], state: State) -> Option<bool> {
    let mut of_state = checks
        .iter()
        .filter(|check| check.state == state.name() && check.entitlement.is_none())
        .peekable();
    of_state.peek()?;
    Some(of_state.all(|check| check.over_bytes == 0))
}

/// The longest context of the model that fits in the foreground; `None` if not even one position does.
fn largest_context(profile: &Profile, subject: &Subject, kv: KvFormat) -> Option<usize> {
    let fits_with = |context: usize| {
        let checks = checks(profile, &subject.memory(context, kv));
        fits(&checks, State::Foreground).unwrap_or(true)
    };
    // Memory grows with the context: the first that does not fit ends those that do.
    let (mut fitting, mut beyond) = (0, subject.config.max_position_embeddings + 1);
    while beyond - fitting > 1 {
        let middle = fitting + (beyond - fitting) / 2;
        if fits_with(middle) {
            fitting = middle;
        } else {
            beyond = middle;
        }
    }
    (fitting > 0).then_some(fitting)
}

/// Milliseconds of each route from prompt to end of the answer.
fn routes(
    subject: &Subject,
    line: &Roofline,
    prompt: usize,
    means: &BTreeMap<String, RouteMeans>,
) -> Vec<Route> {
    let routes = subject.reasoning.routes.iter().map(|(name, spec)| {
        let thinking = match spec.kind {
            RouteKind::Cot | RouteKind::Skip => spec
                .max_thinking_tokens
                .map_or(THINKING, |most| most as f64),
            _ => 0.0,
        };
        let assumed = RouteMeans {
            generated_tokens: thinking + ANSWER,
            latent_steps: spec.latent_steps as f64,
        };
        let (tokens_from, means) = match means.get(name) {
            Some(means) => ("card", *means),
            None => ("assumption", assumed),
        };
        // A latent step runs the layers and looks at the cache like a token.
        let steps = means.generated_tokens + means.latent_steps;
        let prompt = prompt as f64;
        let ms = line.prefill_seconds(prompt).and_then(|prefill| {
            let decode = line.decode_seconds(prompt + steps / 2.0)?;
            Some((prefill + steps * decode) * 1e3)
        });
        Route {
            name: name.clone(),
            tokens_from,
            generated_tokens: means.generated_tokens,
            latent_steps: means.latent_steps,
            ms,
        }
    });
    routes.collect()
}

fn assumptions(profile: &Profile, line: &Roofline, routes: &[Route], depth: f64) -> Vec<String> {
    let shares = &line.shares;
    let percent = |share: f64| format!("{:.0} %", share * 100.0);
    let mut out = vec![
        format!(
            "decoding reaches {} of the bandwidth ({} to {} over the models of the record), keys and values {}; prefill of this size {} of the int8 peak ({} to {}), attention {}: {RECORD}",
            percent(shares.decode.median),
            percent(shares.decode.low),
            percent(shares.decode.high),
            percent(shares.kv),
            percent(shares.prefill.median),
            percent(shares.prefill.low),
            percent(shares.prefill.high),
            percent(shares.attention),
        ),
        format!("decode is that of a token which looks at {depth} positions"),
        "all CPU cores compute, no GPU, and nothing else uses the memory; a device that is hot is slower"
            .to_owned(),
    ];
    if profile.cpu.kernels.as_deref() != Some("x86_64-avx512vnni") {
        out.push(
            "the shares are those of x86-64 with AVX-512 VNNI; nothing is measured on this CPU"
                .to_owned(),
        );
    }
    if !is_between_recorded(line.work.layer_macs) {
        out.push("the model is smaller or larger than those of the record: its share of the int8 peak is extrapolated, and prefill a guess".to_owned());
    }
    if line.machine.is_peak {
        out.push("the bandwidth is the memory's peak, which CPU cores do not reach: rates of decoding are upper bounds".to_owned());
    }
    if routes.iter().any(|route| route.tokens_from == "assumption") {
        out.push(format!(
            "no card says how long answers are: {ANSWER} tokens, and {THINKING} of thinking where a route thinks and has no limit of its own"
        ));
    }
    out
}

/// Why something is not predicted.
fn unknown(profile: &Profile, line: &Roofline) -> Vec<String> {
    let mut out = profile.missing.clone();
    if !line.work.is_int8 {
        out.push(
            "prefill: the layers are not quantized, and the record has no such model".to_owned(),
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small(limits: &str) -> Profile {
        let text = format!(
            r#"title = "Small"
system = "linux"
rust_target = "x"
[memory]
memory_gib = {{ value = 1, source = "a" }}
[cpu]
isa = ["x"]
isa_source = "a"
cores = [{{ kind = "x", count = 1, source = "a" }}]
{limits}
[thermal]
class = "none"
[sources]
a = {{ cite = "made up", trust = "estimate" }}"#
        );
        let profile: Profile = toml::from_str(&text).unwrap();
        profile.validate().unwrap();
        profile
    }

    fn estimate(file_backed: u64, anonymous: u64) -> MemoryEstimate {
        MemoryEstimate {
            file_backed,
            anonymous,
            total: file_backed + anonymous,
            parts: Vec::new(),
        }
    }

    #[test]
    fn limits_look_at_anonymous_memory_and_the_device_at_all() {
        let limits = r#"
[[limits]]
state = "foreground"
anonymous_gb = { value = 0.5, source = "a" }
rule = "r"
[[limits]]
state = "foreground"
anonymous_gb = { value = 0.7, source = "a" }
rule = "r"
entitlement = "e"
[[limits]]
state = "background"
anonymous_gb = { value = 0.1, source = "a" }
rule = "r""#;
        let profile = small(limits);
        let over = |memory: &MemoryEstimate| -> Vec<u64> {
            let checks = checks(&profile, memory);
            checks.iter().map(|check| check.over_bytes).collect()
        };
        // A gibibyte in all is not exceeded; 600 MB exceed two limits of anonymous memory.
        let memory = estimate(400_000_000, 600_000_000);
        assert_eq!(over(&memory), [0, 100_000_000, 0, 500_000_000]);
        let verdict = |memory: &MemoryEstimate, state| fits(&checks(&profile, memory), state);
        assert_eq!(verdict(&memory, State::Foreground), Some(false));
        let memory = estimate(400_000_000, 500_000_000);
        assert_eq!(verdict(&memory, State::Foreground), Some(true));
        assert_eq!(verdict(&memory, State::Background), Some(false));
        // What is mapped must fit the device, though no limit counts it.
        let memory = estimate(1 << 30, 1);
        assert_eq!(over(&memory), [1, 0, 0, 0]);
        assert_eq!(verdict(&memory, State::Foreground), Some(false));
        assert_eq!(fits(&checks(&small(""), &memory), State::Background), None);
    }
}
