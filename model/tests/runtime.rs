//! A loaded network answers as the network in the checkpoint does, at every size and from any thread.

mod filled;
mod small;

use std::path::Path;

use filled::fill;
use rsflow_model::checkpoint::{Checkpoint, Metadata, NormsFrom, Snapshot, write_atomically};
use rsflow_model::nn::compute::ExecConfig;
use rsflow_model::nn::kernels::Fused;
use rsflow_model::nn::layers::Mode;
use rsflow_model::nn::networks::{MobileNetV2, Network, ResNeXt};
use rsflow_model::nn::parameters::WeightInit;
use rsflow_model::nn::switchable::SwitchableNetwork;
use rsflow_model::nn::transfer::Normalize;
use rsflow_model::runtime::{Folding, Images, Runtime};
use small::{quantized, resnet, values};
use tch::{Kind, Tensor};

const SIZES: [u32; 3] = [64, 48, 33];

/// A checkpoint of a network whose tensors are functions of their names.
fn checkpoint(network: &Network, folder: &Path) -> Checkpoint {
    let compute = ExecConfig::cpu(Kind::Float);
    let net = SwitchableNetwork::new(network, 5, &SIZES, compute, WeightInit::Zeros).unwrap();
    tch::no_grad(|| {
        for parameter in net.parameters().iter() {
            let filled = fill(parameter, &parameter.name).unwrap();
            parameter.tensor.shallow_clone().copy_(&filled);
        }
    });
    let classes = ["a", "b", "c", "d", "e"].map(str::to_owned).to_vec();
    let mut metadata = Metadata::new(network.clone(), classes, SIZES.to_vec());
    metadata.normalize = Some(Normalize {
        mean: [0.5, 0.4, 0.3],
        std: [0.2, 0.25, 0.3],
    });
    let path = folder.join("last.safetensors");
    let snapshot = Snapshot::take(metadata, net.parameters(), []).unwrap();
    write_atomically(&snapshot, &path).unwrap();
    Checkpoint::open(&path).unwrap()
}

fn networks() -> Vec<(&'static str, Network)> {
    vec![
        ("resnet18", resnet(18, 8)),
        ("resnet50", resnet(50, 8)),
        ("resnext50", Network::ResNeXt(ResNeXt { depth: 50 })),
        (
            "mobilenet_v2",
            Network::MobileNetV2(MobileNetV2 { width: 0.5 }),
        ),
        ("quantized", quantized()),
    ]
}

fn sizes() -> Vec<(u32, NormsFrom)> {
    SIZES.iter().map(|&size| (size, size.into())).collect()
}

/// Random pixels, the same at each call.
fn pixels(count: usize, size: u32) -> Vec<u8> {
    let values = count * 3 * (size as usize).pow(2);
    filled::bits("pixels", values)
        .map(|word| word as u8)
        .collect()
}

/// The distance of two lists, of the largest of the second.
fn off(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
    let pairs = found.iter().zip(expected);
    let most = pairs.fold(0.0, |most: f64, (a, b)| most.max((f64::from(*a) - b).abs()));
    most / largest
}

#[test]
fn every_size_answers_as_the_network_of_the_checkpoint() {
    for (name, network) in networks() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = checkpoint(&network, folder.path());
        for (kind, tolerance) in [(Kind::Float, 2e-5), (Kind::BFloat16, 0.05)] {
            // bfloat16 takes long where there are no instructions for it.
            if kind == Kind::BFloat16 && name != "resnet18" {
                continue;
            }
            let plain = checkpoint
                .network(&SIZES, &SIZES, ExecConfig::cpu(Kind::Float))
                .unwrap();
            let compute = ExecConfig {
                compute_dtype: kind,
                ..ExecConfig::cpu(Kind::Float)
            };
            let compute = compute.with_kernels(Fused::Auto);
            for folding in [Folding::Auto, Folding::Off] {
                let runtime = Runtime::open(&checkpoint, &sizes(), compute, folding).unwrap();
                // From size to size and back: nothing of the one before is left.
                for (batch, at) in [(1, 0), (3, 1), (1, 2), (9, 2), (2, 0), (3, 1), (10, 2)] {
                    let size = SIZES[at];
                    let pixels = pixels(batch, size);
                    let found = runtime.logits(Images::Bytes(&pixels), size).unwrap();
                    let images = normalized(&pixels, batch, size);
                    let expected = plain.logits(&images, at, Mode::Evaluate).unwrap();
                    let off = off(&found, &values(&expected));
                    let case = format!("{name} {kind:?} {folding:?} {batch} at {size}");
                    assert!(off < tolerance, "{case}: off by {off:e}");
                    if kind == Kind::Float {
                        let mut floats = vec![0_f32; images.numel()];
                        images.contiguous().copy_data(&mut floats, images.numel());
                        let again = runtime.logits(Images::Normalized(&floats), size).unwrap();
                        assert_eq!(again, found, "{case}");
                    }
                }
            }
        }
    }
}

