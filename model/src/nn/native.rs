//! What tch does not bind: calls into `native/`. Most of the unsafe code of this crate; the rest is in
//! `compute`, and where `feed` hands over memory that is being copied.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;

use anyhow::{Result, bail, ensure};
use tch::kind::Element;
use tch::{Kind, Tensor};

unsafe extern "C" {
    fn rsflow_keep_freed_memory();
    fn rsflow_libtorch_version() -> *const c_char;
    fn rsflow_set_arithmetic(tf32: bool, deterministic: bool) -> *const c_char;
    fn rsflow_fused_sgd(
        parameters: *const *const c_void,
        gradients: *const *const c_void,
        momenta: *const *const c_void,
        count: usize,
        lr: f64,
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
    fn rsflow_pinned(bytes: usize, output: *mut *mut c_void) -> *const c_char;
    fn rsflow_synchronize(gpu: c_int) -> *const c_char;
    fn rsflow_take_peak_memory(gpu: c_int, peak: *mut u64, total: *mut u64) -> *const c_char;
    fn rsflow_empty_cache() -> *const c_char;
    fn rsflow_uploads_new(gpu: c_int, uploads: *mut *mut c_void) -> *const c_char;
    fn rsflow_uploads_delete(uploads: *mut c_void);
    fn rsflow_upload(
        uploads: *mut c_void,
        bytes: *const c_void,
        kind: c_int,
        shape: *const i64,
        dimensions: usize,
        output: *mut *mut c_void,
    ) -> *const c_char;
    fn rsflow_uploads_wait(uploads: *mut c_void) -> *const c_char;
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

/// The version of libtorch that this program was built for.
pub fn libtorch_version() -> String {
    // SAFETY: static text.
    let text = unsafe { CStr::from_ptr(rsflow_libtorch_version()) };
    text.to_string_lossy().into_owned()
}

/// Sets, for the whole process, whether GPUs may multiply float32 as TF32, and whether only kernels
/// may be used that give the same bits each time; one that has none of those is an error then.
///
/// # Errors
/// What libtorch says.
pub fn set_arithmetic(tf32: bool, deterministic: bool) -> Result<()> {
    // SAFETY: sets what libtorch keeps.
    done(unsafe { rsflow_set_arithmetic(tf32, deterministic) })
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

/// The numbers of a step of [`fused_sgd`]; `Sgd` of the training floor has their meaning.
#[derive(Clone, Copy, Debug)]
pub struct SgdStep {
    pub lr: f64,
    pub momentum: f64,
    pub weight_decay: f64,
    pub nesterov: bool,
}

/// A step of stochastic gradient descent in one pass over memory: libtorch's fused kernel. To be
/// called without gradients being recorded (`tch::no_grad`). Nothing is moved where `overflow`, `[1]`,
/// is 1.
///
/// # Errors
/// Lists of unequal length, tensors that do not fit each other, or what libtorch says.
pub fn fused_sgd(group: &SgdGroup, step: SgdStep, overflow: Option<&Tensor>) -> Result<()> {
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
            overflow.map_or(ptr::null(), |overflow| overflow.as_ptr().cast()),
        )
    };
    done(message)
}

/// Multiplies gradients by `inverse_scale`, `[1]`, in place, and sets `overflow`, `[1]`, to 1 if one of
/// them is not finite.
///
/// # Errors
/// What libtorch says.
pub fn unscale(gradients: &[&Tensor], overflow: &Tensor, inverse_scale: &Tensor) -> Result<()> {
    let list = pointers(gradients);
    // SAFETY: the pointers are those of live tensors, as many as is said.
    done(unsafe {
        rsflow_unscale(
            list.as_ptr(),
            list.len(),
            overflow.as_ptr().cast(),
            inverse_scale.as_ptr().cast(),
        )
    })
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

/// Memory that GPUs read by themselves: a new tensor, uint8 `[bytes]`, of any values.
///
/// # Errors
/// What libtorch says: no GPU, for one.
pub fn pinned(bytes: usize) -> Result<Tensor> {
    let mut output = ptr::null_mut();
    // SAFETY: the place outlives the call.
    done(unsafe { rsflow_pinned(bytes, &mut output) })?;
    // SAFETY: there was no error, so it is a new tensor, which is ours.
    Ok(unsafe { Tensor::from_ptr(output.cast()) })
}

/// Waits until a GPU has done all that was asked of it.
///
/// # Errors
/// What went wrong in any of that.
pub fn synchronize(gpu: usize) -> Result<()> {
    // SAFETY: takes no pointers.
    done(unsafe { rsflow_synchronize(gpu as c_int) })
}

/// Bytes of a GPU's memory: the most that tensors had at once since this was last asked, and all.
///
/// # Errors
/// What libtorch says.
pub fn take_peak_memory(gpu: usize) -> Result<(u64, u64)> {
    let (mut peak, mut total) = (0, 0);
    // SAFETY: both places outlive the call.
    done(unsafe { rsflow_take_peak_memory(gpu as c_int, &mut peak, &mut total) })?;
    Ok((peak, total))
}

/// Gives back to the system what libtorch keeps of GPUs' memory for later use.
///
/// # Errors
/// What libtorch says.
pub fn empty_cache() -> Result<()> {
    // SAFETY: takes no pointers.
    done(unsafe { rsflow_empty_cache() })
}

/// Copies to a GPU, which go on while it computes.
#[derive(Debug)]
pub struct Uploads(*mut c_void);

// SAFETY: what is behind the pointer belongs to no thread, and `&mut self` is asked for.
unsafe impl Send for Uploads {}

impl Uploads {
    /// To that GPU.
    ///
    /// # Errors
    /// What libtorch says.
    pub fn new(gpu: usize) -> Result<Self> {
        let mut uploads = ptr::null_mut();
        // SAFETY: the place outlives the call.
        done(unsafe { rsflow_uploads_new(gpu as c_int, &mut uploads) })?;
        Ok(Uploads(uploads))
    }

    /// Begins to copy a slice into a new tensor of that shape, and has what is computed from now on
    /// wait for it.
    ///
    /// # Errors
    /// Another number of elements, or what libtorch says.
    ///
    /// # Safety
    /// The slice has to stay as it is until [`Uploads::wait`].
    pub unsafe fn begin<T: Element>(&mut self, values: &[T], shape: &[i64]) -> Result<Tensor> {
        ensure!(
            shape.iter().product::<i64>() == values.len() as i64,
            "{} values do not have the shape {shape:?}",
            values.len()
        );
        // As C++ numbers them.
        let kind = match T::KIND {
            Kind::Uint8 => 0,
            Kind::Int64 => 4,
            other => bail!("tensors of kind {other:?} are not copied"),
        };
        let mut output = ptr::null_mut();
        // SAFETY: the pointers are those of live slices, and lengths are as checked.
        let message = unsafe {
            rsflow_upload(
                self.0,
                values.as_ptr().cast(),
                kind,
                shape.as_ptr(),
                shape.len(),
                &mut output,
            )
        };
        done(message)?;
        // SAFETY: there was no error, so it is a new tensor, which is ours.
        Ok(unsafe { Tensor::from_ptr(output.cast()) })
    }

    /// Waits until all copies are done.
    ///
    /// # Errors
    /// What went wrong in them.
    pub fn wait(&mut self) -> Result<()> {
        // SAFETY: the pointer is ours.
        done(unsafe { rsflow_uploads_wait(self.0) })
    }
}

impl Drop for Uploads {
    fn drop(&mut self) {
        let _ = self.wait();
        // SAFETY: the pointer is ours, and is not used again.
        unsafe { rsflow_uploads_delete(self.0) }
    }
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
