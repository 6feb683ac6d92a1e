//! `y = x · wᵀ`, the only place where weights meet activations.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

use super::matmul::{View, matmul};
use super::{dims2, tensor_like, values, with_values};

/// `y = x · wᵀ`. Shapes: `x` `[N, in]`, `w` `[out, in]`, `y` `[N, out]`.
pub fn linear(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    x.apply_op2(w, Linear)
}

struct Linear;

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (tokens, inputs) = dims2(xl, "linear")?;
        let (outputs, columns) = dims2(wl, "linear")?;
        if inputs != columns {
            bail!("linear: input has {inputs} features, weight has {columns} columns");
        }
        let (x, w) = (values(x, xl, "linear")?, values(w, wl, "linear")?);
        let mut y = vec![0f32; tokens * outputs];
        let (x, w) = (
            View::new(x, tokens, inputs, inputs),
            View::new(w, outputs, inputs, inputs),
        );
        matmul(&mut y, outputs, x, w.t(), 1.0, false);
        Ok((CpuStorage::F32(y), (tokens, outputs).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (tokens, inputs) = x.dims2()?;
        let outputs = w.dims2()?.0;
        let mut dx = vec![0f32; tokens * inputs];
        let mut dw = vec![0f32; outputs * inputs];
        with_values(grad, |dy| {
            let dy = View::new(dy, tokens, outputs, outputs);
            with_values(w, |w| {
                matmul(
                    &mut dx,
                    inputs,
                    dy,
                    View::new(w, outputs, inputs, inputs),
                    1.0,
                    false,
                )
            })?;
            with_values(x, |x| {
                matmul(
                    &mut dw,
                    inputs,
                    dy.t(),
                    View::new(x, tokens, inputs, inputs),
                    1.0,
                    false,
                )
            })
        })??;
        Ok((
            Some(tensor_like(dx, x.shape(), x)?),
            Some(tensor_like(dw, w.shape(), w)?),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::{gradients_agree, wave};
    use super::*;

    #[test]
    fn agrees_with_the_plain_form() -> Result<()> {
        let inputs = [wave(&[7, 5], 0.3)?, wave(&[4, 5], 0.7)?];
        gradients_agree(
            &inputs,
            |t| linear(&t[0], &t[1]),
            |t| t[0].matmul(&t[1].t()?),
            1e-5,
        )
    }
}
