//! Folders as a user has them: class names in another order or form, files that are no images, `~`,
//! data that changes between a run and its resume.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::evaluate::{LAST, trained};
use crate::run::{command, signal, wait_for_lines};
use crate::workplace::{RECIPE, done, program, rsflow, workplace};

/// The recipe with folders that tests may change.
fn recipe() -> String {
    let shapes = |split| {
        format!(
            "ShapesFolder(root: \"shapes\", split: {split}, {}train_images: 84, val_images: 24)",
            if split == "Train" {
                "shuffle: true, "
            } else {
                ""
            }
        )
    };
    let recipe = RECIPE
        .replace(
            &shapes("Train"),
            r#"ImageFolder(root: "shapes/train", shuffle: true)"#,
        )
        .replace(&shapes("Val"), r#"ImageFolder(root: "shapes/val")"#);
    assert_eq!(recipe.matches("ImageFolder").count(), 2);
    recipe
}

/// A workplace with that recipe.
fn folders() -> tempfile::TempDir {
    let folder = workplace();
    fs::write(folder.path().join("recipe.ron"), recipe()).unwrap();
    folder
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Expects an exit code and parts of what is said.
fn said(output: &Output, code: i32, words: &[&str]) -> String {
    let stderr = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    for words in words {
        assert!(stderr.contains(words), "{words:?} is not in\n{stderr}");
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
    stderr
}

/// What a run ended with.
fn final_rows(run_dir: &Path) -> Value {
    let log = fs::read_to_string(run_dir.join("metrics.jsonl")).unwrap();
    let last: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    last["rows"].clone()
}

/// Images that each row was right about.
fn hits(rows: &Value, images: f64) -> Vec<u32> {
    let rows = rows.as_array().unwrap().iter();
    rows.map(|row| (row["top1"].as_f64().unwrap() * images / 100.0).round() as u32)
        .collect()
}

#[test]
fn a_part_of_the_classes_is_matched_by_name() {
    let trained = trained();
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = trained.join(LAST).display().to_string();
    let val = trained.join("shapes/val");
    let entries = fs::read_dir(&val).unwrap();
    let mut classes: Vec<_> = entries.map(|class| class.unwrap().file_name()).collect();
    classes.sort();
    let mut sums = vec![0; 3];
    for (name, classes) in [("few", &classes[..3]), ("others", &classes[3..])] {
        let data = folder.path().join(name);
        fs::create_dir_all(&data).unwrap();
        for class in classes {
            std::os::unix::fs::symlink(val.join(class), data.join(class)).unwrap();
        }
        let eval = ["eval", "--checkpoint", &checkpoint, "--data", name];
        let options = ["--threads", "1", "--json", "-"];
        let output = rsflow(folder.path(), &[&eval[..], &options].concat());
        let count = classes.len();
        let reported = format!("evaluating {count} of 8 classes: `");
        said(
            &output,
            0,
            &[&reported, &format!("images, {count} classes\n")],
        );
        let table: Value = serde_json::from_slice(&output.stdout).unwrap();
        let hits = hits(&table["rows"], table["images"].as_f64().unwrap());
        for (sum, hits) in sums.iter_mut().zip(hits) {
            *sum += hits;
        }
    }
    assert_eq!(sums, hits(&final_rows(&trained.join("out")), 24.0));
}

/// `~`, accents as macOS writes them, which sort elsewhere, and files that are no images.
#[test]
fn the_folders_of_a_user_are_understood() {
    let folder = folders();
    let folder = folder.path();
    for (half, name) in [("train", "\u{e9}toiles"), ("val", "e\u{301}toiles")] {
        let half = folder.join("shapes").join(half);
        fs::rename(half.join("discs_plain"), half.join(name)).unwrap();
    }
    for name in [
        "rings_plain/1.avif",
        "rings_plain/2.AVIF",
        "._x",
        ".ipynb_checkpoints",
    ] {
        fs::write(folder.join("shapes/train").join(name), "x").unwrap();
    }
    let at_home = |arguments: &[&str]| {
        let mut program = program(folder, arguments);
        program.env("HOME", folder).output().unwrap()
    };
    let run = ["run", "~/recipe.ron", "--run-dir=~/out"];
    let set = [
        "--set",
        "trainer.epochs=1",
        "--set",
        "train_files.root=~/shapes/train",
        "--set",
        "val_files.root=~/shapes/val",
    ];
    let reported =
        "train_files: 84 images, 8 classes (2 other files passed over: 2 .avif; 2 hidden names)";
    let output = at_home(&[&run[..], &set].concat());
    said(&output, 0, &[reported, "val_files: 24 images, 8 classes\n"]);
    assert!(!folder.join("~").exists());
    let log = fs::read_to_string(folder.join("out/run.log")).unwrap();
    assert!(log.contains(reported), "{log}");

    let val = folder.join("shapes/val");
    fs::rename(val.join("e\u{301}toiles"), val.join("\u{e9}toiles")).unwrap();
    let eval = ["eval", "--checkpoint", "~/out", "--data=~/shapes"];
    let options = ["--threads", "1", "--json=~/t.json"];
    let output = at_home(&[&eval[..], &options].concat());
    let best = "/out/checkpoints/best.safetensors\n";
    said(&output, 0, &["checkpoint: ", best]);
    let table: Value = serde_json::from_slice(&fs::read(folder.join("t.json")).unwrap()).unwrap();
    let trained = final_rows(&folder.join("out"));
    let trained = trained.as_array().unwrap().iter();
    for (row, trained) in table["rows"].as_array().unwrap().iter().zip(trained) {
        assert_eq!(row["top1"], trained["top1"]);
        assert_eq!(row["top5"], trained["top5"]);
        // Summed in another order.
        let [loss, expected] = [row, trained].map(|row| row["loss"].as_f64().unwrap());
        assert!((loss - expected).abs() < 1e-5, "{loss} {expected}");
    }

    for (arguments, words) in [
        (&["run", "recipe.ron", "--run-dir=~you/out"][..], "`~you`"),
        (
            &[
                "check",
                "recipe.ron",
                "--set",
                "train_files.root=~you/x",
                "--set",
                "trainer.start_from=~me/y",
            ],
            "(`~me`)",
        ),
    ] {
        let other = "the home folder of another user";
        said(&at_home(arguments), 2, &[other, words]);
    }
}

/// A network without class names, and folders 1 to 10.
#[test]
fn folders_that_are_numbers_can_be_sorted_as_numbers() {
    let folder = workplace();
    let folder = folder.path();
    let image = folder.join("shapes/val/discs_plain/00000.jpg");
    for number in 1..=10 {
        let class = folder.join(format!("numbers/{number}"));
        fs::create_dir_all(&class).unwrap();
        fs::copy(&image, class.join("1.jpg")).unwrap();
    }
    let theirs = "tests/fixtures/reference/mobilenetv2_x0.25_mred/checkpoint.pth.tar";
    let theirs = Path::new(env!("CARGO_MANIFEST_DIR")).join(theirs);
    let theirs = theirs.display().to_string();
    let arch = ["--arch", "mobilenetv2_x0.25", "--sizes", "128", "112", "96"];
    let import = ["import", &theirs, "--out", "c.safetensors"];
    done(folder, &[&import[..], &arch].concat());
    let eval = ["eval", "--checkpoint", "c.safetensors", "--data", "numbers"];
    for (order, warns) in [("text", true), ("numeric", false)] {
        let options = ["--sizes", "96", "--class-order", order];
        let stderr = said(&rsflow(folder, &[&eval[..], &options].concat()), 0, &[]);
        let warning = "are numbers, which are sorted as text here (`1`, `10`, `2`, `3`, `4`, ...)";
        let way_out = "`eval --class-order numeric`";
        let warned = stderr.contains(warning) && stderr.contains(way_out);
        assert_eq!(warned, warns, "{stderr}");
        assert_eq!(stderr.contains("WARN"), warns, "{stderr}");
    }
}

#[test]
fn a_resume_says_that_the_images_changed() {
    let folder = folders();
    let folder = folder.path();
    let image = |half: &str, name: &str| {
        let half = folder.join("shapes").join(half);
        half.join("discs_hatched").join(name)
    };
    let rename = |half: &str, from: &str, to: &str| {
        fs::rename(image(half, from), image(half, to)).unwrap();
    };
    let run = |more: &[&str]| {
        let common = ["--run-dir", "out", "--set", "val_batches.drop_last=true"];
        command(folder, &[&common[..], more].concat())
    };
    let mut child = run(&[]).spawn().unwrap();
    wait_for_lines(&folder.join("out/metrics.jsonl"), 2);
    signal(&child, "-INT");
    assert_eq!(child.wait().unwrap().code(), Some(130));

    rename("train", "00000.jpg", "renamed.jpg");
    said(
        &run(&["--resume"]).output().unwrap(),
        1,
        &[
            "trainer (RsNet): out/checkpoints/last.safetensors was saved within an epoch, and the training \
             images or their classes were renamed, replaced or moved since then (there are 84, as before)",
            "revert the change",
            "WARN `drop_last: true` leaves out 4 of the 24 images of shapes/val",
        ],
    );
    rename("train", "renamed.jpg", "00000.jpg");
    let unchanged = said(&run(&["--resume"]).output().unwrap(), 0, &[]);
    assert!(!unchanged.contains("images are not those"), "{unchanged}");

    fs::remove_file(image("train", "00000.jpg")).unwrap();
    rename("val", "00000.jpg", "renamed.jpg");
    let longer = ["--resume", "--accept-changes", "--set", "trainer.epochs=3"];
    said(
        &run(&longer).output().unwrap(),
        0,
        &[
            "WARN the training images are not those that out/checkpoints/last.safetensors was trained on: \
             they are 83, and were 84",
            "WARN the validation images are not those that",
            "WARN the last batch of an epoch has 3 images, not 8: at 32 pixels batch norms learn from 3 values",
        ],
    );
}

#[test]
fn a_folder_one_level_too_high_is_doubted() {
    let folder = folders();
    let set = ["--set", "train_files.root=shapes", "--run-dir", "out"];
    let output = command(folder.path(), &set).output().unwrap();
    said(
        &output,
        1,
        &[
            "WARN train_files: the class folders in shapes are `train` and `val`, and their images are in \
             folders of their own: shapes/train was probably meant",
            "`classes` is 8, but shapes has 2 classes",
        ],
    );
}

#[test]
fn what_a_recipe_hardly_means_is_a_warning() {
    let folder = workplace();
    for (sets, words) in [
        (
            &["val_batches.drop_last=true"][..],
            [
                "warning: `val_batches` drops the last batch if it is not full: the accuracy may be that of a \
                 part of the images",
                "write `drop_last: false` in `val_batches`",
            ],
        ),
        (
            &["train_sizes.sizes=[32, 48]", "val_sizes.sizes=[32, 48]"],
            [
                "warning: with `EnsembleTopDown` each size teaches those after it, and here 32 teaches 48",
                "list the sizes that lead to `train_batches` from the largest to the smallest",
            ],
        ),
    ] {
        let sets = sets.iter().flat_map(|set| ["--set", set]);
        let check: Vec<&str> = ["check", "recipe.ron"].into_iter().chain(sets).collect();
        let output = rsflow(folder.path(), &check);
        said(&output, 0, &words);
        assert!(String::from_utf8_lossy(&output.stdout).contains("ok, 13 nodes"));
    }
}

#[test]
fn predict_takes_folders_stdin_and_run_directories_but_no_pipes() {
    let folder = trained();
    let image = folder.join("shapes/val/discs_plain/00000.jpg");
    let predict = [
        "predict",
        "--checkpoint",
        "out",
        "--size",
        "32",
        "--top",
        "1",
    ];
    let checkpoint = "checkpoint: out/checkpoints/best.safetensors";

    let output = rsflow(
        folder,
        &[&predict[..], &["shapes/val/discs_plain", "--json", "-"]].concat(),
    );
    said(
        &output,
        0,
        &[checkpoint, "shapes/val/discs_plain: 3 images\n"],
    );
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let names: Vec<&str> = report["images"]
        .as_array()
        .unwrap()
        .iter()
        .map(|image| image["image"].as_str().unwrap())
        .collect();
    let expected = ["00000.jpg", "00001.jpg", "00002.jpg"]
        .map(|name| format!("shapes/val/discs_plain/{name}"));
    assert_eq!(names, expected);
    let of_file = &report["images"][0]["predictions"];

    let mut child = program(folder, &[&predict[..], &["-", "--json", "-"]].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(&fs::read(image).unwrap())
        .unwrap();
    let report: Value = serde_json::from_slice(&child.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(report["images"][0]["image"], "-");
    assert_eq!(&report["images"][0]["predictions"], of_file);

    let fifo = folder.join("fifo.jpg");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    fs::create_dir_all(folder.join("nothing")).unwrap();
    let output = rsflow(folder, &[&predict[..], &["/dev/zero", "fifo.jpg"]].concat());
    said(
        &output,
        1,
        &[
            "/dev/zero: cannot read the file: it is a device, not a file",
            "fifo.jpg: cannot read the file: it is a FIFO, not a file",
        ],
    );
    let output = rsflow(folder, &[&predict[..], &["nothing"]].concat());
    said(&output, 1, &["nothing: 0 images"]);
    let check = rsflow(folder, &["check", "fifo.jpg"]);
    said(
        &check,
        2,
        &[
            "cannot read the recipe fifo.jpg",
            "it is a FIFO, not a file",
        ],
    );
    let eval = ["eval", "--checkpoint", "shapes", "--data", "shapes"];
    said(
        &rsflow(folder, &eval),
        2,
        &["shapes is a folder without checkpoints/best.safetensors"],
    );
}
