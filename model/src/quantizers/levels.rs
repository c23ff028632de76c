//! The levels of a basis, and what values are at them.

use std::ops::RangeInclusive;

use anyhow::{Result, ensure};
use tch::{Kind, Tensor};

/// How many bits a quantizer may have.
pub const BITS: RangeInclusive<i64> = 1..=8;

/// The levels of some quantizers of equally many bits, in rising order.
#[derive(Debug)]
pub(super) struct Levels {
    /// `[quantizers, 2^bits]`.
    values: Tensor,
    /// What each level is made of, in f64: `[quantizers, 2^bits, bits]`.
    codes: Tensor,
    /// `[quantizers, 2^bits - 1]`: a value above it belongs to a higher level.
    thresholds: Tensor,
}

/// Values at the nearest levels.
#[derive(Debug)]
pub(super) struct Quantized {
    /// `[quantizers, values]`.
    pub values: Tensor,
    /// For the least squares.
    pub fit: Fit,
}

/// All that least squares need to know of the values: the sums over them of their codes' products
/// with one another and with the value.
///
/// In f64: f32 cannot count beyond 2^24, and a layer has more activations.
#[derive(Debug)]
pub(super) struct Fit {
    /// `[quantizers, bits, bits]`.
    pub products: Tensor,
    /// `[quantizers, bits, 1]`.
    pub targets: Tensor,
}

impl Levels {
    /// Those of `basis`, `[quantizers, bits]`. `low` is the lower of the two codes, 0 or -1; the upper
    /// one is 1.
    pub fn new(basis: &Tensor, low: f64) -> Result<Self> {
        let (_, bits) = basis.size2()?;
        ensure!(
            BITS.contains(&bits),
            "a quantizer has {} to {} bits, not {bits}",
            BITS.start(),
            BITS.end()
        );
        let codes = codes(bits, low).to(basis.device());
        let unsorted = basis.f_matmul(&codes.to_kind(basis.kind()).f_transpose(0, 1)?)?;
        // Least squares may make a basis negative or its order another one.
        let (values, order) = unsorted.f_sort(1, false)?;
        let codes = codes.f_index_select(0, &order.f_view([-1])?)?;
        let codes = codes.f_view([-1, 1 << bits, bits])?;
        let count = values.size2()?.1;
        let lower = values.f_narrow(1, 0, count - 1)?;
        let upper = values.f_narrow(1, 1, count - 1)?;
        Ok(Levels {
            thresholds: ((lower + upper) / 2.0).f_contiguous()?,
            values,
            codes,
        })
    }

    /// The highest level: `[quantizers]`.
    pub fn top(&self) -> Tensor {
        self.values.select(1, -1)
    }

    /// The nearest levels of `values`, `[quantizers, values]`; the lower one in the middle between
    /// two.
    pub fn quantize(&self, values: &Tensor) -> Result<Quantized> {
        let values = values.f_contiguous()?;
        let indices =
            values.f_searchsorted(&self.thresholds, false, false, "left", None::<&Tensor>)?;
        let counted = |weights: &Tensor| {
            let none = self.values.to_kind(Kind::Double).f_zeros_like()?;
            none.f_scatter_add(1, &indices, weights)
        };
        let one = Tensor::f_ones([1, 1], (Kind::Double, values.device()))?;
        let counts = counted(&one.f_expand_as(&values)?)?;
        let sums = counted(&values.to_kind(Kind::Double))?;
        let transposed = self.codes.f_transpose(1, 2)?;
        Ok(Quantized {
            values: self.values.f_gather(1, &indices, false)?,
            fit: Fit {
                products: transposed.f_matmul(&(&self.codes * counts.f_unsqueeze(2)?))?,
                targets: transposed.f_matmul(&sums.f_unsqueeze(2)?)?,
            },
        })
    }
}

/// The values at their levels, with the gradient of what stands in for the quantizer.
pub(super) fn with_gradient_of(surrogate: &Tensor, at_levels: &Tensor) -> Result<Tensor> {
    // The difference is 0, exactly; what is not finite stays so.
    let through = surrogate - surrogate.f_detach()?;
    Ok(at_levels.f_view(surrogate.size().as_slice())? + through)
}

/// All codes, `[2^bits, bits]`: the numbers from 0 on in binary, the lowest digit first.
fn codes(bits: i64, low: f64) -> Tensor {
    let digit = |number: i64, bit: i64| match number >> bit & 1 {
        0 => low,
        _ => 1.0,
    };
    let rows = (0..1 << bits).flat_map(|number| (0..bits).map(move |bit| digit(number, bit)));
    let rows: Vec<f64> = rows.collect();
    Tensor::from_slice(&rows).view([-1, bits])
}
