//! `rsflow eval` and `rsflow predict`, and recipes that start from a checkpoint or share a batch
//! norm, on a network that was really trained.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::workplace::{RECIPE, cascaded, completed, done, rsflow, shared_workplace, workplace};

/// A workplace in which a run has been completed in `out`. Tests only add files to it.
pub fn trained() -> &'static Path {
    static TRAINED: OnceLock<PathBuf> = OnceLock::new();
    TRAINED.get_or_init(|| {
        shared_workplace("evaluate", |folder| {
            completed(folder, &["--run-dir", "out"]);
        })
    })
}

pub const LAST: &str = "out/checkpoints/last.safetensors";

/// The rounding depends on these.
const AS_IN_TRAINING: [&str; 4] = ["--batch", "10", "--threads", "1"];

/// The JSON that it writes to stdout.
fn json(folder: &Path, arguments: &[&str]) -> Value {
    serde_json::from_str(&done(folder, &[arguments, &["--json", "-"]].concat())).unwrap()
}

fn eval(arguments: &[&str]) -> Value {
    eval_in(trained(), arguments)
}

fn eval_in(folder: &Path, arguments: &[&str]) -> Value {
    let common = ["eval", "--checkpoint", LAST, "--data", "shapes"];
    json(folder, &[&common[..], &AS_IN_TRAINING, arguments].concat())
}

/// The top-1 accuracy at size 32 of what `predict` says of all validation images.
fn predicted_top1(folder: &Path) -> f64 {
    let images = walk(&folder.join("shapes/val"));
    let images = images.iter().map(String::as_str);
    let predict = [
        "predict",
        "--checkpoint",
        LAST,
        "--size",
        "32",
        "--top",
        "1",
    ];
    let report = json(
        folder,
        &predict.into_iter().chain(images).collect::<Vec<_>>(),
    );
    let report = report["images"].as_array().unwrap();
    let hits = report.iter().filter(|report| {
        let class = report["predictions"][0]["class"].as_str().unwrap();
        let image = report["image"].as_str().unwrap();
        image.contains(&format!("/{class}/"))
    });
    100.0 * hits.count() as f64 / report.len() as f64
}

/// What the run in `out` ended with.
fn final_table(folder: &Path) -> Value {
    let log = std::fs::read_to_string(folder.join("out/metrics.jsonl")).unwrap();
    serde_json::from_str(log.lines().last().unwrap()).unwrap()
}

/// The row of a resolution; `None` is the ensemble's.
fn row(table: &Value, resolution: Option<u32>) -> &Value {
    let rows = table["rows"].as_array().unwrap();
    let mut found = rows
        .iter()
        .filter(|row| row["resolution"] == serde_json::json!(resolution));
    found.next().unwrap_or(&Value::Null)
}

#[test]
fn a_checkpoint_has_the_figures_that_training_ended_with() {
    let last = final_table(trained());
    assert_eq!(last["kind"], "final");
    let all = eval(&[]);
    assert_eq!(all["rows"], last["rows"]);
    assert_eq!(all["images"], 24);

    let one = eval(&["--sizes", "32"]);
    assert_eq!(row(&one, Some(32)), row(&all, Some(32)));
    assert_eq!(one["rows"].as_array().unwrap().len(), 1);
    let other_order = eval(&["--sizes", "32,48"]);
    assert_eq!(row(&other_order, Some(48)), row(&all, Some(48)));
    let close = |a: &Value, b: &Value| (a.as_f64().unwrap() - b.as_f64().unwrap()).abs() < 1e-6;
    assert!(close(
        &row(&other_order, None)["loss"],
        &row(&all, None)["loss"]
    ));
}

/// Also where the processor has other instructions than the one that it was trained on.
#[test]
fn a_network_is_evaluated_in_the_precision_that_it_was_trained_in() {
    let folder = workplace();
    let folder = folder.path();
    for (trained_in, evaluated_in) in [
        ("Float32", "auto"),
        ("Float32", "float32"),
        ("BFloat16", "bfloat16"),
    ] {
        let name = format!("{trained_in}-{evaluated_in}");
        let precision = format!("trainer.precision={trained_in}");
        let set = ["--set", "trainer.epochs=1", "--set", &precision];
        completed(folder, &[&set[..], &["--run-dir", &name]].concat());
        let log = std::fs::read_to_string(folder.join(&name).join("metrics.jsonl")).unwrap();
        let last: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
        let checkpoint = format!("{name}/checkpoints/last.safetensors");
        let eval = ["eval", "--checkpoint", &checkpoint, "--data", "shapes"];
        let options = ["--precision", evaluated_in];
        let table = json(folder, &[&eval[..], &AS_IN_TRAINING, &options].concat());
        assert_eq!(table["rows"], last["rows"], "{name}");
    }
}

