//! `Student`: the candle twin of the runtime's model, with the same tensor names and the same numbers.
//!
//! ```text
//! tokens [N] ─embed─▶ x [N, E] ─┬─ L × ( x += o_proj · attention(rope(qk_norm(qkv · rms_norm(x))))
//!                               │        x += down_proj · swiglu(gate_up · rms_norm(x)) )
//!                               └─▶ rows that predict something [M, E] ─rms_norm─▶ lm_head ─▶ logits [M, V]
//! ```
//!
//! Families `llama`, `qwen2` and `qwen3`. The parity test holds it to the runtime's logits; the runtime executes one
//! token after another over a cache, this one whole batches without a cache, so they check each other.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use skimstone::{ModelConfig, RopeScaling, ShortcutSize, SideModules};

use crate::error::{Error, Result};
use crate::ops::attention::attention;
use crate::ops::latent_map;
use crate::ops::linear::linear;
use crate::ops::rms_norm::rms_norm;
use crate::ops::rope::{Angles, Heads, rope};
use crate::ops::swiglu::swiglu;
use crate::pack::{Batch, Segment};

/// A trainable model. Clones share their variables.
#[derive(Clone, Debug)]
pub struct Student {
    config: ModelConfig,
    side: SideModules,
    variables: Arc<Vec<(String, Var)>>,
    layers: Arc<Vec<Layer>>,
    embed_tokens: Tensor,
    norm: Tensor,
    /// The embedding itself when tied.
    lm_head: Tensor,
    latent_map: Option<LatentMap>,
    inverse_frequencies: Arc<Vec<f64>>,
    heads: Heads,
    eps: f64,
}

/// The variables of one layer, as tensors that the graph tracks.
#[derive(Debug)]
struct Layer {
    input_layernorm: Tensor,
    qkv: [Projection; 3],
    qk_norm: Option<(Tensor, Tensor)>,
    o_proj: Projection,
    post_attention_layernorm: Tensor,
    gate_up: [Projection; 2],
    down_proj: Projection,
}

/// From a hidden state to the input of a latent token.
#[derive(Clone, Debug)]
struct LatentMap {
    up_proj: Projection,
    down_proj: Projection,
    norm: Tensor,
    norm_bias: Tensor,
}

impl LatentMap {
    /// Shapes: `state` and result `[R, E]`.
    fn apply(&self, state: &Tensor) -> candle_core::Result<Tensor> {
        let inner = self.up_proj.apply(state)?.gelu()?;
        let x = self.down_proj.apply(&inner)?;
        let x = x.broadcast_sub(&x.mean_keepdim(1)?)?;
        let variance = x.sqr()?.mean_keepdim(1)?;
        let x = x.broadcast_div(&(variance + f64::from(latent_map::EPS))?.sqrt()?)?;
        x.broadcast_mul(&self.norm)?.broadcast_add(&self.norm_bias)
    }
}

#[derive(Clone, Debug)]
struct Projection {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Projection {
    fn apply(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        add_bias(linear(x, &self.weight)?, self.bias.as_ref())
    }
}

fn add_bias(y: Tensor, bias: Option<&Tensor>) -> candle_core::Result<Tensor> {
    match bias {
        Some(bias) => y.broadcast_add(bias),
        None => Ok(y),
    }
}

/// One product for several projections of the same input; stacking small weights costs less than reading `x` again.
fn apply_stacked(projections: &[Projection], x: &Tensor) -> candle_core::Result<Tensor> {
    let weights: Vec<&Tensor> = projections.iter().map(|p| &p.weight).collect();
    let biases: Vec<&Tensor> = projections.iter().filter_map(|p| p.bias.as_ref()).collect();
    let bias = if biases.is_empty() {
        None
    } else {
        Some(Tensor::cat(&biases, 0)?)
    };
    add_bias(linear(x, &Tensor::cat(&weights, 0)?)?, bias.as_ref())
}

impl Student {
    /// A student with random weights: normal with deviation `std`, narrower by `1/√(2L)` for the projections that write into
    /// the residual stream (GPT-2 §2.3), ones for norms, zeros for biases.
    ///
    /// # Errors
    /// [`Error::Runtime`] if the configuration contradicts itself.
    pub fn random(config: &ModelConfig, seed: u64, std: f64) -> Result<Student> {
        Student::random_with(config, SideModules::default(), seed, std)
    }

