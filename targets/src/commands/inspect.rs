//! `skim inspect`: what is in a bundle, without running it.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;
use skimstone::memory::{MemoryEstimate, estimate};
use skimstone::{
    AutoSpec, Bundle, Error, ErrorKind, LadderSpec, Model, ModelOptions, ReasoningSpec, RouteDepth,
    RouteSpec, Rung,
};

use crate::failure::Result;
use crate::model::at_least_one;
use crate::terminal::{Style, bytes, grouped, print_json};

/// Arguments of `skim inspect`.
#[derive(clap::Args)]
pub(crate) struct Inspect {
    /// The bundle.
    model: PathBuf,

    /// Context of the memory estimate [default: the model's, at most 4096].
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    context: Option<usize>,

    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    file_bytes: usize,
    weight_bytes: usize,
    parameters: u64,
    config: Value,
    generation: Value,
    routes: &'a BTreeMap<String, RouteSpec>,
    default_route: &'a str,
    reasoning: &'a ReasoningSpec,
    /// `None` for a model that speaks token ids only.
    tokenizer: Option<TokenizerReport>,
    chat_template: Option<&'a str>,
    provenance: &'a Value,
    memory: MemoryReport,
    tensors: Vec<TensorReport<'a>>,
}

#[derive(Serialize)]
struct TokenizerReport {
    vocab_size: usize,
    bytes: usize,
}

#[derive(Serialize)]
struct TensorReport<'a> {
    name: &'a str,
    /// `bytes` for what is no weight, such as the tokenizer.
    format: &'static str,
    shape: &'a [usize],
    bytes: usize,
}

/// Of one session.
#[derive(Serialize)]
struct MemoryReport {
    context: usize,
    file_backed: u64,
    anonymous: u64,
    total: u64,
    parts: serde_json::Map<String, Value>,
}

impl Inspect {
    pub(crate) fn run(self) -> Result {
        let mut options = ModelOptions::new().with_threads(1);
        options.context = self.context;
        let model = Model::open(&self.model, options)?;
        let bundle = model.bundle();
        let report = Report::new(bundle, model.context())?;
        if self.json {
            print_json(&report)
        } else {
            report.print(&self.model.display().to_string())
        }
    }
}

impl<'a> Report<'a> {
    fn new(bundle: &'a Bundle, context: usize) -> Result<Self> {
        let tokenizer = bundle.tokenizer()?.map(|tokenizer| TokenizerReport {
            vocab_size: tokenizer.vocab_size(),
            bytes: bundle.tokenizer_json().map_or(0, <[u8]>::len),
        });
        let tensors = bundle.tensors().map(|tensor| TensorReport {
            name: tensor.name(),
            format: tensor.format().map_or("bytes", |format| format.name()),
            shape: tensor.shape(),
            bytes: tensor.bytes(),
        });
        Ok(Report {
            file_bytes: bundle.file_bytes(),
            weight_bytes: bundle.weight_bytes(),
            parameters: bundle.config().num_parameters(),
            config: parse(&bundle.config().to_json())?,
            generation: parse(&bundle.generation().to_json())?,
            routes: &bundle.reasoning().routes,
            default_route: &bundle.reasoning().default_route,
            reasoning: bundle.reasoning(),
            tokenizer,
            chat_template: bundle.chat_template(),
            provenance: bundle.provenance(),
            memory: MemoryReport::new(context, &estimate(bundle, context, 1, None)),
            tensors: tensors.collect(),
        })
    }

