//! ResNet for images of ImageNet's size: He et al., "Deep Residual Learning for Image
//! Recognition", CVPR 2016, as torchvision builds it (the stride of a bottleneck is on its 3x3).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Family;
use crate::layers::{Conv, Layer, Linear};
use crate::parameters::Init;

/// A residual network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResNet {
    /// Layers that have weights: 18, 34 or 50.
    pub depth: u32,
    /// Channels of the first stage; each further stage doubles them.
    #[serde(default = "default_width")]
    pub width: u32,
}

fn default_width() -> u32 {
    64
}

/// The depths that there are: blocks per stage, and whether a block is a bottleneck.
const DEPTHS: [(u32, [u32; 4], bool); 3] = [
    (18, [2, 2, 2, 2], false),
    (34, [3, 4, 6, 3], false),
    (50, [3, 4, 6, 3], true),
];

/// A bottleneck's output has this many times the channels of its 3x3 convolution.
const EXPANSION: i64 = 4;

impl Family for ResNet {
    fn check(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !DEPTHS.iter().any(|(depth, ..)| *depth == self.depth) {
            let depths: Vec<_> = DEPTHS.iter().map(|(depth, ..)| depth.to_string()).collect();
            problems.push(format!(
                "there is no ResNet of depth {}: the depths are {}",
                self.depth,
                depths.join(", ")
            ));
        }
        if !(1..=4096).contains(&self.width) {
            problems.push(format!(
                "the width is between 1 and 4096, not {}",
                self.width
            ));
        }
        problems
    }

    fn layers(&self, classes: i64) -> Vec<Layer> {
        let known = DEPTHS.iter().find(|(depth, ..)| *depth == self.depth);
        let Some(&(_, blocks, bottleneck)) = known else {
            return Vec::new();
        };
        let first = i64::from(self.width);
        let mut layers = vec![
            conv("conv1", 3, first, 7, 2),
            norm("bn1", first),
            Layer::Relu,
            Layer::MaxPool {
                kernel: 3,
                stride: 2,
                padding: 1,
            },
        ];
        let mut channels = first;
        for (stage, count) in (0..).zip(blocks) {
            let width = first << stage;
            for index in 0..count {
                let name = format!("layer{}.{index}", stage + 1);
                let stride = if stage > 0 && index == 0 { 2 } else { 1 };
                let output = if bottleneck { width * EXPANSION } else { width };
                let branch = if bottleneck {
                    vec![
                        conv(&format!("{name}.conv1"), channels, width, 1, 1),
                        norm(&format!("{name}.bn1"), width),
                        Layer::Relu,
                        conv(&format!("{name}.conv2"), width, width, 3, stride),
                        norm(&format!("{name}.bn2"), width),
                        Layer::Relu,
                        conv(&format!("{name}.conv3"), width, output, 1, 1),
                        norm(&format!("{name}.bn3"), output),
                    ]
                } else {
                    vec![
                        conv(&format!("{name}.conv1"), channels, width, 3, stride),
                        norm(&format!("{name}.bn1"), width),
                        Layer::Relu,
                        conv(&format!("{name}.conv2"), width, output, 3, 1),
                        norm(&format!("{name}.bn2"), output),
                    ]
                };
                let shortcut = if stride != 1 || channels != output {
                    vec![
                        conv(&format!("{name}.downsample.0"), channels, output, 1, stride),
                        norm(&format!("{name}.downsample.1"), output),
                    ]
                } else {
                    Vec::new()
                };
                layers.extend([Layer::Residual { branch, shortcut }, Layer::Relu]);
                channels = output;
            }
        }
        // PyTorch's own start for a linear layer.
        let init = Init::Uniform(1.0 / (channels as f64).sqrt());
        layers.extend([
            Layer::GlobalAveragePool,
            Layer::Linear(Linear {
                name: "fc".to_owned(),
                input: channels,
                output: classes,
                weight: init,
                bias: init,
            }),
        ]);
        layers
    }
}

/// A convolution that keeps the side at stride 1; Kaiming normal by its fan-out.
fn conv(name: &str, input: i64, output: i64, kernel: i64, stride: i64) -> Layer {
    Layer::Conv(Conv {
        name: name.to_owned(),
        input,
        output,
        kernel,
        stride,
        padding: kernel / 2,
        groups: 1,
        init: Init::Normal((2.0 / (kernel * kernel * output) as f64).sqrt()),
    })
}

fn norm(name: &str, channels: i64) -> Layer {
    Layer::Norm {
        name: name.to_owned(),
        channels,
    }
}
