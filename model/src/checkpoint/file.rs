//! A checkpoint file: what it says about itself, and its tensors by name.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use rsflow_base::run_files::{BEST, of_epoch};
use rsflow_base::shown::{Shown as _, quoted};
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde::Deserialize;
use tch::Tensor;

use super::tensor_file::{IMPORT, TensorFile};
use super::{AVERAGE_PREFIX, FORMAT, METADATA_KEY, Metadata, Weights, kind_of, values};
use crate::nn::switchable::ALPHA;

/// An open checkpoint whose header was read. Its tensors are read on demand.
#[derive(Debug)]
pub struct Checkpoint {
    pub(super) path: PathBuf,
    pub(super) file: TensorFile,
    pub(super) metadata: Metadata,
    pub(super) weights: Weights,
}

impl Checkpoint {
    /// Reads the header, no tensor.
    ///
    /// # Errors
    /// The file cannot be read, is truncated or damaged, is not a safetensors file or not a
    /// checkpoint, has a newer format, or says what no network can be built from. The message names
    /// the path.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_inner(path)
            .with_context(|| format!("cannot read the checkpoint {}", path.shown()))
    }

    fn open_inner(path: &Path) -> Result<Self> {
        let file = TensorFile::open(path)?;
        let metadata = file.text(METADATA_KEY).with_context(|| {
            format!(
                "the file is a safetensors file, but not a checkpoint of rsflow: its header has no \
                 `{METADATA_KEY}` entry; {IMPORT}"
            )
        })?;
        // The version alone first: the metadata of another version may not parse.
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let version: Version = parse(metadata)?;
        ensure!(
            version.format <= FORMAT,
            "the file has format {}, this program reads up to {FORMAT}",
            version.format
        );
        let metadata: Metadata = parse(metadata)?;
        metadata
            .check()
            .with_context(|| format!("the header's `{METADATA_KEY}` entry is damaged"))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            metadata,
            weights: Weights::Trained,
        })
    }

    /// The same with other weights: `None` for the average of those that were trained if it has one, by which its
    /// run chose its best epoch.
    ///
    /// # Errors
    /// There is no average. The message names the path.
    pub fn with_weights(self, wanted: Option<Weights>) -> Result<Self> {
        let weights = match wanted {
            Some(weights) => weights,
            None if self.has_average() => Weights::Average,
            None => Weights::Trained,
        };
        ensure!(
            weights == Weights::Trained || self.has_average(),
            "the checkpoint {} has no average of the weights: `average` in a recipe's trainer keeps one",
            self.path.shown()
        );
        Ok(Checkpoint { weights, ..self })
    }

    /// Which weights its networks have.
    pub fn weights(&self) -> Weights {
        self.weights
    }

    /// Whether it has an average of the weights beside those that were trained.
    pub fn has_average(&self) -> bool {
        self.contains(&format!("{AVERAGE_PREFIX}{ALPHA}"))
    }

    /// The name in the file of a tensor of the network.
    pub fn stored_name(&self, tensor: &str) -> String {
        format!("{}{tensor}", self.weights.prefix())
    }

    /// How much each resolution counts in the ensemble: softmax(alpha), in the order of the resolutions. Computed
    /// without libtorch.
    ///
    /// # Errors
    /// Alpha cannot be read, or is not one float32 for each resolution. The message names the path.
    pub fn ensemble_weights(&self) -> Result<Vec<f64>> {
        let read = || -> Result<Vec<f64>> {
            let (info, bytes) = self.read_bytes(&self.stored_name(ALPHA))?;
            let sizes = self.metadata.resolutions.len();
            ensure!(
                info.dtype == Dtype::F32 && info.shape == [sizes],
                "{ALPHA} has the shape {:?} and the dtype {}, expected [{sizes}] and F32",
                info.shape,
                info.dtype
            );
            let values = bytes.as_chunks::<4>().0.iter();
            let alpha: Vec<f64> = values.map(|&it| f32::from_le_bytes(it).into()).collect();
            let largest = alpha.iter().copied().fold(f64::MIN, f64::max);
            let powers: Vec<f64> = alpha.iter().map(|it| (it - largest).exp()).collect();
            let sum: f64 = powers.iter().sum();
            Ok(powers.into_iter().map(|power| power / sum).collect())
        };
        read().with_context(|| format!("cannot read the checkpoint {}", self.path.shown()))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// A word that two checkpoints with different tensors or metadata do not share; of files without checksums,
    /// that differ in the step.
    pub fn identity(&self) -> String {
        let sum = self.file.header_sum().map(str::to_owned);
        sum.unwrap_or_else(|| format!("step-{}", self.metadata.step))
    }

    /// Whether it has checksums. Those of this program's earlier versions have none.
    pub fn has_sums(&self) -> bool {
        self.file.has_sums()
    }

    /// The file of the best checkpoint of its run so far, as the metadata names it: in the folder
    /// `checkpoints` of the run that resumes from this one, or beside it. `None`: there was no validation
    /// yet, or the file is gone.
    pub fn find_best(&self, checkpoints: &Path) -> Option<PathBuf> {
        let best = self.metadata.best?;
        let is_it = |path: &PathBuf| {
            let file = Checkpoint::open(path);
            file.is_ok_and(|file| {
                let Metadata {
                    epoch,
                    sample_in_epoch,
                    best: its_best,
                    ..
                } = file.metadata;
                its_best == Some(best) && (epoch, sample_in_epoch) == (best.epoch + 1, 0)
            })
        };
        let of_epoch = of_epoch(best.epoch + 1);
        let beside = self.path.parent().unwrap_or(Path::new(""));
        let places = [
            checkpoints.join(BEST),
            checkpoints.join(&of_epoch),
            beside.join(BEST),
            beside.join(&of_epoch),
            self.path.clone(),
        ];
        places.into_iter().find(is_it)
    }

    /// The tensors of these weights, those of their optimizer included: name in the file, own name.
    pub fn names_of(&self, weights: Weights) -> Vec<(String, String)> {
        let all = self.names().into_iter();
        let named = all.filter_map(|stored| {
            let name = match (weights, stored.strip_prefix(AVERAGE_PREFIX)) {
                (Weights::Trained, None) => stored.clone(),
                (Weights::Average, Some(name)) => name.to_owned(),
                _ => return None,
            };
            Some((stored, name))
        });
        named.collect()
    }

    /// The names of all tensors, buffers of the optimizer included, in the order of the file.
    pub fn names(&self) -> Vec<String> {
        self.file.names()
    }

    /// Reads tensors by name, to the CPU, in the order of `names`.
    ///
    /// # Errors
    /// An unknown name; an I/O error; a checksum that differs; values that are not finite; a
    /// negative variance. The message names the path.
    pub fn read<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Result<Vec<Tensor>> {
        let tensors = names.into_iter().map(|name| self.read_tensor(name));
        let tensors: Result<_> = tensors.collect();
        tensors.with_context(|| format!("cannot read the checkpoint {}", self.path.shown()))
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.file.info(name).is_some()
    }

    pub(super) fn read_tensor(&self, name: &str) -> Result<Tensor> {
        let (info, bytes) = self.read_bytes(name)?;
        let kind = kind_of(info.dtype);
        let kind = kind.with_context(|| format!("the dtype {} is not supported", info.dtype))?;
        let shape: Vec<i64> = info.shape.iter().map(|&size| size as i64).collect();
        Ok(Tensor::f_from_data_size(&bytes, &shape, kind)?)
    }

    /// A tensor's description and its bytes, checked.
    pub(super) fn read_bytes(&self, name: &str) -> Result<(&TensorInfo, Vec<u8>)> {
        let info = self.file.info(name);
        let info = info.with_context(|| format!("there is no tensor {}", quoted(name)))?;
        let bytes = self.file.bytes(name);
        let bytes = bytes.with_context(|| format!("cannot read {}", quoted(name)))?;
        values::check(name, info.dtype, &bytes)?;
        Ok((info, bytes))
    }
}

/// Parses the metadata, which may hold a text of any length where none is expected.
fn parse<'t, T: Deserialize<'t>>(metadata: &'t str) -> Result<T> {
    serde_json::from_str(metadata).map_err(|error| {
        let error = error.to_string();
        let error = error.shown();
        anyhow!("the header's `{METADATA_KEY}` entry is damaged: {error}")
    })
}
