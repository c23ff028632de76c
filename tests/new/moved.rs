//! A run is resumed although its images were moved or renamed since.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use super::{assert_says, classes};
use crate::run::{losses, signal, wait_for_lines};
use crate::workplace::{done, program, rsflow, workplace};

const OPTIONS: [&str; 8] = [
    "--network=ResNet(depth: 18, width: 8)",
    "--epochs=3",
    "--sizes=48,32",
    "--set=train_batches.size=8",
    "--set=trainer.threads=1",
    "--set=trainer.log_every=1",
    "--set=trainer.warm_up_epochs=0",
    "--set=cpu_workers=1",
];

/// Begins a run and interrupts it within an epoch.
fn begin(folder: &Path, data: &[&str], run_dir: &str) {
    let options = [OPTIONS.as_slice(), &["--run-dir", run_dir]].concat();
    let arguments = [&["train"], data, &options].concat();
    let mut command = program(folder, &arguments);
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for_lines(&folder.join(run_dir).join("metrics.jsonl"), 2);
    signal(&child, "-INT");
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn a_run_finds_its_images_where_they_are_now() {
    let folder = workplace();
    let folder = folder.path();
    let whole = [&["train", "shapes", "--run-dir=whole"], OPTIONS.as_slice()].concat();
    done(folder, &whole);
    begin(folder, &["shapes"], "out");
    let recipe = || fs::read_to_string(folder.join("out/recipe.ron")).unwrap();
    let before = recipe();

    classes(&folder.join("shapes/train"), &folder.join("few/train"), 2);
    classes(&folder.join("shapes/val"), &folder.join("few/val"), 2);
    classes(&folder.join("shapes/train"), &folder.join("one"), 100);
    fs::create_dir(folder.join("empty")).unwrap();
    for half in ["train", "val"] {
        let from = folder.join("shapes").join(half);
        classes(&from, &folder.join("copy").join(half), 100);
    }
    // Its images are there, so what is named is not what was meant.
    let resume = |data: &[&str]| {
        let arguments = [&["train"], data, &["--resume", "out"]].concat();
        rsflow(folder, &arguments)
    };
    for (data, words, others) in [
        (
            "few",
            "the run does not train on few; out/recipe.ron names ",
            false,
        ),
        (
            "copy",
            "help: leave it out; this resumes it with the same images there: rsflow run out/recipe.ron --run-dir out \
             --resume --accept-changes --set 'train_files.root=",
            true,
        ),
    ] {
        let said = assert_says(&resume(&[data]), 2, &[words]);
        assert_eq!(said.contains("--set"), others, "{said}");
    }

    fs::create_dir(folder.join("disk")).unwrap();
    fs::rename(folder.join("shapes"), folder.join("disk/pictures")).unwrap();
    let gone = [
        "error: the images of the run out are not where its recipe says: there is no ",
        "/shapes/train (train_files), no ",
        "/shapes/val (val_files)\nhelp: `rsflow train DATA --resume out` finds them in DATA",
    ];
    let all_the_same = "; this resumes it with other images: rsflow run out/recipe.ron --run-dir out --resume \
                        --accept-changes --set 'train_files.root=";
    let refused: [(&[&str], &[&str]); 8] = [
        (&["train", "--resume", "out"], &gone),
        (&["run", "out/recipe.ron", "--resume"], &gone),
        (
            &["train", "nowhere", "--resume", "out"],
            &["there is no folder or file nowhere; DATA is where the images of the run are now"],
        ),
        (
            &["train", "few", "--resume", "out"],
            &[
                "the images of the run out are not in few: ",
                "/few/train has 16 images in 8 classes for train_files, and ",
                "/shapes/train had 84 images in 8 classes; ",
                "help: name the folder or archive that they were moved to",
                all_the_same,
                "/few/train\"' --set 'val_files.root=",
            ],
        ),
        (
            // All training images, and none for validation.
            &["train", "one", "--resume", "out"],
            &["one has 84 images in 8 classes for val_files, and not those that "],
        ),
        (
            &["train", "empty", "--resume", "out"],
            &[
                "the images of the run out are not in empty: ",
                "empty has none of the class folders that train_files read in ",
            ],
        ),
        (
            &["train", "disk/pictures/train", "--resume", "out"],
            &["disk/pictures/train has 84 images in 8 classes for val_files"],
        ),
        (
            &["train", "disk/pictures", "few", "--resume", "out"],
            &["the run does not train on few; out/recipe.ron names "],
        ),
    ];
    for (arguments, words) in refused {
        // What is read was found, and something else named beside it.
        let code = if words[0].contains("does not train on") {
            2
        } else {
            1
        };
        let said = assert_says(&rsflow(folder, arguments), code, words);
        assert!(!said.contains("NODE"), "{said}");
    }
    assert_eq!(recipe(), before, "something was written");
    // One that fails is resumed in the same way, whatever its last checkpoint holds.
    let failing = program(folder, &["train", "disk/pictures", "--resume", "out"])
        .env("RSFLOW_FAILING_STEP", "15")
        .output()
        .unwrap();
    assert_says(&failing, 1, &["the images have moved"]);
    assert_eq!(
        recipe(),
        before,
        "a checkpoint may still have the old places"
    );

    let said = assert_says(
        &resume(&["disk/pictures"]),
        0,
        &[
            "the images have moved: train_files reads ",
            "/disk/pictures/train (was ",
            "/shapes/train), val_files reads ",
            "/disk/pictures/val (was ",
        ],
    );
    assert!(!said.contains("WARN"), "{said}");
    assert_eq!(losses(&folder.join("out")), losses(&folder.join("whole")));
    assert!(recipe().contains("/disk/pictures/train"), "{}", recipe());
    // It is kept: the next one finds them without help.
    let eval = ["eval", "out", "--threads=1", "--sizes=32"];
    done(folder, &eval);

    // Commands whose recipe nobody wrote name their own options.
    fs::rename(folder.join("disk"), folder.join("drive")).unwrap();
    let gone = "/disk/pictures/val\n  help: `--data FOLDER` names where the images are now";
    let cases: [(&[&str], &[&str]); 3] = [
        (&["eval", "out"], &[gone]),
        (
            &["eval", "out", "--sizes=40", "--calibrate=16"],
            &[
                gone,
                "/disk/pictures/train\n  help: `--calibration-data FOLDER` names where the images are now",
            ],
        ),
        (
            &["compare", "out", "whole"],
            &[
                "out cannot be evaluated; compare takes files, too: `rsflow eval out --data FOLDER --predictions FILE` \
                 writes one",
                "/disk/pictures/val",
            ],
        ),
    ];
    for (arguments, words) in cases {
        let said = assert_says(&rsflow(folder, arguments), 1, words);
        for never in ["--set", "relative"] {
            assert!(!said.contains(never), "{said}");
        }
    }
    done(folder, &[&eval[..], &["--data=drive/pictures"]].concat());
}

#[test]
fn parts_of_one_folder_and_two_folders_move_too() {
    let folder = workplace();
    let folder = folder.path();
    classes(&folder.join("shapes/train"), &folder.join("photos"), 100);
    begin(folder, &["photos"], "held");
    fs::rename(folder.join("photos"), folder.join("pictures")).unwrap();
    let resume = |data: &[&str], run_dir: &str, words: &[&str]| {
        let arguments = [&["train"], data, &["--resume", run_dir]].concat();
        assert_says(&rsflow(folder, &arguments), 0, words)
    };
    let both = [
        "train_files reads ",
        "/pictures (was ",
        "/photos), val_files reads ",
    ];
    resume(&["pictures"], "held", &both);

    begin(folder, &["shapes/train", "shapes/val"], "two");
    fs::rename(folder.join("shapes/val"), folder.join("checked")).unwrap();
    // Only what is gone is looked for.
    let said = resume(
        &["checked"],
        "two",
        &["the images have moved: val_files reads ", "/checked (was "],
    );
    assert!(!said.contains("train_files reads"), "{said}");
}
