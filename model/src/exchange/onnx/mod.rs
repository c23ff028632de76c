//! A network for one size as an ONNX file.
//!
//! - `proto`: the messages of a file.
//! - `graph`: nodes and constants, appended one by one.
//! - `write`: a network's layers as nodes.
//! - `run`: runs a file's nodes with libtorch, for the comparison with the network that every file must pass.

mod graph;
mod proto;
mod run;
#[cfg(test)]
mod tests;
mod write;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use prost::Message as _;
use rsflow_base::shown::Shown as _;
use rsflow_base::whole_file;
use tch::no_grad;

pub(super) use self::run::Runner;
use super::single::{Exported, IMAGES, Input, LIMIT, NOT_KEPT, Options, Single, most};
use crate::checkpoint::Checkpoint;
use crate::nn::layers::{Drops, Mode, Modules};

/// A file's message, before it is written.
pub(super) struct Written {
    pub(super) model: proto::Model,
    /// Where a layer's output is a value of the graph: the number of layers so far, and the value's name.
    ends: Vec<(usize, String)>,
}

impl Written {
    pub(super) fn nodes(&self) -> usize {
        self.model
            .graph
            .as_ref()
            .map_or(0, |graph| graph.node.len())
    }
}

/// Writes the network of a checkpoint for one size as an ONNX file, whose bytes depend on the checkpoint and
/// the options alone. What was written is read, run on random images, and compared with the network; a file
/// that differs is not kept. `tell` gets a line if that takes long.
///
/// # Errors
/// As [`Checkpoint::network`]; a network that is too large for the format; a difference; an I/O error, with the
/// path.
pub fn export(
    checkpoint: &Checkpoint,
    options: &Options,
    path: &Path,
    tell: &dyn Fn(&str),
) -> Result<Exported> {
    let single = Single::open(checkpoint, options)?;
    let written = write(&single)?;
    let bytes = encode(&written.model)?;
    let mut difference = 0.0;
    let check = |file: &Path| {
        let read = proto::Model::decode(&*std::fs::read(file)?)?;
        difference = check(&single, read, &written.ends, tell).context(NOT_KEPT)?;
        Ok(())
    };
    whole_file::write_checked(path, |file| Ok(file.write_all(&bytes)?), check)
        .with_context(|| format!("cannot write {}", path.shown()))?;
    Ok(Exported {
        nodes: written.nodes(),
        bytes: bytes.len(),
        difference,
    })
}

/// Protocol buffers count bytes in 31 bits.
fn encode(model: &proto::Model) -> Result<Vec<u8>> {
    let length = model.encoded_len();
    ensure!(
        i32::try_from(length).is_ok(),
        "an ONNX file holds at most 2 GB, and the network takes {:.1} GB",
        length as f64 / 1e9
    );
    Ok(model.encode_to_vec())
}

/// The message of a file with this network.
///
/// # Errors
/// Out of memory.
pub(super) fn write(single: &Single) -> Result<Written> {
    let Single {
        checkpoint,
        options,
        net,
        ..
    } = single;
    let metadata = checkpoint.metadata();
    let layers = net.network().layers(net.classes())?;
    let mut writer = write::Writer::new(net, &layers);
    let (normalize, channels) = (metadata.normalize, metadata.channels);
    let images = writer.images(options.input, options.size, normalize, channels)?;
    let output = options.output();
    let ends = write::network(&mut writer, &layers, images, options.softmax, output)?;

    let side = i64::from(options.size);
    let (input_type, input_shape) = match options.input {
        Input::Bytes => (proto::UINT8, vec![side, side, 3]),
        Input::Float => (proto::FLOAT, vec![3, side, side]),
    };
    let value = |name: &str, elem_type, shape: &[i64]| {
        let batch = options.batch.map_or_else(
            || proto::Extent::Named("batch".to_owned()),
            |batch| proto::Extent::Known(batch.into()),
        );
        let sides = shape.iter().map(|side| proto::Extent::Known(*side));
        let extents = std::iter::once(batch).chain(sides).map(Some);
        let shape = proto::Shape {
            dim: extents.map(|extent| proto::Dimension { extent }).collect(),
        };
        proto::ValueInfo {
            name: Some(name.to_owned()),
            kind: Some(proto::Type {
                tensor: Some(proto::TensorType {
                    elem_type: Some(elem_type),
                    shape: Some(shape),
                }),
            }),
        }
    };
    let graph = proto::Graph {
        name: Some("network".to_owned()),
        input: vec![value(IMAGES, input_type, &input_shape)],
        output: vec![value(output, proto::FLOAT, &[net.classes().into()])],
        node: writer.graph.nodes,
        initializer: writer.graph.constants,
    };
    let property = |(key, value): (&str, String)| proto::Property {
        key: Some(key.to_owned()),
        value: Some(value),
    };
    let properties = single.properties()?;
    let model = proto::Model {
        ir_version: Some(proto::IR_VERSION),
        producer_name: Some("rsflow".to_owned()),
        producer_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        graph: Some(graph),
        opset_import: vec![proto::OperatorSet {
            domain: Some(String::new()),
            version: Some(proto::OPSET),
        }],
        metadata_props: properties.into_iter().map(property).collect(),
    };
    Ok(Written { model, ends })
}

/// Compares what a file computes with the network. Returns the largest difference, as [`Single::compare`].
///
/// # Errors
/// As there, with the name of the first layer that differs.
fn check(
    single: &Single,
    read: proto::Model,
    ends: &[(usize, String)],
    tell: &dyn Fn(&str),
) -> Result<f64> {
    let runner = Runner::new(read)?;
    let compared = single.compare(|images| runner.run(images), tell);
    compared.map_err(|error| match first_difference(single, &runner, ends) {
        Ok(Some(name)) => error.context(format!("the first layers that differ end at {name:?}")),
        _ => error,
    })
}

/// The name of the first value that is not what the network's layers up to there compute.
fn first_difference(
    single: &Single,
    runner: &Runner,
    ends: &[(usize, String)],
) -> Result<Option<String>> {
    let Single { net, .. } = single;
    let layers = net.network().layers(net.classes())?;
    let images = single.images(0, 1)?;
    let mut found = None;
    let mut look = |name: &str, value: &tch::Tensor| {
        let end = ends.iter().find(|(_, end)| end == name);
        let (None, Some((count, _))) = (&found, end) else {
            return Ok(());
        };
        let modules = Modules::new(&layers[..*count], net.norms(), net.parameters())?;
        let mut pass = modules.pass(Mode::Evaluate, vec![])?;
        let expected = pass.forward(&images.ours, 0, &Drops::default())?;
        let off = most(&value.f_sub(&expected)?)?;
        if off.is_nan() || off > LIMIT * most(&expected)? {
            found = Some(name.to_owned());
        }
        Ok(())
    };
    let _ = no_grad(|| runner.run_seen(&images.theirs, &mut look))?;
    Ok(found)
}
