//! `Weights`: one named, shaped view per tensor, borrowed from the bundle.
//!
//! When a bundle is opened every tensor is looked up by name and checked once; what remains is a table of offsets. A view is then
//! a few additions away: no map is searched and nothing is allocated in a step.

use std::ops::Range;

use skimstone_kernels::{Format, Linear, Matrix};

use crate::bundle::{TensorInfo, as_f32s};
use crate::config::{ModelConfig, names};
use crate::error::{Error, ErrorKind, Result};
use crate::memory;
use crate::side::{LatentMapWeights, ShortcutWeights, SideModules, latent_map, shortcut};

const VALIDATED: &str = "format, shape and alignment were checked when the bundle was opened";

/// Where a matrix stands in the file.
#[derive(Clone, Debug)]
struct MatrixSlot {
    format: Format,
    rows: usize,
    cols: usize,
    range: Range<usize>,
}

/// Where a vector of f32 stands in the file.
type VectorSlot = Range<usize>;

/// Where the tensors of one layer stand in the file.
#[derive(Debug)]
struct LayerSlots {
    input_layernorm: VectorSlot,
    post_attention_layernorm: VectorSlot,
    /// q, k, v, o.
    attention: [MatrixSlot; 4],
    attention_bias: [Option<VectorSlot>; 4],
    /// q, k.
    qk_norm: Option<[VectorSlot; 2]>,
    /// gate, up, down.
    mlp: [MatrixSlot; 3],
    mlp_bias: [Option<VectorSlot>; 3],
}

/// The checked table of a bundle's weights.
#[derive(Debug)]
pub(crate) struct WeightTable {
    embed_tokens: MatrixSlot,
    layers: Vec<LayerSlots>,
    norm: VectorSlot,
    lm_head: Option<MatrixSlot>,
    latent_map: Option<LatentMapSlots>,
    /// Of the layers that have a router, in order.
    shortcut: Vec<ShortcutSlots>,
}

/// Where the tensors of a latent map stand in the file.
#[derive(Debug)]
struct LatentMapSlots {
    /// up, down.
    matrices: [MatrixSlot; 2],
    biases: [Option<VectorSlot>; 2],
    /// Weight, bias.
    norm: [VectorSlot; 2],
}

/// Where the router and the adapter of a layer stand in the file.
#[derive(Debug)]
struct ShortcutSlots {
    /// Router up, adapter down, adapter up.
    matrices: [MatrixSlot; 3],
    biases: [Option<VectorSlot>; 3],
    /// Weight, bias.
    gate: [VectorSlot; 2],
}

