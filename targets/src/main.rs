//! `skim`: the developer's tool. Makes bundles, looks into them, runs them, and measures what they cost.
//!
//! ```text
//! skim import qwen3-0.6b/ qwen3.skim --quant q8     a Hugging Face folder becomes a bundle
//! skim import qwen3-0.6b-Q8_0.gguf qwen3.skim       a GGUF file of llama.cpp, too
//! skim inspect qwen3.skim                           what is in it, what memory it will take
//! skim run qwen3.skim "How long is 7:40 in minutes?" --route cot
//! skim eval qwen3.skim questions.jsonl.gz           accuracy and cost, question by question
//! skim calibrate student.skim held-out.jsonl --out new.skim      when may `auto` stop thinking
//! skim calibrate-effort student.skim held-out.jsonl --out new.skim   which route for which question and budget
//! skim calibrate-exits student.skim held-out.jsonl --out new.skim     when may a token leave the stack early
//! skim bench qwen3.skim                             tokens per second, bytes of memory
//! skim plan qwen3.skim --target pixel-8             does it fit, how fast will it be
//! skim doctor qwen3.skim                            what would go wrong on this machine
//! skim package --target raspberry-pi-5-8gb          the library as a .deb, an AAR or an XCFramework
//! ```
//!
//! Results go to standard output, everything else to standard error. With `--json` standard output is one JSON object.
//! Exit status: 0 done; 2 refused or failed, the reason on standard error; 130 interrupted, with what was there until then.

mod commands;
mod data;
mod depth;
mod failure;
mod interrupt;
mod machine;
mod model;
mod output;
mod package;
mod process_memory;
mod profiles;
mod roofline;
mod statistics;
mod subject;
mod terminal;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use commands::{
    bench, build, calibrate, calibrate_effort, calibrate_exits, doctor, eval, import, inspect,
    logits, package as packaging, plan, run, synth, targets,
};

/// Makes, inspects, runs and measures skimstone bundles.
#[derive(Parser)]
#[command(name = "skim", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answer a prompt, streaming the thinking and the answer.
    Run(run::Run),
    /// Measure accuracy and cost on a file of questions.
    Eval(eval::Eval),
    /// Find out from which confidence on a student may stop thinking, and write it into a new bundle.
    Calibrate(calibrate::Calibrate),
    /// Find out which route answers which question under which budget, and write that into a new bundle.
    CalibrateEffort(calibrate_effort::CalibrateEffort),
    /// Find out from which confidence on tokens may leave the layers early, and write it into a new bundle.
    CalibrateExits(calibrate_exits::CalibrateExits),
    /// Write the logits after every token to a safetensors file.
    Logits(logits::Logits),
    /// Measure speed and memory.
    Bench(bench::Bench),
    /// Make a bundle from a Hugging Face folder or a GGUF file.
    Import(import::Import),
    /// Show what is in a bundle.
    Inspect(inspect::Inspect),
    /// Make a bundle of random weights with a real shape, for benchmarks.
    Synth(synth::Synth),
    /// Predict whether a model fits a device, and how fast it will be.
    Plan(plan::Plan),
    /// Look at this machine, and at a bundle on it, for what would go wrong.
    Doctor(doctor::Doctor),
    /// Build libskimstone for other platforms, and show its footprint.
    Build(build::Build),
    /// Make packages of libskimstone: .deb, AAR, XCFramework.
    Package(packaging::Package),
    /// Show the devices that plans can be made for.
    Targets(targets::Targets),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(args) => args.run(),
        Command::Eval(args) => args.run(),
        Command::Calibrate(args) => args.run(),
        Command::CalibrateEffort(args) => args.run(),
        Command::CalibrateExits(args) => args.run(),
        Command::Logits(args) => args.run(),
        Command::Bench(args) => args.run(),
        Command::Import(args) => args.run(),
        Command::Inspect(args) => args.run(),
        Command::Synth(args) => args.run(),
        Command::Plan(args) => args.run(),
        Command::Doctor(args) => args.run(),
        Command::Build(args) => args.run(),
        Command::Package(args) => args.run(),
        Command::Targets(args) => args.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
