//! Costs and size limits of a list of layers, counted without allocating a tensor.

use super::Layer;

/// Bits of a value that is not quantized.
const FULL_PRECISION: u64 = 32;

/// The cost of a forward pass of one image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Operations {
    /// Multiply-adds of convolutions and classifier, as papers count them.
    pub multiply_adds: u64,
    /// Bit operations: each multiply-add times the bits of its weight times the bits of its
    /// activation (32 if not quantized). One multiply-add in full precision is 1,024 of them.
    pub bit_operations: u64,
}

impl Operations {
    fn add(&mut self, other: Operations) {
        self.multiply_adds = self.multiply_adds.saturating_add(other.multiply_adds);
        self.bit_operations = self.bit_operations.saturating_add(other.bit_operations);
    }

    fn of(multiply_adds: i64, weight_bits: Option<u32>, activation_bits: u64) -> Self {
        let multiply_adds = multiply_adds.unsigned_abs();
        Operations {
            multiply_adds,
            // At most 2^10 times 2^63: of the largest networks and images it may not fit.
            bit_operations: multiply_adds
                .saturating_mul(weight_bits.map_or(FULL_PRECISION, u64::from))
                .saturating_mul(activation_bits),
        }
    }
}

/// The cost of a forward pass of one image of `resolution` x `resolution` pixels.
pub fn operations(layers: &[Layer], resolution: u32) -> Operations {
    let image = FeatureMap {
        side: i64::from(resolution),
        bits: FULL_PRECISION,
    };
    count(layers, image).1
}

/// A square feature map between two layers.
#[derive(Clone, Copy)]
struct FeatureMap {
    side: i64,
    /// Bits of a value.
    bits: u64,
}

/// The output of the layers, and their cost.
fn count(layers: &[Layer], mut map: FeatureMap) -> (FeatureMap, Operations) {
    let mut sum = Operations::default();
    for layer in layers {
        // Only a quantizer's output is quantized, and layers that copy values keep it so.
        let bits = std::mem::replace(&mut map.bits, FULL_PRECISION);
        match layer {
            Layer::Conv(c) => {
                map.side = c.padding.output(map.side, c.kernel, c.stride);
                let products = c.out_channels * (c.in_channels / c.groups) * c.kernel * c.kernel;
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
            Layer::AveragePool { kernel } => map.side = (map.side + kernel - 1) / kernel,
            Layer::Residual { branch, shortcut } => {
                map.bits = bits;
                let (output, branch_cost) = count(branch, map);
                let (_, shortcut_cost) = count(shortcut, map);
                map.side = output.side;
                map.bits = FULL_PRECISION;
                sum.add(branch_cost);
                sum.add(shortcut_cost);
            }
            Layer::QuantizedRelu { bits, .. } => map.bits = u64::from(*bits),
            Layer::GlobalAveragePool => map.side = 1,
            Layer::Linear(l) => sum.add(Operations::of(l.in_features * l.out_features, None, bits)),
            // The zeros are a level of every activation quantizer.
            Layer::PadChannels { .. } => map.bits = bits,
            Layer::BatchNorm { .. } | Layer::Relu | Layer::Relu6 => {}
        }
    }
    (map, sum)
}

/// The values that a training step reads and writes for one image of `resolution` x `resolution` pixels, if
/// every operator reads each of its inputs once in each pass over them and writes each output once. Batch
/// norm is one operator with the addition and the activation after it, and takes two passes over its input
/// forward, for statistics and result, and two backward. Weights, statistics and what rests in caches do not
/// count: the first are few beside the values of a batch, the last makes a step faster than this.
pub fn step_traffic(layers: &[Layer], resolution: u32) -> u64 {
    const IMAGE_CHANNELS: i64 = 3;
    let image = (i64::from(resolution), IMAGE_CHANNELS);
    traffic(layers, image).1.unsigned_abs()
}

/// The side and channels of the output of the layers, and the values that are moved.
fn traffic(layers: &[Layer], mut map: (i64, i64)) -> ((i64, i64), i64) {
    let values = |(side, channels): (i64, i64)| side * side * channels;
    let mut sum = 0;
    for layer in layers {
        let input = map;
        let side = |layer| {
            let bits = FULL_PRECISION;
            let map = FeatureMap {
                side: input.0,
                bits,
            };
            count(std::slice::from_ref(layer), map).0.side
        };
        sum += match layer {
            // The result, the gradient of the input, that of the weight.
            Layer::Conv(conv) => {
                map = (side(layer), conv.out_channels);
                3 * (values(input) + values(map))
            }
            // x twice, y; dy and x twice, dx.
            Layer::BatchNorm { .. } => 8 * values(input),
            // Of a batch norm before it.
            Layer::Relu | Layer::Relu6 => 0,
            // x, y; x, dy, dx.
            Layer::QuantizedRelu { .. } => 5 * values(input),
            Layer::Residual { branch, shortcut } => {
                let (output, of_branch) = traffic(branch, map);
                let (_, of_shortcut) = traffic(shortcut, map);
                map = output;
                // The shortcut's values, and the gradient that both get; both gradients of the input, and
                // their sum.
                of_branch + of_shortcut + 2 * values(output) + 3 * values(input)
            }
            Layer::MaxPool { .. } | Layer::AveragePool { .. } => {
                map.0 = side(layer);
                2 * (values(input) + values(map))
            }
            Layer::GlobalAveragePool => {
                map.0 = 1;
                2 * (values(input) + values(map))
            }
            Layer::PadChannels { added } => {
                map.1 += added;
                2 * (values(input) + values(map))
            }
            Layer::Linear(linear) => 3 * (linear.in_features + linear.out_features),
        };
    }
    (map, sum)
}

/// Whether more than half of the convolutions have 1x1 kernels, which are matrix products over the
/// channels.
pub fn is_mostly_pointwise(layers: &[Layer]) -> bool {
    /// The number of 1x1 convolutions, and of all.
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

/// Whether any convolution is depthwise: as many groups as channels.
pub fn has_depthwise(layers: &[Layer]) -> bool {
    layers.iter().any(|layer| match layer {
        Layer::Conv(conv) => conv.is_depthwise(),
        Layer::Residual { branch, shortcut } => has_depthwise(branch) || has_depthwise(shortcut),
        _ => false,
    })
}

/// The side of the smallest feature map that a batch norm gets, for an image of `resolution` x
/// `resolution` pixels.
pub fn min_batch_norm_side(layers: &[Layer], resolution: u32) -> i64 {
    fn walk(layers: &[Layer], mut side: i64, smallest: &mut i64) -> i64 {
        for layer in layers {
            match layer {
                Layer::BatchNorm { .. } => *smallest = (*smallest).min(side),
                Layer::Residual { branch, shortcut } => {
                    walk(shortcut, side, smallest);
                    side = walk(branch, side, smallest);
                }
                _ => {
                    let bits = FULL_PRECISION;
                    side = count(std::slice::from_ref(layer), FeatureMap { side, bits })
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

/// The factor by which the layers shrink the side of an image: the product of their strides. An
/// image with a smaller side leaves nothing but padding in the last layers.
pub fn total_stride(layers: &[Layer]) -> u32 {
    layers
        .iter()
        .map(|layer| match layer {
            Layer::Conv(c) => c.stride.unsigned_abs() as u32,
            Layer::MaxPool { stride, .. } => stride.unsigned_abs() as u32,
            Layer::AveragePool { kernel } => kernel.unsigned_abs() as u32,
            Layer::Residual { branch, .. } => total_stride(branch),
            _ => 1,
        })
        .product()
}
