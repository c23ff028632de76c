//! Files that are damaged, or made to do harm.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rsflow_model::checkpoint::{Checkpoint, Metadata, Snapshot, write_atomically};
use rsflow_model::nn::compute::ExecConfig;
use rsflow_model::nn::parameters::WeightInit;
use rsflow_model::nn::switchable::SwitchableNetwork;
use serde_json::{Value, json};
use tch::Kind;
use tempfile::TempDir;

use super::counting::{peak, watched};
use super::small::resnet;
use super::{metadata, mutants};

const SIZES: [u32; 2] = [64, 32];

/// A network with one channel in its first stage, so that its file is read in no time.
fn smallest() -> SwitchableNetwork {
    let start = WeightInit::Random { seed: 1 };
    SwitchableNetwork::new(
        &resnet(18, 1),
        3,
        &SIZES,
        ExecConfig::cpu(Kind::Float),
        start,
    )
    .unwrap()
}

/// A checkpoint with momentum.
fn sound() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("last.safetensors");
    let net = smallest();
    let momentum = net.parameters().trainable();
    let momentum = momentum.map(|p| (format!("momentum/{}", p.name), &p.tensor));
    let metadata = Metadata {
        network: net.network().clone(),
        ..metadata(&SIZES)
    };
    let snapshot = Snapshot::take(metadata, net.parameters(), momentum);
    write_atomically(&snapshot.unwrap(), &path).unwrap();
    (folder, path)
}

/// The header of a file, and the bytes of its tensors.
fn parts(bytes: &[u8]) -> (Value, Vec<u8>) {
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    (header, bytes[8 + length..].to_vec())
}

fn file_of(header: &str, data: &[u8]) -> Vec<u8> {
    [
        &(header.len() as u64).to_le_bytes(),
        header.as_bytes(),
        data,
    ]
    .concat()
}

/// The same file as an earlier version wrote it, without checksums, after `change` of its metadata.
fn old(bytes: &[u8], change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let (mut header, data) = parts(bytes);
    let text = header["__metadata__"]["rsflow"].as_str().unwrap();
    let mut metadata = serde_json::from_str(text).unwrap();
    change(&mut metadata);
    header["__metadata__"] = json!({ "rsflow": metadata.to_string() });
    file_of(&header.to_string(), &data)
}

/// Loads all of a file: network and momentum.
fn load(path: &Path, net: &SwitchableNetwork) -> anyhow::Result<()> {
    let checkpoint = Checkpoint::open(path)?;
    checkpoint.load(net)?;
    checkpoint.optimizer()?;
    Ok(())
}

#[test]
fn every_flipped_bit_is_noticed() {
    let (_folder, path) = sound();
    let bytes = fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let text = String::from_utf8_lossy(&bytes[..header]);
    let keys = ["rsflow.header_sum", "rsflow.tensor_sums", "__metadata__"];
    let keys = keys.map(|key| text.find(key).unwrap());
    assert_eq!(bytes[header - 1], b' ', "there is padding");
    // All bits of the length, those around the keys, of the padding; spread over header and tensors.
    let spread = |from: usize, to: usize, count: usize| {
        (0..count).map(move |at| 8 * from + at * (8 * (to - from)) / count + at % 8)
    };
    let bits = (0..64)
        .chain(keys.into_iter().flat_map(|at| spread(at, at + 24, 24)))
        .chain(8 * header - 8..8 * header)
        .chain(spread(8, header, 100))
        .chain(spread(header, bytes.len(), 160))
        .filter(|bit| *bit < 8 * bytes.len());
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    let net = smallest();
    let mut flips = 0;
    for bit in bits {
        let (at, mask) = (bit / 8, 1 << (bit % 8));
        file.write_all_at(&[bytes[at] ^ mask], at as u64).unwrap();
        let said = load(&path, &net).expect_err(&format!("bit {bit} of byte {at}"));
        let said = format!("{said:#}");
        assert!(said.contains("last.safetensors"), "{said}");
        if at >= header {
            assert!(
                said.contains("it is damaged: its checksum differs"),
                "{said}"
            );
            let name = text.split('"').any(|name| {
                name.contains('.') && said.contains(&format!("cannot read \"{name}\""))
            });
            assert!(name || said.contains("\"alpha\""), "{said}");
        }
        file.write_all_at(&bytes[at..=at], at as u64).unwrap();
        flips += 1;
    }
    assert!(flips >= 300, "{flips}");
    load(&path, &net).unwrap();
    Checkpoint::open(&path).unwrap().verify().unwrap();
}

