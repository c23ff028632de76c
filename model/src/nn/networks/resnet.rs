//! ResNet for images of ImageNet's size: He et al., "Deep Residual Learning for Image
//! Recognition", CVPR 2016, as torchvision builds it (the stride of a bottleneck is on its 3x3).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Family, batch_norm, conv};
use crate::nn::field_error::FieldError;
use crate::nn::layers::{Layer, Linear, Padding};
use crate::nn::parameters::Init;

/// A residual network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResNet {
    /// Layers that have weights: 18, 34, 50, 101 or 152.
    pub depth: u32,
    /// Channels of the first stage; each further stage doubles them.
    #[serde(default = "default_width")]
    pub width: u32,
}

pub(super) fn default_width() -> u32 {
    64
}

/// Depth, blocks per stage, and whether a block is a bottleneck.
pub(super) const DEPTHS: [(u32, [u32; 4], bool); 5] = [
    (18, [2, 2, 2, 2], false),
    (34, [3, 4, 6, 3], false),
    (50, [3, 4, 6, 3], true),
    (101, [3, 4, 23, 3], true),
    (152, [3, 8, 36, 3], true),
];

/// A bottleneck has this many times as many output channels as a basic block.
pub(super) const EXPANSION: i64 = 4;

impl Family for ResNet {
    fn check(&self) -> Vec<FieldError> {
        check_shape(self.depth, self.width)
    }

    fn layers(&self, classes: i64) -> Vec<Layer> {
        let known = DEPTHS.iter().find(|(depth, ..)| *depth == self.depth);
        let Some(&(_, blocks, bottleneck)) = known else {
            return Vec::new();
        };
        let width = i64::from(self.width);
        let block = if bottleneck {
            Block::Bottleneck {
                groups: 1,
                inner: width,
            }
        } else {
            Block::Basic
        };
        residual_network(width, blocks, block, classes)
    }
}

/// The errors in the depth and the width of a residual network.
pub(super) fn check_shape(depth: u32, width: u32) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if !DEPTHS.iter().any(|(known, ..)| *known == depth) {
        let depths: Vec<_> = DEPTHS.iter().map(|(depth, ..)| depth.to_string()).collect();
        let known = depths.join(", ");
        errors.push((
            "depth",
            format!("`depth` must be one of {known}, not {depth}"),
        ));
    }
    if !(1..=4096).contains(&width) {
        errors.push((
            "width",
            format!("`width` must be from 1 to 4096, not {width}"),
        ));
    }
    errors
}

/// The block of a residual network.
#[derive(Clone, Copy)]
pub(super) enum Block {
    /// Two 3x3 convolutions.
    Basic,
    /// 1x1, 3x3, 1x1.
    Bottleneck {
        /// Groups of the 3x3 convolution.
        groups: i64,
        /// Channels of the 3x3 convolution in the first stage; each further stage doubles them.
        inner: i64,
    },
}

/// Stem, four stages, classifier. `width`: the channels of the stem and of the first stage; each
/// further stage doubles them.
pub(super) fn residual_network(
    width: i64,
    blocks: [u32; 4],
    block: Block,
    classes: i64,
) -> Vec<Layer> {
    let mut layers = vec![
        conv("conv1", 3, width, 7, 2, 1),
        batch_norm("bn1", width),
        Layer::Relu,
        Layer::MaxPool {
            kernel: 3,
            stride: 2,
            padding: Padding::Symmetric(1),
        },
    ];
    let mut channels = width;
    for (stage, count) in (0..).zip(blocks) {
        for index in 0..count {
            let name = format!("layer{}.{index}", stage + 1);
            let stride = if stage > 0 && index == 0 { 2 } else { 1 };
            let (branch, output) = match block {
                Block::Basic => {
                    let output = width << stage;
                    (basic(&name, channels, output, stride), output)
                }
                Block::Bottleneck { groups, inner } => {
                    let output = (width << stage) * EXPANSION;
                    let branch =
                        bottleneck(&name, channels, inner << stage, groups, output, stride);
                    (branch, output)
                }
            };
            let shortcut = if stride != 1 || channels != output {
                vec![
                    conv(
                        &format!("{name}.downsample.0"),
                        channels,
                        output,
                        1,
                        stride,
                        1,
                    ),
                    batch_norm(&format!("{name}.downsample.1"), output),
                ]
            } else {
                Vec::new()
            };
            layers.extend([Layer::Residual { branch, shortcut }, Layer::Relu]);
            channels = output;
        }
    }
    // PyTorch's default initialization of a linear layer.
    let init = Init::Uniform(1.0 / (channels as f64).sqrt());
    layers.extend([
        Layer::GlobalAveragePool,
        Layer::Linear(Linear {
            name: "fc".to_owned(),
            in_features: channels,
            out_features: classes,
            weight_init: init,
            bias_init: init,
        }),
    ]);
    layers
}

fn basic(name: &str, input: i64, output: i64, stride: i64) -> Vec<Layer> {
    vec![
        conv(&format!("{name}.conv1"), input, output, 3, stride, 1),
        batch_norm(&format!("{name}.bn1"), output),
        Layer::Relu,
        conv(&format!("{name}.conv2"), output, output, 3, 1, 1),
        batch_norm(&format!("{name}.bn2"), output),
    ]
}

fn bottleneck(
    name: &str,
    input: i64,
    inner: i64,
    groups: i64,
    output: i64,
    stride: i64,
) -> Vec<Layer> {
    vec![
        conv(&format!("{name}.conv1"), input, inner, 1, 1, 1),
        batch_norm(&format!("{name}.bn1"), inner),
        Layer::Relu,
        conv(&format!("{name}.conv2"), inner, inner, 3, stride, groups),
        batch_norm(&format!("{name}.bn2"), inner),
        Layer::Relu,
        conv(&format!("{name}.conv3"), inner, output, 1, 1, 1),
        batch_norm(&format!("{name}.bn3"), output),
    ]
}
