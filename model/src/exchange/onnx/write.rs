//! A network's layers as nodes of an ONNX graph.

use anyhow::{Context, Result};
use tch::{Kind, Tensor, no_grad};

use super::graph::{Graph, Is};
use super::proto;
use crate::exchange::single::{IMAGES, Input};
use crate::nn::layers::{Conv, Layer, Linear, Padding};
use crate::nn::quantizers;
use crate::nn::switchable::SwitchableNetwork;
use crate::nn::transfer::{Channels, Normalize};

/// The output of a node.
pub(super) struct Value {
    pub(super) name: String,
    /// Of a feature map, in pixels.
    side: i64,
}

/// Gets the number of layers so far and the name of their output.
type Seen<'s> = &'s mut dyn FnMut(usize, &str);

pub(super) struct Writer<'n> {
    pub(super) graph: Graph,
    net: &'n SwitchableNetwork,
    /// Whether batch norms become part of the convolutions before them.
    folds: bool,
}

/// A batch norm as y = scale x + shift, float64 `[channels]`.
struct Affine {
    scale: Tensor,
    shift: Tensor,
}

impl<'n> Writer<'n> {
    /// A writer for a network with one size.
    pub(super) fn new(net: &'n SwitchableNetwork, layers: &[Layer]) -> Self {
        Writer {
            graph: Graph::default(),
            net,
            // A folded batch norm rounds differently in the last bit. Near a threshold of a quantizer that moves a
            // value by a whole level.
            folds: !quantizes_activations(layers),
        }
    }

    /// The images as the first layer gets them, of what the file gets.
    pub(super) fn images(
        &mut self,
        input: Input,
        side: u32,
        normalize: Option<Normalize>,
        channels: Channels,
    ) -> Result<Value> {
        let side = i64::from(side);
        let mut name = IMAGES.to_owned();
        if input == Input::Float {
            return Ok(Value { name, side });
        }
        let graph = &mut self.graph;
        if channels == Channels::Bgr {
            let order = graph.integers("images.order", &[2, 1, 0])?;
            name = graph.node(
                "Gather",
                "images.bgr",
                &[&name, &order],
                &[("axis", Is::Int(3))],
            );
        }
        let perm = [("perm", Is::Ints(&[0, 3, 1, 2]))];
        name = graph.node("Transpose", "images.channels_first", &[&name], &perm);
        let to = [("to", Is::Int(proto::FLOAT.into()))];
        name = graph.node("Cast", "images.float", &[&name], &to);
        let largest = graph.number("images.largest", 255.0)?;
        name = graph.node("Div", "images.scaled", &[&name, &largest], &[]);
        if let Some(Normalize { mean, std }) = normalize {
            for (operator, what, mut values) in [("Sub", "mean", mean), ("Div", "std", std)] {
                if channels == Channels::Bgr {
                    values.reverse();
                }
                let values = Tensor::f_from_slice(&values.map(|value| value as f32))?;
                let values = values.f_reshape([1, 3, 1, 1])?;
                let values = graph.constant(&format!("images.{what}"), &values)?;
                let output = format!("images.by_{what}");
                name = graph.node(operator, &output, &[&name, &values], &[]);
            }
        }
        Ok(Value { name, side })
    }

    /// Appends the layers. `seen` gets where each of them ends.
    pub(super) fn layers(&mut self, layers: &[Layer], mut x: Value, seen: Seen) -> Result<Value> {
        let mut rest = layers;
        while let Some((layer, after)) = rest.split_first() {
            rest = after;
            x = match layer {
                Layer::Conv(conv) => {
                    let norm = match after.split_first() {
                        Some((Layer::BatchNorm { name, .. }, after)) if self.folds => {
                            rest = after;
                            Some(self.affine(name)?)
                        }
                        _ => None,
                    };
                    self.conv(conv, norm, x)
                        .with_context(|| format!("in the convolution {:?}", conv.name))?
                }
                layer => self.layer(layer, x)?,
            };
            seen(layers.len() - rest.len(), &x.name);
        }
        Ok(x)
    }

