//! What programs write around the weights of a network, and what is no weight.

mod bombs;
mod images;
mod misfits;
mod timm;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rsflow_model::checkpoint::{Checkpoint, Metadata, Snapshot, write_atomically};
use rsflow_model::exchange::pth::{self, Import, Layout};
use rsflow_model::nn::compute::ExecConfig;
use rsflow_model::nn::layers;
use rsflow_model::nn::networks::{MobileNetV2, Network, ResNet};
use rsflow_model::nn::parameters::WeightInit;
use rsflow_model::nn::switchable::SwitchableNetwork;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use tch::Kind;

use super::write::{self, Code};
use super::{unit, values};

/// A tensor of a state dict.
#[derive(Clone)]
struct Weight {
    name: String,
    shape: Vec<i32>,
    values: Vec<f32>,
}

fn small() -> Network {
    Network::ResNet(ResNet {
        depth: 18,
        width: 2,
    })
}

fn state() -> Vec<Weight> {
    weights_of(&small())
}

/// The state dict of a network with three classes, as torchvision names it.
fn weights_of(network: &Network) -> Vec<Weight> {
    let declared = layers::declare(&network.layers(3).unwrap(), &(&[64]).into());
    let weights = declared.iter().map(|declaration| {
        let name = declaration.name.replace(".64.", ".");
        let values = unit(&name, declaration.numel() as usize);
        Weight {
            values: values.map(|u| u as f32).collect(),
            shape: declaration.shape.iter().map(|&size| size as i32).collect(),
            name,
        }
    });
    weights.collect()
}

/// The pickled dict of these weights, each in a storage of its name, with a prefix.
fn dict(weights: &[Weight], prefix: &str) -> Code {
    let entries = weights.iter().map(|weight| {
        let name = format!("{prefix}{}", weight.name);
        (name, write::tensor(&weight.name, &weight.shape))
    });
    let entries: Vec<(String, Code)> = entries.collect();
    let entries: Vec<(&str, Code)> = entries
        .iter()
        .map(|(name, code)| (name.as_str(), code.clone()))
        .collect();
    write::dict(&entries)
}

fn storages(weights: &[Weight]) -> BTreeMap<String, Vec<f32>> {
    let each = weights.iter();
    each.map(|weight| (weight.name.clone(), weight.values.clone()))
        .collect()
}

fn import(path: &Path, key: Option<&str>) -> anyhow::Result<pth::Imported> {
    import_as("resnet18", path, key)
}

fn import_as(arch: &str, path: &Path, key: Option<&str>) -> anyhow::Result<pth::Imported> {
    let network = Network::by_name(arch).unwrap();
    let what = Import {
        network: &network,
        resolutions: &[64],
        class_names: None,
        key,
        config: None,
        fraction: None,
    };
    pth::import(path, what)
}

/// An object as pickle writes one: made without a call, then given its state.
fn object(module: &str, name: &str, state: Code) -> Code {
    [write::global(module, name), b")\x81".to_vec(), state].concat()
}

