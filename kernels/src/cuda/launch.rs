//! Launches: a function per kernel that takes its arguments by type, in the order of the source.

use super::abi::{
    AttentionShape, DecodeBuffers, DecodeModel, KvLayer, KvSlot, Matrix, Product, Products, Ptr,
};
use crate::{Format, KvFormat};

/// What can be passed to a kernel: its bytes, as the device lays them out.
pub trait Argument {
    /// Appends the bytes.
    fn write(&self, out: &mut Vec<u8>);
}

macro_rules! numbers {
    ($($type:ty),*) => {
        $(impl Argument for $type {
            fn write(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
        })*
    };
}
numbers!(u32, u64, f32);

impl<T: Argument, const N: usize> Argument for [T; N] {
    fn write(&self, out: &mut Vec<u8>) {
        for value in self {
            value.write(out);
        }
    }
}

/// How many threads run a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Blocks.
    pub blocks: [u32; 3],
    /// Threads of a block: whole warps of 32.
    pub threads: u32,
    /// Bytes of shared memory beside those that the kernel declares.
    pub shared_bytes: u32,
    /// Whether all blocks must be on the device at once.
    pub cooperative: bool,
}

impl Grid {
    /// So many blocks in a row.
    pub const fn new(blocks: usize, threads: usize) -> Self {
        Self::of([blocks, 1, 1], threads)
    }

    /// Blocks in three dimensions.
    pub const fn of([x, y, z]: [usize; 3], threads: usize) -> Self {
        Self {
            blocks: [x as u32, y as u32, z as u32],
            threads: threads as u32,
            shared_bytes: 0,
            cooperative: false,
        }
    }

    /// With dynamic shared memory.
    #[must_use]
    pub const fn with_shared_bytes(mut self, bytes: usize) -> Self {
        self.shared_bytes = bytes as u32;
        self
    }

    /// With all blocks on the device at once.
    #[must_use]
    pub const fn cooperative(mut self) -> Self {
        self.cooperative = true;
        self
    }
}

/// A kernel, its grid and its arguments.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Name in the source.
    pub kernel: &'static str,
    /// How many threads.
    pub grid: Grid,
    /// The bytes of each argument.
    pub arguments: Vec<Vec<u8>>,
}

/// A kernel and what it takes.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    /// Name in the source.
    pub name: &'static str,
    /// Names and types, in order.
    pub parameters: &'static [(&'static str, &'static str)],
}

macro_rules! kernels {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $type:ty),* $(,)?);)*) => {
        $(
            $(#[$doc])*
            pub fn $name(grid: Grid, $($arg: $type),*) -> Launch {
                let mut arguments = Vec::new();
                $({
                    let mut bytes = Vec::new();
                    $arg.write(&mut bytes);
                    arguments.push(bytes);
                })*
                Launch { kernel: stringify!($name), grid, arguments }
            }
        )*
        /// Every kernel.
        pub const KERNELS: &[Kernel] = &[$(Kernel {
            name: stringify!($name),
            parameters: &[$((stringify!($arg), stringify!($type))),*],
        }),*];
    };
}

