//! Forward passes of large batches a few images at a time, so that feature maps stay in the caches from one layer to
//! the next. Later layers have smaller maps and more weights, and take more images at a time.

use anyhow::Result;
use tch::Tensor;

use super::Drops;
use super::modules::Module;
use super::pass::Pass;

/// A layer is late if each of its pixels is of so many by so many pixels of the image. Nineteen of twenty weights
/// of a ResNet are in late layers.
const LATE: i64 = 16;
/// How many times as many images late layers take.
const TIMES: usize = 8;

/// The images of a size that the first layers take at a time on so many cores. Measured with ResNets and
/// MobileNetV2: eight images of 224 pixels at once take 1.1 to 1.5 times as long as one after the other.
fn images_at_once(height: i64, width: i64, threads: i32) -> i64 {
    const PIXELS_OF_TWO_THREADS: i64 = 224 * 224;
    let pixels = height.saturating_mul(width).max(1);
    let all = PIXELS_OF_TWO_THREADS * i64::from(threads.max(2)) / 2;
    all.div_euclid(pixels) + i64::from(all % pixels > 0)
}

/// The square images of a size that a divided pass takes at most: more are as fast in several passes.
pub fn images_of_pass(size: u32, threads: i32) -> usize {
    let few = images_at_once(size.into(), size.into(), threads);
    usize::try_from(few).unwrap_or(1).saturating_mul(TIMES)
}

impl Pass<'_> {
    /// The network's outputs for the images, of a pass without training.
    pub(super) fn run_divided(
        &self,
        modules: &[Module],
        images: &Tensor,
        resolution: usize,
    ) -> Result<Tensor> {
        let drops = Drops::default();
        let run =
            |modules: &[Module], x: &Tensor| self.run(modules, x, (resolution, &drops), &mut []);
        let (batch, _, height, width) = images.size4()?;
        let few = images_at_once(height, width, tch::get_num_threads());
        if batch <= few {
            return run(modules, images);
        }
        let (early, late) = modules.split_at(first_late(modules));
        let parts: Result<Vec<Tensor>> = images
            .f_split(few, 0)?
            .iter()
            .map(|part| run(early, part))
            .collect();
        run(late, &Tensor::f_cat(&parts?, 0)?)
    }
}

/// The position of the first late layer, at which a pass can be cut.
fn first_late(modules: &[Module]) -> usize {
    let mut strides = 1_i64;
    for (at, module) in modules.iter().enumerate() {
        // A batch norm or an activation belongs to the layer before it.
        let is_first = match module {
            Module::GlobalAveragePool => true,
            Module::Conv { .. } | Module::Residual { .. } => strides >= LATE,
            _ => false,
        };
        if is_first {
            return at;
        }
        strides = strides.saturating_mul(stride(module));
    }
    modules.len()
}

fn stride(module: &Module) -> i64 {
    match module {
        Module::Conv { conv, .. } => conv.stride,
        Module::MaxPool { stride, .. } => *stride,
        Module::AveragePool { kernel } => *kernel,
        Module::Residual { branch, .. } => branch.iter().map(stride).product(),
        _ => 1,
    }
}
