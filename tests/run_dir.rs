//! Where a run keeps its files: which directory is its own, and which is not.

use std::fs;

use crate::run::{command, run};
use crate::workplace::{completed, rsflow, workplace};

#[test]
fn runs_that_start_together_have_directories_of_their_own() {
    let folder = workplace();
    let runs = [0, 1, 2].map(|_| {
        let one_epoch = ["--set", "trainer.epochs=1"];
        command(folder.path(), &one_epoch).spawn().unwrap()
    });
    for run in runs {
        let output = run.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{stderr}");
    }
    let runs = std::fs::read_dir(folder.path().join("runs/recipe")).unwrap();
    let last = runs.map(|run| run.unwrap().path().join("checkpoints/last.safetensors"));
    assert_eq!(last.filter(|last| last.exists()).count(), 3);
}

/// `--run-dir runs/NAME` makes the folder of a recipe's runs a run itself.
#[test]
fn runs_are_not_within_runs() {
    let folder = workplace();
    let one_epoch = ["--set", "trainer.epochs=1"];
    let run = |arguments: &[&str]| {
        let output = command(folder.path(), &[&one_epoch[..], arguments].concat()).output();
        let output = output.unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{stderr}");
        stderr
    };
    run(&["--run-dir", "runs/recipe"]);
    let first = "resuming from runs/recipe/checkpoints/last.safetensors";
    let said = run(&["--resume"]);
    assert!(said.contains(first), "{said}");
    let said = run(&[]);
    assert!(said.contains("run directory: runs/recipe-2"), "{said}");
    // The newest is that of the other.
    let said = run(&["--resume"]);
    assert!(said.contains("resuming from runs/recipe-2"), "{said}");
}

#[test]
fn a_run_directory_is_one_that_a_run_has_made() {
    let folder = workplace();
    let path = folder.path();
    completed(path, &["--run-dir", "out", "--set", "trainer.epochs=1"]);
    // Any folder may be named `checkpoints`.
    std::fs::create_dir(path.join("checkpoints")).unwrap();
    let ours = path.join("out/checkpoints/last.safetensors");
    std::fs::copy(ours, path.join("checkpoints/mine.safetensors")).unwrap();
    completed(
        path,
        &[
            "--resume",
            "checkpoints/mine.safetensors",
            "--accept-changes",
        ],
    );
    assert!(!path.join("run.log").exists());
    assert_eq!(
        std::fs::read_dir(path.join("runs/recipe")).unwrap().count(),
        1
    );
    // One that is resumed where it lies, from within and by its recipe.
    let last = "checkpoints/last.safetensors";
    for (from, arguments, run_dir) in [
        ("out", &["recipe.ron", "--resume", last][..], "."),
        ("out", &["recipe.ron", "--resume"], "."),
        ("", &["out/recipe.ron", "--resume"], "out"),
    ] {
        let output = rsflow(&path.join(from), &[&["run"], arguments].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        let line = format!("run directory: {run_dir}\n");
        assert!(stderr.contains(&line), "{arguments:?}: {stderr}");
    }
    // What is there without a checkpoint is nothing to go on with.
    std::fs::create_dir(path.join("failed")).unwrap();
    std::fs::write(path.join("failed/run.log"), "").unwrap();
    let output = run(path, &["--run-dir", "failed"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("it holds no checkpoint to resume from: remove it"),
        "{stderr}"
    );
}

#[test]
fn a_used_run_directory_is_not_overwritten() {
    let folder = workplace();
    completed(
        folder.path(),
        &["--run-dir", "out", "--set", "trainer.epochs=1"],
    );
    let output = run(folder.path(), &["--run-dir", "out"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("out is not empty; --resume resumes it"),
        "{stderr}"
    );
}

#[test]
fn a_finished_run_is_completed_from_any_of_its_checkpoints() {
    let folder = workplace();
    let one_epoch = ["--run-dir", "out", "--set", "trainer.epochs=1"];
    let whole = completed(folder.path(), &one_epoch);
    let out = folder.path().join("out");
    let file = |name: &str| {
        out.join("checkpoints")
            .join(name)
            .with_extension("safetensors")
    };
    let log = fs::read(out.join("metrics.jsonl")).unwrap();
    let best = fs::read(file("best")).unwrap();
    let refused = |arguments: &[&str]| {
        let output = run(folder.path(), &[&one_epoch[..], arguments].concat());
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let instead = "--resume out/checkpoints/epoch-001.safetensors";

    // The last one is damaged, then gone.
    let last = fs::read(file("last")).unwrap();
    fs::remove_file(file("last")).unwrap();
    fs::write(file("last"), &last[..last.len() / 2]).unwrap();
    let stderr = refused(&["--resume"]);
    for words in [
        "cannot resume from out/checkpoints/last",
        instead,
        "truncated",
    ] {
        assert!(stderr.contains(words), "no {words} in {stderr}");
    }
    fs::remove_file(file("last")).unwrap();
    for arguments in [&["--resume"][..], &[]] {
        let stderr = refused(arguments);
        assert!(stderr.contains(instead), "{stderr}");
        assert!(!stderr.contains("remove it"), "{stderr}");
    }

    // With the best one too.
    fs::remove_file(file("best")).unwrap();
    let resume = [
        &one_epoch[..],
        &["--resume", "out/checkpoints/epoch-001.safetensors"],
    ]
    .concat();
    assert_eq!(completed(folder.path(), &resume), whole);
    assert_eq!(fs::read(file("last")).unwrap(), last);
    assert_eq!(fs::read(file("best")).unwrap(), best);
    assert_eq!(fs::read(out.join("metrics.jsonl")).unwrap(), log);
}

#[test]
fn what_a_run_did_not_make_stays_where_it_is_refused() {
    let folder = workplace();
    let out = folder.path().join("out");
    let no_data = ["--run-dir", "out", "--set", "val_files.root=/dev/null/none"];
    // Made by the run; there, and empty; used by another run.
    for (there, left) in [(false, false), (true, true)] {
        if there {
            fs::create_dir(&out).unwrap();
        }
        assert_eq!(run(folder.path(), &no_data).status.code(), Some(1));
        assert_eq!(out.exists(), left);
        assert!(!left || fs::read_dir(&out).unwrap().next().is_none());
    }
    let other = fs::File::open(&out).unwrap();
    other.lock().unwrap();
    let output = run(folder.path(), &["--run-dir", "out"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("another run uses the run directory out"),
        "{stderr}"
    );
    assert!(fs::read_dir(&out).unwrap().next().is_none());
}

#[test]
fn limits_of_the_system_are_errors() {
    let folder = workplace();
    let out = folder.path().join("out");
    let rsflow = env!("CARGO_BIN_EXE_rsflow");
    // That of threads does not hold for root.
    for limit in ["-n 9", "-n 11"] {
        let output = std::process::Command::new("sh")
            .args([
                "-c",
                &format!("ulimit {limit}; exec {rsflow} run recipe.ron --run-dir out"),
            ])
            .current_dir(folder.path())
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{limit}: {stderr}");
        assert!(!stderr.contains("panicked"), "{limit}: {stderr}");
        assert!(stderr.contains("open files"), "{limit}: {stderr}");
        assert!(!out.exists(), "{limit}");
    }
}
