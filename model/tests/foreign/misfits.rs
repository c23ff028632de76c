//! What is said of weights of other networks, and of weights in other wrappers.

use std::fs;

use rsflow_model::nn::networks::{Network, ResNet};

use super::super::write;
use super::{Weight, dict, import, object, state, storages, weights_of};

fn renamed(change: impl Fn(&str) -> Option<String>) -> Vec<Weight> {
    let weights = state().into_iter().filter_map(|weight| {
        let name = change(&weight.name)?;
        Some(Weight { name, ..weight })
    });
    weights.collect()
}

fn and(mut weights: Vec<Weight>, names: &[&str]) -> Vec<Weight> {
    weights.extend(names.iter().map(|&name| Weight {
        name: name.to_owned(),
        shape: vec![2],
        values: vec![0.5; 2],
    }));
    weights
}

fn under(prefixes: &[&str]) -> Vec<Weight> {
    let each = prefixes.iter();
    each.flat_map(|prefix| renamed(|name| Some(format!("{prefix}{name}"))))
        .collect()
}

#[test]
fn weights_of_other_networks_say_what_they_are() {
    let resnet = |depth| Network::ResNet(ResNet { depth, width: 2 });
    let all = |name: &str| Some(name.to_owned());
    let stem = |name: &str| Some(name.replace("conv1.weight", "conv1.0.weight"));
    let cases: Vec<(Vec<Weight>, &[&str])> = vec![
        (
            weights_of(&resnet(34)),
            &["they are those of ResNet(depth: 34, width: 2): --arch resnet34"],
        ),
        (
            weights_of(&resnet(50)),
            &["they are those of ResNet(depth: 50, width: 2): --arch resnet50"],
        ),
        (
            renamed(stem),
            &[
                "\"conv1.0.weight\" is of a residual network with a stem of three",
                "There are resnet18",
            ],
        ),
        (
            and(
                vec![],
                &["blocks.0.0.se.conv_reduce.weight", "conv_stem.weight"],
            ),
            &["is of a network with squeeze-and-excitation"],
        ),
        (
            and(vec![], &["conv_stem.weight", "bn1.weight"]),
            &[
                "\"conv_stem.weight\" is of an EfficientNet, MobileNetV3 or deeper MobileNetV2 of timm",
            ],
        ),
        (
            and(vec![], &["cls_token", "pos_embed"]),
            &["\"cls_token\" is of a vision transformer"],
        ),
        (
            and(vec![], &["a.weight", "b.weight"]),
            &["is it another network? Missing: \"conv1.weight\""],
        ),
        (
            renamed(|name| all(name).filter(|name| !name.starts_with("fc."))),
            &[
                "it has no classifier",
                "Missing: \"fc.weight\"; \"fc.bias\"",
            ],
        ),
        (
            renamed(|name| all(name).filter(|name| !name.contains("running_"))),
            &["its norms have no running statistics"],
        ),
        (
            and(state(), &["aux.weight"]),
            &["it has all of the network, and more, such as \"aux.weight\""],
        ),
        (
            and(under(&["model."]), &["criterion.weight"]),
            &[
                "some names begin with \"model.\", others do not, such as \"criterion.weight\"",
                "if name.startswith(\"model.\")}",
            ],
        ),
        (
            and(under(&["module.encoder_q."]), &["module.queue"]),
            &["begin with \"module.encoder_q.\", others do not, such as \"module.queue\""],
        ),
        (
            under(&["student.", "teacher."]),
            &["several networks, under \"student\" and \"teacher\""],
        ),
        (
            renamed(|name| match name.contains("bn") {
                true => Some(format!("module.{name}")),
                false => all(name),
            }),
            &[
                "some names begin with \"module.\", others do not, such as \"conv1.weight\"",
                "`{name.removeprefix(\"module.\"): t for name, t in state.items()}`",
            ],
        ),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.pth");
    for (weights, expected) in cases {
        fs::write(&path, write::zip(&dict(&weights, ""), &storages(&weights))).unwrap();
        let said = format!("{:#}", import(&path, None).err().unwrap());
        for part in expected {
            assert!(said.contains(part), "{part:?} is not in: {said}");
        }
    }
}

#[test]
fn objects_that_are_no_weights_say_what_to_save() {
    let of = |module, name| object(module, name, write::dict(&[]));
    let load = write::call(write::global("torch.storage", "_load_from_bytes"), &[]);
    let cases = [
        (
            of("torchvision.models.resnet", "ResNet"),
            "it holds torchvision.models.resnet.ResNet, which is neither",
        ),
        (
            of("torchvision.models.resnet", "ResNet"),
            "`torch.load(FILE, weights_only=False)` if you trust it, and save `model.state_dict()` alone",
        ),
        (
            of("__torch__.torchvision.models.resnet", "ResNet"),
            "it is a TorchScript archive",
        ),
        (
            load,
            "`pickle.dump` wrote it; save `model.state_dict()` with `torch.save`",
        ),
        (
            of("torch.optim.lr_scheduler", "StepLR"),
            "it holds torch.optim.lr_scheduler.StepLR",
        ),
        (
            write::list(&[]),
            "its value is not a dict; save `model.state_dict()`",
        ),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.pth");
    for (code, expected) in cases {
        fs::write(&path, write::zip(&code, &storages(&[]))).unwrap();
        let said = format!("{:#}", import(&path, None).err().unwrap());
        assert!(said.contains(expected), "{expected:?} is not in: {said}");
    }
}
