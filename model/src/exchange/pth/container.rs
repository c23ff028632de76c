//! The file formats of PyTorch's weights: the two of `torch.save`, a zip archive and the legacy
//! format (PyTorch before 1.6), a sequence of pickles followed by the data of the tensors; and
//! safetensors files.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use rsflow_base::input_file;
use rsflow_base::shown::quoted;
use tch::{Kind, Tensor};
use zip::ZipArchive;
use zip::read::{ArchiveOffset, Config};

use super::pickle::{MAX_BYTES, Pickle, TensorRef, Value};
use crate::checkpoint::{METADATA_KEY, TensorFile, kind_of};

/// The magic number of the legacy format, pickled.
const MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;
/// The only protocol version of the legacy format.
const VERSION: i128 = 1001;

/// A file of `torch.save`, or a safetensors file. The data of tensors is read on demand.
#[derive(Debug)]
pub struct Pth {
    contents: Contents,
    storages: Storages,
    /// Of the file, in bytes.
    length: u64,
}

#[derive(Debug)]
enum Contents {
    Pickle(Pickle),
    /// The tensors of a safetensors file, in its order.
    Plain(Vec<PlainTensor>),
}

/// A tensor that is all of its storage, which has its name.
#[derive(Debug)]
struct PlainTensor {
    name: String,
    dtype: Kind,
    numel: u64,
    shape: Vec<i64>,
    strides: Vec<i64>,
}

/// What a file holds.
pub(super) enum Root<'a> {
    /// The unpickled value.
    Value(Value<'a>),
    /// Tensors by name, and nothing else.
    Tensors(Vec<(&'a str, TensorRef<'a>)>),
}

impl<'a> Root<'a> {
    /// The value of a key beside the state dict.
    pub fn get(&self, key: &str) -> Option<Value<'a>> {
        match self {
            Root::Value(value) => value.get(key),
            Root::Tensors(_) => None,
        }
    }
}

#[derive(Debug)]
struct Storages {
    source: Source,
    /// By key.
    loaded: HashMap<String, Tensor>,
}

#[derive(Debug)]
enum Source {
    /// Each storage is an entry `FOLDER/data/KEY`.
    Zip {
        archive: Box<ZipArchive<BufReader<File>>>,
        folder: String,
    },
    /// The offset of each storage in the file, by key.
    Legacy {
        file: File,
        positions: HashMap<String, u64>,
    },
    Safetensors(TensorFile),
}

impl Pth {
    /// Reads the pickle, or the header. Checks that all storages exist with the sizes in the pickle,
    /// and that their total size is not above that of the file.
    ///
    /// # Errors
    /// The file cannot be read, is truncated or damaged, is neither a file of `torch.save` nor a
    /// safetensors file, or its pickle has other values than tensors, containers, strings and
    /// numbers.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = input_file::open(path)?;
        let mut start = Vec::new();
        file.by_ref().take(16).read_to_end(&mut start)?;
        file.seek(SeekFrom::Start(0))?;
        match start[..] {
            [b'P', b'K', 3, 4, ..] => open_zip(file),
            // The upper half of the length of the header, and its first byte.
            [_, _, _, _, 0, 0, 0, 0, b'{', ..] => open_safetensors(path, file),
            [0x80, ..] => open_legacy(file),
            _ => bail!(
                "it is not a PyTorch checkpoint: it begins neither like a zip archive or a pickle of \
                 `torch.save` nor like a safetensors file"
            ),
        }
    }

    /// The file's contents, and the data of its tensors.
    pub(super) fn contents(&mut self) -> (Root<'_>, Tensors<'_>) {
        let root = match &self.contents {
            Contents::Pickle(pickle) => Root::Value(pickle.root()),
            Contents::Plain(tensors) => {
                let named = tensors.iter().map(|t| (t.name.as_str(), t.tensor()));
                Root::Tensors(named.collect())
            }
        };
        (root, Tensors(&mut self.storages))
    }

    /// Bytes of the file.
    pub(super) fn length(&self) -> u64 {
        self.length
    }
}

impl PlainTensor {
    fn tensor(&self) -> TensorRef<'_> {
        TensorRef {
            key: &self.name,
            dtype: self.dtype,
            numel: self.numel,
            offset: 0,
            shape: &self.shape,
            strides: &self.strides,
            properties: None,
        }
    }
}

/// The data of a file's tensors.
pub(super) struct Tensors<'a>(&'a mut Storages);

