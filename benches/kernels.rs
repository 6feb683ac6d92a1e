//! Ops at the shapes of real models: time, bytes and multiply-adds per second, and the share of what the machine gives in the same run.
//!
//! ```text
//! cargo bench -p skimstone-benches --bench kernels                    all, two threads
//! SKIMSTONE_THREADS=1 cargo bench … -- decode                        one thread, the ops of decoding
//! cargo bench … -- --test                                             verifies only
//! ```
//!
//! The last lines are CSV rows for `record/`: op with format and shape, threads, median µs and the median distance from it, GB/s, share of
//! the stream-read ceiling, multiply-adds per ns, share of the int8 ceiling. Float weights can reach at most a quarter of that: a register
//! holds four bytes for each float.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use skimstone_benches::{ceiling, mad, median};
use skimstone_kernels::{
    Activations, AttentionShape, Cpu, Format, KvBlock, KvFormat, KvSource, Matrix, quant, tables,
};

/// Weights of one op cycle through at least this many bytes, so that none is in a cache when its turn comes.
const COLD_BYTES: usize = 192 << 20;

/// Qwen2.5-0.5B: q and o projection, gate and up, down, a quarter of the head.
const SHAPES: [(&str, usize, usize); 4] = [
    ("attention", 896, 896),
    ("gate", 4864, 896),
    ("down", 896, 4864),
    ("head", 37_984, 896),
];

struct Measured {
    name: String,
    bytes: usize,
    products: usize,
    seconds: Vec<f64>,
}

fn main() {
    let threads = std::env::var("SKIMSTONE_THREADS").map_or(2, |n| n.parse().expect("a number"));
    let is_test = std::env::args().any(|arg| arg == "--test");
    let cpu = Cpu::new(threads).expect("threads");
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
        .sample_size(20)
        .configure_from_args();
    let ceilings = || (ceiling::stream_read(threads), ceiling::int8_dot(threads));
    let before = (!is_test).then(ceilings);
    let measured = RefCell::new(Vec::new());
    for format in [Format::Q4, Format::Q8, Format::F16, Format::F32] {
        for (op, rows, cols) in SHAPES {
            for tokens in [1, 128] {
                if tokens == 1 || op != "head" {
                    matmul(
                        &mut criterion,
                        &cpu,
                        format,
                        (op, rows, cols),
                        tokens,
                        &measured,
                    );
                }
            }
        }
    }
    for depth in [512, 2048, 8192] {
        for format in KvFormat::ALL {
            attention(&mut criterion, &cpu, format, depth, &measured);
        }
    }
    criterion.final_summary();
    let Some(before) = before else { return };
    let after = ceilings();
    let read = before.0.max(after.0);
    let dot = before.1.zip(after.1).map(|(a, b)| a.max(b));
    println!(
        "# {} threads, {}; stream read {:.1} then {:.1} GB/s; int8 {:.0} then {:.0} multiply-adds/ns",
        threads,
        cpu.name(),
        before.0 / 1e9,
        after.0 / 1e9,
        before.1.unwrap_or_default() / 1e9,
        after.1.unwrap_or_default() / 1e9,
    );
    println!("op,threads,median_us,mad_us,gb_s,of_stream,macs_per_ns,of_int8");
    for Measured {
        name,
        bytes,
        products,
        seconds,
    } in measured
        .borrow()
        .iter()
        .filter(|one| !one.seconds.is_empty())
    {
        let time = median(seconds);
        let (bytes_s, products_s) = (*bytes as f64 / time, *products as f64 / time);
        println!(
            "{name},{threads},{:.1},{:.2},{:.2},{:.3},{:.1},{}",
            time * 1e6,
            mad(seconds) * 1e6,
            bytes_s / 1e9,
            bytes_s / read,
            products_s / 1e9,
            dot.map_or(String::new(), |dot| format!("{:.3}", products_s / dot)),
        );
    }
}

fn matmul(
    criterion: &mut Criterion,
    cpu: &Cpu,
    format: Format,
    (op, rows, cols): (&str, usize, usize),
    tokens: usize,
    measured: &RefCell<Vec<Measured>>,
) {
    let phase = if tokens == 1 { "decode" } else { "prefill" };
    let name = format!("{phase}/{op}/{format}/{rows}x{cols}x{tokens}");
    let bytes = format.panels(rows) * format.panel_bytes(cols);
    let copies = COLD_BYTES.div_ceil(bytes).clamp(1, 400);
    let one = weights(format, rows, cols);
    let all: Vec<u8> = one.iter().copied().cycle().take(copies * bytes).collect();
    let x: Vec<f32> = (0..tokens * cols)
        .map(|i| (i * 37 % 101) as f32 * 0.01 - 0.5)
        .collect();
    let mut acts = Activations::new(tokens, cols);
    cpu.load(&mut acts, &x, cols, true).expect("fits");
    verify(cpu, format, rows, cols, &one, &x);

    let mut y = vec![0.0; tokens * rows];
    let mut seconds = Vec::new();
    let mut group = criterion.benchmark_group("matmul");
    group.throughput(Throughput::Bytes(bytes as u64));
    let mut next = 0;
    group.bench_function(&name, |bencher| {
        bencher.iter_custom(|rounds| {
            let start = Instant::now();
            for _ in 0..rounds {
                let weights = &all[next % copies * bytes..][..bytes];
                let w = Matrix::new(format, rows, cols, weights).expect("whole panels");
                cpu.linear(&w.into(), &acts, &mut y).expect("shapes agree");
                next += 1;
            }
            let elapsed = start.elapsed();
            seconds.push(elapsed.as_secs_f64() / rounds as f64);
            elapsed
        });
    });
    group.finish();
    measured.borrow_mut().push(Measured {
        name,
        bytes,
        products: rows * cols * tokens,
        seconds,
    });
}

