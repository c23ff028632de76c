//! JPEG decoding: sequential and progressive images with Huffman coding and 8 bits per channel, of any
//! sampling factors that libjpeg supports.
//!
//! Only the requested region is transformed and converted, see [`planes`]. Sequential scans are decoded
//! into samples at once ([`sequential`]). Of one scan that holds all components, as in nearly all
//! photographs, the rows below the region are not even read (except to verify the whole file).
//! Progressive scans are decoded into coefficients first ([`progressive`]). Every pixel equals libjpeg's,
//! and so Pillow's.
//!
//! JPEG has no checksums. The entropy-coded data must hold exactly the blocks that the frame header
//! promises, see [`scan`]; lost data is an error and is never filled in.

mod bits;
mod colour;
mod huffman;
mod idct;
mod planes;
mod progressive;
mod scan;
mod segments;
mod sequential;
mod smoothing;
mod tables;

use smallvec::SmallVec;

use super::{Colour, Format, Header, ImageError, Rect, Verify};
use planes::{Layout, Planes};
use progressive::Progressive;
use scan::{Scan, read_scan};
use segments::{AppMarkers, EOI, Encoding, Frame, SOI, SOS, Segments};
use sequential::SequentialScan;
use tables::Tables;

/// Scratch memory, reused between images.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    tables: Tables,
    /// Entropy-coded data without its stuffing.
    coded: Vec<u8>,
    planes: Planes,
    progressive: Progressive,
}

/// What the headers before the first scan say.
struct Start {
    encoding: Encoding,
    layouts: SmallVec<[Layout; 4]>,
    /// For each component, whether a scan has coded it.
    is_coded: [bool; 4],
    scans: u32,
}

/// A progressive image has ten or so. A hostile one could have thousands, each of few bytes and all
/// blocks, so that a small file takes minutes. libjpeg-turbo recommends this limit.
const MAX_SCANS: u32 = 500;

/// Decodes `region` into `rgb`. Returns the number of extraneous bytes that were found.
pub(super) fn decode(
    bytes: &[u8],
    header: &Header,
    region: Rect,
    verify: Verify,
    scratch: &mut Scratch,
    rgb: &mut Vec<u8>,
) -> Result<u64, ImageError> {
    scratch.tables.clear();
    scratch.progressive.clear();
    let mut app_markers = AppMarkers::default();
    let mut segments = Segments::new(bytes);
    let mut frame: Option<Frame> = None;
    let mut started: Option<Start> = None;
    let end = loop {
        let segment = segments.next()?;
        let damaged = |reason: &str| ImageError::damaged(reason, segment.offset);
        match segment.marker {
            SOI if segment.offset == 2 => {}
            SOI => return Err(damaged("unexpected start-of-image marker (SOI)")),
            SOS => {
                let frame = frame
                    .as_ref()
                    .ok_or_else(|| damaged("a scan before the frame header"))?;
                let scan = Scan::parse(&segment, frame)?;
                let start = match &mut started {
                    Some(start) => start,
                    none => {
                        none.insert(scratch.start(bytes, header, region, frame, &app_markers)?)
                    }
                };
                let is_at_end =
                    scratch.read_scan(bytes, &mut segments, frame, &scan, verify, start)?;
                if !is_at_end {
                    end_of_image(bytes, segments.at)?;
                    break segment.offset;
                }
            }
            EOI => break segment.offset,
            _ => {
                scratch.tables.read_segment(&segment)?;
                app_markers.read_segment(&segment);
                if let Some(parsed) = Frame::parse(&segment)? {
                    if frame.is_some() {
                        return Err(damaged("a second frame header"));
                    }
                    frame = Some(parsed);
                }
            }
        }
    };
    let missing = || ImageError::damaged("the image ends before its last scan", end);
    let (Some(frame), Some(start)) = (frame, started) else {
        return Err(missing());
    };
    let Scratch {
        planes,
        progressive,
        ..
    } = scratch;
    if frame.progressive {
        progressive
            .store(&start.layouts, planes)
            .ok_or_else(missing)?;
    } else if start.is_coded[..start.layouts.len()].contains(&false) {
        return Err(missing());
    }
    planes.convert_to_rgb(&start.layouts, start.encoding, region, rgb)?;
    Ok(segments.extraneous)
}

