//! Convolutions in float32 with the batch norm, the residual's addition and the activation that follow them, for
//! inference on the CPU (`native/cpu/convolution.cpp`).

use std::cell::OnceCell;
use std::ffi::{c_char, c_int, c_void};
use std::ptr;

use anyhow::{Context as _, Result, ensure};
use tch::{Device, Kind, Tensor};

use super::Activation;
use super::operators::tensor;
use crate::nn::native::to_result;

unsafe extern "C" {
    fn rsflow_convolution_sets() -> usize;
    fn rsflow_drop_buffers();
    fn rsflow_pack(
        set: i64,
        weight: *const c_void,
        groups: i64,
        is_winograd: i64,
        output: *mut *mut c_void,
    ) -> *const c_char;
    fn rsflow_fused_convolution(
        images: *const c_void,
        packed: *const c_void,
        geometry: *const Geometry,
        scale: *const c_void,
        shift: *const c_void,
        residual: *const c_void,
        activation: c_int,
        output: *mut *mut c_void,
    ) -> *const c_char;
}

/// As `Geometry` in `native/cpu/convolution.cpp`.
#[repr(C)]
pub(super) struct Geometry {
    set: i64,
    kernel: i64,
    stride: i64,
    groups: i64,
    top: i64,
    left: i64,
    height: i64,
    width: i64,
    is_winograd: i64,
}

/// How many instruction sets of this processor there are kernels for: AVX-512, and AVX2 with FMA. Without them
/// there is no [`Convolution`].
pub fn convolution_sets() -> usize {
    // SAFETY: it has no arguments, and asks the processor.
    unsafe { rsflow_convolution_sets() }
}

/// Gives back to the system what memory of results the convolutions keep for the next pass.
pub fn drop_buffers() {
    // SAFETY: it may be called at any time.
    unsafe { rsflow_drop_buffers() }
}

/// A convolution whose weight lies as its kernels read it, for images of any shape.
#[derive(Debug)]
pub struct Convolution {
    /// The weight as it was given. Each algorithm has it in its own layout, made at its first use.
    weight: Tensor,
    direct: OnceCell<Tensor>,
    winograd: OnceCell<Tensor>,
    set: i64,
    inputs: i64,
    outputs: i64,
    kernel: i64,
    stride: i64,
    groups: i64,
}

/// Where a convolution is computed: pixels of padding above and left of the images, and the height and the width
/// of the result.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub padding: [i64; 2],
    pub output: [i64; 2],
}

impl Convolution {
    /// Of a weight `[outputs, inputs / groups, kernel, kernel]`, for the instruction set at that place of
    /// [`convolution_sets`], of which 0 is the best.
    ///
    /// # Errors
    /// Another shape; no such set; out of memory.
    pub fn new(set: usize, weight: &Tensor, stride: i64, groups: i64) -> Result<Self> {
        let set = i64::try_from(set)?;
        let (outputs, inputs, kernel, columns) = weight.size4()?;
        ensure!(
            kernel == columns && inputs > 0 && stride > 0 && groups > 0 && outputs % groups == 0,
            "no convolution has a weight of shape {:?}, {groups} groups and a stride of {stride}",
            weight.size()
        );
        ensure!(
            set < i64::try_from(convolution_sets())?,
            "there are no convolutions for this processor"
        );
        Ok(Convolution {
            weight: weight.shallow_clone(),
            direct: OnceCell::new(),
            winograd: OnceCell::new(),
            set,
            inputs: inputs * groups,
            outputs,
            kernel,
            stride,
            groups,
        })
    }

    /// activation(conv(images) scale + shift + residual), float32 `[batch, outputs, height, width]` in channels
    /// last, of images `[batch, inputs, ..]`. `scale` and `shift` are float32 `[outputs]`.
    ///
    /// # Errors
    /// Shapes or dtypes that do not match; out of memory.
    pub fn run(
        &self,
        images: &Tensor,
        place: Place,
        (scale, shift): (&Tensor, &Tensor),
        residual: Option<&Tensor>,
        activation: Activation,
    ) -> Result<Tensor> {
        ensure!(
            images.size4()?.1 == self.inputs,
            "images of {} channels for a convolution of {}",
            images.size4()?.1,
            self.inputs
        );
        self.check_norm((scale, shift))?;
        let geometry = self.geometry(images, place)?;
        let packed = self.packed(geometry.is_winograd != 0)?;
        let mut output = ptr::null_mut();
        // SAFETY: the pointers are null where that is allowed, or of live values; the shapes that the other side
        // does not check were checked above.
        let message = unsafe {
            rsflow_fused_convolution(
                images.as_ptr().cast(),
                packed.as_ptr().cast(),
                &geometry,
                scale.as_ptr().cast(),
                shift.as_ptr().cast(),
                residual.map_or(ptr::null(), |residual| residual.as_ptr().cast()),
                activation as c_int,
                &mut output,
            )
        };
        to_result(message)?;
        tensor(output).context("a convolution was without a result")
    }

