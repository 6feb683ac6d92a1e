//! Inputs shaped to matter, and comparisons that say what went wrong.
#![allow(dead_code, reason = "each test binary uses a part")]

use skimstone_kernels::{
    Activations, Cpu, Format, KvBlock, KvFormat, KvSource, Matrix, Table, quant, tables,
};

/// Half an ulp of 1: the relative error of one rounding.
pub(crate) const U: f32 = f32::EPSILON / 2.0;

/// Roundings on the way of one product through the longest chain: `n` terms over at least 4 lanes, each at most two
/// roundings (the generic table has no fused multiply-add), then the lanes; the scale product and the conversion of the
/// int8 path add some.
pub(crate) fn roundings(n: usize) -> f32 {
    2.0 * (n / 4) as f32 + 12.0
}

/// A small seeded generator (SplitMix64), so that a failure can be repeated.
pub(crate) struct Rng(pub u64);

impl Rng {
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// Uniform in -1..1.
    pub(crate) fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// Mostly ordinary values; some outliers 20 times larger, zeros of both signs and denormals, as activations have.
    pub(crate) fn value(&mut self) -> f32 {
        match self.below(64) {
            0 => 20.0 * self.unit(),
            1 => 0.0,
            2 => -0.0,
            3 => 1e-40 * self.unit(),
            _ => self.unit() + self.unit() + self.unit(),
        }
    }

    pub(crate) fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }
}

/// The specification.
pub(crate) fn scalar_table() -> &'static Table {
    tables()
        .into_iter()
        .find(|t| t.name() == "scalar")
        .expect("scalar is always there")
}

/// The specification on one thread.
pub(crate) fn scalar() -> Cpu {
    Cpu::with_table(scalar_table(), 1).unwrap()
}

/// Every table but the specification.
pub(crate) fn fast_tables() -> Vec<&'static Table> {
    tables()
        .into_iter()
        .filter(|t| t.name() != "scalar")
        .collect()
}

/// The fast tables, each with a pool of so many threads.
pub(crate) fn cpus(threads: usize) -> Vec<Cpu> {
    fast_tables()
        .into_iter()
        .map(|t| Cpu::with_table(t, threads).unwrap())
        .collect()
}

/// Whether to run a reduced set: an emulator is some 30 times slower than the CPU it runs on.
pub(crate) fn quick() -> bool {
    std::env::var_os("SKIMSTONE_TEST_QUICK").is_some()
}

/// A packed matrix that owns its bytes, aligned for every format.
pub(crate) struct Packed {
    pub(crate) format: Format,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// The bytes from `start` on, which is aligned for every format; a `Vec<u8>` itself may begin anywhere.
    room: Vec<u8>,
    start: usize,
}

impl Packed {
    pub(crate) fn new(format: Format, rows: usize, cols: usize, values: &[f32]) -> Self {
        let panel_bytes = format.panel_bytes(cols);
        let mut bytes = vec![0; format.panels(rows) * panel_bytes];
        for (panel, x) in bytes
            .chunks_exact_mut(panel_bytes)
            .zip(values.chunks(cols * format.panel_rows()))
        {
            quant::pack_panel(format, cols, x, panel).unwrap();
        }
        Self::from_bytes(format, rows, cols, &bytes)
    }

    pub(crate) fn from_bytes(format: Format, rows: usize, cols: usize, bytes: &[u8]) -> Self {
        let mut room = vec![0; bytes.len() + 4];
        let start = room.as_ptr().align_offset(4);
        room[start..start + bytes.len()].copy_from_slice(bytes);
        room.truncate(start + bytes.len());
        Self {
            format,
            rows,
            cols,
            room,
            start,
        }
    }

    pub(crate) fn matrix(&self) -> Matrix<'_> {
        Matrix::new(self.format, self.rows, self.cols, &self.room[self.start..]).unwrap()
    }

    /// The stored values `[rows, cols]`.
    pub(crate) fn unpacked(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows * self.cols];
        for (r, out) in out.chunks_exact_mut(self.cols).enumerate() {
            self.matrix().row_into(r, out).unwrap();
        }
        out
    }

    pub(crate) fn matmul(&self, cpu: &Cpu, x: &[f32]) -> Vec<f32> {
        let tokens = x.len() / self.cols;
        let mut acts = Activations::new(tokens, self.cols);
        cpu.load(&mut acts, x, self.cols, self.format.is_quantized())
            .unwrap();
        let mut y = vec![f32::NAN; tokens * self.rows];
        cpu.linear(&self.matrix().into(), &acts, &mut y).unwrap();
        y
    }
}

