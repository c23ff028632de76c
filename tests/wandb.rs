//! `rsflow wandb`: what W&B's reader finds in the files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use prost::Message;
use serde_json::{Value, json};

use crate::workplace::{RECIPE, completed, done, rsflow, workplace};

/// `Record` of W&B's wandb_internal.proto, as far as the tests look at it.
#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(int64, tag = "1")]
    num: i64,
    #[prost(message, optional, tag = "2")]
    history: Option<Updates>,
    #[prost(message, optional, tag = "3")]
    summary: Option<Updates>,
    #[prost(message, optional, tag = "17")]
    run: Option<Run>,
    #[prost(message, optional, tag = "18")]
    exit: Option<Exit>,
    #[prost(message, optional, tag = "21")]
    header: Option<Header>,
}

#[derive(Clone, PartialEq, Message)]
struct Updates {
    #[prost(message, repeated, tag = "1")]
    update: Vec<Item>,
}

#[derive(Clone, PartialEq, Message)]
struct Item {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, repeated, tag = "2")]
    nested_key: Vec<String>,
    #[prost(string, tag = "16")]
    value_json: String,
}

#[derive(Clone, PartialEq, Message)]
struct Run {
    #[prost(string, tag = "1")]
    run_id: String,
    #[prost(message, optional, tag = "4")]
    config: Option<Updates>,
    #[prost(string, tag = "8")]
    display_name: String,
}

#[derive(Clone, PartialEq, Message)]
struct Exit {
    #[prost(int32, tag = "1")]
    exit_code: i32,
    #[prost(int32, tag = "2")]
    runtime: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Header {}

/// What a file says.
struct Found {
    run: Run,
    config: BTreeMap<String, Value>,
    history: Vec<BTreeMap<String, Value>>,
    summary: BTreeMap<String, Value>,
    exit: Option<Exit>,
}

const BLOCK: usize = 32 * 1024;

/// The records of a file, with every checksum compared.
fn records(file: &[u8]) -> Vec<Record> {
    assert_eq!(file[..7], *b":W&B\xe1\xbe\x00");
    let (mut at, mut whole, mut records) = (7, Vec::new(), Vec::new());
    let mut is_open = false;
    while at < file.len() {
        let room = BLOCK - at % BLOCK;
        if room < 7 {
            at += room;
            continue;
        }
        let checksum = u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
        let length = usize::from(u16::from_le_bytes([file[at + 4], file[at + 5]]));
        let kind = file[at + 6];
        // The kind and the data.
        let end = at + 7 + length;
        assert_eq!(crc32fast::hash(&file[at + 6..end]), checksum, "at {at}");
        assert!(7 + length <= room, "at {at}");
        // 1: all of a record, 2: its first part, 3: one between, 4: its last part.
        assert_eq!(is_open, kind > 2, "at {at}");
        is_open = kind == 2 || kind == 3;
        whole.extend(&file[at + 7..end]);
        if !is_open {
            records.push(Record::decode(whole.as_slice()).unwrap());
            whole.clear();
        }
        at = end;
    }
    records
}

fn values(updates: &Updates) -> BTreeMap<String, Value> {
    let values = updates.update.iter().map(|item| {
        let name = match item.nested_key.as_slice() {
            [] => item.key.clone(),
            [name] => name.clone(),
            more => panic!("{more:?}"),
        };
        (name, serde_json::from_str(&item.value_json).unwrap())
    });
    values.collect()
}

/// What the file in a run's folder says.
fn read(folder: &Path) -> Found {
    let name = folder.file_name().unwrap().to_str().unwrap();
    let (_, id) = name.rsplit_once('-').unwrap();
    let records = records(&fs::read(folder.join(format!("run-{id}.wandb"))).unwrap());
    let numbers: Vec<i64> = records.iter().map(|record| record.num).collect();
    assert_eq!(numbers, (1..=records.len() as i64).collect::<Vec<_>>());
    assert!(records[0].header.is_some());
    let run = records[1].run.clone().unwrap();
    assert_eq!(run.run_id, id);
    let last = |of: fn(&Record) -> bool| records.iter().rposition(of);
    let exit = last(|record| record.exit.is_some());
    assert!(exit.is_none_or(|at| at == records.len() - 1));
    let summary = last(|record| record.summary.is_some()).unwrap();
    Found {
        config: values(run.config.as_ref().unwrap()),
        history: records
            .iter()
            .filter_map(|it| it.history.as_ref())
            .map(values)
            .collect(),
        summary: values(records[summary].summary.as_ref().unwrap()),
        exit: exit.and_then(|at| records[at].exit.clone()),
        run,
    }
}

/// Exports, and gives the folders that are named on stdout.
fn export(root: &Path, arguments: &[&str]) -> Vec<PathBuf> {
    let out = done(root, &[&["wandb"], arguments].concat());
    let folder = |line: &str| line.split_once("  wandb sync ").unwrap().1.to_owned();
    out.lines().map(|line| root.join(folder(line))).collect()
}

#[test]
fn runs_are_listed_as_they_were_named() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for (run, second) in [
        ("runs/z", 1),
        ("runs/lr/10", 2),
        ("runs/lr/9", 3),
        ("runs/my run", 4),
    ] {
        write_run(&root.join(run), second, &[STEP]);
    }
    let arguments = [
        "wandb",
        "runs/z",
        "runs/lr",
        "runs/my run",
        "--out",
        "for them",
    ];
    let out = done(root, &arguments);
    let expected = [
        "z       runs/z       wandb sync 'for them/offline-run-20260102_030401-",
        "lr/10   runs/lr/10   wandb sync 'for them/offline-run-20260102_030402-",
        "lr/9    runs/lr/9    wandb sync 'for them/offline-run-20260102_030403-",
        "my run  runs/my run  wandb sync 'for them/offline-run-20260102_030404-",
    ];
    assert_eq!(out.lines().count(), expected.len(), "{out}");
    for (line, expected) in out.lines().zip(expected) {
        assert!(line.starts_with(expected) && line.ends_with('\''), "{out}");
    }

