//! The persistent kernel: chains of steps through whole layers, against the ops of the specification called one by one.

use skimstone_kernels::cuda::{
    self, DecodeBuffers, DecodeModel, Grid, KvLayer, LatentMap, LayerWeights, Ptr,
};
use skimstone_kernels::{Activations, AttentionShape, Cpu, Format, KvFormat, RmsNorm};

use super::attention::{device_shape, upload};
use super::emulator::{Emulator, weights};
use super::support::{Block, Kv, Packed, Rng, scalar};

const EPS: f32 = 1e-6;
const STRIDE: usize = 32;

#[derive(Clone, Copy)]
struct Sizes {
    hidden: usize,
    intermediate: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    layers: usize,
    vocab: usize,
    /// Entries in the cache before the first step.
    entries: usize,
    /// Inner width of the latent map; 0 is the identity.
    inner: usize,
    qk_norm: bool,
    bias: bool,
    format: Format,
    kv: KvFormat,
}

struct Layer {
    /// q, k, v, o, gate, up, down
    w: Vec<Packed>,
    /// Of q, k, v.
    bias: Option<[Vec<f32>; 3]>,
    input_norm: Vec<f32>,
    post_norm: Vec<f32>,
    qk_norm: Option<[Vec<f32>; 2]>,
    router: Option<(Vec<f32>, f32)>,
    cache: Kv,
}

struct Model {
    sizes: Sizes,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    embed: Packed,
    head: Packed,
    map: Option<([Packed; 2], Vec<f32>, Vec<f32>)>,
    hidden: Vec<f32>,
}

fn near_one(rng: &mut Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| 1.0 + 0.3 * rng.unit()).collect()
}

impl Model {
    fn new(s: Sizes, exit_after: Option<usize>) -> Self {
        let rng = &mut Rng(s.hidden as u64 + 7);
        let (e, f) = (s.hidden, s.intermediate);
        let (q, kv) = (s.heads * s.head_dim, s.kv_heads * s.head_dim);
        let layers = (0..s.layers)
            .map(|l| Layer {
                w: [(q, e), (kv, e), (kv, e), (e, q), (f, e), (f, e), (e, f)]
                    .map(|(rows, cols)| weights(rng, s.format, rows, cols))
                    .into(),
                bias: s
                    .bias
                    .then(|| [q, kv, kv].map(|n| (0..n).map(|_| 0.1 * rng.unit()).collect())),
                input_norm: near_one(rng, e),
                post_norm: near_one(rng, e),
                qk_norm: s
                    .qk_norm
                    .then(|| [near_one(rng, s.head_dim), near_one(rng, s.head_dim)]),
                // Far from its threshold on either side, so that no rounding decides.
                router: exit_after.map(|after| (vec![0.0; e], if l >= after { 1.0 } else { -1.0 })),
                cache: Kv::new(rng, s.kv, s.kv_heads, s.head_dim, STRIDE, s.entries),
            })
            .collect();
        let map = (s.inner > 0).then(|| {
            let matrices = [
                weights(rng, s.format, s.inner, e),
                weights(rng, s.format, e, s.inner),
            ];
            (matrices, near_one(rng, e), near_one(rng, e))
        });
        Model {
            sizes: s,
            layers,
            norm: near_one(rng, e),
            embed: weights(rng, s.format, s.vocab, e),
            head: weights(rng, s.format, s.vocab, e),
            map,
            hidden: (0..e).map(|_| rng.unit()).collect(),
        }
    }

    fn shape(&self) -> AttentionShape {
        AttentionShape {
            heads: self.sizes.heads,
            kv_heads: self.sizes.kv_heads,
            head_dim: self.sizes.head_dim,
            scale: (self.sizes.head_dim as f32).sqrt().recip(),
        }
    }

    fn angle(&self, position: u32, i: usize) -> f64 {
        f64::from(position) * 10000f64.powf(-((2 * i) as f64) / self.sizes.head_dim as f64)
    }

