//! What layers cost and need, counted without a tensor.

use super::Layer;

/// Bits of a value that is not quantized.
const FULL_PRECISION: u64 = 32;

/// The operations of one image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Operations {
    /// Multiply-adds of convolutions and classifier, as papers count them.
    pub multiply_adds: u64,
    /// Each multiply-add times the bits of its weight times the bits of its activation, 32 for what
    /// is not quantized: 1,024 of them are one multiply-add in full precision.
    pub bits: u64,
}

impl Operations {
    fn add(&mut self, other: Operations) {
        self.multiply_adds += other.multiply_adds;
        self.bits += other.bits;
    }

    fn of(multiply_adds: i64, weight_bits: Option<u32>, activation_bits: u64) -> Self {
        let multiply_adds = multiply_adds.unsigned_abs();
        Operations {
            multiply_adds,
            bits: multiply_adds * weight_bits.map_or(FULL_PRECISION, u64::from) * activation_bits,
        }
    }
}

/// The operations of one image of `resolution` x `resolution` pixels.
pub fn operations(layers: &[Layer], resolution: u32) -> Operations {
    let image = Map {
        side: i64::from(resolution),
        bits: FULL_PRECISION,
    };
    count(layers, image).1
}

/// What flows between layers.
#[derive(Clone, Copy)]
struct Map {
    side: i64,
    /// Of each value.
    bits: u64,
}

/// What comes out of the layers, and the operations that it takes.
fn count(layers: &[Layer], mut map: Map) -> (Map, Operations) {
    let mut sum = Operations::default();
    for layer in layers {
        // What most layers compute is not at levels.
        let bits = std::mem::replace(&mut map.bits, FULL_PRECISION);
        match layer {
            Layer::Conv(c) => {
                map.side = c.padding.output(map.side, c.kernel, c.stride);
                let products = c.output * (c.input / c.groups) * c.kernel * c.kernel;
                sum.add(Operations::of(map.side * map.side * products, c.bits, bits));
            }
            Layer::MaxPool {
                kernel,
                stride,
                padding,
            } => {
                map.side = padding.output(map.side, *kernel, *stride);
                map.bits = bits;
            }
            Layer::AveragePool { side } => map.side = (map.side + side - 1) / side,
            Layer::Residual { branch, shortcut } => {
                map.bits = bits;
                let (short, long) = (count(shortcut, map), count(branch, map));
                map.side = long.0.side;
                map.bits = FULL_PRECISION;
                sum.add(long.1);
                sum.add(short.1);
            }
            Layer::QuantizedRelu { bits, .. } => map.bits = u64::from(*bits),
            Layer::GlobalAveragePool => map.side = 1,
            Layer::Linear(l) => sum.add(Operations::of(l.input * l.output, None, bits)),
            // Zeros are a level of every activation.
            Layer::PadChannels { .. } => map.bits = bits,
            Layer::Norm { .. } | Layer::Relu | Layer::Relu6 => {}
        }
    }
    (map, sum)
}

/// Whether most convolutions have kernels of 1x1: they are matrix products over the channels.
pub fn is_mostly_pointwise(layers: &[Layer]) -> bool {
    /// Of 1x1, and all.
    fn count(layers: &[Layer]) -> (usize, usize) {
        let counts = layers.iter().map(|layer| match layer {
            Layer::Conv(conv) => (usize::from(conv.kernel == 1), 1),
            Layer::Residual { branch, shortcut } => {
                let (branch, shortcut) = (count(branch), count(shortcut));
                (branch.0 + shortcut.0, branch.1 + shortcut.1)
            }
            _ => (0, 0),
        });
        counts.fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1))
    }
    let (pointwise, all) = count(layers);
    2 * pointwise > all
}

/// The side of the smallest map that a batch norm sees when the image has `resolution` x
/// `resolution` pixels.
pub fn smallest_normed_side(layers: &[Layer], resolution: u32) -> i64 {
    fn walk(layers: &[Layer], mut side: i64, smallest: &mut i64) -> i64 {
        for layer in layers {
            match layer {
                Layer::Norm { .. } => *smallest = (*smallest).min(side),
                Layer::Residual { branch, shortcut } => {
                    walk(shortcut, side, smallest);
                    side = walk(branch, side, smallest);
                }
                _ => {
                    let bits = FULL_PRECISION;
                    side = count(std::slice::from_ref(layer), Map { side, bits })
                        .0
                        .side;
                }
            }
        }
        side
    }
    let mut smallest = i64::MAX;
    walk(layers, i64::from(resolution), &mut smallest);
    smallest
}

/// By how much the layers shrink the side of an image: the product of their strides. An image
/// smaller than this leaves nothing but padding in the last layers.
pub fn total_stride(layers: &[Layer]) -> u32 {
    layers
        .iter()
        .map(|layer| match layer {
            Layer::Conv(c) => c.stride.unsigned_abs() as u32,
            Layer::MaxPool { stride, .. } => stride.unsigned_abs() as u32,
            Layer::AveragePool { side } => side.unsigned_abs() as u32,
            Layer::Residual { branch, .. } => total_stride(branch),
            _ => 1,
        })
        .product()
}
