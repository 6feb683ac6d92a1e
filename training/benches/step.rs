//! Training speed: whole optimizer steps of plain candle and of the trainer, on the same shapes, in turn.
//!
//! ```text
//! cargo bench -p skimstone-training --bench step                      all sizes
//! cargo bench … -- d256 --rounds 9                                    one size
//! cargo bench … -- --test                                             verifies only
//! ```
//!
//! *Plain* is what a candle user writes: `candle_nn` layers, differentiable RMSNorm, rotary positions and softmax attention with a
//! mask out of tensor operations, `candle_nn::loss::cross_entropy`, `candle_nn::AdamW`. Three ways to run it:
//!
//! - `plain`: one process that candle spreads over all cores;
//! - `plain-per-core`: one single-threaded process per core;
//! - `plain-kept-heap`: the same with an allocator that never returns memory to the system, which plain candle does at every
//!   operation. Nobody gets this without asking; it shows what the arithmetic alone gains.
//!
//! *Ours* is the [`Trainer`] with one worker, one process per core, as experiments run several seeds at once. Every process
//! computes batches of [`BATCH`] rows of [`T`] predicted tokens and makes one optimizer step per batch; tokens per second are summed
//! over the processes. All share one executable, so plain candle also gets the AVX-512 kernels of `gemm` that this workspace
//! asks for. Before anything is timed, loss and gradients of both are compared on the same weights. The last lines are CSV rows
//! for `benches/record/`; a ratio is taken within a round.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use candle_core::{D, DType, Device, Tensor, Var};
use candle_nn::{AdamW, Embedding, LayerNorm, Linear, Module, Optimizer, ParamsAdamW};
use skimstone::ModelConfig;
use skimstone_benches::{mad, median};
use skimstone_training::data::{Span, TokenizedRow};
use skimstone_training::loss::supervised_gradient;
use skimstone_training::pack::Batch;
use skimstone_training::pass::Pass;
use skimstone_training::progress::{Event, View};
use skimstone_training::recipe::Recipe;
use skimstone_training::student::Student;
use skimstone_training::trainer::Trainer;

/// Predicted tokens per row.
const T: usize = 128;
/// Rows per optimizer step.
const BATCH: usize = 16;
/// Vocabulary.
const V: usize = 512;
/// Cores that a variant's processes share.
const CORES: usize = 2;
/// A process makes steps until this many seconds have passed, then reports.
const SLICE: f64 = 2.5;

/// Ours is the last.
const VARIANTS: [Variant; 4] = [
    Variant {
        name: "plain",
        code: "plain",
        processes: 1,
        keeps_heap: false,
    },
    Variant {
        name: "plain-per-core",
        code: "plain",
        processes: CORES,
        keeps_heap: false,
    },
    Variant {
        name: "plain-kept-heap",
        code: "plain",
        processes: CORES,
        keeps_heap: true,
    },
    Variant {
        name: "ours-per-core",
        code: "ours",
        processes: CORES,
        keeps_heap: false,
    },
];

/// glibc's allocator: no mappings of their own for large tensors, nothing trimmed, grown by 256 MB at a time.
const KEPT_HEAP: [(&str, &str); 3] = [
    ("MALLOC_MMAP_THRESHOLD_", "4000000000"),
    ("MALLOC_TRIM_THRESHOLD_", "8000000000"),
    ("MALLOC_TOP_PAD_", "268435456"),
];

/// A way to train: what runs, and in how many processes that share the cores.
struct Variant {
    name: &'static str,
    code: &'static str,
    processes: usize,
    keeps_heap: bool,
}

/// Width, feed-forward width (8/3 of it, rounded so that the parameters are 0.87, 3.3 and 10.9 million), layers and heads.
struct Size {
    name: &'static str,
    hidden: usize,
    feed_forward: usize,
    layers: usize,
    heads: usize,
}

