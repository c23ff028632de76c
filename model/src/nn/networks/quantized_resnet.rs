//! Quantized ResNet: LQ-Nets (Zhang et al., ECCV 2018), as the quantized part of the reference
//! implementation builds them.
//!
//! The first convolution and the classifier stay in full precision. All convolutions and the max
//! pooling are padded as TensorFlow's `SAME`. Layers have the same names as in [`ResNet`], so that
//! its weights can initialize them. Layers of pre-activation networks alone are `bn0` and `quant0`
//! before a block's first convolution, `quant1` and `quant2` after its convolutions, and
//! `layer1.bn` and `layer1.quant` at the end of a group.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::resnet::{DEPTHS, EXPANSION, check_shape, default_width};
use super::{Family, ResNet, batch_norm};
use crate::nn::field_error::FieldError;
use crate::nn::layers::{Conv, Layer, Linear, Padding};
use crate::nn::parameters::Init;
use crate::nn::quantizers::BITS;

/// Bits that mean "not quantized".
const FULL_PRECISION: u32 = 32;

/// A residual network with quantized weights, or weights and activations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QuantizedResNet {
    /// Layers that have weights: 18, 34, 50, 101 or 152.
    pub depth: u32,
    /// Channels of the first stage; each further stage doubles them.
    #[serde(default = "default_width")]
    pub width: u32,
    /// How the blocks are built, which decides what can be quantized.
    pub mode: QuantizedMode,
    /// Bits of a weight, 1 to 8; 32: not quantized.
    pub weight_bits: u32,
    /// Bits of an activation, 1 to 8; 32: not quantized.
    #[serde(default = "full_precision")]
    pub activation_bits: u32,
    /// Whether only the largest resolution updates the bases of activation quantizers, or every
    /// resolution does.
    #[serde(default)]
    pub fixed_activation_basis: bool,
}

/// How the blocks of a quantized network are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum QuantizedMode {
    /// The blocks of `ResNet`: only weights are quantized. Gamma of the last batch norm of a block
    /// is initialized to 0.
    WeightsOnly,
    /// Batch norm, ReLU and quantizer before each convolution; shortcuts that change the shape are
    /// quantized 1x1 convolutions (type B).
    PreActivation,
    /// The same, with shortcuts of average pooling and channels of zeros (type A).
    PreActivationTypeA,
}

fn full_precision() -> u32 {
    FULL_PRECISION
}

/// RON, as in a recipe.
impl fmt::Display for QuantizedResNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QuantizedResNet(depth: {}", self.depth)?;
        if self.width != default_width() {
            write!(f, ", width: {}", self.width)?;
        }
        write!(
            f,
            ", mode: {:?}, weight_bits: {}",
            self.mode, self.weight_bits
        )?;
        if self.activation_bits != FULL_PRECISION {
            write!(f, ", activation_bits: {}", self.activation_bits)?;
        }
        if self.fixed_activation_basis {
            write!(f, ", fixed_activation_basis: true")?;
        }
        write!(f, ")")
    }
}

impl QuantizedResNet {
    pub fn is_quantized(&self) -> bool {
        quantized(self.weight_bits).is_some() || quantized(self.activation_bits).is_some()
    }

    /// The same network in full precision. Its convolutions have the same names and shapes.
    pub fn in_full_precision(&self) -> ResNet {
        ResNet {
            depth: self.depth,
            width: self.width,
        }
    }

    /// ReLU, quantized if activations are.
    fn activation(&self, name: String) -> Layer {
        match quantized(self.activation_bits) {
            None => Layer::Relu,
            Some(bits) => Layer::QuantizedRelu { name, bits },
        }
    }

    fn conv(&self, name: String, shape: ConvShape) -> Layer {
        let bits = quantized(self.weight_bits);
        Layer::Conv(conv(name, shape, bits))
    }

    /// The residual branch of a block, from its first convolution on.
    fn branch(&self, block: &str, bottleneck: bool, shape: BlockShape) -> Vec<Layer> {
        let BlockShape {
            input,
            inner,
            output,
            stride,
        } = shape;
        let convs: &[ConvShape] = if bottleneck {
            &[
                (input, inner, 1, 1),
                (inner, inner, 3, stride),
                (inner, output, 1, 1),
            ]
        } else {
            &[(input, output, 3, stride), (output, output, 3, 1)]
        };
        let mut layers = Vec::new();
        for (number, &shape) in (1..).zip(convs) {
            layers.push(self.conv(format!("{block}.conv{number}"), shape));
            let last = number == convs.len();
            layers.push(Layer::BatchNorm {
                name: format!("{block}.bn{number}"),
                channels: shape.1,
                gamma: match self.mode {
                    QuantizedMode::WeightsOnly if last => 0.0,
                    _ => 1.0,
                },
            });
            if !last {
                layers.push(self.activation(format!("{block}.quant{number}")));
            }
        }
        layers
    }

    /// The shortcut of a block; empty (the identity) if the shape does not change.
    fn shortcut(&self, block: &str, shape: BlockShape) -> Vec<Layer> {
        let BlockShape {
            input,
            output,
            stride,
            ..
        } = shape;
        if input == output {
            return Vec::new();
        }
        if self.mode == QuantizedMode::PreActivationTypeA {
            let pool = (stride > 1).then_some(Layer::AveragePool { kernel: stride });
            let pad = Layer::PadChannels {
                added: output - input,
            };
            return pool.into_iter().chain([pad]).collect();
        }
        let shape = (input, output, 1, stride);
        vec![
            self.conv(format!("{block}.downsample.0"), shape),
            batch_norm(&format!("{block}.downsample.1"), output),
        ]
    }

