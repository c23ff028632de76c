//! timm's names of MobileNetV2.

use std::fs;

use rsflow_model::checkpoint::{Checkpoint, write_atomically};
use rsflow_model::exchange::pth::names::timm_name;
use rsflow_model::exchange::pth::{ImagesFrom, Layout};
use rsflow_model::nn::layers;
use rsflow_model::nn::networks::{MobileNetV2, Network, ResNeXt, ResNet};

use super::super::write;
use super::{Weight, dict, import_as, storages, unit, values};

/// The names of timm's state dict in its order, without `num_batches_tracked`.
fn names() -> Vec<String> {
    let mut names = Vec::new();
    let mut add = |path: &str, layers: &[&str]| {
        for layer in layers {
            let parts: &[&str] = match layer.starts_with("bn") {
                true => &["weight", "bias", "running_mean", "running_var"],
                false => &["weight"],
            };
            names.extend(parts.iter().map(|part| format!("{path}{layer}.{part}")));
        }
    };
    add("", &["conv_stem", "bn1"]);
    add("blocks.0.0.", &["conv_dw", "bn1", "conv_pw", "bn2"]);
    for (stage, blocks) in (1..).zip([2, 3, 4, 3, 3, 1]) {
        for block in 0..blocks {
            let layers = ["conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"];
            add(&format!("blocks.{stage}.{block}."), &layers);
        }
    }
    add("", &["conv_head", "bn2", "classifier"]);
    names.push("classifier.bias".to_owned());
    names
}

#[test]
fn every_tensor_has_timm_s_name() {
    let network = Network::MobileNetV2(MobileNetV2 { width: 0.5 });
    let declared = layers::declare(&network.layers(3).unwrap(), &(&[64]).into());
    let ours = declared.iter();
    let ours = ours.map(|d| timm_name(&network, &d.name, d.resolution).unwrap());
    assert_eq!(ours.collect::<Vec<_>>(), names());
    // Those of residual networks are torchvision's.
    for network in [
        Network::ResNet(ResNet {
            depth: 50,
            width: 64,
        }),
        Network::ResNeXt(ResNeXt { depth: 50 }),
    ] {
        for d in layers::declare(&network.layers(3).unwrap(), &(&[64]).into()) {
            let name = d.name.replace(".64.", ".");
            assert_eq!(timm_name(&network, &d.name, d.resolution), Some(name));
        }
    }
    assert_eq!(timm_name(&network, "alpha", None), None);
}

/// timm's weights, with and without the arguments of its script.
#[test]
fn timm_s_mobile_networks_are_imported() {
    let network = Network::MobileNetV2(MobileNetV2 { width: 0.1 });
    let declared = layers::declare(&network.layers(3).unwrap(), &(&[64]).into());
    let weights: Vec<Weight> = declared
        .iter()
        .zip(names())
        .map(|(declaration, name)| Weight {
            values: unit(&name, declaration.numel() as usize)
                .map(|u| u as f32)
                .collect(),
            shape: declaration.shape.iter().map(|&size| size as i32).collect(),
            name,
        })
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.pth");
    for arch in ["mobilenetv2_100", "mobilenet_v2", "mobilenetv2_010"] {
        let code = write::dict(&[("state_dict", dict(&weights, "module."))]);
        fs::write(&path, write::zip(&code, &storages(&weights))).unwrap();
        let imported = import_as(arch, &path, None).unwrap();
        assert_eq!(imported.layout, Layout::Timm, "{arch}");
        assert_eq!(imported.images, ImagesFrom::Assumed);
        assert_eq!(imported.snapshot.metadata().network, network);
        let file = folder.path().join("imported.safetensors");
        write_atomically(&imported.snapshot, &file).unwrap();
        let checkpoint = Checkpoint::open(&file).unwrap();
        for (declaration, weight) in declared.iter().zip(&weights) {
            let tensor = &checkpoint.read([declaration.name.as_str()]).unwrap()[0];
            let expected = weight.values.iter().map(|&x| f64::from(x));
            assert!(
                values(tensor).unwrap().into_iter().eq(expected),
                "{}",
                weight.name
            );
        }
    }
}

#[test]
fn networks_have_the_names_of_other_programs() {
    let mobile = |width| Some(Network::MobileNetV2(MobileNetV2 { width }));
    let resnet = |depth| Some(Network::ResNet(ResNet { depth, width: 64 }));
    for (name, expected) in [
        ("mobilenetv2_100", mobile(1.0)),
        ("mobilenetv2_050", mobile(0.5)),
        ("mobilenetv2_035", mobile(0.35)),
        ("mobilenetv2_140.ra_in1k", mobile(1.4)),
        ("mobilenetv2_x0.25", mobile(0.25)),
        ("parallel_mobilenetv2", mobile(1.0)),
        ("resnet50.a1_in1k", resnet(50)),
        ("resnet18", resnet(18)),
        ("mobilenetv2_110d", None),
        ("mobilenetv2_50", None),
        ("mobilenetv2_0x5", None),
        ("mobilenetv2_000", None),
        ("mobilenetv2_+50", None),
        ("resnet50d", None),
        ("resnet50d.ra2_in1k", None),
        ("resnet26", None),
    ] {
        assert_eq!(Network::by_name(name), expected, "{name}");
    }
}
