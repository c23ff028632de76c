//! The values that a checkpoint may hold: what is refused when one is written is refused when one
//! is read.

use anyhow::{Result, ensure};
use rsflow_base::shown::quoted;
use safetensors::Dtype;
use tch::Tensor;

use super::VARIANCE_PREFIX;

/// The end of the name of a batch norm's running variance, in checkpoints and in PyTorch's files.
const VARIANCE: &str = ".running_var";

/// Refuses NaN and infinity, and negative variances, in the bytes of a tensor.
///
/// # Errors
/// The message names the tensor.
pub(crate) fn check(name: &str, dtype: Dtype, bytes: &[u8]) -> Result<()> {
    ensure!(
        is_sound(dtype, bytes, false),
        "{} holds values that are not finite",
        quoted(name)
    );
    ensure!(
        !is_variance(name) || is_sound(dtype, bytes, true),
        "{} holds negative values, which no variance has",
        quoted(name)
    );
    Ok(())
}

/// Whether all values are finite, or at least 0. Values of either sign are ordered as their bits
/// without the sign are: infinity follows all finite ones, NaN follows infinity. With the sign, the
/// negative ones follow -0.0.
fn is_sound(dtype: Dtype, bytes: &[u8], positive: bool) -> bool {
    match (dtype, positive) {
        (Dtype::F64, false) => largest(bytes, |x| u64::from_le_bytes(x) << 1) < 0x7ff << 53,
        (Dtype::F64, true) => largest(bytes, u64::from_le_bytes) <= 1 << 63,
        (Dtype::F32, false) => largest(bytes, |x| u32::from_le_bytes(x) << 1) < 0xff << 24,
        (Dtype::F32, true) => largest(bytes, u32::from_le_bytes) <= 1 << 31,
        (Dtype::F16, false) => largest(bytes, |x| u16::from_le_bytes(x) << 1) < 0x1f << 11,
        (Dtype::BF16, false) => largest(bytes, |x| u16::from_le_bytes(x) << 1) < 0xff << 8,
        (Dtype::F16 | Dtype::BF16, true) => largest(bytes, u16::from_le_bytes) <= 1 << 15,
        _ => true,
    }
}

/// The largest of the numbers that values of `N` bytes are taken for; 0 without values.
fn largest<const N: usize, T: Ord + Default>(bytes: &[u8], number: impl Fn([u8; N]) -> T) -> T {
    let (values, _) = bytes.as_chunks::<N>();
    let numbers = values.iter().map(|&value| number(value));
    numbers.fold(T::default(), T::max)
}

/// Whether the tensor of this name is a running variance, or a mean of squared gradients.
pub(super) fn is_variance(name: &str) -> bool {
    name.ends_with(VARIANCE) || name.starts_with(VARIANCE_PREFIX)
}

/// Whether all values are finite. One pass without a temporary tensor: minimum and maximum are NaN
/// if any value is.
pub(crate) fn is_finite(tensor: &Tensor) -> Result<bool> {
    if tensor.numel() == 0 {
        return Ok(true);
    }
    let (min, max) = tensor.f_aminmax(None, false)?;
    Ok(min.f_double_value(&[])?.is_finite() && max.f_double_value(&[])?.is_finite())
}
