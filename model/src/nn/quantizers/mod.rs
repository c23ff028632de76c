//! The learned quantizers of LQ-Nets (Zhang et al., ECCV 2018), as RS-Nets use them.
//!
//! A quantizer has a *basis*: as many numbers as it has bits. Its levels are the sums of the basis
//! weighted by each of its codes: -1 and +1 for [`weights`], 0 and +1 for [`activations`]. A value
//! is quantized to the nearest level. The basis is no parameter of gradient descent: in every step
//! it is fitted to the values by least squares, and updated by an exponential moving average of the
//! fits ([`Basis`]).
//!
//! The fit needs only the number and the sum of the values at each level, not the codes of all
//! values (the equations are in `native/quantize.cpp`). [`Levels::quantize_with_statistics`]
//! collects both in its one pass over the values.

pub mod activations;
mod basis;
mod levels;
pub mod packed;
pub mod weights;

pub use basis::{Basis, ema};
pub use levels::{BITS, Fit, Levels};

pub use crate::nn::native::Gradient;
