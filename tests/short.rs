//! Recipes that do not repeat themselves mean what the long ones mean: `let`, sizes and classes that are
//! left out, nodes that keep nothing.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::run::losses;
use crate::workplace::{RECIPE, completed, done, rsflow, workplace};

const ONE_EPOCH: [&str; 2] = ["--set", "trainer.epochs=1"];

/// [`RECIPE`] with the sizes once, in `let`.
fn with_let() -> String {
    let recipe = RECIPE.replace("sizes: [48, 32]", "sizes: $sizes");
    let recipe = recipe.replace(
        "    nodes:",
        "    let: {\"sizes\": [48, 32], \"lr\": 0.05},\n    nodes:",
    );
    recipe.replace("lr: 0.05", "lr: $lr")
}

fn write(folder: &Path, name: &str, recipe: &str) {
    fs::write(folder.join(name), recipe).unwrap();
}

fn stderr(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The run directory's recipe is the long one, so a resume is exact whichever of them it names.
#[test]
fn a_run_keeps_the_values_of_let() {
    let folder = workplace();
    let folder = folder.path();
    completed(folder, &[&["--run-dir", "long"], &ONE_EPOCH[..]].concat());
    write(folder, "let.ron", &with_let());
    let run = |arguments: &[&str]| done(folder, &[&["run", "let.ron"], arguments].concat());
    run(&[&["--run-dir", "short"], &ONE_EPOCH[..]].concat());
    assert_eq!(losses(&folder.join("long")), losses(&folder.join("short")));
    let kept = |run: &str| fs::read_to_string(folder.join(run).join("recipe.ron")).unwrap();
    assert_eq!(kept("short"), kept("long"));

    // Another epoch: of the recipe with names, without, and of the run directory's own.
    for (from, to) in [("short", "by_let"), ("short", "by_long"), ("short", "own")] {
        done(folder, &["check", "let.ron"]);
        copy(&folder.join(from), &folder.join(to));
    }
    let more = ["--resume", "--accept-changes", "--set", "trainer.epochs=2"];
    run(&[&["--run-dir", "by_let"], &more[..]].concat());
    done(
        folder,
        &[&["run", "recipe.ron", "--run-dir", "by_long"], &more[..]].concat(),
    );
    let own = ["run", "own/recipe.ron", "--run-dir", "own"];
    done(folder, &[&own[..], &more].concat());
    for run in ["by_long", "own"] {
        assert_eq!(losses(&folder.join("by_let")), losses(&folder.join(run)));
    }

    // What changes is named by the field, not by the name in `let`.
    let changed = [
        "run",
        "let.ron",
        "--run-dir",
        "by_let",
        "--resume",
        "--set",
        "trainer.epochs=2",
    ];
    let output = rsflow(folder, &[&changed[..], &["--set", "lr=0.1"]].concat());
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    let said = stderr(&output);
    assert!(
        said.contains("trainer.optimizer.lr: 0.1, was 0.05"),
        "{said}"
    );
    let compared = stderr(&rsflow(folder, &["compare", "long", "short"]));
    let same = "short has the recipe and the seed of long";
    assert!(compared.contains(same), "{compared}");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

#[test]
fn a_sweep_goes_over_values_of_let() {
    let folder = workplace();
    let folder = folder.path();
    write(folder, "let.ron", &with_let());
    let sweep = ["sweep", "let.ron", "--over", "sizes=[48],[32]"];
    let sweep = [&sweep[..], &ONE_EPOCH].concat();
    done(folder, &sweep);
    for size in [48, 32] {
        let run = folder.join(format!("runs/let/sweep/sizes={size}/3"));
        let log = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        let last: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
        assert_eq!(last["rows"][0]["resolution"], size);
    }
    // The same command again finds them done.
    let again = rsflow(folder, &sweep);
    assert!(stderr(&again).contains("2 done"), "{}", stderr(&again));

    // The same recipe, until a value of `let` is set.
    let literal = with_let().replace("$lr", "0.05");
    write(folder, "let.ron", &literal);
    let again = rsflow(folder, &[&sweep[..], &["--dry-run"]].concat());
    let said = stderr(&again);
    assert_eq!(again.status.code(), Some(2), "{said}");
    assert!(said.contains("lr: 0.05, was $lr"), "{said}");
    // Records of earlier versions do not have it.
    let path = folder.join("runs/let/sweep/sweep.json");
    let record = fs::read_to_string(&path).unwrap();
    let mut record: Value = serde_json::from_str(&record).unwrap();
    assert!(record.as_object_mut().unwrap().remove("written").is_some());
    fs::write(&path, record.to_string()).unwrap();
    done(folder, &[&sweep[..], &["--dry-run"]].concat());
}

/// Sizes of validation are those of training, classes those of the data.
#[test]
fn what_is_left_out_is_taken_from_the_rest() {
    let folder = workplace();
    let folder = folder.path();
    let short = RECIPE.replace(
        r#"(input: "val_images", sizes: [48, 32])"#,
        r#"(input: "val_images")"#,
    );
    let short = short.replace(" classes: 8,", "");
    assert!(!short.contains("classes") && short.matches("sizes:").count() == 1);
    write(folder, "short.ron", &short);
    completed(folder, &[&["--run-dir", "long"], &ONE_EPOCH[..]].concat());
    let run = ["run", "short.ron", "--run-dir", "short"];
    done(folder, &[&run[..], &ONE_EPOCH].concat());
    assert_eq!(losses(&folder.join("long")), losses(&folder.join("short")));
    let log = |run: &str| fs::read_to_string(folder.join(run).join("metrics.jsonl")).unwrap();
    let tables = |run: &str| {
        let log = log(run);
        let last: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
        last["rows"].clone()
    };
    assert_eq!(tables("long"), tables("short"));
    // An override changes both.
    let summary = |sets: &[&str]| {
        let summary = ["summary", "short.ron", "--json", "-"];
        let json = done(folder, &[&summary[..], sets].concat());
        serde_json::from_str::<Value>(&json).unwrap()["resolutions"][0]["resolution"].clone()
    };
    let classes = ["--set", "trainer.classes=8"];
    let set = ["--set", "train_sizes.sizes=[64, 40]"];
    assert_eq!(summary(&[&classes[..], &set].concat()), 64);
    // This source knows them; a folder that is there has them.
    assert_eq!(summary(&set), 64);
    let elsewhere = r#"train_files=ImageFolder(root: "shapes/train", shuffle: true)"#;
    let set = ["--set", elsewhere];
    assert_eq!(summary(&set), 48);
    let set = ["--set", &elsewhere.replace("shapes", "none")];
    for command in ["summary", "bench"] {
        let output = rsflow(folder, &[&[command, "short.ron"], &set[..]].concat());
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("--set trainer.classes=1000"), "{said}");
    }
    let profile = [
        "profile",
        "short.ron",
        "--until",
        "val_batches",
        "--epochs",
        "1",
        "--digest",
    ];
    let long = [
        "profile",
        "recipe.ron",
        "--until",
        "val_batches",
        "--epochs",
        "1",
        "--digest",
    ];
    assert_eq!(done(folder, &profile), done(folder, &long));
}

/// What nobody reads is not kept, and one line says so.
#[test]
fn unread_outputs_are_warnings() {
    let folder = workplace();
    let folder = folder.path();
    let lines = RECIPE.lines();
    let kept =
        lines.filter(|line| !line.contains("Checkpoints(") && !line.contains("trainer.metrics"));
    let spare = r#"
        "spare_files":  ShapesFolder(root: "shapes", split: Val, train_images: 84, val_images: 24),
        "spare_images": DecodeImage(input: "spare_files"),
        "trainer": RsNet("#;
    let recipe = kept
        .collect::<Vec<_>>()
        .join("\n")
        .replace("\n        \"trainer\": RsNet(", spare);
    write(folder, "bare.ron", &recipe);
    for command in [&["check"][..], &["run"]] {
        let epoch = if command == ["run"] {
            &ONE_EPOCH[..]
        } else {
            &[]
        };
        let output = rsflow(folder, &[command, &["bare.ron"], epoch].concat());
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(0), "{said}");
        for words in [
            "warning: nothing reads `trainer.checkpoints`: its checkpoints are not kept",
            "warning: nothing reads `trainer.metrics`: its metrics are not kept",
            "warning: output `spare_images` (images) has no reader",
        ] {
            assert_eq!(said.matches(words).count(), 1, "{words}: {said}");
        }
    }
}

/// A leading `~` is the home folder in recipes, `let`, overrides and options.
#[test]
fn paths_may_begin_with_the_home_folder() {
    let folder = workplace();
    let folder = folder.path();
    let recipe = RECIPE.replacen("\"shapes\"", "\"~/shapes\"", 1);
    let recipe = recipe.replacen("root: \"shapes\"", "root: $root", 1);
    let recipe = recipe.replace(
        "    nodes:",
        "    let: {\"root\": \"~/shapes\"},\n    nodes:",
    );
    assert_eq!(recipe.matches("~/shapes").count(), 2);
    write(folder, "home.ron", &recipe);
    let elsewhere = folder.join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    for sets in [
        &[][..],
        &["--set", "val_files.root=~/shapes"],
        &["--set", "root=~/shapes"],
    ] {
        let arguments = [
            "run",
            "~/home.ron",
            "--run-dir",
            "~/out",
            "--set",
            "trainer.epochs=1",
        ];
        let mut run = crate::workplace::program(&elsewhere, &[&arguments[..], sets].concat());
        let output = run.env("HOME", folder).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert!(folder.join("out/checkpoints/last.safetensors").exists());
        fs::remove_dir_all(folder.join("out")).unwrap();
    }
}

/// More threads than cores are a warning, in `check` and in `run`.
#[test]
fn many_threads_are_a_warning() {
    let folder = workplace();
    let output = rsflow(
        folder.path(),
        &["check", "recipe.ron", "--set", "trainer.threads=1000"],
    );
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(
        said.contains("warning: `threads` is 1000, and this machine has"),
        "{said}"
    );
}
