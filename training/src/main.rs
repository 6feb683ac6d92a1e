//! `skim-train`: the stages of a distillation as commands. Nothing but arguments.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use skimstone_training::recipe::Recipe;
use skimstone_training::trainer::Trainer;
use skimstone_training::{Error, Result, checkpoint, progress, tokenize};

/// Activations of megabytes come and go at every operation. The system's allocator returns them to the kernel each time, which
/// costs a third of the run in page faults; this one keeps them.
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
    /// Train a student by a recipe; goes on from the newest checkpoint in the output folder.
    Train {
        /// The recipe.
        #[arg(long)]
        recipe: PathBuf,
        /// Folder for checkpoints and records.
        #[arg(long)]
        out: PathBuf,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().stage) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(stage: Stage) -> Result<()> {
    match stage {
        Stage::Tokenizer {
            rows,
            vocab_size,
            max_rows,
            out,
        } => {
            let tokenizer = tokenize::train_tokenizer(&rows, vocab_size, max_rows)?;
            tokenizer
                .save(&out, false)
                .map_err(|error| Error::Tokenizer(format!("{}: {error}", out.display())))
        }
        Stage::Train { recipe, out } => {
            let recipe = Recipe::load(&recipe)?;
            std::fs::create_dir_all(&out).map_err(Error::io(&out))?;
            std::fs::write(out.join("recipe.toml"), recipe.to_toml()?).map_err(Error::io(&out))?;
            let mut trainer = Trainer::new(recipe)?;
            if let Some(path) = checkpoint::latest(&out)? {
                trainer.resume(&path)?;
            }
            trainer.run(Some(&out), &mut progress::views(&out)?)?;
            progress::write_curve(&out.join("events.jsonl"), &out.join("curve.svg"))
        }
    }
}