    // Of those before one that fails, too.
    fs::create_dir_all(root.join("bad/metrics.jsonl")).unwrap();
    fs::write(root.join("bad/run.log"), "").unwrap();
    let output = rsflow(root, &["wandb", "runs/z", "bad", "runs/lr"]);
    assert_eq!(output.status.code(), Some(1));
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(out.starts_with("z  runs/z  wandb sync wandb/"), "{out}");
    assert_eq!(out.lines().count(), 1, "{out}");
}

#[test]
fn a_run_has_its_recipe_its_steps_and_its_end() {
    let folder = workplace();
    let root = folder.path();
    completed(root, &["--run-dir", "runs/mine"]);
    let folders = export(root, &["runs/mine"]);
    let found = read(&folders[0]);
    assert_eq!(found.run.display_name, "mine");
    assert_eq!(found.config["seed"], 3);
    let trainer = &found.config["trainer"];
    assert_eq!(
        trainer["network"],
        json!({"kind": "ResNet", "depth": 18, "width": 8})
    );
    assert_eq!(trainer["optimizer"], json!({"kind": "Sgd", "lr": 0.05}));
    assert_eq!(found.config["train_sizes"]["sizes"], json!([48, 32]));

    // Every line of the log, at its step; each epoch ends with a step that is logged, too.
    let log = fs::read_to_string(root.join("runs/mine/metrics.jsonl")).unwrap();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let steps: BTreeSet<u64> = lines
        .iter()
        .map(|line| line["step"].as_u64().unwrap())
        .collect();
    let rows = found
        .history
        .iter()
        .map(|row| row["_step"].as_u64().unwrap());
    assert_eq!(
        rows.collect::<Vec<_>>(),
        steps.into_iter().collect::<Vec<_>>()
    );
    for line in &lines {
        let row = found
            .history
            .iter()
            .find(|row| row["_step"] == line["step"])
            .unwrap();
        assert_eq!(row["epoch"], line["epoch"]);
        match line["kind"].as_str().unwrap() {
            "step" => {
                assert_eq!(row["train/loss"], line["loss"]);
                assert_eq!(row["train/cross_entropy/32"], line["cross_entropy"]["32"]);
            }
            _ => {
                assert_eq!(row["validation/top1/48"], line["rows"][0]["top1"]);
                assert_eq!(row["validation/loss/ensemble"], line["rows"][2]["loss"]);
            }
        }
        if line["kind"] == "epoch" {
            assert_eq!(row["epoch/loss"], line["training"]["loss"]);
            assert_eq!(row["epoch/training_top1/48"], line["training"]["top1"]);
        }
    }
    let end = lines.last().unwrap();
    assert_eq!(found.summary["validation/top1/32"], end["rows"][1]["top1"]);
    assert_eq!(found.summary["_runtime"], end["seconds"]);
    assert_eq!(found.summary["_step"], end["step"]);
    let exit = found.exit.unwrap();
    assert_eq!(exit.exit_code, 0);

    // The names of TensorBoard's events.
    let events = fs::read_dir(root.join("runs/mine/tensorboard")).unwrap();
    let events = fs::read(events.into_iter().next().unwrap().unwrap().path()).unwrap();
    let names = found.history.iter().flat_map(|row| row.keys());
    for name in names.filter(|name| name.contains('/')) {
        let tag = [&[0x0a, name.len() as u8], name.as_bytes()].concat();
        assert!(events.windows(tag.len()).any(|part| part == tag), "{name}");
    }
    let groups = ["train/", "epoch/", "validation/"];
    let text = String::from_utf8_lossy(&events);
    for group in groups {
        // A tag ends where its value begins, with the byte of its field.
        for part in text.split(group).skip(1) {
            let (tag, _) = part.split_once('\u{15}').unwrap();
            let name = format!("{group}{tag}");
            let is_known = found.history.iter().any(|row| row.contains_key(&name));
            assert!(is_known, "{name} is in the events alone");
        }
    }
}

