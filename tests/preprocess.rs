//! What `eval` and `predict` know of preprocessing, and where they find images: one trained network,
//! its checkpoint in all the states that it may be in, its images in all the places.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::workplace::{RECIPE, cascaded, completed, done, rsflow, shared_workplace, workplace};

const LAST: &str = "out/checkpoints/last.safetensors";

/// The rounding depends on these.
const AS_IN_TRAINING: [&str; 4] = ["--batch", "10", "--threads", "1"];

/// The table of `eval`, without the time that it took.
fn eval(folder: &Path, checkpoint: &str, data: &str, more: &[&str]) -> Value {
    let common = ["eval", "--checkpoint", checkpoint, "--data", data];
    let all = [&common[..], &AS_IN_TRAINING, more, &["--json", "-"]].concat();
    let mut table: Value = serde_json::from_str(&done(folder, &all)).unwrap();
    let table = table.as_object_mut().unwrap();
    table.remove("data");
    table.remove("seconds");
    table.remove("checkpoint");
    Value::Object(std::mem::take(table))
}

/// What the run in `out` ended with.
fn final_table(folder: &Path) -> Value {
    let log = fs::read_to_string(folder.join("out/metrics.jsonl")).unwrap();
    serde_json::from_str(log.lines().last().unwrap()).unwrap()
}

/// Writes a checkpoint whose metadata is another's, changed.
fn rewrite(folder: &Path, to: &str, change: impl FnOnce(&mut Value)) {
    let bytes = fs::read(folder.join(LAST)).unwrap();
    let (header, tensors) = bytes[8..].split_at(length_of(&bytes));
    let mut header: Value = serde_json::from_slice(header).unwrap();
    without_sums(&mut header);
    let entry = &mut header["__metadata__"]["rsflow"];
    let mut metadata: Value = serde_json::from_str(entry.as_str().unwrap()).unwrap();
    change(&mut metadata);
    *entry = Value::String(metadata.to_string());
    let header = header.to_string();
    let length = (header.len() as u64).to_le_bytes();
    let whole = [&length[..], header.as_bytes(), tensors].concat();
    fs::write(folder.join(to), whole).unwrap();
}

/// As in files from before there were checksums.
pub fn without_sums(header: &mut Value) {
    let metadata = header["__metadata__"].as_object_mut().unwrap();
    for key in ["rsflow.header_sum", "rsflow.tensor_sums"] {
        assert!(metadata.remove(key).is_some(), "{key}");
    }
}

fn length_of(checkpoint: &[u8]) -> usize {
    u64::from_le_bytes(checkpoint[..8].try_into().unwrap()) as usize
}

fn without(key: &'static str) -> impl Fn(&mut Value) {
    move |metadata| {
        let removed = metadata.as_object_mut().unwrap().remove(key);
        assert!(removed.is_some(), "{key}");
    }
}