#[test]
fn images_are_made_as_the_recipe_made_them() {
    let folder = workplace();
    let folder = folder.path();
    let recipe = RECIPE
        .replace(
            r#"ShapesFolder(root: "shapes", split: Val, train_images: 84, val_images: 24)"#,
            r#"ImageFolder(root: "shapes/val")"#,
        )
        .replace(
            r#"DecodeImage(input: "val_files")"#,
            r#"DecodeImage(input: "val_files", exif_orientation: true)"#,
        )
        .replace(
            "sizes: [48, 32]),\n        \"val_batches\"",
            "sizes: [48, 32], fraction: 1.0),\n        \"val_batches\"",
        );
    assert!(recipe.contains("fraction: 1.0") && recipe.contains("exif_orientation: true"));
    std::fs::write(folder.join("recipe.ron"), recipe).unwrap();
    // Every image says that it lies on its side.
    let lying =
        b"\xff\xe1\0\x22Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    for image in walk(&folder.join("shapes/val")) {
        let mut bytes = std::fs::read(&image).unwrap();
        bytes.splice(2..2, lying.iter().copied());
        std::fs::write(&image, bytes).unwrap();
    }
    completed(folder, &["--run-dir", "out", "--set", "trainer.epochs=1"]);
    let last = final_table(folder);
    let eval = |more: &[&str]| eval_in(folder, more);
    assert_eq!(eval(&[])["rows"], last["rows"]);
    assert_eq!(row(&last, Some(32))["top1"], predicted_top1(folder));
    assert_ne!(eval(&["--fraction", "0.875"])["rows"], last["rows"]);
}

#[test]
fn sizes_that_were_not_trained_borrow_or_measure_batch_norms() {
    let sizes = ["--sizes", "64", "48", "44", "40", "36"];
    let near = eval(
        &[
            &sizes[..],
            &["--batch-norm", "44=nearest", "40=nearest", "36=nearest"],
        ]
        .concat(),
    );
    let norm = |table: &Value, size| row(table, Some(size))["batch_norm"].clone();
    assert_eq!(norm(&near, 44), 48);
    assert_eq!(norm(&near, 40), 32, "of two as near the smaller");
    assert_eq!(norm(&near, 36), 32);
    let usual = eval(&sizes);
    for size in [44, 40, 36] {
        let row = row(&usual, Some(size));
        assert_eq!(
            (&row["batch_norm"], &row["between"]),
            (&Value::Null, &json!([32, 48]))
        );
    }
    assert_eq!(norm(&usual, 64), 48, "beyond all, the nearest");
    assert_eq!(
        row(&near, None),
        &Value::Null,
        "one trained size is no ensemble"
    );

    let named = eval(&["--sizes", "44", "36", "--batch-norm", "44=32", "36=32"]);
    assert_eq!(norm(&named, 44), 32);
    assert_eq!(row(&named, Some(36)), row(&near, Some(36)));
    assert_ne!(row(&named, Some(44))["loss"], row(&near, Some(44))["loss"]);

    let measure = ["--sizes", "48", "40", "--calibrate", "50", "--seed", "5"];
    let stored = ["--store", "stored.safetensors", "--force"];
    let measured = eval(&[&measure[..], &stored].concat());
    assert_eq!(norm(&measured, 40), 40);
    assert_ne!(
        row(&measured, Some(40))["loss"],
        row(&near, Some(40))["loss"]
    );
    assert_eq!(row(&measured, Some(48)), row(&near, Some(48)));
    assert_eq!(eval(&measure)["rows"], measured["rows"], "the same again");

    let again = ["eval", "--checkpoint", "stored.safetensors", "--data"];
    let sizes = ["shapes/val", "--sizes", "48", "40", "32"];
    let again = json(trained(), &[&again[..], &sizes, &AS_IN_TRAINING].concat());
    assert_eq!(row(&again, Some(40)), row(&measured, Some(40)));
    assert_ne!(row(&again, None), &Value::Null);
}

