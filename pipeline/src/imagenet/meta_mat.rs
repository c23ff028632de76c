//! The devkit's `meta.mat`: a MATLAB 5 file whose variable `synsets` is an array of structs.
//!
//! Supports only what that file needs: little-endian files, compressed or not, with structs, strings and
//! integers. The format is MathWorks' "MAT-File Format", chapter 1.

use std::io::Read as _;

use anyhow::{Context as _, Result, bail, ensure};
use flate2::read::ZlibDecoder;
use rsflow_graph::{first_few, listed};

/// A class of ImageNet, or a group of classes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Synset {
    /// `ILSVRC2012_ID`, which the ground truth uses.
    pub id: u32,
    /// The name of its folder, such as `n01440764`.
    pub wnid: String,
    /// Number of child synsets; 0 for a class.
    pub children: u32,
}

/// Upper bound of a decompressed element in bytes; the real file's have 1 MB. A small file must not fill
/// the memory.
const MAX_INFLATED: u64 = 64 << 20;
/// MATLAB's limits: characters of a name, fields of a struct.
const MAX_NAME: usize = 63;
const MAX_FIELDS: usize = 4096;

/// Reads the variable `synsets` of a file.
///
/// # Errors
/// A file that is not MATLAB 5, is truncated or damaged, or has no such variable with the expected
/// fields.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<Synset>> {
    let mut rest = bytes;
    let header = take(&mut rest, 128).context("too short for a MATLAB file")?;
    // The version, and "MI" as a little-endian number.
    if !matches!(header, [.., 0, 1, b'I', b'M']) {
        bail!("not a MATLAB 5 file");
    }
    let mut others = Vec::new();
    while !rest.is_empty() {
        let inflated;
        let mut element = next(&mut rest)?;
        if element.kind == COMPRESSED {
            inflated = inflate(element.data)?;
            element = next(&mut inflated.as_slice())?;
        }
        let variable = matrix(element)?;
        if variable.name == "synsets" {
            return synsets(&variable);
        }
        others.push(variable.name);
    }
    let found = match others.as_slice() {
        [] => "none".to_owned(),
        others => first_few(others),
    };
    bail!("no variable `synsets`; the file has: {found}")
}

fn synsets(variable: &Matrix) -> Result<Vec<Synset>> {
    ensure!(variable.class == STRUCT, "`synsets` is not a struct");
    let mut rest = variable.contents;
    let fields = field_names(&mut rest)?;
    let mut synsets = Vec::new();
    for number in 1..=variable.cells {
        let (mut id, mut wnid, mut children) = (None, None, None);
        for field in &fields {
            let place = || format!("in `{field}` of synset {number}");
            let element = next(&mut rest).with_context(place)?;
            match field.as_str() {
                "ILSVRC2012_ID" => id = Some(whole_number(element).with_context(place)?),
                "WNID" => wnid = Some(text(element).with_context(place)?),
                "num_children" => children = Some(whole_number(element).with_context(place)?),
                _ => {}
            }
        }
        let (Some(id), Some(wnid), Some(children)) = (id, wnid, children) else {
            bail!(
                "`synsets` has the fields {}; `ILSVRC2012_ID`, `WNID` and `num_children` are needed",
                listed(fields.iter().map(String::as_str))
            );
        };
        synsets.push(Synset { id, wnid, children });
    }
    Ok(synsets)
}

