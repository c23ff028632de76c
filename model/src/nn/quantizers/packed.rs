//! Bit-packed codes of quantized weights, as in packed checkpoints.

use anyhow::{Context, Result, ensure};
use tch::{Kind, Tensor, no_grad};

use super::levels::levels_by_code;
use super::weights::{self, LOW_CODE};

/// The codes of a weight, `[out_channels, in_channels, k, k]`, for its `basis`, `[out_channels,
/// bits]`: uint8 `[bits, ceil(numel / 8)]`. Bit `i % 8` of byte `i / 8` in row `j` is 1 if element
/// `j` of the basis is added to the `i`-th value (in row-major order), 0 if it is subtracted.
///
/// # Errors
/// Shapes that do not match.
pub fn pack(weight: &Tensor, basis: &Tensor) -> Result<Tensor> {
    let (out_channels, bits) = basis.size2()?;
    let values = weight.f_detach()?.f_reshape([out_channels, -1])?;
    let codes = no_grad(|| weights::levels(basis)?.encode(&values))?;
    let codes: Vec<i64> = codes.f_reshape([-1])?.try_into()?;
    let row = codes.len().div_ceil(8);
    let mut bytes = vec![0_u8; row * bits as usize];
    for (i, code) in codes.into_iter().enumerate() {
        for bit in 0..bits as usize {
            bytes[bit * row + i / 8] |= (((code >> bit) & 1) as u8) << (i % 8);
        }
    }
    Ok(Tensor::f_from_data_size(
        &bytes,
        &[bits, row as i64],
        Kind::Uint8,
    )?)
}

/// The bytes of [`pack`]'s output for a weight of `numel` elements.
pub fn packed_bytes(numel: u64, bits: u64) -> u64 {
    bits * numel.div_ceil(8)
}

/// The quantized weight of `shape`, `[out_channels, in_channels, k, k]`, from the codes of
/// [`pack`]: equal, bit for bit, to [`Levels::quantize`](super::Levels::quantize) of the weight.
///
/// # Errors
/// Shapes that do not match.
pub fn unpack(codes: &Tensor, basis: &Tensor, shape: &[i64]) -> Result<Tensor> {
    let (out_channels, bits) = basis.size2()?;
    let numel = shape.iter().product::<i64>();
    let row = numel.unsigned_abs().div_ceil(8) as usize;
    ensure!(
        shape.first() == Some(&out_channels) && codes.f_kind()? == Kind::Uint8,
        "a basis of shape {:?} and codes of dtype {:?} for a weight of shape {shape:?}",
        basis.size(),
        codes.f_kind()?
    );
    ensure!(
        codes.size() == [bits, row as i64],
        "the codes must have the shape {:?}, not {:?}",
        [bits, row as i64],
        codes.size()
    );
    let bytes: Vec<u8> = codes.f_reshape([-1])?.try_into()?;
    let code = |i: usize| {
        let bits = (0..bits as usize).rev();
        bits.fold(0_i64, |code, bit| {
            let digit = bytes[bit * row + i / 8] >> (i % 8) & 1;
            code << 1 | i64::from(digit)
        })
    };
    no_grad(|| {
        let levels = levels_by_code(basis, LOW_CODE).context("invalid weight quantizer")?;
        let per_channel = numel as usize / (out_channels.max(1) as usize);
        // One channel at a time: indices have 64 bits where a code has one to eight.
        let rows = (0..out_channels).map(|channel| {
            let first = channel as usize * per_channel;
            let codes: Vec<i64> = (first..first + per_channel).map(code).collect();
            let levels = levels.f_select(0, channel)?;
            Ok(levels.f_index_select(0, &Tensor::f_from_slice(&codes)?)?)
        });
        let rows: Vec<Tensor> = rows.collect::<Result<_>>()?;
        Ok(Tensor::f_cat(&rows, 0)?.f_view(shape)?)
    })
}