#[test]
fn damage_elsewhere_does_not_matter_and_verify_finds_it() {
    let (folder, path) = sound();
    let mut bytes = fs::read(&path).unwrap();
    let sums = Checkpoint::open(&path).unwrap();
    assert!(sums.has_sums());
    // Other readers take the checksums for a text.
    safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let before = old(&bytes, |_| {});

    // The last tensor is a momentum buffer.
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, &bytes).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let net = smallest();
    checkpoint.load(&net).unwrap();
    for said in [
        checkpoint.optimizer().unwrap_err(),
        checkpoint.verify().unwrap_err(),
    ] {
        let said = format!("{said:#}");
        assert!(said.contains("cannot read \"momentum/"), "{said}");
    }

    // Without checksums: what is possible.
    let path = folder.path().join("old.safetensors");
    fs::write(&path, &before).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    assert!(!checkpoint.has_sums());
    checkpoint.verify().unwrap();
    checkpoint.load(&net).unwrap();
    let at = before.len() - 4;
    fs::write(&path, [&before[..at], &f32::NAN.to_le_bytes()].concat()).unwrap();
    let said = Checkpoint::open(&path).unwrap().verify().unwrap_err();
    let said = format!("{said:#}");
    assert!(said.contains("old.safetensors is not sound"), "{said}");
    assert!(said.contains("\"momentum/"), "{said}");
    assert!(said.contains("not finite"), "{said}");
}

/// The network at its own resolutions, and the momentum.
fn read_all(path: &Path) -> anyhow::Result<()> {
    let checkpoint = Checkpoint::open(path)?;
    let sizes = &checkpoint.metadata().resolutions;
    checkpoint.network(sizes, sizes, ExecConfig::cpu(Kind::Float))?;
    checkpoint.optimizer()?;
    Ok(())
}

/// What a file that was changed says, however it is read, and that it takes little memory. `expected`
/// must be in the message.
fn refused(path: &Path, bytes: &[u8], expected: &str) {
    fs::write(path, bytes).unwrap();
    let (said, memory) = watched(|| read_all(path));
    let said = format!("{:#}", said.expect_err(expected));
    assert!(said.contains(expected), "{expected:?} is not in: {said}");
    assert!(said.contains("hostile.safetensors"), "{said}");
    assert!(!said.contains("frame #"), "{said}");
    assert!(said.len() < 3000, "{} bytes: {said}", said.len());
    let most = 32 * bytes.len() + (1 << 20);
    assert!(memory <= most, "{memory} bytes for {}: {said}", bytes.len());
    if let Ok(checkpoint) = Checkpoint::open(path) {
        checkpoint.verify().expect_err(expected);
    }
}

