//! `rsflow runs`: the list of runs in a folder.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::workplace::{done, rsflow};

const STEP: &str = r#"{"format":2,"kind":"step","epoch":3,"step":60}"#;

fn validation(kind: &str, epoch: u64, top1: f64) -> String {
    let row = |size, top1| {
        format!(
            r#"{{"resolution":{size},"top1":{top1},"top5":90.0,"loss":1.0,"multiply_adds":7,"parameters":3}}"#
        )
    };
    let rows = [row("48", top1), row("32", 99.0), row("null", 99.5)].join(",");
    let step = epoch * 20;
    format!(
        r#"{{"format":2,"kind":"{kind}","epoch":{epoch},"step":{step},"rows":[{rows}],"images":24,"seconds":3723.0}}"#
    ) + "\n"
}

fn log(second: u32) -> String {
    format!(
        "2026-01-02T03:04:{second:02}.000000Z  INFO rsflow::commands::run: started recipe=r.ron\n"
    )
}

/// Writes files of a run.
fn write_run(folder: &Path, files: &[(&str, &str)]) {
    fs::create_dir_all(folder).unwrap();
    for (name, text) in files {
        fs::write(folder.join(name), text).unwrap();
    }
}

fn furnish(root: &Path) {
    let runs = root.join("runs");
    let recipe = crate::workplace::RECIPE;
    let good = validation("epoch", 1, 60.0) + &validation("epoch", 2, 70.0);
    let finished = format!("{good}{}", validation("final", 3, 65.0));
    let run = |path: &str, files: &[(&str, &str)]| write_run(&runs.join(path), files);
    run(
        "a/finished",
        &[
            ("recipe.ron", recipe),
            ("run.log", &log(1)),
            ("metrics.jsonl", &finished),
        ],
    );
    let cut = format!("{good}{STEP}\n{}", &STEP[..20]);
    // The data says how many classes there are.
    let without = recipe.replace(" classes: 8,", "");
    assert_ne!(without, recipe);
    run(
        "a/stopped",
        &[
            ("recipe.ron", &without),
            ("run.log", &log(2)),
            ("metrics.jsonl", &cut),
        ],
    );
    run("half", &[("run.log", &log(3))]);
    run(
        "other",
        &[
            ("recipe.ron", "(nodes: {})"),
            ("metrics.jsonl", &format!("{{}}\n{good}")),
        ],
    );
    // A folder in place of the file cannot be read.
    fs::create_dir_all(runs.join("unreadable/metrics.jsonl")).unwrap();
    run("unreadable", &[("run.log", &log(4))]);
    run("none", &[("notes.txt", "no run")]);
    std::os::unix::fs::symlink("..", runs.join("a/back")).unwrap();
}

#[test]
fn runs_of_every_kind_are_listed() {
    let folder = tempfile::tempdir().unwrap();
    furnish(folder.path());
    let json: Value = serde_json::from_str(&done(folder.path(), &["runs", "--json", "-"])).unwrap();
    let found: Vec<[String; 5]> = json["runs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|run| {
            ["directory", "state", "epoch", "best_top1", "last_top1"]
                .map(|key| run[key].to_string().replace('"', ""))
        })
        .collect();
    let expected = [
        ["runs/unreadable", "unreadable", "0", "null", "null"],
        ["runs/half", "stopped", "0", "null", "null"],
        ["runs/a/stopped", "stopped", "2", "70.0", "70.0"],
        ["runs/a/finished", "finished", "3", "70.0", "65.0"],
        ["runs/other", "stopped", "2", "70.0", "70.0"],
    ];
    assert_eq!(found, expected);
    let stopped = &json["runs"][2];
    assert!(
        stopped["network"].as_str().unwrap().contains("Net"),
        "{stopped}"
    );
    assert_eq!(stopped["sizes"], serde_json::json!([48, 32]));
    assert!(stopped["epochs"].as_u64().unwrap() > 0);
    assert_eq!(stopped["started"], "2026-01-02T03:04:02Z");
    assert_eq!(json["runs"][3]["seconds"], 3723.0);

    let output = rsflow(folder.path(), &["runs"]);
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    for text in ["1:02:03", "stopped, 2 of ", "unreadable", "5 runs"] {
        assert!(stdout.contains(text), "{text}: {stdout}");
    }
    for text in [
        "runs/unreadable: cannot read",
        "runs/other: metrics.jsonl has a damaged line, which was left out",
        "runs/half: recipe.ron cannot be read",
    ] {
        assert!(stderr.contains(text), "{text}: {stderr}");
    }
    let one = done(folder.path(), &["runs", "runs/a/finished"]);
    assert!(one.contains("1 run"), "{one}");
}

#[test]
fn folders_without_runs_are_said() {
    let folder = tempfile::tempdir().unwrap();
    let missing = rsflow(folder.path(), &["runs"]);
    assert_eq!(missing.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("there is no folder runs"));
    fs::create_dir(folder.path().join("runs")).unwrap();
    let empty = rsflow(folder.path(), &["runs"]);
    assert_eq!(
        (empty.status.code(), empty.stdout.as_slice()),
        (Some(0), &b""[..])
    );
    assert!(String::from_utf8_lossy(&empty.stderr).contains("runs has no runs"));
}
