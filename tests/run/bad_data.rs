//! Runs that cannot begin or go wrong: what is said, and what they leave.

use std::path::Path;

use rsflow_model::checkpoint::Checkpoint;

use super::run;
use crate::workplace::{RECIPE, workplace};

/// What is done to a workplace before the run.
type Spoil = fn(&Path);

#[test]
fn bad_data_gives_one_clear_error_and_no_half_written_run() {
    const IMAGE: &str = "shapes/train/discs_hatched/00001.jpg";
    let cases: &[(&str, Spoil, &[&str], &[&str])] = &[
        (
            "missing folder",
            |folder| {
                let shapes = RECIPE.lines().find(|line| line.contains("split: Train"));
                let recipe = RECIPE.replace(
                    shapes.unwrap(),
                    r#""train_files": ImageFolder(root: "nowhere"),"#,
                );
                std::fs::write(folder.join("recipe.ron"), recipe).unwrap();
            },
            &[],
            &[
                "train_files (ImageFolder): there is no folder nowhere (relative paths start at the working directory)",
                "  help: `--set train_files.root=PLACE` names another place",
            ],
        ),
        (
            "empty class",
            |folder| {
                std::fs::remove_dir_all(folder.join("shapes/train/discs_hatched")).unwrap();
                std::fs::create_dir(folder.join("shapes/train/discs_hatched")).unwrap();
            },
            &[],
            &[
                "train_files (ShapesFolder): class folders without an image in shapes/train: `discs_hatched`",
            ],
        ),
        (
            "no images at all",
            |folder| {
                std::fs::remove_dir_all(folder.join("shapes/train")).unwrap();
                std::fs::create_dir(folder.join("shapes/train")).unwrap();
            },
            &[],
            &["train_files (ShapesFolder): shapes/train holds no class folders"],
        ),
        (
            "a class too few",
            |folder| std::fs::remove_dir_all(folder.join("shapes/train/discs_hatched")).unwrap(),
            &[],
            &["trainer (RsNet): `classes` is 8, but shapes/train has 7 classes"],
        ),
        (
            "other classes in validation",
            |folder| {
                let val = folder.join("shapes/val");
                std::fs::rename(val.join("discs_hatched"), val.join("disks_hatched")).unwrap();
            },
            &[],
            &["trainer (RsNet)", "`discs_hatched` is only in shapes/train"],
        ),
        (
            "truncated image",
            |folder| {
                let bytes = std::fs::read(folder.join(IMAGE)).unwrap();
                std::fs::write(folder.join(IMAGE), &bytes[..bytes.len() / 2]).unwrap();
            },
            &[],
            &[
                "train_images (DecodeImage): shapes/train/discs_hatched/00001.jpg: ",
                "byte",
            ],
        ),
        (
            "empty image",
            |folder| std::fs::write(folder.join(IMAGE), b"").unwrap(),
            &[],
            &[
                "train_images (DecodeImage): shapes/train/discs_hatched/00001.jpg: the file is empty",
            ],
        ),
        (
            "text called .jpg",
            |folder| std::fs::write(folder.join(IMAGE), b"<html>not found</html>").unwrap(),
            &[],
            &["train_images (DecodeImage): shapes/train/discs_hatched/00001.jpg: not a JPEG, PNG"],
        ),
        (
            "a last batch of one image",
            |_| {},
            &["--set", "train_batches.size=83"],
            &[
                "trainer (RsNet): the last batch of an epoch is a single image",
                "drop_last",
            ],
        ),
        (
            "no batch that is full",
            |_| {},
            &[
                "--set",
                "val_batches.size=40",
                "--set",
                "val_batches.drop_last=true",
            ],
            &[
                "trainer (RsNet): `validate` gets no batch: shapes/val has 24 images",
                "`size: 40`",
                "`drop_last: false`",
            ],
        ),
        (
            "a run directory that is a file",
            |folder| std::fs::write(folder.join("out"), b"").unwrap(),
            &[],
            &["error: out is not a folder"],
        ),
        (
            "a run directory that cannot be made",
            |folder| std::fs::write(folder.join("out"), b"").unwrap(),
            &["--run-dir", "out/deeper"],
            &["error: cannot make the run directory out/deeper; --run-dir names another"],
        ),
        (
            "nothing to resume",
            |_| {},
            &["--resume"],
            &["there is no checkpoint out/checkpoints/last.safetensors to resume from"],
        ),
    ];
    for (case, spoil, arguments, expected) in cases {
        let folder = workplace();
        spoil(folder.path());
        let run_dir: &[&str] = if arguments.contains(&"--run-dir") {
            &[]
        } else {
            &["--run-dir", "out"]
        };
        let output = run(folder.path(), &[run_dir, arguments].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{case}: {stderr}");
        for words in *expected {
            assert!(
                stderr.contains(words),
                "{case}: `{words}` is not in\n{stderr}"
            );
        }
        let errors = stderr.replace("on_error:", "");
        assert_eq!(
            errors.matches("error:").count(),
            1,
            "{case}: one error in\n{stderr}"
        );
        assert!(!stderr.contains("panicked"), "{case}: {stderr}");
        let last = folder.path().join("out/checkpoints/last.safetensors");
        // Where steps were done before the bad image, what they gave is saved, and whole.
        if last.exists() {
            Checkpoint::open(&last).unwrap();
        }
    }
}

#[test]
fn a_loss_that_is_not_finite_ends_the_run_and_sound_checkpoints_stay() {
    // The first update ruins the weights: the second loss is the first to show it, the fifth the
    // first to be read. A learning rate beyond single precision leaves weights that no checkpoint
    // may hold.
    let cases: [(&[&str], &str, Option<u64>); 3] = [
        (
            &["trainer.optimizer.lr=1e30", "trainer.log_every=5"],
            "trainer (RsNet): the loss of step 2 (epoch 1 of 2) is NaN: the cross-entropy at \
             resolution 48 is NaN, the first term that is not finite. There is no earlier checkpoint",
            None,
        ),
        (
            &["trainer.optimizer.lr=1e30", "checkpoints.every_steps=1"],
            "The last checkpoint is from step 1 and sound",
            Some(1),
        ),
        (
            &["trainer.optimizer.lr=1e300", "checkpoints.every_steps=1"],
            "no checkpoint can be taken after step 1 (epoch 1 of 2). There is no earlier checkpoint",
            None,
        ),
    ];
    for (overrides, expected, step) in cases {
        let folder = workplace();
        let mut arguments = vec!["--run-dir", "out"];
        for set in overrides {
            arguments.extend(["--set", set]);
        }
        let output = run(folder.path(), &arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(expected), "{stderr}");
        let checkpoints = folder.path().join("out/checkpoints");
        let names: Vec<_> = std::fs::read_dir(&checkpoints).unwrap().collect();
        assert_eq!(names.len() as u64, step.unwrap_or(0), "{names:?}");
        if let Some(step) = step {
            let last = Checkpoint::open(&checkpoints.join("last.safetensors")).unwrap();
            assert_eq!(last.metadata().step, step);
            let names = last.names();
            for (name, tensor) in names
                .iter()
                .zip(last.read(names.iter().map(String::as_str)).unwrap())
            {
                let (least, greatest) = tensor.f_aminmax(None, false).unwrap();
                for value in [least, greatest] {
                    assert!(value.f_double_value(&[]).unwrap().is_finite(), "{name}");
                }
            }
        }
    }
}
