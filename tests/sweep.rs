//! `rsflow sweep`: every combination, each run as `rsflow run` does it, interrupted or not.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rsflow_model::checkpoint::Checkpoint;
use serde_json::Value;

use crate::run::{losses, signal, wait_for_lines};
use crate::workplace::{completed, done, program, rsflow, workplace};

const SHORT: [&str; 2] = ["--set", "trainer.epochs=1"];

fn sweep(folder: &Path, arguments: &[&str]) -> Output {
    rsflow(folder, &[&["sweep", "recipe.ron"], arguments].concat())
}

/// A sweep that is to succeed: what it says, and its table.
fn swept(folder: &Path, arguments: &[&str]) -> (String, String) {
    let output = sweep(folder, arguments);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {said}");
    (said, String::from_utf8(output.stdout).unwrap())
}

fn started(folder: &Path, arguments: &[&str]) -> Command {
    let mut sweep = program(folder, &[&["sweep", "recipe.ron"], arguments].concat());
    sweep.stdout(Stdio::piped()).stderr(Stdio::piped());
    sweep
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The results of a run, which has ended.
fn last(run: &Path) -> Value {
    let log = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let last: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    assert_eq!(last["kind"], "final", "{}", run.display());
    last["rows"].clone()
}

/// Whether both have trained the same way, to the bit.
fn assert_same(run: &Path, other: &Path) {
    assert_eq!(losses(run), losses(other), "{}", run.display());
    assert_eq!(last(run), last(other), "{}", run.display());
}

/// The runs that a sweep says it has started or resumed, in their order.
fn begun(said: &str) -> Vec<&str> {
    let lines = said.lines();
    let begun = lines.filter_map(|line| {
        let end = [": started", ": resumed"];
        end.iter().find_map(|end| line.strip_suffix(end))
    });
    begun.collect()
}

#[test]
fn every_combination_runs_as_it_would_alone() {
    let folder = workplace();
    let folder = folder.path();
    let over = ["--over", "trainer.optimizer.lr=0.05,0.01"];
    let arguments = [&over[..], &SHORT, &["--seeds", "2"]].concat();
    let (said, table) = swept(folder, &[&arguments[..], &["--parallel", "2"]].concat());
    for words in [
        "runs/recipe/sweep: 4 runs of 2 combinations with 2 seeds, 0 done",
        "2 runs side by side, ",
        "lr=0.05/3: done in ",
    ] {
        assert!(said.contains(words), "{words} is not in\n{said}");
    }
    let runs = folder.join("runs/recipe/sweep");
    let mut means = Vec::new();
    for lr in ["0.05", "0.01"] {
        let mut ensemble = 0.0;
        for seed in ["3", "4"] {
            let alone = format!("{lr}-{seed}");
            let lr_of = format!("trainer.optimizer.lr={lr}");
            let seed_of = format!("seed={seed}");
            let sets = ["--set", &lr_of, "--set", &seed_of, "--run-dir", &alone];
            completed(folder, &[&SHORT[..], &sets].concat());
            let run = runs.join(format!("lr={lr}/{seed}"));
            assert_same(&run, &folder.join(alone));
            let last = last(&run);
            let row = last.as_array().unwrap().last().unwrap();
            ensemble += row["top1"].as_f64().unwrap() / 2.0;
        }
        means.push(format!("{ensemble:.2} ± "));
    }
    for words in [
        "lr=0.05: seeds 3, 4",
        "trainer.optimizer.lr: 0.01, was 0.05",
        "48",
        "32",
        "ensemble",
        "lr=0.01 is ",
        &means[0],
        &means[1],
    ] {
        assert!(table.contains(words), "{words} is not in\n{table}");
    }

    let in_order = ["0.05", "0.01"].map(|lr| format!("runs/recipe/sweep/lr={lr}"));
    let again = done(folder, &["compare", &in_order[0], &in_order[1]]);
    assert_eq!(again, table);
    done(folder, &["compare", "runs/recipe/sweep"]);

    // Nothing is left to do; the table is the same.
    let (said, again) = swept(folder, &arguments);
    assert!(said.contains("4 done"), "{said}");
    assert_eq!((begun(&said), again), (vec![], table));

    // What is added runs alone, whatever the order.
    let over = ["--over", "trainer.optimizer.lr=0.02,0.05"];
    let (said, _) = swept(folder, &[&over[..], &SHORT, &["--seeds", "3"]].concat());
    let added = ["lr=0.02/3", "lr=0.02/4", "lr=0.02/5", "lr=0.05/5"];
    assert_eq!(begun(&said), added);
}

#[test]
fn an_interrupted_sweep_is_continued_by_the_same_command() {
    let folder = workplace();
    let folder = folder.path();
    let values = ["0.05", "0.02", "0.01"];
    let over = format!("trainer.optimizer.lr={}", values.join(","));
    let long = ["--set", "trainer.epochs=4"];
    let place = ["--over", &over, "--parallel", "2", "--dir", "out"];
    let arguments = [&long[..], &place].concat();
    let run = |lr: &str| folder.join(format!("out/lr={lr}/3"));
    let second = run("0.02");

    let child = started(folder, &arguments).spawn().unwrap();
    wait_for_lines(&second.join("metrics.jsonl"), 4);
    signal(&child, "-INT");
    let output = child.wait_with_output().unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("the same command again continues"), "{said}");
    assert!(!said.contains("failed"), "{said}");
    let checkpoint = Checkpoint::open(&second.join("checkpoints/last.safetensors")).unwrap();
    let step = checkpoint.metadata().step;
    assert!((4..44).contains(&step), "stopped after {step} steps");
    // No run is left behind, so the next start needs not wait for one.
    fs::File::open(&second).unwrap().try_lock().unwrap();

    // The system ends the runs of a sweep that is killed, as by SIGTERM.
    let child = started(folder, &arguments).spawn().unwrap();
    wait_for_lines(&second.join("metrics.jsonl"), step as usize + 2);
    signal(&child, "-KILL");
    let said = stderr(&child.wait_with_output().unwrap());
    assert!(said.contains("lr=0.02/3: resumed"), "{said}");
    fs::File::open(&second).unwrap().lock().unwrap();
    let log = fs::read_to_string(second.join("metrics.jsonl")).unwrap();
    assert!(!log.contains("final"), "it has trained to its end");

    swept(folder, &arguments);
    for lr in values {
        let lr_of = format!("trainer.optimizer.lr={lr}");
        completed(
            folder,
            &[&long[..], &["--set", &lr_of, "--run-dir", lr]].concat(),
        );
        assert_same(&run(lr), &folder.join(lr));
    }
}