impl Tensors<'_> {
    /// The tensor. Tensors of one storage share memory.
    ///
    /// # Errors
    /// An I/O error; a checksum that does not match; properties, such as that of a negated view.
    pub fn get(&mut self, tensor: TensorRef) -> Result<Tensor> {
        if let Some(properties) = tensor.properties {
            let names = properties.entries().into_iter().flatten();
            let names = names.map(|(name, _)| quoted(name.text().unwrap_or("?")));
            let names: Vec<String> = names.take(8).collect();
            bail!(
                "it has the properties [{}], which are not supported, so its values are not known; \
                 save a plain copy of it, `tensor.resolve_neg().resolve_conj().clone()`",
                names.join(", ")
            );
        }
        let storage = self.0.get(tensor.key, tensor.dtype, tensor.numel)?;
        Ok(storage.f_as_strided(tensor.shape, tensor.strides, tensor.offset)?)
    }
}

impl Storages {
    fn get(&mut self, key: &str, dtype: Kind, numel: u64) -> Result<&Tensor> {
        if !self.loaded.contains_key(key) {
            let length = byte_length(dtype, numel).context("it is too large")?;
            let bytes = self
                .source
                .read(key, length)
                .with_context(|| format!("cannot read the storage {}", quoted(key)))?;
            // The sizes in an archive's directory and its entries may differ, and libtorch does not
            // check.
            ensure!(
                bytes.len() as u64 == length,
                "the storage {} has {} bytes, not {length}",
                quoted(key),
                bytes.len()
            );
            let tensor = Tensor::f_from_data_size(&bytes, &[numel.try_into()?], dtype)?;
            self.loaded.insert(key.to_owned(), tensor);
        }
        self.loaded.get(key).context("it was not loaded")
    }
}

impl Source {
    fn read(&mut self, key: &str, length: u64) -> Result<Vec<u8>> {
        match self {
            // Checks the CRC-32 of the archive.
            Source::Zip { archive, folder } => {
                read_entry(archive, &storage_entry(folder, key), length)
            }
            Source::Legacy { file, positions } => {
                let position = positions.get(key).context("it is missing")?;
                let mut bytes = vec![0; usize::try_from(length)?];
                file.read_exact_at(&mut bytes, *position)?;
                Ok(bytes)
            }
            Source::Safetensors(file) => file.bytes(key),
        }
    }
}

fn byte_length(dtype: Kind, numel: u64) -> Option<u64> {
    numel.checked_mul(dtype.elt_size_in_bytes() as u64)
}

fn storage_entry(folder: &str, key: &str) -> String {
    format!("{folder}/data/{key}")
}

