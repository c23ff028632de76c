//! What a user reads when a run fails: where, on what, which checkpoint there is, and what may help.

use anyhow::{Result, bail};

use super::Session;
use crate::dist::PeerLost;
use crate::nn::compute::{FailureKind, failure_kind};
use crate::train::metrics::Losses;
use crate::train::trainer::loss_watch::first_not_finite;

impl Session {
    /// Reads the loss from the device, and makes sure that training still makes sense.
    pub(super) fn sound_losses(&self) -> Result<Losses> {
        let trained = |step| self.positions(step);
        let read = self.loss.read(self.net.resolutions(), trained);
        // A GPU's errors come out where it is waited for.
        let (step, losses) = read.map_err(|error| self.failed_step(self.at.step, error))?;
        if let Some((term, value)) = first_not_finite(&losses) {
            bail!(
                "the loss of {} is {}: {term} is {value}, the first term that is not finite. {}",
                self.place(step),
                losses.loss,
                self.hint()
            );
        }
        Ok(losses)
    }

    /// What to say of a step that failed: libtorch's words, and what is not lost.
    pub(super) fn failed_step(&self, step: u64, error: anyhow::Error) -> anyhow::Error {
        let of_memory = match self.settings.recompute {
            true => "smaller training batches need less memory",
            false => "smaller training batches or `recompute: true` need less memory",
        };
        self.failed(&self.place(step), of_memory, error)
    }

    /// The same of a validation.
    pub(super) fn failed_validation(&self, error: anyhow::Error) -> anyhow::Error {
        let what = format!("the validation after epoch {}", self.at.epoch + 1);
        self.failed(&what, "smaller validation batches need less memory", error)
    }

    /// `of_memory` is what to do where it does not suffice.
    pub(super) fn failed(
        &self,
        what: &str,
        of_memory: &str,
        error: anyhow::Error,
    ) -> anyhow::Error {
        if PeerLost::is_in(&error) {
            return error; // not of this step
        }
        let hint = match failure_kind(&error) {
            Some(FailureKind::OutOfMemory) => format!("; {of_memory}"),
            Some(FailureKind::Device) => {
                "; after an error of a GPU only a new process can use it".to_owned()
            }
            None => String::new(),
        };
        error.context(format!(
            "{what} failed on {}. {}{hint}",
            self.net.parameters().compute(),
            self.last_checkpoint()
        ))
    }

    /// Which checkpoint there is.
    pub(super) fn last_checkpoint(&self) -> String {
        self.saved.map_or_else(
            || "There is no earlier checkpoint".to_owned(),
            |step| format!("The last checkpoint is from step {step} and sound"),
        )
    }

    /// A step, as a user counts.
    pub(super) fn place(&self, step: u64) -> String {
        let epoch = step.saturating_sub(1) / self.lengths.steps_per_epoch + 1;
        format!("step {step} (epoch {epoch} of {})", self.settings.epochs)
    }

    /// What to do where training went wrong.
    pub(super) fn hint(&self) -> String {
        let checkpoint = self.last_checkpoint();
        format!("{checkpoint}; a smaller `optimizer.lr` or some `warm_up_epochs` may help")
    }
}