const STEP: &str =
    r#"{"format":2,"kind":"step","epoch":1,"step":5,"loss":1.5,"cross_entropy":{"48":null}}"#;
const EPOCH: &str = r#"{"format":2,"kind":"epoch","epoch":1,"step":9,"rows":[{"resolution":48,"top1":50.0,"top5":null,"loss":2.0,"multiply_adds":7,"parameters":3}],"average":[{"resolution":48,"top1":60.0,"top5":null,"loss":null,"multiply_adds":7,"parameters":3}],"images":24,"seconds":2.5}"#;

/// A run directory without a run.
fn write_run(path: &Path, second: u32, lines: &[&str]) {
    fs::create_dir_all(path).unwrap();
    let log = format!("2026-01-02T03:04:{second:02}.000000Z  INFO rsflow: started\n");
    fs::write(path.join("run.log"), log).unwrap();
    fs::write(path.join("recipe.ron"), RECIPE).unwrap();
    fs::write(path.join("metrics.jsonl"), lines.join("\n") + "\n").unwrap();
}

#[test]
fn a_second_export_replaces_the_first_one() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let run = root.join("runs/a");
    write_run(&run, 7, &[STEP]);
    write_run(&root.join("runs/b"), 8, &[STEP, EPOCH]);
    let first = export(root, &["runs/a"]);
    let name = first[0].file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with("offline-run-20260102_030407-"), "{name}");
    assert_eq!(first[0].parent(), Some(root.join("wandb").as_path()));
    let found = read(&first[0]);
    let expected = json!({"_step": 5, "epoch": 1, "train/loss": 1.5});
    assert_eq!(json!(found.history), json!([expected]));
    assert_eq!(found.exit.unwrap().exit_code, 1, "it was stopped");

    // As `wandb sync` leaves it.
    let (_, id) = name.rsplit_once('-').unwrap();
    let uploaded = first[0].join(format!("run-{id}.wandb.synced"));
    fs::write(&uploaded, "").unwrap();
    // It continues, elsewhere, while it is exported.
    let moved = root.join("runs/more/a");
    fs::create_dir(root.join("runs/more")).unwrap();
    fs::rename(&run, &moved).unwrap();
    write_run(&moved, 7, &[STEP, EPOCH]);
    let lock = fs::File::open(&moved).unwrap();
    lock.try_lock().unwrap();
    let both = export(root, &["runs"]);
    assert_eq!(both.len(), 2);
    assert!(both.contains(&first[0]), "{both:?}");
    assert_eq!(fs::read_dir(root.join("wandb")).unwrap().count(), 2);
    assert!(!uploaded.exists());
    let found = read(&first[0]);
    assert_eq!(found.run.display_name, "more/a");
    let epoch = json!({
        "_step": 9, "epoch": 1, "validation/top1/48": 50.0, "validation/loss/48": 2.0, "average/top1/48": 60.0,
    });
    assert_eq!(json!(found.history), json!([expected, epoch]));
    assert_eq!(found.summary["train/loss"], 1.5);
    assert_eq!(found.exit, None, "it is running");

    export(root, &["runs/b", "--out", "else/where"]);
    assert!(root.join("else/where").is_dir());
}

#[test]
fn a_record_may_be_longer_than_a_block() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let sizes: Vec<String> = (1..9000).map(|size| format!(r#""{size}":0.5"#)).collect();
    let long = STEP.replace(r#""48":null"#, &sizes.join(","));
    let many: Vec<String> = (1..600)
        .map(|step| STEP.replace(":5,", &format!(":{step},")))
        .collect();
    let mut lines: Vec<&str> = many.iter().map(String::as_str).collect();
    lines.push(&long);
    write_run(&root.join("a"), 1, &lines);
    let found = read(&export(root, &["a"])[0]);
    assert_eq!(found.history.len(), 599);
    assert_eq!(found.history[4].len(), 9002);
}

#[test]
fn what_cannot_be_exported_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    fs::create_dir(root.join("empty")).unwrap();
    fs::write(root.join("file"), "").unwrap();
    write_run(&root.join("a"), 1, &[STEP]);
    fs::create_dir_all(root.join("bad/metrics.jsonl")).unwrap();
    fs::write(root.join("bad/run.log"), "").unwrap();
    for (arguments, code, words) in [
        (&["none"][..], 2, "there is no run directory none"),
        (&["file"], 2, "there is no run directory file"),
        (
            &["empty"],
            2,
            "empty is not a run directory and has none in it",
        ),
        (&["bad"], 1, "cannot read bad/metrics.jsonl"),
        (&["a", "--out", "file"], 1, "--out names another"),
        (&["a", "--out", "file/x"], 1, "--out names another"),
    ] {
        let output = rsflow(root, &[&["wandb"], arguments].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert!(stderr.contains(words), "{arguments:?}: {stderr}");
    }
}
