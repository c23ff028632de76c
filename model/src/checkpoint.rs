//! Checkpoints: everything that a resume or an evaluation needs, in one safetensors file.
//!
//! The tensors are the network's, under its own names, and `momentum/NAME` for the momentum of
//! the parameter `NAME`; of a packed one (see [`packed`](crate::packed)) codes are in the place of
//! quantized weights. The header's `__metadata__` has one key, `rsflow`, whose value is
//! [`Metadata`] as JSON.
//!
//! Writing has two halves. [`Snapshot::take`] copies everything to plain memory, on the thread
//! that trains; [`write_atomically`] takes its time with the disk, on any other thread. Reading
//! takes the header first ([`Checkpoint::open`]), then only the tensors that are asked for.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use safetensors::Dtype;
use safetensors::tensor::{Metadata as Header, TensorInfo};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::compute::Compute;
use crate::feed::{Channels, Normalize};
use crate::loss_scale::LossScaleState;
use crate::networks::Network;
use crate::optimizer::RunningOptimizer;
use crate::packed;
use crate::parameters::{Parameter, Parameters, Start};
use crate::rs_net::{ALPHA, BatchNorms, RsNet};
use crate::whole_file;

/// The version of the format that this program writes, and the newest that it reads. 2: quantized
/// networks, packed or not.
pub const FORMAT: u32 = 2;

const METADATA_KEY: &str = "rsflow";
/// What stands before the name of a parameter in the name of its momentum.
pub(crate) const MOMENTUM: &str = "momentum/";
/// The bytes before the header: its length, little-endian.
const PREFIX: u64 = 8;
/// A longer header is not one (the limit of the safetensors crate).
const MAX_HEADER: u64 = 100_000_000;

/// The kinds of tensors that are written, in the order in which they lie in the file: the widest
/// first, which keeps all of them aligned.
const KINDS: [(Kind, Dtype); 6] = [
    (Kind::Double, Dtype::F64),
    (Kind::Int64, Dtype::I64),
    (Kind::Float, Dtype::F32),
    (Kind::Half, Dtype::F16),
    (Kind::BFloat16, Dtype::BF16),
    (Kind::Uint8, Dtype::U8),
];

/// What a checkpoint says about itself beside its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metadata {
    /// The version of the format, [`FORMAT`].
    pub format: u32,
    /// What the network was built from.
    pub network: Network,
    /// The names of the classes, in the order of the logits; empty names where they are not known.
    pub classes: Vec<String>,
    /// The resolutions, in the order of alpha.
    pub resolutions: Vec<u32>,
    /// Whether each of them has a batch norm of its own.
    #[serde(default)]
    pub batch_norms: BatchNorms,
    /// Further resolutions, which were never trained: only the running statistics of their batch
    /// norms were measured. They are not part of the ensemble.
    #[serde(default)]
    pub calibrated: Vec<u32>,
    /// What is done to the values of images, which lie in 0..1, before the network gets them.
    #[serde(default)]
    pub normalize: Option<Normalize>,
    /// The order in which the network gets their colours.
    #[serde(default)]
    pub channels: Channels,
    /// Whether the weights of quantizers are there as codes only; see [`packed`](crate::packed).
    #[serde(default)]
    pub packed: bool,
    /// The epoch that the next step belongs to, from 0.
    pub epoch: u64,
    /// Steps done in that epoch.
    pub step_in_epoch: u64,
    /// Steps done since the start of the run.
    pub step: u64,
    /// Steps of each of the run's epochs; `None` in files from before this was kept.
    #[serde(default)]
    pub steps_per_epoch: Option<u64>,
    /// The seed of the run.
    pub seed: u64,
    /// The best validation so far; `None` before the first.
    pub best: Option<Best>,
    /// The scale of the loss, where it was trained in float16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<LossScaleState>,
    /// The recipe's text, overrides applied; empty if another program trained it.
    pub recipe: String,
}

impl Metadata {
    /// That of a network which has not been trained yet.
    pub fn new(network: Network, classes: Vec<String>, resolutions: Vec<u32>) -> Self {
        Self {
            format: FORMAT,
            network,
            classes,
            resolutions,
            batch_norms: BatchNorms::Private,
            calibrated: vec![],
            normalize: None,
            channels: Channels::default(),
            packed: false,
            epoch: 0,
            step_in_epoch: 0,
            step: 0,
            steps_per_epoch: None,
            seed: 0,
            best: None,
            loss_scale: None,
            recipe: String::new(),
        }
    }