const SIZES: [Size; 3] = [
    Size {
        name: "d128",
        hidden: 128,
        feed_forward: 352,
        layers: 4,
        heads: 4,
    },
    Size {
        name: "d256",
        hidden: 256,
        feed_forward: 688,
        layers: 4,
        heads: 4,
    },
    Size {
        name: "d384",
        hidden: 384,
        feed_forward: 1040,
        layers: 6,
        heads: 6,
    },
];

impl Size {
    fn config(&self) -> ModelConfig {
        let json = format!(
            r#"{{"model_type":"llama","hidden_size":{},"intermediate_size":{},"num_hidden_layers":{},
            "num_attention_heads":{heads},"num_key_value_heads":{heads},"head_dim":{},"vocab_size":{V},
            "max_position_embeddings":256,"rms_norm_eps":1e-6,"rope_theta":10000,"tie_word_embeddings":true,
            "eos_token_id":1}}"#,
            self.hidden,
            self.feed_forward,
            self.layers,
            self.hidden / self.heads,
            heads = self.heads,
        );
        ModelConfig::from_json(&json).expect("a valid configuration")
    }

    fn student(&self) -> Student {
        Student::random(&self.config(), 1, 0.02).expect("a valid configuration")
    }
}

/// Rows of `T + 1` tokens, of which all but the first are predicted; no two share a beginning on purpose.
fn rows(count: usize) -> Vec<TokenizedRow> {
    let mut state = 1u32;
    let mut row = |group: usize| {
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) % V as u32
        };
        TokenizedRow {
            group: group as u32,
            tokens: (0..=T).map(|_| next()).collect(),
            spans: vec![Span {
                range: 1..T + 1,
                weight: 1.0,
            }],
            answer: T,
            ..TokenizedRow::default()
        }
    };
    (0..count).map(&mut row).collect()
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let after = |flag: &str| {
        let at = arguments.iter().position(|a| a == flag)?;
        arguments.get(at + 1)
    };
    if let Some(variant) = after("--worker") {
        let name = after("--size").expect("--size follows");
        let size = SIZES.iter().find(|s| s.name == name).expect("a size");
        return worker(variant, size);
    }
    let rounds: usize = after("--rounds").map_or(7, |n| n.parse().expect("a number"));
    let asked =
        |size: &&Size| !SIZES.iter().any(|s| has(&arguments, s.name)) || has(&arguments, size.name);
    let sizes: Vec<&Size> = SIZES.iter().filter(asked).collect();
    for size in &sizes {
        verify(size);
    }
    if has(&arguments, "--test") {
        return;
    }
    println!("size,parameters,variant,tokens_per_s,mad,lowest,highest,rounds");
    let tables: Vec<String> = sizes.iter().map(|size| measure(size, rounds)).collect();
    println!("size,against,ratio,lowest,highest,rounds");
    tables.iter().for_each(|table| print!("{table}"));
}

fn has(arguments: &[String], name: &str) -> bool {
    arguments.iter().any(|a| a == name)
}

// ---- the parent -------------------------------------------------------------------------------------------------------------