/// All bytes of an entry, at most `max` of them.
fn read_entry(archive: &mut ZipArchive<BufReader<File>>, name: &str, max: u64) -> Result<Vec<u8>> {
    let entry = archive.by_name(name)?;
    ensure!(
        entry.size() <= max,
        "{} has {} bytes, more than {max}",
        quoted(name),
        entry.size()
    );
    let mut bytes = Vec::new();
    // One more than expected: the checksum is compared at the end of the entry.
    entry.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn open_zip(file: File) -> Result<Pth> {
    let length = file.metadata()?.len();
    // The archive begins with the file. A search for its beginning takes the second header of the
    // directory for the first one where that is as long as the zip64 records before the end, 76 bytes:
    // PyTorch always writes those records, and a file name of 21 letters makes `NAME/data.pkl` that long.
    let config = Config {
        archive_offset: ArchiveOffset::Known(0),
    };
    let mut archive = ZipArchive::with_config(config, BufReader::new(file))
        .context("the zip archive is truncated or damaged")?;
    let folder = archive.file_names().flatten().find_map(|name| {
        let folder = name.strip_suffix("/data.pkl")?;
        (!folder.contains('/')).then(|| folder.to_owned())
    });
    let folder = folder.context(
        "it is a zip archive, but not a PyTorch checkpoint: it has no data.pkl; save \
         `model.state_dict()` with `torch.save`",
    )?;
    let order = format!("{folder}/byteorder");
    if archive.index_for_name(&order).is_some() {
        let order = read_entry(&mut archive, &order, 16)?;
        ensure!(
            order == b"little",
            "its byte order is {:?}; only little-endian files are supported",
            String::from_utf8_lossy(&order)
        );
    }
    let bytes = read_entry(&mut archive, &format!("{folder}/data.pkl"), MAX_BYTES)?;
    let (pickle, _) = Pickle::read(&bytes)?;
    let mut sum = 0_u64;
    for (key, (dtype, numel)) in pickle.storages()? {
        let size = archive
            .by_name(&storage_entry(&folder, key))
            .with_context(|| format!("the storage {} cannot be read", quoted(key)))?
            .size();
        ensure!(
            byte_length(dtype, numel) == Some(size),
            "the storage {} has {size} bytes, not {numel} elements of dtype {}",
            quoted(key),
            dtype_name(dtype)
        );
        sum = sum.saturating_add(size);
    }
    ensure!(
        sum <= length,
        "the file is damaged: it has {length} bytes, its storages {sum}"
    );
    let archive = Box::new(archive);
    let source = Source::Zip { archive, folder };
    Ok(Pth::new(Contents::Pickle(pickle), source, length))
}

fn open_legacy(file: File) -> Result<Pth> {
    let length = file.metadata()?.len();
    let mut bytes = Vec::new();
    (&file).take(MAX_BYTES).read_to_end(&mut bytes)?;
    let mut rest = &bytes[..];
    let mut next = |what: &str| -> Result<Pickle> {
        let (pickle, used) = Pickle::read(rest).with_context(|| format!("cannot read {what}"))?;
        rest = &rest[used..];
        Ok(pickle)
    };
    let magic = next("the first pickle")?.root().int();
    ensure!(
        magic == Some(MAGIC),
        "it is a pickle, but not one that `torch.save` wrote"
    );
    let version = next("its version")?.root().int();
    ensure!(
        version == Some(VERSION),
        "its version is not {VERSION}, the only one known"
    );
    let system = next("its system information")?;
    ensure!(
        system.root().get("little_endian").and_then(Value::bool) == Some(true),
        "its byte order is not little-endian; only little-endian files are supported"
    );
    let pickle = next("its values")?;
    let keys = next("the list of its storages")?;
    let mut position = (bytes.len() - rest.len()) as u64;

    // A storage is its number of elements, u64, then the elements.
    let mut known = pickle.storages()?;
    let mut positions = HashMap::new();
    for key in keys.root().items().context("it has no list of storages")? {
        let key = key.text().context("a storage has no name")?;
        let (dtype, numel) = known.remove(key).with_context(|| {
            let key = quoted(key);
            format!("the storage {key} is listed twice or has no tensor")
        })?;
        let mut count = [0; 8];
        file.read_exact_at(&mut count, position)
            .with_context(|| format!("the file is truncated before the storage {}", quoted(key)))?;
        ensure!(
            u64::from_le_bytes(count) == numel,
            "the storage {} has {} elements, not {numel}",
            quoted(key),
            u64::from_le_bytes(count)
        );
        position += 8;
        positions.insert(key.to_owned(), position);
        let end = byte_length(dtype, numel).and_then(|bytes| bytes.checked_add(position));
        position = end.filter(|&end| end <= length).with_context(|| {
            let key = quoted(key);
            format!("the file is truncated within the storage {key} of {numel} elements")
        })?;
    }
    if let Some(key) = known.keys().next() {
        bail!("the storage {} is missing", quoted(key));
    }
    let source = Source::Legacy { file, positions };
    Ok(Pth::new(Contents::Pickle(pickle), source, length))
}

fn open_safetensors(path: &Path, file: File) -> Result<Pth> {
    let length = file.metadata()?.len();
    let file = TensorFile::open(path)?;
    ensure!(
        file.text(METADATA_KEY).is_none(),
        "it is a checkpoint of rsflow already; there is nothing to import"
    );
    let mut tensors = Vec::new();
    for name in file.names() {
        let info = file.info(&name).context("a tensor is missing")?;
        let dtype = kind_of(info.dtype);
        let dtype = dtype.with_context(|| {
            let (name, dtype) = (quoted(&name), info.dtype);
            format!("{name} has the dtype {dtype}, which is not supported")
        })?;
        let shape: Vec<i64> = info.shape.iter().map(|&size| size as i64).collect();
        let mut strides = vec![1_i64; shape.len()];
        for dimension in (1..shape.len()).rev() {
            strides[dimension - 1] = strides[dimension].saturating_mul(shape[dimension].max(1));
        }
        let (begin, end) = info.data_offsets;
        tensors.push(PlainTensor {
            numel: ((end - begin) / dtype.elt_size_in_bytes()) as u64,
            name,
            dtype,
            shape,
            strides,
        });
    }
    let source = Source::Safetensors(file);
    Ok(Pth::new(Contents::Plain(tensors), source, length))
}

/// PyTorch's name of a dtype.
pub(super) fn dtype_name(dtype: Kind) -> &'static str {
    match dtype {
        Kind::Float => "float32",
        Kind::Double => "float64",
        Kind::Half => "float16",
        Kind::BFloat16 => "bfloat16",
        Kind::Int64 => "int64",
        Kind::Int => "int32",
        Kind::Int16 => "int16",
        Kind::Int8 => "int8",
        Kind::Uint8 => "uint8",
        Kind::Bool => "bool",
        _ => "another",
    }
}

impl Pth {
    fn new(contents: Contents, source: Source, length: u64) -> Self {
        let loaded = HashMap::new();
        let storages = Storages { source, loaded };
        Pth {
            contents,
            storages,
            length,
        }
    }
}