#[test]
fn a_run_that_goes_on_leaves_calibrated_batch_norms_behind() {
    let folder = workplace();
    completed(folder.path(), &["--run-dir", "out"]);
    let store = "eval --checkpoint out/checkpoints/last.safetensors --data shapes --sizes 40 \
                 --calibrate 20 --store stored.safetensors";
    json(folder.path(), &store.split(' ').collect::<Vec<_>>());
    let again =
        "--resume stored.safetensors --run-dir more --set trainer.epochs=3 --accept-changes";
    completed(folder.path(), &again.split(' ').collect::<Vec<_>>());
    let bytes = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    for name in ["last", "best"] {
        let checkpoint = format!("more/checkpoints/{name}.safetensors");
        // If no epoch of this run was better, `best` is the checkpoint that it was resumed from.
        let as_stored = bytes(&checkpoint) == bytes("stored.safetensors");
        assert!(!as_stored || name == "best");
        let norm = if as_stored { json!(40) } else { Value::Null };
        let arguments = ["eval", "--checkpoint", &checkpoint, "--data", "shapes"];
        let table = json(
            folder.path(),
            &[&arguments[..], &["--sizes", "40"]].concat(),
        );
        assert_eq!(row(&table, Some(40))["batch_norm"], norm, "{name}");
    }
}

#[test]
fn images_are_told_apart_as_in_validation() {
    let images: Vec<String> = ["bands_hatched", "discs_plain"]
        .map(|class| format!("shapes/val/{class}/00000.jpg"))
        .to_vec();
    for (size, norm) in [
        ("48", json!(48)),
        ("32", json!(32)),
        ("44", json!([32, 48])),
    ] {
        let common = [
            "predict",
            "--checkpoint",
            LAST,
            "--size",
            size,
            "--top",
            "9",
        ];
        let images = images.iter().map(String::as_str);
        let arguments: Vec<&str> = common.into_iter().chain(images).collect();
        let report = json(trained(), &arguments);
        assert_eq!(report["batch_norm"], norm);
        for image in report["images"].as_array().unwrap() {
            let predictions = image["predictions"].as_array().unwrap();
            assert_eq!(predictions.len(), 8, "there are no more classes");
            let probability = |p: &Value| p["probability"].as_f64().unwrap();
            let sum: f64 = predictions.iter().map(probability).sum();
            assert!((sum - 1.0).abs() < 1e-9, "{sum}");
            assert!(predictions.is_sorted_by(|a, b| probability(a) >= probability(b)));
            assert!(predictions.iter().any(|p| p["class"] == "discs_plain"));
        }
    }
    // Shares of right answers are those of the table.
    let all: Vec<String> = walk(&trained().join("shapes/val"));
    let common = [
        "predict",
        "--checkpoint",
        LAST,
        "--size",
        "48",
        "--top",
        "1",
    ];
    let arguments: Vec<&str> = common
        .into_iter()
        .chain(all.iter().map(String::as_str))
        .collect();
    let report = json(trained(), &arguments);
    let right = report["images"].as_array().unwrap().iter().filter(|image| {
        let class = image["predictions"][0]["class"].as_str().unwrap();
        image["image"]
            .as_str()
            .unwrap()
            .contains(&format!("/{class}/"))
    });
    let top1 = row(&eval(&[]), Some(48))["top1"].as_f64().unwrap();
    assert!((100.0 * right.count() as f64 / all.len() as f64 - top1).abs() < 1e-9);
}

fn walk(folder: &Path) -> Vec<String> {
    let classes = std::fs::read_dir(folder).unwrap();
    let files = classes.flat_map(|class| std::fs::read_dir(class.unwrap().path()).unwrap());
    files
        .map(|file| file.unwrap().path().display().to_string())
        .collect()
}

/// A network that was validated on samples of one picture is measured on them, at some of the sizes
/// too, and told classes by them.
#[test]
fn samples_of_one_picture_are_what_they_were_in_training() {
    let folder = workplace();
    let folder = folder.path();
    std::fs::write(folder.join("recipe.ron"), cascaded()).unwrap();
    let bgr = ["--set", "trainer.channels=Bgr"];
    completed(folder, &[&["--run-dir", "out"][..], &bgr].concat());
    let last = final_table(folder);
    let eval = |more: &[&str]| eval_in(folder, more);
    assert_eq!(eval(&[])["rows"], last["rows"]);
    let small = eval(&["--sizes", "32"]);
    assert_eq!(row(&small, Some(32)), row(&last, Some(32)));
    assert_eq!(row(&small, Some(32))["top1"], predicted_top1(folder));
    // A size that is not a sample of that picture is made of the image.
    let large = rsflow(
        folder,
        &[
            "eval",
            "--checkpoint",
            LAST,
            "--data",
            "shapes",
            "--sizes",
            "64",
        ],
    );
    assert!(large.status.success());
    let stderr = String::from_utf8_lossy(&large.stderr);
    assert!(
        stderr.contains("preprocessing differs from the training run's validation"),
        "{stderr}"
    );
    // The images to calibrate with are those of training.
    let calibrated = eval(&["--sizes", "40", "--calibrate", "40"]);
    assert!(
        row(&calibrated, Some(40))["loss"]
            .as_f64()
            .unwrap()
            .is_finite()
    );
}

