//! What tch does not bind: calls into `native/`. The only unsafe code of this crate.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;

use anyhow::{Result, bail, ensure};
use tch::Tensor;

unsafe extern "C" {
    fn rsflow_keep_freed_memory();
    fn rsflow_fused_sgd(
        parameters: *const *const c_void,
        gradients: *const *const c_void,
        momenta: *const *const c_void,
        count: usize,
        lr: f64,
        momentum: f64,
        weight_decay: f64,
        nesterov: bool,
    ) -> *const c_char;
    fn rsflow_quantize(
        input: *const c_void,
        levels: *const c_void,
        thresholds: *const c_void,
        surrogate: c_int,
        in_place: bool,
        counts: *const c_void,
        sums: *const c_void,
        output: *mut *mut c_void,
    ) -> *const c_char;
}

/// Has the C library keep the memory that is freed (glibc; elsewhere nothing is done). For a
/// process that computes with libtorch on the CPU.
///
/// Every step allocates and frees the same activations. As glibc is set, large ones go back to the
/// system each time, and to get them again costs a page fault for every 4 KiB: with MobileNetV2 a
/// sixth of the step.
pub fn keep_freed_memory() {
    // SAFETY: sets parameters of malloc, which may be done at any time.
    unsafe { rsflow_keep_freed_memory() }
}

/// Tensors that one call of [`fused_sgd`] moves, in the same order.
#[derive(Debug, Default)]
pub struct SgdGroup<'a> {
    /// Changed in place.
    pub parameters: Vec<&'a Tensor>,
    /// One for each parameter, of its shape and kind.
    pub gradients: Vec<&'a Tensor>,
    /// One for each parameter, lying in memory as it does, zeros before the first step. Changed
    /// in place. Empty if the momentum is 0.
    pub momenta: Vec<&'a Tensor>,
}

/// The numbers of a step of [`fused_sgd`]; see [`Sgd`](crate::optimizer::Sgd).
#[derive(Clone, Copy, Debug)]
pub struct SgdStep {
    pub lr: f64,
    pub momentum: f64,
    pub weight_decay: f64,
    pub nesterov: bool,
}

/// A step of stochastic gradient descent in one pass over memory: libtorch's fused kernel. To be
/// called without gradients being recorded (`tch::no_grad`).
///
/// # Errors
/// Lists of unequal length, tensors that do not fit each other, or what libtorch says.
pub fn fused_sgd(group: &SgdGroup, step: SgdStep) -> Result<()> {
    let count = group.parameters.len();
    let momenta = if step.momentum == 0.0 { 0 } else { count };
    ensure!(
        group.gradients.len() == count && group.momenta.len() == momenta,
        "{count} parameters were given {} gradients and {} momenta",
        group.gradients.len(),
        group.momenta.len()
    );
    if count == 0 {
        return Ok(()); // the kernel wants at least one
    }
    let [parameters, gradients, momenta] =
        [&group.parameters, &group.gradients, &group.momenta].map(|list| pointers(list));
    // SAFETY: the pointers are those of live tensors, as many as the lengths above say, and the
    // lists outlive the call. The shim checks that the tensors fit each other.
    let message = unsafe {
        rsflow_fused_sgd(
            parameters.as_ptr(),
            gradients.as_ptr(),
            momenta.as_ptr(),
            count,
            step.lr,
            step.momentum,
            step.weight_decay,
            step.nesterov,
        )
    };
    done(message)
}

/// Of what function a quantizer has the gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gradient {
    /// x.
    StraightThrough = 0,
    /// min(x, top level).
    UpToTop = 1,
    /// min(max(x, 0), top level); max(x, 0) is what is quantized, too.
    Rectified = 2,
}

/// Places for what [`quantize`] finds at each level, `[quantizers, levels]` in f64. It is added to
/// what is there.
#[derive(Debug)]
pub struct AtLevels {
    /// How many values.
    pub counts: Tensor,
    /// Their sum.
    pub sums: Tensor,
}

/// Values at the nearest levels, in one pass over memory. The first dimension of `input` is that of
/// the quantizers, unless there is only one; `levels` are `[quantizers, levels]` in rising order, and
/// a value above one of `thresholds`, `[quantizers, levels - 1]`, belongs to a higher level. What is
/// not finite becomes NaN (but for minus infinity where it is rectified).
///
/// `in_place`: the result takes the place of `input`, whose values must not be needed for a gradient.
///
/// # Errors
/// Shapes that do not fit, or what libtorch says.
pub fn quantize(
    input: &Tensor,
    levels: &Tensor,
    thresholds: &Tensor,
    gradient: Gradient,
    in_place: bool,
    found: Option<&AtLevels>,
) -> Result<Tensor> {
    let mut output = ptr::null_mut();
    let (counts, sums) = match found {
        None => (ptr::null(), ptr::null()),
        Some(found) => (found.counts.as_ptr().cast(), found.sums.as_ptr().cast()),
    };
    // SAFETY: the pointers are those of live tensors, or null where that is allowed. The shim checks
    // that they fit each other.
    let message = unsafe {
        rsflow_quantize(
            input.as_ptr().cast(),
            levels.as_ptr().cast(),
            thresholds.as_ptr().cast(),
            gradient as c_int,
            in_place,
            counts,
            sums,
            &mut output,
        )
    };
    done(message)?;
    // SAFETY: there was no error, so it is a new tensor, which is ours.
    Ok(unsafe { Tensor::from_ptr(output.cast()) })
}

fn pointers(tensors: &[&Tensor]) -> Vec<*const c_void> {
    let pointers = tensors.iter().map(|tensor| tensor.as_ptr().cast());
    pointers.collect()
}

/// What a function of the shim returned.
fn done(message: *const c_char) -> Result<()> {
    if message.is_null() {
        return Ok(());
    }
    // SAFETY: not null, so it is the shim's text, which stays until this thread's next call.
    let message = unsafe { CStr::from_ptr(message) };
    bail!("{}", message.to_string_lossy().trim_end())
}
