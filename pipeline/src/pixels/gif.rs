//! GIF, with the `gif` crate: the first frame, on a canvas as Pillow fills it.

use std::io::Cursor;

use gif::{DecodeOptions, Decoder, DecodingError, Frame, MemoryLimit};

use super::{Colour, Format, Header, ImageError, OutOfMemory, damaged, reset};

type Stream<'a> = Decoder<Cursor<&'a [u8]>>;

/// Reads up to the first frame.
fn open(bytes: &[u8]) -> Result<Stream<'_>, ImageError> {
    let explain = |error| explain(error, bytes);
    let mut options = DecodeOptions::new();
    // Pillow passes over unknown blocks too.
    options.allow_unknown_blocks(true);
    // The pixels go into memory of ours; the library's own is for metadata, which the file holds.
    options.set_memory_limit(MemoryLimit::Unlimited);
    let mut stream = options.read_info(Cursor::new(bytes)).map_err(explain)?;
    match stream.next_frame_info().map_err(explain)? {
        Some(frame) if frame.width > 0 && frame.height > 0 => Ok(stream),
        Some(frame) => Err(damaged(format!(
            "the first frame of the GIF is {}x{}",
            frame.width, frame.height
        ))),
        None => Err(ImageError::truncated("the GIF has no frame", bytes.len())),
    }
}

fn first_frame<'a>(stream: &'a Stream) -> Result<&'a Frame<'static>, ImageError> {
    let frame = stream.current_frame_info();
    frame.ok_or_else(|| damaged("the GIF has no frame"))
}

pub(super) fn header(bytes: &[u8]) -> Result<Header, ImageError> {
    let stream = open(bytes)?;
    let frame = first_frame(&stream)?;
    // A frame beyond the canvas enlarges it.
    let side = |canvas: u16, start: u16, length: u16| {
        u32::from(canvas).max(u32::from(start) + u32::from(length))
    };
    Ok(Header {
        format: Format::Gif,
        width: side(stream.width(), frame.left, frame.width),
        height: side(stream.height(), frame.top, frame.height),
        colour: Colour::Palette,
    })
}

/// Decodes the first frame into `rgb`.
pub(super) fn decode(
    bytes: &[u8],
    header: &Header,
    rgb: &mut Vec<u8>,
    raw: &mut Vec<u8>,
) -> Result<(), ImageError> {
    let explain = |error| explain(error, bytes);
    let mut stream = open(bytes)?;
    let frame = first_frame(&stream)?;
    let (width, height) = (usize::from(frame.width), usize::from(frame.height));
    let (left, top) = (usize::from(frame.left), usize::from(frame.top));
    let canvas = header.width as usize;
    if left + width > canvas || top + height > header.height as usize {
        return Err(damaged("the header changed"));
    }
    // Around the frame, Pillow has the transparent colour, or else the first.
    let around = frame.transparent.unwrap_or(0);
    let palette = stream.palette().map_err(explain)?;
    // A colour beyond the palette is a level of grey.
    let colours: [[u8; 3]; 256] = std::array::from_fn(|index| {
        let colour = palette.get(3 * index..3 * index + 3);
        colour.map_or([index as u8; 3], |colour| [colour[0], colour[1], colour[2]])
    });
    reset(raw, width * height)?;
    stream.read_into_buffer(raw).map_err(explain)?;

    reset(rgb, canvas * header.height as usize * 3)?;
    let (rgb, _) = rgb.as_chunks_mut::<3>();
    rgb.fill(colours[usize::from(around)]);
    let rows = rgb.chunks_exact_mut(canvas).skip(top);
    for (to, from) in rows.zip(raw.chunks_exact(width)) {
        for (to, &index) in to[left..].iter_mut().zip(from) {
            *to = colours[usize::from(index)];
        }
    }
    Ok(())
}

fn explain(error: DecodingError, bytes: &[u8]) -> ImageError {
    match error {
        DecodingError::UnexpectedEof => ImageError::truncated("the GIF is incomplete", bytes.len()),
        DecodingError::OutOfMemory | DecodingError::MemoryLimit => {
            OutOfMemory { bytes: bytes.len() }.into()
        }
        // The error's kind is the library's secret. Pillow takes the indices for levels of grey.
        DecodingError::Format(error) if error.to_string().contains("color table") => {
            ImageError::unsupported("a GIF without a palette")
        }
        other => damaged(format!("the GIF: {other}")),
    }
}
