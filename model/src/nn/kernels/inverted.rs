//! Inverted residual blocks in float32 for inference on the CPU, row by row (`native/cpu/inverted.cpp`).

use std::ffi::{c_char, c_int, c_void};
use std::ptr;

use anyhow::{Context as _, Result, ensure};
use tch::Tensor;

use super::convolution::{Convolution, Geometry, Place};
use super::operators::{Activation, tensor};
use crate::nn::native::to_result;

unsafe extern "C" {
    fn rsflow_inverted_residual(
        images: *const c_void,
        expand: *const Part,
        depthwise: *const Part,
        project: *const Part,
        geometry: *const Geometry,
        residual: *const c_void,
        output: *mut *mut c_void,
    ) -> *const c_char;
}

/// As `Part` in `native/cpu/inverted.cpp`.
#[repr(C)]
struct Part {
    weight: *const c_void,
    scale: *const c_void,
    shift: *const c_void,
    activation: c_int,
}

/// A convolution, the scale and the shift after it, float32 `[outputs]`, and the activation.
#[derive(Clone, Copy, Debug)]
pub struct Normed<'a> {
    pub convolution: &'a Convolution,
    pub norm: (&'a Tensor, &'a Tensor),
    pub activation: Activation,
}

/// A depthwise convolution of 3 x 3 between two of 1 x 1, of which there may be one alone.
#[derive(Clone, Copy, Debug)]
pub struct Inverted<'a> {
    pub expand: Option<Normed<'a>>,
    pub depthwise: Normed<'a>,
    pub project: Normed<'a>,
}

impl Inverted<'_> {
    /// What the three convolutions give one after the other, to the bit: float32
    /// `[batch, outputs of project, height, width]` in channels last, of images `[batch, inputs, ..]`. `place` is
    /// that of the depthwise convolution.
    ///
    /// # Errors
    /// Other kinds of convolutions, or with more than 512 channels of the input; shapes or dtypes that do not
    /// match; out of memory.
    pub fn run(&self, images: &Tensor, place: Place, residual: Option<&Tensor>) -> Result<Tensor> {
        let Inverted {
            expand,
            depthwise,
            project,
        } = self;
        let channels = images.size4()?.1;
        let widened = expand.map_or(channels, |expand| expand.convolution.outputs());
        let takes = |of: &Normed<'_>, channels| of.convolution.inputs() == channels;
        let set = depthwise.convolution.set();
        ensure!(
            expand.is_none_or(|of| of.convolution.is_pointwise() && takes(&of, channels))
                && depthwise.convolution.is_depthwise()
                && takes(depthwise, widened)
                && project.convolution.is_pointwise()
                && takes(project, widened)
                && [expand.as_ref(), Some(project)]
                    .into_iter()
                    .flatten()
                    .all(|of| of.convolution.set() == set),
            "no inverted residual block of images of {channels} channels: {self:?}"
        );
        let geometry = depthwise.convolution.geometry(images, place)?;
        let part = |of: &Normed<'_>| {
            of.convolution.check_norm(of.norm)?;
            anyhow::Ok(Part {
                weight: of.convolution.packed(false)?.as_ptr().cast(),
                scale: of.norm.0.as_ptr().cast(),
                shift: of.norm.1.as_ptr().cast(),
                activation: of.activation as c_int,
            })
        };
        let expand = expand.as_ref().map(part).transpose()?;
        let (depthwise, project) = (part(depthwise)?, part(project)?);
        let mut output = ptr::null_mut();
        // SAFETY: the pointers are null where that is allowed, or of live values; the shapes that the other side
        // does not check were checked above.
        let message = unsafe {
            rsflow_inverted_residual(
                images.as_ptr().cast(),
                expand.as_ref().map_or(ptr::null(), ptr::from_ref),
                &depthwise,
                &project,
                &geometry,
                residual.map_or(ptr::null(), |residual| residual.as_ptr().cast()),
                &mut output,
            )
        };
        to_result(message)?;
        tensor(output).context("an inverted residual block was without a result")
    }
}
