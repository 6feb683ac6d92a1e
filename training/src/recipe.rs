//! `Recipe`: every knob of a run, in one TOML file that is saved beside the outputs.
//!
//! An unknown key is an error, so that a misspelt knob cannot silently keep its default. Paths are relative to the recipe.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use skimstone::{ModelConfig, RouteKind, ShortcutSpec, SideModules};

use crate::error::{Error, Result};
use crate::tokenize;

/// Every knob of a run.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Seed of initialisation and shuffling.
    #[serde(default)]
    pub seed: u64,
    /// `tokenizer.json` of the student.
    pub tokenizer: PathBuf,
    /// The student's shape.
    pub model: Model,
    /// What to train on, several files mixed.
    pub data: Vec<Data>,
    /// Rows that are never trained on, for the loss during the run.
    #[serde(default)]
    pub validation: Option<Validation>,
    /// The routes of the student; the three of a reasoning student if left out.
    #[serde(default = "default_routes")]
    pub routes: BTreeMap<String, Route>,
    /// Width of the hidden layer of the latent map; left out: a latent step reads the hidden state itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latent_map_size: Option<usize>,
    /// Routers and adapters of latent steps, and when the runtime is to listen to them; left out: there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shortcut: Option<ShortcutSpec>,
    /// How rows become batches.
    #[serde(default)]
    pub batch: BatchKnobs,
    /// AdamW.
    #[serde(default)]
    pub optimizer: Optimizer,
    /// Length of the run and learning rate over it.
    pub schedule: Schedule,
    /// Where the weights start.
    #[serde(default)]
    pub init: Init,
    /// How often to save and to report.
    #[serde(default)]
    pub checkpoint: CheckpointKnobs,
    /// What goes into the bundle beside the weights.
    #[serde(default)]
    pub export: Export,
}

/// What goes into the bundle beside the weights.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Export {
    /// The route that is taken when none is asked for; the first by name if left out.
    pub default_route: Option<String>,
    /// Tokens that the engine keeps free for the answer, whatever the thinking costs.
    pub answer_reserve: usize,
}

/// The shape of a student; the vocabulary comes from the tokenizer. Names are Hugging Face's.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// `qwen3`, `qwen2` or `llama`.
    #[serde(default = "default_model_type")]
    pub model_type: String,
    /// Width of the residual stream, `E`.
    pub hidden_size: usize,
    /// Width of the feed-forward layer, `F`.
    pub intermediate_size: usize,
    /// Layers, `L`.
    pub num_hidden_layers: usize,
    /// Query heads, `H`.
    pub num_attention_heads: usize,
    /// Key and value heads, `G`.
    pub num_key_value_heads: usize,
    /// Width of one head, `D`.
    pub head_dim: usize,
    /// The longest context, in tokens.
    #[serde(default = "default_context")]
    pub max_position_embeddings: usize,
    /// Added to the mean square in every norm.
    #[serde(default = "default_eps")]
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    #[serde(default = "default_theta")]
    pub rope_theta: f64,
    /// Whether the output head is the embedding.
    #[serde(default = "default_true")]
    pub tie_word_embeddings: bool,
}

/// A file of rows.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// JSONL, or JSONL in gzip.
    pub path: PathBuf,
    /// Routes to train on each row.
    pub routes: Vec<String>,
    /// Only the first rows.
    #[serde(default)]
    pub limit: Option<usize>,
}

/// Held-out rows and when to score them.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Validation {
    /// What to score.
    pub data: Vec<Data>,
    /// Optimizer steps between two scorings.
    #[serde(default = "default_every")]
    pub every: u64,
}

/// One way from a question to an answer, as it is trained.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// The special token that follows the question.
    pub open: String,
    /// `direct`: the answer follows; `cot` and `skip`: the row's chunks stand before it; `latent`: latent steps do.
    pub kind: RouteKind,
    /// Latent steps of a `latent` route, after the pauses.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub latents: usize,
    /// Pause tokens after the opening token: positions to compute in, nothing is learned about them.
    #[serde(default)]
    pub pauses: usize,
    /// The most thinking tokens that the engine lets the route take; no limit of its own if left out.
    #[serde(default)]
    pub max_thinking_tokens: Option<usize>,
    /// Weight of question tokens in the loss.
    #[serde(default)]
    pub question_weight: f32,
    /// Weight of thinking tokens, separators and the token that starts the answer.
    #[serde(default = "default_weight")]
    pub thinking_weight: f32,
    /// Weight of answer tokens and of the token that ends them.
    #[serde(default = "default_weight")]
    pub answer_weight: f32,
}

