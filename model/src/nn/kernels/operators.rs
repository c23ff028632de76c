//! The operators that our kernels compute, by way of the C++ in `native/cpu` and `native/gpu`.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr;

use anyhow::{Context as _, Result, ensure};
use tch::Tensor;

use crate::nn::native::to_result;

unsafe extern "C" {
    fn rsflow_kernel_name(index: usize) -> *const c_char;
    fn rsflow_use_kernels(
        launch: Launch,
        functions: *const *mut c_void,
        gpu: c_int,
    ) -> *const c_char;
    fn rsflow_drop_kernels();
    fn rsflow_batch_norm(
        input: *const c_void,
        weight: *const c_void,
        bias: *const c_void,
        running_mean: *const c_void,
        running_var: *const c_void,
        residual: *const c_void,
        activation: c_int,
        training: bool,
        momentum: f64,
        epsilon: f64,
        on_gpu: bool,
        output: *mut *mut c_void,
    ) -> *const c_char;
    fn rsflow_max_pool(
        input: *const c_void,
        kernel: c_int,
        stride: c_int,
        top: c_int,
        left: c_int,
        out_height: c_int,
        out_width: c_int,
        output: *mut *mut c_void,
    ) -> *const c_char;
    fn rsflow_depthwise(
        input: *const c_void,
        weight: *const c_void,
        stride: c_int,
        top: c_int,
        left: c_int,
        out_height: c_int,
        out_width: c_int,
        output: *mut *mut c_void,
    ) -> *const c_char;
}

/// Starts a kernel, as `cuLaunchKernel` does: blocks, threads of a block, bytes of shared memory, stream,
/// arguments.
pub type Launch = unsafe extern "C" fn(
    *mut c_void,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    c_uint,
    *mut c_void,
    *mut *mut c_void,
    *mut *mut c_void,
) -> c_int;

/// Which of our kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernels {
    /// Those for the CPU: batch norm, in both memory formats, float32 or bfloat16.
    Cpu,
    /// Those for GPUs, of [`use_kernels`]: in channels last, float32, bfloat16 or float16.
    Gpu,
}

/// What is computed of the sum of a batch norm and a residual.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    #[default]
    None = 0,
    /// max(x, 0).
    Relu = 1,
    /// min(max(x, 0), 6).
    Relu6 = 2,
}

impl Activation {
    /// Applies it in place, with libtorch's operators.
    ///
    /// # Errors
    /// What libtorch says.
    pub fn apply_(self, x: &mut Tensor) -> Result<()> {
        match self {
            Activation::None => {}
            Activation::Relu => drop(x.f_relu_()?),
            Activation::Relu6 => drop(x.f_relu6_()?),
        }
        Ok(())
    }
}

/// The tensors of a batch norm, each `[channels]`.
#[derive(Debug)]
pub struct BatchNorm {
    /// Gamma.
    pub weight: Tensor,
    /// Beta.
    pub bias: Tensor,
    pub running_mean: Tensor,
    pub running_var: Tensor,
}

/// Which statistics a batch norm uses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Statistics {
    /// Those of the batch, which also update the running ones; else the running ones.
    pub of_batch: bool,
    /// The weight of the batch in the running ones.
    pub momentum: f64,
    /// Added to the variance.
    pub epsilon: f64,
}

/// The names of all kernels, in the order in which [`use_kernels`] wants them.
pub fn kernel_names() -> Vec<&'static CStr> {
    let names = (0..).map_while(|index| {
        // SAFETY: any number may be asked for.
        let name = unsafe { rsflow_kernel_name(index) };
        // SAFETY: not null, and static.
        (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) })
    });
    names.collect()
}

/// From now on, these kernels are used for tensors on the GPU of that number, or, with `None`, on the CPU.
///
/// # Errors
/// Not one function for each name.
///
/// # Safety
/// Each function is the kernel of its name, which `launch` can start at any time from now on.
pub unsafe fn use_kernels(
    launch: Launch,
    functions: &[*mut c_void],
    gpu: Option<usize>,
) -> Result<()> {
    let names = kernel_names();
    ensure!(
        functions.len() == names.len() && functions.iter().all(|function| !function.is_null()),
        "there are {} kernels, not {}",
        names.len(),
        functions.len()
    );
    let gpu = gpu.map_or(Ok(-1), c_int::try_from)?;
    // SAFETY: one function for each name, and the caller's promise.
    to_result(unsafe { rsflow_use_kernels(launch, functions.as_ptr(), gpu) })
}

