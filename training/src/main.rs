//! `skim-train`: the stages of a distillation as commands. Nothing but arguments.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Parser, Subcommand};
use skimstone_training::card::markdown;
use skimstone_training::eval::{EvalOptions, evaluate};
use skimstone_training::experiment::{self, CellId, RunOptions, Spec};
use skimstone_training::pipeline::{Pipeline, parse_format, train, write_card};
use skimstone_training::recipe::Recipe;
use skimstone_training::skip::{Criterion, Rule, shorten_file};
use skimstone_training::tasks::command::{ContaminationCommand, DataCommand};
use skimstone_training::{Error, Result, checkpoint, export, tokenize};

/// In a graph, which scoring uses, activations of megabytes come and go at every operation. The system's allocator returns them to the
/// kernel each time, which costs a third of the run in page faults; this one keeps them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Distills chains of thought into small quantized students.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    stage: Stage,
}

#[derive(Debug, Subcommand)]
enum Stage {
    /// Train a byte-level BPE tokenizer on the text of rows.
    Tokenizer {
        /// Files of rows, `.jsonl` or `.jsonl.gz`.
        #[arg(required = true)]
        rows: Vec<PathBuf>,
        /// Size of the vocabulary, special tokens included.
        #[arg(long, default_value_t = 704)]
        vocab_size: usize,
        /// Rows to read of each file.
        #[arg(long, default_value_t = 20_000)]
        max_rows: usize,
        /// Where to write `tokenizer.json`.
        #[arg(long)]
        out: PathBuf,
    },
    /// Write rows of a task.
    #[command(subcommand)]
    Data(DataCommand),
    /// Look for questions of an evaluation in training rows.
    Contamination(ContaminationCommand),
    /// Shorten rationales by deletion: what the student does not need goes.
    Skip {
        /// A checkpoint of the student.
        #[arg(long)]
        checkpoint: PathBuf,
        /// Rows with the full rationales.
        #[arg(long)]
        rows: PathBuf,
        /// Rows to read.
        #[arg(long)]
        limit: Option<usize>,
        /// When a deletion is kept.
        #[arg(long, value_enum, default_value_t = Criterion::AnswerAndNumbers)]
        criterion: Criterion,
        /// The most that a deletion may cost in log-probability of what the criterion looks at, in nats.
        #[arg(long, default_value_t = 0.7)]
        margin: f32,
        /// Where to write the shortened rows; the counts go beside it as `.json`.
        #[arg(long)]
        out: PathBuf,
    },
    /// Run a whole distillation: rows, tokenizer, trainings, bundle, card; goes on where it was stopped.
    Distill {
        /// The pipeline, for example `training/recipes/sleep.toml`.
        pipeline: PathBuf,
        /// Folder for everything that it makes.
        #[arg(long)]
        out: PathBuf,
    },
    /// Run a grid of methods, tasks and seeds and report what is resolved; goes on where it was stopped or killed.
    Experiment {
        /// The experiment, for example `training/experiments/chain.toml`.
        file: PathBuf,
        /// Folder for everything that it makes; `runs/NAME` if left out.
        #[arg(long)]
        out: Option<PathBuf>,
        /// Cells at the same time, each a process of one thread; one per core if left out.
        #[arg(long, default_value_t = 0)]
        jobs: usize,
    },
    /// Copy what is kept of a finished experiment: report, plots, the first seed's student of each method.
    Publish {
        /// Folder of the experiment.
        out: PathBuf,
        /// A method whose student is copied; may be given several times; all if left out.
        #[arg(long = "student")]
        students: Vec<String>,
        /// Folder to copy to.
        #[arg(long)]
        to: PathBuf,
    },
    /// Hold two methods of an experiment against each other: paired differences with intervals.
    Compare {
        /// Folder of the experiment.
        out: PathBuf,
        /// Label of the task.
        task: String,
        /// Label of a method.
        method: String,
        /// Label of the method that it is held against.
        control: String,
    },
    /// One cell of an experiment, as `experiment` starts it.
    #[command(hide = true)]
    ExperimentCell {
        /// Folder of the experiment.
        out: PathBuf,
        /// Name of the cell.
        cell: String,
        /// Only measure how long answers take.
        #[arg(long)]
        time: bool,
    },
    /// Train a student by a recipe; goes on from the newest checkpoint in the output folder.
    Train {
        /// The recipe.
        #[arg(long)]
        recipe: PathBuf,
        /// Folder for checkpoints and records.
        #[arg(long)]
        out: PathBuf,
    },
    /// Write a checkpoint as a bundle for the runtime.
    Export {
        /// A checkpoint, or a folder of them: then the newest.
        #[arg(long)]
        checkpoint: PathBuf,
        /// The recipe that it was trained by; the copy beside the checkpoints if left out.
        #[arg(long)]
        recipe: Option<PathBuf>,
        /// How matrices are stored: f32, f16, q8 or q4.
        #[arg(long, default_value = "q8")]
        format: String,
        /// An evaluation card to keep in the bundle.
        #[arg(long)]
        card: Option<PathBuf>,
        /// Where to write the `.skim` file.
        #[arg(long)]
        out: PathBuf,
    },
    /// Ask a bundle every row and write a card of accuracy and cost.
    Eval {
        /// The `.skim` file.
        bundle: PathBuf,
        /// Rows, `.jsonl` or `.jsonl.gz`.
        data: PathBuf,
        /// A route to take; may be given several times; all of the bundle if left out.
        #[arg(long = "route")]
        routes: Vec<String>,
        /// Only the first rows.
        #[arg(long)]
        limit: Option<usize>,
        /// Questions answered at the same time; one per core if left out.
        #[arg(long)]
        threads: Option<usize>,
        /// Also write each wrong answer to standard error.
        #[arg(long)]
        show_wrong: bool,
        /// Where to write the card as JSON, with Markdown beside it; if left out the Markdown goes to standard output.
        #[arg(long)]
        out: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    run_candle_on_the_calling_thread();
    match run(Arguments::parse().stage) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// Keeps candle from spreading single operations over its own threads. Workers already fill the cores with whole micro-batches;
/// candle's pools would spin beside them and double the cost of a step.
#[allow(
    unsafe_code,
    reason = "candle reads its thread counts from the environment only"
)]
fn run_candle_on_the_calling_thread() {
    for variable in ["CANDLE_NUM_THREADS", "RAYON_NUM_THREADS"] {
        // SAFETY: this is the first thing that `main` does, so no other thread reads the environment meanwhile.
        unsafe { std::env::set_var(variable, "1") };
    }
}

