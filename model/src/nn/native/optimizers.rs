//! Updates of parameters by their gradients, by way of `native/optimizers.cpp`: all parameters at once.

use std::ffi::{c_char, c_void};
use std::ptr;

use anyhow::{Result, ensure};
use tch::Tensor;

use super::{pointers, to_result};

unsafe extern "C" {
    fn rsflow_fused_sgd(
        parameters: *const *const c_void,
        gradients: *const *const c_void,
        momentum_buffers: *const *const c_void,
        count: usize,
        lr: f64,
        lr_on_device: *const c_void,
        momentum: f64,
        weight_decay: f64,
        nesterov: bool,
        overflow: *const c_void,
    ) -> *const c_char;
    fn rsflow_unscale(
        gradients: *const *const c_void,
        count: usize,
        overflow: *const c_void,
        inverse_scale: *const c_void,
    ) -> *const c_char;
    fn rsflow_adam(
        parameters: *const *const c_void,
        gradients: *const *const c_void,
        momentum_buffers: *const *const c_void,
        variance_buffers: *const *const c_void,
        count: usize,
        updates: *const c_void,
        lr: f64,
        lr_on_device: *const c_void,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        epsilon: f64,
        scales_to_norm: bool,
        overflow: *const c_void,
    ) -> *const c_char;
    fn rsflow_clip_gradients(
        gradients: *const *const c_void,
        count: usize,
        max_norm: f64,
    ) -> *const c_char;
    fn rsflow_move_towards(
        tensors: *const *const c_void,
        others: *const *const c_void,
        count: usize,
        weight: f64,
    ) -> *const c_char;
}

/// The tensors of one update, in the same order.
#[derive(Debug, Default)]
pub struct Group<'a> {
    /// Updated in place.
    pub parameters: Vec<&'a Tensor>,
    /// One for each parameter, of its shape and dtype.
    pub gradients: Vec<&'a Tensor>,
    /// The mean of gradients, one for each parameter, of its shape, dtype and strides; zeros before the first
    /// step. Updated in place. Empty for SGD without momentum.
    pub momentum_buffers: Vec<&'a Tensor>,
    /// The same of the mean of their squares; empty for SGD.
    pub variance_buffers: Vec<&'a Tensor>,
}

impl Group<'_> {
    /// Makes sure that there is one of each for each parameter.
    fn check(&self, momenta: bool, variances: bool) -> Result<()> {
        let count = self.parameters.len();
        for (what, found, needed) in [
            ("gradients", &self.gradients, true),
            ("momentum buffers", &self.momentum_buffers, momenta),
            ("variance buffers", &self.variance_buffers, variances),
        ] {
            let wanted = if needed { count } else { 0 };
            ensure!(
                found.len() == wanted,
                "{count} parameters were given {} {what}",
                found.len()
            );
        }
        Ok(())
    }
}

/// A learning rate.
#[derive(Clone, Copy, Debug)]
pub enum Rate<'a> {
    Value(f64),
    /// A float scalar on the device of the parameters, which kernels read when they run.
    OnDevice(&'a Tensor),
}

impl Rate<'_> {
    /// As C++ takes it.
    fn parts(self) -> (f64, *const c_void) {
        match self {
            Rate::Value(lr) => (lr, ptr::null()),
            Rate::OnDevice(lr) => (0.0, lr.as_ptr().cast()),
        }
    }
}

impl From<f64> for Rate<'_> {
    fn from(lr: f64) -> Self {
        Rate::Value(lr)
    }
}

/// The hyperparameters of a step of [`fused_sgd`], as `train::optimizer::sgd::Sgd` defines them.
#[derive(Clone, Copy, Debug)]
pub struct SgdStep<'a> {
    pub lr: Rate<'a>,
    pub momentum: f64,
    pub weight_decay: f64,
    pub nesterov: bool,
}