/// No kernels are used any more.
pub fn drop_kernels() {
    // SAFETY: takes no pointers.
    unsafe { rsflow_drop_kernels() }
}

/// activation(batch norm of `x` + `residual`), both `[batch, channels, height, width]`, in float32, rounded
/// once. `None`: there are no such kernels for such an input.
///
/// # Errors
/// Shapes that do not match; the device fails or is out of memory.
pub fn batch_norm(
    kernels: Kernels,
    x: &Tensor,
    norm: &BatchNorm,
    residual: Option<&Tensor>,
    activation: Activation,
    statistics: Statistics,
) -> Result<Option<Tensor>> {
    let mut output = ptr::null_mut();
    // SAFETY: the pointers are of live tensors, or null where that is allowed. The C++ side checks shapes,
    // dtypes and devices.
    let message = unsafe {
        rsflow_batch_norm(
            x.as_ptr().cast(),
            norm.weight.as_ptr().cast(),
            norm.bias.as_ptr().cast(),
            norm.running_mean.as_ptr().cast(),
            norm.running_var.as_ptr().cast(),
            residual.map_or(ptr::null(), |residual| residual.as_ptr().cast()),
            activation as c_int,
            statistics.of_batch,
            statistics.momentum,
            statistics.epsilon,
            kernels == Kernels::Gpu,
            &mut output,
        )
    };
    to_result(message)?;
    Ok(tensor(output))
}

/// activation(`y` + `residual`), in place, as in torchvision: the backward pass of a batch norm or a sum does
/// not need its output, and it saves a third of the memory of activations.
pub(super) fn add_and_activate(
    mut y: Tensor,
    residual: Option<&Tensor>,
    activation: Activation,
) -> Result<Tensor> {
    if let Some(residual) = residual {
        let _ = y.f_add_(residual)?;
    }
    activation.apply_(&mut y)?;
    Ok(y)
}

/// Max pooling of `x`, `[batch, channels, height, width]`, over square windows, with `padding` at the top
/// and left that counts for nothing, to `out`, its height and width. `None`: there are no kernels for such
/// an input.
///
/// # Errors
/// Windows outside the map; the device fails or is out of memory.
pub fn max_pool(
    x: &Tensor,
    kernel: i64,
    stride: i64,
    padding: [i64; 2],
    out: [i64; 2],
) -> Result<Option<Tensor>> {
    let int = |value: i64| c_int::try_from(value).context("the pooling is too large");
    let mut output = ptr::null_mut();
    // SAFETY: the pointer is of a live tensor. The C++ side checks the rest.
    let message = unsafe {
        rsflow_max_pool(
            x.as_ptr().cast(),
            int(kernel)?,
            int(stride)?,
            int(padding[0])?,
            int(padding[1])?,
            int(out[0])?,
            int(out[1])?,
            &mut output,
        )
    };
    to_result(message)?;
    Ok(tensor(output))
}

/// Convolution of each channel of `x`, `[batch, channels, height, width]`, with its own kernel of `weight`,
/// `[channels, 1, 3, 3]`, with `padding` at the top and left that is 0, to `out`, its height and width.
/// Computed in float32, rounded once. `None`: there are no kernels for such an input or weight.
///
/// # Errors
/// Shapes that do not match; kernels outside the map; the device fails or is out of memory.
pub fn depthwise(
    x: &Tensor,
    weight: &Tensor,
    stride: i64,
    padding: [i64; 2],
    out: [i64; 2],
) -> Result<Option<Tensor>> {
    let int = |value: i64| c_int::try_from(value).context("the convolution is too large");
    let mut output = ptr::null_mut();
    // SAFETY: the pointers are of live tensors. The C++ side checks the rest.
    let message = unsafe {
        rsflow_depthwise(
            x.as_ptr().cast(),
            weight.as_ptr().cast(),
            int(stride)?,
            int(padding[0])?,
            int(padding[1])?,
            int(out[0])?,
            int(out[1])?,
            &mut output,
        )
    };
    to_result(message)?;
    Ok(tensor(output))
}

/// A new tensor of the C++ side.
pub(super) fn tensor(output: *mut c_void) -> Option<Tensor> {
    // SAFETY: without an error it is null or a new tensor, which we own.
    (!output.is_null()).then(|| unsafe { Tensor::from_ptr(output.cast()) })
}
