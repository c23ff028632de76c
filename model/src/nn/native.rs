//! Functions of libtorch that tch does not bind, by way of the C++ in `native/`. Most of the unsafe
//! code of this crate; the rest is in `compute`, and where `transfer` hands over memory that is
//! being copied. Every `Result` is a libtorch error unless its function says more.

pub mod optimizers;

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;

use anyhow::{Result, bail, ensure};
use tch::kind::Element;
use tch::{Kind, Tensor};

unsafe extern "C" {
    fn rsflow_keep_freed_memory();
    fn rsflow_libtorch_version() -> *const c_char;
    fn rsflow_failure_kind() -> c_int;
    fn rsflow_set_arithmetic(tf32: bool, deterministic: bool) -> *const c_char;
    fn rsflow_cast(
        tensors: *const *const c_void,
        count: usize,
        dtype: c_int,
        outputs: *mut *mut c_void,
    ) -> *const c_char;
    fn rsflow_pinned(bytes: usize, output: *mut *mut c_void) -> *const c_char;
    fn rsflow_synchronize(gpu: c_int) -> *const c_char;
    fn rsflow_peak_memory(gpu: c_int, take: bool, peak: *mut u64, total: *mut u64)
    -> *const c_char;
    fn rsflow_cuda_graph_begin(gpu: c_int, graph: *mut *mut c_void) -> *const c_char;
    fn rsflow_cuda_graph_end(graph: *mut c_void) -> *const c_char;
    fn rsflow_cuda_graph_replay(graph: *mut c_void) -> *const c_char;
    fn rsflow_cuda_graph_delete(graph: *mut c_void);
    fn rsflow_empty_cache() -> *const c_char;
    fn rsflow_copy_stream_new(gpu: c_int, stream: *mut *mut c_void) -> *const c_char;
    fn rsflow_copy_stream_delete(stream: *mut c_void);
    fn rsflow_copy_to_device(
        stream: *mut c_void,
        bytes: *const c_void,
        dtype: c_int,
        shape: *const i64,
        dimensions: usize,
        output: *mut *mut c_void,
    ) -> *const c_char;
    fn rsflow_copy_stream_wait(stream: *mut c_void) -> *const c_char;
    fn rsflow_quantize(
        input: *const c_void,
        levels: *const c_void,
        thresholds: *const c_void,
        gradient: c_int,
        in_place: bool,
        counts: *const c_void,
        sums: *const c_void,
        output: *mut *mut c_void,
    ) -> *const c_char;
}

/// Makes glibc's malloc keep freed memory; does nothing with another C library. For a process that
/// computes with libtorch on the CPU.
///
/// Every step allocates and frees the same activations. By default glibc returns large blocks to
/// the system each time, and getting them back costs a page fault for every 4 KiB: with MobileNetV2
/// a sixth of the step.
pub fn keep_freed_memory() {
    // SAFETY: mallopt may be called at any time.
    unsafe { rsflow_keep_freed_memory() }
}

/// The version of the libtorch headers that this program was built with.
pub fn libtorch_version() -> String {
    // SAFETY: a static string.
    let text = unsafe { CStr::from_ptr(rsflow_libtorch_version()) };
    text.to_string_lossy().into_owned()
}

/// Sets, for the whole process, whether float32 convolutions and matrix products may use TF32 on
/// GPUs, and whether only deterministic kernels may run; an operator that has none is an error
/// then.
pub fn set_arithmetic(tf32: bool, deterministic: bool) -> Result<()> {
    // SAFETY: sets global flags of libtorch.
    to_result(unsafe { rsflow_set_arithmetic(tf32, deterministic) })
}