/// The description is what counts; a checkpoint from before it was kept has it from its recipe.
#[test]
fn a_checkpoint_with_and_without_its_description_gives_the_same() {
    let turned = RECIPE
        .replace(
            r#"DecodeImage(input: "val_files")"#,
            r#"DecodeImage(input: "val_files", exif_orientation: true, max_pixels: 4000000)"#,
        )
        .replace(
            "sizes: [48, 32]),\n        \"val_batches\"",
            "sizes: [48, 32], fraction: 0.7),\n        \"val_batches\"",
        );
    assert!(turned.contains("fraction: 0.7") && turned.contains("max_pixels: 4000000"));
    let kept = |exif_orientation, max_pixels: u64, resize, interpolation, fraction| {
        json!({
            "exif_orientation": exif_orientation,
            "max_pixels": max_pixels,
            "resize": resize,
            "interpolation": interpolation,
            "fraction": fraction,
        })
    };
    let cascade = json!({"Cascade": {"side": 48}});
    for (recipe, expected, report) in [
        (
            turned,
            kept(
                true,
                4_000_000,
                json!("ShortSide"),
                "AntialiasedBilinear",
                0.7,
            ),
            "validation: turned by their EXIF orientation, fraction 0.7\n",
        ),
        (
            cascaded(),
            kept(false, 178_956_970, cascade, "Bicubic", 0.875),
            "validation: samples of a picture of 48 pixels (CascadedCenterCrop)\n",
        ),
    ] {
        let folder = workplace();
        let folder = folder.path();
        fs::write(folder.join("recipe.ron"), recipe).unwrap();
        completed(folder, &["--run-dir", "out", "--set", "trainer.epochs=1"]);
        rewrite(folder, "kept.safetensors", |metadata| {
            assert_eq!(metadata["preprocess"], expected);
            metadata["recipe"] = json!("");
        });
        rewrite(folder, "before.safetensors", without("preprocess"));
        rewrite(folder, "neither.safetensors", |metadata| {
            without("preprocess")(metadata);
            metadata["recipe"] = json!("(nodes: {}, of: \"another time\")");
        });
        let last = eval(folder, LAST, "shapes", &[]);
        assert_eq!(last["rows"], final_table(folder)["rows"]);
        let image = "shapes/val/discs_plain/00000.jpg";
        let predict = |checkpoint| {
            let common = ["predict", "--checkpoint", checkpoint, "--size", "32"];
            rsflow(folder, &[&common[..], &[image, "--top", "8"]].concat())
        };
        let predicted = predict(LAST);
        let stderr = String::from_utf8_lossy(&predicted.stderr);
        assert!(stderr.ends_with(report), "{stderr}");
        for checkpoint in ["kept.safetensors", "before.safetensors"] {
            assert_eq!(
                eval(folder, checkpoint, "shapes", &[]),
                last,
                "{checkpoint}"
            );
            assert_eq!(predict(checkpoint), predicted, "{checkpoint}");
        }
        let neither = eval(folder, "neither.safetensors", "shapes", &[]);
        assert_ne!(neither["rows"], last["rows"]);
        let stderr = predict("neither.safetensors").stderr;
        let stderr = String::from_utf8_lossy(&stderr);
        let report = "its recipe cannot be read: they are made as the reference does";
        assert!(stderr.contains(report), "{stderr}");
    }
}

#[test]
fn a_damaged_description_is_named() {
    let folder = images();
    for (number, (key, value, words)) in [
        (
            "interpolation",
            json!("Lanczos"),
            "unknown variant `Lanczos`",
        ),
        ("resize", json!("Squash"), "unknown variant `Squash`"),
        (
            "resize",
            json!({"Cascade": {"side": 0}}),
            "`side` must be from 1 to 4096, not 0",
        ),
        (
            "fraction",
            json!(7.5),
            "`fraction` must be above 0 and at most 1, not 7.5",
        ),
        ("fraction", json!("all"), "invalid type: string \"all\""),
        ("max_pixels", json!(0), "`max_pixels` must be at least 1"),
        ("border", json!(3), "unknown field `border`"),
        ("exif_orientation", Value::Null, "invalid type: null"),
    ]
    .into_iter()
    .enumerate()
    {
        let checkpoint = format!("damaged-{number}.safetensors");
        rewrite(folder, &checkpoint, |metadata| {
            metadata["preprocess"][key] = value;
        });
        for command in [
            "eval --data set --checkpoint",
            "predict x.jpg --size 32 --checkpoint",
        ] {
            let command = command.split(' ').chain([checkpoint.as_str()]);
            let output = rsflow(folder, &command.collect::<Vec<_>>());
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{stderr}");
            let expected = [
                &format!("cannot read the checkpoint {checkpoint}"),
                "`preprocess` is damaged, or written by a newer program: ",
                words,
            ];
            for expected in expected {
                assert!(
                    stderr.contains(expected),
                    "{expected:?} is not in\n{stderr}"
                );
            }
        }
    }
}