#[test]
fn weights_are_found_in_what_programs_write_around_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.pth");
    let weights = state();
    let averaged: Vec<Weight> = weights
        .iter()
        .cloned()
        .map(|mut weight| {
            weight.name.push_str(" averaged");
            weight.values.fill(0.25);
            weight
        })
        .collect();
    let sd = dict(&weights, "");
    // Its storages are others.
    let ema = {
        let tensors = averaged.iter().zip(&weights);
        let entries = tensors.map(|(averaged, weight)| {
            let tensor = write::tensor(&averaged.name, &weight.shape);
            (weight.name.as_str(), tensor)
        });
        write::dict(&entries.collect::<Vec<_>>())
    };
    let options = write::dict(&[("lr", write::int(1)), ("out", write::text("runs"))]);
    let namespace = [
        object("argparse", "Namespace", options.clone()),
        b"b".to_vec(),
    ]
    .concat();
    let items = [b"(", &write::text("lr")[..], &write::int(1), b"u"].concat();
    let attributes = object("lightning_fabric.utilities.data", "AttributeDict", items);
    let path_object = write::call(
        write::global("pathlib", "PosixPath"),
        &[write::text("/"), write::text("tmp")],
    );
    let array = [
        write::call(
            write::global("numpy.core.multiarray", "_reconstruct"),
            &[
                write::global("numpy", "ndarray"),
                write::ints(&[0]),
                write::text("b"),
            ],
        ),
        write::tuple(&[write::int(1), write::ints(&[2])]),
        b"b".to_vec(),
    ]
    .concat();
    let set = [b"\x8f(", &write::int(1)[..], b"\x90"].concat();
    // What is in the file; what is asked for; the key, the other keys and the prefix that are reported.
    type Case<'a> = (
        Code,
        Option<&'a str>,
        Option<&'a str>,
        &'a [&'a str],
        &'a str,
    );
    let cases: Vec<Case> = vec![
        (sd.clone(), None, None, &[], ""),
        (
            write::dict(&[("state_dict", sd.clone()), ("epoch", write::int(5))]),
            None,
            Some("state_dict"),
            &[],
            "",
        ),
        (
            write::dict(&[("model", sd.clone()), ("args", namespace.clone())]),
            None,
            Some("model"),
            &[],
            "",
        ),
        (
            write::dict(&[("args", namespace), ("state_dict", sd.clone())]),
            None,
            Some("state_dict"),
            &[],
            "",
        ),
        (
            write::dict(&[("model_state_dict", sd.clone()), ("path", path_object)]),
            None,
            Some("model_state_dict"),
            &[],
            "",
        ),
        (
            write::dict(&[("net", sd.clone()), ("random", array), ("set", set)]),
            None,
            Some("net"),
            &[],
            "",
        ),
        (
            write::dict(&[("backbone", sd.clone()), ("options", options)]),
            None,
            Some("backbone"),
            &[],
            "",
        ),
        (
            write::dict(&[("model_ema", ema.clone()), ("model", sd.clone())]),
            None,
            Some("model"),
            &["\"model_ema\""],
            "",
        ),
        (
            write::dict(&[("model_ema", sd.clone()), ("model", ema.clone())]),
            Some("model_ema"),
            Some("model_ema"),
            &["\"model\""],
            "",
        ),
        (
            write::dict(&[("state_dict_ema", sd.clone())]),
            None,
            Some("state_dict_ema"),
            &[],
            "",
        ),
        (dict(&weights, "module."), None, None, &[], "module."),
        (dict(&weights, "_orig_mod."), None, None, &[], "_orig_mod."),
        (
            dict(&weights, "module._orig_mod."),
            None,
            None,
            &[],
            "module._orig_mod.",
        ),
        (
            write::dict(&[
                ("state_dict", dict(&weights, "model.")),
                ("hyper_parameters", attributes),
            ]),
            None,
            Some("state_dict"),
            &[],
            "model.",
        ),
        (
            dict(&weights, "student.net."),
            None,
            None,
            &[],
            "student.net.",
        ),
    ];
    let mut all = storages(&weights);
    all.extend(storages(&averaged));
    for (code, asked, key, others, prefix) in cases {
        fs::write(&path, write::zip(&code, &all)).unwrap();
        let imported = import(&path, asked).unwrap();
        let quoted = key.map(|key| format!("{key:?}"));
        assert_eq!((&imported.key, &imported.prefix[..]), (&quoted, prefix));
        assert_eq!(imported.other_keys, others);
        check(&imported, &weights, folder.path());
    }

    // Without a pickle.
    let bytes: Vec<Vec<u8>> = weights
        .iter()
        .map(|weight| weight.values.iter().flat_map(|x| x.to_le_bytes()).collect())
        .collect();
    let views = weights.iter().zip(&bytes).map(|(weight, bytes)| {
        let shape = weight.shape.iter().map(|&size| size as usize).collect();
        let view = TensorView::new(Dtype::F32, shape, bytes).unwrap();
        (format!("model.{}", weight.name), view)
    });
    let file = safetensors::serialize(views.collect::<Vec<_>>(), None).unwrap();
    fs::write(&path, &file).unwrap();
    let imported = import(&path, None).unwrap();
    assert_eq!(imported.prefix, "model.");
    check(&imported, &weights, folder.path());
    let said = import(&path, Some("model")).err().unwrap();
    assert!(format!("{said:#}").contains("leave --key out"), "{said:#}");
    fs::write(&path, &file[..file.len() - 1]).unwrap();
    let said = format!("{:#}", import(&path, None).err().unwrap());
    assert!(said.contains("the file is truncated"), "{said}");
}