    fn print(&self, path: &str) -> Result {
        let mut out = io::stdout().lock();
        let style = Style::of(&out);
        let title = |text: &str| style.strong(text).into_owned();

        writeln!(
            out,
            "{}  {}, {} parameters",
            title(path),
            bytes(self.file_bytes as u64),
            grouped(self.parameters)
        )?;

        writeln!(out, "\n{}", title("config"))?;
        for (name, value) in self.config.as_object().into_iter().flatten() {
            writeln!(out, "  {name}: {value}")?;
        }
        match &self.tokenizer {
            Some(tokenizer) => writeln!(
                out,
                "  tokenizer: {} tokens, {}",
                grouped(tokenizer.vocab_size as u64),
                bytes(tokenizer.bytes as u64)
            )?,
            None => writeln!(out, "  tokenizer: none, token ids only")?,
        }
        let template = self.chat_template.map_or("none", |_| "yes");
        writeln!(out, "  chat template: {template}")?;

        writeln!(out, "\n{}", title("routes"))?;
        for (name, route) in self.routes {
            write!(
                out,
                "  {name}: open {:?}, close {:?}",
                route.open, route.close
            )?;
            if route.latent_steps > 0 {
                write!(out, ", {} latent steps", route.latent_steps)?;
            }
            if let Some(most) = route.max_thinking_tokens {
                write!(out, ", at most {most} thinking tokens")?;
            }
            if route.depth != RouteDepth::Full {
                write!(out, ", with {}", route.depth.name())?;
            }
            let default = name == self.default_route;
            writeln!(out, "{}", if default { " (default)" } else { "" })?;
        }

        if let Some(ladder) = &self.reasoning.ladder {
            print_ladder(&mut out, ladder)?;
            let default = self.default_route == AutoSpec::NAME;
            writeln!(out, "{}", if default { " (default)" } else { "" })?;
        }
        if let Some(auto) = &self.reasoning.auto {
            write!(
                out,
                "  {}: along {}, stops at {} {}",
                AutoSpec::NAME,
                auto.route,
                auto.gate.name(),
                auto.threshold
            )?;
            if let Some(calibration) = &auto.calibration {
                let loss = 100.0 * calibration.max_loss;
                write!(
                    out,
                    " (at most {loss} % lost, on {} questions)",
                    calibration.n
                )?;
            }
            let default = self.default_route == AutoSpec::NAME;
            writeln!(out, "{}", if default { " (default)" } else { "" })?;
        }

        if let Some(shortcut) = &self.reasoning.shortcut {
            writeln!(
                out,
                "  shortcut: latent steps leave layers out above {}, {}{}; routers of {}, adapters of {}",
                shortcut.threshold,
                shortcut.policy.name(),
                if shortcut.resume { " and resume" } else { "" },
                shortcut.size.router,
                shortcut.size.adapter,
            )?;
        }
        if let Some(exits) = &self.reasoning.exits {
            write!(
                out,
                "  exits: after {:?} layers at {} {}, {}, {}",
                exits.layers,
                exits.measure.name(),
                exits.threshold,
                exits.policy.name(),
                exits.missing_kv.name()
            )?;
            if let Some(calibration) = &exits.calibration {
                write!(
                    out,
                    " (at most {} % lost on {} but for a chance of {} %, on {} questions)",
                    100.0 * calibration.risk,
                    calibration.route,
                    100.0 * calibration.failure,
                    calibration.n
                )?;
            }
            writeln!(out)?;
        }
        if let Some(drafts) = &self.reasoning.drafts {
            writeln!(
                out,
                "  drafts: {} tokens by the first {} layers",
                drafts.tokens, drafts.layers
            )?;
        }

        writeln!(out, "\n{}", title("provenance"))?;
        match self.provenance {
            Value::Object(fields) => {
                for (name, value) in fields {
                    writeln!(out, "  {name}: {value}")?;
                }
            }
            other => writeln!(out, "  {other}")?,
        }

        let memory = &self.memory;
        writeln!(
            out,
            "\n{}",
            title(&format!(
                "memory of one session with a context of {}",
                memory.context
            ))
        )?;
        writeln!(out, "  {:>12}  from the file", bytes(memory.file_backed))?;
        for (name, value) in &memory.parts {
            let value = value.as_u64().unwrap_or_default();
            writeln!(out, "  {:>12}  {name}", bytes(value))?;
        }

        writeln!(out, "\n{}", title("tensors"))?;
        let width = self.tensors.iter().map(|tensor| tensor.name.len());
        let width = width.max().unwrap_or_default();
        for tensor in &self.tensors {
            writeln!(
                out,
                "  {:width$}  {:>5}  {:>12}  {:?}",
                tensor.name,
                tensor.format,
                grouped(tensor.bytes as u64),
                tensor.shape
            )?;
        }
        Ok(out.flush()?)
    }
}

impl MemoryReport {
    fn new(context: usize, estimate: &MemoryEstimate) -> Self {
        let parts = estimate.parts.iter();
        MemoryReport {
            context,
            file_backed: estimate.file_backed,
            anonymous: estimate.anonymous,
            total: estimate.total,
            parts: parts
                .map(|(name, bytes)| ((*name).to_owned(), (*bytes).into()))
                .collect(),
        }
    }
}

/// The sdk's own JSON, as a value.
fn parse(json: &str) -> Result<Value> {
    Ok(serde_json::from_str(json)
        .map_err(|error| Error::new(ErrorKind::Format, error.to_string()).with_source(error))?)
}

/// The rungs of `auto`, without the end of the line.
fn print_ladder(out: &mut impl Write, ladder: &LadderSpec) -> io::Result<()> {
    let of = |rung: &Rung| match rung.threshold {
        Some(threshold) => format!("{} from {threshold} on", rung.route),
        None => rung.route.clone(),
    };
    let rungs: Vec<String> = ladder.rungs.iter().map(of).collect();
    write!(out, "  {}: {}", AutoSpec::NAME, rungs.join(", else "))?;
    if let Some(calibration) = &ladder.calibration {
        write!(
            out,
            " (at most {} % lost, on {} questions)",
            100.0 * calibration.loss_upper,
            calibration.n
        )?;
    }
    Ok(())
}