/// Keys and values of some layers in blocks of 32 positions, as a session holds them.
struct Cache {
    format: KvFormat,
    blocks: Vec<[Vec<u8>; 2]>,
    positions: Vec<u32>,
}

impl KvSource for Cache {
    fn format(&self) -> KvFormat {
        self.format
    }

    fn blocks(&self) -> usize {
        self.blocks.len()
    }

    fn block(&self, i: usize) -> KvBlock<'_> {
        let [k, v] = &self.blocks[i];
        KvBlock {
            k,
            v,
            stride: KV_BLOCK,
            len: KV_BLOCK,
            positions: &self.positions[i * KV_BLOCK..][..KV_BLOCK],
            visible: u64::MAX,
        }
    }
}

const KV_BLOCK: usize = 32;

/// One token of Qwen2.5-0.5B at some depth. A figure is of one layer; the layers take turns, as in a step.
fn attention(
    criterion: &mut Criterion,
    cpu: &Cpu,
    format: KvFormat,
    depth: usize,
    measured: &RefCell<Vec<Measured>>,
) {
    let layers = 24;
    let shape = AttentionShape {
        heads: 14,
        kv_heads: 2,
        head_dim: 64,
        scale: 0.125,
    };
    let head_bytes = format.head_bytes(KV_BLOCK, shape.head_dim);
    let entry: Vec<f32> = (0..shape.kv_heads * shape.head_dim)
        .map(|i| (i * 37 % 101) as f32 * 0.01 - 0.5)
        .collect();
    let mut block = [(); 2].map(|()| vec![0; shape.kv_heads * head_bytes]);
    for slot in 0..KV_BLOCK {
        let [k, v] = &mut block;
        format
            .write_entry(slot, KV_BLOCK, shape.head_dim, [&entry, &entry], [k, v])
            .expect("sizes agree");
    }
    let layer = || Cache {
        format,
        blocks: vec![block.clone(); depth / KV_BLOCK],
        positions: (0..depth as u32).collect(),
    };
    let layers: Vec<Cache> = (0..layers).map(|_| layer()).collect();
    let q = vec![0.1; shape.heads * shape.head_dim];
    let mut out = vec![0.0; q.len()];
    let mut room = vec![0.0; shape.room(depth / KV_BLOCK)];
    // All entries are alike, so the answer is that entry, whatever the weights: within half a step of 8 bits.
    let positions = [depth as u32];
    cpu.attention(&q, &positions, shape, &layers[0], &mut room, &mut out)
        .expect("sizes agree");
    for (i, out) in out.iter().enumerate() {
        let want = entry[i / 64 / 7 * 64 + i % 64];
        assert!(
            (out - want).abs() < 0.003,
            "{format:?}: {out}, expected {want}"
        );
    }

    let name = format!("attention/depth{depth}/{}", format.name());
    let bytes = 2 * shape.kv_heads * head_bytes * (depth / KV_BLOCK);
    let (mut seconds, mut next) = (Vec::new(), 0);
    criterion.bench_function(&name, |bencher| {
        bencher.iter_custom(|rounds| {
            let start = Instant::now();
            for _ in 0..rounds {
                let layer = &layers[next % layers.len()];
                cpu.attention(&q, &positions, shape, layer, &mut room, &mut out)
                    .expect("sizes agree");
                next += 1;
            }
            let elapsed = start.elapsed();
            seconds.push(elapsed.as_secs_f64() / rounds as f64);
            elapsed
        });
    });
    measured.borrow_mut().push(Measured {
        name,
        bytes,
        products: 2 * q.len() * depth,
        seconds,
    });
}

fn weights(format: Format, rows: usize, cols: usize) -> Vec<u8> {
    let mut bytes = vec![0; format.panels(rows) * format.panel_bytes(cols)];
    let mut state = 1u32;
    let mut values = vec![0.0; format.panel_rows() * cols];
    for panel in bytes.chunks_exact_mut(format.panel_bytes(cols)) {
        for value in &mut values {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *value = (state >> 8) as f32 / (1 << 23) as f32 - 1.0;
        }
        quant::pack_panel(format, cols, &values, panel).expect("finite values");
    }
    bytes
}

/// The first token against the scalar reference.
fn verify(cpu: &Cpu, format: Format, rows: usize, cols: usize, weights: &[u8], x: &[f32]) {
    let table = *tables().last().expect("scalar is always there");
    let scalar = Cpu::with_table(table, 1).expect("one thread");
    let w = Matrix::new(format, rows, cols, weights).expect("whole panels");
    let run = |cpu: &Cpu| {
        let mut acts = Activations::new(1, cols);
        cpu.load(&mut acts, &x[..cols], cols, true).expect("fits");
        let mut y = vec![0.0; rows];
        cpu.linear(&w.into(), &acts, &mut y).expect("shapes agree");
        y
    };
    for (row, (got, want)) in run(cpu).iter().zip(run(&scalar)).enumerate() {
        let bound = 1e-4 * want.abs() + 1e-3;
        assert!(
            (got - want).abs() < bound,
            "{format} row {row}: {got}, expected {want}"
        );
    }
}
