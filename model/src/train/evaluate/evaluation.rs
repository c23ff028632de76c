//! The measurement.

use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use rsflow_base::shown::Shown as _;
use rsflow_graph::{Batch, Ports, Received, Sender, Thread};
use tch::Tensor;

use super::Evaluate;
use super::cells::Cell;
use super::predictions::Predictions;
use crate::checkpoint::{
    Checkpoint, ClassMap, OVERFLOW, Snapshot, Weights, is_finite, write_atomically,
};
use crate::nn::compute::adopt_thread_count;
use crate::nn::layers::Mode;
use crate::nn::parameters::Parameter;
use crate::nn::replay::Inference;
use crate::nn::switchable::SwitchableNetwork;
use crate::nn::transfer::{DeviceTransfer, HostBatch as _};
use crate::train::batches::Labelled;
use crate::train::cores_of;
use crate::train::metrics::{Metric, Table, Validating};
use crate::train::validation::Validation;

/// Everything opened.
pub(super) struct Evaluation {
    pub settings: Evaluate,
    pub checkpoint: Checkpoint,
    pub net: SwitchableNetwork,
    pub transfer: DeviceTransfer,
    /// The network's classes of the data.
    pub classes: ClassMap,
    /// Sizes whose statistics are measured first.
    pub calibrated: Vec<u32>,
    /// Batches to measure with.
    pub batches: u64,
    /// Images of the data, of all processes.
    pub samples: u64,
    /// A position of the network each.
    pub cells: Vec<Cell>,
    /// The names of the network's classes, or those of the data where they are not known.
    pub class_names: Vec<String>,
    /// Those of the images, in the order of the batches, where they have names.
    pub names: Option<Vec<String>>,
}

impl Thread for Evaluation {
    fn run(self: Box<Self>, mut ports: Ports) -> Result<()> {
        adopt_thread_count();
        let began = Instant::now();
        let mut metrics: Sender<Metric> = ports.output("metrics");
        if !self.calibrated.is_empty() && !self.calibrate(&mut ports)? {
            return Ok(());
        }
        let mut predictions = self.predictions();
        let measured = self.measure(&mut ports, &mut metrics, &mut predictions)?;
        let Some(validation) = measured else {
            return Ok(());
        };
        let metadata = self.checkpoint.metadata();
        let mut rows = validation.rows(&self.net)?;
        for (row, cell) in rows.iter_mut().zip(&self.cells) {
            cell.name(row);
        }
        if let Some(row) = rows.iter().find(|row| !row.loss.is_finite()) {
            let place = match row.resolution {
                Some(resolution) => format!("at {resolution}"),
                None => "of the ensemble".to_owned(),
            };
            bail!(
                "{}: the loss {place} is {}: {OVERFLOW}",
                self.settings.checkpoint.shown(),
                row.loss
            );
        }
        metrics.send(Metric::Final(Table {
            epoch: metadata.epoch.saturating_sub(1),
            step: metadata.step,
            rows,
            average: vec![],
            classes: self.net.classes(),
            images: validation.images(),
            left_out: self.samples.saturating_sub(validation.images()),
            seconds: began.elapsed().as_secs_f64(),
            training: None,
        }));
        // After the table, which is worth having whatever becomes of the files.
        if let Some((predictions, path)) = predictions.zip(self.settings.predictions.as_ref()) {
            predictions.write(path)?;
        }
        if let Some(path) = &self.settings.store {
            write_atomically(&self.snapshot()?, path)?;
        }
        Ok(())
    }

    fn epochs(&self) -> Option<u64> {
        Some(1)
    }

    fn cores(&self, cores: usize) -> usize {
        cores_of(self.net.parameters().device(), self.settings.threads, cores)
    }
}

impl Evaluation {
    /// Measures the statistics of the calibrated sizes; false if the run was stopped.
    fn calibrate(&self, ports: &mut Ports) -> Result<bool> {
        let mut batches = ports
            .input::<Batch>("calibrate")
            .context("`calibrate` is not connected")?;
        // Each of these sizes with its own batch norms.
        let own = |size: &u32| {
            let mut cells = self.cells.iter();
            cells.position(|cell| (cell.size, cell.label) == (*size, *size))
        };
        let positions: Vec<usize> = self.calibrated.iter().filter_map(own).collect();
        let wanted = self.settings.calibration_images.unwrap_or(u64::MAX);
        let mut seen = 0;
        while seen < wanted {
            if ports.stopping() {
                return Ok(false);
            }
            let batch = match batches.receive()? {
                Received::Item(_, batch) => batch,
                Received::EndOfEpoch(_) => break,
                Received::Closed => return Ok(false),
            };
            let images = batch.labels().len() as u64;
            let used = images.min(wanted - seen);
            // A single image may have no variance, and weighs next to nothing behind others.
            if used == 1 && seen > 0 {
                break;
            }
            let (images, _) = self.transfer.batch(&batch, self.net.classes())?;
            for (tensor, &position) in images.iter().zip(&positions) {
                let tensor = tensor.f_narrow(0, 0, used as i64)?;
                let share = used as f64 / (seen + used) as f64;
                let mode = Mode::Calibrate { share };
                // Only the running statistics are wanted.
                let _ = self.net.logits(&tensor, position, mode)?;
            }
            seen += used;
        }
        tracing::info!(images = seen, sizes = ?self.calibrated, "calibrated");
        if seen + 1 < wanted && self.settings.calibration_images.is_some() {
            tracing::warn!("there were only {seen} images to calibrate with");
        }
        for parameter in self.net.parameters().iter() {
            ensure!(
                is_finite(&parameter.tensor)?,
                "the statistics {:?} are not finite: {seen} images are too few at so small a size",
                parameter.name
            );
        }
        Ok(true)
    }

