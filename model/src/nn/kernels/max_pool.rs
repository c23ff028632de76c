//! Max pooling in float32 for inference on the CPU (`native/cpu/max_pool.cpp`).

use std::ffi::{c_char, c_void};
use std::ptr;

use anyhow::{Context as _, Result, ensure};
use tch::Tensor;

use super::Place;
use super::operators::tensor;
use crate::nn::native::to_result;

unsafe extern "C" {
    fn rsflow_max_pool_cpu(
        images: *const c_void,
        pooling: *const Pooling,
        output: *mut *mut c_void,
    ) -> *const c_char;
}

/// As `Pooling` in `native/cpu/max_pool.cpp`.
#[repr(C)]
struct Pooling {
    set: i64,
    kernel: i64,
    stride: i64,
    top: i64,
    left: i64,
    height: i64,
    width: i64,
}

/// The largest value of each window of `kernel` by `kernel` pixels, not a number where a window has one, of images
/// `[batch, channels, ..]` in float32; with the instruction set at that place of
/// [`convolution_sets`](super::convolution_sets).
///
/// # Errors
/// A window without a pixel of the images; another dtype; out of memory.
pub fn max_pool_cpu(
    set: usize,
    images: &Tensor,
    kernel: i64,
    stride: i64,
    place: Place,
) -> Result<Tensor> {
    let ([top, left], [height, width]) = (place.padding, place.output);
    ensure!(
        kernel > 0 && stride > 0 && top >= 0 && left >= 0 && height > 0 && width > 0,
        "no max pooling has windows of {kernel} pixels, a stride of {stride}, {top} and {left} pixels of padding and \
         an output of {height} x {width}"
    );
    let pooling = Pooling {
        set: i64::try_from(set)?,
        kernel,
        stride,
        top,
        left,
        height,
        width,
    };
    let mut output = ptr::null_mut();
    // SAFETY: the pointers are of live values; the other side checks the shapes.
    to_result(unsafe { rsflow_max_pool_cpu(images.as_ptr().cast(), &pooling, &mut output) })?;
    tensor(output).context("a max pooling was without a result")
}
