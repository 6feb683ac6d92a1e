//! The table of kernels, and how one is chosen.

use super::attention::Part;
use super::isa;
use crate::activations::Quantize;
use crate::pool::Band;
use crate::{Activations, AttentionShape, Format, KernelError, KvSource, Matrix, Result, scalar};

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
    /// `None` where attention makes no [`Part::Spans`].
    pub(crate) merge: Option<Merge>,
    pub(crate) rms_norm: fn(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]),
    pub(crate) rms_norm_in_place: fn(x: &mut [f32], weight: &[f32], eps: f32),
    pub(crate) add: fn(x: &mut [f32], y: &[f32]),
    pub(crate) silu_mul: fn(gate: &mut [f32], up: &[f32]),
    pub(crate) rope: fn(x: &mut [f32], cos: &[f32], sin: &[f32]),
    pub(crate) log_sum_exp: fn(x: &[f32]) -> f64,
    pub(crate) argmax: fn(x: &[f32]) -> usize,
}

/// Computes the band's columns of `y [T, rows]`.
pub(crate) type Matmul = fn(w: &Matrix<'_>, x: &Activations, y: &mut Band<'_>);

/// Computes the band's heads of a [`Part`].
pub(crate) type Attention = fn(
    q: &[f32],
    q_positions: &[u32],
    shape: AttentionShape,
    kv: &dyn KvSource,
    part: Part,
    out: &mut Band<'_>,
);

/// Makes `out [H·D]` from [`Part::Spans`].
pub(crate) type Merge = fn(shape: AttentionShape, spans: &[f32], out: &mut [f32]);

impl Table {
    /// The table's name, such as `x86_64-avx2`.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The product with weights of a format.
    pub(crate) fn matmul(&self, format: Format) -> Matmul {
        match format {
            Format::F32 => self.matmul_f32,
            Format::F16 => self.matmul_f16,
            Format::Q8 => self.matmul_q8,
            Format::Q4 => self.matmul_q4,
        }
    }

    /// Index of the largest value, the first of equals. NaN never wins; 0 if there is nothing to choose.
    pub fn argmax(&self, x: &[f32]) -> usize {
        (self.argmax)(x)
    }

    /// `ln Σ e^x` of values that are numbers or minus infinity, which adds nothing and is the result where there is nothing else.
    pub fn log_sum_exp(&self, x: &[f32]) -> f64 {
        (self.log_sum_exp)(x)
    }

    /// The table that the environment variable `SKIMSTONE_KERNELS` names, or the best one.
    ///
    /// # Errors
    /// [`KernelError::UnknownTable`] if it names a table that cannot run here.
    pub fn from_env() -> Result<&'static Self> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BLOCK;
    use crate::quant::{Int8Block, MIN_MAGNITUDE};

    /// The bytes and scales of activations are part of the specification: all tables give the same.
    #[test]
    fn all_tables_round_activations_alike() {
        let mut x: Vec<f32> = (0..200)
            .map(|i| ((i * 7919 % 1000) as f32 - 500.0) * 0.0137)
            .collect();
        x[3] = 1e3; // an outlier
        x[40] = 0.5; // ties: the scale of this block is 1 / 127
        x[32..64]
            .iter_mut()
            .for_each(|v| *v = (*v * 127.0).round() / 254.0);
        x[33] = 1.0;
        x[64..96].fill(-0.0);
        x[96..128].fill(MIN_MAGNITUDE * 0.99);
        x[128..160].iter_mut().for_each(|v| *v *= 1e-33);
        let cases: [&[f32]; 6] = [
            &x,
            &x[..1],
            &x[..33],
            &x[..31],
            &[f32::NAN, 1.0],
            &[1.0, f32::NEG_INFINITY],
        ];
        for x in cases {
            let blocks = x.len().div_ceil(BLOCK);
            let run = |table: &Table| {
                let unset = Int8Block {
                    bytes: [9; BLOCK],
                    scale: 9.0,
                    sum: 9,
                };
                let mut out = vec![unset; blocks];
                (table.quantize)(x, &mut out);
                // NaN is equal to nothing, not even to itself.
                let scale = |b: &Int8Block| match b.scale.is_nan() {
                    true => u32::MAX,
                    false => b.scale.to_bits(),
                };
                let parts = out.iter().map(|b| (b.bytes, scale(b), b.sum));
                parts.collect::<Vec<_>>()
            };
            let want = run(&scalar::TABLE);
            for table in tables() {
                assert_eq!(run(table), want, "{} on {} values", table.name, x.len());
            }
        }
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let message = Table::by_name("mmx").unwrap_err().to_string();
        assert!(
            message.starts_with("no kernels named `mmx` on this CPU; available: "),
            "{message}"
        );
        assert!(message.ends_with("generic, scalar"), "{message}");
        for table in tables() {
            assert_eq!(Table::by_name(table.name).unwrap().name, table.name);
        }
    }
}
