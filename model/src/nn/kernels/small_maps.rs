//! Convolutions over maps of a few values, in training on the CPU.

use std::ffi::{c_char, c_void};
use std::ptr;

use anyhow::{Context as _, Result};
use tch::{Kind, Tensor};

use super::operators::tensor;
use crate::nn::native::to_result;

unsafe extern "C" {
    fn rsflow_small_maps_convolution(
        images: *const c_void,
        weight: *const c_void,
        output: *mut *mut c_void,
    ) -> *const c_char;
}

/// Whether [`small_maps_convolution`] is faster than libtorch's operator for images
/// `[batch, channels, height, width]` and so many output channels: measured on two cores with AMX. With oneDNN
/// limited to AVX512-BF16, and in float32 to AVX2, it was not slower.
pub fn are_small_maps(images: &Tensor, outputs: i64) -> bool {
    // Channels at least, values of a map at most, and values of the copy of the images that the matrix product
    // takes at most.
    let (least, largest, copied) = match images.kind() {
        Kind::BFloat16 => (256, 64, 1 << 24),
        Kind::Float => (512, 16, 5 << 20),
        _ => return false,
    };
    match images.size4() {
        Ok((batch, channels, height, width)) => {
            let map = height * width;
            channels.min(outputs) >= least && map <= largest && batch * map * 9 * channels <= copied
        }
        Err(_) => false,
    }
}

/// A 3x3 convolution with a stride and padding of 1, of images `[batch, channels, height, width]` with `weight`,
/// `[outputs, channels, 3, 3]`, whose gradient of the weight is one matrix product. Its bits differ from those of
/// libtorch's operator by rounding, those of the output and the gradient of the images do not.
///
/// # Errors
/// Shapes that do not match; out of memory.
pub fn small_maps_convolution(images: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let mut output = ptr::null_mut();
    // SAFETY: the pointers are of live tensors; libtorch checks the rest.
    let message = unsafe {
        rsflow_small_maps_convolution(images.as_ptr().cast(), weight.as_ptr().cast(), &mut output)
    };
    to_result(message)?;
    tensor(output).context("a convolution gave nothing")
}
