//! The levels of a basis, and quantization to them.

use std::ops::RangeInclusive;

use anyhow::{Result, ensure};
use tch::{Device, Kind, Tensor, no_grad};

use crate::nn::native::{self, Gradient, LevelStatistics};

/// The bits that a quantizer may have.
pub const BITS: RangeInclusive<i64> = 1..=8;

/// The levels of one or several quantizers of the same number of bits, in rising order.
#[derive(Debug)]
pub struct Levels {
    /// `[quantizers, 2^bits]`.
    values: Tensor,
    /// `[quantizers, 2^bits]`: the code of each level as a number, bit j of which is 1 if element j
    /// of the code is the upper one.
    order: Tensor,
    /// `[2^bits, bits]`, f64: the code of each number.
    codes: Tensor,
    /// `[quantizers, 2^bits - 1]`: a value greater than a threshold belongs to a higher level.
    thresholds: Tensor,
}

/// The normal equations of the least-squares fit of a basis, where row i of B is the code of value
/// x_i.
///
/// In f64: f32 cannot count beyond 2^24, and a layer has more activations.
#[derive(Debug)]
pub struct Fit {
    /// B'B: `[quantizers, bits, bits]`.
    pub(super) btb: Tensor,
    /// B'x: `[quantizers, bits, 1]`.
    pub(super) btx: Tensor,
}

impl Fit {
    /// The sums over all values that it is made of.
    pub fn sums(&self) -> [&Tensor; 2] {
        [&self.btb, &self.btx]
    }

    /// Adds the sums over other values.
    pub fn add(&mut self, other: &Fit) -> Result<()> {
        no_grad(|| {
            self.btb = self.btb.f_add(&other.btb)?;
            self.btx = self.btx.f_add(&other.btx)?;
            Ok(())
        })
    }
}

impl Levels {
    /// The levels of `basis`, `[quantizers, bits]`. The lower code is `low_code`, 0 or -1; the
    /// upper one is 1.
    pub(super) fn new(basis: &Tensor, low_code: f64) -> Result<Self> {
        no_grad(|| {
            let (_, bits) = basis.size2()?;
            let codes = codes(bits, low_code, basis.device())?;
            let unsorted = unsorted_levels(basis, &codes)?;
            // The elements of a fitted basis may be negative or in another order.
            let (values, order) = unsorted.f_sort(1, false)?;
            let count = values.size2()?.1;
            let lower = values.f_narrow(1, 0, count - 1)?;
            let upper = values.f_narrow(1, 1, count - 1)?;
            let middle = lower.f_add(&upper)?.f_div_scalar(2.0)?.f_contiguous()?;
            // The midpoint of two adjacent floats rounds to one of them. The lower one is right: a
            // value that equals the upper level must stay there.
            let thresholds = lower.f_where_self(&middle.f_ge_tensor(&upper)?, &middle)?;
            Ok(Levels {
                values,
                order,
                codes,
                thresholds,
            })
        })
    }

    /// In rising order, `[quantizers, 2^bits]`.
    pub(crate) fn values(&self) -> &Tensor {
        &self.values
    }

    /// `[quantizers, 2^bits - 1]`: a value greater than one of them belongs to a higher level.
    pub(crate) fn thresholds(&self) -> &Tensor {
        &self.thresholds
    }

    /// Quantizes `values`, `[quantizers, ...]` (any shape if there is one quantizer), to the
    /// nearest levels; a midpoint to the lower one. `in_place`: the output takes the memory of
    /// `values`, which the backward pass must not need.
    ///
    /// # Errors
    /// Shapes that do not match.
    pub fn quantize(&self, values: &Tensor, gradient: Gradient, in_place: bool) -> Result<Tensor> {
        let (levels, thresholds) = (&self.values, &self.thresholds);
        native::quantize(values, levels, thresholds, gradient, in_place, None)
    }

    /// The same, and the normal equations of the fit of a new basis.
    ///
    /// # Errors
    /// As [`Levels::quantize`].
    pub fn quantize_with_statistics(
        &self,
        values: &Tensor,
        gradient: Gradient,
        in_place: bool,
    ) -> Result<(Tensor, Fit)> {
        let zeros = || self.values.f_zeros_like()?.f_to_kind(Kind::Double);
        let statistics = LevelStatistics {
            counts: zeros()?,
            sums: zeros()?,
        };
        let (levels, thresholds) = (&self.values, &self.thresholds);
        let quantized = native::quantize(
            values,
            levels,
            thresholds,
            gradient,
            in_place,
            Some(&statistics),
        )?;
        Ok((quantized, self.fit(&statistics)?))
    }

    fn fit(&self, statistics: &LevelStatistics) -> Result<Fit> {
        no_grad(|| {
            let (levels, bits) = self.codes.size2()?;
            let codes = self.codes.f_index_select(0, &self.order.f_view([-1])?)?;
            let codes = codes.f_view([-1, levels, bits])?;
            let transposed = codes.f_transpose(1, 2)?;
            let weighted = codes.f_mul(&statistics.counts.f_unsqueeze(2)?)?;
            Ok(Fit {
                btb: transposed.f_matmul(&weighted)?,
                btx: transposed.f_matmul(&statistics.sums.f_unsqueeze(2)?)?,
            })
        })
    }

    /// The codes of values, `[quantizers, values]`, as numbers, int64 of the same shape. Bit j is 1
    /// if element j of the code is the upper one.
    pub(super) fn encode(&self, values: &Tensor) -> Result<Tensor> {
        let values = values.f_contiguous()?;
        let level =
            values.f_searchsorted(&self.thresholds, false, false, "left", None::<&Tensor>)?;
        Ok(self.order.f_gather(1, &level, false)?)
    }
}

/// The level of each code, in the order of the codes as numbers: `[quantizers, 2^bits]`.
pub(super) fn levels_by_code(basis: &Tensor, low_code: f64) -> Result<Tensor> {
    let (_, bits) = basis.size2()?;
    unsorted_levels(basis, &codes(bits, low_code, basis.device())?)
}

/// The products of basis and codes, summed up element by element: the last bit must not depend on
/// the implementation of a matrix product.
fn unsorted_levels(basis: &Tensor, codes: &Tensor) -> Result<Tensor> {
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
    sum.ok_or_else(|| anyhow::anyhow!("the basis has no elements"))
}

/// All codes, f64 `[2^bits, bits]`: row i is i in binary, the lowest bit first, with `low_code` for
/// 0.
fn codes(bits: i64, low_code: f64, device: Device) -> Result<Tensor> {
    ensure!(
        BITS.contains(&bits),
        "a quantizer must have {} to {} bits, not {bits}",
        BITS.start(),
        BITS.end()
    );
    // Computed on the device: a copy from the host would wait for a GPU.
    let range = |to: i64| Tensor::f_arange(to, (Kind::Int64, device));
    let shifted = range(1 << bits)?
        .f_unsqueeze(1)?
        .f_bitwise_right_shift(&range(bits)?.f_unsqueeze(0)?)?;
    let digits = shifted.f_bitwise_and(1)?.f_to_kind(Kind::Double)?;
    Ok(digits
        .f_mul_scalar(1.0 - low_code)?
        .f_add_scalar(low_code)?)
}
