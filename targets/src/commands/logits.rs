//! `skim logits`: what a model predicts after every token, for comparison with other runtimes.

use std::path::PathBuf;

use safetensors::tensor::{Dtype, TensorView};
use skimstone::{Error, ErrorKind, Session, SessionOptions, TokenId};

use crate::failure::Result;
use crate::model::ModelArgs;
use crate::output::OutputFile;
use crate::terminal::progress_bar;

/// Arguments of `skim logits`.
#[derive(clap::Args)]
pub(crate) struct Logits {
    #[command(flatten)]
    model: ModelArgs,

    /// The tokens, separated by commas.
    #[arg(long, value_name = "IDS", value_delimiter = ',', required = true)]
    tokens: Vec<TokenId>,

    /// The file to write: safetensors with one tensor, `logits`, f32 `[T, V]`.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl Logits {
    pub(crate) fn run(self) -> Result {
        let model = self.model.open_for(self.tokens.len())?;
        let out = OutputFile::create(&self.out)?;
        let mut session = Session::new(&model, SessionOptions::new())?;
        let shape = vec![self.tokens.len(), model.config().vocab_size];
        let mut bytes = Vec::with_capacity(shape.iter().product::<usize>() * size_of::<f32>());
        let bar = progress_bar(shape[0] as u64, "{bar:30} {pos} / {len} tokens");
        session.prefill_each(&self.tokens, |_, logits| {
            bytes.extend(logits.iter().flat_map(|logit| logit.to_le_bytes()));
            bar.inc(1);
        })?;
        bar.finish_and_clear();
        out.commit(&file_of(shape, &bytes)?)
    }
}

fn file_of(shape: Vec<usize>, bytes: &[u8]) -> Result<Vec<u8>> {
    let file = TensorView::new(Dtype::F32, shape, bytes)
        .and_then(|logits| safetensors::serialize([("logits", logits)], None));
    Ok(file.map_err(|error| {
        Error::new(ErrorKind::Format, error.to_string())
            .at("logits")
            .with_source(error)
    })?)
}
