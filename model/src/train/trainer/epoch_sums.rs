//! What an epoch's training adds up to: the terms of the loss, and the images that were predicted right. Of
//! several processes all have the same sums, since a step's loss is that of all.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tch::{Device, Tensor};

use super::terms::{self, RIGHT, Terms};
use crate::checkpoint::TrainingSums;
use crate::train::metrics::Losses;

/// Sums over the steps of an epoch. They stay on the device until somebody reads them.
#[derive(Debug, Default)]
pub(super) struct EpochSums {
    /// Those of the terms, double; `None` before the first step.
    sums: Option<Tensor>,
    /// In how many steps each term was there; for [`RIGHT`] how many images these had.
    counts: Vec<u64>,
    pub steps: u64,
    /// Of all processes.
    pub images: u64,
    /// Images of this program's own steps, and how long they took. Not part of a checkpoint, which two runs of a
    /// recipe write with the same bytes.
    timed_images: u64,
    timed: Duration,
    /// Since when the time runs.
    since: Option<Instant>,
}

/// The means over the steps of an epoch.
pub(super) struct Means {
    pub losses: Losses,
    /// The share of images that were predicted right, in percent; `None`: no step trained the largest resolution.
    pub top1: Option<f64>,
}

impl EpochSums {
    /// Those of a checkpoint that was saved within an epoch.
    ///
    /// # Errors
    /// They are of another number of resolutions; out of memory.
    pub fn resumed(saved: TrainingSums, resolutions: usize, device: Device) -> Result<Self> {
        let places = terms::count(resolutions);
        ensure!(
            (saved.sums.len(), saved.counts.len()) == (places, places),
            "the checkpoint's sums over the epoch (`training`) are of another number of resolutions"
        );
        Ok(EpochSums {
            sums: Some(Tensor::from_slice(&saved.sums).f_to_device(device)?),
            counts: saved.counts,
            steps: saved.steps,
            images: saved.images,
            ..EpochSums::default()
        })
    }

    /// For a checkpoint; `None` before the first step. Waits for the device.
    pub fn saved(&self) -> Result<Option<TrainingSums>> {
        let Some(sums) = self.read()? else {
            return Ok(None);
        };
        Ok(Some(TrainingSums {
            steps: self.steps,
            images: self.images,
            sums,
            counts: self.counts.clone(),
        }))
    }

    /// The time runs from now on.
    pub fn run_clock(&mut self) {
        self.since = Some(Instant::now());
    }

    pub fn stop_clock(&mut self) {
        self.timed += self.since.take().map_or(Duration::ZERO, |at| at.elapsed());
    }

    /// Of the time until the clock was stopped; `None` if no step was timed, after a resume at an epoch's end.
    pub fn images_per_second(&self) -> Option<f64> {
        let speed = self.timed_images as f64 / self.timed.as_secs_f64().max(1e-9);
        (self.timed_images > 0).then_some(speed)
    }

    /// Adds a step with so many images of all processes. Waits for nothing.
    pub fn add(&mut self, terms: Terms, images: u64) -> Result<()> {
        self.counts.resize(terms.there.len(), 0);
        for (place, (count, there)) in self.counts.iter_mut().zip(terms.there).enumerate() {
            *count += match (there, place) {
                (false, _) => 0,
                (true, RIGHT) => images,
                (true, _) => 1,
            };
        }
        self.steps += 1;
        self.images += images;
        self.timed_images += images;
        self.sums = Some(match self.sums.take() {
            None => terms.values,
            Some(mut sums) => sums.f_add_(&terms.values)?,
        });
        Ok(())
    }

    /// `None` before the first step. Waits for the device.
    pub fn means(&self, resolutions: &[u32]) -> Result<Option<Means>> {
        let Some(sums) = self.read()? else {
            return Ok(None);
        };
        let mean = |place: usize| {
            let (sum, count) = (*sums.get(place)?, *self.counts.get(place)?);
            // Images are whole; of several processes their count is a sum of fractions.
            let sum = if place == RIGHT { sum.round() } else { sum };
            (count > 0).then(|| sum / count as f64)
        };
        let losses = terms::losses(resolutions, mean);
        Ok(losses.map(|losses| Means {
            losses,
            top1: mean(RIGHT).map(|share| 100.0 * share),
        }))
    }

