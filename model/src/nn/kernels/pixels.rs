//! Bytes of images as a network takes them, on the CPU (`native/cpu/pixels.cpp`).

use std::ffi::{c_char, c_void};
use std::ptr;

use anyhow::{Context as _, Result, ensure};
use tch::Tensor;

use super::operators::tensor;
use crate::nn::native::to_result;

unsafe extern "C" {
    fn rsflow_pixels(
        bytes: *const u8,
        count: i64,
        height: i64,
        width: i64,
        table: *const [f32; 256],
        order: *const i32,
        output: *mut *mut c_void,
    ) -> *const c_char;
}

/// What becomes of each byte of a pixel.
#[derive(Debug)]
pub struct PixelTable {
    /// For each channel of the result.
    pub values: [[f32; 256]; 3],
    /// The channel of the bytes that each is made of.
    pub order: [i32; 3],
}

impl PixelTable {
    /// RGB, uint8 `[count, side, side, 3]`, as float32 `[count, 3, side, side]` in channels last.
    ///
    /// # Errors
    /// A wrong number of bytes; out of memory.
    pub fn apply(&self, bytes: &[u8], count: usize, side: u32) -> Result<Tensor> {
        let (count, side) = (i64::try_from(count)?, i64::from(side));
        ensure!(
            bytes.len() as i64 == 3 * count * side * side,
            "{} bytes are not {count} images of {side} x {side} pixels",
            bytes.len()
        );
        ensure!(
            self.order.iter().all(|channel| (0..3).contains(channel)),
            "pixels have no channels {:?}",
            self.order
        );
        let mut output = ptr::null_mut();
        // SAFETY: the pointers are of live values of the lengths that the other side reads.
        let message = unsafe {
            rsflow_pixels(
                bytes.as_ptr(),
                count,
                side,
                side,
                self.values.as_ptr(),
                self.order.as_ptr(),
                &mut output,
            )
        };
        to_result(message)?;
        tensor(output).context("normalizing pixels was without a result")
    }
}
