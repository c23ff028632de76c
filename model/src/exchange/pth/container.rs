//! The two formats of `torch.save`: a zip archive, and that of PyTorch before 1.6, in which pickles
//! and the tensors' bytes stand one behind the other.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use tch::{Kind, Tensor};
use zip::ZipArchive;

use super::pickle::{Described, MAX_BYTES, Pickle, Value};

/// What the older format begins with, as a pickled number.
const MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;
/// The version of the older format, the only one that there was.
const VERSION: i128 = 1001;

/// A file that `torch.save` wrote. The bytes of tensors are read when asked for.
#[derive(Debug)]
pub struct Pth {
    pickle: Pickle,
    storages: Storages,
}

#[derive(Debug)]
struct Storages {
    source: Source,
    /// Those that were read.
    read: HashMap<String, Tensor>,
}

#[derive(Debug)]
enum Source {
    /// Each storage is an entry `FOLDER/data/KEY`.
    Zip {
        archive: Box<ZipArchive<BufReader<File>>>,
        folder: String,
    },
    /// Where each storage begins.
    Legacy {
        file: File,
        positions: HashMap<String, u64>,
    },
}

impl Pth {
    /// Opens it and reads its pickle. All storages are there then, with the sizes that the pickle
    /// tells, and together they are not larger than the file.
    ///
    /// # Errors
    /// The file cannot be read, is truncated or damaged, is none of PyTorch's, or its pickle holds
    /// something else than tensors and plain values.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path)?;
        ensure!(file.metadata()?.is_file(), "it is not a file");
        let mut start = Vec::new();
        file.by_ref().take(4).read_to_end(&mut start)?;
        file.seek(SeekFrom::Start(0))?;
        match start[..] {
            [b'P', b'K', 3, 4] => open_zip(file),
            [0x80, ..] => open_legacy(file),
            _ => bail!(
                "it is not a PyTorch checkpoint: it begins neither like a zip archive nor like a pickle"
            ),
        }
    }

    /// What the file holds, and the bytes of its tensors.
    pub(super) fn parts(&mut self) -> (Value<'_>, Tensors<'_>) {
        (self.pickle.root(), Tensors(&mut self.storages))
    }
}

/// The bytes of a file's tensors.
pub(super) struct Tensors<'a>(&'a mut Storages);

impl Tensors<'_> {
    /// The tensor, which shares its memory with others of the same storage.
    ///
    /// # Errors
    /// What the file system says; the bytes are damaged.
    pub fn get(&mut self, tensor: Described) -> Result<Tensor> {
        let storage = self.0.get(tensor.key, tensor.kind, tensor.elements)?;
        Ok(storage.f_as_strided(tensor.shape, tensor.strides, tensor.offset)?)
    }
}

impl Storages {
    fn get(&mut self, key: &str, kind: Kind, elements: u64) -> Result<&Tensor> {
        if !self.read.contains_key(key) {
            let length = bytes_of(kind, elements).context("it is too large")?;
            let bytes = self
                .source
                .read(key, length)
                .with_context(|| format!("cannot read the storage {key:?}"))?;
            // An archive's list and its entries may disagree, and libtorch takes what it is told.
            ensure!(
                bytes.len() as u64 == length,
                "the storage {key:?} has {} bytes, not {length}",
                bytes.len()
            );
            let tensor = Tensor::f_from_data_size(&bytes, &[elements.try_into()?], kind)?;
            self.read.insert(key.to_owned(), tensor);
        }
        self.read.get(key).context("it was not read")
    }
}

impl Source {
    fn read(&mut self, key: &str, length: u64) -> Result<Vec<u8>> {
        match self {
            // The archive's checksum is compared on the way.
            Source::Zip { archive, folder } => entry(archive, &storage_entry(folder, key), length),
            Source::Legacy { file, positions } => {
                let position = positions.get(key).context("it is not there")?;
                let mut bytes = vec![0; usize::try_from(length)?];
                file.read_exact_at(&mut bytes, *position)?;
                Ok(bytes)
            }
        }
    }
}

