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

use crate::pixels::{
    Decoder, Header, Orientation, Rect, Rendition, Resizer, Verify, lighting, resize_scratch,
};

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
    /// What each resolution is made of.
    pub outputs: Outputs,
    /// What is added to the colours, in this order.
    pub lighting: Vec<Lighting>,
    /// The resizing node's: resizing is billed to it.
    pub meter: Meter,
}

/// What the resolutions of an image are made of.
#[derive(Clone)]
pub enum Outputs {
    /// Each of the image: one rendition for each resolution, in the order of the recipe.
    Rendered(Vec<Rendition>),
    /// Each of pixels of one picture: see [`Resizer::sample`].
    Sampled {
        /// That picture, which is made of the image.
        picture: Rendition,
        /// The resolutions in pixels of a side, in the order of the recipe.
        sizes: Vec<u32>,
    },
}

/// What a lighting node adds to an image.
#[derive(Clone)]
pub struct Lighting {
    /// To red, green and blue, in levels from 0 to 255.
    pub increments: [f64; 3],
    /// The node's.
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
    /// The picture that resolutions are sampled from.
    picture: Vec<u8>,
}

thread_local! {
    static TOOLS: RefCell<Tools> = RefCell::default();
}

impl SizedImages {
    /// Decodes and resizes into a slot of a batch.
    pub fn render(&self, slots: &Slots, slot: usize) -> Result<()> {
        TOOLS.with_borrow_mut(|tools| {
            let Tools {
                decoder,
                resizer,
                picture,
            } = tools;
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
            let mut make = |rendition: &Rendition, out: &mut [u8]| {
                self.meter
                    .measure(|| Ok(resizer.render(pixels, rendition, out)?))?;
                self.light(out)
            };
            let label = image.encoded.label;
            match &self.outputs {
                Outputs::Rendered(renditions) => slots.write(slot, label, |position, out| {
                    make(&renditions[position], out)
                }),
                Outputs::Sampled {
                    picture: plan,
                    sizes,
                } => {
                    resize_scratch(picture, plan.output_bytes());
                    make(plan, picture)?;
                    slots.write(slot, label, |position, out| {
                        let mut sample =
                            || resizer.sample(picture, plan.size, out, sizes[position]);
                        self.meter.measure(|| Ok(sample()?))
                    })
                }
            }
        })
    }

    /// Adds what is to be added to the colours.
    fn light(&self, pixels: &mut [u8]) -> Result<()> {
        for Lighting { increments, meter } in &self.lighting {
            meter.measure(|| {
                lighting::add(*increments, pixels);
                Ok(())
            })?;
        }
        Ok(())
    }
}
