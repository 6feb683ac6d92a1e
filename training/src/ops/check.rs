//! How every fused op is tested: against the plain differentiable form, and both against finite differences.

use candle_core::{Device, Result, Tensor, Var};

/// Smooth, sign-changing, non-repeating values.
pub(crate) fn wave(shape: &[usize], frequency: f64) -> Result<Tensor> {
    let len: usize = shape.iter().product();
    let data: Vec<f32> = (0..len)
        .map(|i| ((i as f64 * frequency).sin() * 1.3 + (i as f64 * 0.013).cos() * 0.2) as f32)
        .collect();
    Tensor::from_vec(data, shape, &Device::Cpu)
}

/// A scalar that weights every output differently, so that no gradient entry can hide behind another.
fn readout(y: &Tensor) -> Result<Tensor> {
    y.mul(&wave(y.dims(), 0.41)?)?.sum_all()
}

/// Asserts that `fused` and `plain` give the same values and the same gradients for every input, and that both agree with
/// central differences.
pub(crate) fn gradients_agree(
    inputs: &[Tensor],
    fused: impl Fn(&[Tensor]) -> Result<Tensor>,
    plain: impl Fn(&[Tensor]) -> Result<Tensor>,
    tolerance: f32,
) -> Result<()> {
    let vars = inputs
        .iter()
        .map(Var::from_tensor)
        .collect::<Result<Vec<_>>>()?;
    let leaves: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let (a, b) = (fused(&leaves)?, plain(&leaves)?);
    assert_eq!(a.dims(), b.dims());
    close(&a, &b, tolerance, "values");
    let (ga, gb) = (readout(&a)?.backward()?, readout(&b)?.backward()?);
    for (index, var) in vars.iter().enumerate() {
        let fused_grad = ga
            .get(var)
            .unwrap_or_else(|| panic!("input {index} has no gradient"));
        let plain_grad = gb
            .get(var)
            .unwrap_or_else(|| panic!("plain form: input {index} has no gradient"));
        close(
            fused_grad,
            plain_grad,
            tolerance * 10.0,
            &format!("gradient of input {index}"),
        );
        differences(inputs, index, fused_grad, &fused)?;
    }
    Ok(())
}

fn differences(
    inputs: &[Tensor],
    index: usize,
    grad: &Tensor,
    f: &impl Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<()> {
    let grad: Vec<f32> = grad.flatten_all()?.to_vec1()?;
    let base: Vec<f32> = inputs[index].flatten_all()?.to_vec1()?;
    let step = 1e-2f32;
    for at in (0..base.len()).step_by(base.len().div_ceil(7)) {
        let value = |delta: f32| -> Result<f64> {
            let mut data = base.clone();
            data[at] += delta;
            let mut moved = inputs.to_vec();
            moved[index] = Tensor::from_vec(data, inputs[index].shape(), &Device::Cpu)?;
            let y: Vec<f32> = f(&moved)?.flatten_all()?.to_vec1()?;
            let w: Vec<f32> = wave(&[y.len()], 0.41)?.to_vec1()?;
            Ok(y.iter()
                .zip(w)
                .map(|(y, w)| f64::from(*y) * f64::from(w))
                .sum())
        };
        let slope = ((value(step)? - value(-step)?) / (2.0 * f64::from(step))) as f32;
        let bound = 2e-2 * (1.0 + slope.abs());
        assert!(
            (slope - grad[at]).abs() < bound,
            "input {index}[{at}]: slope {slope}, gradient {}",
            grad[at]
        );
    }
    Ok(())
}

/// Asserts that two tensors agree within `tolerance`, relative for large values.
pub(crate) fn close(a: &Tensor, b: &Tensor, tolerance: f32, what: &str) {
    let read = |t: &Tensor| {
        t.flatten_all()
            .and_then(|t| t.to_vec1::<f32>())
            .expect("a CPU f32 tensor")
    };
    for (i, (x, y)) in read(a).iter().zip(read(b)).enumerate() {
        assert!(
            (x - y).abs() <= tolerance * (1.0 + y.abs()),
            "{what}[{i}]: {x} and {y}"
        );
    }
}
