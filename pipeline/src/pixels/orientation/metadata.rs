//! Where the formats keep EXIF and XMP, and what these say about the orientation.
//!
//! Read here for each image of an epoch, so only what is needed: the crate `kamadak-exif` copies every
//! segment, parses all tags, and scans a JPEG without an EXIF block to its end.

use std::borrow::Cow;
use std::io::Read as _;

use crate::pixels::tiff::Directory;
use crate::pixels::{Format, webp};

/// The tags of the orientation and of XMP in a TIFF's directory.
const ORIENTATION: u16 = 274;
const XMP: u16 = 700;

const EXIF_PREFIX: &[u8] = b"Exif\0\0";
const XMP_PREFIX: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";

/// Pillow's limit on a text chunk of a PNG.
const MAX_TEXT: u64 = 1 << 20;

#[derive(Default)]
pub(super) struct Metadata<'a> {
    /// In the format of a TIFF file.
    exif: Option<Cow<'a, [u8]>>,
    xmp: Option<Cow<'a, [u8]>>,
}

impl<'a> Metadata<'a> {
    pub(super) fn find(bytes: &'a [u8], format: Format) -> Self {
        match format {
            Format::Jpeg => jpeg(bytes),
            Format::Png => png(bytes),
            Format::WebP => Self {
                exif: webp::chunk(bytes, b"EXIF").map(Cow::Borrowed),
                xmp: webp::chunk(bytes, b"XMP ").map(Cow::Borrowed),
            },
            Format::Tiff => Self {
                exif: Some(Cow::Borrowed(bytes)),
                xmp: Directory::first(bytes)
                    .and_then(|directory| directory.find(XMP))
                    .map(|(_, data)| Cow::Borrowed(data)),
            },
            Format::Bmp | Format::Gif | Format::Netpbm => Self::default(),
        }
    }

    /// The orientation, 0 for an invalid one. XMP counts only where EXIF says nothing, be it invalid.
    pub(super) fn orientation(&self) -> Option<u8> {
        let exif = self.exif.as_deref().and_then(in_exif);
        exif.or_else(|| self.xmp.as_deref().and_then(in_xmp))
    }
}

fn in_exif(mut block: &[u8]) -> Option<u8> {
    // Some writers repeat the prefix, or add it where the format has none.
    for _ in 0..2 {
        block = block.strip_prefix(EXIF_PREFIX).unwrap_or(block);
    }
    let directory = Directory::first(block)?;
    let (kind, _) = directory.find(ORIENTATION)?;
    // Bytes and text are no numbers.
    let numbers = directory.numbers(ORIENTATION);
    let number = numbers.filter(|_| !matches!(kind, 1 | 7));
    let number = number.and_then(|numbers| numbers.get(0));
    Some(
        number
            .and_then(|number| u8::try_from(number).ok())
            .unwrap_or(0),
    )
}

/// The first `tiff:Orientation="N` or `tiff:Orientation>N`.
fn in_xmp(packet: &[u8]) -> Option<u8> {
    let name = b"tiff:Orientation";
    memchr::memmem::find_iter(packet, name).find_map(|at| {
        let rest = &packet[at + name.len()..];
        let value = rest
            .strip_prefix(b"=\"")
            .or_else(|| rest.strip_prefix(b">"))?;
        let digit = value.first().filter(|byte| byte.is_ascii_digit())?;
        Some(digit - b'0')
    })
}

/// The segments before the scan: EXIF may be continued in the next, of XMP the last counts.
fn jpeg(bytes: &[u8]) -> Metadata<'_> {
    const APP1: u8 = 0xe1;
    const SOS: u8 = 0xda;
    let mut found = Metadata::default();
    let mut rest = bytes.get(2..).unwrap_or_default();
    while let Some(&[0xff, marker, high, low]) = rest.first_chunk() {
        if marker == 0xff {
            rest = &rest[1..];
            continue;
        }
        let end = 2 + usize::from(u16::from_be_bytes([high, low]));
        let Some(body) = rest.get(4..end).filter(|_| marker != SOS) else {
            break;
        };
        if marker == APP1
            && let Some(exif) = body.strip_prefix(EXIF_PREFIX)
        {
            match &mut found.exif {
                Some(block) => block.to_mut().extend(exif),
                None => found.exif = Some(Cow::Borrowed(exif)),
            }
        }
        if marker == APP1
            && let Some(packet) = body.strip_prefix(XMP_PREFIX)
        {
            found.xmp = Some(Cow::Borrowed(packet));
        }
        rest = &rest[end..];
    }
    found
}

/// The chunks, which may also follow the pixels; of equal ones, the last counts. A raw profile is what
/// ImageMagick writes instead of eXIf, and counts only without one.
fn png(bytes: &[u8]) -> Metadata<'_> {
    let mut found = Metadata::default();
    let mut profile = None;
    let mut rest = bytes.get(8..).unwrap_or_default();
    while let Some((&[l0, l1, l2, l3, a, b, c, d], after)) = rest.split_first_chunk() {
        let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        let Some(body) = after.get(..length) else {
            break;
        };
        let name = [a, b, c, d];
        if &name == b"eXIf" {
            found.exif = Some(Cow::Borrowed(body));
        } else if let Some((key, text)) = png_text(&name, body) {
            match key {
                b"XML:com.adobe.xmp" => found.xmp = Some(text),
                b"Raw profile type exif" => profile = raw_profile(&text),
                _ => {}
            }
        }
        // The checksum follows.
        rest = after.get(length + 4..).unwrap_or_default();
    }
    found.exif = found.exif.or(profile.map(Cow::Owned));
    found
}

/// The key and the text of a text chunk of two keys; `None` for any other.
fn png_text<'a>(name: &[u8; 4], body: &'a [u8]) -> Option<(&'a [u8], Cow<'a, [u8]>)> {
    if !matches!(name, b"tEXt" | b"zTXt" | b"iTXt") {
        return None;
    }
    let (key, rest) = split(body)?;
    if !matches!(key, b"XML:com.adobe.xmp" | b"Raw profile type exif") {
        return None;
    }
    let (compressed, text) = match (name, rest) {
        (b"tEXt", text) => (false, text),
        (b"zTXt", [0, text @ ..]) => (true, text),
        // A language and a translated key come before the text.
        (b"iTXt", [flag @ (0 | 1), 0, rest @ ..]) => (*flag == 1, split(split(rest)?.1)?.1),
        _ => return None,
    };
    if !compressed {
        return Some((key, Cow::Borrowed(text)));
    }
    let mut expanded = Vec::new();
    let stream = flate2::read::ZlibDecoder::new(text);
    stream.take(MAX_TEXT).read_to_end(&mut expanded).ok()?;
    Some((key, Cow::Owned(expanded)))
}

/// What comes before and after the first zero byte.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = memchr::memchr(0, bytes)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

/// The bytes of a raw profile: a line with its name, one with its length, and hexadecimal digits.
fn raw_profile(text: &[u8]) -> Option<Vec<u8>> {
    let lines = text.split(|&byte| byte == b'\n').skip(3);
    let digits: Option<Vec<u8>> = lines
        .flatten()
        .filter(|byte| !byte.is_ascii_whitespace())
        .map(|&byte| (byte as char).to_digit(16).map(|digit| digit as u8))
        .collect();
    let (pairs, _) = digits.as_deref()?.as_chunks();
    Some(pairs.iter().map(|[high, low]| high << 4 | low).collect())
}