    fn layer(&mut self, layer: &Layer, x: Value) -> Result<Value> {
        let Value { name: x, mut side } = x;
        let graph = &mut self.graph;
        let name = match layer {
            Layer::Conv(conv) => return self.conv(conv, None, Value { name: x, side }),
            Layer::BatchNorm { name, .. } => self.norm(name, &x)?,
            Layer::Relu => graph.node("Relu", &format!("{x}.relu"), &[&x], &[]),
            Layer::Relu6 => {
                let least = graph.number("relu6.min", 0.0)?;
                let most = graph.number("relu6.max", 6.0)?;
                graph.node("Clip", &format!("{x}.relu6"), &[&x, &least, &most], &[])
            }
            Layer::QuantizedRelu { name, .. } => self.quantized_relu(name, &x)?,
            &Layer::MaxPool {
                kernel,
                stride,
                padding,
            } => {
                let pads = pads(padding, side, kernel, stride);
                side = padding.output(side, kernel, stride);
                let attributes = [
                    ("kernel_shape", Is::Ints(&[kernel; 2])),
                    ("strides", Is::Ints(&[stride; 2])),
                    ("pads", Is::Ints(&pads)),
                ];
                graph.node("MaxPool", &format!("{x}.max_pool"), &[&x], &attributes)
            }
            &Layer::AveragePool { kernel } => {
                side = (side + kernel - 1) / kernel;
                let attributes = [
                    ("kernel_shape", Is::Ints(&[kernel; 2])),
                    ("strides", Is::Ints(&[kernel; 2])),
                    ("ceil_mode", Is::Int(1)),
                    ("count_include_pad", Is::Int(0)),
                ];
                graph.node("AveragePool", &format!("{x}.average"), &[&x], &attributes)
            }
            Layer::PadChannels { added } => {
                let name = format!("{x}.padded");
                let pads = [0, 0, 0, 0, 0, *added, 0, 0];
                let pads = graph.integers(&format!("{name}.pads"), &pads)?;
                graph.node("Pad", &name, &[&x, &pads], &[])
            }
            Layer::Residual { branch, shortcut } => {
                let input = || Value {
                    name: x.clone(),
                    side,
                };
                let first = self.layers(branch, input(), &mut |_, _| {})?;
                let second = self.layers(shortcut, input(), &mut |_, _| {})?;
                side = first.side;
                let name = format!("{}.add", block(branch));
                let inputs = [first.name.as_str(), second.name.as_str()];
                self.graph.node("Add", &name, &inputs, &[])
            }
            Layer::GlobalAveragePool => {
                side = 1;
                let pooled = graph.node("GlobalAveragePool", "pool", &[&x], &[]);
                graph.node("Flatten", "features", &[&pooled], &[("axis", Is::Int(1))])
            }
            Layer::Linear(linear) => self.linear(linear, &x)?,
        };
        Ok(Value { name, side })
    }

    /// A tensor of the network.
    fn parameter(&self, name: &str) -> Result<Tensor> {
        Ok(self.net.parameters().tensor(name)?.f_detach()?)
    }

    /// A tensor of a batch norm.
    fn of_norm(&self, layer: &str, part: &str) -> Result<Tensor> {
        let norms = self.net.norms();
        let label = norms.of.first().context("the network has no batch norms")?;
        self.parameter(&norms.name(layer, *label, part))
    }

    fn affine(&self, norm: &str) -> Result<Affine> {
        let [gamma, beta, mean, var] = PARTS.map(|part| {
            let tensor = self.of_norm(norm, part)?;
            Ok::<_, anyhow::Error>(tensor.f_to_kind(Kind::Double)?)
        });
        let epsilon = self.net.norms().options.epsilon;
        let scale = gamma?.f_div(&var?.f_add_scalar(epsilon)?.f_sqrt()?)?;
        let shift = beta?.f_sub(&mean?.f_mul(&scale)?)?;
        Ok(Affine { scale, shift })
    }

