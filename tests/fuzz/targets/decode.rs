//! Any bytes as an image: header, decoding of a region, resizing. Nothing may panic, and a part of an
//! image must be what the whole image has there.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rsflow_pipeline::pixels::{Decoder, Header, Limits, Pixels, Rect, Resizer, Verify, crop, header};

/// Small enough to be fast; large images are a matter of [`Limits`], not of decoding.
const LIMITS: Limits = Limits {
    max_pixels: 1 << 18,
};

fuzz_target!(|bytes: &[u8]| {
    let Ok(header) = header(bytes, &LIMITS) else {
        return;
    };
    let mut decoder = Decoder::new();
    let part = some_part(bytes, &header);
    let of_part = decoder.decode(bytes, &header, part, Verify::Region);
    let of_part = of_part.map(|pixels| (pixels.covers(), pixels.bytes().to_vec()));
    let whole = decoder.decode(bytes, &header, header.whole(), Verify::Full);
    let (Ok((covers, found)), Ok(whole)) = (of_part, whole) else {
        return;
    };
    assert!(covers.contains(&part));
    for (y, row) in (covers.y..).zip(found.chunks_exact(covers.width as usize * 3)) {
        let start = (y as usize * header.width as usize + covers.x as usize) * 3;
        assert!(row == &whole.bytes()[start..start + row.len()]);
    }
    let pixels = Pixels::new(&found, covers).expect("as many bytes as pixels");
    for plan in [crop::training(part, 17, true), crop::training(part, 64, false)] {
        let mut out = vec![0; plan.output_bytes()];
        Resizer::new().resize(pixels, &plan, &mut out).expect("the part was decoded");
    }
    for plan in [
        crop::validation(header.width, header.height, 32, 0.875),
        crop::short_side_center_crop(header.width, header.height, 37, 32),
    ] {
        let mut out = vec![0; plan.output_bytes()];
        Resizer::new().resize(whole, &plan, &mut out).expect("all was decoded");
    }
});

/// A part that depends on the file's last bytes, which mean the least.
fn some_part(bytes: &[u8], header: &Header) -> Rect {
    let mut numbers = bytes.iter().rev().map(|&byte| u32::from(byte));
    let mut below = |end: u32| numbers.next().unwrap_or(0) * end / 256;
    let (x, y) = (below(header.width), below(header.height));
    Rect {
        x,
        y,
        width: 1 + below(header.width - x),
        height: 1 + below(header.height - y),
    }
}
