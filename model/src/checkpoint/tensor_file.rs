//! A safetensors file: its header, read within limits, and its tensors by name, each with its
//! checksum.
//!
//! `__metadata__` may hold two checksums, both XXH3 with 64 bits as 16 hexadecimal digits each:
//! `rsflow.tensor_sums`, of the bytes of every tensor, one after the other in the order of the
//! file, and `rsflow.header_sum`, of all bytes before the tensors with its own digits as zeros.
//! Other readers of safetensors files take both for a text. Files that were written before they
//! were introduced, and those of other programs, have neither.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rsflow_base::input_file;
use rsflow_base::shown::{Shown as _, quoted};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::de::{Error as _, MapAccess, Visitor};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tch::Kind;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::DTYPES;

/// Maximum length of a header in bytes, as in the safetensors crate.
const MAX_HEADER: u64 = 100_000_000;
const MAX_DIMENSIONS: usize = 8;
/// The file begins with the length of the header, u64 little-endian.
const LENGTH_BYTES: usize = 8;
const METADATA: &str = "__metadata__";
const HEADER_SUM: &str = "rsflow.header_sum";
const TENSOR_SUMS: &str = "rsflow.tensor_sums";
/// Hexadecimal digits of a checksum.
const DIGITS: usize = 16;
/// Bytes that are still in the processor's cache when their checksum is taken.
const CACHED: usize = 1 << 17;
/// What to do about a file of another program.
pub(super) const IMPORT: &str = "`rsflow import` makes a checkpoint of it";
/// What to do about a damaged file.
const WAY_OUT: &str = "copy the file again, or use another checkpoint of the run";

/// An open safetensors file whose header was read. Its tensors are read on demand.
#[derive(Debug)]
pub(crate) struct TensorFile {
    file: File,
    header: Metadata,
    /// Offset of the tensors in the file, in bytes.
    data: u64,
    /// By name; `None` in a file without checksums.
    sums: Option<HashMap<String, u64>>,
}

impl TensorFile {
    /// Reads and checks the header, no tensor.
    ///
    /// # Errors
    /// The file cannot be read, is truncated or damaged, or is not a safetensors file.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = input_file::open(path)?;
        let length = file.metadata()?.len();
        let mut start = Vec::new();
        file.by_ref()
            .take(LENGTH_BYTES as u64)
            .read_to_end(&mut start)?;
        ensure!(
            !is_pytorch(&start),
            "the file is one of PyTorch's, not a checkpoint of rsflow: {IMPORT}"
        );
        let prefix: [u8; LENGTH_BYTES] = start[..].try_into().ok().with_context(|| {
            format!("the file is not a safetensors file: it has only {length} bytes")
        })?;
        let header_length = u64::from_le_bytes(prefix);
        ensure!(
            (2..=MAX_HEADER).contains(&header_length),
            "the file is not a safetensors file: it does not begin like one"
        );
        let data = LENGTH_BYTES as u64 + header_length;
        ensure!(
            length >= data,
            "the file is truncated within its header, or not a safetensors file"
        );
        let mut beginning = vec![0; data as usize];
        file.read_exact_at(&mut beginning, 0)?;
        let header = serde_json::from_slice(&beginning[LENGTH_BYTES..]);
        let Entries { texts, mut tensors } = header.map_err(|error| {
            let error = error.to_string();
            let error = error.shown();
            anyhow!("the header is damaged, or the file is not a safetensors file: {error}")
        })?;
        check_header_sum(&mut beginning, &texts)?;
        drop(beginning);
        tensors.sort_by_key(|(_, info)| info.data_offsets);
        check_tensors(&tensors)?;
        let sums = texts.get(TENSOR_SUMS);
        let sums = sums.map(|sums| parse_sums(sums, &tensors)).transpose()?;
        let header = Metadata::new(Some(texts.into_iter().collect()), tensors)
            .context("the header is damaged")?;
        let expected = data + header.data_len() as u64;
        ensure!(
            length >= expected,
            "the file is truncated: it has {length} bytes, its header says {expected}"
        );
        ensure!(
            length == expected,
            "the file is damaged: it has {length} bytes, its header says {expected}"
        );
        Ok(Self {
            file,
            header,
            data,
            sums,
        })
    }

    /// Whether it has checksums.
    pub fn has_sums(&self) -> bool {
        self.sums.is_some()
    }

    /// The checksum of the header, which has those of the tensors in it.
    pub fn header_sum(&self) -> Option<&str> {
        self.text(HEADER_SUM)
    }

    /// An entry of the header's `__metadata__`.
    pub fn text(&self, key: &str) -> Option<&str> {
        let texts = self.header.metadata().as_ref()?;
        texts.get(key).map(String::as_str)
    }

    /// The names of all tensors, in the order of the file.
    pub fn names(&self) -> Vec<String> {
        self.header.offset_keys()
    }

    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.header.info(name)
    }

    /// The bytes of a tensor.
    ///
    /// # Errors
    /// An unknown name; an I/O error; a checksum that differs.
    pub fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        let info = self.info(name).context("there is no such tensor")?;
        let (begin, end) = info.data_offsets;
        let mut bytes = vec![0; end - begin];
        let mut sum = Xxh3::new();
        let mut offset = self.data + begin as u64;
        for part in bytes.chunks_mut(CACHED) {
            self.file.read_exact_at(part, offset)?;
            offset += part.len() as u64;
            if self.sums.is_some() {
                sum.update(part);
            }
        }
        if let Some(sums) = &self.sums {
            ensure!(
                sums.get(name) == Some(&sum.digest()),
                "it is damaged: its checksum differs; {WAY_OUT}"
            );
        }
        Ok(bytes)
    }
}