/// The names of a struct's fields. Stored as the length of a name and all names, padded with zeros.
fn field_names(rest: &mut &[u8]) -> Result<Vec<String>> {
    let mut length = next(rest)?.data;
    let length = take_u32(&mut length)? as usize;
    ensure!(length > 0, "the field names of `synsets` have length 0");
    let names = next(rest)?.data.chunks(length);
    ensure!(
        names.len() <= MAX_FIELDS,
        "`synsets` has {} fields",
        names.len()
    );
    let names = names.map(|padded| {
        let name = padded.split(|&byte| byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(name).into_owned()
    });
    let names: Vec<String> = names.collect();
    ensure!(!names.is_empty(), "`synsets` has no fields");
    Ok(names)
}

/// A non-negative integer, stored as any numeric type.
fn whole_number(element: Element) -> Result<u32> {
    let matrix = matrix(element)?;
    ensure!(
        NUMBERS.contains(&matrix.class) && matrix.cells == 1,
        "expected one number"
    );
    let mut contents = matrix.contents;
    let Element { kind, data } = next(&mut contents)?;
    let value = match kind {
        INT8 => f64::from(i8::from_le_bytes(data.try_into()?)),
        UINT8 => f64::from(u8::from_le_bytes(data.try_into()?)),
        INT16 => f64::from(i16::from_le_bytes(data.try_into()?)),
        UINT16 => f64::from(u16::from_le_bytes(data.try_into()?)),
        INT32 => f64::from(i32::from_le_bytes(data.try_into()?)),
        UINT32 => f64::from(u32::from_le_bytes(data.try_into()?)),
        SINGLE => f64::from(f32::from_le_bytes(data.try_into()?)),
        DOUBLE => f64::from_le_bytes(data.try_into()?),
        _ => bail!("unsupported number type {kind}"),
    };
    ensure!(
        value.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&value),
        "{value} is not a non-negative integer"
    );
    Ok(value as u32)
}

/// A string: a matrix of characters with one row.
fn text(element: Element) -> Result<String> {
    let matrix = matrix(element)?;
    ensure!(
        matrix.class == CHAR && matrix.rows == 1,
        "expected one string"
    );
    let mut contents = matrix.contents;
    let Element { kind, data } = next(&mut contents)?;
    match kind {
        INT8 | UINT8 | UTF8 => Ok(String::from_utf8(data.to_vec())?),
        UINT16 | UTF16 => {
            let units = data.chunks_exact(2).map(|pair| match pair {
                &[low, high] => u16::from_le_bytes([low, high]),
                _ => 0,
            });
            Ok(String::from_utf16(&units.collect::<Vec<_>>())?)
        }
        _ => bail!("unsupported string type {kind}"),
    }
}

// Element types (`mi...`).
const INT8: u32 = 1;
const UINT8: u32 = 2;
const INT16: u32 = 3;
const UINT16: u32 = 4;
const INT32: u32 = 5;
const UINT32: u32 = 6;
const SINGLE: u32 = 7;
const DOUBLE: u32 = 9;
const MATRIX: u32 = 14;
const COMPRESSED: u32 = 15;
const UTF8: u32 = 16;
const UTF16: u32 = 17;

// Matrix classes (`mx...`).
const STRUCT: u8 = 2;
const CHAR: u8 = 4;
/// From double to uint32. Small numbers are stored with smaller types, whatever the class.
const NUMBERS: std::ops::RangeInclusive<u8> = 6..=13;

/// A data element: a type, and bytes.
#[derive(Clone, Copy)]
struct Element<'a> {
    kind: u32,
    data: &'a [u8],
}

/// An element with a class, a shape and a name.
struct Matrix<'a> {
    class: u8,
    rows: usize,
    cells: usize,
    name: String,
    /// The remaining elements, which depend on the class.
    contents: &'a [u8],
}

fn matrix(element: Element) -> Result<Matrix> {
    ensure!(
        element.kind == MATRIX,
        "expected a matrix, found type {}",
        element.kind
    );
    let mut contents = element.data;
    let flags = next(&mut contents)?;
    let class = *flags.data.first().context("a matrix has no class")?;
    let shape = next(&mut contents)?.data.chunks_exact(4);
    let shape = shape.map(|mut size| Ok(take_u32(&mut size)? as usize));
    let shape: Vec<usize> = shape.collect::<Result<_>>()?;
    let cells = shape
        .iter()
        .try_fold(1, |cells: usize, size| cells.checked_mul(*size));
    let name = next(&mut contents)?.data;
    Ok(Matrix {
        class,
        rows: *shape.first().context("a matrix has no shape")?,
        cells: cells.context("a matrix is too large")?,
        name: String::from_utf8_lossy(&name[..name.len().min(MAX_NAME)]).into_owned(),
        contents,
    })
}

