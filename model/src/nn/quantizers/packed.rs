//! Quantized weights as they are stored: a bit for each of a weight's bits.

use anyhow::{Context, Result, ensure};
use tch::{Kind, Tensor, no_grad};

use super::levels::by_code;
use super::weights::{self, LOW};

/// The codes of a weight, `[output, input, k, k]`, at the nearest levels of its `basis`, `[output,
/// bits]`: uint8 `[bits, elements / 8]`, rounded up. Bit `i % 8` of byte `i / 8` in row `j` tells
/// whether element `j` of the basis is added to (1) or subtracted from (0) the `i`-th value, counted
/// row by row.
///
/// # Errors
/// Shapes that do not fit, or what libtorch says.
pub fn pack(weight: &Tensor, basis: &Tensor) -> Result<Tensor> {
    let (output, bits) = basis.size2()?;
    let values = weight.f_detach()?.f_reshape([output, -1])?;
    let codes = no_grad(|| weights::levels(basis)?.codes_of(&values))?;
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

/// The bytes that [`pack`] makes of a weight of so many elements.
pub fn bytes(elements: u64, bits: u64) -> u64 {
    bits * elements.div_ceil(8)
}

/// The weight of `shape`, `[output, input, k, k]`, that [`pack`] made `codes` of, each value at its
/// level, to the bit what [`Levels::quantize`](super::Levels::quantize) makes.
///
/// # Errors
/// Shapes that do not fit, or what libtorch says.
pub fn unpack(codes: &Tensor, basis: &Tensor, shape: &[i64]) -> Result<Tensor> {
    let (output, bits) = basis.size2()?;
    let elements = shape.iter().product::<i64>();
    let row = elements.unsigned_abs().div_ceil(8) as usize;
    ensure!(
        shape.first() == Some(&output) && codes.f_kind()? == Kind::Uint8,
        "a basis of shape {:?} and codes of kind {:?} for a weight of shape {shape:?}",
        basis.size(),
        codes.f_kind()?
    );
    ensure!(
        codes.size() == [bits, row as i64],
        "the codes should have the shape {:?}, not {:?}",
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
    let codes: Vec<i64> = (0..elements as usize).map(code).collect();
    no_grad(|| {
        let codes = Tensor::f_from_slice(&codes)?.f_view([output, -1])?;
        let levels = by_code(basis, LOW).context("no quantizer of weights")?;
        Ok(levels.f_gather(1, &codes, false)?.f_view(shape)?)
    })
}