    /// One layer of the specification.
    fn layer(&mut self, cpu: &Cpu, l: usize, position: u32, hidden: &mut [f32]) {
        let (s, shape) = (self.sizes, self.shape());
        let half = s.head_dim / 2;
        let (cos, sin): (Vec<f32>, Vec<f32>) = (0..half)
            .map(|i| self.angle(position, i))
            .map(|a| (a.cos() as f32, a.sin() as f32))
            .unzip();
        let layer = &mut self.layers[l];
        let linear = |i: usize| {
            let mut linear: skimstone_kernels::Linear<'_> = layer.w[i].matrix().into();
            linear.bias = layer.bias.as_ref().and_then(|b| Some(&b.get(i)?[..]));
            linear
        };
        let norm = |weight| RmsNorm { weight, eps: EPS };
        let widest = s.hidden.max(s.heads * s.head_dim);
        let mut acts = Activations::new(1, widest);
        cpu.load_norm(&mut acts, hidden, norm(&layer.input_norm), true)
            .unwrap();
        let mut q = vec![0.0; s.heads * s.head_dim];
        let mut k = vec![0.0; s.kv_heads * s.head_dim];
        let mut v = k.clone();
        for (i, y) in [&mut q, &mut k, &mut v].into_iter().enumerate() {
            cpu.linear(&linear(i), &acts, y).unwrap();
        }
        for (i, (x, heads)) in [(&mut q, s.heads), (&mut k, s.kv_heads)]
            .into_iter()
            .enumerate()
        {
            if let Some(norms) = &layer.qk_norm {
                cpu.rms_norm_in_place(x, &norms[i], EPS).unwrap();
            }
            cpu.rope(x, heads, s.head_dim, &cos, &sin).unwrap();
        }
        let (o, gate, up, down) = (linear(3), linear(4), linear(5), linear(6));
        let cache = &mut layer.cache;
        if cache
            .blocks
            .last()
            .is_none_or(|b| b.positions.len() == STRIDE)
        {
            let unused = vec![0xff; s.kv_heads * s.kv.head_bytes(STRIDE, s.head_dim)];
            cache.blocks.push(Block {
                k: unused.clone(),
                v: unused,
                positions: vec![],
                visible: 0,
            });
        }
        let block = cache.blocks.last_mut().unwrap();
        let slot = block.positions.len();
        s.kv.write_entry(
            slot,
            STRIDE,
            s.head_dim,
            [&k, &v],
            [&mut block.k, &mut block.v],
        )
        .unwrap();
        block.positions.push(position);
        block.visible |= 1 << slot;
        let mut attended = vec![0.0; q.len()];
        cpu.attention(&q, &[position], shape, cache, &mut [], &mut attended)
            .unwrap();
        cpu.load(&mut acts, &attended, q.len(), true).unwrap();
        let mut added = vec![0.0; s.hidden];
        cpu.linear_add(&o, &acts, &mut added, hidden).unwrap();
        cpu.load_norm(&mut acts, hidden, norm(&layer.post_norm), true)
            .unwrap();
        let mut up_y = vec![0.0; s.intermediate];
        let mut gated = Activations::new(1, s.intermediate);
        cpu.load_silu_mul([&gate, &up], &acts, &mut up_y, &mut gated, true)
            .unwrap();
        cpu.linear_add(&down, &gated, &mut added, hidden).unwrap();
    }