    /// `None` if the run was stopped.
    fn measure(
        &self,
        ports: &mut Ports,
        metrics: &mut Sender<Metric>,
        predictions: &mut Option<Predictions>,
    ) -> Result<Option<Validation>> {
        let mut batches = ports
            .input::<Batch>("input")
            .context("`input` is not connected")?;
        let members = self.cells.iter().enumerate();
        let members = members.filter(|(_, cell)| cell.in_ensemble);
        let members = members.map(|(position, _)| position).collect();
        let mut validation = Validation::new(&self.net, members)?;
        let mut inference = Inference::new(&self.net, self.settings.cuda_graph);
        let mut done = 0;
        loop {
            if ports.stopping() {
                return Ok(None);
            }
            match batches.receive()? {
                Received::Item(_, batch) => {
                    let batch = Labelled::new(&batch, &self.classes);
                    self.add(
                        &batch,
                        &mut validation,
                        &mut inference,
                        predictions.as_mut(),
                    )
                    .with_context(|| format!("batch {} cannot be measured", done + 1))?;
                }
                Received::EndOfEpoch(_) => return Ok(Some(validation)),
                Received::Closed => return Ok(None),
            }
            done += 1;
            metrics.send(Metric::Validating(Validating {
                epoch: 0,
                batches: done,
                of: self.batches,
                epochs: 0,
            }));
        }
    }

    fn add(
        &self,
        batch: &Labelled,
        validation: &mut Validation,
        inference: &mut Inference,
        predictions: Option<&mut Predictions>,
    ) -> Result<()> {
        let (images, labels) = self.transfer.batch(batch, self.net.classes())?;
        let images = self.cells.iter().map(|cell| images.get(cell.images));
        let images: Option<Vec<Tensor>> = images.map(|of| Some(of?.shallow_clone())).collect();
        let images = images.context("a size has no images")?;
        let answers = validation.add(&self.net, inference, &images, &labels, batch.replaced())?;
        match predictions {
            Some(predictions) => {
                let labels = batch.labels().iter().copied().enumerate();
                let kept = labels.filter(|(at, _)| !batch.replaced().contains(at));
                predictions.add(kept, &answers, &self.class_names)?;
                predictions.seen += batch.labels().len();
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// What is kept of each image, where it is to be written.
    fn predictions(&self) -> Option<Predictions> {
        self.settings.predictions.as_ref()?;
        let sizes = self.cells.iter().map(|cell| Some(cell.size));
        let members = self.cells.iter().filter(|cell| cell.in_ensemble);
        let ensemble = (members.count() > 1).then_some(None);
        Some(Predictions::new(
            sizes.chain(ensemble).collect(),
            self.names.clone(),
        ))
    }

    /// The checkpoint with the weights that were measured, and the calibrated batch norms.
    fn snapshot(&self) -> Result<Snapshot> {
        let mut metadata = self.checkpoint.metadata().clone();
        metadata
            .calibrated
            .retain(|size| !self.calibrated.contains(size));
        metadata.calibrated.extend(&self.calibrated);
        let is_new = |parameter: &&Parameter| {
            let of = parameter.resolution;
            of.is_some_and(|norm| self.calibrated.contains(&norm))
        };
        let new: Vec<&Parameter> = self.net.parameters().iter().filter(is_new).collect();
        let weights = self.checkpoint.weights();
        metadata.averaged |= weights == Weights::Average;
        let mut names = self.checkpoint.names_of(weights);
        names.retain(|(_, name)| new.iter().all(|parameter| parameter.name != *name));
        let old = self
            .checkpoint
            .read(names.iter().map(|(stored, _)| stored.as_str()))?;
        let names = names.into_iter().map(|(_, name)| name);
        let old: Vec<(String, &Tensor)> = names.zip(&old).collect();
        let new = new.into_iter().map(|p| (p.name.clone(), &p.tensor));
        Snapshot::from_tensors(metadata, old.into_iter().chain(new).collect())
    }
}
