//! Projections of one input, side by side, over flat weights: products forward, back to the input, and into the weights' gradient.
//!
//! Weights that lie one after the other in the flat buffer and have no bias are one product.

use std::ops::Range;

use super::matmul::{View, matmul};

/// Projections `[n, in] → [n, out]` that read the same input; `out` is the sum of theirs.
#[derive(Debug)]
pub(crate) struct Stacked {
    parts: Vec<Projection>,
    inputs: usize,
    outputs: usize,
}

/// Where one projection lies in the flat buffer.
#[derive(Clone, Debug)]
pub(crate) struct Projection {
    /// `[out, in]`
    pub(crate) weight: Range<usize>,
    /// `[out]`
    pub(crate) bias: Option<Range<usize>>,
    /// Rows of the weight.
    pub(crate) outputs: usize,
}

impl Stacked {
    /// Stacks projections of one input in their order; there is at least one.
    pub(crate) fn new(projections: impl IntoIterator<Item = Projection>) -> Stacked {
        let mut parts: Vec<Projection> = Vec::new();
        for next in projections {
            match parts.last_mut() {
                Some(last)
                    if last.bias.is_none()
                        && next.bias.is_none()
                        && last.weight.end == next.weight.start =>
                {
                    last.weight.end = next.weight.end;
                    last.outputs += next.outputs;
                }
                _ => parts.push(next),
            }
        }
        Stacked {
            inputs: parts[0].weight.len() / parts[0].outputs,
            outputs: parts.iter().map(|part| part.outputs).sum(),
            parts,
        }
    }

    /// `y = x · Wᵀ + b`, or `y += …` if `add`. Shapes: `x` `[n, in]`, `y` `[n, out]`.
    pub(crate) fn forward(&self, weights: &[f32], x: &[f32], add: bool, y: &mut [f32]) {
        if x.is_empty() {
            return;
        }
        let x = View::new(x, x.len() / self.inputs, self.inputs, self.inputs);
        for (column, part, w) in self.views(weights) {
            matmul(&mut y[column..], self.outputs, x, w.t(), 1.0, add);
            let Some(bias) = &part.bias else { continue };
            for row in y.chunks_exact_mut(self.outputs) {
                let row = &mut row[column..column + part.outputs];
                let values = row.iter_mut().zip(&weights[bias.clone()]);
                values.for_each(|(y, bias)| *y += bias);
            }
        }
    }

    /// `dx = dy · W`. Shapes: `dy` `[n, out]`, `dx` `[n, in]`.
    pub(crate) fn backward(&self, weights: &[f32], dy: &[f32], dx: &mut [f32]) {
        if dy.is_empty() {
            return;
        }
        let rows = dy.len() / self.outputs;
        for (column, part, w) in self.views(weights) {
            let dy = View::new(&dy[column..], rows, part.outputs, self.outputs);
            matmul(dx, self.inputs, dy, w, 1.0, column > 0);
        }
    }

    /// `dW += dyᵀ · x` and `db += Σ dy` in the flat `gradient`. Shapes: `dy` `[n, out]`, `x` `[n, in]`.
    pub(crate) fn accumulate(&self, dy: &[f32], x: &[f32], gradient: &mut [f32]) {
        if dy.is_empty() {
            return;
        }
        let rows = dy.len() / self.outputs;
        let x = View::new(x, rows, self.inputs, self.inputs);
        let mut column = 0;
        for part in &self.parts {
            let view = View::new(&dy[column..], rows, part.outputs, self.outputs);
            let dw = &mut gradient[part.weight.clone()];
            matmul(dw, self.inputs, view.t(), x, 1.0, true);
            if let Some(bias) = &part.bias {
                for row in dy.chunks_exact(self.outputs) {
                    let row = &row[column..column + part.outputs];
                    let values = gradient[bias.clone()].iter_mut().zip(row);
                    values.for_each(|(sum, dy)| *sum += dy);
                }
            }
            column += part.outputs;
        }
    }

    /// Each product's first output column, its place and its weight.
    fn views<'a>(
        &'a self,
        weights: &'a [f32],
    ) -> impl Iterator<Item = (usize, &'a Projection, View<'a>)> {
        let mut column = 0;
        self.parts.iter().map(move |part| {
            let at = column;
            column += part.outputs;
            let w = &weights[part.weight.clone()];
            (
                at,
                part,
                View::new(w, part.outputs, self.inputs, self.inputs),
            )
        })
    }
}
