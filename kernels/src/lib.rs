//! CPU kernels of skimstone: every op of a Llama-family forward pass.
//!
//! Two layers and no more. [`Cpu`] is the safe layer: it checks every length once, splits the work over a small pool of
//! worker threads and calls through a [`Table`], a named set of plain function pointers. Below it stand the tables:
//!
//! ```text
//! scalar    plain loops, f64 sums: the executable specification, never fast
//! generic   the SIMD code on arrays of eight floats: what the compiler makes of it on any CPU
//! x86_64-*  AVX2+FMA (and AVX-VNNI), AVX-512 with VNNI
//! aarch64-* NEON, NEON with `sdot`, NEON with `smmla`
//! ```
//!
//! The best table is chosen at run time; the environment variable `SKIMSTONE_KERNELS` forces one by name.
//! Each table agrees with `scalar` within the tolerances that `tests/conformance.rs` states with their reasons.
//!
//! **Order of sums.** Within one table, the result for one token depends neither on how many tokens share the call nor
//! on the number of threads: each output value is one chain of operations in a fixed order. Reading a prompt at once and
//! reading it token by token therefore give the same bits. Products with quantized weights even give the same bits in every table
//! with a fused multiply-add: their integer parts are exact and the scaled blocks are added in the order of the columns.
//!
//! **Quantized weights** ([`Format::Q8`], [`Format::Q4`]) meet activations that were rounded to int8 in blocks of 32
//! ([`Cpu::load`] with `quantize`); [`quant`] defines both roundings.
//!
//! ```
//! use skimstone_kernels::{Activations, Cpu, Format, Matrix, quant};
//!
//! // One row of weights, as a file would hold it.
//! let mut packed = vec![0; Format::Q8.panel_bytes(3)];
//! quant::pack_panel(Format::Q8, 3, &[1.0, -2.0, 0.5], &mut packed)?;
//! let w = Matrix::new(Format::Q8, 1, 3, &packed)?;
//!
//! let cpu = Cpu::new(1)?;
//! let mut x = Activations::new(1, 3);
//! cpu.load(&mut x, &[3.0, 1.0, 4.0], 3, true)?;
//! let mut y = [0.0];
//! cpu.linear(&w.into(), &x, &mut y)?;
//! assert!((y[0] - 3.0).abs() < 0.05, "3 - 2 + 2, within the rounding of both sides");
//! # Ok::<(), skimstone_kernels::KernelError>(())
//! ```

mod activations;
mod cores;
mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod error;
mod format;
mod kv;
mod pool;
pub mod quant;
mod scalar;

pub use activations::Activations;
pub use cores::fast_cores;
pub use cpu::{Cpu, RmsNorm, Table, tables};
pub use error::KernelError;
pub use format::{BLOCK, Format, Linear, Matrix, PANEL};
pub use kv::{AttentionShape, KvBlock, KvFormat, KvSource, MAX_HEAD_DIM, MAX_KV_BLOCK};

/// The result of a kernel call.
pub type Result<T, E = KernelError> = std::result::Result<T, E>;