fn bytes_of(kind: Kind, elements: u64) -> Option<u64> {
    elements.checked_mul(kind.elt_size_in_bytes() as u64)
}

fn storage_entry(folder: &str, key: &str) -> String {
    format!("{folder}/data/{key}")
}

/// All bytes of an entry, which must not have more than `most`.
fn entry(archive: &mut ZipArchive<BufReader<File>>, name: &str, most: u64) -> Result<Vec<u8>> {
    let entry = archive.by_name(name)?;
    ensure!(
        entry.size() <= most,
        "{name} has {} bytes, more than {most}",
        entry.size()
    );
    let mut bytes = Vec::new();
    // To its very end, where the checksum is compared.
    entry.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn open_zip(file: File) -> Result<Pth> {
    let length = file.metadata()?.len();
    let mut archive =
        ZipArchive::new(BufReader::new(file)).context("the zip archive is truncated or damaged")?;
    let folder = archive.file_names().flatten().find_map(|name| {
        let folder = name.strip_suffix("/data.pkl")?;
        (!folder.contains('/')).then(|| folder.to_owned())
    });
    let folder = folder.context("it is a zip archive, but no PyTorch checkpoint: no data.pkl")?;
    let order = format!("{folder}/byteorder");
    if archive.index_for_name(&order).is_some() {
        let order = entry(&mut archive, &order, 16)?;
        ensure!(
            order == b"little",
            "its numbers are in {:?} byte order; only little-endian files are read",
            String::from_utf8_lossy(&order)
        );
    }
    let bytes = entry(&mut archive, &format!("{folder}/data.pkl"), MAX_BYTES)?;
    let (pickle, _) = Pickle::read(&bytes)?;
    let mut sum = 0_u64;
    for (key, (kind, elements)) in pickle.storages()? {
        let there = archive
            .by_name(&storage_entry(&folder, key))
            .with_context(|| format!("the storage {key:?} cannot be read"))?
            .size();
        ensure!(
            bytes_of(kind, elements) == Some(there),
            "the storage {key:?} has {there} bytes, which are not {elements} elements of kind {kind:?}"
        );
        sum = sum.saturating_add(there);
    }
    ensure!(
        sum <= length,
        "the file is damaged: it has {length} bytes, its storages {sum}"
    );
    let archive = Box::new(archive);
    Ok(Pth::new(pickle, Source::Zip { archive, folder }))
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
        "it has the version {version:?}, which is not known"
    );
    let system = next("what it says of its system")?;
    ensure!(
        system.root().get("little_endian").and_then(Value::bool) == Some(true),
        "its numbers are not little-endian; only such files are read"
    );
    let pickle = next("its values")?;
    let keys = next("the list of its storages")?;
    let mut position = (bytes.len() - rest.len()) as u64;

    // Each storage is its number of elements and then those.
    let mut known = pickle.storages()?;
    let mut positions = HashMap::new();
    for key in keys.root().items().context("it has no list of storages")? {
        let key = key.text().context("a storage has no name")?;
        let (kind, elements) = known
            .remove(key)
            .with_context(|| format!("storage {key:?} is listed twice or belongs to no tensor"))?;
        let mut count = [0; 8];
        file.read_exact_at(&mut count, position)
            .with_context(|| format!("the file is truncated before the storage {key:?}"))?;
        ensure!(
            u64::from_le_bytes(count) == elements,
            "the storage {key:?} has {} elements, not {elements}",
            u64::from_le_bytes(count)
        );
        position += 8;
        positions.insert(key.to_owned(), position);
        let end = bytes_of(kind, elements).and_then(|bytes| bytes.checked_add(position));
        position = end.filter(|&end| end <= length).with_context(|| {
            format!("the file is truncated within the storage {key:?} of {elements} elements")
        })?;
    }
    if let Some(key) = known.keys().next() {
        bail!("the storage {key:?} is not there");
    }
    Ok(Pth::new(pickle, Source::Legacy { file, positions }))
}

impl Pth {
    fn new(pickle: Pickle, source: Source) -> Self {
        let read = HashMap::new();
        let storages = Storages { source, read };
        Pth { pickle, storages }
    }
}
