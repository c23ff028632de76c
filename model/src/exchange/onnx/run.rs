//! Runs the operators that are written here, with libtorch: what a file computes, read from the file.

use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};
use tch::Tensor;

use super::graph::{kind_of, tensor};
use super::proto::{Attribute, Model, Node};

/// A graph that is ready to run.
pub(in crate::exchange) struct Runner {
    /// Those that depend on the images, in order.
    nodes: Vec<Node>,
    input: String,
    output: String,
    /// The values that do not.
    constants: HashMap<String, Tensor>,
    /// For each other value, the last node that needs it.
    last_use: HashMap<String, usize>,
}

impl Runner {
    /// # Errors
    /// An operator or a dtype that is not written here; an input or an output that is missing.
    pub(in crate::exchange) fn new(model: Model) -> Result<Self> {
        let graph = model.graph.context("the file has no graph")?;
        let name = |values: Vec<super::proto::ValueInfo>| {
            let first = values.into_iter().next().and_then(|value| value.name);
            first.context("the graph has no input or no output")
        };
        let mut constants = HashMap::new();
        for constant in graph.initializer {
            let name = constant.name.clone().unwrap_or_default();
            let value = tensor(&constant).with_context(|| format!("in the constant {name:?}"))?;
            constants.insert(name, value);
        }
        let mut runner = Runner {
            nodes: vec![],
            input: name(graph.input)?,
            output: name(graph.output)?,
            constants,
            last_use: HashMap::new(),
        };
        for node in graph.node {
            let inputs = node.input.iter().map(|name| runner.constants.get(name));
            if let Some(inputs) = inputs.collect::<Option<Vec<_>>>() {
                let value = evaluated(&node, &inputs)?;
                runner.constants.insert(output(&node)?.to_owned(), value);
                continue;
            }
            let at = runner.nodes.len();
            let needed = node.input.iter().cloned().map(|name| (name, at));
            runner.last_use.extend(needed);
            runner.nodes.push(node);
        }
        Ok(runner)
    }

    pub(in crate::exchange) fn run(&self, images: &Tensor) -> Result<Tensor> {
        self.run_seen(images, &mut |_, _| Ok(()))
    }

    /// The same; `seen` gets the value of each node and its name.
    pub(super) fn run_seen(
        &self,
        images: &Tensor,
        seen: &mut dyn FnMut(&str, &Tensor) -> Result<()>,
    ) -> Result<Tensor> {
        let mut values = HashMap::from([(self.input.as_str(), images.shallow_clone())]);
        for (at, node) in self.nodes.iter().enumerate() {
            let inputs = node.input.iter().map(|name| {
                let value = values.get(name.as_str());
                let value = value.or_else(|| self.constants.get(name));
                value.with_context(|| format!("there is no value {name:?}"))
            });
            let value = evaluated(node, &inputs.collect::<Result<Vec<_>>>()?)?;
            seen(output(node)?, &value)?;
            values.insert(output(node)?, value);
            values.retain(|name, _| {
                *name == self.output || self.last_use.get(*name).is_some_and(|last| *last > at)
            });
        }
        let output = values.remove(self.output.as_str());
        output.with_context(|| format!("there is no value {:?}", self.output))
    }
}

fn output(node: &Node) -> Result<&str> {
    let first = node.output.first().map(String::as_str);
    first.with_context(|| format!("the node {:?} has no output", node.name))
}

fn evaluated(node: &Node, inputs: &[&Tensor]) -> Result<Tensor> {
    evaluate(node, inputs).with_context(|| {
        let name = node.name.as_deref().unwrap_or_default();
        format!("in the node {name:?}")
    })
}

/// The attributes of a node.
struct Attributes<'n>(&'n [Attribute]);

impl Attributes<'_> {
    fn get(&self, name: &str) -> Option<&Attribute> {
        let mut all = self.0.iter();
        all.find(|attribute| attribute.name.as_deref() == Some(name))
    }

    fn int(&self, name: &str, default: i64) -> i64 {
        let found = self.get(name).and_then(|attribute| attribute.i);
        found.unwrap_or(default)
    }

    fn float(&self, name: &str) -> Result<f64> {
        let found = self.get(name).and_then(|attribute| attribute.f);
        Ok(f64::from(
            found.with_context(|| format!("it has no {name:?}"))?,
        ))
    }

    fn ints<const N: usize>(&self, name: &str) -> Result<[i64; N]> {
        let found = self.get(name).map(|attribute| attribute.ints.as_slice());
        let found = found.and_then(|ints| <[i64; N]>::try_from(ints).ok());
        found.with_context(|| format!("it has no {name:?} of {N} numbers"))
    }
}

