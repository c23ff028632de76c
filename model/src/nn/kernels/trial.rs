//! Whether the kernels compute what libtorch's operators compute.

use anyhow::{Context as _, Result, ensure};
use tch::{Device, Kind, Tensor, no_grad};

use super::operators::{
    Activation, BatchNorm, Kernels, Statistics, add_and_activate, batch_norm, depthwise, max_pool,
};

/// The shape of the trial: several blocks and groups of them, and some that are not full.
const SHAPE: [i64; 4] = [5, 48, 53, 37];
const STATISTICS: Statistics = Statistics {
    of_batch: true,
    momentum: 0.1,
    epsilon: 1e-5,
};

/// Computes a batch norm with residual and activation, one without, a max pooling and depthwise
/// convolutions of random values on a device, forward and backward, and compares with libtorch's operators
/// in float32.
///
/// # Errors
/// They differ by more than rounding; there are no kernels for this device and dtype.
pub fn trial(device: Device, kind: Kind) -> Result<()> {
    for (residual, activation) in [(true, Activation::Relu), (false, Activation::Relu6)] {
        let case = NormCase::new(device, kind, residual)?;
        let ours = case.run(kind, |x, norm, residual| {
            let y = batch_norm(Kernels::Gpu, x, norm, residual, activation, STATISTICS)?;
            y.context("there are no kernels for it")
        })?;
        let reference = case.run(Kind::Float, |x, norm, residual| {
            composed(x, norm, residual, activation, STATISTICS)
        })?;
        for ((what, ours), (_, reference)) in ours.iter().zip(&reference) {
            agree(what, ours, reference)?;
        }
    }
    let x = no_grad(|| random(&SHAPE, device, kind))?;
    let pooled = |kind, pool: &dyn Fn(&Tensor) -> Result<Tensor>| {
        let x = x.f_to_kind(kind)?.f_set_requires_grad(true)?;
        let y = pool(&x)?;
        let gradients =
            Tensor::f_run_backward(&[y.f_square()?.f_sum(Kind::Float)?], &[&x], false, false)?;
        anyhow::Ok((
            y.f_detach()?,
            gradients.into_iter().next().context("no gradient")?,
        ))
    };
    let (y, dx) = pooled(kind, &|x| {
        max_pool(x, 3, 2, [1, 1], [27, 19])?.context("there are no kernels for it")
    })?;
    let (reference, reference_dx) = pooled(Kind::Float, &|x| {
        Ok(x.f_max_pool2d([3, 3], [2, 2], [1, 1], [1, 1], false)?)
    })?;
    agree("a max pooling", &y, &reference)?;
    agree("the gradient of a max pooling", &dx, &reference_dx)?;
    for (stride, out) in [(1, [53, 37]), (2, [27, 19])] {
        try_depthwise(&x, kind, stride, out)?;
    }
    Ok(())
}

/// Compares a depthwise convolution of `x`.
fn try_depthwise(x: &Tensor, kind: Kind, stride: i64, out: [i64; 2]) -> Result<()> {
    let channels = SHAPE[1];
    // Small, so that sums over all pixels are within float16.
    let weight =
        no_grad(|| anyhow::Ok(random(&[channels, 9], x.device(), kind)?.f_mul_scalar(0.1)?))?;
    let run = |kind, convolve: &dyn Fn(&Tensor, &Tensor) -> Result<Tensor>| {
        let leaf = |tensor: &Tensor| {
            let own = tensor.f_detach()?.f_to_kind(kind)?;
            own.f_set_requires_grad(true)
        };
        let (x, weight) = (leaf(x)?, leaf(&weight)?);
        let y = convolve(&x, &weight.f_view([channels, 1, 3, 3])?)?;
        let product = y.f_square()?.f_sum(Kind::Float)?;
        let mut all = vec![y.f_detach()?];
        let gradients = Tensor::f_run_backward(&[product], &[&x, &weight], false, false)?;
        all.extend(gradients);
        anyhow::Ok(all)
    };
    let ours = run(kind, &|x, weight| {
        depthwise(x, weight, stride, [1, 1], out)?.context("there are no kernels for it")
    })?;
    let reference = run(Kind::Float, &|x, weight| {
        // Not in channels last: cuDNN would search for a kernel, for minutes.
        let (x, none) = (x.f_contiguous()?, None::<&Tensor>);
        Ok(x.f_conv2d(weight, none, [stride; 2], [1, 1], [1, 1], channels)?)
    })?;
    let of = [
        "a depthwise convolution",
        "the gradient of a depthwise convolution's input",
        "the gradient of a depthwise convolution's weight",
    ];
    for ((what, ours), reference) in of.iter().zip(&ours).zip(&reference) {
        agree(what, ours, reference)?;
    }
    Ok(())
}