    /// A convolution, and the batch norm after it.
    fn conv(&mut self, conv: &Conv, norm: Option<Affine>, x: Value) -> Result<Value> {
        let mut inputs = vec![x.name, self.weight(conv, norm.as_ref())?];
        if let Some(Affine { shift, .. }) = norm {
            let bias = shift.f_to_kind(Kind::Float)?;
            inputs.push(self.graph.constant(&format!("{}.bias", conv.name), &bias)?);
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let attributes = [
            ("kernel_shape", Is::Ints(&[conv.kernel; 2])),
            ("strides", Is::Ints(&[conv.stride; 2])),
            (
                "pads",
                Is::Ints(&pads(conv.padding, x.side, conv.kernel, conv.stride)),
            ),
            ("group", Is::Int(conv.groups)),
        ];
        Ok(Value {
            name: self.graph.node("Conv", &conv.name, &inputs, &attributes),
            side: conv.padding.output(x.side, conv.kernel, conv.stride),
        })
    }

    /// The weight of a convolution, each output channel times that of `by`. A quantized one is written as the
    /// numbers of its levels and a table of the levels, whose rows are the output channels.
    fn weight(&mut self, conv: &Conv, by: Option<&Affine>) -> Result<String> {
        let name = format!("{}.weight", conv.name);
        let weight = self.parameter(&name)?;
        let scaled = |rows: &Tensor| match by {
            None => Ok(rows.shallow_clone()),
            Some(Affine { scale, .. }) => {
                let mut shape = vec![1; rows.dim()];
                shape[0] = -1;
                let rows = rows
                    .f_to_kind(Kind::Double)?
                    .f_mul(&scale.f_view(&shape[..])?)?;
                rows.f_to_kind(Kind::Float)
            }
        };
        if conv.bits.is_none() {
            return self.graph.constant(&name, &scaled(&weight)?);
        }
        let basis = self.parameter(&format!("{}.basis", conv.name))?;
        let (codes, levels) = quantizers::weights::as_table(&weight, &basis)?;
        let graph = &mut self.graph;
        let codes = graph.constant(&format!("{name}.codes"), &codes)?;
        let levels = graph.constant(&format!("{name}.levels"), &scaled(&levels)?)?;
        let shape = graph.integers(&format!("{name}.shape"), &weight.size())?;
        let to = [("to", Is::Int(proto::INT64.into()))];
        let index = graph.node("Cast", &format!("{name}.index"), &[&codes], &to);
        let axis = [("axis", Is::Int(1))];
        let rows = format!("{name}.rows");
        let rows = graph.node("GatherElements", &rows, &[&levels, &index], &axis);
        Ok(graph.node("Reshape", &name, &[&rows, &shape], &[]))
    }

    /// A batch norm of its own.
    fn norm(&mut self, name: &str, x: &str) -> Result<String> {
        let mut inputs = vec![x.to_owned()];
        for part in PARTS {
            let tensor = self.of_norm(name, part)?;
            inputs.push(self.graph.constant(&format!("{name}.{part}"), &tensor)?);
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let epsilon = [("epsilon", Is::Float(self.net.norms().options.epsilon))];
        Ok(self
            .graph
            .node("BatchNormalization", name, &inputs, &epsilon))
    }

    /// Climbs from level to level: exact, whatever the levels are.
    fn quantized_relu(&mut self, name: &str, x: &str) -> Result<String> {
        let basis = self.parameter(&format!("{name}.basis"))?;
        let levels = quantizers::activations::levels(&basis)?;
        let numbers = |tensor: &Tensor| Vec::<f32>::try_from(tensor.f_reshape([-1])?);
        let (values, thresholds) = (numbers(levels.values())?, numbers(levels.thresholds())?);
        let graph = &mut self.graph;
        let relu = graph.node("Relu", &format!("{name}.relu"), &[x], &[]);
        let least = values.first().context("it has no levels")?;
        let mut reached = graph.number(&format!("{name}.level0"), *least)?;
        for (number, (threshold, level)) in (1..).zip(thresholds.iter().zip(&values[1..])) {
            let threshold = graph.number(&format!("{name}.threshold{number}"), *threshold)?;
            let level = graph.number(&format!("{name}.level{number}"), *level)?;
            let above = format!("{name}.above{number}");
            let above = graph.node("Greater", &above, &[&relu, &threshold], &[]);
            let output = match number == thresholds.len() {
                true => name.to_owned(),
                false => format!("{name}.reached{number}"),
            };
            reached = graph.node("Where", &output, &[&above, &level, &reached], &[]);
        }
        Ok(reached)
    }

    fn linear(&mut self, linear: &Linear, x: &str) -> Result<String> {
        let name = &linear.name;
        let [weight, bias] = ["weight", "bias"].map(|part| {
            let path = format!("{name}.{part}");
            let tensor = self.parameter(&path)?;
            self.graph.constant(&path, &tensor)
        });
        let transposed = [("transB", Is::Int(1))];
        Ok(self
            .graph
            .node("Gemm", name, &[x, &weight?, &bias?], &transposed))
    }
}

/// The tensors of a batch norm, in the order of ONNX's inputs.
const PARTS: [&str; 4] = ["weight", "bias", "running_mean", "running_var"];

fn quantizes_activations(layers: &[Layer]) -> bool {
    layers.iter().any(|layer| match layer {
        Layer::QuantizedRelu { .. } => true,
        Layer::Residual { branch, shortcut } => {
            quantizes_activations(branch) || quantizes_activations(shortcut)
        }
        _ => false,
    })
}

/// Top, left, bottom, right.
fn pads(padding: Padding, side: i64, kernel: i64, stride: i64) -> [i64; 4] {
    let (before, after) = padding.amounts(side, kernel, stride);
    [before, before, after, after]
}

/// The part of the path that the convolutions of a branch have in common.
fn block(branch: &[Layer]) -> String {
    let mut common: Option<Vec<&str>> = None;
    for layer in branch {
        let Layer::Conv(conv) = layer else { continue };
        let path: Vec<&str> = conv.name.split('.').collect();
        common = Some(match common {
            None => path,
            Some(common) => {
                let same = common.iter().zip(&path).take_while(|(a, b)| a == b);
                same.map(|(part, _)| *part).collect()
            }
        });
    }
    common.unwrap_or_default().join(".")
}

/// Appends a network's layers to a graph under its output's name. Returns, where a layer's output is a value of
/// the graph, the number of layers so far and the value's name.
///
/// # Errors
/// Out of memory.
pub(super) fn network(
    writer: &mut Writer,
    layers: &[Layer],
    x: Value,
    softmax: bool,
    output: &str,
) -> Result<Vec<(usize, String)>> {
    let mut ends = Vec::new();
    let logits = no_grad(|| {
        writer.layers(layers, x, &mut |count, name| {
            ends.push((count, name.to_owned()));
        })
    })?;
    if softmax {
        let axis = [("axis", Is::Int(-1))];
        writer
            .graph
            .node("Softmax", "softmax", &[&logits.name], &axis);
    }
    writer.graph.name_last(output);
    if let (false, Some((_, last))) = (softmax, ends.last_mut()) {
        *last = output.to_owned();
    }
    Ok(ends)
}