    pub(super) fn set(&self) -> i64 {
        self.set
    }

    pub(super) fn inputs(&self) -> i64 {
        self.inputs
    }

    pub(super) fn outputs(&self) -> i64 {
        self.outputs
    }

    pub(super) fn is_pointwise(&self) -> bool {
        (self.kernel, self.stride, self.groups) == (1, 1, 1)
    }

    /// Whether each channel has a kernel of 3 x 3 of its own.
    pub(super) fn is_depthwise(&self) -> bool {
        let groups = self.groups;
        self.kernel == 3 && groups > 1 && groups == self.inputs && groups == self.outputs
    }

    /// # Errors
    /// Another shape or dtype than float32 `[outputs]`.
    pub(super) fn check_norm(&self, (scale, shift): (&Tensor, &Tensor)) -> Result<()> {
        for of_channels in [scale, shift] {
            ensure!(
                of_channels.size() == [self.outputs]
                    && of_channels.kind() == Kind::Float
                    && of_channels.device() == Device::Cpu
                    && of_channels.is_contiguous(),
                "the batch norm of {} channels has a {:?} tensor of shape {:?}",
                self.outputs,
                of_channels.kind(),
                of_channels.size()
            );
        }
        Ok(())
    }

    /// # Errors
    /// A place that no images have.
    pub(super) fn geometry(&self, images: &Tensor, place: Place) -> Result<Geometry> {
        let ([top, left], [out_height, out_width]) = (place.padding, place.output);
        let (_, _, height, width) = images.size4()?;
        ensure!(
            top >= 0 && left >= 0 && out_height > 0 && out_width > 0,
            "no convolution of {height} x {width} pixels has an output of {out_height} x {out_width}, and {top} and \
             {left} pixels of padding"
        );
        Ok(Geometry {
            set: self.set,
            kernel: self.kernel,
            stride: self.stride,
            groups: self.groups,
            top,
            left,
            height: out_height,
            width: out_width,
            is_winograd: i64::from(self.suits_winograd(place)),
        })
    }

    /// Whether this is computed with fewer multiplications (`native/cpu/winograd.cpp`). It reads more weights, so
    /// an image needs enough pixels for them: of the image and not of the batch, on which results do not depend.
    pub fn suits_winograd(&self, place: Place) -> bool {
        const SQUARES: i64 = 16;
        const WEIGHTS: i64 = 256 * 256;
        const INPUTS: std::ops::RangeInclusive<i64> = 16..=512;
        let [height, width] = place.output;
        let squares = ((height + 1) / 2).saturating_mul((width + 1) / 2);
        (self.kernel, self.stride, self.groups) == (3, 1, 1)
            && INPUTS.contains(&self.inputs)
            && self.inputs.saturating_mul(self.outputs) <= WEIGHTS
            && squares >= SQUARES
    }

    /// The weight as one of the algorithms reads it.
    pub(super) fn packed(&self, is_winograd: bool) -> Result<&Tensor> {
        let cell = match is_winograd {
            true => &self.winograd,
            false => &self.direct,
        };
        get_or_make(cell, || self.pack(is_winograd))
    }

    fn pack(&self, is_winograd: bool) -> Result<Tensor> {
        let mut output = ptr::null_mut();
        // SAFETY: the pointers are of a live tensor and of the output.
        to_result(unsafe {
            rsflow_pack(
                self.set,
                self.weight.as_ptr().cast(),
                self.groups,
                i64::from(is_winograd),
                &mut output,
            )
        })?;
        tensor(output).context("packing a weight was without a result")
    }
}

/// What is in the cell; if it is empty, what is made for it.
pub fn get_or_make<T>(cell: &OnceCell<T>, make: impl FnOnce() -> Result<T>) -> Result<&T> {
    if let Some(value) = cell.get() {
        return Ok(value);
    }
    let value = make()?;
    Ok(cell.get_or_init(|| value))
}
