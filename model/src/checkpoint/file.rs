//! A checkpoint file: its header, and its tensors by name.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use safetensors::tensor::Metadata as Header;
use serde::Deserialize;
use tch::Tensor;

use super::{DTYPES, FORMAT, LENGTH_BYTES, METADATA_KEY, Metadata};

/// Maximum length of a header in bytes, as in the safetensors crate.
const MAX_HEADER: u64 = 100_000_000;

/// An open checkpoint whose header was read. Its tensors are read on demand.
#[derive(Debug)]
pub struct Checkpoint {
    pub(super) path: PathBuf,
    file: File,
    header: Header,
    /// Offset of the tensors in the file, in bytes.
    data: u64,
    pub(super) metadata: Metadata,
}

impl Checkpoint {
    /// Reads the header, no tensor.
    ///
    /// # Errors
    /// The file cannot be read, is truncated, is not a safetensors file or not a checkpoint, or has
    /// a newer format. The message names the path.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_inner(path)
            .with_context(|| format!("cannot read the checkpoint {}", path.display()))
    }

    fn open_inner(path: &Path) -> Result<Self> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut prefix = [0; LENGTH_BYTES];
        ensure!(
            length >= LENGTH_BYTES as u64,
            "the file is not a checkpoint: it has only {length} bytes"
        );
        file.read_exact(&mut prefix)?;
        let header_length = u64::from_le_bytes(prefix);
        ensure!(
            (2..=MAX_HEADER).contains(&header_length),
            "the file is not a checkpoint: it does not begin like a safetensors file"
        );
        let data = LENGTH_BYTES as u64 + header_length;
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
            "the file is truncated: it has {length} bytes, its header says {expected}"
        );
        ensure!(
            length == expected,
            "the file is damaged: it has {length} bytes, its header says {expected}"
        );
        let metadata = header
            .metadata()
            .as_ref()
            .and_then(|m| m.get(METADATA_KEY))
            .context(
                "the file is a safetensors file, but not a checkpoint of rsflow: \
             its header has no `rsflow` entry",
            )?;
        // The version alone first: the metadata of another version may not parse.
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

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The names of all tensors, momentum buffers included, in the order of the file.
    pub fn names(&self) -> Vec<String> {
        self.header.offset_keys()
    }

    /// Reads tensors by name, to the CPU, in the order of `names`.
    ///
    /// # Errors
    /// An unknown name; an I/O error. The message names the path.
    pub fn read<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Result<Vec<Tensor>> {
        let tensors = names.into_iter().map(|name| {
            self.read_tensor(name).with_context(|| {
                format!(
                    "cannot read {name:?} from the checkpoint {}",
                    self.path.display()
                )
            })
        });
        tensors.collect()
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.header.info(name).is_some()
    }

    pub(super) fn read_tensor(&self, name: &str) -> Result<Tensor> {
        let info = self.header.info(name).context("there is no such tensor")?;
        let known = DTYPES.iter().find(|(_, dtype)| *dtype == info.dtype);
        let &(kind, _) =
            known.with_context(|| format!("it has the unsupported dtype {:?}", info.dtype))?;
        let (begin, end) = info.data_offsets;
        let mut bytes = vec![0; end - begin];
        self.file
            .read_exact_at(&mut bytes, self.data + begin as u64)?;
        let shape: Vec<i64> = info.shape.iter().map(|&d| d as i64).collect();
        Ok(Tensor::f_from_data_size(&bytes, &shape, kind)?)
    }
}
