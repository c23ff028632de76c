//! `rsflow new` and `rsflow train`: folders and archives as users have them, and what is said of those that are no
//! data sets. And paths of least surprise: run directories and names without endings.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::evaluate::trained;
use crate::run::losses;
use crate::workplace::{done, program, rsflow, workplace};

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
    assert_says(&rsflow(folder, &other), 2, &["cannot be used with"]);
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

/// A JPEG that lies on its side, as EXIF says.
fn turned(jpeg: &[u8]) -> Vec<u8> {
    let block = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    let length = (block.len() as u16 + 2).to_be_bytes();
    [&jpeg[..2], &[0xff, 0xe1], &length, block, &jpeg[2..]].concat()
}

/// What of a data set needs a policy gets one, be it in the images for validation.
#[test]
fn damaged_and_turned_images_are_provided_for() {
    let folder = workplace();
    let folder = folder.path();
    classes(&folder.join("shapes/val"), &folder.join("sound"), 3);
    for name in ["damaged", "turned"] {
        classes(&folder.join("sound"), &folder.join(name).join("train"), 3);
        classes(&folder.join("sound"), &folder.join(name).join("val"), 3);
        let class = fs::read_dir(folder.join(name).join("val")).unwrap().next();
        let image = fs::read_dir(class.unwrap().unwrap().path()).unwrap().next();
        let image = image.unwrap().unwrap().path();
        let jpeg = match name {
            "turned" => turned(&fs::read(&image).unwrap()),
            _ => Vec::new(),
        };
        fs::write(image, jpeg).unwrap();
    }
    let decode = |more: &str| {
        ["train", "val"].map(|part| format!("DecodeImage(input: \"{part}_files\"{more})"))
    };
    for (name, more, words) in [
        ("sound", "", &["all headers read"][..]),
        (
            "damaged",
            ", on_error: Skip(budget: 0.05)",
            &[
                "1 of 48 images cannot be read",
                "the file is empty",
                "up to 5 % of the images",
            ],
        ),
        (
            "turned",
            ", exif_orientation: true",
            &["1 of 48 images have an EXIF orientation that is not upright"],
        ),
    ] {
        let said = assert_says(&rsflow(folder, &["new", name]), 0, words);
        let recipe = fs::read_to_string(folder.join(name).with_extension("ron")).unwrap();
        for node in decode(more) {
            assert!(recipe.contains(&node), "{node} is not in {recipe}\n{said}");
        }
    }
    let arguments = [&["train", "damaged", "--run-dir=run"][..], &SMALL].concat();
    let said = assert_says(
        &rsflow(folder, &arguments),
        0,
        &["1 damaged image was replaced"],
    );
    assert_eq!(said.matches("on_error").count(), 0, "{said}");
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
fn what_is_no_data_set_is_named_with_a_way_out() {
    let folder = workplace();
    let folder = folder.path();
    let image = folder.join("shapes/val/discs_plain/00000.jpg");
    let put = |names: &[&str]| {
        for name in names {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::copy(&image, path).unwrap();
        }
    };
    put(&[
        "one/cats/1.jpg",
        "one/cats/2.jpg",
        "single/a/1.jpg",
        "single/b/1.jpg",
        "single/b/2.jpg",
    ]);
    put(&[
        "loose/1.jpg",
        "hole/a/1.jpg",
        "hole/a/2.jpg",
        "val_only/val/a/1.jpg",
        "val_only/test/a/1.jpg",
    ]);
    put(&[
        "other/train/a/1.jpg",
        "other/train/bird/1.jpg",
        "other/val/a/1.jpg",
        "other/val/birds/1.jpg",
    ]);
    put(&["top.d/1.jpg"]);
    for empty in ["empty", "hole/b", "texts"] {
        fs::create_dir(folder.join(empty)).unwrap();
    }
    for (name, bytes) in [
        ("hole/b/a.avif", "x"),
        ("texts/a.txt", "x"),
        ("set.zip", "PK\u{3}\u{4}xxxx"),
        ("set.tar.gz", "\u{1f}\u{8b}xxxx"),
        ("short.tar", ""),
        ("broken/a/1.jpg", "<html>"),
        ("broken/b/1.jpg", ""),
        ("broken/a/2.jpg", "x"),
        ("broken/b/2.jpg", "x"),
    ] {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    fs::write(folder.join("set.tar.gz"), b"\x1f\x8b\x08\0\0\0").unwrap();
    tar(&folder.join("top.d"), &["."], &folder.join("top.tar"));
    let layout = "/CLASS/IMAGE.jpg, or ";
    let cases: [(&[&str], i32, &[&str]); 17] = [
        (&["nothing"], 2, &["there is no folder or file", "nothing"]),
        (&["empty"], 2, &["empty is empty", layout]),
        (
            &["texts"],
            2,
            &["texts holds 1 file, but neither folders nor images", layout],
        ),
        (
            &["one"],
            2,
            &["one has one class only, `cats`", "into a folder beside it"],
        ),
        (
            &["loose"],
            2,
            &["loose holds 1 image, but no class folders"],
        ),
        (&["one/cats/1.jpg"], 2, &["is an image; name the folder"]),
        (
            &["shapes/train/discs_plain"],
            2,
            &[
                "it may be one class itself; if ",
                "shapes/train is the folder",
            ],
        ),
        (
            &["single"],
            1,
            &[
                "a class with a single image cannot be split",
                "`a`; add images",
            ],
        ),
        (
            &["hole"],
            1,
            &[
                "class folders without an image",
                "`b`; fill them or remove them",
                "1 .avif",
            ],
        ),
        (
            &["val_only"],
            2,
            &[
                "val_only has no training images: it holds `test`, `val`",
                "name the folder",
            ],
        ),
        (
            &["other"],
            1,
            &[
                "other/val has a class that the network was not trained on: `birds`; did you mean `bird`?",
            ],
        ),
        (
            &["set.zip"],
            2,
            &["set.zip is a ZIP archive", "unpack it (`unzip`)"],
        ),
        (&["set.tar.gz"], 2, &["is compressed", "`gunzip`"]),
        (&["short.tar"], 2, &["short.tar"]),
        (&["top.tar"], 2, &["top.tar has no class folders", layout]),
        (
            &["broken"],
            1,
            &["none of 4 images in ", "can be read: ", "broken/a/"],
        ),
        (
            &["shapes", "shapes", "shapes"],
            2,
            &["unexpected value 'shapes'"],
        ),
    ];
    for (arguments, code, words) in cases {
        for command in ["new", "train"] {
            let output = rsflow(folder, &[&[command][..], arguments].concat());
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
            for words in words {
                assert!(
                    said.contains(words),
                    "{arguments:?}: {words:?} is not in\n{said}"
                );
            }
        }
    }
    // Nothing was written, and no run begun.
    assert!(!folder.join("runs").exists());
    let written = fs::read_dir(folder).unwrap().flatten();
    let written = written.filter(|file| file.path().extension().is_some_and(|it| it == "ron"));
    assert_eq!(written.count(), 1, "the workplace's own");
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
