//! The executable specification: plain loops, sums in f64, no tricks.
//!
//! Every other table must agree with this one (`tests/conformance.rs`). Nothing here is meant to be fast.

mod attention;
mod elementwise;
mod matmul;

use crate::cpu::Table;

/// The specification as a table.
pub(crate) static TABLE: Table = Table {
    name: "scalar",
    matmul_f32: matmul::matmul,
    matmul_f16: matmul::matmul,
    matmul_q8: matmul::matmul_int8,
    matmul_q4: matmul::matmul_int8,
    quantize: matmul::quantize,
    attention: attention::attention,
    merge: None,
    rms_norm: elementwise::rms_norm,
    rms_norm_in_place: elementwise::rms_norm_in_place,
    add: elementwise::add,
    silu_mul: elementwise::silu_mul,
    rope: elementwise::rope,
    log_sum_exp: elementwise::log_sum_exp,
    argmax: elementwise::argmax,
};
