//! Files of PyTorch's: the reference's own, and some that are made here to be refused.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rsflow_model::checkpoint::{Checkpoint, write_atomically};
use rsflow_model::exchange::pth::names::reference_name;
use rsflow_model::exchange::pth::{self, Import, Imported, Layout, Momentum, Pth};
use rsflow_model::nn::compute::ExecConfig;
use rsflow_model::nn::layers::{self, Mode};
use rsflow_model::nn::networks::{MobileNetV2, Network};
use rsflow_model::nn::parameters::{Parameter, WeightInit};
use rsflow_model::nn::switchable::SwitchableNetwork;
use safetensors::SafeTensors;
use tch::{Kind, Tensor};

mod counting;
mod filled;
mod foreign;
mod mutants;
mod write;
use filled::{fill, unit, values};

const SIZES: [u32; 3] = [128, 112, 96];

fn network() -> Network {
    Network::MobileNetV2(MobileNetV2 { width: 0.25 })
}

fn case(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fixtures/reference/mobilenetv2_x0.25_mred")
        .join(file)
}

fn import(
    path: &Path,
    network: &Network,
    resolutions: &[u32],
    class_names: Option<&[String]>,
) -> anyhow::Result<Imported> {
    let what = Import {
        network,
        resolutions,
        class_names,
        key: None,
        config: None,
        fraction: None,
    };
    pth::import(path, what)
}

/// Imports a file and opens the checkpoint that was made of it.
fn imported(
    file: &Path,
    network: &Network,
    sizes: &[u32],
    folder: &Path,
) -> (Imported, Checkpoint) {
    let imported = import(file, network, sizes, None).unwrap();
    let path = folder.join("imported.safetensors");
    write_atomically(&imported.snapshot, &path).unwrap();
    (imported, Checkpoint::open(&path).unwrap())
}

fn net(checkpoint: &Checkpoint, kind: Kind) -> SwitchableNetwork {
    let (network, sizes) = (
        &checkpoint.metadata().network,
        &checkpoint.metadata().resolutions,
    );
    let classes = checkpoint.metadata().classes.len() as u32;
    let net = SwitchableNetwork::new(
        network,
        classes,
        sizes,
        ExecConfig::cpu(kind),
        WeightInit::Zeros,
    )
    .unwrap();
    checkpoint.load(&net).unwrap();
    net
}

fn their_name(parameter: &Parameter) -> String {
    reference_name(&network(), &parameter.name, parameter.resolution, &SIZES).unwrap()
}

