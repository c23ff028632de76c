//! What travels between the data nodes.
//!
//! Nothing is decoded before it must be: up to the batch an image is its bytes and a growing plan
//! of what is wanted of it. [`SizedImages::render`] carries the plan out, on one worker, from the
//! decoder's scratch memory straight into the batch's; the time still counts for the nodes that
//! planned it.

use std::cell::RefCell;
use std::sync::Arc;

use anyhow::Result;
use rsflow_graph::{Meter, Payload, Slots};

use crate::pixels::{Decoder, Header, Orientation, Rect, Rendition, Resizer, Verify};

/// A file's bytes and its class.
#[derive(Clone)]
pub struct EncodedImage {
    /// The whole file.
    pub bytes: Arc<Vec<u8>>,
    /// The class index.
    pub label: i64,
}

impl Payload for EncodedImage {
    const NAME: &'static str = "files";

    fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }
}

/// An image whose header is known.
#[derive(Clone)]
pub struct LazyImage {
    /// Bytes and class.
    pub encoded: EncodedImage,
    /// Format and size, the latter of the upright image.
    pub header: Header,
    /// How the upright image lies in the file.
    pub orientation: Orientation,
    /// How much is checked when it is decoded.
    pub verify: Verify,
    /// The decoder's: decoding is billed to it, whenever it happens.
    pub meter: Meter,
}

impl Payload for LazyImage {
    const NAME: &'static str = "images";
}

/// An image and the part of it that is wanted.
#[derive(Clone)]
pub struct Crop {
    /// The image.
    pub image: LazyImage,
    /// The part.
    pub region: Rect,
}

impl Payload for Crop {
    const NAME: &'static str = "crops";
}

/// An image and what it is to look like at each resolution.
#[derive(Clone)]
pub struct SizedImages {
    /// The image.
    pub image: LazyImage,
    /// The part of it that any resolution needs.
    pub region: Rect,
    /// One for each resolution, in the order of the recipe.
    pub renditions: Vec<Rendition>,
    /// The resizing node's: resizing is billed to it.
    pub meter: Meter,
}

impl Payload for SizedImages {
    const NAME: &'static str = "sized images";
}

/// A worker's tools, with their scratch memory.
#[derive(Default)]
struct Tools {
    decoder: Decoder,
    resizer: Resizer,
}

thread_local! {
    static TOOLS: RefCell<Tools> = RefCell::default();
}

impl SizedImages {
    /// Decodes and resizes into a slot of a batch.
    pub fn render(&self, slots: &Slots, slot: usize) -> Result<()> {
        TOOLS.with_borrow_mut(|Tools { decoder, resizer }| {
            let image = &self.image;
            let bytes = &image.encoded.bytes;
            let pixels =
                image.meter.measure(|| {
                    let (header, orientation) = (&image.header, image.orientation);
                    Ok(decoder.decode_upright(
                        bytes,
                        header,
                        orientation,
                        self.region,
                        image.verify,
                    )?)
                })?;
            slots.write(slot, image.encoded.label, |position, out| {
                self.meter
                    .measure(|| Ok(resizer.render(pixels, &self.renditions[position], out)?))
            })
        })
    }
}
