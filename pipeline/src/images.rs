//! The item types between data nodes.
//!
//! Decoding is lazy: up to the batch, an image is its encoded bytes and a plan that grows from node to
//! node. [`SizedImages::render`] executes the plan on one worker, from the decoder's scratch memory
//! directly into the batch. The time is attributed to the nodes that planned it, through their meters.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use anyhow::Result;
use rsflow_graph::{Context, Meter, Payload, Slots};

use crate::pixels::augment::{Augmenter, Operation};
use crate::pixels::{
    Decoder, Header, ImageError, Orientation, Pixels, Rect, ResizePlan, Resizer, Verify, lighting,
    resize_scratch,
};

/// The bytes of an image file, and its class.
#[derive(Clone)]
pub struct EncodedImage {
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

/// An image whose header was read and whose pixels were not decoded yet.
#[derive(Clone)]
pub struct LazyImage {
    pub encoded: EncodedImage,
    /// The header of the upright image, see [`Orientation::turn`].
    pub header: Header,
    pub orientation: Orientation,
    pub verify: Verify,
    pub extraneous: Extraneous,
    /// The meter of the decoding node, to which the time of decoding is attributed.
    pub meter: Meter,
}

impl Payload for LazyImage {
    const NAME: &'static str = "images";
}

/// What becomes of an image with [extraneous bytes](crate::pixels::Pixels::extraneous_bytes).
#[derive(Clone)]
pub enum Extraneous {
    Count(Arc<ExtraneousCount>),
    Refuse,
}

/// Counts the images with extraneous bytes that a node decodes, for the log.
#[derive(Default)]
pub struct ExtraneousCount {
    images: AtomicU64,
    bytes: AtomicU64,
}

impl Default for Extraneous {
    fn default() -> Self {
        Self::Count(Arc::default())
    }
}

impl Extraneous {
    fn check(&self, bytes: u64) -> Result<(), ImageError> {
        match self {
            _ if bytes == 0 => Ok(()),
            Self::Count(count) => {
                count.add(bytes);
                Ok(())
            }
            Self::Refuse => Err(ImageError::Damaged {
                reason: format!("{bytes} bytes in the JPEG are neither blocks nor segments"),
                offset: None,
            }),
        }
    }
}

impl ExtraneousCount {
    fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Relaxed);
        if self.images.fetch_add(1, Relaxed) == 0 {
            tracing::warn!(
                bytes,
                "a JPEG has extraneous bytes, which were skipped as by libjpeg; more are counted until \
                 the end; `extraneous_bytes: Refuse` of the decoder names the files"
            );
        }
    }
}

impl Drop for ExtraneousCount {
    /// At the end of the run.
    fn drop(&mut self) {
        let (images, bytes) = (*self.images.get_mut(), *self.bytes.get_mut());
        if images > 0 {
            tracing::info!(images, bytes, "decoded JPEGs with extraneous bytes");
        }
    }
}

/// An image and a region of it.
#[derive(Clone)]
pub struct Crop {
    pub image: LazyImage,
    pub region: Rect,
    /// Changes of the region before it is resized, in order.
    pub augmentations: Vec<Augmentation>,
}

/// A change of a crop, and the node that planned it.
#[derive(Clone)]
pub struct Augmentation {
    pub operation: Operation,
    pub meter: Meter,
}

impl Crop {
    /// Plans operations of the node that `context` belongs to.
    pub fn augment(&mut self, operations: impl IntoIterator<Item = Operation>, context: &Context) {
        let planned = operations.into_iter().map(|operation| Augmentation {
            operation,
            meter: context.meter.clone(),
        });
        self.augmentations.extend(planned);
    }

    /// Width and height in pixels, which no operation changes.
    pub fn size(&self) -> (u32, u32) {
        (self.region.width, self.region.height)
    }
}

impl Payload for Crop {
    const NAME: &'static str = "crops";
}

/// An image and the plan of its outputs at each resolution.
#[derive(Clone)]
pub struct SizedImages {
    pub image: LazyImage,
    /// The region to decode: the union of what the outputs need.
    pub region: Rect,
    /// Changes of the region before it is resized, in order.
    pub augmentations: Vec<Augmentation>,
    pub outputs: Outputs,
    /// Colour augmentations, in the order in which they are applied.
    pub lighting: Vec<Lighting>,
    /// The meter of the resizing node, to which the time of resizing is attributed.
    pub meter: Meter,
}

/// How the outputs of an image are computed.
#[derive(Clone)]
pub enum Outputs {
    /// Each from the image: one plan for each resolution, in the order of the recipe.
    Rendered(Vec<ResizePlan>),
    /// Each by [`Resizer::sample_nearest`] from one resized image.
    Sampled {
        /// The plan of the resized image.
        picture: ResizePlan,
        /// The resolutions in the order of the recipe.
        sizes: Vec<u32>,
    },
}

/// The increments that a lighting node adds.
#[derive(Clone)]
pub struct Lighting {
    /// For red, green and blue, in units of 8-bit values.
    pub increments: [f64; 3],
    /// The meter of the lighting node.
    pub meter: Meter,
}

impl Payload for SizedImages {
    const NAME: &'static str = "sized images";
}

/// The decoder and resizer of a worker thread, with their scratch memory.
#[derive(Default)]
struct Tools {
    decoder: Decoder,
    resizer: Resizer,
    augmenter: Augmenter,
    /// The resized image of [`Outputs::Sampled`].
    picture: Vec<u8>,
}

thread_local! {
    static TOOLS: RefCell<Tools> = RefCell::default();
}

impl SizedImages {
    /// Decodes and resizes the image into a slot of a batch.
    pub fn render(&self, slots: &Slots, slot: usize) -> Result<()> {
        TOOLS.with_borrow_mut(|tools| {
            let Tools {
                decoder,
                resizer,
                augmenter,
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
            image.extraneous.check(pixels.extraneous_bytes())?;
            let pixels = self.augment(pixels, augmenter)?;
            let mut make = |rendition: &ResizePlan, out: &mut [u8]| {
                self.meter
                    .measure(|| Ok(resizer.resize(pixels, rendition, out)?))?;
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
                    resize_scratch(picture, plan.output_bytes())?;
                    make(plan, picture)?;
                    slots.write(slot, label, |position, out| {
                        let mut sample =
                            || resizer.sample_nearest(picture, plan.size, out, sizes[position]);
                        self.meter.measure(|| Ok(sample()?))
                    })
                }
            }
        })
    }

    /// The region with all augmentations; without any, the decoded pixels as they are.
    fn augment<'a>(&self, decoded: Pixels<'a>, augmenter: &'a mut Augmenter) -> Result<Pixels<'a>> {
        let Some((first, others)) = self.augmentations.split_first() else {
            augmenter.release();
            return Ok(decoded);
        };
        let load = || Ok(augmenter.load_changed(decoded, self.region, &first.operation)?);
        first.meter.measure(load)?;
        for Augmentation { operation, meter } in others {
            meter.measure(|| Ok(augmenter.apply(operation)?))?;
        }
        Ok(augmenter.pixels().unwrap_or(decoded))
    }

    /// Applies the colour augmentations.
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
