//! Commands around a run: `rsflow runs`, `nodes --json`, `completions`, `man`.

use std::fs;
use std::path::Path;
use std::process::Command;

use clap::CommandFactory as _;
use rsflow::catalogue::CATALOGUE;
use rsflow::cli::Cli;
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
    run(
        "a/stopped",
        &[
            ("recipe.ron", recipe),
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
    for text in ["1:02:03", "stopped, epoch 2 of", "unreadable", "5 runs"] {
        assert!(stdout.contains(text), "{text}: {stdout}");
    }
    for text in [
        "runs/unreadable: cannot read",
        "runs/other: one line of metrics.jsonl is damaged",
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

/// Every reference of a schema leads to something in it.
fn check_references(root: &Value, schema: &Value) -> usize {
    let mut count = 0;
    if let Some(Value::String(reference)) = schema.get("$ref") {
        let path = reference.strip_prefix('#').unwrap();
        assert!(root.pointer(path).is_some(), "{reference}");
        count += 1;
    }
    let parts: Vec<&Value> = match schema {
        Value::Object(fields) => fields.values().collect(),
        Value::Array(items) => items.iter().collect(),
        _ => Vec::new(),
    };
    count
        + parts
            .into_iter()
            .map(|part| check_references(root, part))
            .sum::<usize>()
}

#[test]
fn schemas_have_every_kind_with_its_ports() {
    let folder = tempfile::tempdir().unwrap();
    let read = |arguments: &[&str]| -> Value {
        serde_json::from_str(&done(folder.path(), arguments)).unwrap()
    };
    let whole = read(&["nodes", "--json"]);
    assert_eq!(
        whole["$schema"],
        "https://json-schema.org/draft/2020-12/schema"
    );
    assert!(check_references(&whole, &whole) > CATALOGUE.0.len());
    for kind in CATALOGUE.0 {
        let schema = &whole["$defs"][kind.name];
        let own = &schema["x-rsflow"];
        for (ports, key) in [(kind.inputs, "inputs"), (kind.outputs, "outputs")] {
            let names = own[key]
                .as_array()
                .unwrap()
                .iter()
                .map(|port| port["carries"].clone());
            let expected = ports.iter().map(|port| Value::from(port.carries));
            assert!(names.eq(expected), "{}: {own}", kind.name);
        }
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            assert!(field.is_object(), "{}.{name}", kind.name);
        }
    }
    let one = read(&["nodes", "--json", "RsNet"]);
    assert!(check_references(&one, &one) > 0);
    assert!(one["properties"]["epochs"].is_object());
    assert_eq!(one["x-rsflow"]["outputs"][0]["reference"], "NODE.metrics");
    let unknown = rsflow(folder.path(), &["nodes", "--json", "Resise"]);
    assert_eq!(unknown.status.code(), Some(2));
}

#[test]
fn shells_take_their_scripts() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = done(folder.path(), &["completions", shell]);
        for command in Cli::command().get_subcommands() {
            assert!(script.contains(command.get_name()), "{shell}: {command}");
        }
        let file = folder.path().join(shell);
        fs::write(&file, script).unwrap();
        if shell == "bash" {
            let checked = Command::new("bash").arg("-n").arg(&file).status().unwrap();
            assert!(checked.success());
        }
    }
}

#[test]
fn every_command_has_a_man_page() {
    let folder = tempfile::tempdir().unwrap();
    done(folder.path(), &["man", "--out", "share/man1"]);
    let pages = folder.path().join("share/man1");
    let mut names = vec!["rsflow".to_owned()];
    let command = Cli::command();
    names.extend(
        command
            .get_subcommands()
            .map(|it| format!("rsflow-{}", it.get_name())),
    );
    assert_eq!(fs::read_dir(&pages).unwrap().count(), names.len());
    for name in names {
        let page = fs::read_to_string(pages.join(format!("{name}.1"))).unwrap();
        let macros = page.lines().find(|line| line.starts_with(".TH"));
        assert!(
            macros.is_some_and(|line| line.contains(&name)),
            "{name}: {page:.200}"
        );
        let synopsis = name.replacen('-', " ", 1).replace('-', "\\-");
        for part in [".SH NAME", ".SH SYNOPSIS", "Examples:"] {
            assert!(page.contains(part), "{name} lacks {part}");
        }
        assert!(page.contains(&synopsis), "{name} lacks {synopsis}");
    }
    let first = done(folder.path(), &["man"]);
    assert!(first.contains(".TH rsflow 1"), "{first:.200}");
    fs::write(folder.path().join("file"), "").unwrap();
    let refused = rsflow(folder.path(), &["man", "--out", "file"]);
    assert_eq!(refused.status.code(), Some(1));
}