#[test]
fn progress_is_shown_to_the_last_batch() {
    let eval = ["eval", "--checkpoint", LAST, "--data=shapes", "--batch=10"];
    let output = rsflow(trained(), &eval);
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rfind(|line| line.starts_with("evaluation "));
    assert_eq!(last, Some("evaluation  batch 3/3"), "{said}");
}

#[test]
fn what_cannot_be_measured_is_told() {
    let folder = trained();
    std::fs::write(folder.join("text.safetensors"), "not a checkpoint at all").unwrap();
    let whole = std::fs::read(folder.join(LAST)).unwrap();
    std::fs::write(folder.join("cut.safetensors"), &whole[..whole.len() / 2]).unwrap();
    std::fs::create_dir_all(folder.join("few/a")).unwrap();
    std::fs::copy(
        folder.join("shapes/val/discs_plain/00000.jpg"),
        folder.join("few/a/1.jpg"),
    )
    .unwrap();
    std::fs::write(folder.join("cut.jpg"), [0xff, 0xd8, 0xff]).unwrap();
    let eval = |file: &'static str, more: &[&'static str]| {
        [&["eval", "--checkpoint", file, "--data"], more].concat()
    };
    let predict = |more: &[&'static str]| [&["predict", "--checkpoint", LAST], more].concat();
    let image = "shapes/val/discs_plain/00000.jpg";
    let cases: &[(Vec<&str>, i32, &[&str])] = &[
        (
            eval("none.safetensors", &["shapes"]),
            1,
            &["cannot read the checkpoint none.safetensors"],
        ),
        (
            eval("text.safetensors", &["shapes"]),
            1,
            &["text.safetensors", "not a safetensors file"],
        ),
        (
            eval("cut.safetensors", &["shapes"]),
            1,
            &["cut.safetensors", "truncated"],
        ),
        (
            eval(LAST, &["nowhere"]),
            1,
            &["there is no folder or file nowhere"],
        ),
        (
            eval(LAST, &["shapes", "--json", "nowhere/table.json"]),
            1,
            &["cannot write nowhere/table.json: its folder does not exist"],
        ),
        (
            predict(&["--size", "32", image, "--json", "nowhere/table.json"]),
            1,
            &["cannot write nowhere/table.json: its folder does not exist"],
        ),
        (
            eval(LAST, &["few"]),
            1,
            &["few has a class that the network was not trained on: `a`;"],
        ),
        (
            eval(LAST, &["shapes", "--sizes", "48", "16"]),
            2,
            &["resolution 16 is too small"],
        ),
        (
            eval(LAST, &["shapes", "--sizes", "40", "--batch-norm", "40=224"]),
            2,
            &["--batch-norm 40=224", "[48, 32]"],
        ),
        (
            eval(LAST, &["shapes", "--batch-norm", "40=48"]),
            2,
            &["40 is not one of the sizes [48, 32]"],
        ),
        (
            eval(LAST, &["shapes", "--calibrate", "9"]),
            2,
            &["every one of the sizes [48, 32] was trained"],
        ),
        (
            eval(LAST, &["few", "--sizes", "40", "--calibrate", "9"]),
            2,
            &["--calibration-data names a folder"],
        ),
        (
            eval(LAST, &["shapes", "--store", "x.safetensors"]),
            2,
            &["--calibrate"],
        ),
        (
            predict(&["--size", "48", image, "cut.jpg", "none.jpg"]),
            1,
            &["cut.jpg: ", "none.jpg: ", "2 of 3 images failed"],
        ),
        (
            predict(&["--size", "48", "--batch-norm", "40", image]),
            2,
            &["--batch-norm 48=40", "batch norms of [48, 32]"],
        ),
        (
            eval(LAST, &["shapes", "--sizes", "40", "40"]),
            2,
            &["resolution 40 is listed twice"],
        ),
        (eval(LAST, &["shapes", "--batch", "0"]), 2, &["--batch"]),
        (
            eval(
                LAST,
                &[
                    "shapes",
                    "--sizes",
                    "40",
                    "--calibrate",
                    "9",
                    "--store",
                    LAST,
                ],
            ),
            1,
            &["cannot write out/checkpoints/last.safetensors: this command reads it"],
        ),
        (
            eval(
                LAST,
                &[
                    "shapes",
                    "--sizes",
                    "40",
                    "--calibrate",
                    "9",
                    "--store",
                    LAST,
                    "--force",
                ],
            ),
            1,
            &["this command reads it; --store names another file"],
        ),
        (
            predict(&["--size", "8", image]),
            2,
            &["resolution 8 is too small"],
        ),
    ];
    for (arguments, code, words) in cases {
        let output = rsflow(folder, arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(*code), "{arguments:?}: {stderr}");
        for word in *words {
            assert!(stderr.contains(word), "{word:?} is not in\n{stderr}");
        }
    }
}