/// Casts tensors of one floating-point dtype to another one in one call. Their gradients are cast together, too.
///
/// # Errors
/// Tensors of several dtypes; another dtype; out of memory.
pub fn cast(tensors: &[&Tensor], dtype: Kind) -> Result<Vec<Tensor>> {
    let list = pointers(tensors);
    let mut outputs = vec![ptr::null_mut(); list.len()];
    // SAFETY: the pointers are of live tensors, and both lists have that length.
    let message = unsafe {
        rsflow_cast(
            list.as_ptr(),
            list.len(),
            number_of(dtype)?,
            outputs.as_mut_ptr(),
        )
    };
    to_result(message)?;
    let outputs = outputs.into_iter();
    // SAFETY: without an error they are new tensors, which we own.
    Ok(outputs
        .map(|tensor| unsafe { Tensor::from_ptr(tensor.cast()) })
        .collect())
}

/// The function whose derivative stands in for that of a quantizer, which is 0 almost everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gradient {
    /// x.
    StraightThrough = 0,
    /// min(x, top level).
    ClippedIdentity = 1,
    /// min(max(x, 0), top level). The forward pass, too, quantizes max(x, 0).
    ClippedRelu = 2,
}

/// Statistics of each level that [`quantize`] adds to: f64 `[quantizers, levels]`.
#[derive(Debug)]
pub struct LevelStatistics {
    /// The number of values at the level.
    pub counts: Tensor,
    /// The sum of the values at the level.
    pub sums: Tensor,
}

/// Replaces each value by the nearest level, in one pass over memory. `input` is `[quantizers,
/// ...]`, or of any shape if there is one quantizer; `levels` are `[quantizers, levels]` in rising
/// order. A value greater than a threshold, `[quantizers, levels - 1]`, belongs to a higher level.
/// NaN and infinities become NaN (with [`Gradient::ClippedRelu`] minus infinity counts as 0).
///
/// `in_place`: the output takes the memory of `input`, which the backward pass must not need.
///
/// # Errors
/// Shapes that do not match; a leaf that needs a gradient, in place.
pub fn quantize(
    input: &Tensor,
    levels: &Tensor,
    thresholds: &Tensor,
    gradient: Gradient,
    in_place: bool,
    statistics: Option<&LevelStatistics>,
) -> Result<Tensor> {
    let mut output = ptr::null_mut();
    let (counts, sums) = match statistics {
        None => (ptr::null(), ptr::null()),
        Some(to) => (to.counts.as_ptr().cast(), to.sums.as_ptr().cast()),
    };
    // SAFETY: the pointers are of live tensors, or null where that is allowed. The C++ side checks
    // shapes, dtypes and devices.
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
    to_result(message)?;
    // SAFETY: without an error it is a new tensor, which we own.
    Ok(unsafe { Tensor::from_ptr(output.cast()) })
}

/// Page-locked host memory, which GPUs copy from without staging: a new uninitialized tensor, uint8
/// `[bytes]`.
///
/// # Errors
/// There is no GPU.
pub fn pinned(bytes: usize) -> Result<Tensor> {
    let mut output = ptr::null_mut();
    // SAFETY: the pointer outlives the call.
    to_result(unsafe { rsflow_pinned(bytes, &mut output) })?;
    // SAFETY: without an error it is a new tensor, which we own.
    Ok(unsafe { Tensor::from_ptr(output.cast()) })
}

/// Waits for all kernels and copies of a GPU.
///
/// # Errors
/// Any of them failed.
pub fn synchronize(gpu: usize) -> Result<()> {
    // SAFETY: takes no pointers.
    to_result(unsafe { rsflow_synchronize(gpu as c_int) })
}

/// Bytes of a GPU's memory: the peak allocated to tensors since the last call, and the total.
pub fn take_peak_memory(gpu: usize) -> Result<(u64, u64)> {
    peak(gpu, true)
}

/// The same, without a new start.
pub fn peak_memory(gpu: usize) -> Result<(u64, u64)> {
    peak(gpu, false)
}

fn peak(gpu: usize, take: bool) -> Result<(u64, u64)> {
    let (mut peak, mut total) = (0, 0);
    // SAFETY: both pointers outlive the call.
    to_result(unsafe { rsflow_peak_memory(gpu as c_int, take, &mut peak, &mut total) })?;
    Ok((peak, total))
}

