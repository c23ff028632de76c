//! Processes of a run that are killed, that hang, and that are started again.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rsflow_model::checkpoint::Checkpoint;

use super::{command, losses, run, signal, stderr, wait_for_lines, wait_until};
use crate::workplace::workplace;

const LAST: &str = "checkpoints/last.safetensors";

/// Sends a signal to one process of the run that was started in this folder.
fn signal_rank(folder: &Path, rank: u32, signal: &str) {
    let wanted = format!("RANK={rank}");
    let folder = folder.canonicalize().unwrap();
    let is_it = |process: &std::fs::DirEntry| {
        let environment = std::fs::read(process.path().join("environ")).unwrap_or_default();
        let mut variables = environment.split(|&byte| byte == 0);
        let here = std::fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd == folder);
        here && variables.any(|variable| variable == wanted.as_bytes())
    };
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let found = processes.into_iter().find(is_it).expect("it runs");
    let mut kill = Command::new("kill");
    let sent = kill.arg(signal).arg(found.file_name()).status();
    assert!(sent.unwrap().success());
}

/// Who is lost, what it did, how the run ends, and what is kept: the last whole step.
#[test]
fn a_process_that_is_lost_is_named_and_nothing_is_lost_with_it() {
    for (rank, signal, words) in [
        (1, "-KILL", "process 1 of the run was ended by signal 9"),
        (1, "-STOP", "process 1 is lost: it has been silent for"),
        (0, "-KILL", "process 0 of the run was ended by signal 9"),
        (0, "-STOP", "process 0 of the run was stopped by a signal"),
    ] {
        let folder = workplace();
        let folder = folder.path();
        let arguments = ["--processes", "2", "--run-dir", "out", "--silence", "5"];
        let sets = [
            "--set",
            "trainer.epochs=500",
            "--set",
            "trainer.log_every=1",
        ];
        let child = command(folder, &[&arguments[..], &sets].concat()).spawn();
        let metrics = folder.join("out/metrics.jsonl");
        wait_for_lines(&metrics, 15);
        signal_rank(folder, rank, signal);
        let began = Instant::now();
        let output = child.unwrap().wait_with_output().unwrap();
        let (took, text) = (began.elapsed(), stderr(&output));
        assert_eq!(output.status.code(), Some(1), "{signal} {rank}: {text}");
        assert!(text.contains(words), "{signal} {rank}: {text}");
        assert!(took < Duration::from_secs(30), "{signal} {rank}: {took:?}");
        if rank != 0 {
            // Step lines are written before the step is known to be whole by all.
            let last = Checkpoint::open(&folder.join("out").join(LAST)).unwrap();
            let (saved, done) = (last.metadata().step, losses(&folder.join("out")).len());
            assert_eq!(saved, done as u64, "{signal} {rank}: {text}");
            assert!(text.contains("last it was "), "{text}");
        }
    }
}

/// A run whose processes are killed and stopped again and again ends with the bits of one that was not.
#[test]
fn a_run_that_is_restarted_ends_with_the_same_bits() {
    let folder = workplace();
    let folder = folder.path();
    let two = ["--processes", "2", "--set", "trainer.epochs=6"];
    let whole = run(folder, &[&two[..], &["--run-dir", "whole"]].concat());
    assert_eq!(whole.status.code(), Some(0), "{}", stderr(&whole));

    let restarts = ["--max-restarts", "3", "--run-dir", "hurt", "--silence", "6"];
    let child = command(folder, &[&two[..], &restarts].concat()).spawn();
    let metrics = folder.join("hurt/metrics.jsonl");
    for (lines, rank, signal) in [(5, 1, "-KILL"), (20, 0, "-KILL"), (40, 1, "-STOP")] {
        wait_for_lines(&metrics, lines);
        signal_rank(folder, rank, signal);
    }
    let output = child.unwrap().wait_with_output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("from the last checkpoint (3 of 3)"), "{text}");
    let read = |run: &str| std::fs::read(folder.join(run).join(LAST)).unwrap();
    assert!(read("whole") == read("hurt"), "{text}");
    assert_eq!(losses(&folder.join("whole")), losses(&folder.join("hurt")));
}