/// How rows become batches.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct BatchKnobs {
    /// Most tokens in one micro-batch.
    pub micro_batch_tokens: usize,
    /// Most rows in one micro-batch; 0: as many as fit.
    pub micro_batch_rows: usize,
    /// Micro-batches per optimizer step, over all workers.
    pub micro_batches: usize,
    /// Most rows that share one prefix in a micro-batch.
    pub tree_rows: usize,
    /// Worker threads; 0: one per core.
    pub workers: usize,
}

impl Default for BatchKnobs {
    fn default() -> Self {
        Self {
            micro_batch_tokens: 4096,
            micro_batch_rows: 0,
            micro_batches: 2,
            tree_rows: 16,
            workers: 0,
        }
    }
}

/// AdamW with decoupled decay on matrices only.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Optimizer {
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay of matrices.
    pub weight_decay: f64,
    /// Gradients of a larger norm are scaled down to it; 0: never.
    pub clip_norm: f64,
}

impl Default for Optimizer {
    fn default() -> Self {
        Self {
            learning_rate: 3e-3,
            beta1: 0.9,
            beta2: 0.98,
            eps: 1e-9,
            weight_decay: 0.05,
            clip_norm: 1.0,
        }
    }
}

/// Shape of the learning rate after the warm-up.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// Half a cosine down to the floor.
    #[default]
    Cosine,
    /// Constant, then a straight line down to the floor (warm-up, stable, decay).
    Wsd,
}

/// Length of the run and learning rate over it.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Optimizer steps.
    pub steps: u64,
    /// Stop (and save) after this many minutes even if steps remain.
    #[serde(default)]
    pub limit_minutes: Option<f64>,
    /// Shape after the warm-up.
    #[serde(default)]
    pub shape: Shape,
    /// Steps of linear rise from zero.
    #[serde(default = "default_warmup")]
    pub warmup_steps: u64,
    /// Floor as a share of the peak.
    #[serde(default = "default_floor")]
    pub floor: f64,
    /// Share of the run that a `wsd` schedule decays over.
    #[serde(default = "default_decay")]
    pub decay_share: f64,
}

impl Schedule {
    /// The share of the peak learning rate at `step` (from 0).
    pub fn factor(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return (step + 1) as f64 / self.warmup_steps as f64;
        }
        let whole = self.steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let progress = ((step - self.warmup_steps) as f64 / whole).min(1.0);
        let fall = match self.shape {
            Shape::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
            Shape::Wsd => ((1.0 - progress) / self.decay_share.max(f64::EPSILON)).min(1.0),
        };
        self.floor + (1.0 - self.floor) * fall
    }
}

/// Where the weights start.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Init {
    /// Deviation of random weights.
    pub std: f64,
    /// A checkpoint whose weights to start from, with a fresh optimizer.
    pub from: Option<PathBuf>,
}

impl Default for Init {
    fn default() -> Self {
        Self {
            std: 0.02,
            from: None,
        }
    }
}

/// How often to save and to report.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointKnobs {
    /// Optimizer steps between two checkpoints; 0: only at the end.
    pub every: u64,
    /// Checkpoints to keep.
    pub keep: usize,
    /// Optimizer steps between two step events.
    pub report_every: u64,
}

impl Default for CheckpointKnobs {
    fn default() -> Self {
        Self {
            every: 500,
            keep: 2,
            report_every: 10,
        }
    }
}

