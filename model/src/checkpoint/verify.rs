//! Checking all of a checkpoint.

use anyhow::{Context, Result, ensure};
use rsflow_base::shown::{Shown as _, quoted};

use super::{Checkpoint, MOMENTUM_PREFIX, VARIANCE_PREFIX, Weights};
use crate::nn::parameters::join_problems;
use crate::nn::switchable::declare;

impl Checkpoint {
    /// Reads everything: every tensor of the network at all resolutions and every buffer of the optimizer
    /// must be there, with the network's shape, the checksum of the header (if it has some) and
    /// finite values. Nothing is kept.
    ///
    /// # Errors
    /// What is wrong, with the path.
    pub fn verify(&self) -> Result<()> {
        self.verify_inner()
            .with_context(|| format!("the checkpoint {} is not sound", self.path.shown()))
    }

    fn verify_inner(&self) -> Result<()> {
        let metadata = &self.metadata;
        let classes = metadata.classes.len().try_into()?;
        let norms = metadata.norms_of(&metadata.batch_norm_resolutions());
        let declared = declare(&metadata.network, classes, &metadata.resolutions, &norms)?;
        self.places(Weights::Trained, &declared, |norm| norm)?;
        if self.has_average() {
            self.places(Weights::Average, &declared, |norm| norm)?;
        }
        let mut problems = Vec::new();
        let prefixes = [MOMENTUM_PREFIX, VARIANCE_PREFIX];
        let buffers = declared
            .iter()
            .flat_map(|declaration| prefixes.map(|prefix| (prefix, declaration)));
        for (prefix, declaration) in buffers {
            let name = format!("{prefix}{}", declaration.name);
            if let Some(info) = self.file.info(&name)
                && !self.has_shape(&name, &declaration.shape)
            {
                problems.push(format!(
                    "{} must have the shape {:?}, not {:?}",
                    quoted(&name),
                    declaration.shape,
                    info.shape
                ));
            }
        }
        ensure!(problems.is_empty(), "{}", join_problems(&problems));
        for name in self.names() {
            self.read_bytes(&name)?;
        }
        Ok(())
    }
}
