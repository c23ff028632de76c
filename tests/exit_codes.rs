//! Exit codes: what is wrong with data is 1 in every command, what is wrong in a recipe or a command line 2.

use std::fs;

use crate::evaluate::trained;
use crate::workplace::{rsflow, workplace};

#[test]
fn what_is_wrong_has_the_same_exit_code_in_every_command() {
    let folder = workplace();
    let folder = folder.path();
    let run = trained().join("out");
    let run = run.to_str().unwrap();
    let image = folder.join("shapes/val/discs_plain/00000.jpg");
    let whole = fs::read(&image).unwrap();
    let half = &whole[..whole.len() / 2];
    let files: &[(&str, &[u8])] = &[
        ("empty/notes.txt", b"x"),
        ("hollow/a/notes.txt", b"x"),
        ("hollow/b/notes.txt", b"x"),
        ("damaged/discs_plain/1.jpg", half),
        ("damaged/discs_plain/2.jpg", half),
        ("damaged/discs_hatched/1.jpg", half),
        ("damaged/discs_hatched/2.jpg", half),
        ("other/train/a/1.jpg", &whole),
        ("other/train/b/1.jpg", &whole),
        ("other/val/a/1.jpg", &whole),
        ("other/val/c/1.jpg", &whole),
        ("recipe.txt", b"no recipe"),
    ];
    for (name, bytes) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let root = |root: &str| format!("train_files=ImageFolder(root: {root:?}, shuffle: true)");
    let [gone, empty, hollow, damaged, other] =
        ["gone", "empty", "hollow", "damaged", "other/train"].map(root);
    let damaged_too = damaged.replace("train_files", "val_files");
    let counted = "trainer.classes=None";
    let recipe = "recipe.ron";
    let cases: &[(&str, i32, &[&[&str]])] = &[
        (
            "no such run directory",
            2,
            &[
                &["runs", "gone"],
                &["report", "gone"],
                &["top", "gone"],
                &["wandb", "gone"],
            ],
        ),
        (
            "no such folder",
            1,
            &[
                &["new", "gone"],
                &["train", "gone"],
                &["train", "shapes/train", "gone"],
                &["run", recipe, "--set", &gone],
                &["profile", recipe, "--only=pipeline", "--set", &gone],
                &["summary", recipe, "--set", &gone, "--set", counted],
                &["eval", run, "--data", "gone"],
                &["predict", run, "gone"],
                &["prepare-val", "gone", "--classes", recipe],
            ],
        ),
        (
            "no images",
            1,
            &[
                &["new", "empty"],
                &["train", "empty"],
                &["new", "hollow"],
                &["run", recipe, "--set", &empty],
                &["run", recipe, "--set", &hollow],
                &["eval", run, "--data", "empty"],
                &["eval", run, "--data", "hollow"],
                &["predict", run, "empty"],
            ],
        ),
        (
            "damaged images",
            1,
            &[
                &["new", "damaged"],
                &[
                    "run",
                    recipe,
                    "--set",
                    &damaged,
                    "--set",
                    &damaged_too,
                    "--set",
                    counted,
                ],
                &["eval", run, "--data", "damaged"],
                &["predict", run, "damaged"],
            ],
        ),
        (
            "other classes",
            1,
            &[
                &["new", "other"],
                &["train", "other"],
                &["run", recipe, "--set", &other, "--set", counted],
                &["eval", run, "--data", "other"],
            ],
        ),
        (
            "wrong words",
            2,
            &[
                &["new", "shapes", "--network", "vgg"],
                &["new", recipe],
                &["train", "shapes/val", "shapes/val"],
                &["run", recipe, "--set", "trainer.epochs=many"],
                &["run", "recipe.txt"],
                &["check", recipe, "--set", "train_batches.size=0"],
                &["eval", run, "--data", recipe],
                &["eval", run, "--sizes", "8"],
                &["predict", run],
            ],
        ),
    ];
    for (what, code, commands) in cases {
        for arguments in *commands {
            let output = rsflow(folder, arguments);
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(
                output.status.code(),
                Some(*code),
                "{what}: {arguments:?}: {said}"
            );
            assert!(said.contains("error"), "{what}: {arguments:?}: {said}");
            assert!(!said.contains("panicked"), "{what}: {arguments:?}: {said}");
        }
    }
}