    /// All steps of the specification: the state after each, and the tokens of those that chose one.
    fn run(
        &mut self,
        position: u32,
        kinds: &[u32],
        exit_after: Option<usize>,
    ) -> (Vec<f32>, Vec<usize>) {
        let cpu = scalar();
        let e = self.sizes.hidden;
        let mut hidden = self.hidden.clone();
        let (mut states, mut tokens) = (Vec::new(), Vec::new());
        for (step, kind) in kinds.iter().enumerate() {
            let last = exit_after.map_or(self.sizes.layers, |l| (l + 1).min(self.sizes.layers));
            for l in 0..last {
                self.layer(&cpu, l, position + step as u32, &mut hidden);
            }
            let mut normed = vec![0.0; e];
            cpu.rms_norm(&hidden, &self.norm, EPS, &mut normed).unwrap();
            states.extend_from_slice(&normed);
            if *kind == 1 {
                let logits = self.head.matmul(&cpu, &normed);
                let token = (0..logits.len())
                    .rev()
                    .max_by(|a, b| logits[*a].total_cmp(&logits[*b]))
                    .unwrap();
                self.embed.matrix().row_into(token, &mut hidden).unwrap();
                tokens.push(token);
            } else if let Some(([up, down], norm, bias)) = &self.map {
                let mut inner = up.matmul(&cpu, &normed);
                for x in &mut inner {
                    let u = 1.595_769 * (*x + 0.044_715 * *x * *x * *x);
                    *x /= 1.0 + (-u).exp();
                }
                let y = down.matmul(&cpu, &inner);
                let mean = y.iter().sum::<f32>() / e as f32;
                let variance = y.iter().map(|y| (y - mean).powi(2)).sum::<f32>() / e as f32;
                for (c, h) in hidden.iter_mut().enumerate() {
                    *h = (y[c] - mean) / (variance + 1e-5).sqrt() * norm[c] + bias[c];
                }
            } else {
                hidden = normed;
            }
        }
        (states, tokens)
    }
}

/// How far the states may be apart, relative to their length. Rounding to int8 turns a difference in the last bit before it into a whole
/// step now and then, which is worth 1/254 of the largest of 32 values; this is a few such steps in a short row. Without any of them, which
/// is what was seen so far, states are 2e-7 apart.
const TOLERANCE: f32 = 1e-3;

fn distance(got: &[f32], want: &[f32]) -> f32 {
    let square = |x: f32| f64::from(x).powi(2);
    let off: f64 = got.iter().zip(want).map(|(g, w)| square(g - w)).sum();
    let length: f64 = want.iter().map(|w| square(*w)).sum();
    (off / length).sqrt() as f32
}

struct Ran {
    states: Vec<f32>,
    best: Vec<u64>,
    layers_run: Vec<u32>,
    error: u32,
    kv: Vec<KvLayer>,
}

