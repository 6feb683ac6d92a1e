//! What a kernel call can refuse.

/// Why a kernel call was refused. Nothing was computed when one of these comes back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// A slice has another length than the shapes ask for.
    #[error("{op}: `{what}` has {actual} values, expected {expected}")]
    Shape {
        /// The op that refused.
        op: &'static str,
        /// The argument at fault.
        what: &'static str,
        /// The length that the other arguments ask for.
        expected: usize,
        /// The length that was given.
        actual: usize,
    },
    /// A slice does not hold a whole number of rows.
    #[error("{op}: `{what}` has {actual} values, expected a multiple of {of}")]
    Multiple {
        /// The op that refused.
        op: &'static str,
        /// The argument at fault.
        what: &'static str,
        /// The length of one row; 0 is never a valid one.
        of: usize,
        /// The length that was given.
        actual: usize,
    },
    /// More than what was preallocated or what the op supports.
    #[error("{op}: {what} is {actual}, the limit is {limit}")]
    Limit {
        /// The op that refused.
        op: &'static str,
        /// The quantity at fault.
        what: &'static str,
        /// The largest value accepted.
        limit: usize,
        /// The value given.
        actual: usize,
    },
    /// Weight bytes do not start where their format needs them to.
    #[error("{format} weights must start at a multiple of {align} bytes")]
    Misaligned {
        /// Name of the format.
        format: &'static str,
        /// The alignment it needs.
        align: usize,
    },
    /// Quantized weights met activations that were loaded without their int8 blocks.
    #[error("matmul: {format} weights need activations loaded with `quantize`")]
    NotQuantized {
        /// Name of the weights' format.
        format: &'static str,
    },
    /// A value that the format cannot hold: not finite, or too large for its f16 field.
    #[error("value {index} is {value}, which {format} cannot hold")]
    Value {
        /// Position in the row.
        index: usize,
        /// The value.
        value: f32,
        /// Name of the format.
        format: &'static str,
    },
    /// No kernel table of that name can run here.
    #[error("no kernels named `{name}` on this CPU; available: {available}")]
    UnknownTable {
        /// The name asked for.
        name: String,
        /// The names that would work, best first.
        available: String,
    },
    /// The worker threads could not be started.
    #[error("cannot start {threads} worker threads")]
    Threads {
        /// How many threads were asked for.
        threads: usize,
        /// What the system said; `None` when zero threads were asked for.
        source: Option<std::io::Error>,
    },
}