/// Frees the GPU memory that libtorch's caching allocator holds but does not use.
pub fn empty_cache() -> Result<()> {
    // SAFETY: takes no pointers.
    to_result(unsafe { rsflow_empty_cache() })
}

/// A CUDA stream for host-to-device copies, which overlap with the compute stream's kernels.
#[derive(Debug)]
pub struct CopyStream(*mut c_void);

// SAFETY: the C++ object is not bound to a thread, and its functions take `&mut self`.
unsafe impl Send for CopyStream {}

impl CopyStream {
    pub fn new(gpu: usize) -> Result<Self> {
        let mut stream = ptr::null_mut();
        // SAFETY: the pointer outlives the call.
        to_result(unsafe { rsflow_copy_stream_new(gpu as c_int, &mut stream) })?;
        Ok(CopyStream(stream))
    }

    /// Starts an asynchronous copy of a slice (u8 or i64) into a new tensor of this shape on the
    /// GPU. Kernels that are launched from now on wait for it.
    ///
    /// # Errors
    /// The shape has another number of elements.
    ///
    /// # Safety
    /// The slice must stay valid and unchanged until [`CopyStream::wait`].
    pub unsafe fn copy<T: Element>(&mut self, values: &[T], shape: &[i64]) -> Result<Tensor> {
        ensure!(
            shape.iter().product::<i64>() == values.len() as i64,
            "{} values do not have the shape {shape:?}",
            values.len()
        );
        let dtype = number_of(T::KIND)?;
        let mut output = ptr::null_mut();
        // SAFETY: the slices are live, and their lengths were checked above.
        let message = unsafe {
            rsflow_copy_to_device(
                self.0,
                values.as_ptr().cast(),
                dtype,
                shape.as_ptr(),
                shape.len(),
                &mut output,
            )
        };
        to_result(message)?;
        // SAFETY: without an error it is a new tensor, which we own.
        Ok(unsafe { Tensor::from_ptr(output.cast()) })
    }

    /// Waits for all copies.
    ///
    /// # Errors
    /// Any of them failed.
    pub fn wait(&mut self) -> Result<()> {
        // SAFETY: we own the pointer.
        to_result(unsafe { rsflow_copy_stream_wait(self.0) })
    }
}

impl Drop for CopyStream {
    fn drop(&mut self) {
        let _ = self.wait();
        // SAFETY: we own the pointer, and do not use it again.
        unsafe { rsflow_copy_stream_delete(self.0) }
    }
}

/// A CUDA graph: kernels that were recorded once and are started again all at once, with the same
/// tensors.
#[derive(Debug)]
pub struct Graph(*mut c_void);

// SAFETY: the C++ object is not bound to a thread once its recording has ended, and its functions take
// `&mut self`.
unsafe impl Send for Graph {}

impl Graph {
    /// Records what `work` starts on a GPU; nothing of it runs. What it returns is computed by
    /// [`Graph::replay`]. `work` may not wait for the GPU or read from it.
    ///
    /// # Errors
    /// Those of `work`; something in it cannot be recorded.
    pub fn record<T>(gpu: usize, work: impl FnOnce() -> Result<T>) -> Result<(Graph, T)> {
        let mut graph = ptr::null_mut();
        // SAFETY: the pointer outlives the call.
        to_result(unsafe { rsflow_cuda_graph_begin(gpu as c_int, &mut graph) })?;
        let graph = Graph(graph);
        let result = work();
        // SAFETY: we own the pointer, and this is the thread that began.
        let ended = to_result(unsafe { rsflow_cuda_graph_end(graph.0) });
        // The first error is the cause.
        let result = result?;
        ended?;
        Ok((graph, result))
    }

