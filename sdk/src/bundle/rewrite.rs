//! Writing a bundle again with another reasoning section.

use std::path::Path;

use super::{Bundle, BundleSpec, BundleWriter, TensorDecl};
use crate::error::Result;
use crate::spec::ReasoningSpec;

impl Bundle {
    /// Writes this bundle to `path` with `reasoning` in place of its own; all else stays, the weights bit for bit.
    ///
    /// # Errors
    /// [`ErrorKind::Reasoning`](crate::ErrorKind::Reasoning) if `reasoning` does not fit the model;
    /// [`ErrorKind::Io`](crate::ErrorKind::Io).
    pub fn rewrite(&self, path: impl AsRef<Path>, reasoning: ReasoningSpec) -> Result<()> {
        let spec = BundleSpec {
            config: self.config.clone(),
            reasoning,
            provenance: self.provenance.clone(),
            generation: self.generation.clone(),
            tokenizer_json: self.tokenizer_json().map(<[u8]>::to_vec),
            chat_template: self.chat_template().map(str::to_owned),
            special_tokens: self.special_tokens.clone(),
        };
        let weights = || self.tensors.iter().filter(|info| info.format.is_some());
        let decls: Vec<TensorDecl> = weights()
            .filter_map(|info| {
                Some(TensorDecl {
                    name: info.name.clone(),
                    format: info.format?,
                    shape: info.shape.clone(),
                })
            })
            .collect();
        let mut writer = BundleWriter::create(path, spec, &decls)?;
        for info in weights() {
            writer.write(&info.name, &self.storage[info.range.clone()])?;
        }
        writer.commit()
    }
}