#[test]
fn a_run_that_fails_is_named_and_the_others_go_on() {
    let folder = workplace();
    let folder = folder.path();
    let over = [
        "--over",
        "val_files.root=/dev/null/none,shapes",
        "--seeds",
        "2",
    ];
    let output = sweep(folder, &[&over[..], &SHORT].concat());
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let log = "runs/recipe/sweep/root=dev-null-none/4.log";
    for words in [
        &format!("root=dev-null-none/4: failed with exit code 1; the last lines of {log}:\n"),
        "\n  error: val_files (ShapesFolder): /dev/null/none",
        "error: 2 of 4 runs failed\n  root=dev-null-none/3: failed with exit code 1, see ",
    ] {
        assert!(said.contains(words), "{words} is not in\n{said}");
    }
    let log = fs::read_to_string(folder.join(log)).unwrap();
    assert!(log.contains("/dev/null/none"), "{log}");
    for seed in ["3", "4"] {
        last(&folder.join("runs/recipe/sweep/root=shapes").join(seed));
    }
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.starts_with("root=shapes: seeds 3, 4"), "{table}");
}

#[test]
fn what_is_wrong_is_said_before_anything_runs() {
    let folder = workplace();
    let folder = folder.path();
    let without_log = crate::workplace::RECIPE.replace("MetricsLog", "TensorBoard");
    fs::write(folder.join("without_log.ron"), without_log).unwrap();
    let cases: [(&[&str], &[&str]); 16] = [
        (
            &["recipe.ron", "--over", "trainer.optimizer.lr=0.1,1e-1"],
            &["`trainer.optimizer.lr=0.1` and `trainer.optimizer.lr=1e-1` make the same recipe"],
        ),
        (
            &["recipe.ron", "--over", "trainer.optimizer.lr=0.1,fast"],
            &[
                "--over trainer.optimizer.lr=0.1,fast with the value fast:",
                "`lr` must be a number",
            ],
        ),
        (
            &["recipe.ron", "--over", "trainer.optimiser.lr=0.1,0.2"],
            &["with the value 0.1:", "optimizer"],
        ),
        (
            &[
                "recipe.ron",
                "--over",
                "trianer.epochs=1",
                "--over",
                "train_batches.size=4,0",
            ],
            &[
                "there is no node `trianer`",
                "with the value 0:",
                "`size` must be at least 1",
            ],
        ),
        (
            &[
                "recipe.ron",
                "--over",
                "train_sizes.sizes=[48,32],[32]",
                "--over",
                "val_sizes.sizes=[48,32]",
            ],
            &[
                "--over train_sizes.sizes=[48,32],[32] with the value [32]:",
                "the same sizes",
            ],
        ),
        // Wrong together.
        (
            &[
                "recipe.ron",
                "--over",
                "trainer.min_lr=0.03",
                "--over",
                "trainer.optimizer.lr=0.04,0.02",
            ],
            &["--over trainer.min_lr=0.03 --over trainer.optimizer.lr=0.02:\nerror: "],
        ),
        (
            &["recipe.ron", "--over", "trainer.epochs"],
            &["--over trainer.epochs: it has no values"],
        ),
        (
            &["recipe.ron", "--over", "trainer.epochs=1,1"],
            &["1 is listed twice"],
        ),
        (
            &[
                "recipe.ron",
                "--over",
                "trainer.epochs=1",
                "--over",
                "trainer.epochs=2",
            ],
            &["--over names trainer.epochs twice"],
        ),
        (&["recipe.ron", "--over", "seed=1,2"], &["--seeds N"]),
        (&["recipe.ron", "--seeds", "0"], &["--seeds"]),
        (
            &[
                "recipe.ron",
                "--seeds",
                "9999",
                "--over",
                "trainer.epochs=1,2",
            ],
            &["19998 runs are too many"],
        ),
        (&["recipe.ron"], &["nothing to compare", "--over trainer."]),
        (
            &["recipe.ron", "--over", "epochs=1,2"],
            &["help: write `--over trainer.epochs=...`"],
        ),
        (
            &["recipe.ron", "--seeds", "2", "--set", "trainer.epochs=0"],
            &["epochs"],
        ),
        (
            &["without_log.ron", "--seeds", "2"],
            &["help: add `\"log\": MetricsLog("],
        ),
    ];
    for (arguments, expected) in cases {
        let output = rsflow(folder, &[&["sweep"], arguments].concat());
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        for words in expected {
            assert!(said.contains(words), "{words} is not in\n{said}");
        }
        assert!(!folder.join("runs").exists(), "{arguments:?}");
    }
    // A field that is not there is reported once.
    let output = sweep(folder, &["--over", "trainer.optimiser.lr=0.1,0.2"]);
    assert_eq!(stderr(&output).matches("error").count(), 1);
}