    /// [`Student::random`] with side modules. Adapters add nothing at first, and routers rarely ask for them.
    ///
    /// # Errors
    /// As [`Student::random`].
    pub fn random_with(
        config: &ModelConfig,
        side: SideModules,
        seed: u64,
        std: f64,
    ) -> Result<Student> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let residual = std / (2.0 * config.num_hidden_layers as f64).sqrt();
        Student::build(config, side, |name, shape| {
            let len = shape.iter().product();
            let is_residual = name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight");
            Ok(match shape.len() {
                _ if name.ends_with("adapter.up_proj.weight") => vec![0.0; len],
                _ if name.ends_with("router.gate.bias") => vec![ROUTER_BIAS; len],
                _ if name.ends_with("router.gate.weight") => normal(&mut rng, len, std),
                2 => normal(&mut rng, len, if is_residual { residual } else { std }),
                _ if name.ends_with("norm.weight") => vec![1.0; len],
                _ => vec![0.0; len],
            })
        })
    }

    /// A student whose weights come from `tensors`, named and shaped as [`ModelConfig::tensors`] says, with the side modules that are among them.
    ///
    /// # Errors
    /// [`Error::Recipe`] for a missing tensor or one of another shape.
    pub fn from_tensors(
        config: &ModelConfig,
        tensors: &HashMap<String, Tensor>,
    ) -> Result<Student> {
        let found = |name: &str| tensors.get(name).map(Tensor::elem_count);
        Student::build(config, side_modules(found), |name, shape| {
            let tensor = tensors
                .get(name)
                .ok_or_else(|| Error::Recipe(format!("weights have no tensor `{name}`")))?;
            if tensor.dims() != shape {
                let found = tensor.dims();
                return Err(Error::Recipe(format!(
                    "tensor `{name}`: expected {shape:?}, weights have {found:?}"
                )));
            }
            Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
        })
    }

    /// The same student with side modules that it does not have yet, as in [`Student::random_with`].
    ///
    /// # Errors
    /// If a variable cannot be read.
    pub fn with_side(&self, side: SideModules, seed: u64, std: f64) -> Result<Student> {
        let fresh = Student::random_with(&self.config, side, seed, std)?;
        let own: HashMap<&str, &Var> = self
            .variables
            .iter()
            .map(|(name, var)| (name.as_str(), var))
            .collect();
        for (name, variable) in fresh.variables() {
            if let Some(own) = own.get(name.as_str()) {
                variable.set(own.as_tensor())?;
            }
        }
        Ok(fresh)
    }