/// As the network gets them, by another way than its own.
fn normalized(pixels: &[u8], batch: usize, size: u32) -> Tensor {
    let shape = [batch as i64, i64::from(size), i64::from(size), 3];
    let images = Tensor::from_data_size(pixels, &shape, Kind::Uint8).to_kind(Kind::Float) / 255.0;
    let mean = Tensor::from_slice(&[0.5_f32, 0.4, 0.3]);
    let std = Tensor::from_slice(&[0.2_f32, 0.25, 0.3]);
    ((images - mean) / std).permute([0, 3, 1, 2]).contiguous()
}

#[test]
fn pixels_are_the_same_in_both_memory_formats() {
    use rsflow_model::nn::transfer::{Channels, DeviceTransfer};
    let bytes = pixels(3, 33);
    let normalize = Normalize {
        mean: [0.485, 0.456, 0.406],
        std: [0.229, 0.224, 0.225],
    };
    for channels in [Channels::Rgb, Channels::Bgr] {
        for normalize in [None, Some(normalize)] {
            let images = [false, true].map(|channels_last| {
                let compute = ExecConfig {
                    channels_last,
                    ..ExecConfig::cpu(Kind::Float)
                };
                let transfer = DeviceTransfer::new(compute, normalize, channels).unwrap();
                transfer.pixels(&bytes, 3, 33).unwrap()
            });
            assert_eq!(images[0].size(), images[1].size());
            assert_eq!(
                values(&images[0]),
                values(&images[1]),
                "{channels:?} {normalize:?}"
            );
        }
    }
}

#[test]
fn an_answer_does_not_depend_on_the_batch() {
    for (name, network) in networks() {
        if name == "quantized" {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = checkpoint(&network, folder.path());
        let compute = ExecConfig::cpu(Kind::Float).with_kernels(Fused::Auto);
        let runtime = Runtime::open(&checkpoint, &sizes(), compute, Folding::Auto).unwrap();
        for size in SIZES {
            // More than are computed at once.
            let together = pixels(70, size);
            let together: Vec<&[u8]> = together.chunks(3 * (size as usize).pow(2)).collect();
            let alone: Vec<f32> = together
                .iter()
                .flat_map(|image| runtime.logits(Images::Bytes(image), size).unwrap())
                .collect();
            let all = together.concat();
            let found = runtime.logits(Images::Bytes(&all), size).unwrap();
            assert_eq!(found, alone, "{name} at {size}");
        }
    }
}

#[test]
fn threads_get_the_answers_that_one_gets() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(&resnet(18, 8), folder.path());
    let compute = ExecConfig::cpu(Kind::Float).with_kernels(Fused::Auto);
    let runtime = Runtime::open(&checkpoint, &sizes(), compute, Folding::Auto).unwrap();
    let alone = SIZES.map(|size| {
        let pixels = pixels(2, size);
        runtime.logits(Images::Bytes(&pixels), size).unwrap()
    });
    std::thread::scope(|scope| {
        for thread in 0..6 {
            let (runtime, alone) = (&runtime, &alone);
            scope.spawn(move || {
                for turn in 0..9 {
                    let at = (thread + turn) % SIZES.len();
                    let pixels = pixels(2, SIZES[at]);
                    let logits = runtime.logits(Images::Bytes(&pixels), SIZES[at]).unwrap();
                    assert_eq!(logits, alone[at], "thread {thread}, turn {turn}");
                }
            });
        }
    });
}