    /// Starts what was recorded.
    ///
    /// # Errors
    /// The device fails.
    pub fn replay(&mut self) -> Result<()> {
        // SAFETY: we own the pointer.
        to_result(unsafe { rsflow_cuda_graph_replay(self.0) })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: we own the pointer, and do not use it again.
        unsafe { rsflow_cuda_graph_delete(self.0) }
    }
}

/// The number of `c10::ScalarType`.
fn number_of(dtype: Kind) -> Result<c_int> {
    Ok(match dtype {
        Kind::Uint8 => 0,
        Kind::Int64 => 4,
        Kind::Half => 5,
        Kind::Float => 6,
        Kind::Double => 7,
        Kind::BFloat16 => 15,
        other => bail!("the dtype {other:?} is not supported here"),
    })
}

fn pointers(tensors: &[&Tensor]) -> Vec<*const c_void> {
    let pointers = tensors.iter().map(|tensor| tensor.as_ptr().cast());
    pointers.collect()
}

/// The error, if there is one, that a C++ function returned.
pub(crate) fn to_result(message: *const c_char) -> Result<()> {
    if message.is_null() {
        return Ok(());
    }
    // SAFETY: a message of `catch_exceptions`, valid until this thread's next call.
    let message = unsafe { CStr::from_ptr(message) };
    let message = message.to_string_lossy().trim_end().to_owned();
    // SAFETY: reads a number of this thread.
    let kind = match unsafe { rsflow_failure_kind() } {
        1 => Some(FailureKind::OutOfMemory),
        2 => Some(FailureKind::Device),
        _ => None,
    };
    Err(LibtorchError { kind, message }.into())
}

/// A kind of failure for which the user can do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// Out of memory, on the device or the CPU: less work at once may fit.
    OutOfMemory,
    /// A GPU or one of its libraries failed; this process cannot use it any more.
    Device,
}

/// An exception of libtorch in a function of the shim.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct LibtorchError {
    kind: Option<FailureKind>,
    message: String,
}

impl LibtorchError {
    #[cfg(test)]
    pub(super) fn new(kind: Option<FailureKind>, message: String) -> Self {
        LibtorchError { kind, message }
    }

    /// As the type of the exception says.
    pub fn kind(&self) -> Option<FailureKind> {
        self.kind
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    /// Values and gradients of [`cast`] are those of single casts, and what nothing depends on has no
    /// gradient.
    #[test]
    fn casts_are_those_of_single_tensors() {
        tch::manual_seed(3);
        let leaves: Vec<Tensor> = [vec![3, 4], vec![2, 3, 5, 5], vec![7]]
            .iter()
            .map(|shape| Tensor::randn(shape, (Kind::Float, Device::Cpu)))
            .map(|tensor| tensor.set_requires_grad(true))
            .collect();
        let single = |leaf: &Tensor| leaf.f_to_kind(Kind::BFloat16).unwrap();
        let together = cast(&leaves.iter().collect::<Vec<_>>(), Kind::BFloat16).unwrap();
        // The last one is not used.
        let gradients = |cast: &[Tensor]| {
            let sum = (cast[0].square().sum(Kind::Float)) + (cast[1].exp().sum(Kind::Float));
            Tensor::run_backward(&[sum], &leaves.iter().collect::<Vec<_>>(), false, false)
        };
        let found = gradients(&together);
        let expected = gradients(&leaves.iter().map(single).collect::<Vec<_>>());
        for (position, leaf) in leaves.iter().enumerate() {
            assert_eq!(together[position], single(leaf));
            assert_eq!(found[position].defined(), position < 2);
            if position < 2 {
                assert_eq!(found[position].kind(), Kind::Float);
                assert_eq!(found[position], expected[position]);
            }
        }
        let double = Tensor::zeros([2], (Kind::Double, Device::Cpu));
        assert!(cast(&[&leaves[0], &double], Kind::Half).is_err());
        assert!(cast(&[], Kind::Half).unwrap().is_empty());
        assert!(cast(&[&leaves[0]], Kind::Bool).is_err());
    }
}
