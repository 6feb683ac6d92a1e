//! The table of kernels, and how one is chosen.

use super::isa;
use crate::activations::Quantize;
use crate::pool::Band;
use crate::{Activations, AttentionShape, KernelError, KvSource, Matrix, Result, scalar};

/// The environment variable that forces a table by name.
const VARIABLE: &str = "SKIMSTONE_KERNELS";

/// One implementation of every op, for one instruction set.
///
/// References to tables come from [`tables`] alone, which lists those that this CPU can run.
pub struct Table {
    pub(crate) name: &'static str,
    pub(crate) matmul_f32: Matmul,
    pub(crate) matmul_f16: Matmul,
    pub(crate) matmul_q8: Matmul,
    pub(crate) matmul_q4: Matmul,
    pub(crate) quantize: Quantize,
    pub(crate) attention: Attention,
    pub(crate) rms_norm: fn(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]),
    pub(crate) rms_norm_in_place: fn(x: &mut [f32], weight: &[f32], eps: f32),
    pub(crate) add: fn(x: &mut [f32], y: &[f32]),
    pub(crate) silu_mul: fn(gate: &mut [f32], up: &[f32]),
    pub(crate) rope: fn(x: &mut [f32], cos: &[f32], sin: &[f32]),
    pub(crate) softmax: fn(x: &mut [f32]),
    pub(crate) argmax: fn(x: &[f32]) -> usize,
}

/// Computes the band's columns of `y [T, rows]`.
pub(crate) type Matmul = fn(w: &Matrix<'_>, x: &Activations, y: &mut Band<'_>);

/// Computes the band's heads of `out [1, T·H·D]`.
pub(crate) type Attention = fn(
    q: &[f32],
    q_positions: &[u32],
    shape: AttentionShape,
    kv: &dyn KvSource,
    out: &mut Band<'_>,
);

impl Table {
    /// The table's name, such as `x86_64-avx2`.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The table that the environment names, or the best one.
    pub(crate) fn from_env() -> Result<&'static Self> {
        match std::env::var(VARIABLE) {
            Ok(name) => Self::by_name(&name),
            Err(std::env::VarError::NotPresent) => Ok(tables()[0]),
            Err(std::env::VarError::NotUnicode(name)) => Self::by_name(&name.to_string_lossy()),
        }
    }

    fn by_name(name: &str) -> Result<&'static Self> {
        let tables = tables();
        tables
            .iter()
            .copied()
            .find(|t| t.name == name)
            .ok_or_else(|| KernelError::UnknownTable {
                name: name.to_owned(),
                available: tables.iter().map(|t| t.name).collect::<Vec<_>>().join(", "),
            })
    }
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Table").field(&self.name).finish()
    }
}

/// The tables that this CPU can run, best first; the last one is `scalar`, the specification.
pub fn tables() -> Vec<&'static Table> {
    isa::tables().chain([&scalar::TABLE]).collect()
}