/// A step of stochastic gradient descent in one pass over memory: libtorch's fused kernel. Call it
/// within `tch::no_grad`. The step is skipped if `overflow`, float `[1]`, is 1; the device decides.
///
/// # Errors
/// Lists of unequal length; tensors of one position that differ in shape, dtype or device.
pub fn fused_sgd(group: &Group, step: SgdStep, overflow: Option<&Tensor>) -> Result<()> {
    group.check(step.momentum != 0.0, false)?;
    let count = group.parameters.len();
    if count == 0 {
        return Ok(()); // the kernel needs at least one tensor
    }
    let [parameters, gradients, momentum_buffers] =
        [&group.parameters, &group.gradients, &group.momentum_buffers].map(|list| pointers(list));
    let (lr, lr_on_device) = step.lr.parts();
    // SAFETY: the pointers are of live tensors, the lengths were checked above, and the lists
    // outlive the call. The C++ side checks shapes, dtypes and strides.
    let message = unsafe {
        rsflow_fused_sgd(
            parameters.as_ptr(),
            gradients.as_ptr(),
            momentum_buffers.as_ptr(),
            count,
            lr,
            lr_on_device,
            step.momentum,
            step.weight_decay,
            step.nesterov,
            overflow.map_or(ptr::null(), |overflow| overflow.as_ptr().cast()),
        )
    };
    to_result(message)
}

/// The hyperparameters of a step of [`adam`].
#[derive(Clone, Copy, Debug)]
pub struct AdamStep<'a> {
    pub lr: Rate<'a>,
    pub betas: (f64, f64),
    pub weight_decay: f64,
    pub epsilon: f64,
    /// LAMB: scale the change of a parameter with weight decay to the parameter's norm.
    pub scales_to_norm: bool,
    /// The number of this update, from 1: a float scalar on the device.
    pub updates: &'a Tensor,
}

/// A step of AdamW, as [`fused_sgd`], or of LAMB, which cannot be skipped.
///
/// # Errors
/// As [`fused_sgd`]; an overflow is given for LAMB.
pub fn adam(group: &Group, step: AdamStep, overflow: Option<&Tensor>) -> Result<()> {
    group.check(true, true)?;
    let count = group.parameters.len();
    if count == 0 {
        return Ok(());
    }
    let lists = [
        &group.parameters,
        &group.gradients,
        &group.momentum_buffers,
        &group.variance_buffers,
    ];
    let [parameters, gradients, momenta, variances] = lists.map(|list| pointers(list));
    let (lr, lr_on_device) = step.lr.parts();
    // SAFETY: as in `fused_sgd`; `updates` is a live tensor.
    let message = unsafe {
        rsflow_adam(
            parameters.as_ptr(),
            gradients.as_ptr(),
            momenta.as_ptr(),
            variances.as_ptr(),
            count,
            step.updates.as_ptr().cast(),
            lr,
            lr_on_device,
            step.betas.0,
            step.betas.1,
            step.weight_decay,
            step.epsilon,
            step.scales_to_norm,
            overflow.map_or(ptr::null(), |overflow| overflow.as_ptr().cast()),
        )
    };
    to_result(message)
}

/// Scales gradients in place so that the Euclidean norm of all of them is at most `max_norm`, as PyTorch's
/// `clip_grad_norm_`.
///
/// # Errors
/// The device fails.
pub fn clip_gradients(gradients: &[&Tensor], max_norm: f64) -> Result<()> {
    if gradients.is_empty() {
        return Ok(());
    }
    let list = pointers(gradients);
    // SAFETY: the pointers are of live tensors, and the length is theirs.
    to_result(unsafe { rsflow_clip_gradients(list.as_ptr(), list.len(), max_norm) })
}

/// Moves tensors by the share `weight` of the way towards others of the same shapes and dtypes, in place:
/// tensor + weight * (other - tensor).
///
/// # Errors
/// Lists of different lengths; shapes that do not match; the device fails.
pub fn move_towards(tensors: &[&Tensor], others: &[&Tensor], weight: f64) -> Result<()> {
    ensure!(
        tensors.len() == others.len(),
        "{} tensors cannot follow {}",
        tensors.len(),
        others.len()
    );
    if tensors.is_empty() {
        return Ok(());
    }
    let (tensors, others) = (pointers(tensors), pointers(others));
    // SAFETY: the pointers are of live tensors, and the lists have the same length.
    to_result(unsafe {
        rsflow_move_towards(tensors.as_ptr(), others.as_ptr(), tensors.len(), weight)
    })
}

/// Multiplies the gradients by `inverse_scale`, float `[1]`, in place, and sets `overflow`, float
/// `[1]`, to 1 if any value is not finite.
pub fn unscale(gradients: &[&Tensor], overflow: &Tensor, inverse_scale: &Tensor) -> Result<()> {
    let list = pointers(gradients);
    // SAFETY: the pointers are of live tensors, and the length is theirs.
    to_result(unsafe {
        rsflow_unscale(
            list.as_ptr(),
            list.len(),
            overflow.as_ptr().cast(),
            inverse_scale.as_ptr().cast(),
        )
    })
}