/// Classes as ImageNet names them. Their numbers in the devkit are in another order than their names.
const CLASSES: [(u32, &str); 4] = [
    (6, "n02066245"),
    (4, "n02096294"),
    (2, "n02100735"),
    (1, "n02119789"),
];

type Files = BTreeMap<String, Vec<u8>>;

/// A network trained on `set/train` and `set/val`, and the same images in archives.
fn images() -> &'static Path {
    static IMAGES: OnceLock<PathBuf> = OnceLock::new();
    IMAGES.get_or_init(|| shared_workplace("preprocess", prepare))
}

fn prepare(folder: &Path) {
    let mut set = Files::new();
    for half in ["train", "val"] {
        let classes = fs::read_dir(folder.join("shapes").join(half)).unwrap();
        let mut classes: Vec<PathBuf> = classes.map(|class| class.unwrap().path()).collect();
        classes.sort();
        for (from, (_, class)) in classes.iter().zip(CLASSES) {
            for image in fs::read_dir(from).unwrap() {
                let image = image.unwrap();
                let name = image.file_name().into_string().unwrap();
                let bytes = fs::read(image.path()).unwrap();
                set.insert(format!("{half}/{class}/{name}"), bytes);
            }
        }
    }
    for (name, bytes) in &set {
        write(&folder.join("set").join(name), bytes);
    }
    write(&folder.join("set.tar"), &tar(&below("", "set/", &set)));
    write(&folder.join("val.tar"), &tar(&below("val/", "", &set)));

    let train = below("train/", "", &set);
    let classes = CLASSES.map(|(_, class)| {
        let class_tar = tar(&below(&format!("{class}/"), "", &train));
        (format!("{class}.tar"), class_tar)
    });
    let (mut flat, mut truth) = (Files::new(), String::new());
    for (number, (name, bytes)) in (1..).zip(below("val/", "", &set)) {
        let is_class = |(_, class): &&(u32, &str)| name.starts_with(class);
        let (id, _) = CLASSES.iter().find(is_class).unwrap();
        truth += &format!("{id}\n");
        flat.insert(format!("ILSVRC2012_val_{number:08}.JPEG"), bytes);
    }
    let meta = "tests/fixtures/imagenet/meta_compressed.mat";
    let meta = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(meta)).unwrap();
    let truth_file = "data/ILSVRC2012_validation_ground_truth.txt".to_owned();
    let devkit = Files::from([
        ("data/meta.mat".to_owned(), meta),
        (truth_file, truth.into_bytes()),
    ]);
    let devkit = tar(&below("", "ILSVRC2012_devkit_t12/", &devkit));
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(&devkit).unwrap();
    let archive = |name: &str| folder.join("archives").join(name);
    write(
        &archive("ILSVRC2012_img_train.tar"),
        &tar(&Files::from(classes)),
    );
    write(&archive("ILSVRC2012_img_val.tar"), &tar(&flat));
    write(
        &archive("ILSVRC2012_devkit_t12.tar.gz"),
        &gz.finish().unwrap(),
    );

    let shapes = |half: &str, more: &str| {
        format!(
            r#"ShapesFolder(root: "shapes", split: {half}, {more}train_images: 84, val_images: 24)"#
        )
    };
    let recipe = RECIPE
        .replace(
            &shapes("Train", "shuffle: true, "),
            r#"ImageFolder(root: "set/train", shuffle: true)"#,
        )
        .replace(&shapes("Val", ""), r#"ImageFolder(root: "set/val")"#)
        .replace("classes: 8", "classes: 4");
    assert!(!recipe.contains("ShapesFolder") && recipe.contains("classes: 4"));
    fs::write(folder.join("recipe.ron"), recipe).unwrap();
    completed(folder, &["--run-dir", "out", "--set", "trainer.epochs=1"]);
}

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// The files below `from`, put below `to`.
fn below(from: &str, to: &str, files: &Files) -> Files {
    let inside = files
        .iter()
        .filter_map(|(name, bytes)| Some((name.strip_prefix(from)?, bytes)));
    inside
        .map(|(name, bytes)| (format!("{to}{name}"), bytes.clone()))
        .collect()
}

