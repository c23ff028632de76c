//! ResNet at a few learned levels: LQ-Nets (Zhang et al., ECCV 2018), as the quantized part of the
//! reference implementation builds them.
//!
//! The first convolution and the classifier stay in full precision. All convolutions and the maximum
//! are padded as TensorFlow's `SAME`. Layers have the names that they have in [`ResNet`], so that
//! its weights can be started from; what only a pre-activation network has is called `bn0` and
//! `quant0` before a block's first convolution, `quant1` behind it, and `layer1.bn`, `layer1.quant`
//! at the end of a group.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::resnet::{DEPTHS, EXPANSION, check_shape, default_width};
use super::{Family, ResNet, norm};
use crate::nn::fault::Fault;
use crate::nn::layers::{Conv, Layer, Linear, Padding};
use crate::nn::parameters::Init;
use crate::nn::quantizers::BITS;

/// Bits of what is not quantized.
const FULL_PRECISION: u32 = 32;

/// A residual network whose weights, or weights and activations, are at learned levels.
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
    /// Bits of a weight, 1 to 8; 32 leaves them as they are.
    pub weight_bits: u32,
    /// Bits of an activation, 1 to 8; 32 leaves them as they are.
    #[serde(default = "full_precision")]
    pub activation_bits: u32,
    /// Whether only the largest resolution moves the bases of activations, or each of them does.
    #[serde(default)]
    pub fixed_activation_basis: bool,
}

/// How the blocks of a quantized network are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum QuantizedMode {
    /// As those of `ResNet`: only weights are quantized. The last batch norm of a block starts with
    /// gamma 0.
    WeightsOnly,
    /// Batch norm, ReLU and quantizer before each convolution; shortcuts that change the shape are
    /// quantized 1x1 convolutions (type B).
    PreActivation,
    /// The same, with shortcuts that average and add channels of zeros (type A).
    PreActivationTypeA,
}

fn full_precision() -> u32 {
    FULL_PRECISION
}

