//! Networks for one size as ONNX and TorchScript files. Each export compares its file with the network;
//! here that is done for every family, and again from outside.

use std::fs;
use std::path::Path;

use rsflow_model::checkpoint::{Checkpoint, Metadata, Snapshot, packed, write_atomically};
use rsflow_model::exchange::single::{Input, Options};
use rsflow_model::exchange::{onnx, torchscript};
use rsflow_model::nn::compute::ExecConfig;
use rsflow_model::nn::layers::Mode;
use rsflow_model::nn::networks::{MobileNetV2, Network, QuantizedMode, QuantizedResNet, ResNeXt};
use rsflow_model::nn::parameters::{Role, WeightInit};
use rsflow_model::nn::switchable::SwitchableNetwork;
use rsflow_model::nn::transfer::{Channels, Normalize};
use tch::{CModule, Kind, Tensor, no_grad};

mod small;
use small::resnet;

const SIZES: [u32; 2] = [64, 48];

fn quantized(mode: QuantizedMode, weight_bits: u32, activation_bits: u32) -> Network {
    Network::QuantizedResNet(QuantizedResNet {
        depth: 18,
        width: 8,
        mode,
        weight_bits,
        activation_bits,
        fixed_activation_basis: false,
    })
}

/// A checkpoint whose batch norms are none that do nothing.
fn checkpoint(network: &Network, folder: &Path) -> Checkpoint {
    let compute = ExecConfig::cpu(Kind::Float);
    let init = WeightInit::Random { seed: 3 };
    let net = SwitchableNetwork::new(network, 5, &SIZES, compute, init).unwrap();
    tch::manual_seed(3);
    for parameter in net.parameters().iter() {
        let (low, high) = match parameter.role {
            Role::BatchNormWeight | Role::BatchNormVar => (0.5, 1.5),
            Role::BatchNormBias | Role::BatchNormMean => (-0.2, 0.2),
            _ => continue,
        };
        let mut tensor = parameter.tensor.shallow_clone();
        let _ = no_grad(|| tensor.f_uniform_(low, high)).unwrap();
    }
    let classes = ["bird", "cat", "dog", "\"fish\"", ""].map(str::to_owned);
    let mut metadata = Metadata::new(network.clone(), classes.to_vec(), SIZES.to_vec());
    metadata.channels = Channels::Bgr;
    metadata.normalize = Some(Normalize {
        mean: [0.4, 0.5, 0.6],
        std: [0.2, 0.3, 0.25],
    });
    let path = folder.join("it.safetensors");
    let snapshot = Snapshot::take(metadata, net.parameters(), []).unwrap();
    write_atomically(&snapshot, &path).unwrap();
    Checkpoint::open(&path).unwrap()
}

fn options(checkpoint: &Checkpoint, size: u32, input: Input) -> Options {
    Options {
        size,
        norms: checkpoint.metadata().norms_for(size),
        input,
        batch: None,
        softmax: false,
        preprocess: Default::default(),
    }
}

fn silent(_: &str) {}

#[test]
fn every_family_computes_what_its_checkpoint_does() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (onnx_file, script) = (folder.join("it.onnx"), folder.join("it.pt"));
    for (network, largest) in [
        (resnet(18, 8), 1e-5),
        (resnet(50, 4), 1e-5),
        (Network::ResNeXt(ResNeXt { depth: 50 }), 1e-5),
        (Network::MobileNetV2(MobileNetV2 { width: 0.25 }), 1e-5),
        (quantized(QuantizedMode::WeightsOnly, 2, 32), 1e-5),
        // No batch norm is folded, so that no value moves to another level.
        (quantized(QuantizedMode::PreActivation, 2, 2), 0.0),
        (quantized(QuantizedMode::PreActivationTypeA, 1, 3), 0.0),
        (quantized(QuantizedMode::PreActivation, 8, 1), 0.0),
        (quantized(QuantizedMode::PreActivation, 32, 32), 1e-5),
    ] {
        let checkpoint = checkpoint(&network, folder);
        // 56 was not trained: its batch norms are interpolated.
        for (size, input) in [(64, Input::Bytes), (56, Input::Float)] {
            let options = options(&checkpoint, size, input);
            let case = format!("{network} at {size}");
            let onnx = onnx::export(&checkpoint, &options, &onnx_file, &silent).unwrap();
            assert!(onnx.difference <= largest, "{case}: {onnx:?}");
            // What is traced is what is in the other file; of the largest network that takes long.
            if matches!(network, Network::ResNeXt(_)) {
                continue;
            }
            let traced = torchscript::export(&checkpoint, &options, &script, &silent).unwrap();
            assert!(traced.difference <= largest, "{case}: {traced:?}");
        }
    }
}