/// A process that makes steps on demand.
struct Worker {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Worker {
    fn start(variant: &Variant, size: &Size) -> Worker {
        let mut command = Command::new(std::env::current_exe().expect("a path"));
        if variant.keeps_heap {
            command.envs(KEPT_HEAP);
        }
        let mut child = command
            .args(["--worker", variant.code, "--size", size.name])
            .env("RAYON_NUM_THREADS", (CORES / variant.processes).to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let input = child.stdin.take().expect("piped");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let mut worker = Worker {
            child,
            input,
            output,
        };
        worker.finish(); // The first step has warmed up caches, threads and the allocator.
        worker
    }

    fn begin(&mut self) {
        writeln!(self.input, "go").expect("the worker listens");
    }

    /// Tokens per second.
    fn finish(&mut self) -> f64 {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("the worker speaks");
        line.trim().parse().expect("the worker reports a number")
    }
}

/// Times all variants in turn, prints their rows and returns those of the ratios.
fn measure(size: &Size, rounds: usize) -> String {
    let start = |variant: &Variant| -> Vec<Worker> {
        let workers = 0..variant.processes;
        workers.map(|_| Worker::start(variant, size)).collect()
    };
    let mut workers = VARIANTS.each_ref().map(start);
    let mut speeds = vec![Vec::new(); VARIANTS.len()];
    for _ in 0..rounds {
        for (workers, speeds) in workers.iter_mut().zip(&mut speeds) {
            workers.iter_mut().for_each(Worker::begin);
            speeds.push(workers.iter_mut().map(Worker::finish).sum::<f64>());
        }
    }
    let parameters: usize = size
        .student()
        .variables()
        .iter()
        .map(|(_, v)| v.elem_count())
        .sum();
    for ((variant, workers), speeds) in VARIANTS.iter().zip(workers).zip(&speeds) {
        let (low, high) = range(speeds);
        println!(
            "{},{parameters},{},{:.0},{:.0},{low:.0},{high:.0},{rounds}",
            size.name,
            variant.name,
            median(speeds),
            mad(speeds)
        );
        for worker in workers {
            let Worker {
                mut child, input, ..
            } = worker;
            drop(input); // Ends the worker.
            child.wait().expect("the worker ends");
        }
    }
    let mut table = String::new();
    let (ours, plain) = speeds.split_last().expect("variants");
    for (variant, speeds) in VARIANTS.iter().zip(plain) {
        let ratios: Vec<f64> = ours
            .iter()
            .zip(speeds)
            .map(|(ours, plain)| ours / plain)
            .collect();
        let (low, high) = range(&ratios);
        table += &format!(
            "{},{},{:.2},{low:.2},{high:.2},{rounds}\n",
            size.name,
            variant.name,
            median(&ratios)
        );
    }
    table
}

fn range(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::INFINITY, 0.0), |(low, high), v| {
        (v.min(low), v.max(high))
    })
}

// ---- the workers ------------------------------------------------------------------------------------------------------------

/// Counts steps; once a slice of time is over, reports and waits for the next.
struct Slices {
    begin: Instant,
    steps: usize,
    is_warm: bool,
}

impl Slices {
    fn new() -> Slices {
        Slices {
            begin: Instant::now(),
            steps: 0,
            is_warm: false,
        }
    }

    fn step(&mut self) {
        self.steps += 1;
        let seconds = self.begin.elapsed().as_secs_f64();
        if self.is_warm && seconds < SLICE {
            return;
        }
        println!("{}", (self.steps * BATCH * T) as f64 / seconds);
        let mut line = String::new();
        let read = std::io::stdin().read_line(&mut line);
        if !matches!(read, Ok(count) if count > 0) {
            std::process::exit(0);
        }
        *self = Slices {
            is_warm: true,
            ..Slices::new()
        };
    }
}

impl View for Slices {
    fn event(&mut self, event: &Event) -> skimstone_training::Result<()> {
        if let Event::Step { .. } = event {
            self.step();
        }
        Ok(())
    }
}

fn worker(variant: &str, size: &Size) {
    let rows = rows(4 * BATCH);
    let student = size.student();
    match variant {
        "plain" => {
            let plain = Plain::new(size, &student).expect("same tensors");
            let parameters = ParamsAdamW {
                lr: 1e-3,
                ..ParamsAdamW::default()
            };
            let mut optimizer = AdamW::new(plain.variables.clone(), parameters).expect("variables");
            let mut slices = Slices::new();
            for batch in rows.chunks_exact(BATCH).cycle() {
                let loss = plain.loss(batch).expect("a loss");
                optimizer.backward_step(&loss).expect("a step");
                loss.to_scalar::<f32>().expect("a number");
                slices.step();
            }
        }
        _ => {
            let mut trainer =
                Trainer::with_rows(recipe(size), student, rows, Vec::new()).expect("rows");
            trainer.run(None, &mut Slices::new()).expect("a run");
        }
    }
}

