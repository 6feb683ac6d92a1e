//! Running the binary, and tiny models to run it on.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use skimstone::ModelConfig;
use tempfile::TempDir;

/// Calls `skim` with arguments that are strings or paths.
macro_rules! skim {
    ($($arg:expr),* $(,)?) => {
        $crate::harness::Called::new(vec![$(std::ffi::OsString::from(&$arg)),*])
    };
}
pub(crate) use skim;

/// What a call left behind.
#[derive(Debug)]
pub(crate) struct Called {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Called {
    pub(crate) fn new(args: Vec<OsString>) -> Called {
        let output = command(&args).output().expect("skim starts");
        let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
        let called = Called {
            status: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        };
        assert!(!called.stderr.contains("panicked"), "{args:?}: {called:?}");
        // Neither stream is a terminal here.
        assert!(!called.stdout.contains('\x1b') && !called.stderr.contains('\x1b'));
        called
    }

    /// Standard output of a call that worked.
    pub(crate) fn text(self) -> String {
        assert_eq!(self.status, Some(0), "{self:?}");
        self.stdout
    }

    /// The one JSON object on standard output of a call that worked.
    pub(crate) fn json(self) -> Value {
        let text = self.text();
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|error| {
            panic!("standard output is not one JSON value: {error}: {text}")
        });
        assert!(value.is_object(), "{value}");
        value
    }

    /// Checks that the call was refused: status 2, nothing on standard output, and every one of `words` in the message.
    pub(crate) fn refused(self, words: &[&str]) {
        assert_eq!(self.status, Some(2), "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        assert!(self.stderr.starts_with("error: "), "{self:?}");
        for word in words {
            assert!(self.stderr.contains(word), "no `{word}` in {self:?}");
        }
    }
}

pub(crate) fn command(args: &[OsString]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_skim"));
    command.args(args).stdin(Stdio::null());
    command
}

/// A file or folder of the real data; prints a line and returns `None` where it is absent.
pub(crate) fn data(path: &str) -> Option<PathBuf> {
    let root = match std::env::var_os("SKIMSTONE_DATA") {
        Some(root) => PathBuf::from(root),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"),
    };
    let path = root.join(path);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {} is absent; set SKIMSTONE_DATA", path.display());
    None
}

/// Positions of the tiny models.
pub(crate) const CONTEXT: usize = 96;
/// Their vocabulary.
pub(crate) const VOCAB: usize = 64;
pub(crate) const THINK: u64 = 3;
pub(crate) const END_OF_THINKING: u64 = 4;

/// The `config.json` of a tiny model.
pub(crate) fn config_json() -> Value {
    json!({
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_act": "silu",
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "vocab_size": VOCAB, "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": true,
        "bos_token_id": 1, "eos_token_id": 2,
    })
}

/// A Hugging Face folder in a temporary folder, and bundles made from it.
pub(crate) struct Folder {
    dir: TempDir,
}

impl Folder {
    /// A tiny model that thinks between `<think>` and `</think>`, with a chat template.
    pub(crate) fn new() -> Folder {
        let folder = Folder::without_template();
        let config = json!({"chat_template": "hi {{ messages[0].content }}", "eos_token": "</s>"});
        folder.write("hf/tokenizer_config.json", config.to_string());
        folder
    }

    /// The same without a chat template, as students for one task are.
    pub(crate) fn without_template() -> Folder {
        let folder = Folder {
            dir: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(folder.path("hf")).unwrap();
        folder.write("hf/config.json", config_json().to_string());
        folder.write("hf/tokenizer.json", tokenizer_json());
        save_weights(
            &folder.path("hf/model.safetensors"),
            &config_json(),
            |_, _| {},
        );
        folder
    }

    /// A path inside.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, contents).unwrap();
        path
    }

    /// Imports the folder; returns the bundle's path.
    pub(crate) fn import(&self, quant: &str) -> PathBuf {
        let out = self.path(&format!("{quant}.skim"));
        skim!["import", self.path("hf"), out, "--quant", quant].text();
        out
    }

    /// Names of the files directly inside.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

/// Writes random weights for `config`; `edit` may change a tensor's shape.
pub(crate) fn save_weights(path: &Path, config: &Value, edit: impl Fn(&str, &mut Vec<usize>)) {
    let config = ModelConfig::from_json(&config.to_string()).unwrap();
    let mut seed = 1;
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = config
        .tensors()
        .into_iter()
        .map(|tensor| {
            let (len, mut shape) = (tensor.shape.iter().product(), tensor.shape);
            let bytes = values(&mut seed, len).flat_map(f32::to_le_bytes).collect();
            edit(&tensor.name, &mut shape);
            (tensor.name, shape, bytes)
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        (
            name,
            TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap(),
        )
    });
    safetensors::serialize_to_file(views, None, path).unwrap();
}

/// Repeatable values between -1 and 1.
fn values(state: &mut u64, len: usize) -> impl Iterator<Item = f32> {
    (0..len).map(move |_| {
        // xorshift64 (Marsaglia 2003).
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        (*state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    })
}

/// One word per token: a few with a meaning, then `w8`, `w9`, …
fn tokenizer_json() -> String {
    let named = [
        "<unk>", "<s>", "</s>", "<think>", "</think>", "how", "much", "sleep",
    ];
    let words = (0..VOCAB).map(|id| match named.get(id) {
        Some(word) => (*word).to_owned(),
        None => format!("w{id}"),
    });
    let vocab: HashMap<String, usize> = words.zip(0..).collect();
    let special = |id: usize| {
        json!({"id": id, "content": named[id], "single_word": false, "lstrip": false,
               "rstrip": false, "normalized": false, "special": true})
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "post_processor": null, "decoder": null,
        "added_tokens": (0..5).map(special).collect::<Vec<_>>(),
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
    })
    .to_string()
}

/// The ids in a field.
pub(crate) fn ids(value: &Value) -> Vec<u64> {
    let list = value
        .as_array()
        .unwrap_or_else(|| panic!("{value} is no list"));
    list.iter().map(|id| id.as_u64().unwrap()).collect()
}