#[test]
fn the_ensemble_is_that_of_the_network() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(&resnet(18, 8), folder.path());
    let compute = ExecConfig::cpu(Kind::Float).with_kernels(Fused::Auto);
    // In another order than the checkpoint's.
    let loaded: Vec<(u32, NormsFrom)> = sizes().into_iter().rev().collect();
    let runtime = Runtime::open(&checkpoint, &loaded, compute, Folding::Auto).unwrap();
    assert_eq!(runtime.ensemble_sizes(), SIZES);
    let all = SIZES.map(|size| pixels(2, size));
    let images: Vec<Images> = all.iter().map(|pixels| Images::Bytes(pixels)).collect();
    let found = runtime.ensemble(&images).unwrap();
    let plain = checkpoint
        .network(&SIZES, &SIZES, ExecConfig::cpu(Kind::Float))
        .unwrap();
    let logits = SIZES.iter().zip(&all).enumerate();
    let logits: Vec<Tensor> = logits
        .map(|(at, (&size, pixels))| {
            let images = normalized(pixels, 2, size);
            plain.logits(&images, at, Mode::Evaluate).unwrap()
        })
        .collect();
    let expected = tch::no_grad(|| plain.ensemble(&logits)).unwrap();
    assert!(off(&found, &values(&expected)) < 2e-5);

    let some = Runtime::open(&checkpoint, &sizes()[..2], compute, Folding::Auto).unwrap();
    assert!(some.ensemble_sizes().is_empty());
    let error = some.ensemble(&images[..2]).unwrap_err().to_string();
    assert!(error.contains("the ensemble"), "{error}");
}

#[test]
fn features_are_what_the_classifier_gets() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(&resnet(18, 8), folder.path());
    let compute = ExecConfig::cpu(Kind::Float).with_kernels(Fused::Auto);
    let runtime = Runtime::open(&checkpoint, &sizes(), compute, Folding::Auto).unwrap();
    let plain = checkpoint
        .network(&SIZES, &SIZES, ExecConfig::cpu(Kind::Float))
        .unwrap();
    let part = |name: &str| plain.parameters().tensor(&format!("fc.{name}")).unwrap();
    let pixels = pixels(2, 48);
    let features = runtime.features(Images::Bytes(&pixels), 48).unwrap();
    let rows = Tensor::from_slice(&features).reshape([2, -1]);
    let logits = rows.linear(&part("weight"), Some(&part("bias")));
    let found = runtime.logits(Images::Bytes(&pixels), 48).unwrap();
    assert!(off(&found, &values(&logits)) < 1e-6);
}

#[test]
fn what_does_not_fit_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(&resnet(18, 8), folder.path());
    let compute = ExecConfig::cpu(Kind::Float).with_kernels(Fused::Auto);
    let runtime = Runtime::open(&checkpoint, &sizes(), compute, Folding::Auto).unwrap();
    let whole = pixels(1, 64);
    let cases: [(Images, u32, &str); 4] = [
        (
            Images::Bytes(&whole),
            65,
            "the size 65 is not loaded; there are [33, 48, 64]",
        ),
        (
            Images::Bytes(&whole[1..]),
            64,
            "12288 bytes each, and 12287",
        ),
        (Images::Bytes(&[]), 64, "and 0 were given"),
        (Images::Normalized(&[0.5; 7]), 48, "6912 values each, and 7"),
    ];
    for (images, size, expected) in cases {
        let error = runtime.logits(images, size).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    // Not among the images that are computed first.
    let mut values = vec![0.5; 30 * 3 * 64 * 64];
    values[28 * 3 * 64 * 64 + 5] = f32::NAN;
    let error = runtime.logits(Images::Normalized(&values), 64).unwrap_err();
    assert_eq!(
        error.to_string(),
        "value 344069 of the images is not finite"
    );
    // It still answers.
    runtime.logits(Images::Bytes(&whole), 64).unwrap();
}

#[test]
fn the_most_probable_classes_come_first() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(&resnet(18, 8), folder.path());
    let compute = ExecConfig::cpu(Kind::Float);
    let runtime = Runtime::open(&checkpoint, &sizes(), compute, Folding::Off).unwrap();
    let best = runtime.top(&[1.0, 3.0, 3.0, -80.0, 2.0], 4);
    let found: Vec<(&str, usize)> = best.iter().map(|p| (p.class.as_str(), p.index)).collect();
    assert_eq!(found, [("b", 1), ("c", 2), ("e", 4), ("a", 0)]);
    let sum = 2.0 + (-1.0_f64).exp() + (-2.0_f64).exp() + (-83.0_f64).exp();
    assert!((best[0].probability - 1.0 / sum).abs() < 1e-15);
    assert!((best[3].probability - (-2.0_f64).exp() / sum).abs() < 1e-15);
    assert_eq!(runtime.top(&[1.0, 2.0], 9).len(), 2);
}