#[test]
fn the_reference_s_checkpoints_give_its_tensors_and_logits() {
    let folder = tempfile::tempdir().unwrap();
    let expected = fs::read(case("expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&expected).unwrap();
    for file in ["checkpoint.pth.tar", "checkpoint_legacy.pth.tar"] {
        let (report, checkpoint) = imported(&case(file), &network(), &SIZES, folder.path());
        assert_eq!(report.layout, Layout::Reference);
        assert_eq!(report.momentum, Momentum::Imported(0), "{file}");
        let metadata = checkpoint.metadata();
        assert_eq!((metadata.epoch, metadata.sample_in_epoch), (7, 0));
        let best = metadata.best.unwrap();
        assert_eq!((best.epoch, best.score, best.mean), (6, 71.5, 80.25));
        assert_eq!(metadata.classes, vec![""; 10]);

        let single = net(&checkpoint, Kind::Float);
        assert_eq!(report.tensors, single.parameters().iter().count());
        for parameter in single.parameters().iter() {
            let filled = fill(parameter, &their_name(parameter)).unwrap();
            assert_eq!(values(&parameter.tensor).unwrap(), values(&filled).unwrap());
        }
        for (kind, tolerance) in [(Kind::Float, 1e-5), (Kind::Double, 1e-8)] {
            let net = net(&checkpoint, kind);
            for (position, size) in SIZES.into_iter().enumerate() {
                let count = 8 * 3 * (size * size) as usize;
                let pixels: Vec<f32> = unit(&format!("images_{size}"), count)
                    .map(|u| u as f32)
                    .collect();
                let shape = [8, 3, i64::from(size), i64::from(size)];
                let images = Tensor::from_slice(&pixels).reshape(shape).to_kind(kind);
                let logits = net.logits(&images, position, Mode::Evaluate).unwrap();
                let theirs = expected.tensor(&format!("eval_logits_{size}")).unwrap();
                let (theirs, _) = theirs.data().as_chunks::<8>();
                let theirs: Vec<f64> = theirs.iter().map(|x| f64::from_le_bytes(*x)).collect();
                let scale = theirs.iter().fold(0.0, |max: f64, x| max.max(x.abs()));
                for (ours, theirs) in values(&logits).unwrap().iter().zip(&theirs) {
                    assert!(
                        (ours - theirs).abs() <= tolerance * scale,
                        "{file} in {kind:?} at {size}: {ours} instead of {theirs}"
                    );
                }
            }
        }
    }
}

#[test]
fn what_is_exported_has_the_reference_s_names() {
    let folder = tempfile::tempdir().unwrap();
    let file = case("checkpoint.pth.tar");
    let (_, checkpoint) = imported(&file, &network(), &SIZES, folder.path());
    let case: serde_json::Value =
        serde_json::from_slice(&fs::read(case("expected.json")).unwrap()).unwrap();
    let sums = case["parameter_sums_before"].as_object().unwrap();
    for prefix in ["", "module."] {
        let path = folder.path().join("exported.safetensors");
        let count = pth::export(&checkpoint, pth::Names::Reference, prefix, &path).unwrap();
        let bytes = fs::read(&path).unwrap();
        let exported = SafeTensors::deserialize(&bytes).unwrap();
        let mut names: Vec<&str> = exported.names();
        names.sort_unstable();
        let mut expected: Vec<String> = sums.keys().map(|name| format!("{prefix}{name}")).collect();
        expected.sort_unstable();
        assert_eq!(names, expected);
        assert_eq!(count, expected.len());
        for parameter in net(&checkpoint, Kind::Float).parameters().iter() {
            let name = format!("{prefix}{}", their_name(parameter));
            let tensor = exported.tensor(&name).unwrap();
            let shape: Vec<i64> = tensor.shape().iter().map(|&size| size as i64).collect();
            assert_eq!(shape, parameter.tensor.size());
            let (floats, _) = tensor.data().as_chunks::<4>();
            let floats = floats.iter().map(|x| f64::from(f32::from_le_bytes(*x)));
            assert!(floats.eq(values(&parameter.tensor).unwrap()), "{name}");
        }
    }
}

/// The bytes before the values in the older format: three pickles.
const LEGACY_HEADER: usize = 137;

/// What an import of these bytes says, with all its causes.
fn refusal(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.pth");
    fs::write(&path, bytes).unwrap();
    match import(&path, &network(), &SIZES, None) {
        Ok(_) => "imported".to_owned(),
        Err(error) => format!("{error:#}"),
    }
}

fn storages(lengths: &[usize]) -> BTreeMap<String, Vec<f32>> {
    let each = lengths.iter().enumerate();
    each.map(|(at, &length)| (at.to_string(), vec![0.5; length]))
        .collect()
}

#[test]
fn weights_of_one_resolution_start_every_size() {
    let network = Network::by_name("resnet18").unwrap();
    let declared = layers::declare(&network.layers(3).unwrap(), &(&[64]).into());
    let (mut code, mut values_of) = (Vec::new(), BTreeMap::new());
    for (at, declaration) in declared.iter().enumerate() {
        let shape: Vec<i32> = declaration.shape.iter().map(|&size| size as i32).collect();
        let name = declaration.name.replace(".64.", ".");
        code.push((name.clone(), write::tensor(&at.to_string(), &shape)));
        if name.ends_with(".running_var") {
            let counter = name.replace("running_var", "num_batches_tracked");
            code.push((
                counter,
                write::view("LongStorage", "counter", 1, &[], &[], 0),
            ));
        }
        let count = declaration.numel() as usize;
        let values: Vec<f32> = unit(&name, count).map(|u| u as f32).collect();
        values_of.insert(at.to_string(), values);
    }
    values_of.insert("counter".to_owned(), vec![0.0; 2]);
    let entries: Vec<_> = code
        .iter()
        .map(|(name, code)| (name.as_str(), code.clone()))
        .collect();
    // A state dict is an object with attributes.
    let state = [
        write::dict(&entries),
        write::dict(&[("_metadata", write::dict(&[]))]),
        b"b".to_vec(),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.pth");
    fs::write(&path, write::zip(&state.concat(), &values_of)).unwrap();

    let (report, checkpoint) = imported(&path, &network, &[96, 64], folder.path());
    assert_eq!(report.layout, Layout::Torchvision);
    assert_eq!(report.tensors, declared.len());
    assert!(checkpoint.metadata().normalize.is_some());
    assert_eq!(checkpoint.metadata().epoch, 0);
    for parameter in net(&checkpoint, Kind::Float).parameters().iter() {
        let ours = values(&parameter.tensor).unwrap();
        let name = parameter.name_with_batch_norm(64).replace(".64.", ".");
        match parameter.name.as_str() {
            "alpha" => assert_eq!(ours, [1.0, 1.0]),
            _ => assert!(
                unit(&name, ours.len())
                    .map(|u| f64::from(u as f32))
                    .eq(ours),
                "{name}"
            ),
        }
    }
}

#[test]
fn momentum_follows_the_order_of_the_state_dict() {
    let network = network();
    // In another order than ours: the last tensor first.
    let net = SwitchableNetwork::new(
        &network,
        2,
        &[64, 32],
        ExecConfig::cpu(Kind::Float),
        WeightInit::Zeros,
    )
    .unwrap();
    let mut parameters: Vec<&Parameter> = net.parameters().iter().collect();
    parameters.reverse();
    let mut stored = BTreeMap::new();
    let mut add = |key: String, parameter: &Parameter, value: f32| {
        let shape: Vec<i32> = parameter
            .tensor
            .size()
            .iter()
            .map(|&size| size as i32)
            .collect();
        stored.insert(key.clone(), vec![value; parameter.tensor.numel()]);
        write::tensor(&key, &shape)
    };
    let (mut state, mut momentum, mut ids) = (Vec::new(), Vec::new(), Vec::new());
    for (at, parameter) in parameters.iter().enumerate() {
        let name = reference_name(&network, &parameter.name, parameter.resolution, &[64, 32]);
        state.push((name.unwrap(), add(format!("w{at}"), parameter, 0.5)));
        if parameter.role.is_trainable() {
            // Ids of any kind: PyTorch once took addresses. One tensor had no gradient yet.
            let id = 1_000_000 - at as i32;
            ids.push(write::int(id));
            if at > 0 {
                let buffer = add(format!("m{at}"), parameter, at as f32);
                let buffer = write::dict(&[("momentum_buffer", buffer)]);
                momentum.push([write::int(id), buffer].concat());
            }
        }
    }
    let state: Vec<_> = state
        .iter()
        .map(|(name, code)| (name.as_str(), code.clone()))
        .collect();
    let file = |ids: &[write::Code]| {
        let group = write::dict(&[("params", write::list(ids))]);
        let buffers = [b"}(", &momentum.concat()[..], b"u"].concat();
        let groups = write::list(&[group]);
        let optimizer = write::dict(&[("state", buffers), ("param_groups", groups)]);
        let numpy = write::call(
            write::global("numpy", "dtype"),
            &[write::text("f8"), vec![0x89], vec![0x88]],
        );
        let order = write::tuple(&[write::int(3), write::text("<")]);
        let bytes = [b"C\x08", &80.25_f64.to_le_bytes()[..]].concat();
        let scalar = write::call(
            write::global("numpy.core.multiarray", "scalar"),
            &[[numpy, order, b"b".to_vec()].concat(), bytes],
        );
        write::dict(&[
            ("epoch", write::int(3)),
            ("state_dict", write::dict(&state)),
            ("optimizer", optimizer),
            ("best_acc0", write::tensor("best", &[])),
            ("best_acc", scalar),
        ])
    };
    stored.insert("best".to_owned(), vec![71.5]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint.pth.tar");
    fs::write(&path, write::zip(&file(&ids), &stored)).unwrap();
    let (report, checkpoint) = imported(&path, &network, &[64, 32], folder.path());
    assert_eq!(report.momentum, Momentum::Imported(ids.len() - 1));
    let best = checkpoint.metadata().best.unwrap();
    assert_eq!((best.epoch, best.score, best.mean), (2, 71.5, 80.25));
    for (at, parameter) in parameters.iter().enumerate().skip(1) {
        if parameter.role.is_trainable() {
            let name = format!("momentum/{}", parameter.name);
            let read = checkpoint.read([name.as_str()]).unwrap();
            assert_eq!(
                values(&read[0]).unwrap(),
                vec![at as f64; parameter.tensor.numel()]
            );
        }
    }

    fs::write(&path, write::zip(&file(&ids[1..]), &stored)).unwrap();
    let (report, _) = imported(&path, &network, &[64, 32], folder.path());
    assert!(matches!(report.momentum, Momentum::Skipped(why) if why.contains("parameters")));
}

#[test]
fn files_that_do_not_fit_are_refused_by_name() {
    let bare = |entries: &[(&str, write::Code)], lengths: &[usize]| {
        write::zip(&write::dict(entries), &storages(lengths))
    };
    let weight = |key, shape: &[i32]| write::tensor(key, shape);
    let cases: &[(Vec<u8>, &[&str])] = &[
        (
            bare(
                &[
                    ("features.0.0.weight", weight("0", &[8, 3, 3, 1])),
                    ("stem", weight("1", &[4])),
                ],
                &[72, 4],
            ),
            &[
                r#"Missing: "features.0.1.weight""#,
                "more",
                r#"Shape mismatch: "features.0.0.weight" must have the shape [8, 3, 3, 3], not [8, 3, 3, 1]"#,
                r#"Not in the network: "stem""#,
            ],
        ),
        (
            bare(
                &[
                    ("alpha", weight("0", &[3])),
                    ("x.bn_0.weight", weight("1", &[4])),
                ],
                &[3, 4],
            ),
            &["1 batch norms each", "3 sizes were given: [128, 112, 96]"],
        ),
        (
            bare(&[("epoch", write::int(3))], &[]),
            &[r#"it has no state dict: no tensors, but "epoch""#],
        ),
        (
            write::zip(&write::int(3), &storages(&[])),
            &["no state dict"],
        ),
    ];
    for (bytes, expected) in cases {
        let said = refusal(bytes);
        for part in *expected {
            assert!(said.contains(part), "{part:?} is not in: {said}");
        }
    }
    let names = Some(vec!["cat".to_owned()]);
    let names = names.as_deref();
    let error = import(&case("checkpoint.pth.tar"), &network(), &SIZES, names).unwrap_err();
    assert!(format!("{error:#}").contains("it has 10 classes, but the list of names has 1"));
}

#[test]
fn what_is_no_tensor_or_plain_value_is_refused_and_never_executed() {
    let proof = tempfile::tempdir().unwrap();
    let proof = proof.path().join("executed");
    let touch = format!("touch {}", proof.display());
    let evil = write::call(write::global("os", "system"), &[write::text(&touch)]);
    let by_stack = [write::text("builtins"), write::text("eval"), vec![0x93]].concat();
    let instance = b"(ios\nsystem\n".to_vec();
    let cases = [
        (evil.clone(), "it holds os.system"),
        (by_stack, "it holds builtins.eval"),
        (instance, "it holds os.system"),
        (write::global("torch._utils", "other"), "torch._utils.other"),
        (write::global("torch", "load"), "torch.load"),
    ];
    let legacy = fs::read(case("checkpoint_legacy.pth.tar")).unwrap();
    for (code, expected) in cases {
        let said = refusal(&write::zip(&code, &storages(&[])));
        assert!(said.contains(expected), "{said}");
        // The older format's header, then this pickle in place of its values.
        let said = refusal(&[&legacy[..LEGACY_HEADER], &write::pickle(&code)].concat());
        assert!(said.contains(expected), "{said}");
    }
    assert!(!proof.exists());
}

#[test]
fn damaged_files_are_refused_whatever_they_claim() {
    let memo = [0x94, b'0'];
    let one = storages(&[4]);
    let view = |elements, shape: &[i32], strides: &[i32], offset| {
        let view = write::view("FloatStorage", "0", elements, shape, strides, offset);
        write::zip(&write::dict(&[("alpha", view)]), &one)
    };
    let code = |code: &[u8]| write::zip(code, &one);
    // In the older format, one storage that says how many elements it has.
    let header = fs::read(case("checkpoint_legacy.pth.tar")).unwrap()[..LEGACY_HEADER].to_vec();
    let legacy = |code: &[u8], elements: i32| {
        let keys = write::pickle(&write::list(&[write::text("0")]));
        let count = i64::from(elements).to_le_bytes();
        [&header, &write::pickle(code), &keys, &count[..], &[0; 16]].concat()
    };
    let cases: &[(Vec<u8>, &str)] = &[
        // What tensors claim.
        (view(4, &[5], &[1], 0), "exceeds its storage of 4"),
        (view(4, &[2], &[1], 3), "exceeds its storage"),
        (view(4, &[2, 2], &[3, 1], 0), "exceeds its storage"),
        (view(4, &[-1], &[1], 0), "not a non-negative integer"),
        (view(4, &[1], &[1], -1), "not a non-negative integer"),
        (view(4, &[2], &[], 0), "1 dimensions and 0 strides"),
        (view(4, &[1; 9], &[1; 9], 0), "9 dimensions"),
        (view(4, &[i32::MAX; 3], &[0; 3], 0), "exceeds its storage"),
        (
            view(4, &[i32::MAX; 8], &[i32::MAX; 8], 0),
            "exceeds its storage",
        ),
        (
            view(i32::MAX, &[4], &[1], 0),
            "16 bytes, not 2147483647 elements",
        ),
        (view(3, &[3], &[1], 0), "16 bytes, not 3"),
        (view(-1, &[1], &[1], 0), "a storage has no size"),
        (
            code(&write::tensor("9", &[4])),
            r#"the storage "9" cannot be read"#,
        ),
        (
            code(&write::tuple(&[
                write::tensor("0", &[4]),
                write::view("LongStorage", "0", 2, &[2], &[1], 0),
            ])),
            "two dtypes or sizes",
        ),
        (
            legacy(&write::tensor("0", &[i32::MAX]), i32::MAX),
            r#"truncated within the storage "0""#,
        ),
        (
            legacy(&write::tensor("0", &[4]), 5),
            r#"the storage "0" has 5 elements, not 4"#,
        ),
        (
            legacy(&write::tensor("1", &[4]), 4),
            r#"storage "0" is listed twice or has no tensor"#,
        ),
        // Invalid opcodes and operands.
        (code(b"t"), "pickle stack underflow"),
        (code(b"(0"), "pickle stack underflow"),
        (code(b"N(0t"), "pickle stack underflow"),
        (code(b"h\x07"), "gets a memo entry that does not exist"),
        (
            code(b"j\xff\xff\xff\xff"),
            "gets a memo entry that does not exist",
        ),
        (code(b"q\x00"), "pickle stack underflow"),
        (code(&[&memo[..], b"N"].concat()), "pickle stack underflow"),
        (code(b"NNa"), "not a list"),
        (code(b"N(NNu"), "not a dict"),
        (code(b"}(Nu"), "not a dict"),
        (code(b"N)R"), "calls a non-callable"),
        (code(b"Nb"), "pickle stack underflow"),
        (code(b"NNb"), "object that has none"),
        (code(b"NQ"), "expected a list or a tuple"),
        (code(b")Q"), "unknown description"),
        (
            code(b"X\xff\xff\xff\xffabc"),
            "4294967295 more bytes are announced",
        ),
        (
            code(&[&[0x8d][..], &[0xff; 8]].concat()),
            "18446744073709551615 more bytes",
        ),
        (
            code(&[&[0x8b][..], &[0xff; 4]].concat()),
            "4294967295 more bytes",
        ),
        (
            code(&[&[0x8a, 17][..], &[1; 17]].concat()),
            "a number has 17 bytes",
        ),
        (code(b"X\x01\x00\x00\x00\xff"), "utf-8"),
        (code(b"I1\n"), "opcode 0x49"),
        (code(b"\x80\x09"), "unknown pickle version 9"),
        // A list in itself, and a tower of lists, are no trouble: they are just no state dict.
        (code(b"]q\x00h\x00a"), "no state dict"),
        (
            code(&[&b"]".repeat(200_000)[..], &b"a".repeat(199_999)].concat()),
            "no state dict",
        ),
        (code(&b"]".repeat((1 << 22) + 1)), "too large"),
        // What is none of PyTorch's.
        (b"".to_vec(), "not a PyTorch checkpoint"),
        (b"PK\x03\x04".to_vec(), "truncated or damaged"),
        (
            b"\x80\x02K\x01.".to_vec(),
            "not one that `torch.save` wrote",
        ),
        (
            fs::read(case("expected.safetensors")).unwrap(),
            "its tensors do not fit",
        ),
    ];
    for (bytes, expected) in cases {
        let said = refusal(bytes);
        assert!(said.contains(expected), "{expected:?} is not in: {said}");
    }
    let error = Pth::open(Path::new("none.pth")).unwrap_err();
    assert!(format!("{error:#}").contains("No such file"));
}

#[test]
fn a_file_that_was_cut_off_or_changed_is_refused() {
    for (file, step) in [
        ("checkpoint.pth.tar", 9_973),
        ("checkpoint_legacy.pth.tar", 997),
    ] {
        let whole = fs::read(case(file)).unwrap();
        for length in (0..whole.len()).step_by(step).chain([whole.len() - 1]) {
            let said = refusal(&whole[..length]);
            assert!(
                said.contains("cannot import"),
                "{file}, {length} bytes: {said}"
            );
        }
    }
    // An archive has checksums. This byte is in the middle of the classifier.
    let mut changed = fs::read(case("checkpoint.pth.tar")).unwrap();
    changed[1_400_000] ^= 1;
    let said = refusal(&changed);
    assert!(
        said.contains("classifier.module.weight") && said.contains("checksum"),
        "{said}"
    );
    let said = refusal(&with_a_short_storage(
        fs::read(case("checkpoint.pth.tar")).unwrap(),
    ));
    assert!(said.contains("bytes, not"), "{said}");
}

/// An archive whose largest entry has four bytes less than its list says that it has, and a checksum
/// that fits those.
fn with_a_short_storage(mut archive: Vec<u8>) -> Vec<u8> {
    let number = |archive: &[u8], at: usize| {
        u32::from_le_bytes(archive[at..at + 4].try_into().unwrap()) as usize
    };
    let headers = archive.windows(4).enumerate();
    let headers = headers.filter(|(_, bytes)| *bytes == b"PK\x01\x02");
    let header = headers
        .map(|(at, _)| at)
        .max_by_key(|&at| number(&archive, at + 20))
        .unwrap();
    let length = number(&archive, header + 20) - 4;
    let local = number(&archive, header + 42);
    let short = |at: usize| usize::from(u16::from_le_bytes([archive[at], archive[at + 1]]));
    let data = local + 30 + short(local + 26) + short(local + 28);
    let checksum = !archive[data..data + length]
        .iter()
        .fold(!0_u32, |sum, byte| {
            (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
                sum >> 1 ^ (0xedb8_8320 & (sum & 1).wrapping_neg())
            })
        });
    archive[header + 16..header + 20].copy_from_slice(&checksum.to_le_bytes());
    archive[header + 20..header + 24].copy_from_slice(&(length as u32).to_le_bytes());
    archive
}