/// The same as [`batch_norm`], by libtorch's operators.
///
/// # Errors
/// Shapes that do not match; the device fails or is out of memory.
pub fn composed(
    x: &Tensor,
    norm: &BatchNorm,
    residual: Option<&Tensor>,
    activation: Activation,
    statistics: Statistics,
) -> Result<Tensor> {
    let y = x.f_batch_norm(
        Some(&norm.weight),
        Some(&norm.bias),
        Some(&norm.running_mean),
        Some(&norm.running_var),
        statistics.of_batch,
        statistics.momentum,
        statistics.epsilon,
        true,
    )?;
    add_and_activate(y, residual, activation)
}

/// The inputs of a batch norm, and the gradient of its output.
struct NormCase {
    x: Tensor,
    residual: Option<Tensor>,
    weight: Tensor,
    bias: Tensor,
    dy: Tensor,
}

impl NormCase {
    fn new(device: Device, kind: Kind, residual: bool) -> Result<Self> {
        no_grad(|| {
            let x = || random(&SHAPE, device, kind);
            let channels = |offset: f64| {
                let values = random(&SHAPE[1..2], device, Kind::Float)?;
                anyhow::Ok(values.f_mul_scalar(0.2)?.f_add_scalar(offset)?)
            };
            Ok(NormCase {
                // Far from 0, as outputs of convolutions may be.
                x: x()?.f_add_scalar(3.0)?,
                residual: residual.then(x).transpose()?,
                weight: channels(1.0)?,
                bias: channels(0.0)?,
                dy: x()?,
            })
        })
    }

    /// Everything that a batch norm computes, by name.
    fn run(
        &self,
        kind: Kind,
        compute: impl Fn(&Tensor, &BatchNorm, Option<&Tensor>) -> Result<Tensor>,
    ) -> Result<Vec<(&'static str, Tensor)>> {
        let leaf = |tensor: &Tensor, kind| {
            let own = tensor.f_detach()?.f_to_kind(kind)?;
            anyhow::Ok(own.f_set_requires_grad(true)?)
        };
        let x = leaf(&self.x, kind)?;
        let residual = self.residual.as_ref().map(|residual| leaf(residual, kind));
        let residual = residual.transpose()?;
        let norm = BatchNorm {
            weight: leaf(&self.weight, Kind::Float)?,
            bias: leaf(&self.bias, Kind::Float)?,
            running_mean: self.bias.f_zeros_like()?,
            running_var: self.bias.f_ones_like()?,
        };
        let y = compute(&x, &norm, residual.as_ref())?;
        let product = y.f_mul(&self.dy.f_to_kind(kind)?)?.f_sum(Kind::Float)?;
        let sources: Vec<&Tensor> = [&x, &norm.weight, &norm.bias]
            .into_iter()
            .chain(&residual)
            .collect();
        let gradients = Tensor::f_run_backward(&[product], &sources, false, false)?;
        let of = [
            "the gradient of a batch norm's input",
            "the gradient of gamma",
            "the gradient of beta",
            "the gradient of a residual",
        ];
        let mut all = vec![
            ("a batch norm", y.f_detach()?),
            ("the running mean", norm.running_mean),
            ("the running variance", norm.running_var),
        ];
        all.extend(of.into_iter().zip(gradients));
        Ok(all)
    }
}

/// Normally distributed, in channels last.
fn random(shape: &[i64], device: Device, kind: Kind) -> Result<Tensor> {
    let values = Tensor::f_randn(shape, (Kind::Float, device))?.f_to_kind(kind)?;
    Ok(match *shape {
        [a, b, c, d] => {
            let last = values.f_reshape([a, c, d, b])?;
            last.f_permute([0, 3, 1, 2])?
        }
        _ => values,
    })
}

/// Makes sure that two tensors differ by rounding only.
fn agree(what: &str, ours: &Tensor, reference: &Tensor) -> Result<()> {
    // Rounding, and single values that are so near an activation's edge that they may go either way.
    const TOLERANCE: f64 = 0.02;
    let norm = |tensor: &Tensor| anyhow::Ok(tensor.f_norm()?.f_double_value(&[])?);
    let reference = reference.f_to_kind(Kind::Float)?;
    let off = norm(&ours.f_to_kind(Kind::Float)?.f_sub(&reference)?)? / norm(&reference)?;
    ensure!(
        off < TOLERANCE, // NaN is no agreement
        "on this GPU our kernels do not compute what libtorch computes: {what} is off by {:.2} %",
        100.0 * off
    );
    Ok(())
}
