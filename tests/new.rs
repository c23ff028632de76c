//! `rsflow new` and `rsflow train`: folders and archives as users have them, and what is said of those that are no
//! data sets. And paths of least surprise: run directories and names without endings.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::evaluate::trained;
use crate::run::losses;
use crate::workplace::{done, program, rsflow, workplace};

mod care;
mod moved;
mod refused;
mod trained_on;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Expects parts of what a command prints, on either stream.
fn assert_says(output: &Output, code: i32, words: &[&str]) -> String {
    let all = text(&output.stdout) + &text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{all}");
    for words in words {
        assert!(all.contains(words), "{words:?} is not in\n{all}");
    }
    assert!(!all.contains("panicked"), "{all}");
    all
}

/// A network that is trained in a second.
const SMALL: [&str; 5] = [
    "--network",
    "ResNet(depth: 18, width: 8)",
    "--epochs=1",
    "--sizes",
    "32,48",
];

/// Copies some images of each class.
fn classes(from: &Path, to: &Path, images: usize) {
    for class in fs::read_dir(from).unwrap() {
        let class = class.unwrap();
        let folder = to.join(class.file_name());
        fs::create_dir_all(&folder).unwrap();
        let mut files: Vec<_> = fs::read_dir(class.path()).unwrap().flatten().collect();
        files.sort_by_key(fs::DirEntry::file_name);
        for file in files.into_iter().take(images) {
            fs::copy(file.path(), folder.join(file.file_name())).unwrap();
        }
    }
}

fn tar(folder: &Path, names: &[&str], to: &Path) {
    let mut tar = tar::Builder::new(fs::File::create(to).unwrap());
    for name in names {
        tar.append_dir_all(name, folder.join(name)).unwrap();
    }
    tar.finish().unwrap();
}