/// The network again, from outside: the file with the options that change what goes in and out.
#[test]
fn a_traced_network_takes_bytes_and_gives_probabilities() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(&resnet(18, 8), folder.path());
    let path = folder.path().join("it.pt");
    let options = Options {
        softmax: true,
        ..options(&checkpoint, 48, Input::Bytes)
    };
    torchscript::export(&checkpoint, &options, &path, &silent).unwrap();
    let module = CModule::load(&path).unwrap();
    for batch in [1, 4] {
        tch::manual_seed(batch);
        let bytes = Tensor::randint(256, [batch, 48, 48, 3], (Kind::Uint8, tch::Device::Cpu));
        let [mean, std] = [[0.6_f32, 0.5, 0.4], [0.25, 0.3, 0.2]]
            .map(|values| Tensor::from_slice(&values).reshape([1, 3, 1, 1]));
        let images = bytes.flip([3]).permute([0, 3, 1, 2]).to_kind(Kind::Float) / 255.0;
        let images = (images - mean) / std;
        let compute = ExecConfig::cpu(Kind::Float);
        let net = checkpoint.network(&[48], &[48], compute).unwrap();
        let expected = net.logits(&images, 0, Mode::Evaluate).unwrap();
        let expected = expected.softmax(-1, Kind::Float);
        let found = no_grad(|| module.forward_ts(&[&bytes])).unwrap();
        let off = (found - &expected).abs().max().double_value(&[]);
        assert!(off < 1e-6, "{off}");
    }
}

#[test]
fn the_same_checkpoint_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(&small::quantized(), folder.path());
    let packed = folder.path().join("packed.safetensors");
    write_atomically(&packed::pack(&checkpoint).unwrap(), &packed).unwrap();
    let packed = Checkpoint::open(&packed).unwrap();
    let options = options(&checkpoint, 56, Input::Bytes);
    for export in [onnx::export, torchscript::export] {
        let bytes = |checkpoint: &Checkpoint, name: &str| {
            let path = folder.path().join(name);
            export(checkpoint, &options, &path, &silent).unwrap();
            fs::read(path).unwrap()
        };
        let first = bytes(&checkpoint, "first");
        assert!(first == bytes(&checkpoint, "second"));
        // A packed checkpoint has the same codes and another fingerprint.
        assert_eq!(first.len(), bytes(&packed, "packed").len());
    }
    let text = fs::read(folder.path().join("first")).unwrap();
    assert!(text.windows(11).any(|part| part == b"rsflow.json"));
}

#[test]
fn a_network_whose_outputs_are_not_finite_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let network = resnet(18, 4);
    let checkpoint = checkpoint(&network, folder.path());
    let compute = ExecConfig::cpu(Kind::Float);
    let net = checkpoint.network(&SIZES, &SIZES, compute).unwrap();
    let mut weight = net.parameters().tensor("fc.weight").unwrap();
    let _ = no_grad(|| weight.f_fill_(1e38)).unwrap();
    let huge = folder.path().join("huge.safetensors");
    let snapshot = Snapshot::take(checkpoint.metadata().clone(), net.parameters(), []).unwrap();
    write_atomically(&snapshot, &huge).unwrap();
    let huge = Checkpoint::open(&huge).unwrap();
    let options = options(&huge, 64, Input::Float);
    for export in [onnx::export, torchscript::export] {
        let path = folder.path().join("out");
        fs::write(&path, "old").unwrap();
        let error = export(&huge, &options, &path, &silent).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains("its weights are too large"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        let left = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, 3, "a temporary file was left");
    }
}