fn default_model_type() -> String {
    "qwen3".to_owned()
}
fn default_context() -> usize {
    1024
}
fn default_eps() -> f64 {
    1e-6
}
fn default_theta() -> f64 {
    10_000.0
}
fn default_true() -> bool {
    true
}
fn default_weight() -> f32 {
    1.0
}
fn default_every() -> u64 {
    500
}
fn default_warmup() -> u64 {
    200
}
fn default_floor() -> f64 {
    0.02
}
fn default_decay() -> f64 {
    0.3
}

/// `direct`, `cot` and `skip` with the special tokens of [`crate::tokenize`].
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// The route that thinks in hidden states, without its positions to think in.
pub(crate) fn latent_route() -> Route {
    Route {
        open: tokenize::LATENT.to_owned(),
        kind: RouteKind::Latent,
        ..default_routes()["direct"].clone()
    }
}

pub(crate) fn default_routes() -> BTreeMap<String, Route> {
    let route = |open: &str, kind| Route {
        open: open.to_owned(),
        kind,
        latents: 0,
        pauses: 0,
        max_thinking_tokens: None,
        question_weight: 0.0,
        thinking_weight: 1.0,
        answer_weight: 1.0,
    };
    BTreeMap::from([
        (
            "direct".to_owned(),
            route(tokenize::DIRECT, RouteKind::Direct),
        ),
        ("cot".to_owned(), route(tokenize::COT, RouteKind::Cot)),
        ("skip".to_owned(), route(tokenize::SKIP, RouteKind::Skip)),
    ])
}

/// `path` as it is seen from `folder`; unchanged if only one of them is absolute.
fn seen_from(folder: &Path, path: &Path) -> PathBuf {
    if folder.is_absolute() != path.is_absolute() {
        return path.to_owned();
    }
    let common = folder
        .components()
        .zip(path.components())
        .take_while(|(a, b)| a == b)
        .count();
    let up = folder
        .components()
        .skip(common)
        .map(|_| Component::ParentDir);
    up.chain(path.components().skip(common)).collect()
}