/// Ctrl-Z stops all processes, and later all continue: nobody is lost, however long it took.
#[test]
fn a_run_that_is_stopped_continues() {
    let folder = workplace();
    let folder = folder.path();
    let two = ["--processes", "2", "--run-dir", "out", "--silence", "4"];
    let child = command(folder, &[&two[..], &["--set", "trainer.epochs=4"]].concat()).spawn();
    let child = child.unwrap();
    let metrics = folder.join("out/metrics.jsonl");
    wait_for_lines(&metrics, 5);
    signal(&child, "-TSTP");
    std::thread::sleep(Duration::from_secs(1));
    let lines = || std::fs::read_to_string(&metrics).unwrap().lines().count();
    let before = lines();
    std::thread::sleep(Duration::from_secs(8));
    assert_eq!(lines(), before, "no step while it is stopped");
    signal(&child, "-CONT");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(losses(&folder.join("out")).len(), 44);
}

/// A restart before the first checkpoint of its own resumes from the checkpoint that was named, and a folder
/// that is not a run's is left alone.
#[test]
fn nothing_is_taken_for_a_run_that_is_none() {
    let folder = workplace();
    let folder = folder.path();
    let here = run(folder, &["--run-dir", ".", "--resume-if-any"]);
    assert_eq!(here.status.code(), Some(1));
    let text = stderr(&here);
    assert!(text.contains("is not the directory of a run"), "{text}");
    assert!(folder.join("recipe.ron").is_file());

    let short = run(folder, &["--run-dir", "short"]);
    assert_eq!(short.status.code(), Some(0), "{}", stderr(&short));
    let named = folder.join("named.safetensors");
    std::fs::copy(folder.join("short").join(LAST), &named).unwrap();
    let arguments = [
        "--processes",
        "2",
        "--max-restarts",
        "1",
        "--run-dir",
        "new",
        "--resume",
        "named.safetensors",
        "--accept-changes",
        "--set",
        "trainer.epochs=3",
    ];
    let child = command(folder, &arguments).spawn().unwrap();
    wait_for_lines(&folder.join("new/metrics.jsonl"), 1);
    signal_rank(folder, 0, "-KILL");
    let output = child.wait_with_output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert_eq!(text.matches("resuming from").count(), 2, "{text}");
    assert_eq!(losses(&folder.join("new"))[0].0, 23, "{text}");

    // A damaged last checkpoint is not the end of a run that has another one.
    let last = folder.join("new").join(LAST);
    let cut = std::fs::read(&last).unwrap();
    std::fs::remove_file(&last).unwrap();
    std::fs::write(&last, &cut[..cut.len() / 2]).unwrap();
    let again = [
        "--run-dir",
        "new",
        "--resume-if-any",
        "--set",
        "trainer.epochs=3",
    ];
    let output = run(folder, &again);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(
        text.contains("resuming from new/checkpoints/epoch-003"),
        "{text}"
    );
}

/// The same command starts a run, resumes it, starts it over where it saved nothing, and prints the results
/// of one that is done. A launcher's file has the error of the process that failed.
#[test]
fn one_command_starts_and_resumes() {
    let folder = workplace();
    let folder = folder.path();
    let metrics = folder.join("out/metrics.jsonl");
    let error_file = folder.join("error.json");
    let again = |epochs: &str| {
        let epochs = format!("trainer.epochs={epochs}");
        let arguments = ["--run-dir", "out", "--resume-if-any", "--set", &epochs];
        let mut command = command(folder, &arguments);
        command.env("TORCHELASTIC_ERROR_FILE", &error_file);
        command
    };
    let whole = run(folder, &["--run-dir", "whole"]);
    assert_eq!(whole.status.code(), Some(0), "{}", stderr(&whole));

    // Killed before its first checkpoint.
    let mut child = again("2").spawn().unwrap();
    wait_for_lines(&metrics, 2);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!folder.join("out").join(LAST).exists());
    // Interrupted later on.
    let mut child = again("2").spawn().unwrap();
    let log = folder.join("out/run.log");
    let text = || std::fs::read_to_string(&log).unwrap_or_default();
    wait_until(&log, || text().matches(" started ").count() == 2);
    wait_for_lines(&metrics, 5);
    signal(&child, "-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let done = losses(&folder.join("out")).len();
    assert!((1..22).contains(&done), "{done}");
    for _ in 0..2 {
        let output = again("2").output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert!(stderr(&output).contains("resuming from"));
        assert!(String::from_utf8_lossy(&output.stdout).contains("(22 steps)"));
    }
    assert_eq!(losses(&folder.join("whole")), losses(&folder.join("out")));
    assert!(!error_file.exists());

    let output = again("3").output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    let error: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&error_file).unwrap()).unwrap();
    let shown = error["message"]["extraInfo"]["py_callstack"].as_str();
    assert!(shown.unwrap().contains("trainer.epochs"), "{error}");
}