    fn read(&self) -> Result<Option<Vec<f64>>> {
        let Some(sums) = &self.sums else {
            return Ok(None);
        };
        let mut values = vec![0.0; sums.numel()];
        sums.f_copy_data(&mut values, sums.numel())?;
        Ok(Some(values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::distillation::Loss;

    /// Of a step that trained two sizes, or one.
    fn loss(total: f32, sizes: &[f32], right: Option<f32>, distillation: Option<f32>) -> Loss {
        Loss {
            total: total.into(),
            cross_entropy: Tensor::from_slice(sizes),
            ensemble_cross_entropy: 0.5.into(),
            distillation: distillation.map(Tensor::from),
            right: right.map(Tensor::from),
        }
    }

    fn add(sums: &mut EpochSums, loss: Loss, positions: &[usize], images: u64) {
        let terms = Terms::of(&loss, positions, 2).unwrap();
        sums.add(terms, images).unwrap();
    }

    #[test]
    fn means_are_over_the_steps_that_have_a_term() {
        let sizes = [48, 32];
        let mut sums = EpochSums::default();
        assert!(sums.means(&sizes).unwrap().is_none() && sums.saved().unwrap().is_none());
        add(
            &mut sums,
            loss(4.0, &[1.0, 2.0], Some(3.0), Some(0.25)),
            &[0, 1],
            8,
        );
        // The smaller size alone: nothing is known of the largest.
        add(&mut sums, loss(2.0, &[4.0], None, Some(0.75)), &[1], 8);
        add(
            &mut sums,
            loss(3.0, &[2.0, 6.0], Some(1.0), Some(0.5)),
            &[0, 1],
            2,
        );
        let means = sums.means(&sizes).unwrap().unwrap();
        assert_eq!((sums.steps, sums.images), (3, 18));
        assert_eq!(means.losses.loss, 3.0);
        assert_eq!(means.losses.cross_entropy, [(48, 1.5), (32, 4.0)]);
        assert_eq!(means.losses.ensemble_cross_entropy, 0.5);
        assert_eq!(means.losses.distillation, Some(0.5));
        assert_eq!(means.top1, Some(40.0), "4 of 10 images");

        let mut without = EpochSums::default();
        add(&mut without, loss(2.0, &[4.0], None, None), &[1], 8);
        let means = without.means(&sizes).unwrap().unwrap();
        assert_eq!(means.losses.cross_entropy, [(32, 4.0)]);
        assert_eq!((means.losses.distillation, means.top1), (None, None));
    }

    #[test]
    fn sums_continue_from_a_checkpoint() {
        let thirds = |sums: &mut EpochSums| {
            let step = loss(0.1, &[0.7, 1.0 / 3.0], Some(1.0), Some(1e-9));
            add(sums, step, &[0, 1], 3);
        };
        let (mut whole, mut before) = (EpochSums::default(), EpochSums::default());
        (0..7).for_each(|_| thirds(&mut whole));
        (0..3).for_each(|_| thirds(&mut before));
        let saved = serde_json::to_string(&before.saved().unwrap()).unwrap();
        let saved: Option<TrainingSums> = serde_json::from_str(&saved).unwrap();
        let mut resumed = EpochSums::resumed(saved.unwrap(), 2, Device::Cpu).unwrap();
        (0..4).for_each(|_| thirds(&mut resumed));
        let saved = |sums: &EpochSums| sums.saved().unwrap().unwrap();
        assert_eq!(saved(&resumed), saved(&whole));

        let other = EpochSums::resumed(saved(&whole), 3, Device::Cpu);
        assert!(other.is_err(), "of three sizes");
    }
}
