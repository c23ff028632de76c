//! The levels of a basis, and what values are at them.

use std::ops::RangeInclusive;

use anyhow::{Result, ensure};
use tch::{Device, Kind, Tensor, no_grad};

use crate::nn::native::{self, AtLevels, Gradient};

/// How many bits a quantizer may have.
pub const BITS: RangeInclusive<i64> = 1..=8;

/// The levels of some quantizers of equally many bits, in rising order.
#[derive(Debug)]
pub struct Levels {
    /// `[quantizers, 2^bits]`.
    values: Tensor,
    /// For each level the number whose binary digits, the lowest first, are its code:
    /// `[quantizers, 2^bits]`.
    order: Tensor,
    /// All codes in the order of the numbers, in f64: `[2^bits, bits]`.
    codes: Tensor,
    /// `[quantizers, 2^bits - 1]`: a value above it belongs to a higher level.
    thresholds: Tensor,
}

/// All that least squares need to know of the values: the sums over them of their codes' products
/// with one another and with the value.
///
/// In f64: f32 cannot count beyond 2^24, and a layer has more activations.
#[derive(Debug)]
pub struct Fit {
    /// `[quantizers, bits, bits]`.
    pub(super) products: Tensor,
    /// `[quantizers, bits, 1]`.
    pub(super) targets: Tensor,
}

impl Levels {
    /// Those of `basis`, `[quantizers, bits]`. `low` is the lower of the two codes, 0 or -1; the upper
    /// one is 1.
    pub(super) fn new(basis: &Tensor, low: f64) -> Result<Self> {
        no_grad(|| {
            let (_, bits) = basis.size2()?;
            let codes = codes(bits, low, basis.device())?;
            let unsorted = unsorted(basis, &codes)?;
            // Least squares may make a basis negative or its order another one.
            let (values, order) = unsorted.f_sort(1, false)?;
            let count = values.size2()?.1;
            let lower = values.f_narrow(1, 0, count - 1)?;
            let upper = values.f_narrow(1, 1, count - 1)?;
            let middle = lower.f_add(&upper)?.f_div_scalar(2.0)?.f_contiguous()?;
            // Between two neighbouring floats there is no middle. The lower one then is it, for what
            // is at a level already has to stay there.
            let thresholds = lower.f_where_self(&middle.f_ge_tensor(&upper)?, &middle)?;
            Ok(Levels {
                values,
                order,
                codes,
                thresholds,
            })
        })
    }

    /// The values at the nearest levels; the lower one in the middle between two. The first dimension
    /// of `values` is that of the quantizers, unless there is only one. `in_place`: the result takes
    /// the place of the values, which no gradient may need.
    ///
    /// # Errors
    /// Shapes that do not fit, or what libtorch says.
    pub fn quantize(&self, values: &Tensor, gradient: Gradient, in_place: bool) -> Result<Tensor> {
        let (levels, thresholds) = (&self.values, &self.thresholds);
        native::quantize(values, levels, thresholds, gradient, in_place, None)
    }

    /// The same, and all that a new basis is fitted from.
    ///
    /// # Errors
    /// As [`Levels::quantize`].
    pub fn quantize_to_fit(
        &self,
        values: &Tensor,
        gradient: Gradient,
        in_place: bool,
    ) -> Result<(Tensor, Fit)> {
        let none = || self.values.f_zeros_like()?.f_to_kind(Kind::Double);
        let found = AtLevels {
            counts: none()?,
            sums: none()?,
        };
        let (levels, thresholds) = (&self.values, &self.thresholds);
        let quantized =
            native::quantize(values, levels, thresholds, gradient, in_place, Some(&found))?;
        Ok((quantized, self.fit(&found)?))
    }

    fn fit(&self, found: &AtLevels) -> Result<Fit> {
        no_grad(|| {
            let (levels, bits) = self.codes.size2()?;
            let codes = self.codes.f_index_select(0, &self.order.f_view([-1])?)?;
            let codes = codes.f_view([-1, levels, bits])?;
            let transposed = codes.f_transpose(1, 2)?;
            let counted = codes.f_mul(&found.counts.f_unsqueeze(2)?)?;
            Ok(Fit {
                products: transposed.f_matmul(&counted)?,
                targets: transposed.f_matmul(&found.sums.f_unsqueeze(2)?)?,
            })
        })
    }

    /// The codes of values that are at the nearest levels, as numbers whose binary digits, the lowest
    /// first, say of each element of the basis whether it is added (1) or not (0), or subtracted:
    /// `[quantizers, values]`, int64.
    pub(super) fn codes_of(&self, values: &Tensor) -> Result<Tensor> {
        let values = values.f_contiguous()?;
        let level =
            values.f_searchsorted(&self.thresholds, false, false, "left", None::<&Tensor>)?;
        Ok(self.order.f_gather(1, &level, false)?)
    }
}

/// The level of each number that is a code, in the order of the numbers: `[quantizers, 2^bits]`.
pub(super) fn by_code(basis: &Tensor, low: f64) -> Result<Tensor> {
    let (_, bits) = basis.size2()?;
    unsorted(basis, &codes(bits, low, basis.device())?)
}

/// A sum of a few terms, one after the other: its last bit must not depend on how a matrix product
/// is computed.
fn unsorted(basis: &Tensor, codes: &Tensor) -> Result<Tensor> {
    let (_, bits) = basis.size2()?;
    let codes = codes.f_to_kind(basis.f_kind()?)?;
    let mut sum: Option<Tensor> = None;
    for bit in 0..bits {
        let term = basis.f_narrow(1, bit, 1)?;
        let term = term.f_mul(&codes.f_select(1, bit)?.f_unsqueeze(0)?)?;
        sum = Some(match sum {
            None => term,
            Some(sum) => sum.f_add(&term)?,
        });
    }
    sum.ok_or_else(|| anyhow::anyhow!("a basis of no bits"))
}

/// All codes, `[2^bits, bits]`: the numbers from 0 on in binary, the lowest digit first.
fn codes(bits: i64, low: f64, device: Device) -> Result<Tensor> {
    ensure!(
        BITS.contains(&bits),
        "a quantizer has {} to {} bits, not {bits}",
        BITS.start(),
        BITS.end()
    );
    // Made where they are needed: a copy from here would wait for a GPU.
    let count = |to: i64| Tensor::f_arange(to, (Kind::Int64, device));
    let shifted = count(1 << bits)?
        .f_unsqueeze(1)?
        .f_bitwise_right_shift(&count(bits)?.f_unsqueeze(0)?)?;
    let digits = shifted.f_bitwise_and(1)?.f_to_kind(Kind::Double)?;
    Ok(digits.f_mul_scalar(1.0 - low)?.f_add_scalar(low)?)
}
