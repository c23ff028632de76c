//! Where a run keeps its files: which directory is its own, and which is not.

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
    // One that goes on where it lies, from within.
    let output = rsflow(
        &path.join("out"),
        &[
            "run",
            "recipe.ron",
            "--resume",
            "checkpoints/last.safetensors",
        ],
    );
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("run directory: .\n"), "{stderr}");
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
