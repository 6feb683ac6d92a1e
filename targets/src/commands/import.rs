//! `skim import`: a Hugging Face folder or a GGUF file becomes a bundle.

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
    /// A folder with config.json, *.safetensors and tokenizer.json, or a GGUF file of llama.cpp.
    source: PathBuf,

    /// The bundle to write.
    out: PathBuf,

    /// Weight format: f32, f16, q8 or q4 [default: q8 for a folder; for a GGUF file what each tensor has].
    ///
    /// Without it tensors of a GGUF file keep their class of precision: F32 becomes f32, F16 and BF16 f16, Q8_0 and Q4_0 the
    /// same numbers in q8 and q4, Q4_1 and Q4_K q4, Q5_0, Q5_1, Q5_K and Q6_K q8.
    #[arg(long, value_name = "FORMAT", value_parser = format)]
    quant: Option<Format>,

    /// Make a bundle that speaks token ids only.
    #[arg(long)]
    no_tokenizer: bool,
}

impl Import {
    pub(crate) fn run(self) -> Result {
        let options = self
            .quant
            .map_or_else(ImportOptions::default, ImportOptions::new)
            .tokenizer(!self.no_tokenizer);
        with_tensor_progress(|progress| import(&self.source, &self.out, &options, progress))?;
        print_made(&self.out)
    }
}

/// Says what was made.
pub(crate) fn print_made(path: &Path) -> Result {
    // It was verified while it was written.
    let bundle = OpenOptions::new().verify(false).open(path)?;
    let matrices = bundle.tensors().filter(|tensor| tensor.shape().len() == 2);
    let formats: Vec<Format> = matrices.filter_map(|tensor| tensor.format()).collect();
    let named = Format::ALL
        .into_iter()
        .filter(|format| formats.contains(format))
        .map(Format::name);
    writeln!(
        io::stdout(),
        "{}: {}, {} parameters in {}, {}",
        path.display(),
        bundle.config().model_type.name(),
        grouped(bundle.config().num_parameters()),
        named.collect::<Vec<_>>().join(" and "),
        bytes(bundle.file_bytes() as u64),
    )?;
    Ok(())
}