fn tar(files: &Files) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, bytes.as_slice())
            .unwrap();
    }
    tar.into_inner().unwrap()
}

#[test]
fn a_folder_a_tar_and_imagenets_archives_give_the_same_figures() {
    let folder = images();
    let expected = eval(folder, LAST, "set", &[]);
    assert_eq!(expected["rows"], final_table(folder)["rows"]);
    assert_eq!(expected["images"], 12);
    let places = [
        "set/val",
        "set.tar",
        "val.tar",
        "archives",
        "archives/ILSVRC2012_img_val.tar",
    ];
    for data in places {
        assert_eq!(eval(folder, LAST, data, &[]), expected, "{data}");
    }
    // So do those that batch norms are calibrated on, where they lie beside the others or are named.
    let calibrate = ["--sizes", "40", "--calibrate", "20"];
    let expected = eval(folder, LAST, "set", &calibrate);
    assert_eq!(expected["rows"][0]["batch_norm"], 40);
    for (data, more) in [
        ("set/val", &[][..]),
        ("set.tar", &[]),
        ("archives", &[]),
        ("val.tar", &["--calibration-data", "archives"]),
        ("val.tar", &["--calibration-data", "set.tar"]),
        ("archives", &["--calibration-data", "set/train"]),
    ] {
        let arguments = [&calibrate[..], more].concat();
        assert_eq!(
            eval(folder, LAST, data, &arguments),
            expected,
            "{data} {more:?}"
        );
    }
}

#[test]
fn data_that_cannot_be_read_is_named_with_what_can() {
    let folder = images();
    fs::create_dir_all(folder.join("empty")).unwrap();
    write(&folder.join("text.tar"), b"not a tar at all");
    write(&folder.join("x.ron"), b"()");
    write(&folder.join("set.tar.gz"), b"\x1f\x8b\x08\0\0\0\0\0");
    write(
        &folder.join("flat.tar"),
        &tar(&Files::from([("1.jpg".to_owned(), vec![1])])),
    );
    let set: Files = ["a/x/1.jpg", "b/x/1.jpg"]
        .map(|name| (name.to_owned(), vec![1]))
        .into();
    write(&folder.join("halves.tar"), &tar(&set));
    write(&folder.join("alone/ILSVRC2012_img_val.tar"), &tar(&set));
    for (data, code, words) in [
        ("nowhere", 1, "there is no folder or file nowhere"),
        ("/dev/null", 1, "/dev/null is neither a folder nor a file"),
        (
            "empty",
            1,
            "empty is a folder without folders or archives of images",
        ),
        (
            "x.ron",
            2,
            "x.ron is a recipe, not images; `rsflow eval RUN_DIR`",
        ),
        ("text.tar", 1, "text.tar is a file, but not a tar of images"),
        ("set.tar.gz", 1, "decompress it with `gunzip`"),
        ("flat.tar", 1, "flat.tar is a tar without class folders"),
        (
            "halves.tar",
            1,
            "halves.tar is a tar with class folders in a, b, of which none is named val/",
        ),
        (
            "alone",
            1,
            "there is no file alone/ILSVRC2012_devkit_t12.tar.gz",
        ),
    ] {
        let output = rsflow(folder, &["eval", "--checkpoint", LAST, "--data", data]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{data}: {stderr}");
        assert!(stderr.contains(words), "{words:?} is not in\n{stderr}");
        if code == 2 {
            let accepted = "it takes a folder of class folders (or one with val/ and train/), a tar of \
                            such a folder, or ImageNet's archives (ILSVRC2012_img_val.tar";
            assert!(stderr.contains(accepted), "{stderr}");
        }
    }
}