impl WeightTable {
    /// Finds and checks every tensor that `config` and the side modules require.
    ///
    /// # Errors
    /// [`ErrorKind::MissingTensor`], [`ErrorKind::Shape`] (both shapes named) or [`ErrorKind::Dtype`].
    pub(crate) fn new<'a>(
        config: &ModelConfig,
        modules: SideModules,
        find: impl Fn(&str) -> Option<&'a TensorInfo>,
    ) -> Result<WeightTable> {
        // `tensors` is the one list of names and shapes: check all of it first, then pick by name.
        let side = modules.tensors(config);
        for required in config.tensors().into_iter().chain(side) {
            let name = &required.name;
            let info = find(name).ok_or_else(|| missing(name))?;
            check(&required.shape, info)
                .map_err(|error| error.at(format_args!("tensor `{name}`")))?;
        }
        let info = |name: &str| find(name).ok_or_else(|| missing(name));
        let matrix = |name: &str| -> Result<MatrixSlot> {
            let info = info(name)?;
            let (Some(format), &[rows, cols]) = (info.format, info.shape.as_slice()) else {
                return Err(missing(name));
            };
            Ok(MatrixSlot {
                format,
                rows,
                cols,
                range: info.range.clone(),
            })
        };
        let vector = |name: &str| info(name).map(|info| info.range.clone());

        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for l in 0..config.num_hidden_layers {
            memory::check_refusal()?;
            let matrix = |name: &str| matrix(&names::layer(l, &format!("{name}.weight")));
            let norm = |name: &str| vector(&names::layer(l, &format!("{name}.weight")));
            let bias = |name: &str, present: bool| {
                present
                    .then(|| vector(&names::layer(l, &format!("{name}.bias"))))
                    .transpose()
            };
            layers.push(LayerSlots {
                input_layernorm: norm("input_layernorm")?,
                post_attention_layernorm: norm("post_attention_layernorm")?,
                attention: [
                    matrix("self_attn.q_proj")?,
                    matrix("self_attn.k_proj")?,
                    matrix("self_attn.v_proj")?,
                    matrix("self_attn.o_proj")?,
                ],
                attention_bias: [
                    bias("self_attn.q_proj", config.attention_bias)?,
                    bias("self_attn.k_proj", config.attention_bias)?,
                    bias("self_attn.v_proj", config.attention_bias)?,
                    bias("self_attn.o_proj", config.o_bias())?,
                ],
                qk_norm: match config.qk_norm() {
                    true => Some([norm("self_attn.q_norm")?, norm("self_attn.k_norm")?]),
                    false => None,
                },
                mlp: [
                    matrix("mlp.gate_proj")?,
                    matrix("mlp.up_proj")?,
                    matrix("mlp.down_proj")?,
                ],
                mlp_bias: [
                    bias("mlp.gate_proj", config.mlp_bias)?,
                    bias("mlp.up_proj", config.mlp_bias)?,
                    bias("mlp.down_proj", config.mlp_bias)?,
                ],
            });
        }
        Ok(WeightTable {
            embed_tokens: matrix(names::EMBED_TOKENS)?,
            layers,
            norm: vector(names::NORM)?,
            lm_head: (!config.tie_word_embeddings)
                .then(|| matrix(names::LM_HEAD))
                .transpose()?,
            latent_map: match modules.latent_map_size {
                None => None,
                Some(_) => {
                    use latent_map::names::{DOWN_PROJ, NORM, UP_PROJ};
                    let weight = |name: &str| matrix(&format!("{name}.weight"));
                    let bias = |name: &str| vector(&format!("{name}.bias")).map(Some);
                    Some(LatentMapSlots {
                        matrices: [weight(UP_PROJ)?, weight(DOWN_PROJ)?],
                        biases: [bias(UP_PROJ)?, bias(DOWN_PROJ)?],
                        norm: [
                            vector(&format!("{NORM}.weight"))?,
                            vector(&format!("{NORM}.bias"))?,
                        ],
                    })
                }
            },
            shortcut: match modules.shortcut {
                None => Vec::new(),
                Some(_) => shortcut::layers(config.num_hidden_layers)
                    .map(|layer| {
                        let matrix =
                            |part: &str| matrix(&shortcut::name(layer, &format!("{part}.weight")));
                        let vector = |part: &str| vector(&shortcut::name(layer, part));
                        let bias = |part: &str| vector(&format!("{part}.bias")).map(Some);
                        Ok(ShortcutSlots {
                            matrices: [
                                matrix("router.up_proj")?,
                                matrix("adapter.down_proj")?,
                                matrix("adapter.up_proj")?,
                            ],
                            biases: [
                                bias("router.up_proj")?,
                                bias("adapter.down_proj")?,
                                bias("adapter.up_proj")?,
                            ],
                            gate: [vector("router.gate.weight")?, vector("router.gate.bias")?],
                        })
                    })
                    .collect::<Result<_>>()?,
            },
        })
    }
}

fn missing(name: &str) -> Error {
    Error::new(
        ErrorKind::MissingTensor,
        format!("tensor `{name}` is missing"),
    )
    .with_hint("was it exported for another config?")
}

/// Compares a tensor of the file with what the configuration requires.
fn check(shape: &[usize], info: &TensorInfo) -> Result<()> {
    let found = info.format.map_or("bytes", |format| format.name());
    if info.shape != shape {
        let message = format!("expected {shape:?}, file has {:?} {found}", info.shape);
        return Err(
            Error::new(ErrorKind::Shape, message).with_hint("was it exported for another config?")
        );
    }
    match info.format {
        Some(Format::F32) => Ok(()),
        Some(_) if shape.len() == 2 => Ok(()),
        Some(_) => Err(Error::new(
            ErrorKind::Dtype,
            format!("norms and biases are f32, file has {found}"),
        )),
        None => Err(Error::new(
            ErrorKind::Dtype,
            "is not stored in a weight format".to_owned(),
        )),
    }
}

/// All weights of a model, as views into its bundle. Copying it is free.
#[derive(Clone, Copy, Debug)]
pub struct Weights<'a> {
    file: &'a [u8],
    table: &'a WeightTable,
}

