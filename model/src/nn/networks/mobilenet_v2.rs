//! MobileNetV2: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR
//! 2018. The names of the layers are torchvision's. As in the reference implementation there is no dropout.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Family, batch_norm, conv};
use crate::nn::field_error::FieldError;
use crate::nn::layers::{Layer, Linear};
use crate::nn::parameters::Init;

/// A network of inverted residual blocks with linear bottlenecks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MobileNetV2 {
    /// Width multiplier of the channels of every layer (of the last convolution only if it is above
    /// 1), rounded to multiples of 8; above 0, at most 16.
    #[serde(default = "default_width")]
    pub width: f64,
}

fn default_width() -> f64 {
    1.0
}

/// Expansion, channels, blocks and stride of each stage: table 2 of the paper.
const STAGES: [(i64, f64, u32, i64); 7] = [
    (1, 16.0, 1, 1),
    (6, 24.0, 2, 2),
    (6, 32.0, 3, 2),
    (6, 64.0, 4, 2),
    (6, 96.0, 3, 1),
    (6, 160.0, 3, 2),
    (6, 320.0, 1, 1),
];
const STEM: f64 = 32.0;
const LAST: f64 = 1280.0;

impl Family for MobileNetV2 {
    fn check(&self) -> Vec<FieldError> {
        if self.width > 0.0 && self.width <= 16.0 {
            return Vec::new();
        }
        let width = self.width;
        vec![(
            "width",
            format!("`width` must be above 0 and at most 16, not {width}"),
        )]
    }

    fn layers(&self, classes: i64) -> Vec<Layer> {
        let mut channels = round_channels(STEM * self.width);
        let mut layers = conv_bn_relu("features.0", 3, channels, 3, 2, 1).to_vec();
        let mut position = 1;
        for (expansion, width, blocks, first_stride) in STAGES {
            let output = round_channels(width * self.width);
            for index in 0..blocks {
                let stride = if index == 0 { first_stride } else { 1 };
                let name = format!("features.{position}.conv");
                let block = inverted_residual(&name, channels, expansion, output, stride);
                if stride == 1 && channels == output {
                    layers.push(Layer::Residual {
                        branch: block,
                        shortcut: Vec::new(),
                    });
                } else {
                    layers.extend(block);
                }
                channels = output;
                position += 1;
            }
        }
        let last = round_channels(LAST * self.width.max(1.0));
        let name = format!("features.{position}");
        layers.extend(conv_bn_relu(&name, channels, last, 1, 1, 1));
        layers.extend([
            Layer::GlobalAveragePool,
            Layer::Linear(Linear {
                name: "classifier.1".to_owned(),
                in_features: last,
                out_features: classes,
                weight_init: Init::Normal(0.01),
                bias_init: Init::Constant(0.0),
            }),
        ]);
        layers
    }

    /// The reference numbers the layers of a block consecutively (`conv.0`, `conv.1`, ... where
    /// ours are `conv.0.0`, `conv.0.1`), and its last convolution is `conv`, outside of `features`.
    fn reference_path(&self, path: &str) -> String {
        let last = 1 + STAGES.iter().map(|(_, _, blocks, _)| blocks).sum::<u32>();
        let parts: Vec<&str> = path.split('.').collect();
        let number = |text: &str| text.parse::<usize>().unwrap_or(0);
        match parts[..] {
            ["classifier", _] => "classifier".to_owned(),
            ["features", position, layer] if number(position) == last as usize => {
                format!("conv.{layer}")
            }
            // Each group is a convolution, its batch norm and its ReLU.
            ["features", position, "conv", group, layer] => {
                format!(
                    "features.{position}.conv.{}",
                    3 * number(group) + number(layer)
                )
            }
            // The projection and its batch norm follow the groups.
            ["features", position, "conv", layer] => {
                let groups = if position == "1" { 1 } else { 2 };
                format!("features.{position}.conv.{}", 2 * groups + number(layer))
            }
            _ => path.to_owned(),
        }
    }