/// Blocks of keys and values that own their memory.
pub(crate) struct Kv {
    pub(crate) format: KvFormat,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) stride: usize,
    pub(crate) blocks: Vec<Block>,
}

#[derive(Clone)]
pub(crate) struct Block {
    pub(crate) k: Vec<u8>,
    pub(crate) v: Vec<u8>,
    pub(crate) positions: Vec<u32>,
    pub(crate) visible: u64,
}

impl Kv {
    /// `entries` entries in blocks of `stride`, at positions 0, 1, …; what no entry uses is NaN.
    pub(crate) fn new(
        rng: &mut Rng,
        format: KvFormat,
        kv_heads: usize,
        head_dim: usize,
        stride: usize,
        entries: usize,
    ) -> Self {
        let mut kv = Self {
            format,
            kv_heads,
            head_dim,
            stride,
            blocks: Vec::new(),
        };
        for position in 0..entries {
            let slot = position % stride;
            if slot == 0 {
                // All ones is a NaN in every float type.
                let unused = vec![0xff; kv_heads * format.head_bytes(stride, head_dim)];
                kv.blocks.push(Block {
                    k: unused.clone(),
                    v: unused,
                    positions: vec![],
                    visible: u64::MAX,
                });
            }
            let block = kv.blocks.last_mut().unwrap();
            let (k, v) = (
                rng.values(kv_heads * head_dim),
                rng.values(kv_heads * head_dim),
            );
            format
                .write_entry(
                    slot,
                    stride,
                    head_dim,
                    [&k, &v],
                    [&mut block.k, &mut block.v],
                )
                .unwrap();
            block.positions.push(position as u32);
        }
        kv
    }
}

impl Kv {
    /// The largest magnitude among stored values, those of unused entries aside.
    pub(crate) fn largest(&self, bytes: &[u8]) -> f32 {
        let values: Vec<f32> = match self.format {
            KvFormat::F32 => bytes
                .chunks(4)
                .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
                .collect(),
            KvFormat::Q8 => bytes
                .chunks(self.format.head_bytes(self.stride, self.head_dim))
                .flat_map(|head| head[self.stride * self.head_dim..].chunks(4))
                .map(|b| 127.0 * f32::from_le_bytes(b.try_into().unwrap()))
                .collect(),
            _ => bytes
                .chunks(2)
                .map(|b| half::f16::from_le_bytes(b.try_into().unwrap()).to_f32())
                .collect(),
        };
        let finite = values.into_iter().filter(|v| !v.is_nan());
        finite.fold(0.0, |m, v| m.max(v.abs()))
    }
}

impl KvSource for Kv {
    fn format(&self) -> KvFormat {
        self.format
    }

    fn blocks(&self) -> usize {
        self.blocks.len()
    }

    fn block(&self, i: usize) -> KvBlock<'_> {
        let b = &self.blocks[i];
        KvBlock {
            k: &b.k,
            v: &b.v,
            stride: self.stride,
            len: b.positions.len(),
            positions: &b.positions,
            visible: b.visible,
        }
    }
}

/// Every value of `got` within its tolerance of `want`.
#[track_caller]
pub(crate) fn assert_close(
    what: &str,
    got: &[f32],
    want: &[f32],
    tolerance: impl Fn(usize) -> f32,
) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let tolerance = tolerance(i);
        let close =
            (g - w).abs() <= tolerance || g.to_bits() == w.to_bits() || (g.is_nan() && w.is_nan());
        assert!(
            close,
            "{what}: value {i} is {g:e}, expected {w:e} ± {tolerance:e}"
        );
    }
}

/// The same bits.
#[track_caller]
pub(crate) fn assert_same(what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert_eq!(
            g.to_bits(),
            w.to_bits(),
            "{what}: value {i} is {g:e}, not the same bits as {w:e}"
        );
    }
}