kernels! {
    /// Rounds `x` `[T, cols]` to int8 blocks, a warp per block.
    skim_quantize(x: Ptr<f32>, codes: Ptr<i8>, scales: Ptr<Scale>, cols: u32, tokens: u32);
    /// RMS norm, rounded and, where `out` is not null, as floats; a block per token.
    skim_rms_norm(x: Ptr<f32>, weight: Ptr<f32>, eps: f32, cols: u32, out: Ptr<f32>, codes: Ptr<i8>, scales: Ptr<Scale>);
    /// `silu(gate) · up`, rounded; a warp per block.
    skim_silu_mul(gate: Ptr<f32>, up: Ptr<f32>, codes: Ptr<i8>, scales: Ptr<Scale>, cols: u32, tokens: u32);
    /// Norms and rotates queries in place and appends keys and values; warps for `H + G` heads, tokens.
    skim_rope_append(q: Ptr<f32>, k: Ptr<f32>, v: Ptr<f32>, q_norm: Ptr<f32>, k_norm: Ptr<f32>, angles: Ptr<Float2>, positions: Ptr<u32>, slots: Ptr<KvSlot>, shape: AttentionShape);
    /// Attention for heads of up to 64; blocks `(G, splits, T)`.
    skim_attention_64(q: Ptr<f32>, positions: Ptr<u32>, kv: Ptr<KvLayer>, parts: Ptr<f32>, shape: AttentionShape);
    /// Attention for heads of up to 128.
    skim_attention_128(q: Ptr<f32>, positions: Ptr<u32>, kv: Ptr<KvLayer>, parts: Ptr<f32>, shape: AttentionShape);
    /// Attention for heads of up to 256.
    skim_attention_256(q: Ptr<f32>, positions: Ptr<u32>, kv: Ptr<KvLayer>, parts: Ptr<f32>, shape: AttentionShape);
    /// As [`skim_attention_64`], for up to four query heads per key head.
    skim_attention_64_few(q: Ptr<f32>, positions: Ptr<u32>, kv: Ptr<KvLayer>, parts: Ptr<f32>, shape: AttentionShape);
    /// As [`skim_attention_128`], for up to four query heads per key head.
    skim_attention_128_few(q: Ptr<f32>, positions: Ptr<u32>, kv: Ptr<KvLayer>, parts: Ptr<f32>, shape: AttentionShape);
    /// Joins the splits; warps for the blocks of a token, tokens.
    skim_attention_merge(parts: Ptr<f32>, splits: u32, shape: AttentionShape, out: Ptr<f32>, codes: Ptr<i8>, scales: Ptr<Scale>);
    /// Rows of the embedding; threads for a row, tokens.
    skim_embed(w: Matrix, tokens: Ptr<u32>, out: Ptr<f32>);
    /// The gate of a router; a block per token.
    skim_gate(x: Ptr<f32>, weight: Ptr<f32>, bias: f32, threshold: f32, eps: f32, cols: u32, values: Ptr<f32>, taken: Ptr<u32>);
    /// GELU, rounded; a warp per block.
    skim_gelu(x: Ptr<f32>, codes: Ptr<i8>, scales: Ptr<Scale>, cols: u32);
    /// Layer norm; a block per token.
    skim_layer_norm(x: Ptr<f32>, weight: Ptr<f32>, bias: Ptr<f32>, cols: u32, out: Ptr<f32>);
    /// Up to three products with one token; `team` warps per panel, and any number of blocks.
    skim_gemv(products_of: Products, codes: Ptr<i8>, scales: Ptr<Scale>, team: u32, best: Ptr<u64>);
    /// `silu(gate · x) · (up · x)`, rounded; blocks of a multiple of four warps, any number of them.
    skim_gemv_gated(gate: Matrix, up: Matrix, codes: Ptr<i8>, scales: Ptr<Scale>, out: Ptr<i8>, out_scales: Ptr<Scale>);
    /// A product with float weights; warps for the rows, tokens.
    skim_gemv_float(p: Product, x: Ptr<f32>);
    /// A product with several tokens on the dot-product units, 128 threads.
    skim_gemm(p: Product, codes: Ptr<i8>, scales: Ptr<Scale>, tokens: u32);
    /// A product with several tokens on the tensor cores, 128 threads.
    skim_gemm_mma(p: Product, codes: Ptr<i8>, scales: Ptr<Scale>, tokens: u32);
    /// The rank of the largest value; see [`index_of_rank`].
    skim_argmax(x: Ptr<f32>, n: u32, best: Ptr<u64>);
    /// The ranks of the largest values of each piece; a block per piece.
    skim_top_k_pieces(x: Ptr<f32>, n: u32, k: u32, ranks: Ptr<u64>);
    /// The largest of those; one block.
    skim_top_k(ranks: Ptr<u64>, n: u32, k: u32, best: Ptr<u64>, indices: Ptr<u32>, values: Ptr<f32>);
    /// A chain of steps for heads of up to 64; cooperative.
    skim_decode_64(model: Ptr<DecodeModel>, buffers: Ptr<DecodeBuffers>, position: u32, steps: u32, splits: u32);
    /// A chain of steps for heads of up to 128; cooperative.
    skim_decode_128(model: Ptr<DecodeModel>, buffers: Ptr<DecodeBuffers>, position: u32, steps: u32, splits: u32);
    /// A chain of steps for heads of up to 256; cooperative.
    skim_decode_256(model: Ptr<DecodeModel>, buffers: Ptr<DecodeBuffers>, position: u32, steps: u32, splits: u32);
}

/// What the bytes of a block of activations are worth, and their sum: two words.
pub type Scale = [u32; 2];

/// A cosine and a sine.
pub type Float2 = [f32; 2];

/// The index in a rank that [`skim_argmax`] or [`skim_gemv`] found: 0 if nothing was larger than minus infinity.
pub const fn index_of_rank(rank: u64) -> u32 {
    if rank == 0 { 0 } else { !(rank as u32) }
}

/// How kernels call a weight format.
pub const fn format_number(format: Format) -> u32 {
    match format {
        Format::F32 => 0,
        Format::F16 => 1,
        Format::Q8 => 2,
        Format::Q4 => 3,
    }
}

