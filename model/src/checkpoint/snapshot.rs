//! A checkpoint in memory, and writing it to a file.

use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use rsflow_base::shown::Shown as _;
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use tch::Tensor;

use super::tensor_file::beginning;
use super::{DTYPES, METADATA_KEY, Metadata, values};
use crate::nn::parameters::Parameters;
use rsflow_base::whole_file;

/// The contents of a checkpoint in host memory, which can be sent to another thread.
#[derive(Clone, Debug)]
pub struct Snapshot {
    metadata: Metadata,
    /// In the order of `bytes`.
    tensors: Vec<(String, TensorInfo)>,
    bytes: Vec<u8>,
}

impl Snapshot {
    /// Copies the network's tensors, and the optimizer's buffers by their names in the checkpoint. Waits
    /// for the device.
    ///
    /// # Errors
    /// A dtype that checkpoints do not have; a value that is not finite or a negative variance, so
    /// that a run can be resumed from every checkpoint.
    pub fn take<'a>(
        metadata: Metadata,
        parameters: &'a Parameters,
        buffers: impl IntoIterator<Item = (String, &'a Tensor)>,
    ) -> Result<Self> {
        let parameters = parameters.iter().map(|p| (p.name.clone(), &p.tensor));
        Self::from_tensors(metadata, parameters.chain(buffers).collect())
    }

    /// Copies tensors with their names in the checkpoint.
    ///
    /// # Errors
    /// As [`Snapshot::take`].
    pub fn from_tensors(metadata: Metadata, mut tensors: Vec<(String, &Tensor)>) -> Result<Self> {
        let mut snapshot = Self {
            metadata,
            tensors: Vec::with_capacity(tensors.len()),
            bytes: vec![],
        };
        for (kind, dtype) in DTYPES {
            let (these, others) = tensors
                .into_iter()
                .partition(|(_, t)| t.f_kind().ok() == Some(kind));
            tensors = others;
            tch::no_grad(|| snapshot.append(these, dtype)).context("cannot copy the tensors")?;
        }
        if let Some((name, tensor)) = tensors.first() {
            bail!(
                "{name:?} has the dtype {:?}, which checkpoints do not support",
                tensor.f_kind()?
            );
        }
        Ok(snapshot)
    }

    fn append(&mut self, tensors: Vec<(String, &Tensor)>, dtype: Dtype) -> Result<()> {
        if tensors.is_empty() {
            return Ok(());
        }
        // Concatenated on the device, so that a single copy transfers all of them.
        let flat = tensors
            .iter()
            .map(|(_, t)| t.f_reshape([-1]))
            .collect::<Result<Vec<_>, _>>()?;
        let joined = Tensor::f_cat(&flat, 0)?;
        // On the device, all at once: hardly ever is it worth a look at each tensor.
        let finite = values::is_finite(&joined)?;
        let (start, size) = (self.bytes.len(), dtype.bitsize() / 8);
        self.bytes.resize(start + joined.numel() * size, 0);
        joined.f_copy_data_u8(&mut self.bytes[start..], joined.numel())?;
        let mut begin = start;
        for (name, tensor) in tensors {
            let shape: Vec<usize> = tensor.size().into_iter().map(|d| d as usize).collect();
            let end = begin + shape.iter().product::<usize>() * size;
            if !finite || values::is_variance(&name) {
                values::check(&name, dtype, &self.bytes[begin..end])?;
            }
            self.tensors.push((
                name,
                TensorInfo {
                    dtype,
                    shape,
                    data_offsets: (begin, end),
                },
            ));
            begin = end;
        }
        Ok(())
    }

    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn write(&self, file: &mut dyn Write) -> Result<()> {
        let metadata = serde_json::to_string(&self.metadata)?;
        let beginning = beginning(METADATA_KEY, metadata, &self.tensors, &self.bytes)?;
        let mut writer = BufWriter::new(file);
        writer.write_all(&beginning)?;
        writer.write_all(&self.bytes)?;
        Ok(writer.flush()?)
    }
}

/// Writes a checkpoint so that the file is complete or absent; see [`whole_file::write`].
///
/// # Errors
/// An I/O error, with the path.
pub fn write_atomically(snapshot: &Snapshot, path: &Path) -> Result<()> {
    whole_file::write(path, |file| snapshot.write(file))
        .with_context(|| format!("cannot write the checkpoint {}", path.shown()))
}