/// One worker, all rows of a step in it, as many steps as anybody asks for.
fn recipe(size: &Size) -> Recipe {
    let text = format!(
        r#"
        tokenizer = "none"
        data = []
        [model]
        model_type = "llama"
        hidden_size = {}
        intermediate_size = {}
        num_hidden_layers = {}
        num_attention_heads = {heads}
        num_key_value_heads = {heads}
        head_dim = {}
        [batch]
        micro_batch_tokens = {}
        micro_batches = 1
        workers = 1
        [optimizer]
        learning_rate = 1e-3
        [schedule]
        steps = 1000000000
        [checkpoint]
        every = 0
        report_every = 1
        "#,
        size.hidden,
        size.feed_forward,
        size.layers,
        size.hidden / size.heads,
        BATCH * (T + 1),
        heads = size.heads,
    );
    toml::from_str(&text).expect("a recipe")
}

// ---- plain candle -----------------------------------------------------------------------------------------------------------

/// The student out of `candle_nn` layers and tensor operations.
struct Plain {
    embedding: Embedding,
    layers: Vec<PlainLayer>,
    norm: LayerNorm,
    head: Linear,
    heads: usize,
    /// `[T, D/2]`
    cos: Tensor,
    sin: Tensor,
    /// `[T, T]`, minus infinity above the diagonal.
    mask: Tensor,
    variables: Vec<Var>,
}

struct PlainLayer {
    attention_norm: LayerNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    feed_forward_norm: LayerNorm,
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl Plain {
    /// Copies the student's weights.
    fn new(size: &Size, student: &Student) -> candle_core::Result<Plain> {
        let mut by_name = HashMap::new();
        let mut variables = Vec::new();
        for (name, variable) in student.variables() {
            let copy = Var::from_tensor(&variable.as_tensor().copy()?)?;
            by_name.insert(name.as_str(), copy.as_tensor().clone());
            variables.push(copy);
        }
        let get = |name: &str| by_name[name].clone();
        let layers = (0..size.layers)
            .map(|l| {
                let weight = |name: &str| get(&format!("model.layers.{l}.{name}.weight"));
                let linear = |name: &str| Linear::new(weight(name), None);
                let norm = |name: &str| LayerNorm::rms_norm(weight(name), 1e-6);
                PlainLayer {
                    attention_norm: norm("input_layernorm"),
                    q: linear("self_attn.q_proj"),
                    k: linear("self_attn.k_proj"),
                    v: linear("self_attn.v_proj"),
                    o: linear("self_attn.o_proj"),
                    feed_forward_norm: norm("post_attention_layernorm"),
                    gate: linear("mlp.gate_proj"),
                    up: linear("mlp.up_proj"),
                    down: linear("mlp.down_proj"),
                }
            })
            .collect();
        let dim = size.hidden / size.heads;
        let frequencies: Vec<f32> = (0..dim / 2)
            .map(|i| 10_000f32.powf(-((2 * i) as f32) / dim as f32))
            .collect();
        let positions = Tensor::arange(0u32, T as u32, &Device::Cpu)?
            .to_dtype(DType::F32)?
            .reshape((T, 1))?;
        let angles = positions.matmul(&Tensor::new(frequencies, &Device::Cpu)?.unsqueeze(0)?)?;
        let mask: Vec<f32> = (0..T * T)
            .map(|at| {
                if at % T > at / T {
                    f32::NEG_INFINITY
                } else {
                    0.0
                }
            })
            .collect();
        Ok(Plain {
            embedding: Embedding::new(get("model.embed_tokens.weight"), size.hidden),
            layers,
            norm: LayerNorm::rms_norm(get("model.norm.weight"), 1e-6),
            head: Linear::new(get("model.embed_tokens.weight"), None),
            heads: size.heads,
            cos: angles.cos()?,
            sin: angles.sin()?,
            mask: Tensor::from_vec(mask, (T, T), &Device::Cpu)?,
            variables,
        })
    }

    /// Mean cross-entropy of a batch of rows.
    fn loss(&self, rows: &[TokenizedRow]) -> candle_core::Result<Tensor> {
        let flat = |from: usize| -> Vec<u32> {
            rows.iter()
                .flat_map(|row| row.tokens[from..from + T].to_vec())
                .collect()
        };
        let inputs = Tensor::from_vec(flat(0), (rows.len(), T), &Device::Cpu)?;
        let targets = Tensor::from_vec(flat(1), rows.len() * T, &Device::Cpu)?;
        let mut x = self.embedding.forward(&inputs)?;
        for layer in &self.layers {
            let h = layer.attention_norm.forward(&x)?;
            x = (&x + self.attention(layer, &h)?)?;
            let h = layer.feed_forward_norm.forward(&x)?;
            let activated = (layer.gate.forward(&h)?.silu()? * layer.up.forward(&h)?)?;
            x = (&x + layer.down.forward(&activated)?)?;
        }
        let logits = self.head.forward(&self.norm.forward(&x)?)?;
        candle_nn::loss::cross_entropy(&logits.flatten(0, 1)?, &targets)
    }

    fn attention(&self, layer: &PlainLayer, h: &Tensor) -> candle_core::Result<Tensor> {
        let (batch, tokens, width) = h.dims3()?;
        let dim = width / self.heads;
        let split = |x: Tensor| {
            x.reshape((batch, tokens, self.heads, dim))?
                .transpose(1, 2)?
                .contiguous()
        };
        let turn = |x: Tensor| candle_nn::rotary_emb::rope_slow(&x, &self.cos, &self.sin);
        let q = turn(split(layer.q.forward(h)?)?)?;
        let k = turn(split(layer.k.forward(h)?)?)?;
        let v = split(layer.v.forward(h)?)?;
        let scores = (q.matmul(&k.t()?)? / (dim as f64).sqrt())?.broadcast_add(&self.mask)?;
        let out = candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&v)?;
        layer
            .o
            .forward(&out.transpose(1, 2)?.reshape((batch, tokens, width))?)
    }
}