/// Reads the next element.
fn next<'a>(rest: &mut &'a [u8]) -> Result<Element<'a>> {
    let tag = take_u32(rest)?;
    // The small element format: up to four bytes in the tag itself.
    if let size @ 1.. = (tag >> 16) as usize {
        let data = take(rest, 4)?.get(..size);
        let data = data.with_context(|| format!("a tag cannot hold {size} bytes"))?;
        let kind = tag & 0xffff;
        return Ok(Element { kind, data });
    }
    let size = take_u32(rest)? as usize;
    let data = take(rest, size)?;
    if tag != COMPRESSED {
        take(rest, size.next_multiple_of(8) - size)?;
    }
    Ok(Element { kind: tag, data })
}

fn inflate(data: &[u8]) -> Result<Vec<u8>> {
    let mut inflated = Vec::new();
    ZlibDecoder::new(data)
        .take(MAX_INFLATED)
        .read_to_end(&mut inflated)
        .context("cannot decompress")?;
    Ok(inflated)
}

fn take_u32(rest: &mut &[u8]) -> Result<u32> {
    let (number, others) = rest.split_first_chunk().context(TOO_SHORT)?;
    *rest = others;
    Ok(u32::from_le_bytes(*number))
}

fn take<'a>(rest: &mut &'a [u8], size: usize) -> Result<&'a [u8]> {
    let (taken, others) = rest.split_at_checked(size).context(TOO_SHORT)?;
    *rest = others;
    Ok(taken)
}

const TOO_SHORT: &str = "unexpected end of file";

#[cfg(test)]
mod tests {
    use super::*;

    /// Files of scipy 1.17's `savemat`, with and without `do_compression`.
    fn fixtures() -> [Vec<u8>; 2] {
        ["meta_plain.mat", "meta_compressed.mat"].map(|name| {
            let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/imagenet");
            std::fs::read(format!("{folder}/{name}")).unwrap()
        })
    }