#[test]
fn train_is_new_and_run() {
    let folder = workplace();
    let folder = folder.path();
    // Names that a recipe has to escape, of a folder without validation images.
    let data = "my \"photos\" $x\\ e\u{301}\n1";
    classes(&folder.join("shapes/train"), &folder.join(data), 10);
    fs::write(folder.join(data).join("discs_plain/._00000.jpg"), "x").unwrap();
    fs::write(folder.join(data).join("discs_plain/notes.TXT"), "x").unwrap();
    fs::create_dir(folder.join(data).join(".ipynb_checkpoints")).unwrap();

    let new = rsflow(
        folder,
        &[&["new", data, "--out", "my.ron"], &SMALL[..]].concat(),
    );
    let said = assert_says(
        &new,
        0,
        &[
            "80 images, 8 classes (10 images each); 1 other file passed over: 1 .txt; 2 hidden names",
            "no images of its own, so ",
            " are held out: about 10 % of each class",
            "sizes       48, 32: as given",
            "rsflow run my.ron",
            "rsflow check my.ron",
        ],
    );
    assert!(said.contains("\\n1"), "a line break in a name: {said}");
    let recipe = fs::read_to_string(folder.join("my.ron")).unwrap();
    assert!(recipe.contains("\"sizes\": [48, 32],"), "{recipe}");
    assert!(
        recipe.contains("part: Training(validation_percent: $held_out)"),
        "{recipe}"
    );

    let deterministic = ["--set", "trainer.threads=1", "--set", "trainer.log_every=1"];
    // From another folder: the recipe has absolute paths.
    let elsewhere = folder.join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let run = ["run", "../my.ron", "--run-dir=../run"];
    done(&elsewhere, &[&run[..], &deterministic].concat());
    let train = ["train", data, "--run-dir=train"];
    let train = rsflow(folder, &[&train[..], &SMALL, &deterministic].concat());
    let said = assert_says(
        &train,
        0,
        &[
            "sizes       48, 32: as given",
            "run directory: train",
            "of 80 images, 8 classes",
        ],
    );
    // Both parts are read.
    let counts = said.lines().filter_map(|line| {
        let (node, rest) = line.split_once(": ")?;
        let count = rest.split_once(" of 80 images")?.0.parse::<u32>().ok()?;
        node.ends_with("_files").then_some(count)
    });
    let counts: Vec<u32> = counts.collect();
    assert_eq!(
        (counts.len(), counts.iter().sum::<u32>()),
        (2, 80),
        "{said}"
    );
    assert_eq!(losses(&folder.join("run")), losses(&folder.join("train")));
    let kept = |run: &str| fs::read_to_string(folder.join(run).join("recipe.ron")).unwrap();
    let without_comments = |recipe: String| {
        let lines = recipe
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(
        without_comments(kept("run")),
        without_comments(kept("train"))
    );

    let two = ["train", data, "--run-dir=two", "--processes=2"];
    let two = rsflow(folder, &[&two[..], &SMALL].concat());
    let said = assert_says(&two, 0, &["run directory: two", "after 1 epoch"]);
    assert_eq!(said.matches("sizes       48, 32").count(), 1, "{said}");
    // Not where it would be a class; beside the folders of the parts it is none.
    let within = format!("{data}/run");
    let words = "would be taken for a class of";
    assert_says(
        &rsflow(folder, &["train", data, "--run-dir", &within]),
        2,
        &[words],
    );
    let beside = ["train", "shapes", "--run-dir=shapes/run"];
    assert_says(
        &rsflow(folder, &[&beside[..], &SMALL].concat()),
        0,
        &["after 1 epoch"],
    );
    // The same command resumes it, and would not overwrite it.
    let again = ["train", data, "--run-dir=train"];
    assert_says(
        &rsflow(folder, &again),
        1,
        &["is not empty; --resume resumes it"],
    );
    let resume = [&again[..], &["--resume"]].concat();
    assert_says(
        &rsflow(folder, &resume),
        0,
        &[
            "resuming from train/checkpoints/last.safetensors",
            "after 1 epoch",
        ],
    );
    let changed = [
        &resume[..],
        &["--set", "trainer.epochs=2", "--accept-changes"],
    ]
    .concat();
    assert_says(
        &rsflow(folder, &changed),
        0,
        &["the recipe was changed: trainer.epochs", "after 2 epochs"],
    );
    let other = [&resume[..], &["--epochs=2"]].concat();
    assert_says(
        &rsflow(folder, &other),
        2,
        &["--epochs is for a new recipe", "--set trainer.epochs=3"],
    );
    for (data, run_dir, words) in [
        (
            data,
            "none",
            "there is no run in none to resume; without --resume one is started",
        ),
        (
            "shapes",
            "train",
            "the run does not train on shapes; train/recipe.ron names ",
        ),
    ] {
        let arguments = ["train", data, "--run-dir", run_dir, "--resume"];
        assert_says(&rsflow(folder, &arguments), 2, &[words]);
    }
    assert_says(
        &rsflow(folder, &["train", "shapes", "--resume"]),
        1,
        &["no run in runs/shapes has a checkpoint to resume from; --run-dir names a run"],
    );

    // What was held out is what `eval` measures by default, and other seeds or shares are other recipes.
    let eval = ["eval", "train", "--threads=1", "--json=-"];
    let table: Value = serde_json::from_str(&done(folder, &eval)).unwrap();
    let held_out = counts.iter().min().copied().unwrap();
    assert_eq!(table["images"], held_out, "{table}");
    let resume = ["run", "train/recipe.ron", "--resume", "train", "--set"];
    let other = "val_files.part=Validation(validation_percent: 50)";
    let output = rsflow(folder, &[&resume[..], &[other]].concat());
    assert_says(
        &output,
        2,
        &["`train_files` and `val_files` part the same images differently"],
    );
    let train = ["--set", "train_files.part=Training(validation_percent: 50)"];
    let output = rsflow(folder, &[&resume[..], &[other], &train].concat());
    assert_says(&output, 2, &["val_files", "--accept-changes"]);
}

/// Where the images are: what is named, and what of it the recipe and the summary have.
#[test]
fn data_is_found_where_it_usually_is() {
    let folder = workplace();
    let folder = folder.path();
    let few = folder.join("few");
    classes(&folder.join("shapes/val"), &few, 2);
    for copy in [
        "flat",
        "outer/inner/set/train",
        "outer/inner/set/valid",
        "three/Train",
        "three/test",
        "three/docs",
        "part/train",
    ] {
        classes(&few, &folder.join(copy), 2);
    }
    fs::write(folder.join("flat/cover.jpg"), "x").unwrap();
    // A class of trains.
    fs::create_dir(folder.join("vehicles")).unwrap();
    let of_few = fs::read_dir(&few).unwrap().flatten();
    for (class, name) in of_few.zip(["bus", "car", "train"]) {
        fs::create_dir(folder.join("vehicles").join(name)).unwrap();
        for file in fs::read_dir(class.path()).unwrap().flatten() {
            let to = folder.join("vehicles").join(name).join(file.file_name());
            fs::copy(file.path(), to).unwrap();
        }
    }
    tar(
        folder,
        &["shapes/train", "shapes/val"],
        &folder.join("both.tar"),
    );
    tar(folder, &["few"], &folder.join("few.tar"));
    tar(folder, &["flat"], &folder.join("flat.tar"));
    let split = "part: Validation(validation_percent: $held_out)";
    let cases: [(&[&str], &[&str]); 12] = [
        (
            &["vehicles"],
            &["\"data\": \"DIR/vehicles\"", split, "3 classes"],
        ),
        (
            &["shapes"],
            &[
                "DIR/shapes/train\", shuffle: true)",
                "DIR/shapes/val\")",
                "84 images",
                "24 images",
            ],
        ),
        (&["shapes/"], &["DIR/shapes/train\", shuffle: true)"]),
        (
            &["flat"],
            &[
                "\"data\": \"DIR/flat\"",
                split,
                "1 image outside of the class folders",
            ],
        ),
        (
            &["outer"],
            &[
                "DIR/outer/inner/set/train\"",
                "DIR/outer/inner/set/valid\"",
                "outer holds one folder only: outer/inner/set was taken",
            ],
        ),
        (
            &["three"],
            &["three/Train\"", "three/test\"", "not used in three: `docs`"],
        ),
        (
            &["shapes/train"],
            &[
                "shapes/train\"",
                "shapes/val\"",
                "were found beside the training images",
            ],
        ),
        (
            &["part/train", "--validation-percent", "40"],
            &["part/train\"", split, "\"held_out\": 40"],
        ),
        (
            &["both.tar"],
            &[
                "DIR/both.tar\", folder: \"shapes/train\"",
                "folder: \"shapes/val\")",
            ],
        ),
        (
            &["few.tar"],
            &[
                "\"data\": \"DIR/few.tar\"",
                "ImageTar(path: $data, folder: \"few\", part: ",
            ],
        ),
        (
            &["flat.tar"],
            &[
                "ImageTar(path: $data, folder: \"flat\", part: ",
                "1 image outside of the class folders",
            ],
        ),
        (
            &["few.tar", "shapes"],
            &[
                "path: \"DIR/few.tar\", folder: \"few\", shuffle: true)",
                "DIR/shapes/val\")",
            ],
        ),
    ];
    for (arguments, words) in cases {
        let new = ["new", "--out=new.ron", "--force", "--sizes=32,48"];
        let output = rsflow(folder, &[&new[..], arguments].concat());
        let said = assert_says(&output, 0, &["new.ron is written"]);
        let recipe = fs::read_to_string(folder.join("new.ron")).unwrap();
        let place = folder.display().to_string();
        let found = format!("{said}{recipe}").replace(&place, "DIR");
        for words in words {
            assert!(
                found.contains(words),
                "{arguments:?}: {words:?} is not in\n{found}"
            );
        }
        done(folder, &["check", "new.ron"]);
    }
    let new = ["new", "--out=new.ron", "--force", "shapes/train", "few"];
    let said = assert_says(&rsflow(folder, &new), 0, &["new.ron is written"]);
    assert!(!said.contains("beside"), "{said}");
}

#[test]
fn a_recipe_is_replaced_by_force_alone() {
    let folder = workplace();
    let folder = folder.path();
    let printed = done(folder, &["new", "shapes", "--out", "-"]);
    assert!(
        printed.starts_with("// Written by `rsflow new`"),
        "{printed}"
    );
    assert!(!folder.join("shapes.ron").exists());
    let output = rsflow(folder, &["new", "shapes"]);
    assert_says(&output, 0, &["shapes.ron is written"]);
    assert_eq!(
        fs::read_to_string(folder.join("shapes.ron")).unwrap(),
        printed
    );
    fs::write(folder.join("shapes.ron"), "mine").unwrap();
    let output = rsflow(folder, &["new", "shapes"]);
    assert_says(
        &output,
        2,
        &["shapes.ron is there already; --force replaces it"],
    );
    assert_eq!(
        fs::read_to_string(folder.join("shapes.ron")).unwrap(),
        "mine"
    );
    done(folder, &["new", "shapes", "--force"]);
    assert_eq!(
        fs::read_to_string(folder.join("shapes.ron")).unwrap(),
        printed
    );
    // What the check of the recipe finds.
    for (options, words) in [
        (["--sizes", "5000"], "size 5000 is too large"),
        (["--sizes", "64,64"], "size 64 is listed twice"),
        (["--network", "ResNet(depth: 19)"], "`depth`"),
        (["--network", "ResNet(depth: 18"], "network"),
    ] {
        let output = rsflow(
            folder,
            &[&["new", "shapes", "--out=no.ron"], &options[..]].concat(),
        );
        assert_says(&output, 2, &[words]);
        assert!(!folder.join("no.ron").exists());
    }
}

#[test]
fn a_run_directory_is_its_checkpoint_and_a_name_its_recipe() {
    let folder = trained();
    let image = "shapes/val/discs_plain/00000.jpg";
    let json = |arguments: &[&str]| -> Value {
        serde_json::from_str(&done(folder, &[arguments, &["--json", "-"]].concat())).unwrap()
    };
    let best = [
        "--checkpoint",
        "out/checkpoints/best.safetensors",
        "--size=48",
    ];
    let by_file = json(&[&["predict"], &best[..], &[image]].concat());
    for named in ["out", "out/checkpoints", "out/checkpoints/best.safetensors"] {
        let by_run = json(&["predict", named, image]);
        assert_eq!(by_run["size"], 48, "the largest");
        assert_eq!(by_run["images"], by_file["images"], "{named}");
    }
    // All images of a folder, in order, and one from stdin.
    let all = json(&["predict", "out", "shapes/val/discs_plain"]);
    let images = all["images"].as_array().unwrap();
    let names: Vec<&str> = images
        .iter()
        .filter_map(|it| it["image"].as_str())
        .collect();
    assert!(
        names.len() == 3 && names.is_sorted() && names[0] == image,
        "{names:?}"
    );
    let mut piped = program(folder, &["predict", "out", "-", "--json", "-"]);
    piped.stdin(fs::File::open(folder.join(image)).unwrap());
    let piped: Value = serde_json::from_slice(&piped.output().unwrap().stdout).unwrap();
    let predictions = |value: &Value| value["images"][0]["predictions"].clone();
    assert_eq!(predictions(&piped), predictions(&by_file));

    let out = folder.join("by_run.safetensors");
    let export = ["export", "out", "--to", "torchvision", "--size=32", "--out"];
    let output = rsflow(
        folder,
        &[&export[..], &[&out.display().to_string()]].concat(),
    );
    assert_says(
        &output,
        0,
        &["checkpoint: out/checkpoints/best.safetensors"],
    );
    assert!(out.is_file());
    for arguments in [
        &[
            "export",
            "shapes",
            "--to",
            "torchvision",
            "--size=32",
            "--out=x",
        ][..],
        &["predict", "shapes", image],
    ] {
        let output = rsflow(folder, arguments);
        assert_says(
            &output,
            2,
            &[
                "shapes is a folder without ",
                "name a checkpoint or a run directory",
            ],
        );
    }

    assert_eq!(done(folder, &["check", "recipe"]), "recipe: ok, 13 nodes\n");
    // A run that is done has nothing left to do when its directory is resumed.
    let copy = workplace();
    let run = ["run", "recipe", "--run-dir=a", "--set", "trainer.epochs=1"];
    done(copy.path(), &run);
    let resume = [
        "run",
        "recipe",
        "--resume",
        "a",
        "--set",
        "trainer.epochs=1",
    ];
    let output = rsflow(copy.path(), &resume);
    assert_says(
        &output,
        0,
        &["resuming from a/checkpoints/last.safetensors"],
    );
}