    /// Whether it comes from another program, which knows no recipe: then neither seed nor the
    /// number of steps is known.
    pub fn is_imported(&self) -> bool {
        self.recipe.is_empty()
    }

    /// Makes sure that data has the classes that the network tells apart. `origin` is what a user
    /// knows the data by.
    ///
    /// # Errors
    /// They differ; the message names one that does.
    pub fn check_classes(&self, classes: &[String], origin: &str) -> Result<()> {
        ensure!(
            self.classes.len() == classes.len(),
            "the network tells {} classes apart, but {origin} holds {}",
            self.classes.len(),
            classes.len()
        );
        // Empty names are not known.
        let mut pairs = self.classes.iter().zip(classes).enumerate();
        if let Some((index, (ours, theirs))) =
            pairs.find(|(_, (ours, theirs))| !ours.is_empty() && ours != theirs)
        {
            bail!(
                "the network was trained on other classes than {origin} holds: class {index} is `{ours}`, not `{theirs}`"
            );
        }
        Ok(())
    }

    /// The resolutions whose batch norms it has.
    pub fn norms(&self) -> Vec<u32> {
        let mut norms = match self.batch_norms {
            BatchNorms::Private => self.resolutions.clone(),
            BatchNorms::Shared => self.resolutions.first().copied().into_iter().collect(),
        };
        norms.extend(&self.calibrated);
        norms
    }

    /// The resolution whose batch norms serve images of this size best: itself if it has some,
    /// else the nearest that has (of two, the larger).
    pub fn norm_for(&self, size: u32) -> u32 {
        let trained = self.resolutions.iter().position(|&r| r == size);
        if let Some(norm) =
            trained.and_then(|at| self.batch_norms.of(&self.resolutions).get(at).copied())
        {
            return norm;
        }
        let norms = self.norms().into_iter();
        let nearest = norms.min_by_key(|&norm| (norm.abs_diff(size), std::cmp::Reverse(norm)));
        nearest.unwrap_or(size)
    }
}

/// The validation that a run's best checkpoint was chosen by.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// The epoch after which it was measured, from 0.
    pub epoch: u64,
    /// The top-1 accuracy of the first resolution, in percent, rounded to 0.1.
    pub first_top1: f64,
    /// The mean of all resolutions' top-1 and top-5 accuracies, in percent: it decides a tie.
    pub mean: f64,
}

impl Best {
    /// The reference's rule: the first resolution's top-1 counts in tenths of a percent.
    pub fn new(epoch: u64, first_top1: f64, mean: f64) -> Self {
        Self {
            epoch,
            first_top1: (first_top1 * 10.0).round() / 10.0,
            mean,
        }
    }

    /// Whether it is better than the best so far.
    pub fn beats(&self, best: Option<&Best>) -> bool {
        best.is_none_or(|best| (self.first_top1, self.mean) > (best.first_top1, best.mean))
    }
}

/// A copy of everything in plain memory, which may travel between threads.
#[derive(Clone, Debug)]
pub struct Snapshot {
    metadata: Metadata,
    /// Name and description, in the order of the bytes.
    tensors: Vec<(String, TensorInfo)>,
    bytes: Vec<u8>,
}

impl Snapshot {
    /// Copies the network's tensors, and the momentum where there is an optimizer. Waits for the
    /// device.
    ///
    /// # Errors
    /// What libtorch says; a tensor of a kind that is not written; a value that is infinite or not
    /// a number, so that every checkpoint is one to go on from.
    pub fn take(
        metadata: Metadata,
        parameters: &Parameters,
        optimizer: Option<&RunningOptimizer>,
    ) -> Result<Self> {
        let parameters = parameters.iter().map(|p| (p.name.clone(), &p.tensor));
        let momentum = optimizer.into_iter().flat_map(RunningOptimizer::momentum);
        let momentum = momentum.map(|(name, tensor)| (format!("{MOMENTUM}{name}"), tensor));
        Self::of(metadata, parameters.chain(momentum).collect())
    }

