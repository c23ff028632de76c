//! `rsflow import` and `rsflow export`: the reference's checkpoint in, trained on, and out again.

use std::path::{Path, PathBuf};

use rsflow_graph::Interpolation;
use rsflow_model::checkpoint::{Checkpoint, Snapshot, write_atomically};
use rsflow_model::exchange::pth::names::timm_name;
use rsflow_model::nn::layers;
use rsflow_model::nn::networks::{MobileNetV2, Network};
use serde_json::{Value, json};

use crate::workplace::{done, rsflow, workplace};

const SIZES: [&str; 4] = ["--sizes", "128", "112", "96"];
const ARCH: [&str; 2] = ["--arch", "mobilenetv2_x0.25"];

/// A checkpoint of the reference, of a network with ten classes.
fn theirs() -> String {
    let file = "tests/fixtures/reference/mobilenetv2_x0.25_mred/checkpoint.pth.tar";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    path.display().to_string()
}

fn import(folder: &Path, more: &[&str]) -> String {
    let theirs = theirs();
    let common = [&["import", &theirs], &ARCH[..], &SIZES].concat();
    done(folder, &[&common[..], more].concat())
}

/// Ten class folders with two images each, and a recipe that trains on them for one epoch more
/// than the reference has.
fn ten_classes() -> tempfile::TempDir {
    let folder = workplace();
    let shapes = folder.path().join("shapes/train");
    let mut images: Vec<PathBuf> = std::fs::read_dir(&shapes)
        .unwrap()
        .flat_map(|class| std::fs::read_dir(class.unwrap().path()).unwrap())
        .map(|image| image.unwrap().path())
        .collect();
    images.sort();
    for (at, image) in images.iter().take(20).enumerate() {
        let class = folder.path().join(format!("data/class{}", at % 10));
        std::fs::create_dir_all(&class).unwrap();
        std::fs::copy(image, class.join(format!("{at}.jpg"))).unwrap();
    }
    let recipe = r#"(
        seed: 3,
        nodes: {
            "files":   ImageFolder(root: "data", shuffle: true),
            "images":  DecodeImage(input: "files"),
            "crops":   RandomResizedCrop(input: "images"),
            "sizes":   Resize(input: "crops", sizes: [128, 112, 96]),
            "batches": Batch(input: "sizes", size: 10),
            "val_files":   ImageFolder(root: "data"),
            "val_images":  DecodeImage(input: "val_files"),
            "val_sizes":   ResizeAndCenterCrop(input: "val_images", sizes: [128, 112, 96]),
            "val_batches": Batch(input: "val_sizes", size: 10),
            "trainer": RsNet(
                train: "batches", validate: "val_batches",
                network: MobileNetV2(width: 0.25), classes: 10,
                optimizer: Sgd(lr: 0.005), epochs: 8, log_every: 1, threads: 1,
            ),
            "checkpoints": Checkpoints(input: "trainer.checkpoints"),
            "log":         MetricsLog(input: "trainer.metrics"),
        },
    )"#;
    std::fs::write(folder.path().join("ten.ron"), recipe).unwrap();
    folder
}

