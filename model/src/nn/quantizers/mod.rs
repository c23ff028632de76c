//! The learned quantizers of LQ-Nets (Zhang et al., ECCV 2018), as RS-Nets use them.
//!
//! A quantizer has a *basis* of as many numbers as it has bits. Its levels are all sums of the basis
//! with the codes that its kind allows: -1 and +1 for [`weights`], 0 and +1 for [`activations`]. A
//! value becomes the nearest level. So that the levels stay near to the values, the basis is
//! fitted to them by least squares, step by step, and follows the fits slowly ([`Basis`]); no
//! gradient moves it.
//!
//! A fit needs of the values only how many there are at each level and their sum, never a
//! matrix of the values' codes. [`Levels::quantize`] counts them in its one pass over the values.

pub mod activations;
mod basis;
mod levels;
pub mod packed;
pub mod weights;

pub use basis::{Basis, average};
pub use levels::{BITS, Fit, Levels};

pub use crate::nn::native::Gradient;