/// The same in one launch of the persistent kernel.
fn launch(
    gpu: &mut Emulator,
    m: &Model,
    position: u32,
    kinds: &[u32],
    spare: usize,
    blocks: usize,
) -> Ran {
    let (s, steps) = (m.sizes, kinds.len());
    let half = s.head_dim / 2;
    let table: Vec<[f32; 2]> = (0..position + steps as u32)
        .flat_map(|p| (0..half).map(move |i| (p, i)))
        .map(|(p, i)| m.angle(p, i))
        .map(|a| [a.cos() as f32, a.sin() as f32])
        .collect();
    let mut layers = Vec::new();
    let mut caches = Vec::new();
    for layer in &m.layers {
        let bias = |i: usize| layer.bias.as_ref().and_then(|b| Some(&b.get(i)?[..]));
        let [q, k, v, o, gate, up, down] =
            std::array::from_fn(|i| gpu.matrix(&layer.w[i], bias(i)));
        let [q_norm, k_norm] = match &layer.qk_norm {
            Some(norms) => [gpu.values(&norms[0]), gpu.values(&norms[1])],
            None => [Ptr::NULL; 2],
        };
        layers.push(LayerWeights {
            q,
            k,
            v,
            o,
            gate,
            up,
            down,
            input_norm: gpu.values(&layer.input_norm),
            post_norm: gpu.values(&layer.post_norm),
            q_norm,
            k_norm,
            router: layer
                .router
                .as_ref()
                .map_or(Ptr::NULL, |(w, _)| gpu.values(w)),
            router_bias: layer.router.as_ref().map_or(0.0, |(_, bias)| *bias),
            threshold: 0.0,
        });
        caches.push(upload(gpu, &layer.cache, spare).1);
    }
    let latent = m
        .map
        .as_ref()
        .map_or(LatentMap::default(), |([up, down], norm, bias)| LatentMap {
            up: gpu.matrix(up, None),
            down: gpu.matrix(down, None),
            norm: gpu.values(norm),
            norm_bias: gpu.values(bias),
        });
    let model = DecodeModel {
        layers: gpu.values(&layers),
        latent,
        embed: gpu.matrix(&m.embed, None),
        head: gpu.matrix(&m.head, None),
        norm: gpu.values(&m.norm),
        angles: gpu.values(&table),
        shape: device_shape(m.shape(), s.kv),
        hidden: s.hidden as u32,
        layer_count: s.layers as u32,
        eps: EPS,
        reserved: 0,
    };
    let (q, kv, splits) = (s.heads * s.head_dim, s.kv_heads * s.head_dim, 3);
    let gated = gpu.int8_room(1, s.intermediate);
    let buffers = DecodeBuffers {
        hidden: gpu.variables(&m.hidden),
        other: gpu.room(s.hidden),
        q: gpu.room(q),
        k: gpu.room(kv),
        v: gpu.room(kv),
        parts: gpu.room((splits * s.heads * (s.head_dim + 2)).max(s.hidden)),
        gated: gated.codes,
        gated_scales: gated.scales,
        inner: gpu.room(s.inner.max(1)),
        logits: gpu.room(s.vocab),
        best: gpu.variables(&vec![0u64; steps]),
        states: gpu.room(steps * s.hidden),
        layers_run: gpu.room(steps),
        kv: gpu.variables(&caches),
        kinds: gpu.values(kinds),
        barrier: gpu.buffer(&[0; 8]),
        error: gpu.variables(&[0u32]),
    };
    let (model, device) = (gpu.values(&[model]), gpu.values(&[buffers]));
    let widest = s.hidden.max(q).max(s.inner);
    let grid = Grid::new(blocks, 128)
        .with_shared_bytes(cuda::decode_shared_bytes(widest))
        .cooperative();
    let kernel = match s.head_dim {
        ..=64 => cuda::skim_decode_64,
        65..=128 => cuda::skim_decode_128,
        _ => cuda::skim_decode_256,
    };
    gpu.launch(&kernel(
        grid,
        model,
        device,
        position,
        steps as u32,
        splits as u32,
    ));
    let words = |bytes: Vec<u8>| -> Vec<u64> {
        let chunks = bytes.as_chunks::<8>().0.iter();
        chunks.map(|b| u64::from_le_bytes(*b)).collect()
    };
    let kv = words(gpu.read_bytes(buffers.kv.cast::<u64>(), 2 * s.layers));
    Ran {
        states: gpu.floats(buffers.states, steps * s.hidden),
        best: words(gpu.read_bytes(buffers.best, steps)),
        layers_run: gpu.words(buffers.layers_run, steps),
        error: gpu.words(buffers.error, 1)[0],
        kv: kv
            .chunks(2)
            .map(|w| KvLayer {
                blocks: Ptr::new(w[0]),
                count: w[1] as u32,
                capacity: (w[1] >> 32) as u32,
            })
            .collect(),
    }
}

const TINY: Sizes = Sizes {
    hidden: 100,
    intermediate: 172,
    heads: 6,
    kv_heads: 2,
    head_dim: 18,
    layers: 2,
    vocab: 77,
    entries: 70,
    inner: 0,
    qk_norm: false,
    bias: false,
    format: Format::Q4,
    kv: KvFormat::F16,
};