    /// Copies tensors that already have the names of a checkpoint.
    ///
    /// # Errors
    /// As [`Snapshot::take`].
    pub fn of(metadata: Metadata, mut tensors: Vec<(String, &Tensor)>) -> Result<Self> {
        let mut snapshot = Self {
            metadata,
            tensors: Vec::with_capacity(tensors.len()),
            bytes: vec![],
        };
        for (kind, dtype) in KINDS {
            let (these, others) = tensors
                .into_iter()
                .partition(|(_, t)| t.f_kind().ok() == Some(kind));
            tensors = others;
            tch::no_grad(|| snapshot.append(these, dtype)).context("cannot copy the tensors")?;
        }
        if let Some((name, tensor)) = tensors.first() {
            bail!(
                "checkpoints hold no tensors of kind {:?}, which {name:?} is",
                tensor.f_kind()
            );
        }
        Ok(snapshot)
    }

    fn append(&mut self, tensors: Vec<(String, &Tensor)>, dtype: Dtype) -> Result<()> {
        if tensors.is_empty() {
            return Ok(());
        }
        // Joined on the device, so that one transfer fetches all of them.
        let flat = tensors
            .iter()
            .map(|(_, t)| t.f_reshape([-1]))
            .collect::<Result<Vec<_>, _>>()?;
        let joined = Tensor::f_cat(&flat, 0)?;
        if !is_finite(&joined)? {
            for (name, tensor) in &tensors {
                ensure!(
                    is_finite(tensor)?,
                    "{name:?} holds values that are not finite"
                );
            }
        }
        let (start, size) = (self.bytes.len(), dtype.bitsize() / 8);
        self.bytes.resize(start + joined.numel() * size, 0);
        joined.f_copy_data_u8(&mut self.bytes[start..], joined.numel())?;
        let mut begin = start;
        for (name, tensor) in tensors {
            let shape: Vec<usize> = tensor.size().into_iter().map(|d| d as usize).collect();
            let end = begin + shape.iter().product::<usize>() * size;
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

    /// What the checkpoint will say about itself.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn header(&self) -> Result<Vec<u8>> {
        let metadata = serde_json::to_string(&self.metadata)?;
        let metadata = HashMap::from([(METADATA_KEY.to_owned(), metadata)]);
        let mut header = serde_json::to_vec(&Header::new(Some(metadata), self.tensors.clone())?)?;
        // The tensors begin aligned.
        header.resize(header.len().next_multiple_of(PREFIX as usize), b' ');
        Ok(header)
    }

    fn write(&self, file: &File) -> Result<()> {
        let header = self.header()?;
        let mut writer = BufWriter::new(file);
        writer.write_all(&(header.len() as u64).to_le_bytes())?;
        writer.write_all(&header)?;
        writer.write_all(&self.bytes)?;
        Ok(writer.flush()?)
    }
}

/// Whether all values are finite. NaN is both the least and the greatest where there is one, so a
/// single pass tells, without memory of its own.
pub(crate) fn is_finite(tensor: &Tensor) -> Result<bool> {
    if tensor.numel() == 0 {
        return Ok(true);
    }
    let (least, greatest) = tensor.f_aminmax(None, false)?;
    Ok(least.f_double_value(&[])?.is_finite() && greatest.f_double_value(&[])?.is_finite())
}

/// Writes a checkpoint so that it is complete or absent; see [`whole_file::write`].
///
/// # Errors
/// What the file system says, with the path.
pub fn write_atomically(snapshot: &Snapshot, path: &Path) -> Result<()> {
    whole_file::write(path, |file| snapshot.write(file))
        .with_context(|| format!("cannot write the checkpoint {}", path.display()))
}

/// A checkpoint file whose header was read. Its tensors are read when asked for.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    file: File,
    header: Header,
    /// Where in the file the tensors begin.
    data: u64,
    metadata: Metadata,
}