/// The output of a node.
fn evaluate(node: &Node, inputs: &[&Tensor]) -> Result<Tensor> {
    let attributes = Attributes(&node.attribute);
    let operator = node.op_type.as_deref().unwrap_or_default();
    Ok(match (operator, inputs) {
        ("Conv", [x, weight, bias @ ..]) => {
            let (x, padding) = padded(x, attributes.ints("pads")?, 0.0)?;
            x.f_conv2d(
                weight,
                bias.first().copied(),
                attributes.ints::<2>("strides")?,
                padding,
                [1, 1],
                attributes.int("group", 1),
            )?
        }
        ("BatchNormalization", [x, weight, bias, mean, var]) => {
            let epsilon = attributes.float("epsilon")?;
            let [weight, bias, mean, var] = [weight, bias, mean, var].map(|part| Some(*part));
            x.f_batch_norm(weight, bias, mean, var, false, 0.0, epsilon, false)?
        }
        ("Relu", [x]) => x.f_relu()?,
        ("Clip", [x, least, most]) => x.f_clamp_tensor(Some(*least), Some(*most))?,
        ("MaxPool", [x]) => {
            let (x, padding) = padded(x, attributes.ints("pads")?, f64::NEG_INFINITY)?;
            x.f_max_pool2d(
                attributes.ints::<2>("kernel_shape")?,
                attributes.ints::<2>("strides")?,
                padding,
                [1, 1],
                false,
            )?
        }
        ("AveragePool", [x]) => x.f_avg_pool2d(
            attributes.ints::<2>("kernel_shape")?,
            attributes.ints::<2>("strides")?,
            [0, 0],
            attributes.int("ceil_mode", 0) != 0,
            attributes.int("count_include_pad", 0) != 0,
            None::<i64>,
        )?,
        ("GlobalAveragePool", [x]) => x.f_adaptive_avg_pool2d([1, 1])?,
        ("Pad", [x, pads]) => {
            let pads = integers(pads)?;
            let (before, after) = pads.split_at(pads.len() / 2);
            // libtorch begins with the last dimension.
            let pairs = before.iter().zip(after).rev();
            let pairs: Vec<i64> = pairs
                .flat_map(|(before, after)| [*before, *after])
                .collect();
            x.f_constant_pad_nd(&pairs[..])?
        }
        ("Add", [x, y]) => x.f_add(y)?,
        ("Sub", [x, y]) => x.f_sub(y)?,
        ("Div", [x, y]) => x.f_div(y)?,
        ("Greater", [x, y]) => x.f_gt_tensor(y)?,
        ("Where", [condition, x, y]) => x.f_where_self(condition, y)?,
        ("Cast", [x]) => x.f_to_kind(kind_of(attributes.int("to", 0))?)?,
        // In memory, too, as the network gets its images: other strides are other kernels, which round otherwise.
        ("Transpose", [x]) => x.f_permute(attributes.ints::<4>("perm")?)?.f_contiguous()?,
        ("Gather", [x, index]) => x.f_index_select(attributes.int("axis", 0), index)?,
        ("GatherElements", [x, index]) => x.f_gather(attributes.int("axis", 0), index, false)?,
        ("Reshape", [x, shape]) => x.f_reshape(&integers(shape)?[..])?,
        ("Flatten", [x]) => x.f_flatten(attributes.int("axis", 1), -1)?,
        ("Gemm", [x, weight, bias]) => {
            ensure!(
                attributes.int("transB", 0) == 1,
                "its weight is not transposed"
            );
            x.f_linear(weight, Some(*bias))?
        }
        ("Softmax", [x]) => x.f_softmax(attributes.int("axis", -1), None)?,
        _ => bail!("{operator} of {} inputs is not known", inputs.len()),
    })
}

fn integers(tensor: &Tensor) -> Result<Vec<i64>> {
    Ok(Vec::try_from(tensor)?)
}

/// What an operator of libtorch gets, which pads both sides of a dimension alike: the images, padded here where
/// they are not, and the padding of height and width that is left to it. `pads`: top, left, bottom, right.
fn padded(x: &Tensor, pads: [i64; 4], value: f64) -> Result<(Tensor, [i64; 2])> {
    let [top, left, bottom, right] = pads;
    if (top, left) == (bottom, right) {
        return Ok((x.shallow_clone(), [top, left]));
    }
    let padded = x.f_pad([left, right, top, bottom], "constant", Some(value))?;
    Ok((padded, [0, 0]))
}