fn check(
    what: &str,
    sizes: Sizes,
    kinds: &[u32],
    exit_after: Option<usize>,
    blocks: usize,
    seed: u64,
) {
    let Some(mut gpu) = Emulator::start() else {
        return;
    };
    gpu.seed = seed;
    let mut model = Model::new(sizes, exit_after);
    let position = sizes.entries as u32 + 3;
    let ran = launch(&mut gpu, &model, position, kinds, 2, blocks);
    let (states, tokens) = model.run(position, kinds, exit_after);
    assert_eq!(ran.error, 0, "{what}");
    let chosen = ran.best.iter().zip(kinds).filter(|(_, kind)| **kind == 1);
    let chosen: Vec<_> = chosen
        .map(|(rank, _)| cuda::index_of_rank(*rank) as usize)
        .collect();
    assert_eq!(chosen, tokens, "{what}: tokens");
    let layers = exit_after.map_or(sizes.layers, |l| (l + 1).min(sizes.layers));
    assert_eq!(
        ran.layers_run,
        vec![layers as u32; kinds.len()],
        "{what}: layers run"
    );
    for (step, (got, want)) in ran
        .states
        .chunks_exact(sizes.hidden)
        .zip(states.chunks_exact(sizes.hidden))
        .enumerate()
    {
        let off = distance(got, want);
        println!("{what}, step {step}: {off:.1e} apart");
        assert!(off < TOLERANCE, "{what}, step {step}: {off:e} apart");
    }
    // Layers that ran have an entry per step, the others none.
    for (l, kv) in ran.kv.iter().enumerate() {
        let entries = sizes.entries + if l < layers { kinds.len() } else { 0 };
        assert_eq!(
            kv.count as usize,
            entries.div_ceil(STRIDE),
            "{what}: blocks of layer {l}"
        );
    }
}

#[test]
fn chains_of_steps_agree() {
    let map = Sizes {
        inner: 40,
        qk_norm: true,
        kv: KvFormat::Q8,
        ..TINY
    };
    let biased = Sizes {
        bias: true,
        format: Format::Q8,
        kv: KvFormat::F32,
        entries: 31,
        ..TINY
    };
    let empty = Sizes { entries: 0, ..TINY };
    check("latent steps", TINY, &[0, 0, 0], None, 3, 0);
    check("latent steps through a map", map, &[0, 0], None, 2, 1);
    check("tokens", biased, &[1, 1], None, 3, 2);
    check("latent steps, then a token", map, &[0, 1], None, 1, 3);
    check("an empty cache", empty, &[0, 0], None, 4, 4);
}

#[test]
fn exits_are_taken_on_the_device() {
    check("exit after the first layer", TINY, &[0, 0], Some(0), 2, 0);
    check("gates that are not taken", TINY, &[0], Some(7), 2, 1);
}

/// The comparison can fail: another position is another state.
#[test]
fn another_position_is_noticed() {
    let Some(mut gpu) = Emulator::start() else {
        return;
    };
    let mut model = Model::new(TINY, None);
    let ran = launch(&mut gpu, &model, 75, &[0], 2, 2);
    let (states, _) = model.run(73, &[0], None);
    let off = distance(&ran.states, &states);
    assert!(off > TOLERANCE, "{off:e} apart");
}

#[test]
fn a_full_cache_ends_the_chain() {
    let Some(mut gpu) = Emulator::start() else {
        return;
    };
    let sizes = Sizes {
        entries: 63,
        ..TINY
    };
    let model = Model::new(sizes, None);
    let ran = launch(&mut gpu, &model, 63, &[0, 0, 0], 0, 2);
    assert_eq!(ran.error, 1);
    assert_eq!(ran.layers_run[0], 2, "the first step has room");
}

/// One layer of a model of 135 million, 0.5 and 1.5 billion weights, its head cut to a few rows.
#[test]
fn layers_of_real_sizes_agree() {
    let real = Sizes {
        layers: 1,
        vocab: 100,
        entries: 100,
        ..TINY
    };
    let smol = Sizes {
        hidden: 576,
        intermediate: 1536,
        heads: 9,
        kv_heads: 3,
        head_dim: 64,
        ..real
    };
    let half = Sizes {
        hidden: 896,
        intermediate: 4864,
        heads: 14,
        kv_heads: 2,
        head_dim: 64,
        bias: true,
        ..real
    };
    let large = Sizes {
        hidden: 1536,
        intermediate: 8960,
        heads: 12,
        kv_heads: 2,
        head_dim: 128,
        bias: true,
        kv: KvFormat::Q8,
        ..real
    };
    check("135M, q4", smol, &[0], None, 4, 0);
    check(
        "135M, q8",
        Sizes {
            format: Format::Q8,
            ..smol
        },
        &[1],
        None,
        4,
        1,
    );
    check("0.5B, q4", half, &[0], None, 4, 0);
    check("1.5B, q4", large, &[1], None, 4, 0);
}
