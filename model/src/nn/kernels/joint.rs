//! Batch norm with the statistics of the images of all processes, by way of `native/joint_norm.cpp`.

use std::any::Any;
use std::ffi::{c_char, c_int, c_void};
use std::fmt;
use std::ptr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use tch::Tensor;

use super::operators::{Activation, BatchNorm, Kernels, Statistics, add_and_activate, tensor};
use crate::nn::native::to_result;

/// Replaces a double tensor by its sum over all processes; gives an error's text, or null.
pub type SumFunction = unsafe extern "C" fn(*mut c_void, *const c_void) -> *const c_char;

unsafe extern "C" {
    fn rsflow_joint_batch_norm(
        input: *const c_void,
        weight: *const c_void,
        bias: *const c_void,
        running_mean: *const c_void,
        running_var: *const c_void,
        residual: *const c_void,
        activation: c_int,
        momentum: f64,
        epsilon: f64,
        kernels: c_int,
        sum: SumFunction,
        group: *mut c_void,
        whole: *mut bool,
        output: *mut *mut c_void,
    ) -> *const c_char;
}

/// How sums over all processes are made.
#[derive(Clone)]
pub struct JointSum {
    sum: SumFunction,
    group: *mut c_void,
    /// What the pointer leads into.
    _owner: Arc<dyn Any + Send + Sync>,
}

impl JointSum {
    /// With a function that is called as `sum(group, tensor)`.
    ///
    /// # Safety
    /// The function may be called with this pointer and any live tensor, on any thread, for as long as
    /// `owner` lives.
    pub unsafe fn new(
        sum: SumFunction,
        group: *mut c_void,
        owner: Arc<dyn Any + Send + Sync>,
    ) -> Self {
        JointSum {
            sum,
            group,
            _owner: owner,
        }
    }
}

// SAFETY: the promise of `new`.
unsafe impl Send for JointSum {}
// SAFETY: likewise.
unsafe impl Sync for JointSum {}

impl fmt::Debug for JointSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JointSum")
    }
}

/// activation(batch norm of `x` + `residual`), both `[batch, channels, height, width]`, in training, with
/// mean and variance over the images of all processes: the same as one process computes for all of them.
/// All processes call it in the same order, and their backward passes likewise.
///
/// # Errors
/// Shapes that do not match; the device fails or is out of memory; another process is lost.
pub fn joint_batch_norm(
    joint: &JointSum,
    kernels: Option<Kernels>,
    x: &Tensor,
    norm: &BatchNorm,
    residual: Option<&Tensor>,
    activation: Activation,
    statistics: Statistics,
) -> Result<Tensor> {
    let (mut whole, mut output) = (false, ptr::null_mut());
    // SAFETY: the pointers are of live tensors, or null where that is allowed. The C++ side checks shapes,
    // dtypes and devices. The network that calls this holds `joint` for longer than a backward pass.
    let message = unsafe {
        rsflow_joint_batch_norm(
            x.as_ptr().cast(),
            norm.weight.as_ptr().cast(),
            norm.bias.as_ptr().cast(),
            norm.running_mean.as_ptr().cast(),
            norm.running_var.as_ptr().cast(),
            residual.map_or(ptr::null(), |residual| residual.as_ptr().cast()),
            activation as c_int,
            statistics.momentum,
            statistics.epsilon,
            match kernels {
                None => 0,
                Some(Kernels::Cpu) => 1,
                Some(Kernels::Gpu) => 2,
            },
            joint.sum,
            joint.group,
            &mut whole,
            &mut output,
        )
    };
    to_result(message)?;
    let y = tensor(output).context("a batch norm without an output")?;
    match whole {
        true => Ok(y),
        false => add_and_activate(y, residual, activation),
    }
}
