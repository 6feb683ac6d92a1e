//! Matrix products on one thread, through the `gemm` crate (which picks its instruction set at run time).
//!
//! Parallelism lies one level up: each worker runs its own micro-batch, so a product must not start threads of its own.

/// A strided view of a matrix inside a flat slice.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> View<'a> {
    /// `[rows, cols]`, rows `stride` values apart.
    pub(crate) fn new(data: &'a [f32], rows: usize, cols: usize, stride: usize) -> Self {
        assert!(
            reach(rows, cols, stride) <= data.len(),
            "matrix view leaves its slice"
        );
        Self {
            data,
            rows,
            cols,
            row_stride: stride,
            col_stride: 1,
        }
    }

    /// The transpose, without moving data.
    pub(crate) fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

/// Values from the first to one past the last element of a `[rows, cols]` matrix.
fn reach(rows: usize, cols: usize, stride: usize) -> usize {
    if rows == 0 || cols == 0 {
        0
    } else {
        (rows - 1) * stride + cols
    }
}

/// `dst = scale · lhs · rhs`, or `dst += scale · lhs · rhs` when `accumulate`; rows of `dst` are `stride` values apart.
#[allow(unsafe_code, reason = "gemm takes raw pointers and strides")]
pub(crate) fn matmul(
    dst: &mut [f32],
    stride: usize,
    lhs: View<'_>,
    rhs: View<'_>,
    scale: f32,
    accumulate: bool,
) {
    let (m, n, k) = (lhs.rows, rhs.cols, lhs.cols);
    assert_eq!(k, rhs.rows, "inner dimensions differ");
    assert!(
        reach(m, n, stride) <= dst.len(),
        "product leaves its destination"
    );
    assert!(m <= 1 || stride >= n, "rows of the destination overlap");
    if m == 0 || n == 0 {
        return;
    }
    // SAFETY: `View::new` proved that all m·k and k·n elements lie in their slices (`t` only swaps the two axes), the
    // asserts above prove the same for the m·n elements of `dst`; `dst` is borrowed mutably, so nothing aliases it.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst.as_mut_ptr(),
            1,
            stride as isize,
            accumulate,
            lhs.data.as_ptr(),
            lhs.col_stride as isize,
            lhs.row_stride as isize,
            rhs.data.as_ptr(),
            rhs.col_stride as isize,
            rhs.row_stride as isize,
            1.0,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_match_plain_loops_on_odd_shapes() {
        for (m, n, k) in [(1, 1, 1), (3, 5, 2), (17, 9, 33), (64, 2, 10), (0, 3, 4)] {
            let a: Vec<f32> = (0..m * k).map(|i| (i as f32 * 0.37).sin()).collect();
            let b: Vec<f32> = (0..n * k).map(|i| (i as f32 * 0.11).cos()).collect();
            let mut dst = vec![1.0; m * n];
            matmul(
                &mut dst,
                n,
                View::new(&a, m, k, k),
                View::new(&b, n, k, k).t(),
                0.5,
                true,
            );
            for i in 0..m {
                for j in 0..n {
                    let sum: f32 = (0..k).map(|l| a[i * k + l] * b[j * k + l]).sum();
                    assert!((dst[i * n + j] - (1.0 + 0.5 * sum)).abs() < 1e-4);
                }
            }
        }
    }
}
