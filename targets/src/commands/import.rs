//! `skim import`: a Hugging Face folder becomes a bundle.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use skimstone::OpenOptions;
use skimstone::import::{ImportOptions, import};
use skimstone::kernels::Format;

use crate::failure::Result;
use crate::model::format;
use crate::terminal::{bytes, grouped, with_tensor_progress};

/// Arguments of `skim import`.
#[derive(clap::Args)]
pub(crate) struct Import {
    /// A folder with config.json, *.safetensors and tokenizer.json.
    source: PathBuf,

    /// The bundle to write.
    out: PathBuf,

    /// Weight format: f32, f16, q8 or q4.
    #[arg(long, value_name = "FORMAT", default_value = "q8", value_parser = format)]
    quant: Format,

    /// Make a bundle that speaks token ids only.
    #[arg(long)]
    no_tokenizer: bool,
}

impl Import {
    pub(crate) fn run(self) -> Result {
        let options = ImportOptions::new(self.quant).tokenizer(!self.no_tokenizer);
        with_tensor_progress(|progress| import(&self.source, &self.out, &options, progress))?;
        print_made(&self.out, self.quant)
    }
}

/// Says what was made.
pub(crate) fn print_made(path: &Path, format: Format) -> Result {
    // It was verified while it was written.
    let bundle = OpenOptions::new().verify(false).open(path)?;
    writeln!(
        io::stdout(),
        "{}: {}, {} parameters in {}, {}",
        path.display(),
        bundle.config().model_type.name(),
        grouped(bundle.config().num_parameters()),
        format.name(),
        bytes(bundle.file_bytes() as u64),
    )?;
    Ok(())
}