/// The imported network has these weights, and the width of their shapes.
fn check(imported: &pth::Imported, weights: &[Weight], folder: &Path) {
    assert_eq!(imported.layout, Layout::Torchvision);
    assert_eq!(imported.snapshot.metadata().network, small());
    let path = folder.join("imported.safetensors");
    write_atomically(&imported.snapshot, &path).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    for weight in weights {
        let (layer, part) = weight.name.rsplit_once('.').unwrap();
        let norm = format!("{layer}.64.{part}");
        let name = match checkpoint.contains(&norm) {
            true => &norm,
            false => &weight.name,
        };
        let tensor = &checkpoint.read([name.as_str()]).unwrap()[0];
        let expected = weight.values.iter().map(|&x| f64::from(x));
        assert!(values(tensor).unwrap().into_iter().eq(expected), "{name}");
    }
}

/// What the import of a state dict says after `change` of its tensors' code.
fn said_of(weights: &[Weight], change: impl Fn(&str, Code) -> Code) -> String {
    let entries = weights.iter().map(|weight| {
        let tensor = write::tensor(&weight.name, &weight.shape);
        (weight.name.as_str(), change(&weight.name, tensor))
    });
    let code = write::dict(&entries.collect::<Vec<_>>());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.pth");
    fs::write(&path, write::zip(&code, &storages(weights))).unwrap();
    match import(&path, None) {
        Ok(_) => "imported".to_owned(),
        Err(error) => format!("{error:#}"),
    }
}

#[test]
fn what_is_no_weight_is_refused_by_name() {
    let weights = state();
    assert_eq!(said_of(&weights, |_, tensor| tensor), "imported");
    let value_of = |name: &str, value: f32| {
        let mut weights = weights.clone();
        let weight = weights.iter_mut().find(|weight| weight.name == name);
        weight.unwrap().values[1] = value;
        said_of(&weights, |_, tensor| tensor)
    };
    // The seventh argument of `_rebuild_tensor_v2`, before the end of the tuple and the call.
    let with_properties = |properties: Code| {
        said_of(&weights, |name, tensor| match name {
            "fc.bias" => {
                let (arguments, end) = tensor.split_at(tensor.len() - 2);
                [arguments, &properties, end].concat()
            }
            _ => tensor,
        })
    };
    let stored_as = |class: &str, scale: i32| {
        said_of(&weights, |name, tensor| match name {
            "fc.bias" => write::view(class, "fc.bias", 12 / scale, &[3], &[1], 0),
            _ => tensor,
        })
    };
    assert_eq!(with_properties(write::dict(&[])), "imported");
    assert_eq!(with_properties(b"N".to_vec()), "imported");
    let negated = with_properties(write::dict(&[("neg", vec![0x88])]));
    let cases: Vec<(String, &[&str])> = vec![
        (
            negated,
            &["\"fc.bias\"", "properties [\"neg\"]", "resolve_neg"],
        ),
        (
            with_properties(write::dict(&[("conj", vec![0x88]), ("x", write::int(1))])),
            &["\"fc.bias\"", "\"conj\", \"x\""],
        ),
        (
            with_properties(write::int(3)),
            &["\"fc.bias\"", "properties"],
        ),
        (
            with_properties([b"N".to_vec(), b"N".to_vec()].concat()),
            &["unknown meaning"],
        ),
        (
            stored_as("IntStorage", 4),
            &["\"fc.bias\" has the dtype int32"],
        ),
        (
            stored_as("BoolStorage", 1),
            &["\"fc.bias\" has the dtype bool"],
        ),
        (
            value_of("fc.bias", f32::NAN),
            &["\"fc.bias\" holds values that are not finite"],
        ),
        (
            value_of("fc.weight", f32::INFINITY),
            &["\"fc.weight\" holds values"],
        ),
        (
            value_of("layer4.1.bn2.running_var", -1e-3),
            &["\"layer4.1.bn2.running_var\" holds negative values"],
        ),
    ];
    for (said, expected) in cases {
        for part in expected {
            assert!(said.contains(part), "{part:?} is not in: {said}");
        }
    }
    assert_eq!(value_of("layer4.1.bn2.running_var", -0.0), "imported");
}