/// How kernels call a format of keys and values.
pub const fn kv_format_number(format: KvFormat) -> u32 {
    match format {
        KvFormat::F32 => 0,
        KvFormat::F16 => 1,
        KvFormat::Q8 => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::super::abi::STRUCTS;
    use super::KERNELS;

    const SOURCE: &str = concat!(
        include_str!("device.cuh"),
        include_str!("rope.cuh"),
        include_str!("attention.cuh"),
        include_str!("ops.cu"),
        include_str!("products.cu"),
        include_str!("head.cu"),
        include_str!("decode.cu"),
    );

    /// `name` and type of a declaration in C, and the type as it is called here.
    fn parameter(declared: &str) -> (String, String) {
        let declared = declared.trim();
        let at = declared
            .rfind(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or_else(|| panic!("`{declared}` has no type"));
        let (kind, name) = declared.split_at(at + 1);
        let kind = kind.trim().trim_start_matches("const ").trim();
        let plain = |kind: &str| match kind {
            "uint8_t" => "u8".to_owned(),
            "int8_t" => "i8".to_owned(),
            "uint32_t" => "u32".to_owned(),
            "uint64_t" => "u64".to_owned(),
            "float" => "f32".to_owned(),
            "float2" => "Float2".to_owned(),
            other => other.to_owned(),
        };
        let kind = match kind.strip_suffix('*') {
            Some(to) => format!("Ptr<{}>", plain(to.trim())),
            None => plain(kind),
        };
        (name.to_owned(), kind)
    }

    fn declared(name: &str) -> Vec<(String, String)> {
        // Kernels that a macro stamps have the macro's parameters.
        let (name, from) = match name.rsplit_once('_') {
            _ if name.starts_with("skim_attention_") && name != "skim_attention_merge" => {
                ("name", "#define ATTENTION_KERNEL")
            }
            _ if name.starts_with("skim_decode_") => ("name", "#define DECODE_KERNEL"),
            _ => (name, ""),
        };
        let start = SOURCE.find(from).expect("the macro is there");
        let open = format!("{name}(");
        let rest = &SOURCE[start..];
        let global = rest
            .match_indices("__global__")
            .find_map(|(at, _)| {
                let at = at + rest[at..].find("__launch_bounds__(")?;
                let body = at + rest[at..].find(')')? + 1;
                let text = rest[body..].trim_start_matches([' ', '\\', '\n']);
                text.strip_prefix(&open)
            })
            .unwrap_or_else(|| panic!("no kernel `{name}` in the source"));
        let end = global.find(')').expect("the parameters end");
        global[..end].split(',').map(parameter).collect()
    }

    #[test]
    fn launches_agree_with_the_source() {
        for kernel in KERNELS {
            let here: Vec<_> = kernel
                .parameters
                .iter()
                .map(|(name, kind)| ((*name).to_owned(), (*kind).to_owned()))
                .collect();
            assert_eq!(declared(kernel.name), here, "{}", kernel.name);
        }
        let stamped = SOURCE.matches("_KERNEL(skim_").count();
        let written = SOURCE.matches("extern \"C\" __global__").count() - 2;
        assert_eq!(stamped + written, KERNELS.len(), "kernels without a launch");
    }

    #[test]
    fn structs_agree_with_the_source() {
        for (name, fields) in STRUCTS {
            let open = format!("struct {name} {{");
            let start = SOURCE
                .find(&open)
                .unwrap_or_else(|| panic!("no `{open}` in the source"));
            let body = &SOURCE[start + open.len()..];
            let body = &body[..body.find("};").expect("it ends")];
            let mut found = Vec::new();
            for line in body.lines().map(str::trim) {
                let Some(line) = line.strip_suffix(';').filter(|l| !l.starts_with("//")) else {
                    continue;
                };
                // `Matrix up, down` declares two; `Product of[3]` an array.
                let mut parts = line.split(',');
                let first = parts.next().expect("one at least");
                if let Some((declared, count)) = first.split_once('[') {
                    let (name, kind) = parameter(declared);
                    found.push((name, format!("[{kind}; {}]", count.trim_end_matches(']'))));
                    continue;
                }
                let (name, kind) = parameter(first);
                found.push((name, kind.clone()));
                found.extend(parts.map(|name| (name.trim().to_owned(), kind.clone())));
            }
            let here: Vec<_> = fields
                .iter()
                .map(|(name, kind)| {
                    let kind = kind.replace("[f32; 2]", "Float2").replace(
                        "Ptr<[u32; 2]>",
                        match *name {
                            "barrier" => "Ptr<GridBarrier>",
                            _ => "Ptr<Scale>",
                        },
                    );
                    ((*name).to_owned(), kind)
                })
                .collect();
            assert_eq!(found, here, "struct {name}");
        }
    }
}