/// Asserts that both compute the same loss and the same gradients from the same weights.
fn verify(size: &Size) {
    let student = size.student();
    let rows = rows(BATCH);
    let mut batch = Batch::default();
    rows.iter().for_each(|row| batch.push_row(row));
    let read = |tensor: &Tensor| -> Vec<f32> {
        let flat = tensor.flatten_all().and_then(|flat| flat.to_vec1());
        flat.expect("values")
    };
    let variables = student.variables().iter();
    let weights: Vec<f32> = variables.flat_map(|(_, v)| read(v)).collect();
    let mut gradient = vec![0f32; weights.len()];
    let mut pass = Pass::new(student.config(), student.side());
    let (loss, _) =
        supervised_gradient(&mut pass, &weights, &batch, &mut gradient).expect("a pass");
    let (loss, total) = (loss / batch.total_weight(), batch.total_weight());

    let plain = Plain::new(size, &student).expect("same tensors");
    let theirs = plain.loss(&rows).expect("a loss");
    let expected = f64::from(theirs.to_scalar::<f32>().expect("a number"));
    // Sums of 2048 terms of about 6.2 in f32, in another order: some units in the seventh digit.
    assert!(
        (loss - expected).abs() < 1e-5 * expected,
        "{}: loss {loss}, plain {expected}",
        size.name
    );
    let theirs = theirs.backward().expect("gradients");
    let (mut start, mut worst) = (0, 0f64);
    for ((name, _), copy) in student.variables().iter().zip(&plain.variables) {
        let theirs = read(theirs.get(copy).expect("every weight has a gradient"));
        let ours = &gradient[start..start + theirs.len()];
        start += theirs.len();
        let (mut difference, mut norm) = (0f64, 0f64);
        for (a, b) in ours.iter().zip(&theirs) {
            let (a, b) = (f64::from(*a) / total, f64::from(*b));
            difference += (a - b) * (a - b);
            norm += b * b;
        }
        let relative = (difference / norm).sqrt();
        // Two orders of summation through the whole depth: rounding of f32 (6e-8) times the root of a few thousand terms.
        assert!(
            relative < 2e-5,
            "{}: gradient of {name} differs by {relative:e}",
            size.name
        );
        worst = worst.max(relative);
    }
    eprintln!(
        "{}: loss {loss:.6} and {expected:.6}, gradients differ by at most {worst:.1e} of their norm",
        size.name
    );
}
