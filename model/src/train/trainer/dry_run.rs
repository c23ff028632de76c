//! A step of full size before the first one, so that memory which does not suffice is known at
//! once, and what would fit.

use anyhow::{Context as _, Error, Result};
use tch::{Device, Kind, Tensor};

use super::Trainer;
use crate::nn::compute::{ExecConfig, is_out_of_memory};
use crate::nn::native;
use crate::nn::parameters::WeightInit;
use crate::train::mixing::Mixed;
use crate::train::step::Inputs;

/// Does a step on images of zeros with a network of its own, which is gone afterwards.
///
/// # Errors
/// It does not fit into the GPU's memory; the message says how much there is, and how many images
/// would fit. Any other error of such a step.
pub(super) fn dry_run(
    settings: &Trainer,
    compute: ExecConfig,
    resolutions: &[u32],
    batch: u64,
) -> Result<()> {
    let Device::Cuda(gpu) = compute.device else {
        // There an allocation that fails says so, and one that does not may be more than there is.
        return Ok(());
    };
    let mut peaks = Vec::new();
    let (fits, error) = largest_that_fits(batch, |images| {
        let result = one_step(settings, compute, resolutions, images)
            .and_then(|()| native::synchronize(gpu));
        let peak = native::take_peak_memory(gpu);
        match peak.and_then(|peak| native::empty_cache().map(|()| peak)) {
            Ok((peak, total)) => {
                peaks.push((images, peak, total));
                result
            }
            // Behind a step that failed this is nothing new.
            Err(error) => result.and(Err(error)),
        }
    })?;
    let peak = |images: u64| {
        let peak = peaks.iter().find(|(of, ..)| *of == images);
        peak.map_or((0, 0), |&(_, peak, total)| (peak, total))
    };
    tracing::info!(batch, peak_bytes = peak(batch).0, "tried a step");
    let Some(error) = error else { return Ok(()) };
    let fits = (fits > 0).then(|| (fits, peak(fits).0));
    Err(error.context(too_large(batch, peak(batch), fits, settings.recompute)))
}

/// What to say where a batch does not fit. Memory in bytes.
fn too_large(
    batch: u64,
    (peak, total): (u64, u64),
    fits: Option<(u64, u64)>,
    recomputes: bool,
) -> String {
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let fits = match fits {
        Some((images, peak)) => format!("{images} fit (with a peak of {:.1} GiB)", gib(peak)),
        None => "not even a single one fits".to_owned(),
    };
    let recompute = match recomputes {
        true => "",
        false => ", `recompute: true`, which keeps one resolution's activations at a time",
    };
    format!(
        "a batch of {batch} images does not fit into the {:.1} GiB of the GPU: with {:.1} GiB in use there \
         was no more for it, and {fits}; set `micro_batch`, which passes a part of a batch at a time{recompute}, or \
         make the training batches smaller",
        gib(total),
        gib(peak)
    )
}

/// The largest of `batch`, half of it, and so on, whose `trial` does not run out of memory (0: not
/// even one image), and the error that the next larger one ended with, if there is one.
fn largest_that_fits(
    batch: u64,
    mut trial: impl FnMut(u64) -> Result<()>,
) -> Result<(u64, Option<Error>)> {
    let (mut images, mut failed) = (batch, None);
    while images > 0 {
        match trial(images) {
            Ok(()) => break,
            Err(error) if is_out_of_memory(&error) => {
                failed = Some(error);
                images /= 2;
            }
            Err(error) => return Err(error.context("the trial of a step failed")),
        }
    }
    Ok((images, failed))
}

/// A step with a new network.
fn one_step(
    settings: &Trainer,
    compute: ExecConfig,
    resolutions: &[u32],
    images: u64,
) -> Result<()> {
    let net = settings.network(compute, resolutions, WeightInit::Zeros)?;
    let mut optimizer = settings.start_optimizer(&net)?;
    let count = i64::try_from(images).context("a batch of that size")?;
    let zeros = |side: u32, kind: Kind| {
        let side = i64::from(side);
        Tensor::f_zeros([count, 3, side, side], (kind, compute.device))
    };
    let mut images = resolutions
        .iter()
        .map(|&side| compute.to_memory_format(zeros(side, compute.compute_dtype)?))
        .collect::<Result<Vec<_>>>()?;
    // While a step is computed, the bytes of the next one come.
    let _next = resolutions
        .iter()
        .map(|&side| zeros(side, Kind::Uint8))
        .collect::<Result<Vec<_>, _>>()?;
    let mut labels = Tensor::f_zeros([count], (Kind::Int64, compute.device))?;
    if settings.mix.is_some() {
        let mixed = Mixed::Mixup { share: 0.5 };
        (images, labels) = mixed.apply(images, &labels, settings.given_classes()?.into())?;
    }
    let step = settings.step(resolutions);
    let drops = settings.dropping().draw(&net, count, 0, (0, 0))?;
    let inputs = Inputs {
        drops,
        ..Inputs::new(&images, &labels)
    };
    let inputs = inputs.at(settings.sampling.largest(resolutions));
    // Twice: in the second one the momentum is there from the start.
    for _ in 0..2 {
        let _ = step.run(&net, &mut optimizer, &inputs, 0.0.into(), None)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn what_fits_is_found_and_told() {
        let out = || anyhow::anyhow!("CUDA out of memory. Tried to allocate 2.00 GiB.");
        let fits = |most: u64| {
            largest_that_fits(
                256,
                |images| if images <= most { Ok(()) } else { Err(out()) },
            )
        };
        for (most, found) in [(256, 256), (100, 64), (0, 0)] {
            let (images, error) = fits(most).unwrap();
            assert_eq!((images, error.is_some()), (found, found < 256));
        }
        let other = largest_that_fits(4, |_| bail!("no kernel image")).unwrap_err();
        assert!(format!("{other:#}").contains("no kernel image"));

        let text = too_large(256, (78 << 30, 79 << 30), Some((64, 20 << 30)), false);
        for part in [
            "256 images",
            "79.0 GiB",
            "64 fit",
            "20.0 GiB",
            "`recompute: true`",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!too_large(1, (0, 0), None, true).contains("recompute"));
    }

    /// The step that is tried is one: on the CPU, where nobody else does it.
    #[test]
    fn a_step_can_be_tried() {
        for (precision, recompute) in [("Float32", false), ("Float16", true)] {
            let settings: Trainer = ron::from_str(&format!(
                r#"#![enable(implicit_some, unwrap_variant_newtypes)]
                (train: "a", validate: "b", network: ResNet(depth: 18, width: 4), classes: 3,
                    distill: EnsembleTopDown, optimizer: Sgd(lr: 0.1), epochs: 1, device: Cpu,
                    precision: {precision}, recompute: {recompute})"#
            ))
            .unwrap();
            one_step(&settings, settings.compute().unwrap(), &[48, 32], 2).unwrap();
        }
    }
}