/// PyTorch names the folder of an archive as the file. Headers of the archive's directory are as long as
/// their names.
#[test]
fn an_archive_is_read_whatever_its_name() {
    let weights = state();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.pth");
    for length in 1..=64 {
        let file = write::zip_in(
            &"n".repeat(length),
            &dict(&weights, ""),
            &storages(&weights),
        );
        for file in [file.clone(), write::with_zip64_records(file)] {
            fs::write(&path, file).unwrap();
            let imported = import(&path, None);
            assert!(imported.is_ok(), "{length}: {:#}", imported.unwrap_err());
        }
    }
}

#[test]
fn a_file_without_one_state_dict_says_what_it_has() {
    let weights = state();
    let sd = dict(&weights, "");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.pth");
    let long = "x\u{1b}[31m".repeat(300_000);
    let evil = write::call(write::global("os", "system"), &[write::text("true")]);
    let module = object("torchvision.models.resnet", "ResNet", write::dict(&[]));
    let several = write::dict(&[("a", sd.clone()), ("b", sd.clone())]);
    let cases: Vec<(Code, Option<&str>, &[&str])> = vec![
        (
            several.clone(),
            None,
            &["several state dicts; --key names one: \"a\"; \"b\""],
        ),
        (
            several,
            Some("c"),
            &["no weights under the key \"c\"", "\"a\"; \"b\""],
        ),
        (
            write::dict(&[("epoch", write::int(3))]),
            None,
            &["no tensors, but \"epoch\"", "`model.state_dict()`"],
        ),
        (write::dict(&[]), None, &["no tensors, but nothing"]),
        (
            write::dict(&[("state_dict", write::int(3))]),
            None,
            &["no tensors, but \"state_dict\""],
        ),
        (
            write::dict(&[("state_dict", sd.clone()), ("x", evil)]),
            None,
            &["it holds os.system"],
        ),
        (
            module,
            None,
            &[
                "it holds torchvision.models.resnet.ResNet",
                "save `model.state_dict()`",
            ],
        ),
        (
            write::global("a", &long),
            None,
            &["it holds a.x\\u{1b}[31m", "characters"],
        ),
        (
            write::dict(&[(&long, write::tensor("fc.bias", &[3]))]),
            None,
            &["Not in the network: \"x\\u{1b}[31m", "characters"],
        ),
        (
            write::dict(&[(&long, write::int(1))]),
            None,
            &["characters"],
        ),
        (
            write::dict(&[
                ("fc.bias", write::tensor("fc.bias", &[3])),
                ("fc.bias", write::tensor("fc.bias", &[3])),
            ]),
            None,
            &["\"fc.bias\" is there twice"],
        ),
        (
            write::dict(&[
                ("fc.bias", write::tensor("fc.bias", &[3])),
                ("epoch", write::int(1)),
            ]),
            None,
            &["\"epoch\" of its state dict is not a tensor"],
        ),
    ];
    for (code, key, expected) in cases {
        fs::write(&path, write::zip(&code, &storages(&weights))).unwrap();
        let said = format!("{:#}", import(&path, key).err().unwrap());
        for part in expected {
            assert!(said.contains(part), "{part:?} is not in: {said:.3000}");
        }
        assert!(
            said.len() < 3000 && !said.contains('\u{1b}'),
            "{said:.3000}"
        );
    }
}