fn run(stage: Stage) -> Result<()> {
    match stage {
        Stage::Tokenizer {
            rows,
            vocab_size,
            max_rows,
            out,
        } => tokenize::train_to_file(&rows, vocab_size, max_rows, &out),
        Stage::Train { recipe, out } => train(Recipe::load(&recipe)?, &out, &stop_on_interrupt()?),
        Stage::Distill { pipeline, out } => {
            Pipeline::load(&pipeline)?.run(&out, &stop_on_interrupt()?)
        }
        Stage::Experiment { file, out, jobs } => {
            let spec = Spec::load(&file)?;
            let out = out.unwrap_or_else(|| Path::new("runs").join(&spec.name));
            let program = std::env::current_exe().map_err(Error::io("skim-train"))?;
            let options = RunOptions {
                out,
                jobs,
                program,
                stop: stop_on_interrupt()?,
            };
            experiment::run(&spec, &options)?;
            println!("{}", options.out.join("report.md").display());
            Ok(())
        }
        Stage::Publish { out, students, to } => {
            for path in experiment::publish(&out, &students, &to)? {
                println!("{}", path.display());
            }
            Ok(())
        }
        Stage::Compare {
            out,
            task,
            method,
            control,
        } => {
            print!("{}", experiment::compare(&out, &task, &method, &control)?);
            Ok(())
        }
        Stage::ExperimentCell { out, cell, time } => {
            let stop = stop_on_interrupt()?;
            stop_without_parent(stop.clone());
            // Whoever reads the steps may be gone: then they are nobody's business.
            let progress = |steps| drop(writeln!(std::io::stdout(), "{steps}"));
            experiment::run_cell(&out, &CellId::parse(&cell)?, time, stop, &progress)
        }
        Stage::Export {
            checkpoint,
            recipe,
            format,
            card,
            out,
        } => {
            let checkpoint = checkpoint::newest(&checkpoint)?;
            let beside = || {
                checkpoint
                    .parent()
                    .unwrap_or(Path::new(""))
                    .join("recipe.toml")
            };
            let recipe = Recipe::load(&recipe.unwrap_or_else(beside))?;
            let format = parse_format(&format)?;
            let card = card.map(|path| read_json(&path)).transpose()?;
            export::export(&checkpoint, &recipe, format, card, &out)
        }
        Stage::Data(data) => {
            let (n, out) = data.run()?;
            eprintln!("{n} rows in {}", out.display());
            Ok(())
        }
        Stage::Contamination(command) => {
            println!("{}", command.run()?);
            Ok(())
        }
        Stage::Skip {
            checkpoint,
            rows,
            limit,
            criterion,
            margin,
            out,
        } => {
            let rule = Rule::new(criterion, margin);
            let deletions = shorten_file(&checkpoint, &rows, limit, rule, &out, |n| {
                eprintln!("{n} rows")
            })?;
            println!(
                "{}",
                serde_json::to_string_pretty(&deletions).expect("counts serialise")
            );
            Ok(())
        }
        Stage::Eval {
            bundle,
            data,
            routes,
            limit,
            threads,
            show_wrong,
            out,
        } => {
            let mut options = EvalOptions {
                routes,
                limit,
                ..EvalOptions::default()
            };
            options.threads = threads.unwrap_or(options.threads);
            let card = evaluate(&bundle, &data, &options, |route, row, answer| {
                if show_wrong {
                    eprintln!(
                        "{route} {}: expected `{}`, got `{answer}`",
                        row.id, row.answer
                    );
                }
            })?;
            match out {
                Some(path) => write_card(&card, &path),
                None => {
                    print!("{}", markdown(&card));
                    Ok(())
                }
            }
        }
    }
}

/// A flag that Ctrl-C sets: the first request finishes the step and saves; whoever cannot wait for that sends a kill.
fn stop_on_interrupt() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let handle = stop.clone();
    ctrlc::set_handler(move || handle.store(true, Ordering::Relaxed))
        .map_err(|error| Error::Recipe(format!("cannot listen for Ctrl-C: {error}")))?;
    Ok(stop)
}

/// Sets the flag when standard input ends: the process that started this one is gone.
fn stop_without_parent(stop: Arc<AtomicBool>) {
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        stop.store(true, Ordering::Relaxed);
    });
}

fn read_json(path: &Path) -> Result<serde_json::Value> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    serde_json::from_str(&text)
        .map_err(|error| Error::Recipe(format!("{}: {error}", path.display())))
}