impl Checkpoint {
    /// Opens a checkpoint and reads its header, no tensor.
    ///
    /// # Errors
    /// The file cannot be read, is truncated, is no safetensors file, none of ours, or of a newer
    /// format; the message names the path.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_inner(path)
            .with_context(|| format!("cannot read the checkpoint {}", path.display()))
    }

    fn open_inner(path: &Path) -> Result<Self> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut prefix = [0; PREFIX as usize];
        ensure!(
            length >= PREFIX,
            "the file is not a checkpoint: it has only {length} bytes"
        );
        file.read_exact(&mut prefix)?;
        let header_length = u64::from_le_bytes(prefix);
        ensure!(
            (2..=MAX_HEADER).contains(&header_length),
            "the file is not a checkpoint: it does not begin like a safetensors file"
        );
        let data = PREFIX + header_length;
        ensure!(
            length >= data,
            "the file is truncated within its header, or not a checkpoint"
        );
        let mut header = vec![0; header_length as usize];
        file.read_exact(&mut header)?;
        let header: Header = serde_json::from_slice(&header).context(
            "the file is not a checkpoint: its header is not that of a safetensors file",
        )?;
        let expected = data + header.data_len() as u64;
        ensure!(
            length >= expected,
            "the file is truncated: it has {length} bytes, its header tells of {expected}"
        );
        ensure!(
            length == expected,
            "the file is damaged: it has {length} bytes, its header tells of {expected}"
        );
        let metadata = header
            .metadata()
            .as_ref()
            .and_then(|m| m.get(METADATA_KEY))
            .context(
                "the file is a safetensors file, but not a checkpoint of rsflow: \
             its header has no `rsflow` entry",
            )?;
        // The version first, alone: another version's metadata may not parse as ours.
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let version: Version =
            serde_json::from_str(metadata).context("the header's `rsflow` entry is damaged")?;
        ensure!(
            version.format <= FORMAT,
            "the file has format {}, this program reads up to {FORMAT}",
            version.format
        );
        let metadata: Metadata =
            serde_json::from_str(metadata).context("the header's `rsflow` entry is damaged")?;
        Ok(Self {
            path: path.to_owned(),
            file,
            header,
            data,
            metadata,
        })
    }

    /// What it says about itself.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The names of all its tensors, those of the momentum included, as they lie in the file.
    pub fn names(&self) -> Vec<String> {
        self.header.offset_keys()
    }

    /// Reads tensors by name, to the CPU, in the order of the names.
    ///
    /// # Errors
    /// A name that is not there, or what the file system says; the message names the path.
    pub fn read<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Result<Vec<Tensor>> {
        let tensors = names.into_iter().map(|name| {
            self.read_one(name).with_context(|| {
                format!(
                    "cannot read {name:?} from the checkpoint {}",
                    self.path.display()
                )
            })
        });
        tensors.collect()
    }

    /// Whether there is a tensor of that name.
    pub fn holds(&self, name: &str) -> bool {
        self.header.info(name).is_some()
    }

    fn read_one(&self, name: &str) -> Result<Tensor> {
        let info = self.header.info(name).context("there is no such tensor")?;
        let known = KINDS.iter().find(|(_, dtype)| *dtype == info.dtype);
        let &(kind, _) =
            known.with_context(|| format!("it has the unknown type {:?}", info.dtype))?;
        let (begin, end) = info.data_offsets;
        let mut bytes = vec![0; end - begin];
        self.file
            .read_exact_at(&mut bytes, self.data + begin as u64)?;
        let shape: Vec<i64> = info.shape.iter().map(|&d| d as i64).collect();
        Ok(Tensor::f_from_data_size(&bytes, &shape, kind)?)
    }

    /// Builds the network for some sizes, which need not be among the checkpoint's, and loads it to
    /// be run, not trained (a quantized network's weights are at their levels for good): what belongs
    /// to batch norms that nobody names is not read. `norms` names for each size the resolution whose
    /// batch norms it runs with; [`Metadata::norm_for`] suggests one.
    ///
    /// # Errors
    /// As [`RsNet::with_norms`] and [`Checkpoint::load`].
    pub fn network(&self, sizes: &[u32], norms: &[u32], compute: Compute) -> Result<RsNet> {
        self.network_with(sizes, norms, compute, |norm| norm)
    }

    /// The same, where batch norms start from those of another resolution of the checkpoint:
    /// `source` says from which.
    ///
    /// # Errors
    /// As [`Checkpoint::network`].
    pub fn network_with(
        &self,
        sizes: &[u32],
        norms: &[u32],
        compute: Compute,
        source: impl Fn(u32) -> u32,
    ) -> Result<RsNet> {
        let Metadata { network, .. } = &self.metadata;
        let classes = self.metadata.classes.len().try_into()?;
        let mut net = RsNet::with_norms(network, classes, sizes, norms, compute, Start::Zero)
            .with_context(|| format!("cannot build the network of {}", self.path.display()))?;
        self.load_with(&net, source, |_| true)?;
        net.freeze()?;
        Ok(net)
    }

    /// Loads a network, which may have all resolutions of the checkpoint or only some, in any
    /// order: what belongs to the others is not read.
    ///
    /// # Errors
    /// A batch norm that the checkpoint does not have; all missing and mis-shaped tensors; what
    /// the file system says. The network is unchanged then. The message names the path.
    pub fn load(&self, net: &RsNet) -> Result<()> {
        self.load_with(net, |norm| norm, |_| true)
    }

    /// The same, where batch norms start from those of another resolution of the checkpoint
    /// (`source` says from which), and only `wanted` tensors are loaded.
    ///
    /// # Errors
    /// As [`Checkpoint::load`].
    pub fn load_with(
        &self,
        net: &RsNet,
        source: impl Fn(u32) -> u32,
        wanted: impl Fn(&Parameter) -> bool,
    ) -> Result<()> {
        self.load_inner(net, source, wanted).with_context(|| {
            format!(
                "cannot load the network from the checkpoint {}",
                self.path.display()
            )
        })
    }

    fn load_inner(
        &self,
        net: &RsNet,
        source: impl Fn(u32) -> u32,
        wanted: impl Fn(&Parameter) -> bool,
    ) -> Result<()> {
        let ours = self.metadata.norms();
        if let Some(norm) = net
            .norms()
            .iter()
            .map(|&n| source(n))
            .find(|n| !ours.contains(n))
        {
            bail!("it has no batch norms of resolution {norm}, but of {ours:?}");
        }
        let mut tensors = Vec::new();
        for parameter in net.parameters().iter() {
            let left_out = self.metadata.packed && !parameter.role.is_needed_to_run();
            if left_out || !wanted(parameter) {
                tensors.push((parameter.name.as_str(), parameter.tensor.shallow_clone()));
                continue;
            }
            let name = match parameter.resolution {
                Some(norm) => parameter.name_with_norm(source(norm)),
                None => parameter.name.clone(),
            };
            if !self.holds(&name) {
                if let Some(weight) = packed::unpack(self, parameter)? {
                    tensors.push((parameter.name.as_str(), weight));
                }
                // One that is missing is told by `Parameters::load`, together with all others.
                continue;
            }
            let mut tensor = self.read_one(&name)?;
            if name == ALPHA {
                tensor = self.alpha_of(&tensor, net.resolutions())?;
            }
            tensors.push((parameter.name.as_str(), tensor));
        }
        net.parameters()
            .load(tensors.iter().map(|(name, tensor)| (*name, tensor)))
    }

    /// The alphas of these sizes; for one that was not trained the value that alphas start with.
    fn alpha_of(&self, alpha: &Tensor, sizes: &[u32]) -> Result<Tensor> {
        let trained = &self.metadata.resolutions;
        ensure!(
            alpha.size() == [trained.len() as i64],
            "it has {:?} weights of the ensemble for {} resolutions",
            alpha.size(),
            trained.len()
        );
        let options = (alpha.f_kind()?, alpha.device());
        let positions: Vec<i64> = sizes
            .iter()
            .map(|size| {
                let position = trained.iter().position(|r| r == size);
                position.unwrap_or(trained.len()) as i64
            })
            .collect();
        let padded = Tensor::f_cat(&[alpha, &alpha.f_new_ones([1], options)?], 0)?;
        Ok(padded.f_index_select(0, &Tensor::f_from_slice(&positions)?)?)
    }

    /// Loads the momentum. Only into an optimizer of a network with the same resolutions, in the
    /// same order.
    ///
    /// # Errors
    /// All tensors that do not fit; what the file system says. The message names the path.
    pub fn load_momentum(&self, optimizer: &mut RunningOptimizer) -> Result<()> {
        let names = self.names();
        let names: Vec<&str> = names
            .iter()
            .filter_map(|n| n.strip_prefix(MOMENTUM))
            .collect();
        let stored: Vec<String> = names
            .iter()
            .map(|name| format!("{MOMENTUM}{name}"))
            .collect();
        let tensors = self.read(stored.iter().map(String::as_str))?;
        let given = names.into_iter().map(str::to_owned).zip(tensors).collect();
        optimizer.load_momentum(given).with_context(|| {
            format!(
                "cannot load the momentum from the checkpoint {}",
                self.path.display()
            )
        })
    }
}