impl Scratch {
    /// Prepares to read the first scan.
    fn start(
        &mut self,
        bytes: &[u8],
        header: &Header,
        region: Rect,
        frame: &Frame,
        app_markers: &AppMarkers,
    ) -> Result<Start, ImageError> {
        if (frame.width, frame.height) != (header.width, header.height) {
            return Err(ImageError::damaged("the JPEG header changed", 0));
        }
        check_length(bytes, frame)?;
        let layouts = Layout::all(frame, region)?;
        self.planes.allocate(&layouts)?;
        if frame.progressive {
            self.progressive.start(frame)?;
        } else {
            self.tables.define_standard_huffman();
        }
        Ok(Start {
            encoding: app_markers.encoding(frame),
            layouts,
            is_coded: [false; 4],
            scans: 0,
        })
    }

    /// Reads a scan, or the part of it that the region needs. Returns whether `segments` is at its end.
    fn read_scan(
        &mut self,
        bytes: &[u8],
        segments: &mut Segments,
        frame: &Frame,
        scan: &Scan,
        verify: Verify,
        start: &mut Start,
    ) -> Result<bool, ImageError> {
        let Self {
            tables,
            coded,
            planes,
            progressive,
        } = self;
        start.scans += 1;
        if start.scans > MAX_SCANS {
            let reason = format!("a JPEG with more than {MAX_SCANS} scans");
            return Err(ImageError::unsupported(reason));
        }
        let mcus = scan.mcus(frame);
        let interval = tables.restart_interval;
        if frame.progressive {
            let mut reader = progressive.scan(frame, scan, tables)?;
            read_scan(bytes, segments, mcus, mcus.1, interval, &mut reader, coded)?;
            return Ok(true);
        }
        for component in &scan.components {
            if std::mem::replace(&mut start.is_coded[component.index], true) {
                let reason = "unexpected second scan of a component";
                return Err(ImageError::damaged(reason, scan.offset));
            }
        }
        let mut reader = SequentialScan::new(frame, scan, tables, &start.layouts, planes)
            .map_err(|undefined| undefined.at(scan.offset))?;
        let is_last = scan.components.len() == frame.components.len();
        let rows = match verify {
            Verify::Region if is_last => reader.needed_rows(),
            _ => mcus.1,
        };
        read_scan(bytes, segments, mcus, rows, interval, &mut reader, coded)?;
        Ok(rows == mcus.1)
    }
}

/// Checks that a file is long enough for its blocks, before memory for them is allocated: a few bytes can
/// claim any size. A block has a bit at least in a progressive image, and two in a sequential one: the
/// codes of its DC coefficient and of its end.
fn check_length(bytes: &[u8], frame: &Frame) -> Result<(), ImageError> {
    let blocks = (0..frame.components.len()).map(|component| {
        let (columns, rows) = frame.blocks(component);
        u64::from(columns) * u64::from(rows)
    });
    let bits_per_block = if frame.progressive { 1 } else { 2 };
    if blocks.sum::<u64>() * bits_per_block <= bytes.len() as u64 * 8 {
        return Ok(());
    }
    let Frame { width, height, .. } = frame;
    Err(ImageError::truncated(
        format!(
            "{} bytes cannot hold a JPEG of {width}x{height} pixels",
            bytes.len()
        ),
        bytes.len(),
    ))
}

/// Checks that an end-of-image marker follows: a truncated file has none. The search is cheap, as the
/// marker is at the end of the file.
fn end_of_image(bytes: &[u8], at: usize) -> Result<(), ImageError> {
    let rest = bytes.get(at..).unwrap_or_default();
    if rest.windows(2).rev().any(|pair| pair == [0xff, EOI]) {
        return Ok(());
    }
    Err(ImageError::truncated(
        "no end-of-image marker (EOI) in the JPEG stream",
        bytes.len(),
    ))
}

pub(super) fn header(bytes: &[u8]) -> Result<Header, ImageError> {
    let mut segments = Segments::new(bytes);
    loop {
        let segment = segments.next()?;
        if let Some(frame) = Frame::parse(&segment)? {
            return Ok(Header {
                format: Format::Jpeg,
                width: frame.width,
                height: frame.height,
                colour: match frame.components.len() {
                    1 => Colour::Grey,
                    3 => Colour::Rgb,
                    _ => Colour::Cmyk,
                },
            });
        }
        if matches!(segment.marker, SOS | EOI) {
            return Err(ImageError::damaged(
                "the JPEG has no frame header (SOF)",
                segment.offset,
            ));
        }
    }
}
