//! The validations of a run: when, how good, and whether one is the best so far.

use anyhow::Result;
use rsflow_graph::{Batch, Received, Receiver};
use tch::Device;

use super::{Outputs, Session};
use crate::checkpoint::Validated;
use crate::nn::native;
use crate::nn::switchable::SwitchableNetwork;
use crate::train::batches::Labelled;
use crate::train::metrics::{Metric, Table, Training, Validating};
use crate::train::validation::Validation;

impl Session {
    /// Whether the epoch that has just been trained is validated: every so many, and the last one.
    pub(super) fn validates_now(&self) -> bool {
        let done = self.at.epoch + 1;
        done == self.settings.epochs || done.is_multiple_of(self.settings.validate_every.max(1))
    }

    /// Validates the network, and the average of its weights on the same batches. `None` if the run was
    /// stopped.
    pub(super) fn validate(
        &mut self,
        batches: &mut Receiver<Batch>,
        outputs: &mut Outputs,
    ) -> Result<Option<Validated>> {
        self.set_doing(|own| format!("validating after epoch {}", own.at.epoch + 1));
        let new =
            |net: &SwitchableNetwork| Validation::new(net, (0..net.resolutions().len()).collect());
        let mut own = new(&self.net)?;
        let of_average = self.average.as_ref().map(|average| new(&average.net));
        let mut of_average = of_average.transpose()?;
        let mut done = 0;
        let complete = loop {
            match batches.receive()? {
                Received::Item(_, batch) => {
                    self.add(&batch, &mut own, &mut of_average)
                        .map_err(|error| self.failed_validation(error))?;
                }
                Received::EndOfEpoch(_) => break true,
                Received::Closed => break false,
            }
            done += 1;
            outputs.metric(Metric::Validating(Validating {
                epoch: self.at.epoch,
                batches: done,
                of: self.validation_batches,
                epochs: self.settings.epochs,
            }));
        };
        if self.stops(!complete)? {
            return Ok(None);
        }
        let rows = self
            .rows(own, of_average)
            .map_err(|error| self.failed_validation(error))?;
        Ok(Some(rows))
    }

    /// Adds a batch to the sums of the network and of the average.
    fn add(
        &mut self,
        batch: &Batch,
        own: &mut Validation,
        of_average: &mut Option<Validation>,
    ) -> Result<()> {
        let batch = Labelled::new(batch, &self.validation_classes);
        let (images, labels) = self.transfer.batch(&batch, self.net.classes())?;
        let replaced = batch.replaced();
        own.add(&self.net, &mut self.inference, &images, &labels, replaced)?;
        if let (Some(sums), Some(average)) = (of_average, &mut self.average) {
            sums.add(
                &average.net,
                &mut average.inference,
                &images,
                &labels,
                replaced,
            )?;
        }
        Ok(())
    }

    /// The results, of all processes.
    fn rows(&self, own: Validation, of_average: Option<Validation>) -> Result<Validated> {
        let of_all = |sums: Validation| match &self.peers {
            Some(peers) => sums.of_all(peers),
            None => Ok(sums),
        };
        let own = of_all(own)?;
        let of_average = of_average.map(of_all).transpose()?;
        let average = of_average.map(|sums| sums.rows(&self.net)).transpose()?;
        Ok(Validated {
            epoch: self.at.epoch,
            images: own.images(),
            rows: own.rows(&self.net)?,
            average: average.unwrap_or_default(),
        })
    }

    /// Whether this validation is the best so far: that of the average of the weights, if there is one.
    pub(super) fn is_best(&mut self, validated: &Validated) -> bool {
        let rows = match validated.average.is_empty() {
            true => &validated.rows,
            false => &validated.average,
        };
        let Some(candidate) = self.settings.best.judge(self.at.epoch, rows) else {
            return false;
        };
        let better = candidate.beats(self.at.best.as_ref());
        if better {
            self.at.best = Some(candidate);
        }
        better
    }

    /// The results of the last validation, which was there, and the seconds that it took with its epoch.
    pub(super) fn last_table(&self, seconds: f64) -> Table {
        let validated = self.at.validation.clone().unwrap_or_default();
        Table {
            epoch: validated.epoch,
            step: self.at.step,
            rows: validated.rows,
            average: validated.average,
            classes: self.net.classes(),
            images: validated.images,
            left_out: self.validation_samples.saturating_sub(validated.images),
            seconds,
            training: None,
        }
    }

    /// An epoch that is not validated: its training alone.
    pub(super) fn unvalidated(&self, seconds: f64) -> Result<Table> {
        Ok(Table {
            epoch: self.at.epoch,
            step: self.at.step,
            rows: vec![],
            average: vec![],
            classes: 0,
            images: 0,
            left_out: 0,
            seconds,
            training: self.training()?,
        })
    }

    /// The training of the current epoch; `None` where no step of it is known. Waits for the device.
    pub(super) fn training(&self) -> Result<Option<Training>> {
        let resolutions = self.net.resolutions();
        let Some(means) = self.sums.means(resolutions)? else {
            return Ok(None);
        };
        let peak = match self.net.parameters().device() {
            Device::Cuda(gpu) => Some(native::peak_memory(gpu)?.0),
            _ => None,
        };
        Ok(Some(Training {
            steps: self.sums.steps,
            images: self.sums.images,
            losses: means.losses,
            top1: means.top1,
            top1_resolution: resolutions.iter().copied().max().unwrap_or(0),
            mixed_labels: self.settings.mix.is_some(),
            learning_rate: self
                .at
                .learning_rate
                .unwrap_or_else(|| self.learning_rate()),
            images_per_second: self.sums.images_per_second(),
            peak_gpu_bytes: peak,
            steps_per_epoch: self.lengths.steps_per_epoch,
        }))
    }
}