/// The weights of one layer; which of them have biases is the configuration's. Letters as everywhere: `E` hidden_size, `F` intermediate_size, `H` and `G` heads, `D` head_dim.
#[derive(Clone, Copy, Debug)]
pub struct LayerWeights<'a> {
    /// `[E]`
    pub input_layernorm: &'a [f32],
    /// `[H·D, E]`
    pub q_proj: Linear<'a>,
    /// `[G·D, E]`
    pub k_proj: Linear<'a>,
    /// `[G·D, E]`
    pub v_proj: Linear<'a>,
    /// `[E, H·D]`
    pub o_proj: Linear<'a>,
    /// `[D]`; `qwen3`
    pub q_norm: Option<&'a [f32]>,
    /// `[D]`; `qwen3`
    pub k_norm: Option<&'a [f32]>,
    /// `[E]`
    pub post_attention_layernorm: &'a [f32],
    /// `[F, E]`
    pub gate_proj: Linear<'a>,
    /// `[F, E]`
    pub up_proj: Linear<'a>,
    /// `[E, F]`
    pub down_proj: Linear<'a>,
}

impl<'a> Weights<'a> {
    pub(crate) fn new(file: &'a [u8], table: &'a WeightTable) -> Weights<'a> {
        Weights { file, table }
    }

    /// The embedding, `[V, E]`.
    pub fn embed_tokens(&self) -> Matrix<'a> {
        self.matrix(&self.table.embed_tokens)
    }

    /// The final norm, `[E]`.
    pub fn norm(&self) -> &'a [f32] {
        self.vector(&self.table.norm)
    }

    /// The output head, `[V, E]`: the embedding where the two are tied.
    pub fn lm_head(&self) -> Matrix<'a> {
        self.matrix(
            self.table
                .lm_head
                .as_ref()
                .unwrap_or(&self.table.embed_tokens),
        )
    }

    /// The latent map, if a route has one with weights.
    pub fn latent_map(&self) -> Option<LatentMapWeights<'a>> {
        let slots = self.table.latent_map.as_ref()?;
        let linear = |i: usize| self.linear(&slots.matrices[i], &slots.biases[i]);
        Some(LatentMapWeights {
            up_proj: linear(0),
            down_proj: linear(1),
            norm: self.vector(&slots.norm[0]),
            norm_bias: self.vector(&slots.norm[1]),
        })
    }

    /// The router and the adapter of layer `l`; the first layer has none, and no layer of a bundle without shortcuts.
    pub fn shortcut(&self, l: usize) -> Option<ShortcutWeights<'a>> {
        let slots = self.table.shortcut.get(l.checked_sub(1)?)?;
        let linear = |i: usize| self.linear(&slots.matrices[i], &slots.biases[i]);
        Some(ShortcutWeights {
            router_up: linear(0),
            router_gate: self.vector(&slots.gate[0]),
            router_bias: self.vector(&slots.gate[1]),
            adapter_down: linear(1),
            adapter_up: linear(2),
        })
    }

    /// Number of layers.
    pub fn num_layers(&self) -> usize {
        self.table.layers.len()
    }

    /// The weights of layer `l`.
    ///
    /// # Panics
    /// If there is no layer `l`.
    pub fn layer(&self, l: usize) -> LayerWeights<'a> {
        let slots = &self.table.layers[l];
        let qk_norm = |i: usize| slots.qk_norm.as_ref().map(|norms| self.vector(&norms[i]));
        let attention = |i: usize| self.linear(&slots.attention[i], &slots.attention_bias[i]);
        let mlp = |i: usize| self.linear(&slots.mlp[i], &slots.mlp_bias[i]);
        LayerWeights {
            input_layernorm: self.vector(&slots.input_layernorm),
            q_proj: attention(0),
            k_proj: attention(1),
            v_proj: attention(2),
            o_proj: attention(3),
            q_norm: qk_norm(0),
            k_norm: qk_norm(1),
            post_attention_layernorm: self.vector(&slots.post_attention_layernorm),
            gate_proj: mlp(0),
            up_proj: mlp(1),
            down_proj: mlp(2),
        }
    }

    fn linear(&self, weight: &MatrixSlot, bias: &Option<VectorSlot>) -> Linear<'a> {
        Linear {
            weight: self.matrix(weight),
            bias: bias.as_ref().map(|slot| self.vector(slot)),
        }
    }

    fn matrix(&self, slot: &MatrixSlot) -> Matrix<'a> {
        Matrix::new(
            slot.format,
            slot.rows,
            slot.cols,
            &self.file[slot.range.clone()],
        )
        .expect(VALIDATED)
    }

    fn vector(&self, slot: &VectorSlot) -> &'a [f32] {
        as_f32s(&self.file[slot.clone()]).expect(VALIDATED)
    }
}
