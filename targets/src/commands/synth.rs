//! `skim synth`: random weights of a real shape, to measure speed and memory where the real ones are not at hand.

use std::fs;
use std::path::PathBuf;

use skimstone::import::synth;
use skimstone::kernels::Format;
use skimstone::{Error, ModelConfig};

use super::import::print_made;
use crate::failure::Result;
use crate::model::format;
use crate::terminal::with_tensor_progress;

/// Arguments of `skim synth`.
#[derive(clap::Args)]
pub(crate) struct Synth {
    /// A Hugging Face config.json.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// Weight format: f32, f16, q8 or q4.
    #[arg(long, value_name = "FORMAT", default_value = "q8", value_parser = format)]
    quant: Format,

    /// The bundle to write; its provenance says that it is random.
    out: PathBuf,

    /// The same seed gives the same weights.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

impl Synth {
    pub(crate) fn run(self) -> Result {
        let json =
            fs::read_to_string(&self.config).map_err(|error| Error::io(&self.config, error))?;
        // By itself first, so that its errors name its file and those of writing the bundle.
        ModelConfig::from_json(&json).map_err(|error| error.at(self.config.display()))?;
        with_tensor_progress(|progress| synth(&json, self.quant, &self.out, self.seed, progress))?;
        print_made(&self.out)
    }
}