    /// The layers before the first convolution of a block's residual branch, in a pre-activation
    /// network.
    fn pre_activation(&self, block: &str, stage: usize, first: bool, channels: i64) -> Vec<Layer> {
        let quantizer = format!("{block}.quant0");
        let type_a = self.mode == QuantizedMode::PreActivationTypeA;
        match (first, stage) {
            (false, _) => vec![
                batch_norm(&format!("{block}.bn0"), channels),
                self.activation(quantizer),
            ],
            // Quantized at the end of the previous group already.
            (true, stage) if stage > 0 && !type_a => vec![],
            // The input went through a ReLU already; the ReLU of the quantizer changes nothing.
            (true, _) => match quantized(self.activation_bits) {
                None => vec![],
                Some(_) => vec![self.activation(quantizer)],
            },
        }
    }
}

/// Input channels, output channels, kernel, stride.
type ConvShape = (i64, i64, i64, i64);

/// The channels and the stride of a block.
#[derive(Clone, Copy)]
struct BlockShape {
    input: i64,
    /// Channels within a bottleneck.
    inner: i64,
    output: i64,
    stride: i64,
}

/// The bits of a quantizer; `None` if not quantized.
fn quantized(bits: u32) -> Option<u32> {
    (bits != FULL_PRECISION).then_some(bits)
}

fn conv(
    name: String,
    (in_channels, out_channels, kernel, stride): ConvShape,
    bits: Option<u32>,
) -> Conv {
    let fan_out = kernel * kernel * out_channels;
    Conv {
        name,
        in_channels,
        out_channels,
        kernel,
        stride,
        padding: Padding::Same,
        groups: 1,
        // He's variance 2 / fan_out; truncating at two deviations takes away a factor of about 1.3.
        init: Init::TruncatedNormal((1.3 * 2.0 / fan_out as f64).sqrt()),
        bits,
    }
}

impl Family for QuantizedResNet {
    fn check(&self) -> Vec<FieldError> {
        let mut errors = check_shape(self.depth, self.width);
        for (field, bits) in [
            ("weight_bits", self.weight_bits),
            ("activation_bits", self.activation_bits),
        ] {
            if bits != FULL_PRECISION && !BITS.contains(&bits.into()) {
                let (least, most) = (BITS.start(), BITS.end());
                errors.push((
                    field,
                    format!(
                        "`{field}` must be from {least} to {most}, or {FULL_PRECISION} for full precision, not {bits}"
                    ),
                ));
            }
        }
        if self.activation_bits == FULL_PRECISION {
            if self.fixed_activation_basis {
                errors.push((
                    "fixed_activation_basis",
                    "`fixed_activation_basis` has no effect: activations are not quantized"
                        .to_owned(),
                ));
            }
        } else if self.mode == QuantizedMode::WeightsOnly {
            errors.push((
                "activation_bits",
                "the mode `WeightsOnly` does not quantize activations: remove `activation_bits`, or use \
                 the mode `PreActivation`"
                    .to_owned(),
            ));
        }
        errors
    }

    fn layers(&self, classes: i64) -> Vec<Layer> {
        let known = DEPTHS.iter().find(|(depth, ..)| *depth == self.depth);
        let Some(&(_, blocks, bottleneck)) = known else {
            return Vec::new();
        };
        let width = i64::from(self.width);
        let mut layers = vec![
            Layer::Conv(conv("conv1".to_owned(), (3, width, 7, 2), None)),
            batch_norm("bn1", width),
            Layer::Relu,
            Layer::MaxPool {
                kernel: 3,
                stride: 2,
                padding: Padding::Same,
            },
        ];
        let post_activation = self.mode == QuantizedMode::WeightsOnly;
        let mut channels = width;
        for (stage, count) in blocks.into_iter().enumerate() {
            let group = format!("layer{}", stage + 1);
            for index in 0..count {
                let block = format!("{group}.{index}");
                let inner = width << stage;
                let shape = BlockShape {
                    input: channels,
                    inner,
                    output: inner * if bottleneck { EXPANSION } else { 1 },
                    stride: if stage > 0 && index == 0 { 2 } else { 1 },
                };
                let mut branch = match post_activation {
                    true => vec![],
                    false => self.pre_activation(&block, stage, index == 0, channels),
                };
                branch.extend(self.branch(&block, bottleneck, shape));
                layers.push(Layer::Residual {
                    branch,
                    shortcut: self.shortcut(&block, shape),
                });
                if post_activation {
                    layers.push(Layer::Relu);
                }
                channels = shape.output;
            }
            if !post_activation {
                layers.push(batch_norm(&format!("{group}.bn"), channels));
                let last = stage + 1 == blocks.len();
                let type_b = self.mode == QuantizedMode::PreActivation;
                layers.push(match type_b && !last {
                    true => self.activation(format!("{group}.quant")),
                    false => Layer::Relu,
                });
            }
        }
        layers.extend([
            Layer::GlobalAveragePool,
            Layer::Linear(Linear {
                name: "fc".to_owned(),
                in_features: channels,
                out_features: classes,
                weight_init: Init::Normal((2.0 / channels as f64).sqrt()),
                bias_init: Init::Constant(0.0),
            }),
        ]);
        layers
    }
}
