//! The validations of a run: when, how good, and whether one is the best so far.

use anyhow::Result;
use rsflow_graph::{Batch, Received, Receiver};

use super::{Outputs, Session};
use crate::checkpoint::{Best, Row};
use crate::train::batches::Labelled;
use crate::train::metrics::{Metric, Table, Validating};
use crate::train::validation::Validation;

impl Session {
    /// Whether the epoch that has just been trained is validated: every so many, and the last one.
    pub(super) fn validates_now(&self) -> bool {
        let done = self.at.epoch + 1;
        done == self.settings.epochs || done.is_multiple_of(self.settings.validate_every.max(1))
    }

    pub(super) fn validate(
        &mut self,
        batches: &mut Receiver<Batch>,
        outputs: &mut Outputs,
    ) -> Result<Option<Validation>> {
        self.set_doing(|own| format!("validating after epoch {}", own.at.epoch + 1));
        let members = (0..self.net.resolutions().len()).collect();
        let mut validation = Validation::new(&self.net, members)?;
        let mut done = 0;
        let complete = loop {
            match batches.receive()? {
                Received::Item(_, batch) => {
                    let batch = Labelled::new(&batch, &self.validation_classes);
                    validation
                        .add(&self.net, &mut self.inference, &self.transfer, &batch)
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
            }));
        };
        if self.stops(!complete)? {
            return Ok(None);
        }
        match &self.peers {
            Some(peers) => validation.of_all(peers).map(Some),
            None => Ok(Some(validation)),
        }
    }

    /// Whether this validation is the best so far.
    pub(super) fn is_best(&mut self, rows: &[Row]) -> bool {
        let resolutions: Vec<&Row> = rows.iter().filter(|row| row.resolution.is_some()).collect();
        let Some(first) = resolutions.first() else {
            return false;
        };
        let sum: f64 = resolutions.iter().map(|row| row.top1 + row.top5).sum();
        let mean = sum / (2 * resolutions.len()) as f64;
        let candidate = Best::new(self.at.epoch, first.top1, mean);
        let better = candidate.beats(self.at.best.as_ref());
        if better {
            self.at.best = Some(candidate);
        }
        better
    }

    /// The results of a run that was resumed after its last epoch.
    pub(super) fn finished_before(&self) -> Option<Table> {
        if self.at.epoch < self.settings.epochs {
            return None;
        }
        let validated = self.at.validation.clone()?;
        Some(Table {
            epoch: validated.epoch,
            step: self.at.step,
            rows: validated.rows,
            images: validated.images,
            seconds: 0.0,
        })
    }
}