/// As a recipe has it.
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
    /// Whether it has quantizers at all.
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

    /// What follows a batch norm: ReLU, quantized if activations are.
    fn activation(&self, name: String) -> Layer {
        match quantized(self.activation_bits) {
            None => Layer::Relu,
            Some(bits) => Layer::QuantizedRelu { name, bits },
        }
    }

    fn conv(&self, name: String, shape: Shape) -> Layer {
        let bits = quantized(self.weight_bits);
        Layer::Conv(conv(name, shape, bits))
    }

    /// The long way of a block, from its first convolution on.
    fn convolutions(&self, block: &str, bottleneck: bool, ends: Ends) -> Vec<Layer> {
        let Ends {
            input,
            inner,
            output,
            stride,
        } = ends;
        let steps: &[Shape] = if bottleneck {
            &[
                (input, inner, 1, 1),
                (inner, inner, 3, stride),
                (inner, output, 1, 1),
            ]
        } else {
            &[(input, output, 3, stride), (output, output, 3, 1)]
        };
        let mut layers = Vec::new();
        for (number, &shape) in (1..).zip(steps) {
            layers.push(self.conv(format!("{block}.conv{number}"), shape));
            let last = number == steps.len();
            layers.push(Layer::Norm {
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

    /// The short way of a block; empty where nothing changes.
    fn shortcut(&self, block: &str, ends: Ends) -> Vec<Layer> {
        let Ends {
            input,
            output,
            stride,
            ..
        } = ends;
        if input == output {
            return Vec::new();
        }
        if self.mode == QuantizedMode::PreActivationTypeA {
            let pool = (stride > 1).then_some(Layer::AveragePool { side: stride });
            let pad = Layer::PadChannels {
                more: output - input,
            };
            return pool.into_iter().chain([pad]).collect();
        }
        let shape = (input, output, 1, stride);
        vec![
            self.conv(format!("{block}.downsample.0"), shape),
            norm(&format!("{block}.downsample.1"), output),
        ]
    }

    /// What is done before the first convolution of a block in a pre-activation network, on the long
    /// way alone.
    fn before(&self, block: &str, stage: usize, first: bool, channels: i64) -> Vec<Layer> {
        let quantizer = format!("{block}.quant0");
        let type_a = self.mode == QuantizedMode::PreActivationTypeA;
        match (first, stage) {
            (false, _) => vec![
                norm(&format!("{block}.bn0"), channels),
                self.activation(quantizer),
            ],
            // The end of the group before quantized it.
            (true, stage) if stage > 0 && !type_a => vec![],
            // What comes in went through a ReLU already, so one more changes nothing.
            (true, _) => match quantized(self.activation_bits) {
                None => vec![],
                Some(_) => vec![self.activation(quantizer)],
            },
        }
    }
}

/// Channels in and out, kernel, stride.
type Shape = (i64, i64, i64, i64);

/// What goes into a block and comes out of it.
#[derive(Clone, Copy)]
struct Ends {
    input: i64,
    /// Channels within a bottleneck.
    inner: i64,
    output: i64,
    stride: i64,
}

/// The bits of a quantizer; none where there is nothing to quantize.
fn quantized(bits: u32) -> Option<u32> {
    (bits != FULL_PRECISION).then_some(bits)
}

fn conv(name: String, (input, output, kernel, stride): Shape, bits: Option<u32>) -> Conv {
    let fan_out = kernel * kernel * output;
    Conv {
        name,
        input,
        output,
        kernel,
        stride,
        padding: Padding::Same,
        groups: 1,
        // That of a normal distribution is 1.3 times as wide before its ends are cut off.
        init: Init::TruncatedNormal((1.3 * 2.0 / fan_out as f64).sqrt()),
        bits,
    }
}

impl Family for QuantizedResNet {
    fn check(&self) -> Vec<Fault> {
        let mut faults = check_shape(self.depth, self.width);
        for (field, bits) in [
            ("weight_bits", self.weight_bits),
            ("activation_bits", self.activation_bits),
        ] {
            if bits != FULL_PRECISION && !BITS.contains(&bits.into()) {
                let (least, most) = (BITS.start(), BITS.end());
                faults.push((
                    field,
                    format!(
                        "`{field}` is {least} to {most}, or {FULL_PRECISION} for full precision, not {bits}"
                    ),
                ));
            }
        }
        if self.activation_bits == FULL_PRECISION {
            if self.fixed_activation_basis {
                faults.push((
                    "fixed_activation_basis",
                    "`fixed_activation_basis` is of no use where activations are not quantized"
                        .to_owned(),
                ));
            }
        } else if self.mode == QuantizedMode::WeightsOnly {
            faults.push((
                "activation_bits",
                "`WeightsOnly` leaves activations as they are: leave `activation_bits` out, or take \
                 the mode `PreActivation`"
                    .to_owned(),
            ));
        }
        faults
    }

    fn layers(&self, classes: i64) -> Vec<Layer> {
        let known = DEPTHS.iter().find(|(depth, ..)| *depth == self.depth);
        let Some(&(_, blocks, bottleneck)) = known else {
            return Vec::new();
        };
        let width = i64::from(self.width);
        let mut layers = vec![
            Layer::Conv(conv("conv1".to_owned(), (3, width, 7, 2), None)),
            norm("bn1", width),
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
                let ends = Ends {
                    input: channels,
                    inner,
                    output: inner * if bottleneck { EXPANSION } else { 1 },
                    stride: if stage > 0 && index == 0 { 2 } else { 1 },
                };
                let mut branch = match post_activation {
                    true => vec![],
                    false => self.before(&block, stage, index == 0, channels),
                };
                branch.extend(self.convolutions(&block, bottleneck, ends));
                layers.push(Layer::Residual {
                    branch,
                    shortcut: self.shortcut(&block, ends),
                });
                if post_activation {
                    layers.push(Layer::Relu);
                }
                channels = ends.output;
            }
            if !post_activation {
                layers.push(norm(&format!("{group}.bn"), channels));
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
                input: channels,
                output: classes,
                weight: Init::Normal((2.0 / channels as f64).sqrt()),
                bias: Init::Constant(0.0),
            }),
        ]);
        layers
    }
}