/// Whether a file begins as `torch.save` writes it: a zip archive, or a pickle (which as the length
/// of a header would be too large).
fn is_pytorch(start: &[u8]) -> bool {
    match start {
        [b'P', b'K', 3, 4, ..] => true,
        [0x80, _, _, _, rest @ ..] => rest.iter().any(|&byte| byte != 0),
        _ => false,
    }
}

/// libtorch's dtype.
pub(crate) fn kind_of(dtype: Dtype) -> Option<Kind> {
    let known = DTYPES.iter().find(|(_, known)| *known == dtype);
    known.map(|(kind, _)| *kind)
}

/// The beginning of a safetensors file, with checksums: everything before the `data` of the
/// `tensors`, which are in its order.
pub(super) fn beginning(
    key: &str,
    metadata: String,
    tensors: &[(String, TensorInfo)],
    data: &[u8],
) -> Result<Vec<u8>> {
    let sums = tensors.iter().map(|(_, info)| {
        let (begin, end) = info.data_offsets;
        digits(xxh3_64(&data[begin..end]))
    });
    let texts = BTreeMap::from([
        (key.to_owned(), metadata),
        (HEADER_SUM.to_owned(), "0".repeat(DIGITS)),
        (TENSOR_SUMS.to_owned(), sums.collect()),
    ]);
    let mut bytes = vec![0; LENGTH_BYTES];
    serde_json::to_writer(
        &mut bytes,
        &Entries {
            texts,
            tensors: tensors.to_vec(),
        },
    )?;
    // Padded, so that the tensors are aligned.
    bytes.resize(bytes.len().next_multiple_of(LENGTH_BYTES), b' ');
    let length = (bytes.len() - LENGTH_BYTES) as u64;
    bytes[..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
    let at = digits_at(&bytes).context("the header has no place for its checksum")?;
    let sum = digits(xxh3_64(&bytes));
    bytes[at..at + DIGITS].copy_from_slice(sum.as_bytes());
    Ok(bytes)
}

fn digits(sum: u64) -> String {
    format!("{sum:016x}")
}

/// Where the digits of the header's checksum are. Quotes within a text are escaped, so that no text
/// can look like this.
fn digits_at(bytes: &[u8]) -> Option<usize> {
    let key = format!("\"{HEADER_SUM}\":\"");
    let found = bytes.windows(key.len()).position(|w| w == key.as_bytes());
    found.map(|at| at + key.len())
}

/// `beginning`: everything before the tensors, whose checksum is overwritten.
fn check_header_sum(beginning: &mut [u8], texts: &BTreeMap<String, String>) -> Result<()> {
    let sum = match (texts.get(HEADER_SUM), texts.get(TENSOR_SUMS)) {
        (None, None) => return Ok(()),
        (Some(sum), Some(_)) => sum,
        // One bit of the other's name may have flipped.
        _ => bail!("the header is damaged: it has only one of two checksums; {WAY_OUT}"),
    };
    let place = digits_at(beginning).and_then(|at| beginning.get_mut(at..at + DIGITS));
    if let Some(place) = place {
        place.fill(b'0');
    }
    ensure!(
        *sum == digits(xxh3_64(beginning)),
        "the header is damaged: its checksum differs; {WAY_OUT} (if another program changed the \
         file, remove {HEADER_SUM} and {TENSOR_SUMS} from its metadata)"
    );
    Ok(())
}

/// The checksums by name; `tensors` are in the order of the file.
fn parse_sums(sums: &str, tensors: &[(String, TensorInfo)]) -> Result<HashMap<String, u64>> {
    let digits = sums.as_bytes().chunks(DIGITS);
    let parse = |digits| u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
    let named = tensors.iter().map(|(name, _)| name.clone());
    let parsed: Option<HashMap<String, u64>> = named
        .zip(digits.map(parse))
        .map(|(name, sum)| Some((name, sum?)))
        .collect();
    parsed
        .filter(|_| sums.len() == DIGITS * tensors.len())
        .with_context(|| {
            let count = tensors.len();
            format!("the header is damaged: {TENSOR_SUMS} are not those of {count} tensors")
        })
}

/// What [`Metadata::new`] leaves to its callers.
fn check_tensors(tensors: &[(String, TensorInfo)]) -> Result<()> {
    let mut known = HashSet::with_capacity(tensors.len());
    for (name, info) in tensors {
        ensure!(
            known.insert(name),
            "the header is damaged: the tensor {} is listed twice",
            quoted(name)
        );
        ensure!(
            info.shape.len() <= MAX_DIMENSIONS
                && info.shape.iter().all(|&size| i64::try_from(size).is_ok()),
            "the header is damaged: the tensor {} has an impossible shape",
            quoted(name)
        );
    }
    Ok(())
}

/// A header as it is written: the texts of `__metadata__`, then the tensors.
struct Entries {
    texts: BTreeMap<String, String>,
    tensors: Vec<(String, TensorInfo)>,
}

impl Serialize for Entries {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(1 + self.tensors.len()))?;
        map.serialize_entry(METADATA, &self.texts)?;
        for (name, info) in &self.tensors {
            map.serialize_entry(name, info)?;
        }
        map.end()
    }
}

/// Keeps nothing but texts and tensors. The derived implementation of the safetensors crate first
/// keeps any value, in up to 50 times the bytes of the header.
impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Map;
        impl<'de> Visitor<'de> for Map {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("the tensors of a safetensors file")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let (mut texts, mut tensors) = (None, Vec::new());
                while let Some(name) = map.next_key::<String>()? {
                    if name != METADATA {
                        tensors.push((name, map.next_value()?));
                    } else if texts.replace(map.next_value()?).is_some() {
                        return Err(A::Error::duplicate_field(METADATA));
                    }
                }
                let texts = texts.unwrap_or_default();
                Ok(Entries { texts, tensors })
            }
        }
        from.deserialize_map(Map)
    }
}