#[test]
fn a_run_starts_from_the_weights_of_another() {
    let folder = workplace();
    let start = trained().join(LAST);
    let set = format!("trainer.start_from={:?}", start.display().to_string());
    // With next to no learning rate the figures stay those that it starts with.
    let still = [
        "--set",
        "trainer.optimizer.lr=1e-30",
        "--set",
        "trainer.epochs=1",
    ];
    let sizes = [
        "--set",
        "train_sizes.sizes=[48, 40]",
        "--set",
        "val_sizes.sizes=[48, 40]",
    ];
    let arguments = [&["--run-dir", "tuned", "--set", &set], &still[..], &sizes].concat();
    completed(folder.path(), &arguments);
    let read = |path: PathBuf, name: &str| -> Vec<f32> {
        let checkpoint = rsflow_model::checkpoint::Checkpoint::open(&path).unwrap();
        let tensor = checkpoint.read([name]).unwrap().remove(0).view(-1);
        Vec::try_from(tensor).unwrap()
    };
    let tuned = folder.path().join("tuned/checkpoints/last.safetensors");
    for (name, source) in [
        ("conv1.weight", "conv1.weight"),
        ("fc.bias", "fc.bias"),
        ("layer1.0.bn1.48.weight", "layer1.0.bn1.48.weight"),
        // The nearest that there was; of two as near the smaller.
        ("layer1.0.bn1.40.weight", "layer1.0.bn1.32.weight"),
    ] {
        assert_eq!(
            read(tuned.clone(), name),
            read(start.clone(), source),
            "{name}"
        );
    }
}

#[test]
fn one_batch_norm_can_serve_all_resolutions() {
    let folder = workplace();
    let shared = ["--set", "trainer.batch_norms=Shared", "--run-dir", "out"];
    completed(folder.path(), &shared);
    let path = folder.path().join(LAST);
    let checkpoint = rsflow_model::checkpoint::Checkpoint::open(&path).unwrap();
    let names = checkpoint.names();
    assert!(names.iter().any(|name| name == "layer1.0.bn1.48.weight"));
    assert!(!names.iter().any(|name| name.contains(".32.")));
    let arguments = ["eval", "--checkpoint", LAST, "--data", "shapes"];
    let table = json(folder.path(), &[&arguments[..], &AS_IN_TRAINING].concat());
    let log = std::fs::read_to_string(folder.path().join("out/metrics.jsonl")).unwrap();
    let last: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    assert_eq!(table["rows"], last["rows"]);
    assert_eq!(row(&table, Some(32))["batch_norm"], 48);
}

#[test]
fn latency_is_beside_accuracy_in_table_json_and_figure() {
    let folder = trained();
    let figure = folder.join("figure.svg");
    let table = eval(&["--latency", "--plot", figure.to_str().unwrap()]);
    let latencies = table["latencies"].as_array().unwrap();
    let sizes: Vec<&Value> = latencies.iter().map(|of| &of["resolution"]).collect();
    let rows = table["rows"].as_array().unwrap().iter();
    let rows: Vec<&Value> = rows
        .map(|row| &row["resolution"])
        .filter(|r| !r.is_null())
        .collect();
    assert_eq!(sizes, rows);
    for of in latencies {
        assert!(of["milliseconds"].as_f64().unwrap() > 0.0, "{of}");
        assert!(of["images_per_second"].as_f64().unwrap() > 0.0, "{of}");
        assert!((1..=64).contains(&of["batch"].as_u64().unwrap()), "{of}");
    }
    let svg = std::fs::read_to_string(figure).unwrap();
    for text in ["<svg", "multiply-adds", "milliseconds", "top-1 %"] {
        assert!(svg.contains(text), "{text}");
    }
    // The paper's points are of its networks on ImageNet alone.
    assert!(!svg.contains("published"));
}