#[test]
fn a_checkpoint_of_the_reference_is_trained_on_and_goes_back() {
    let folder = ten_classes();
    let folder = folder.path();
    let report = import(folder, &["--out", "mine.safetensors"]);
    for line in [
        "a checkpoint of the reference implementation",
        "MobileNetV2(width: 0.25), 10 classes, 679 tensors",
        "weights     those of \"state_dict\"",
        "epochs      7",
        "best        71.5 % top-1 at 128, 80.25 % on average",
        "momentum    none",
        "rsflow run RECIPE --resume mine.safetensors",
    ] {
        assert!(report.contains(line), "{line:?} is not in: {report}");
    }

    // What goes out at once is what came in, under the same names.
    let export = [
        "export",
        "mine.safetensors",
        "--to",
        "pth-names",
        "--out",
        "back.safetensors",
    ];
    assert!(done(folder, &export).contains("679 tensors; bn_0, bn_1, ... are [128, 112, 96]"));
    let bytes = std::fs::read(folder.join("back.safetensors")).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    assert_eq!(
        header["features.0.1.bn_2.running_var"]["shape"],
        serde_json::json!([8])
    );

    let run = [
        "run",
        "ten.ron",
        "--run-dir",
        "out",
        "--resume",
        "mine.safetensors",
    ];
    done(folder, &run);
    let log = std::fs::read_to_string(folder.join("out/metrics.jsonl")).unwrap();
    let steps: Vec<(u64, u64)> = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|line| line["kind"] == "step")
        .map(|line| {
            (
                line["epoch"].as_u64().unwrap(),
                line["step"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(steps, [(8, 15), (8, 16)], "the eighth epoch of two steps");
    let last = Checkpoint::open(&folder.join("out/checkpoints/last.safetensors")).unwrap();
    assert_eq!(last.metadata().classes[9], "class9", "now they are known");
    assert_eq!(last.metadata().seed, 3);
}

#[test]
fn classes_get_names_from_a_file_or_a_folder() {
    let folder = ten_classes();
    let folder = folder.path();
    let lines: Vec<String> = (0..10).map(|class| format!("name {class}")).collect();
    std::fs::write(folder.join("names.txt"), lines.join("\n")).unwrap();
    for (from, last) in [("names.txt", "name 9"), ("data", "class9")] {
        import(
            folder,
            &[
                "--class-names",
                from,
                "--out",
                "mine.safetensors",
                "--force",
            ],
        );
        let checkpoint = Checkpoint::open(&folder.join("mine.safetensors")).unwrap();
        assert_eq!(checkpoint.metadata().classes[9], last);
    }
}

/// A safetensors file with the tensors of a small network under timm's names, all 0.
fn weights_of_timm(path: &Path) {
    let network = Network::MobileNetV2(MobileNetV2 { width: 0.1 });
    let declared = layers::declare(&network.layers(3).unwrap(), &(&[64]).into());
    let mut header = serde_json::Map::new();
    let mut length = 0;
    for declaration in &declared {
        let name = timm_name(&network, &declaration.name, declaration.resolution).unwrap();
        let end = length + 4 * declaration.numel() as usize;
        let shape = &declaration.shape;
        let entry = json!({ "dtype": "F32", "shape": shape, "data_offsets": [length, end] });
        header.insert(name, entry);
        length = end;
    }
    let header = Value::Object(header).to_string();
    let start = (header.len() as u64).to_le_bytes();
    let file = [&start[..], header.as_bytes(), &vec![0; length]].concat();
    std::fs::write(path, file).unwrap();
}

/// What an import says of images, and what its checkpoint keeps: interpolation, fraction, mean of red.
#[test]
fn an_import_takes_along_how_images_are_made() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    weights_of_timm(&folder.join("model.safetensors"));
    let config = r#"{"pretrained_cfg": {"mean": [0.5, 0.4, 0.3], "interpolation": "bicubic", "crop_pct": 0.95}}"#;
    let import = |more: &[&str]| {
        let common = [
            "import",
            "model.safetensors",
            "--arch",
            "mobilenetv2_100",
            "--sizes",
            "64",
            "--out",
        ];
        let said = done(
            folder,
            &[&common[..], &["out.safetensors", "--force"], more].concat(),
        );
        let metadata = Checkpoint::open(&folder.join("out.safetensors")).unwrap();
        let metadata = metadata.metadata().clone();
        let by = metadata.preprocess.unwrap();
        let mean = metadata.normalize.unwrap().mean[0];
        (said, (by.interpolation, by.fraction, mean))
    };
    let (bilinear, bicubic) = (
        Interpolation::AntialiasedBilinear,
        Interpolation::AntialiasedBicubic,
    );
    let (said, kept) = import(&[]);
    assert_eq!(kept, (bilinear, 0.875, 0.485));
    for part in [
        "one resolution, under timm's names",
        "MobileNetV2(width: 0.1) (its width is that of the tensors)",
        "images      bilinear, fraction 0.875, (mean: (0.485, 0.456, 0.406)",
        "assumed: the file does not say it; --config and --fraction change it, and `eval --fraction`",
    ] {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    assert_eq!(import(&["--fraction", "0.9"]).1, (bilinear, 0.9, 0.485));

    std::fs::write(folder.join("named.json"), config.replace("0.95", "1.0")).unwrap();
    let (said, kept) = import(&["--config", "named.json"]);
    assert_eq!(kept, (bicubic, 1.0, 0.5));
    assert!(said.contains("as in named.json"), "{said}");
    // Another program's is passed over, timm's is used.
    std::fs::write(folder.join("config.json"), r#"{"mean": [1, 2]}"#).unwrap();
    assert_eq!(import(&[]).1, (bilinear, 0.875, 0.485));
    std::fs::write(folder.join("config.json"), config).unwrap();
    let (said, kept) = import(&[]);
    assert_eq!(kept, (bicubic, 0.95, 0.5));
    assert!(said.contains("as in config.json"), "{said}");
    assert_eq!(import(&["--fraction", "0.8"]).1, (bicubic, 0.8, 0.5));
    assert_eq!(import(&["--config", "named.json"]).1, (bicubic, 1.0, 0.5));
    std::fs::write(
        folder.join("config.json"),
        config.replace("bicubic", "lanczos"),
    )
    .unwrap();
    let (said, kept) = import(&[]);
    assert_eq!(kept.0, bilinear);
    assert!(said.contains("bilinear in place of lanczos"), "{said}");

    let common = [
        "import",
        "model.safetensors",
        "--arch",
        "mobilenet_v2",
        "--sizes",
        "64",
        "--out",
        "new",
    ];
    for (file, text, expected) in [
        (
            "config.json",
            r#"{"pretrained_cfg": {"mean": [1]}}"#,
            "config.json, which is beside the weights",
        ),
        ("other.json", "{}", "other.json has no `pretrained_cfg`"),
        ("other.json", "[", "cannot read other.json"),
    ] {
        std::fs::write(folder.join(file), text).unwrap();
        let named = ["--config", file];
        let more = if file == "config.json" {
            &[][..]
        } else {
            &named
        };
        let output = rsflow(folder, &[&common[..], more].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(expected), "{expected:?} is not in: {said}");
        std::fs::write(folder.join("config.json"), config).unwrap();
    }
}

/// Finite weights, but so large that the outputs are not.
#[test]
fn outputs_that_are_not_finite_are_no_result() {
    let folder = ten_classes();
    let folder = folder.path();
    import(folder, &["--out", "mine.safetensors"]);
    let [mine, huge] = ["mine.safetensors", "huge.safetensors"].map(|name| folder.join(name));
    let checkpoint = Checkpoint::open(&mine).unwrap();
    let names = checkpoint.names();
    let tensors = checkpoint.read(names.iter().map(String::as_str)).unwrap();
    for (name, tensor) in names.iter().zip(&tensors) {
        if name == "classifier.1.weight" {
            let _ = tensor.shallow_clone().f_fill_(1e38).unwrap();
        }
    }
    let named = names.iter().cloned().zip(&tensors).collect();
    let snapshot = Snapshot::from_tensors(checkpoint.metadata().clone(), named).unwrap();
    write_atomically(&snapshot, &huge).unwrap();

    let verify = |file: &str| {
        let common = ["predict", "--verify", "--size", "96", "data/class0/0.jpg"];
        rsflow(folder, &[&common[..], &["--checkpoint", file]].concat())
    };
    let said = verify("mine.safetensors").stderr;
    let said = String::from_utf8_lossy(&said);
    let sound = "mine.safetensors is sound: 679 tensors have their checksums";
    assert!(said.contains(sound), "{said}");
    let eval = ["eval", "--data", "data", "--checkpoint", "huge.safetensors"];
    for output in [rsflow(folder, &eval), verify("huge.safetensors")] {
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(output.stdout.is_empty());
        assert!(
            said.contains("its weights are too large for the precision"),
            "{said}"
        );
        assert!(said.contains("huge.safetensors"), "{said}");
    }
    let mut bytes = std::fs::read(&mine).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(folder.join("flipped.safetensors"), bytes).unwrap();
    let said = verify("flipped.safetensors").stderr;
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("flipped.safetensors is not sound"), "{said}");
    assert!(said.contains("its checksum differs"), "{said}");
}

/// A network for one size, under the names of torchvision and timm, classifies as it does in the checkpoint.
#[test]
fn a_network_for_one_size_goes_out_and_comes_back() {
    let folder = ten_classes();
    let folder = folder.path();
    import(folder, &["--out", "mine.safetensors"]);
    // It gets images as they are.
    let plain =
        r#"{"mean": [0, 0, 0], "std": [1, 1, 1], "crop_pct": 0.875, "interpolation": "bilinear"}"#;
    std::fs::write(folder.join("plain.json"), plain).unwrap();
    let json = |arguments: &[&str]| -> Value {
        let common = ["--precision", "float32", "--json", "-"];
        serde_json::from_str(&done(folder, &[arguments, &common].concat())).unwrap()
    };
    for (to, size, options, norm) in [
        ("torchvision", "96", &[][..], serde_json::json!(96)),
        ("timm", "112", &[], serde_json::json!(112)),
        (
            "timm",
            "120",
            &["--batch-norm", "nearest"],
            serde_json::json!(112),
        ),
        ("torchvision", "120", &[], serde_json::json!([112, 128])),
    ] {
        let out = format!("{to}-{size}.safetensors");
        let export = [
            "export",
            "mine.safetensors",
            "--to",
            to,
            "--size",
            size,
            "--out",
            &out,
        ];
        let said = done(folder, &[&export[..], options, &["--force"]].concat());
        assert!(said.contains("262 tensors; for images of"), "{said}");
        let back = format!("back-{out}");
        let import = [
            "import",
            &out,
            "--arch",
            "mobilenet_v2",
            "--sizes",
            size,
            "--out",
            &back,
        ];
        let config = ["--config", "plain.json", "--force"];
        done(folder, &[&import[..], &config].concat());
        let predict = |checkpoint: &str, options: &[&str]| {
            let image = "data/class0/0.jpg";
            let predict = ["predict", "--checkpoint", checkpoint, "--size", size, image];
            json(&[&predict[..], options].concat())
        };
        let own = predict("mine.safetensors", options);
        assert_eq!(own["batch_norm"], norm, "{to} {size}");
        let probabilities = |report: &Value| -> Vec<f64> {
            let predictions = report["images"][0]["predictions"]
                .as_array()
                .unwrap()
                .clone();
            predictions
                .iter()
                .map(|it| it["probability"].as_f64().unwrap())
                .collect()
        };
        let theirs = predict(&back, &[]);
        assert_eq!(probabilities(&theirs), probabilities(&own), "{to} {size}");
    }
}

#[test]
fn what_cannot_be_exchanged_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    import(folder, &["--out", "there.safetensors"]);
    let there = std::fs::read(folder.join("there.safetensors")).unwrap();
    std::fs::write(folder.join("two.txt"), "cat\ndog\n").unwrap();
    std::fs::write(folder.join("none.txt"), "\n").unwrap();
    std::fs::write(folder.join("text.pth"), "not a checkpoint at all").unwrap();
    let theirs = theirs();
    let import = |file, arch, sizes: &[&'static str], more: &[&'static str]| {
        let common = [
            "import",
            file,
            "--arch",
            arch,
            "--out",
            "new.safetensors",
            "--sizes",
        ];
        [&common[..], sizes, more].concat()
    };
    let fits = ["128", "112", "96"];
    let arch = ARCH[1];
    let export = |from, to, out| vec!["export", from, "--to", to, "--out", out];
    let cases: &[(Vec<&str>, i32, &[&str])] = &[
        (
            import(&theirs, "mobilnetv2", &fits, &[]),
            2,
            &[
                "no network named `mobilnetv2`",
                "did you mean `mobilenet_v2`?",
            ],
        ),
        (
            import(&theirs, "vgg", &fits, &[]),
            2,
            &["no network named `vgg`: there are resnet18, "],
        ),
        (
            import(&theirs, "mobilenetv2_110d", &fits, &[]),
            2,
            &["no network named `mobilenetv2_110d`: it is another network than `mobilenetv2`"],
        ),
        (
            import(&theirs, "resnetv2_50", &fits, &[]),
            2,
            &["no network named `resnetv2_50`: there are resnet18, "],
        ),
        (
            import(&theirs, arch, &["128", "128", "8"], &[]),
            2,
            &[
                "--sizes",
                "resolution 128 is listed twice",
                "8 is too small",
            ],
        ),
        (
            import(&theirs, arch, &["128", "96"], &[]),
            1,
            &[
                "checkpoint.pth.tar",
                "have 3 batch norms each",
                "2 sizes were given: [128, 96]",
            ],
        ),
        (
            import(&theirs, "resnet18", &fits, &[]),
            1,
            &[
                "do not fit ResNet(depth: 18)",
                "they are those of MobileNetV2(width: 0.25): --arch mobilenet_v2",
            ],
        ),
        (
            import(&theirs, arch, &fits, &["--class-names", "two.txt"]),
            1,
            &["it has 10 classes, but the list of names has 2"],
        ),
        (
            import(&theirs, arch, &fits, &["--class-names", "none.txt"]),
            1,
            &["none.txt must hold one class name on each line"],
        ),
        (
            import("text.pth", arch, &fits, &[]),
            1,
            &["cannot import text.pth", "not a PyTorch checkpoint"],
        ),
        (
            import(&theirs, arch, &fits, &["--key", "model_ema"]),
            1,
            &["no weights under the key \"model_ema\"", "\"state_dict\""],
        ),
        (
            vec!["predict", "--checkpoint", &theirs, "--size", "96", "x.jpg"],
            1,
            &[
                "checkpoint.pth.tar",
                "`rsflow import` makes a checkpoint of it",
            ],
        ),
        (
            import("none.pth", arch, &fits, &[]),
            1,
            &["cannot import none.pth", "No such file"],
        ),
        (
            export("there.safetensors", "pth-names", "there.safetensors"),
            1,
            &["cannot write there.safetensors: this command reads it"],
        ),
        (
            export("text.pth", "pth-names", "new.safetensors"),
            1,
            &["cannot read the checkpoint text.pth"],
        ),
        (
            export("there.safetensors", "pth-names", "nowhere/new.safetensors"),
            1,
            &["cannot write nowhere/new.safetensors"],
        ),
        (
            export("there.safetensors", "timm", "new.safetensors"),
            2,
            &["--to timm needs --size: one of [128, 112, 96], another one, or all"],
        ),
        (
            [
                export("there.safetensors", "pth-names", "new.safetensors"),
                vec!["--size", "96"],
            ]
            .concat(),
            2,
            &["--size needs --to onnx, torchscript, torchvision or timm"],
        ),
        (
            [
                export("there.safetensors", "timm", "new.safetensors"),
                vec!["--size", "96", "--batch-norm", "lerp"],
            ]
            .concat(),
            2,
            &["--batch-norm 96=lerp", "between two of the resolutions"],
        ),
        (
            export("there.safetensors", "hdf5", "new.safetensors"),
            2,
            &["possible values: pth-names, torchvision, timm, packed, onnx, torchscript"],
        ),
    ];
    for (arguments, code, expected) in cases {
        let output = rsflow(folder, arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(*code), "{arguments:?}: {stderr}");
        for part in *expected {
            assert!(stderr.contains(part), "{part:?} is not in: {stderr}");
        }
        assert!(output.stdout.is_empty(), "{arguments:?}");
        assert!(!folder.join("new.safetensors").exists(), "{arguments:?}");
    }
    assert_eq!(
        std::fs::read(folder.join("there.safetensors")).unwrap(),
        there
    );
}