#[test]
fn what_is_not_written_is_not_read() {
    let (folder, path) = sound();
    let bytes = fs::read(&path).unwrap();
    let (header, data) = parts(&bytes);
    let path = folder.path().join("hostile.safetensors");
    let cases: [(&str, &[f32], &str); 6] = [
        ("layer2.0.conv1.weight", &[], "not finite"),
        ("bn1.32.bias", &[], "not finite"),
        ("fc.bias", &[], "not finite"),
        ("alpha", &[], "not finite"),
        ("momentum/fc.weight", &[], "not finite"),
        ("layer4.0.bn1.64.running_var", &[-1e-9], "negative values"),
    ];
    for (name, values, expected) in cases {
        let infinite = [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
        for value in infinite.iter().chain(values) {
            let end = header[name]["data_offsets"][1].as_u64().unwrap() as usize;
            let mut data = data.clone();
            data[end - 4..end].copy_from_slice(&value.to_le_bytes());
            let expected = match value.is_finite() {
                true => expected,
                false => "not finite",
            };
            let mut header = header.clone();
            let metadata = header["__metadata__"].as_object_mut().unwrap();
            metadata.retain(|key, _| key == "rsflow");
            let bytes = file_of(&header.to_string(), &data);
            refused(&path, &bytes, &format!("{name:?} holds"));
            refused(&path, &bytes, expected);
        }
    }
}

#[test]
fn hostile_checkpoints_are_refused_by_name_in_little_memory() {
    let (folder, path) = sound();
    let bytes = fs::read(&path).unwrap();
    let path = folder.path().join("hostile.safetensors");
    let net = smallest();
    let before = peak();
    let set = |key: &str, value: Value| {
        let pointer = format!("/{}", key.replace('.', "/"));
        old(&bytes, |metadata| match metadata.pointer_mut(&pointer) {
            Some(place) => *place = value,
            None => metadata[key] = value,
        })
    };
    let many = |value: Value, count: usize| Value::Array(vec![value; count]);
    let residual = |depth: u32, width: u32| json!({"ResNet": {"depth": depth, "width": width}});
    let normalize =
        |mean: f64, std: f64| json!({"mean": [mean, mean, mean], "std": [1.0, std, 1.0]});
    let metadata: Vec<(&str, Value, &str)> = vec![
        // Networks that the tensors do not fit; some would take gigabytes.
        (
            "network",
            residual(50, 1000),
            "\"conv1.weight\" must have the shape [1000, 3, 7, 7], not [1, 3, 7, 7]",
        ),
        (
            "network",
            residual(152, 4096),
            "must have the shape [4096, 3, 7, 7]",
        ),
        ("network", residual(34, 1), "is missing"),
        (
            "network",
            json!({"MobileNetV2": {"width": 16.0}}),
            "is missing",
        ),
        ("network", residual(18, 0), "`width` must be from 1 to 4096"),
        (
            "network",
            residual(18, 4097),
            "`width` must be from 1 to 4096",
        ),
        ("network", residual(19, 4), "`depth` must be one of"),
        (
            "network",
            json!({"MobileNetV2": {"width": 1e300}}),
            "`width` must be above 0",
        ),
        (
            "network",
            json!({"ResNet": {"depth": -1, "width": 4}}),
            "entry is damaged",
        ),
        (
            "network",
            json!({"ResNet": {"depth": 1e18, "width": 4}}),
            "entry is damaged",
        ),
        ("network", json!({"Transformer": {}}), "unknown variant"),
        ("network", json!("x".repeat(1 << 20)), "entry is damaged"),
        ("classes", json!([]), "`classes` is empty"),
        (
            "classes",
            many(json!(""), 300_000),
            "\"fc.weight\" must have the shape [300000, 8]",
        ),
        ("classes", many(json!(["x"]), 1000), "entry is damaged"),
        ("resolutions", json!([]), "`resolutions` is empty"),
        ("resolutions", json!([64, 64]), "listed twice"),
        ("resolutions", json!([64, 1]), "too small"),
        ("resolutions", json!([64, 1_000_000]), "too large"),
        ("resolutions", json!([64, -32]), "entry is damaged"),
        (
            "resolutions",
            many(json!(64), 500_000),
            "500000 resolutions",
        ),
        (
            "resolutions",
            json!([64, 96]),
            "\"bn1.96.weight\" is missing",
        ),
        (
            "resolutions",
            json!([64]),
            "\"alpha\" must have the shape [1], not [2]",
        ),
        ("calibrated", json!([64]), "listed twice"),
        ("calibrated", many(json!(64), 500_000), "500002 resolutions"),
        (
            "normalize",
            normalize(0.5, 0.0),
            "`normalize.std` must be positive",
        ),
        (
            "normalize",
            normalize(0.5, -1.0),
            "`normalize.std` must be positive",
        ),
        (
            "normalize",
            normalize(0.5, 1e-60),
            "`normalize.std` must be positive",
        ),
        (
            "normalize",
            normalize(0.5, 1e60),
            "`normalize.std` must be positive",
        ),
        (
            "normalize",
            normalize(1e60, 1.0),
            "`normalize.mean` must be finite",
        ),
        (
            "normalize",
            json!({"mean": [0, 0, 0], "std": [null, 1, 1]}),
            "entry is damaged",
        ),
        (
            "loss_scale",
            json!({"scale": 0.0, "steps": 1}),
            "`loss_scale` must be positive",
        ),
        (
            "loss_scale",
            json!({"scale": 8.0, "steps": -1}),
            "`loss_scale` must be positive",
        ),
        ("epoch", json!(u64::MAX), "`epoch` is 18446744073709551615"),
        ("step", json!(u64::MAX), "`step` is"),
        ("sample_in_epoch", json!(u64::MAX), "`sample_in_epoch` is"),
        ("step_in_epoch", json!(u64::MAX), "`step_in_epoch` is"),
        ("steps_per_epoch", json!(u64::MAX), "`steps_per_epoch` is"),
        (
            "samples_per_epoch",
            json!(u64::MAX),
            "`samples_per_epoch` is",
        ),
        ("epoch", json!(-1), "entry is damaged"),
        ("seed", json!("x"), "entry is damaged"),
        ("format", json!(99), "the file has format 99"),
        ("format", json!(-1), "entry is damaged"),
        ("packed", json!(3), "entry is damaged"),
        ("channels", json!("Xyz"), "unknown variant"),
        (
            "preprocess",
            many(json!(0), 500_000),
            "`preprocess` is damaged",
        ),
        (
            "preprocess",
            json!({"resize": "x".repeat(500_000)}),
            "`preprocess` is damaged",
        ),
        ("recipe", json!(["x"]), "entry is damaged"),
        (
            "best",
            json!({"epoch": 0, "first_top1": "x", "mean": 1}),
            "entry is damaged",
        ),
    ];
    for (key, value, expected) in metadata {
        refused(&path, &set(key, value), expected);
    }

    let (header, data) = parts(&bytes);
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut header = header.clone();
        header["__metadata__"]
            .as_object_mut()
            .unwrap()
            .retain(|key, _| key == "rsflow");
        change(&mut header);
        file_of(&header.to_string(), &data)
    };
    let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let weight = r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    let raw = |header: &str| file_of(header, &data[..4]);
    let pickle = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.";
    let cases: Vec<(Vec<u8>, &str)> = vec![
        // What the header says of tensors.
        (
            changed(&|h| h["fc.bias"]["dtype"] = json!("I32")),
            "of floating-point numbers, not I32",
        ),
        (
            changed(&|h| h["fc.bias"]["dtype"] = json!("F64")),
            "header is damaged",
        ),
        (
            changed(&|h| h["fc.bias"]["dtype"] = json!("X1")),
            "unknown variant",
        ),
        (
            changed(&|h| h["fc.bias"]["shape"] = json!([3, 1])),
            "must have the shape [3], not [3, 1]",
        ),
        (
            changed(&|h| h["fc.bias"]["shape"] = json!([0])),
            "header is damaged",
        ),
        (
            changed(&|h| h["fc.bias"]["shape"] = json!([u64::MAX, 0])),
            "impossible shape",
        ),
        (
            changed(&|h| h["fc.bias"]["shape"] = json!([u64::MAX, u64::MAX])),
            "impossible shape",
        ),
        (
            changed(&|h| h["fc.bias"]["shape"] = json!([1_u64 << 40, 1_u64 << 40])),
            "header is damaged",
        ),
        (
            changed(&|h| h["fc.bias"]["shape"] = many(json!(1), 200_000)),
            "impossible shape",
        ),
        (
            changed(&|h| h["fc.bias"]["data_offsets"] = json!([0, 12])),
            "header is damaged",
        ),
        (
            changed(&|h| h["fc.bias"]["data_offsets"] = json!([12, 0])),
            "header is damaged",
        ),
        (
            changed(&|h| h["fc.bias"]["data_offsets"] = json!([0, u64::MAX])),
            "header is damaged",
        ),
        (
            changed(&|h| {
                h["x"] =
                    json!({"dtype": "F32", "shape": [0, 9], "data_offsets": [0, 0], "y": [0, 1]})
            }),
            "",
        ),
        (
            changed(&|h| drop(h.as_object_mut().unwrap().remove("fc.bias"))),
            "header is damaged",
        ),
        (
            changed(&|h| {
                let bias = h.as_object_mut().unwrap().remove("fc.bias").unwrap();
                h["x".repeat(1 << 20)] = bias;
            }),
            "\"fc.bias\" is missing",
        ),
        (
            changed(&|h| h["__metadata__"] = json!({})),
            "no `rsflow` entry",
        ),
        (
            changed(&|h| h["__metadata__"] = json!({"rsflow": ""})),
            "entry is damaged",
        ),
        (
            changed(&|h| h["__metadata__"]["rsflow"] = json!(nested)),
            "entry is damaged",
        ),
        (
            changed(&|h| h["__metadata__"]["rsflow"] = json!([1])),
            "header is damaged",
        ),
        (
            changed(&|h| h["__metadata__"]["rsflow.header_sum"] = json!("0")),
            "only one of two checksums",
        ),
        (
            changed(&|h| h["__metadata__"]["rsflow.tensor_sums"] = json!("0")),
            "only one of two checksums",
        ),
        (
            changed(&|h| {
                h["__metadata__"]["rsflow.tensor_sums"] = json!("0");
                h["__metadata__"]["rsflow.header_sum"] = json!("0");
            }),
            "its checksum differs",
        ),
        // Headers that are none.
        (raw(&nested), "header is damaged"),
        (raw(&format!(r#"{{"a":{nested}}}"#)), "header is damaged"),
        (
            raw(&format!(r#"{{"a":{weight},"a":{weight}}}"#)),
            "listed twice",
        ),
        (
            raw(&format!(
                r#"{{"__metadata__":{{}},"__metadata__":{{}},"a":{weight}}}"#
            )),
            "duplicate",
        ),
        (
            raw(&format!("[{}0]", "0,".repeat(500_000))),
            "header is damaged",
        ),
        (
            raw(&format!(r#"{{"a":[{}0]}}"#, "0,".repeat(500_000))),
            "header is damaged",
        ),
        (
            raw(&format!("{{{}\"a\":{weight}}}", r#""":0,"#.repeat(300_000))),
            "header is damaged",
        ),
        (raw("{}"), "the file is damaged"),
        (raw("\"\""), "header is damaged"),
        // Lengths that are none.
        ((u64::MAX).to_le_bytes().to_vec(), "does not begin like one"),
        (
            [&90_000_000_u64.to_le_bytes()[..], b"{}"].concat(),
            "truncated within its header",
        ),
        (
            [&0_u64.to_le_bytes()[..], b"{}"].concat(),
            "does not begin like one",
        ),
        (Vec::new(), "only 0 bytes"),
        // PyTorch's files.
        (
            b"PK\x03\x04\x00\x00\x08\x08".to_vec(),
            "`rsflow import` makes a checkpoint of it",
        ),
        (pickle.to_vec(), "`rsflow import` makes a checkpoint of it"),
    ];
    for (bytes, expected) in cases {
        if expected.is_empty() {
            // A tensor that nobody asks for is nobody's trouble.
            fs::write(&path, &bytes).unwrap();
            load(&path, &net).unwrap();
            continue;
        }
        refused(&path, &bytes, expected);
    }
    let more = peak() - before;
    assert!(more < 400 << 20, "{more} bytes more");
}

#[test]
fn mutants_of_a_checkpoint_are_read_or_refused() {
    let (folder, path) = sound();
    let bytes = old(&fs::read(&path).unwrap(), |_| {});
    let path = folder.path().join("mutant.safetensors");
    let (header, _) = parts(&bytes);
    let header = 8 + header.to_string().len();
    mutants::each(&bytes[..header], |mutant| {
        let length = (mutant.len() as u64 - mutant.len().min(8) as u64).to_le_bytes();
        // In most the length is right, so that more than the length is read.
        let start = match mutant.len() % 8 {
            0 => mutant.to_vec(),
            _ => [&length[..], &mutant[mutant.len().min(8)..]].concat(),
        };
        let file = [&start, &bytes[header..]].concat();
        fs::write(&path, &file).unwrap();
        let (read, memory) = watched(|| read_all(&path));
        assert!(memory <= 32 * file.len() + (1 << 20), "{memory} bytes");
        if let Err(error) = read {
            let said = format!("{error:#}");
            assert!(said.len() < 3000 && !said.contains("frame #"), "{said}");
        }
    });
}