#[test]
fn the_directory_of_another_sweep_is_refused() {
    let folder = workplace();
    let folder = folder.path();
    let over = ["--over", "train_batches.size+val_batches.size=8"];
    let known = [&over[..], &SHORT].concat();
    swept(folder, &known);
    let dir = folder.join("runs/recipe/sweep");
    let files = || -> Vec<PathBuf> {
        let mut files: Vec<_> = fs::read_dir(&dir)
            .unwrap()
            .map(|it| it.unwrap().path())
            .collect();
        files.sort();
        files
    };
    let before = (files(), fs::read(dir.join("sweep.json")).unwrap());
    fs::create_dir(folder.join("other")).unwrap();
    fs::write(folder.join("other/file"), "").unwrap();
    let other_field = [&["--over", "train_batches.size=8"], &SHORT[..]].concat();
    let other_recipe = [&known[..], &["--set", "trainer.log_every=2"]].concat();
    let other_dir = [&known[..], &["--dir", "other"]].concat();
    for (arguments, expected) in [
        (
            &other_field,
            "--over: train_batches.size, was train_batches.size+val_batches.size",
        ),
        (&other_recipe, "trainer.log_every: 2, was 1"),
        (&other_dir, "it is not the directory of a sweep"),
    ] {
        for more in [&[][..], &["--dry-run"]] {
            let output = sweep(folder, &[&arguments[..], more].concat());
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(2), "{said}");
            assert!(said.contains(expected), "{said}");
            assert!(said.contains("--dir names another"), "{said}");
        }
    }
    let other = fs::File::open(&dir).unwrap();
    other.lock().unwrap();
    let output = sweep(folder, &known);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("another sweep uses runs/recipe/sweep"));
    assert_eq!(before, (files(), fs::read(dir.join("sweep.json")).unwrap()));
}

#[test]
fn a_dry_run_lists_the_runs_and_starts_none() {
    let folder = workplace();
    let folder = folder.path();
    let arguments = ["sweep", "recipe.ron", "--dry-run", "--seeds", "2"];
    let over = ["--over", "train_sizes.sizes+val_sizes.sizes=[48, 32],[32]"];
    let list = done(folder, &[&arguments[..], &over].concat());
    let place = "runs/recipe/sweep/sizes";
    let expected = format!(
        "\
{place}=48-32/3  to start   train_sizes.sizes=[48, 32]  val_sizes.sizes=[48, 32]  seed=3
{place}=48-32/4  to start   train_sizes.sizes=[48, 32]  val_sizes.sizes=[48, 32]  seed=4
{place}=32/3     to start   train_sizes.sizes=[32]  val_sizes.sizes=[32]  seed=3
{place}=32/4     to start   train_sizes.sizes=[32]  val_sizes.sizes=[32]  seed=4
"
    );
    assert_eq!(list, expected);
    assert!(!folder.join("runs").exists());
}
