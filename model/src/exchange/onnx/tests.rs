//! What the check of a written file notices.

use tch::Kind;

use super::proto::{Attribute, Graph, Model};
use super::{check, encode, write};
use crate::checkpoint::{Checkpoint, Metadata, NormsFrom, Snapshot, write_atomically};
use crate::exchange::single::{Input, Options, Single};
use crate::nn::compute::ExecConfig;
use crate::nn::networks::{Network, QuantizedMode, QuantizedResNet};
use crate::nn::parameters::WeightInit;
use crate::nn::switchable::SwitchableNetwork;

/// A checkpoint of a network with quantized weights, whose convolutions are padded unevenly.
fn checkpoint(folder: &std::path::Path) -> Checkpoint {
    let network = Network::QuantizedResNet(QuantizedResNet {
        depth: 18,
        width: 8,
        mode: QuantizedMode::WeightsOnly,
        weight_bits: 2,
        activation_bits: 32,
        fixed_activation_basis: false,
    });
    let init = WeightInit::Random { seed: 5 };
    let compute = ExecConfig::cpu(Kind::Float);
    let net = SwitchableNetwork::new(&network, 3, &[64], compute, init).unwrap();
    // At first the branches' last scales are 0, and no branch would matter.
    for parameter in net.parameters().iter() {
        if parameter.name.ends_with("bn2.64.weight") {
            let mut tensor = parameter.tensor.shallow_clone();
            let _ = tch::no_grad(|| tensor.f_fill_(0.5)).unwrap();
        }
    }
    let classes = ["a", "b", "c"].map(str::to_owned).to_vec();
    let metadata = Metadata::new(network, classes, vec![64]);
    let path = folder.join("it.safetensors");
    let snapshot = Snapshot::take(metadata, net.parameters(), []).unwrap();
    write_atomically(&snapshot, &path).unwrap();
    Checkpoint::open(&path).unwrap()
}

fn attribute<'g>(graph: &'g mut Graph, node: &str, name: &str) -> &'g mut Attribute {
    let is = |found: &Option<String>, name: &str| found.as_deref() == Some(name);
    let mut nodes = graph.node.iter_mut();
    let node = nodes.find(|found| is(&found.name, node)).unwrap();
    let mut attributes = node.attribute.iter_mut();
    attributes.find(|found| is(&found.name, name)).unwrap()
}

/// The bytes of a constant.
fn bytes<'g>(graph: &'g mut Graph, name: &str) -> &'g mut Vec<u8> {
    let mut constants = graph.initializer.iter_mut();
    let found = constants.find(|constant| constant.name.as_deref() == Some(name));
    found.unwrap().raw_data.as_mut().unwrap()
}

#[test]
fn a_file_that_computes_something_else_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(folder.path());
    let options = Options {
        size: 64,
        norms: NormsFrom::Resolution(64),
        input: Input::Float,
        batch: None,
        softmax: false,
        preprocess: Default::default(),
    };
    let single = Single::open(&checkpoint, &options).unwrap();
    let written = write(&single).unwrap();
    let checked = |model: Model| {
        // As it is read from a file.
        let read = prost::Message::decode(&*encode(&model).unwrap()).unwrap();
        check(&single, read, &written.ends, &|_| {})
    };
    assert!(checked(written.model.clone()).unwrap() < 1e-5);

    let half = 0.5_f32.to_le_bytes();
    type Change<'c> = &'c dyn Fn(&mut Graph);
    let changes: [(&str, &str, Change); 5] = [
        ("one weight", "conv1", &|graph| {
            bytes(graph, "conv1.weight")[40..44].copy_from_slice(&half);
        }),
        ("one code", "layer2.0.add", &|graph| {
            bytes(graph, "layer2.0.conv1.weight.codes").fill(3);
        }),
        ("a level", "layer3.1.add", &|graph| {
            bytes(graph, "layer3.1.conv2.weight.levels")[..4].copy_from_slice(&half);
        }),
        (
            "padding on the other side",
            "conv1.relu.max_pool",
            &|graph| {
                let pads = attribute(graph, "conv1.relu.max_pool", "pads");
                assert_eq!(pads.ints, [0, 0, 1, 1]);
                pads.ints = vec![1, 1, 0, 0];
            },
        ),
        ("one bias of the classifier", "logits", &|graph| {
            bytes(graph, "fc.bias")[4..8].copy_from_slice(&half);
        }),
    ];
    for (what, place, change) in changes {
        let mut model = written.model.clone();
        change(model.graph.as_mut().unwrap());
        let error = format!("{:#}", checked(model).unwrap_err());
        let expected = format!("the first layers that differ end at {place:?}: its outputs differ");
        assert!(error.starts_with(&expected), "{what}: {error}");
    }
}
