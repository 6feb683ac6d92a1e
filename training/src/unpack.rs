//! From a bundle back to a checkpoint, to teach a published student more.

use std::path::{Path, PathBuf};

use skimstone::Bundle;

use crate::checkpoint;
use crate::error::{Error, Result};

/// Writes weights (quantized ones as the values that they stand for), shape and tokenizer of `bundle` as a checkpoint `step-0` of `folder` and returns
/// its path. It has no optimizer state: a training can begin with it and cannot go on with it.
///
/// # Errors
/// [`Error::Runtime`] if the file is no bundle, [`Error::Checkpoint`] if it has no tokenizer, [`Error::Io`].
pub fn unpack(bundle: &Path, folder: &Path) -> Result<PathBuf> {
    let opened = Bundle::open(bundle)?;
    let fail = |message: String| Error::Checkpoint {
        path: bundle.to_owned(),
        message,
    };
    let tokenizer = opened
        .tokenizer_json()
        .ok_or_else(|| fail("has no tokenizer; what it reads cannot be taught".to_owned()))?;
    let config = opened.config();
    let side = opened.reasoning().side_modules();
    let tensors = config.tensors().into_iter().chain(side.tensors(config));
    let mut weights = Vec::new();
    for tensor in tensors {
        let missing = || fail(format!("has no tensor `{}`", tensor.name));
        let bytes = match opened.matrix(&tensor.name) {
            Some(matrix) => {
                let mut row = vec![0.0; matrix.cols()];
                let mut bytes = Vec::with_capacity(4 * matrix.rows() * matrix.cols());
                for at in 0..matrix.rows() {
                    matrix
                        .row_into(at, &mut row)
                        .map_err(|error| fail(error.to_string()))?;
                    bytes.extend(row.iter().flat_map(|value| value.to_le_bytes()));
                }
                bytes
            }
            // Norms and biases: f32 as they stand.
            None => opened.data(&tensor.name).ok_or_else(missing)?.to_vec(),
        };
        weights.push((tensor.name, tensor.shape, bytes));
    }
    checkpoint::save_weights(folder, config, &weights, tokenizer)
}

#[cfg(test)]
mod tests {
    use candle_core::Var;
    use skimstone::kernels::Format;
    use skimstone::{BundleSpec, ModelConfig};

    use super::*;
    use crate::export::write_bundle;
    use crate::student::Student;
    use crate::tokenize::train_tokenizer;

    #[test]
    fn a_student_comes_back_as_it_was_exported() {
        let folder = tempfile::tempdir().unwrap();
        let rows = folder.path().join("rows.jsonl");
        std::fs::write(&rows, r#"{"question":"q","chunks":["c"],"answer":"a"}"#).unwrap();
        let tokenizer = train_tokenizer(&[&rows], 262, 10).unwrap();
        let config = ModelConfig::from_json(
            r#"{"model_type":"qwen3","vocab_size":262,"hidden_size":32,"intermediate_size":64,"num_hidden_layers":2,"num_attention_heads":2,
                "num_key_value_heads":1,"head_dim":16,"max_position_embeddings":64,"rms_norm_eps":1e-6,"rope_theta":10000.0,"tie_word_embeddings":true}"#,
        )
        .unwrap();
        let student = Student::random(&config, 7, 0.02).unwrap();
        let bundle = folder.path().join("student.skim");
        let mut spec = BundleSpec::new(config.clone());
        write_bundle(&student, spec.clone(), Format::F32, &bundle).unwrap();
        let error = unpack(&bundle, folder.path()).unwrap_err();
        assert!(error.to_string().contains("has no tokenizer"), "{error}");

        spec.tokenizer_json = Some(tokenizer.to_string(false).unwrap().into_bytes());
        for (format, tolerance) in [(Format::F32, 0.0), (Format::Q8, 1e-3)] {
            write_bundle(&student, spec.clone(), format, &bundle).unwrap();
            let path = unpack(&bundle, folder.path()).unwrap();
            let back = checkpoint::load_student(&path).unwrap();
            assert_eq!(back.config(), &config);
            assert_eq!(back.variables().len(), student.variables().len());
            for ((name, a), (_, b)) in student.variables().iter().zip(back.variables()) {
                let values = |v: &Var| v.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                let (a, b) = (values(a), values(b));
                let far = a.iter().zip(&b).find(|(a, b)| (*a - *b).abs() > tolerance);
                assert_eq!(far, None, "{name} in {format}");
            }
            let json = std::fs::read(path.join("tokenizer.json")).unwrap();
            assert_eq!(Some(json), spec.tokenizer_json);
        }
    }
}