impl Recipe {
    /// Reads a recipe and makes its paths relative to the current folder instead of to the recipe.
    ///
    /// # Errors
    /// [`Error::Recipe`], naming the key, if a knob is unknown, missing or contradicts another.
    pub fn load(path: &Path) -> Result<Recipe> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let mut recipe = Recipe::from_toml(&text).map_err(|error| match error {
            Error::Recipe(message) => Error::Recipe(format!("{}: {message}", path.display())),
            other => other,
        })?;
        recipe.resolve(path.parent().unwrap_or(Path::new("")));
        Ok(recipe)
    }

    /// Joins `folder` before every path.
    pub fn resolve(&mut self, folder: &Path) {
        self.each_path(|path| *path = folder.join(&*path));
    }

    /// The opposite of [`resolve`](Self::resolve): every path as it is seen from `folder`, so that what is written there says nothing of the
    /// machine, and goes on being true where the whole is moved.
    pub fn relative_to(&mut self, folder: &Path) {
        self.each_path(|path| *path = seen_from(folder, path));
    }

    fn each_path(&mut self, mut change: impl FnMut(&mut PathBuf)) {
        change(&mut self.tokenizer);
        let validation = self.validation.iter_mut().flat_map(|v| &mut v.data);
        for data in self.data.iter_mut().chain(validation) {
            change(&mut data.path);
        }
        if let Some(path) = &mut self.init.from {
            change(path);
        }
    }

    /// Reads a recipe from TOML.
    ///
    /// # Errors
    /// [`Error::Recipe`], naming the key.
    pub fn from_toml(text: &str) -> Result<Recipe> {
        let recipe: Recipe =
            toml::from_str(text).map_err(|error| Error::Recipe(error.to_string()))?;
        recipe.check()?;
        Ok(recipe)
    }

    /// The side modules of the student.
    pub fn side_modules(&self) -> SideModules {
        SideModules {
            latent_map_size: self.latent_map_size,
            shortcut: self.shortcut.map(|shortcut| shortcut.size),
        }
    }

    /// The recipe as TOML, to be saved beside what it made.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string_pretty(self).map_err(|error| Error::Recipe(error.to_string()))
    }

    pub(crate) fn check(&self) -> Result<()> {
        let fail = |message: String| Err(Error::Recipe(message));
        if self.data.is_empty() {
            return fail("`data` is empty; name at least one file of rows".to_owned());
        }
        if self.schedule.steps == 0 || self.batch.micro_batches == 0 || self.batch.tree_rows == 0 {
            return fail(
                "`schedule.steps`, `batch.micro_batches` and `batch.tree_rows` must be at least 1"
                    .to_owned(),
            );
        }
        for data in self
            .data
            .iter()
            .chain(self.validation.iter().flat_map(|v| &v.data))
        {
            if let Some(unknown) = data
                .routes
                .iter()
                .find(|route| !self.routes.contains_key(*route))
            {
                let known: Vec<&str> = self.routes.keys().map(String::as_str).collect();
                return fail(format!(
                    "data {}: unknown route `{unknown}`; known: {}",
                    data.path.display(),
                    known.join(", ")
                ));
            }
        }
        Ok(())
    }

    /// The student's configuration over a vocabulary of `vocab_size` whose text ends with `end`.
    ///
    /// # Errors
    /// [`Error::Runtime`] if the knobs contradict each other.
    pub fn model_config(&self, vocab_size: usize, end: u32) -> Result<ModelConfig> {
        let mut json =
            serde_json::to_value(&self.model).map_err(|error| Error::Recipe(error.to_string()))?;
        json["vocab_size"] = vocab_size.into();
        json["bos_token_id"] = serde_json::Value::Null;
        json["eos_token_id"] = end.into();
        let config = ModelConfig::from_json(&json.to_string())?;
        config.validate()?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_seen_from_a_folder() {
        struct Case(&'static str, &'static str, &'static str);
        let cases = [
            Case("runs/a/cot", "runs/a/rows.jsonl", "../rows.jsonl"),
            Case("/x/runs/a", "/x/tokenizer.json", "../../tokenizer.json"),
            Case("runs/a", "runs/a/step-40", "step-40"),
            Case("runs", "/x/rows.jsonl", "/x/rows.jsonl"),
            Case("", "rows.jsonl", "rows.jsonl"),
        ];
        for Case(folder, path, want) in cases {
            let seen = seen_from(Path::new(folder), Path::new(path));
            assert_eq!(seen, Path::new(want), "{path} from {folder}");
        }
    }

    fn schedule(shape: Shape) -> Schedule {
        Schedule {
            steps: 110,
            limit_minutes: None,
            shape,
            warmup_steps: 10,
            floor: 0.1,
            decay_share: 0.2,
        }
    }

    #[test]
    fn learning_rates_rise_hold_and_fall() {
        for shape in [Shape::Cosine, Shape::Wsd] {
            let schedule = schedule(shape);
            assert_eq!(schedule.factor(0), 0.1);
            assert_eq!(schedule.factor(9), 1.0);
            assert!((schedule.factor(110) - 0.1).abs() < 1e-12);
            assert!((10..110).all(|step| schedule.factor(step + 1) <= schedule.factor(step)));
        }
        assert!((schedule(Shape::Cosine).factor(60) - 0.55).abs() < 1e-12);
        assert!((schedule(Shape::Wsd).factor(90) - 1.0).abs() < 1e-12);
        assert!((schedule(Shape::Wsd).factor(100) - 0.55).abs() < 1e-12);
    }

    #[test]
    fn a_recipe_survives_its_own_copy() {
        let text = r#"
            tokenizer = "t.json"
            [model]
            hidden_size = 64
            intermediate_size = 96
            num_hidden_layers = 2
            num_attention_heads = 4
            num_key_value_heads = 2
            head_dim = 16
            [[data]]
            path = "rows.jsonl"
            routes = ["skip"]
            [schedule]
            steps = 5
            shape = "wsd"
        "#;
        let recipe = Recipe::from_toml(text).unwrap();
        let copy = recipe.to_toml().unwrap();
        assert_eq!(Recipe::from_toml(&copy).unwrap().to_toml().unwrap(), copy);
        let config = recipe.model_config(300, 2).unwrap();
        assert_eq!(
            (
                config.vocab_size,
                config.eos_token_id.as_slice(),
                config.qk_norm()
            ),
            (300, &[2][..], true)
        );
    }
}