    fn build(
        config: &ModelConfig,
        side: SideModules,
        mut values: impl FnMut(&str, &[usize]) -> Result<Vec<f32>>,
    ) -> Result<Student> {
        config.validate()?;
        let mut variables = Vec::new();
        for tensor in config.tensors().into_iter().chain(side.tensors(config)) {
            let data = values(&tensor.name, &tensor.shape)?;
            let data = Tensor::from_vec(data, tensor.shape.as_slice(), &Device::Cpu)?;
            variables.push((tensor.name, Var::from_tensor(&data)?));
        }
        let by_name: HashMap<&str, &Var> = variables
            .iter()
            .map(|(name, var)| (name.as_str(), var))
            .collect();
        let find = |name: &str| by_name.get(name).map(|var| var.as_tensor().clone());
        let get = |name: &str| {
            find(name)
                .ok_or_else(|| Error::Recipe(format!("a `{}` has no `{name}`", config.model_type)))
        };
        let projection_of = |name: &str| -> Result<Projection> {
            Ok(Projection {
                weight: get(&format!("{name}.weight"))?,
                bias: find(&format!("{name}.bias")),
            })
        };
        let layers = (0..config.num_hidden_layers)
            .map(|l| {
                let at = |name: &str| get(&format!("model.layers.{l}.{name}"));
                let projection = |name: &str| projection_of(&format!("model.layers.{l}.{name}"));
                let qk_norm = match config.qk_norm() {
                    true => Some((
                        at("self_attn.q_norm.weight")?,
                        at("self_attn.k_norm.weight")?,
                    )),
                    false => None,
                };
                Ok(Layer {
                    input_layernorm: at("input_layernorm.weight")?,
                    qkv: [
                        projection("self_attn.q_proj")?,
                        projection("self_attn.k_proj")?,
                        projection("self_attn.v_proj")?,
                    ],
                    qk_norm,
                    o_proj: projection("self_attn.o_proj")?,
                    post_attention_layernorm: at("post_attention_layernorm.weight")?,
                    gate_up: [projection("mlp.gate_proj")?, projection("mlp.up_proj")?],
                    down_proj: projection("mlp.down_proj")?,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let embed_tokens = get("model.embed_tokens.weight")?;
        let lm_head = if config.tie_word_embeddings {
            embed_tokens.clone()
        } else {
            get("lm_head.weight")?
        };
        let norm = get("model.norm.weight")?;
        let latent_map = match side.latent_map_size {
            None => None,
            Some(_) => Some(LatentMap {
                up_proj: projection_of("latent_map.up_proj")?,
                down_proj: projection_of("latent_map.down_proj")?,
                norm: get("latent_map.norm.weight")?,
                norm_bias: get("latent_map.norm.bias")?,
            }),
        };
        Ok(Student {
            layers: Arc::new(layers),
            embed_tokens,
            norm,
            lm_head,
            latent_map,
            inverse_frequencies: Arc::new(inverse_frequencies(config)),
            heads: Heads {
                query: config.num_attention_heads,
                kv: config.num_key_value_heads,
                dim: config.head_dim,
            },
            eps: f64::from(config.rms_norm_eps),
            variables: Arc::new(variables),
            config: config.clone(),
            side,
        })
    }

    /// The shape of the model.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Number of values in all variables.
    pub fn num_parameters(&self) -> u64 {
        let counts = self.variables.iter().map(|(_, v)| v.elem_count() as u64);
        counts.sum()
    }

    /// The place of the first value of routers and adapters among all parameters; the number of parameters if there are none.
    pub(crate) fn shortcut_start(&self) -> usize {
        let others = self.variables.iter();
        let others = others.take_while(|(name, _)| !name.starts_with("shortcut."));
        others.map(|(_, variable)| variable.elem_count()).sum()
    }

    /// Its side modules.
    pub fn side(&self) -> SideModules {
        self.side
    }

    /// Every variable under its Hugging Face name, in the order of [`ModelConfig::tensors`], then those of the side modules.
    pub fn variables(&self) -> &[(String, Var)] {
        &self.variables
    }

    /// The values of all variables one after the other, as [`Pass`](crate::pass::Pass) reads them.
    ///
    /// # Errors
    /// If a variable cannot be read.
    pub fn flat_weights(&self) -> Result<Vec<f32>> {
        let mut weights = Vec::with_capacity(self.num_parameters() as usize);
        for (_, variable) in self.variables() {
            weights.extend(variable.flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(weights)
    }

    /// Logits `[M, V]` of the batch's sources, routers and adapters aside. Each latent token costs a pass over the whole stream: this is the slow twin.
    pub fn forward(&self, batch: &Batch) -> Result<Tensor> {
        let segments = batch.shared_segments();
        let mut x = self.embed(&batch.tokens)?;
        let waves = batch.waves();
        for wave in &waves[1..] {
            let before: Vec<u32> = wave.latents.iter().map(|at| at - 1).collect();
            let mut states = self.hidden(&x, &batch.positions, &segments, &before)?;
            if let Some(map) = &self.latent_map {
                states = map.apply(&states)?;
            }
            // The stream's own rows, but for those whose states have just been made.
            let tokens = batch.len() as u32;
            let mut rows: Vec<u32> = (0..tokens).collect();
            for (row, at) in wave.latents.iter().enumerate() {
                rows[*at as usize] = tokens + row as u32;
            }
            let rows = Tensor::from_vec(rows, batch.len(), &Device::Cpu)?;
            x = Tensor::cat(&[&x, &states], 0)?.index_select(&rows, 0)?;
        }
        let states = self.hidden(&x, &batch.positions, &segments, &batch.sources)?;
        Ok(linear(&states, &self.lm_head)?)
    }

    fn embed(&self, tokens: &[u32]) -> Result<Tensor> {
        let tokens = Tensor::from_slice(tokens, tokens.len(), &Device::Cpu)?;
        Ok(self.embed_tokens.index_select(&tokens, 0)?)
    }

    /// Logits `[M, V]` after the tokens `sources` `[M]` of a stream `tokens` `[N]`.
    pub fn logits(
        &self,
        tokens: &[u32],
        positions: &[u32],
        segments: &Arc<[Segment]>,
        sources: &[u32],
    ) -> Result<Tensor> {
        let states = self.hidden(&self.embed(tokens)?, positions, segments, sources)?;
        Ok(linear(&states, &self.lm_head)?)
    }

    /// What the final norm writes `[M, E]` for the tokens `sources` `[M]` of a stream that the first layer reads as `x` `[N, E]`.
    ///
    /// The last layer runs only for the sources: nobody attends to what it writes.
    fn hidden(
        &self,
        x: &Tensor,
        positions: &[u32],
        segments: &Arc<[Segment]>,
        sources: &[u32],
    ) -> Result<Tensor> {
        let angles = Angles::new(positions, &self.inverse_frequencies);
        let sources = Tensor::from_slice(sources, sources.len(), &Device::Cpu)?;
        let mut x = x.clone();
        for (index, layer) in self.layers.iter().enumerate() {
            let h = rms_norm(&x, &layer.input_layernorm, self.eps)?;
            let qkv = apply_stacked(&layer.qkv, &h)?;
            let norms = layer.qk_norm.as_ref().map(|(q, k)| (q, k));
            let qkv = rope(&qkv, norms, self.heads, &angles, self.eps)?;
            let mut heads = attention(&qkv, self.heads, segments)?;
            if index + 1 == self.layers.len() {
                heads = heads.index_select(&sources, 0)?;
                x = x.index_select(&sources, 0)?;
            }
            x = (x + layer.o_proj.apply(&heads)?)?;
            let h = rms_norm(&x, &layer.post_attention_layernorm, self.eps)?;
            let activated = swiglu(&apply_stacked(&layer.gate_up, &h)?)?;
            x = (x + layer.down_proj.apply(&activated)?)?;
        }
        Ok(rms_norm(&x, &self.norm, self.eps)?)
    }
}

/// Where routers begin: a layer is left out with a weight of 0.12.
const ROUTER_BIAS: f32 = -2.0;

/// Which side modules there are, from the sizes of tensors by name.
pub(crate) fn side_modules(size_of: impl Fn(&str) -> Option<usize>) -> SideModules {
    let router = size_of("shortcut.layers.1.router.up_proj.bias");
    let adapter = size_of("shortcut.layers.1.adapter.down_proj.bias");
    SideModules {
        latent_map_size: size_of("latent_map.up_proj.bias"),
        shortcut: router
            .zip(adapter)
            .map(|(router, adapter)| ShortcutSize { router, adapter }),
    }
}

/// Normal deviates by Box and Muller: two per pair of uniforms, so the sequence is the same on every platform's libm within
/// rounding and needs no further dependency.
fn normal(rng: &mut ChaCha8Rng, len: usize, std: f64) -> Vec<f32> {
    let mut out = Vec::with_capacity(len + 1);
    while out.len() < len {
        // 1 − u lies in (0, 1], where the logarithm is finite.
        let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt() * std;
        let (sin, cos) = (rng.random::<f64>() * std::f64::consts::TAU).sin_cos();
        out.push((radius * cos) as f32);
        out.push((radius * sin) as f32);
    }
    out.truncate(len);
    out
}

/// `θ^(−2i/D)`, stretched as the configuration says, `[D/2]`.
pub(crate) fn inverse_frequencies(config: &ModelConfig) -> Vec<f64> {
    let base = (0..config.head_dim / 2).map(|i| {
        config
            .rope_theta
            .powf(-((2 * i) as f64) / config.head_dim as f64)
    });
    match config.rope_scaling {
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => base
            .map(|frequency| {
                // Llama 3.1's rule: long wavelengths are divided by the factor, short ones kept, a ramp between.
                let context = original_max_position_embeddings as f64;
                let wavelength = std::f64::consts::TAU / frequency;
                if wavelength > context / low_freq_factor {
                    frequency / factor
                } else if wavelength < context / high_freq_factor {
                    frequency
                } else {
                    let ramp = (context / wavelength - low_freq_factor)
                        / (high_freq_factor - low_freq_factor);
                    (1.0 - ramp) * frequency / factor + ramp * frequency
                }
            })
            .collect(),
        _ => base.collect(),
    }
}
