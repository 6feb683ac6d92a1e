//! The runtime and Hugging Face transformers compute the same logits.
//!
//! `data/transformers` holds tiny random models, one per family and option, as transformers saves them, each with the logits that
//! transformers computed for a fixed list of tokens. `training/tools/make_goldens.py` made them.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use skimstone::import::{ImportOptions, import};
use skimstone::kernels::Format;
use skimstone::{Model, ModelOptions, Session, SessionOptions, TokenId};

/// Both sides sum in f32 in another order. With logits up to about 5 they differ by a few 1e-6.
const TOLERANCE: f32 = 5e-5;

struct Golden {
    folder: PathBuf,
    ids: Vec<TokenId>,
    /// `[T, V]`
    logits: Vec<f32>,
}

impl Golden {
    fn read(folder: PathBuf) -> Golden {
        let bytes = fs::read(folder.join("expected.safetensors")).expect("each golden has logits");
        let file = SafeTensors::deserialize(&bytes).expect("written by safetensors");
        let data = |name: &str, dtype: Dtype| {
            let tensor = file.tensor(name).expect("goldens hold `ids` and `logits`");
            assert_eq!(tensor.dtype(), dtype, "{name}");
            tensor.data().to_vec()
        };
        let ids = data("ids", Dtype::I64);
        let logits = data("logits", Dtype::F32);
        Golden {
            folder,
            ids: ids
                .as_chunks()
                .0
                .iter()
                .map(|&id| i64::from_le_bytes(id) as TokenId)
                .collect(),
            logits: logits
                .as_chunks()
                .0
                .iter()
                .map(|&x| f32::from_le_bytes(x))
                .collect(),
        }
    }

    fn all() -> Vec<Golden> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/transformers");
        let mut folders: Vec<PathBuf> = fs::read_dir(root)
            .expect("the goldens are in the repository")
            .map(|entry| entry.expect("a readable folder").path())
            .collect();
        folders.sort();
        folders.into_iter().map(Golden::read).collect()
    }

    fn name(&self) -> String {
        let name = self.folder.file_name().expect("a folder has a name");
        name.to_string_lossy().into_owned()
    }

    /// Imports the folder without loss and opens it.
    fn open(&self) -> Model {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let bundle = folder.path().join("golden.skim");
        let options = ImportOptions::new(Format::F32).tokenizer(false);
        import(&self.folder, &bundle, &options, &mut |_, _, _| {})
            .expect("a model of transformers");
        Model::open(&bundle, ModelOptions::default()).expect("a bundle that was just written")
    }

    /// The largest difference to the logits of the token at `index`.
    fn difference(&self, index: usize, found: &[f32]) -> f32 {
        let width = self.logits.len() / self.ids.len();
        assert_eq!(found.len(), width, "{}: the vocabulary", self.name());
        // `f32::max` below would drop a NaN.
        assert!(
            found.iter().all(|x| x.is_finite()),
            "{}: {found:?}",
            self.name()
        );
        let expected = &self.logits[index * width..][..width];
        let deltas = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
        deltas.fold(0.0, f32::max)
    }

    fn check(&self, how: &str, worst: f32) {
        let name = self.name();
        println!("{name}, {how}: largest difference {worst:e}");
        assert!(worst <= TOLERANCE, "{name}, {how}: {worst} > {TOLERANCE}");
    }
}

#[test]
fn every_family_has_a_golden() {
    let names: Vec<String> = Golden::all().iter().map(Golden::name).collect();
    assert_eq!(names, ["llama", "llama_bias", "qwen2", "qwen3"]);
}

#[test]
fn prefill_agrees_with_transformers() {
    for golden in Golden::all() {
        let model = golden.open();
        let mut session = Session::new(&model, SessionOptions::default()).expect("fits memory");
        let mut worst = 0.0f32;
        let take = |index, logits: &[f32]| {
            worst = worst.max(golden.difference(index, logits));
        };
        session
            .prefill_each(&golden.ids, take)
            .expect("fits the context");
        golden.check("prefill", worst);
    }
}

#[test]
fn steps_agree_with_transformers() {
    for golden in Golden::all() {
        let model = golden.open();
        let mut session = Session::new(&model, SessionOptions::default()).expect("fits memory");
        let mut worst = 0.0f32;
        for (index, &id) in golden.ids.iter().enumerate() {
            let logits = session.step(id).expect("fits the context");
            worst = worst.max(golden.difference(index, logits));
        }
        golden.check("steps", worst);
    }
}