    /// timm has `blocks.STAGE.BLOCK` with a name for each layer. A block without expansion is a
    /// depthwise-separable convolution there.
    fn timm_path(&self, path: &str) -> String {
        let parts: Vec<&str> = path.split('.').collect();
        let name = match parts[..] {
            ["classifier", _] => "classifier",
            ["features", "0", "0"] => "conv_stem",
            ["features", "0", "1"] => "bn1",
            ["features", _, "0"] => "conv_head",
            ["features", _, "1"] => "bn2",
            ["features", position, "conv", ref layer @ ..] => {
                let Some((stage, block)) = position.parse().ok().and_then(stage_and_block) else {
                    return path.to_owned();
                };
                let layer = match (STAGES[stage].0, layer) {
                    (1, ["0", "0"]) => "conv_dw",
                    (1, ["0", "1"]) => "bn1",
                    (1, ["1"]) => "conv_pw",
                    (1, ["2"]) => "bn2",
                    (_, ["0", "0"]) => "conv_pw",
                    (_, ["0", "1"]) => "bn1",
                    (_, ["1", "0"]) => "conv_dw",
                    (_, ["1", "1"]) => "bn2",
                    (_, ["2"]) => "conv_pwl",
                    (_, ["3"]) => "bn3",
                    _ => return path.to_owned(),
                };
                return format!("blocks.{stage}.{block}.{layer}");
            }
            _ => path,
        };
        name.to_owned()
    }
}

/// The stage and the block in it of `features.POSITION`, both from 0.
fn stage_and_block(position: u32) -> Option<(usize, u32)> {
    let mut block = position.checked_sub(1)?;
    for (stage, (_, _, blocks, _)) in STAGES.iter().enumerate() {
        if block < *blocks {
            return Some((stage, block));
        }
        block -= blocks;
    }
    None
}

impl MobileNetV2 {
    /// The roundest width whose layers have these numbers of output channels: a multiple of 0.05 as those
    /// that are published, else the one with the fewest decimals, at most four. Networks of all such widths
    /// are equal. `rows` are those of weights, by name.
    pub(super) fn width_of(rows: impl Fn(&str) -> Option<i64>) -> Option<f64> {
        let convolutions = |width| MobileNetV2 { width }.layers(1).into_iter();
        let fits = |width: f64| {
            let valid = MobileNetV2 { width }.check().is_empty();
            valid
                && convolutions(width).all(|layer| match layer {
                    Layer::Conv(conv) => {
                        rows(&format!("{}.weight", conv.name)) == Some(conv.out_channels)
                    }
                    _ => true,
                })
        };
        // The widest stage, whose channels are rounded by less than 8, or by a tenth.
        let (widest, channels) = ("features.17.conv.2.weight", STAGES[6].1);
        let rows = rows(widest)? as f64;
        [1.0, 10.0, 20.0, 100.0, 1000.0, 10_000.0]
            .into_iter()
            .find_map(|steps| {
                let first = ((rows / 1.1 - 8.0) / channels * steps).max(0.0).floor() as u32;
                let last = ((rows + 8.0) / channels * steps).ceil() as u32;
                let mut widths = (first..=last).map(|step| f64::from(step) / steps);
                widths.find(|&width| fits(width))
            })
    }
}

/// Rounds to the nearest multiple of 8, at least 8 and at least 0.9 times the channels:
/// `_make_divisible` of torchvision.
fn round_channels(channels: f64) -> i64 {
    let nearest = ((channels + 4.0) as i64 / 8 * 8).max(8);
    if (nearest as f64) < 0.9 * channels {
        nearest + 8
    } else {
        nearest
    }
}

/// 1x1 expansion (left out if `expansion` is 1), 3x3 depthwise convolution, linear 1x1 projection.
fn inverted_residual(
    name: &str,
    input: i64,
    expansion: i64,
    output: i64,
    stride: i64,
) -> Vec<Layer> {
    let inner = input * expansion;
    let mut layers = Vec::new();
    let mut position = 0;
    if expansion != 1 {
        layers.extend(conv_bn_relu(&format!("{name}.0"), input, inner, 1, 1, 1));
        position += 1;
    }
    let depthwise = format!("{name}.{position}");
    layers.extend(conv_bn_relu(&depthwise, inner, inner, 3, stride, inner));
    layers.extend([
        conv(&format!("{name}.{}", position + 1), inner, output, 1, 1, 1),
        batch_norm(&format!("{name}.{}", position + 2), output),
    ]);
    layers
}

fn conv_bn_relu(
    name: &str,
    input: i64,
    output: i64,
    kernel: i64,
    stride: i64,
    groups: i64,
) -> [Layer; 3] {
    [
        conv(&format!("{name}.0"), input, output, kernel, stride, groups),
        batch_norm(&format!("{name}.1"), output),
        Layer::Relu6,
    ]
}