#[test]
fn an_exported_network_of_any_width_comes_back() {
    // Its width is that of the shapes.
    let shapes = |network: &Network| -> BTreeMap<String, Vec<i64>> {
        let declared = layers::declare(&network.layers(1).unwrap(), &(&[64]).into());
        declared.into_iter().map(|d| (d.name, d.shape)).collect()
    };
    let resnets = [1, 2, 16, 63, 64, 100, 4096].map(|width| {
        let network = Network::ResNet(ResNet { depth: 50, width });
        ("resnet50", network)
    });
    let widths = (1..60).map(|step| 0.017 * f64::from(step * step));
    let mobile = widths.chain([0.25, 0.35, 0.5, 0.75, 1.0, 1.4, 2.0, 1.0 / 3.0, 16.0]);
    let mobile = mobile.filter(|&width| width <= 16.0);
    let mobile = mobile.map(|width| {
        let network = Network::MobileNetV2(MobileNetV2 { width });
        ("mobilenet_v2", network)
    });
    for (name, network) in resnets.into_iter().chain(mobile) {
        let shapes_there = shapes(&network);
        let found = Network::by_name(name).unwrap();
        let found = found.with_width_of(|name| shapes_there.get(name).cloned());
        assert_eq!(shapes(&found), shapes_there, "{found} for {network}");
    }
    // Of all widths with these channels it is the one that was meant.
    for width in [0.1, 0.25, 0.35, 0.5, 0.75, 1.0, 1.3, 1.4, 2.0, 0.17] {
        let network = Network::MobileNetV2(MobileNetV2 { width });
        let shapes_there = shapes(&network);
        let found = Network::by_name("mobilenet_v2").unwrap();
        assert_eq!(
            found.with_width_of(|name| shapes_there.get(name).cloned()),
            network
        );
    }
    let half = Network::by_name("mobilenet_v2_x0.5").unwrap();
    assert_eq!(half.with_width_of(|_| Some(vec![8])), half, "it was named");

    // Out and in again, with the same values.
    let folder = tempfile::tempdir().unwrap();
    let [first, exported, second] = ["first", "exported", "second"]
        .map(|name| folder.path().join(format!("{name}.safetensors")));
    let start = WeightInit::Random { seed: 3 };
    let compute = ExecConfig::cpu(Kind::Float);
    let net = SwitchableNetwork::new(&small(), 3, &[64, 32], compute, start).unwrap();
    let classes = vec![String::new(); 3];
    let metadata = Metadata::new(small(), classes, vec![64, 32]);
    let snapshot = Snapshot::take(metadata, net.parameters(), []).unwrap();
    write_atomically(&snapshot, &first).unwrap();
    let before = Checkpoint::open(&first).unwrap();
    pth::export(&before, pth::Names::Reference, "", &exported).unwrap();
    let network = Network::by_name("resnet18").unwrap();
    let what = Import {
        network: &network,
        resolutions: &[64, 32],
        class_names: None,
        key: None,
        config: None,
        fraction: None,
    };
    let imported = pth::import(&exported, what).unwrap();
    assert_eq!(imported.layout, Layout::Reference);
    assert_eq!(imported.snapshot.metadata().network, small());
    write_atomically(&imported.snapshot, &second).unwrap();
    let after = Checkpoint::open(&second).unwrap();
    for name in before.names() {
        let [before, after] =
            [&before, &after].map(|file| values(&file.read([name.as_str()]).unwrap()[0]).unwrap());
        assert_eq!(before, after, "{name}");
    }
    let said = format!("{:#}", pth::import(&first, what).err().unwrap());
    assert!(
        said.contains("it is a checkpoint of rsflow already"),
        "{said}"
    );
}