    #[test]
    fn files_of_scipy_are_read() {
        let expected = [
            (1, "n02119789", 0),
            (2, "n02100735", 0),
            (3, "n02110185", 0),
            (4, "n02096294", 0),
            (5, "n02102040", 0),
            (6, "n02066245", 0),
            (7, "n02083346", 5),
            (8, "n01861778", 2),
        ];
        for bytes in fixtures() {
            let synsets = read(&bytes).unwrap();
            let synsets = synsets.iter();
            let found: Vec<_> = synsets
                .map(|synset| (synset.id, synset.wnid.as_str(), synset.children))
                .collect();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_truncated_or_damaged_file_does_not_panic() {
        for bytes in fixtures() {
            for length in 0..bytes.len() {
                assert!(read(&bytes[..length]).is_err(), "cut off after {length}");
            }
            for place in 0..bytes.len() {
                for flip in [1, 4, 0x80, 0xff] {
                    let mut bytes = bytes.clone();
                    bytes[place] ^= flip;
                    let _ = read(&bytes);
                }
            }
        }
    }

    fn element(kind: u32, data: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        if (1..=4).contains(&data.len()) {
            bytes.extend((kind | (data.len() as u32) << 16).to_le_bytes());
            bytes.extend(data);
            bytes.resize(8, 0);
        } else {
            bytes.extend(kind.to_le_bytes());
            bytes.extend((data.len() as u32).to_le_bytes());
            bytes.extend(data);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        }
        bytes
    }

    fn matrix_of(class: u8, shape: [u32; 2], name: &str, contents: &[u8]) -> Vec<u8> {
        let shape: Vec<u8> = shape.into_iter().flat_map(u32::to_le_bytes).collect();
        let parts = [
            element(UINT32, &[class, 0, 0, 0, 0, 0, 0, 0]),
            element(INT32, &shape),
            element(INT8, name.as_bytes()),
            contents.to_vec(),
        ];
        element(MATRIX, &parts.concat())
    }

    fn file(variables: &[u8]) -> Vec<u8> {
        let mut bytes = b"MATLAB 5.0 MAT-file".to_vec();
        bytes.resize(124, b' ');
        bytes.extend([0, 1, b'I', b'M']);
        [&bytes, variables].concat()
    }

    /// A file with one synset with these fields.
    fn one_synset(fields: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let mut names = Vec::new();
        for (name, _) in fields {
            names.extend(name.as_bytes());
            names.resize(names.len().next_multiple_of(32), 0);
        }
        let mut contents = [element(INT32, &[32, 0, 0, 0]), element(INT8, &names)].concat();
        contents.extend(fields.iter().flat_map(|(_, value)| value.clone()));
        file(&matrix_of(STRUCT, [1, 1], "synsets", &contents))
    }

    fn number_as(kind: u32, data: &[u8]) -> Vec<u8> {
        matrix_of(6, [1, 1], "", &element(kind, data))
    }

    fn text_as(kind: u32, data: &[u8]) -> Vec<u8> {
        matrix_of(CHAR, [1, 9], "", &element(kind, data))
    }

    fn synset(id: Vec<u8>, wnid: Vec<u8>) -> Vec<u8> {
        let none = number_as(UINT8, &[0]);
        one_synset(&[
            ("ILSVRC2012_ID", id),
            ("WNID", wnid),
            ("num_children", none),
        ])
    }

    #[test]
    fn numbers_and_texts_are_read_as_whatever_matlab_stores_them() {
        let wnid = "n01440764";
        let wide: Vec<u8> = wnid.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let texts = [
            text_as(UTF8, wnid.as_bytes()),
            text_as(INT8, wnid.as_bytes()),
            text_as(UINT16, &wide),
            text_as(UTF16, &wide),
        ];
        let numbers = [
            (number_as(UINT8, &[200]), 200),
            (number_as(INT8, &[100]), 100),
            (number_as(UINT16, &[0xe8, 3]), 1000),
            (number_as(INT16, &[0xe8, 3]), 1000),
            (number_as(UINT32, &[0xe8, 3, 0, 0]), 1000),
            (number_as(INT32, &[0xe8, 3, 0, 0]), 1000),
            (number_as(SINGLE, &1000_f32.to_le_bytes()), 1000),
            (number_as(DOUBLE, &1000_f64.to_le_bytes()), 1000),
        ];
        for text in &texts {
            for (number, id) in &numbers {
                let found = read(&synset(number.clone(), text.clone())).unwrap();
                let [found] = found.as_slice() else {
                    panic!("{found:?}");
                };
                assert_eq!((found.id, found.wnid.as_str()), (*id, wnid));
            }
        }
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let id = || number_as(UINT8, &[1]);
        let wnid = || text_as(UTF8, b"n01440764");
        let half = number_as(DOUBLE, &0.5_f64.to_le_bytes());
        let hdf5 = {
            let mut bytes = file(&[]);
            bytes[125] = 2;
            bytes
        };
        let bomb = {
            let size = 65_u32 << 20;
            let mut inflated = [MATRIX.to_le_bytes(), size.to_le_bytes()].concat();
            inflated.resize(8 + size as usize, 0);
            let mut bytes = Vec::new();
            flate2::read::ZlibEncoder::new(inflated.as_slice(), flate2::Compression::best())
                .read_to_end(&mut bytes)
                .unwrap();
            file(&element(COMPRESSED, &bytes))
        };
        let cases = [
            (Vec::new(), "too short for a MATLAB file"),
            (hdf5, "not a MATLAB 5 file"),
            (file(&[]), "no variable `synsets`; the file has: none"),
            (
                file(&matrix_of(6, [1, 1], "wnids", &element(UINT8, &[1]))),
                "no variable `synsets`; the file has: `wnids`",
            ),
            (
                file(&matrix_of(6, [1, 1], "synsets", &element(UINT8, &[1]))),
                "`synsets` is not a struct",
            ),
            (
                one_synset(&[("ID", id()), ("WNID", wnid())]),
                "`synsets` has the fields `ID` and `WNID`; `ILSVRC2012_ID`, `WNID` and",
            ),
            (
                synset(half, wnid()),
                "in `ILSVRC2012_ID` of synset 1: 0.5 is not a non-negative integer",
            ),
            (
                synset(wnid(), wnid()),
                "in `ILSVRC2012_ID` of synset 1: expected one number",
            ),
            (
                synset(id(), id()),
                "in `WNID` of synset 1: expected one string",
            ),
            (
                synset(id(), element(UINT8, &[1])),
                "in `WNID` of synset 1: expected a matrix, found type 2",
            ),
            (bomb, "unexpected end of file"),
        ];
        for (bytes, expected) in cases {
            let error = format!("{:#}", read(&bytes).unwrap_err());
            assert!(error.contains(expected), "`{expected}` is not in `{error}`");
        }
    }
}
