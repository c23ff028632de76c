//! Nodes and constants of an ONNX graph, appended one by one.

use std::collections::HashSet;

use anyhow::{Context, Result, ensure};
use tch::{Device, Kind, Tensor, no_grad};

use super::proto::{self, Attribute, Initializer, Node};

/// The value of an attribute.
pub(super) enum Is<'a> {
    Int(i64),
    Ints(&'a [i64]),
    Float(f64),
}

/// A graph that is being written.
#[derive(Default)]
pub(super) struct Graph {
    pub(super) nodes: Vec<Node>,
    pub(super) constants: Vec<Initializer>,
    /// Of both, and so of all values.
    names: HashSet<String>,
}

impl Graph {
    /// Appends a node. Returns the name of its output, which is its own: `name`, or if that is taken
    /// `name.1` and so on.
    pub(super) fn node(
        &mut self,
        operator: &str,
        name: &str,
        inputs: &[&str],
        attributes: &[(&str, Is)],
    ) -> String {
        let names = (1..).map(|number| format!("{name}.{number}"));
        let mut free = std::iter::once(name.to_owned()).chain(names);
        let name = free.find(|name| self.names.insert(name.clone()));
        let name = name.unwrap_or_default();
        self.nodes.push(Node {
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: vec![name.clone()],
            name: Some(name.clone()),
            op_type: Some(operator.to_owned()),
            attribute: attributes.iter().map(attribute).collect(),
        });
        name
    }

    /// Names the output of the last node.
    pub(super) fn name_last(&mut self, output: &str) -> String {
        if let Some(last) = self.nodes.last_mut() {
            last.output = vec![output.to_owned()];
        }
        output.to_owned()
    }

    /// Appends a constant, unless there is one of this name. Returns its name.
    ///
    /// # Errors
    /// A dtype that is not written here; out of memory.
    pub(super) fn constant(&mut self, name: &str, tensor: &Tensor) -> Result<String> {
        if self.names.insert(name.to_owned()) {
            let constant = constant(name, tensor);
            let constant = constant.with_context(|| format!("cannot write {name:?}"))?;
            self.constants.push(constant);
        }
        Ok(name.to_owned())
    }

    /// The same of whole numbers, `[numbers]`.
    ///
    /// # Errors
    /// As [`Graph::constant`].
    pub(super) fn integers(&mut self, name: &str, values: &[i64]) -> Result<String> {
        self.constant(name, &Tensor::f_from_slice(values)?)
    }

    /// The same of a number, `[]`.
    ///
    /// # Errors
    /// As [`Graph::constant`].
    pub(super) fn number(&mut self, name: &str, value: f32) -> Result<String> {
        self.constant(
            name,
            &Tensor::f_scalar_tensor(f64::from(value), (Kind::Float, Device::Cpu))?,
        )
    }
}

fn attribute((name, is): &(&str, Is)) -> Attribute {
    let mut attribute = Attribute {
        name: Some((*name).to_owned()),
        ..Attribute::default()
    };
    attribute.kind = Some(match is {
        Is::Float(value) => {
            attribute.f = Some(*value as f32);
            1
        }
        Is::Int(value) => {
            attribute.i = Some(*value);
            2
        }
        Is::Ints(values) => {
            attribute.ints = values.to_vec();
            7
        }
    });
    attribute
}

/// Dtypes of constants, ONNX's and ours.
const DTYPES: [(i32, Kind); 3] = [
    (proto::FLOAT, Kind::Float),
    (proto::UINT8, Kind::Uint8),
    (proto::INT64, Kind::Int64),
];

fn constant(name: &str, tensor: &Tensor) -> Result<Initializer> {
    let kind = tensor.f_kind()?;
    let known = DTYPES.iter().find(|(_, ours)| *ours == kind);
    let (data_type, _) = known.with_context(|| format!("the dtype is {kind:?}"))?;
    let mut bytes = vec![0; tensor.numel() * kind.elt_size_in_bytes()];
    let contiguous = no_grad(|| tensor.f_detach()?.f_contiguous())?;
    contiguous.f_copy_data_u8(&mut bytes, tensor.numel())?;
    Ok(Initializer {
        dims: tensor.size(),
        data_type: Some(*data_type),
        name: Some(name.to_owned()),
        raw_data: Some(bytes),
    })
}

/// The tensor of a constant.
///
/// # Errors
/// A dtype that is not written here; a wrong number of bytes.
pub(super) fn tensor(constant: &Initializer) -> Result<Tensor> {
    let data_type = constant.data_type.unwrap_or(0);
    let known = DTYPES.iter().find(|(theirs, _)| *theirs == data_type);
    let (_, kind) = known.with_context(|| format!("the data type is {data_type}"))?;
    let bytes = constant.raw_data.as_deref().unwrap_or_default();
    let count = constant.dims.iter().product::<i64>();
    ensure!(
        bytes.len() as i64 == count * kind.elt_size_in_bytes() as i64,
        "the shape {:?} needs another number of bytes than {}",
        constant.dims,
        bytes.len()
    );
    Ok(Tensor::f_from_data_size(bytes, &constant.dims, *kind)?)
}

/// The dtype of a number in `Cast`.
///
/// # Errors
/// It is not written here.
pub(super) fn kind_of(data_type: i64) -> Result<Kind> {
    let known = DTYPES
        .iter()
        .find(|(theirs, _)| i64::from(*theirs) == data_type);
    let (_, kind) = known.with_context(|| format!("the data type is {data_type}"))?;
    Ok(*kind)
}
