//! Convolutions with a bias, a residual and an activation in one operator of oneDNN, for inference on the
//! CPU.

use std::ffi::{c_char, c_int, c_void};
use std::ptr;

use anyhow::{Context as _, Result};
use tch::Tensor;

use super::Activation;
use super::operators::tensor;
use crate::nn::native::to_result;

unsafe extern "C" {
    fn rsflow_pack_weight(
        weight: *const c_void,
        images: *const i64,
        padding: i64,
        stride: i64,
        groups: i64,
        output: *mut *mut c_void,
    ) -> *const c_char;
    fn rsflow_convolution(
        images: *const c_void,
        packed: *const c_void,
        bias: *const c_void,
        residual: *const c_void,
        padding: i64,
        stride: i64,
        groups: i64,
        activation: c_int,
        output: *mut *mut c_void,
    ) -> *const c_char;
}

/// A convolution whose weight lies as oneDNN likes it best.
#[derive(Debug)]
pub struct PackedConvolution {
    weight: Tensor,
    bias: Option<Tensor>,
    padding: i64,
    stride: i64,
    groups: i64,
}

impl PackedConvolution {
    /// Of a weight `[outputs, inputs / groups, k, k]` and a bias `[outputs]`. It works with images of any shape,
    /// `[batch, inputs, height, width]`, and best with those of the shape of `like`.
    ///
    /// # Errors
    /// Shapes that do not match; this libtorch has no such operator; out of memory.
    pub fn new(
        weight: &Tensor,
        bias: Option<Tensor>,
        like: &Tensor,
        (padding, stride, groups): (i64, i64, i64),
    ) -> Result<Self> {
        let (batch, channels, height, width) = like.size4()?;
        let shape = [batch, channels, height, width];
        let mut output = ptr::null_mut();
        // SAFETY: the pointers are of live tensors and of four numbers; libtorch checks the rest.
        let message = unsafe {
            let weight = weight.as_ptr().cast();
            rsflow_pack_weight(weight, shape.as_ptr(), padding, stride, groups, &mut output)
        };
        to_result(message)?;
        Ok(PackedConvolution {
            weight: tensor(output).context("packing a weight gave nothing")?,
            bias,
            padding,
            stride,
            groups,
        })
    }

    /// activation(conv(images) + bias), and with a residual, activation(conv(images) + bias + residual) in the
    /// place of the residual. [`Activation::Relu6`] and a residual exclude each other.
    ///
    /// # Errors
    /// Shapes or dtypes that do not match; out of memory.
    pub fn run(
        &self,
        images: &Tensor,
        residual: Option<Tensor>,
        activation: Activation,
    ) -> Result<Tensor> {
        let pointer = |tensor: Option<&Tensor>| match tensor {
            Some(tensor) => tensor.as_ptr().cast(),
            None => ptr::null(),
        };
        let mut output = ptr::null_mut();
        // SAFETY: the pointers are null where that is allowed, or of live tensors; libtorch checks the rest.
        let message = unsafe {
            rsflow_convolution(
                images.as_ptr().cast(),
                self.weight.as_ptr().cast(),
                pointer(self.bias.as_ref()),
                pointer(residual.as_ref()),
                self.padding,
                self.stride,
                self.groups,
                activation as c_int,
                &mut output,
            )
        };
        to_result(message)?;
        tensor(output).context("a convolution gave nothing")
    }
}
