//! The sinks: what they leave on the disk, what a resume makes of it, and what they say when the
//! disk fails. Folders below `/proc` and the device `/dev/full` fail for every user, root too.
#![allow(missing_docs)]

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, bail};
use prost::Message as _;
use ron::extensions::Extensions;
use rsflow_graph::{
    AnySink, Build, Catalogue, Demand, Incoming, Input, Item, Kind, Node, NodeKind, Payload,
    PlainMemory, Plan, Port, Recipe, Report, Resume, RunContext, Schema, Stage, Text,
};
use rsflow_model::checkpoint::{Best, Checkpoint, Metadata, Snapshot, write_atomically};
use rsflow_model::nn::compute::Compute;
use rsflow_model::nn::networks::{Network, ResNet};
use rsflow_model::nn::parameters::Start;
use rsflow_model::nn::rs_net::RsNet;
use rsflow_model::sinks::{Checkpoints, MetricsLog, TensorBoard};
use rsflow_model::train::metrics::{Checkpointed, Losses, Metric, Row, Step, Table, Validating};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

const CHECKPOINTS: &str = r#"(input: "trainer.checkpoints", keep: 2)"#;
const METRICS: &str = r#"(input: "trainer.metrics")"#;

/// A node as a recipe has it, without its kind.
fn node<K: NodeKind>(text: &str) -> K {
    let options = ron::Options::default().with_default_extension(Extensions::IMPLICIT_SOME);
    options.from_str(text).unwrap_or_else(|e| panic!("{e}"))
}

fn open<K: NodeKind>(
    text: &str,
    run_dir: Option<&Path>,
    resume: Option<&Path>,
) -> Result<Box<dyn AnySink>> {
    let stage = node::<K>(text).build(&Build {
        node: "sink",
        seed: 0,
        run: &RunContext {
            run_dir: run_dir.map(Path::to_owned),
            resume: resume.map(|path| Resume::new(Checkpoint::open(path).unwrap())),
            ..RunContext::default()
        },
        recipe: "",
        inputs: &[],
        schemas: &[],
        demands: &[],
        allocator: Arc::new(PlainMemory),
    })?;
    match stage {
        Stage::Sink(sink) => Ok(sink),
        _ => bail!("it is no sink"),
    }
}

/// Gives a sink its items, then ends it.
fn drive<K: NodeKind, T: Payload>(
    text: &str,
    run_dir: &Path,
    resume: Option<&Path>,
    items: impl IntoIterator<Item = T>,
) {
    let mut sink = open::<K>(text, Some(run_dir), resume).unwrap();
    for item in items {
        sink.accept(Item::new(item)).unwrap();
    }
    sink.finish().unwrap();
}

fn snapshot(epoch: u64, step: u64) -> Snapshot {
    snapshot_with(epoch, step, None)
}

fn snapshot_with(epoch: u64, step: u64, best: Option<Best>) -> Snapshot {
    let network = Network::ResNet(ResNet {
        depth: 18,
        width: 8,
    });
    let net = RsNet::new(
        &network,
        2,
        &[32],
        Compute::cpu(tch::Kind::Float),
        Start::Zero,
    )
    .unwrap();
    let classes = vec!["cat".to_owned(), "dog".to_owned()];
    let metadata = Metadata {
        epoch,
        step,
        best,
        ..Metadata::new(network, classes, vec![32])
    };
    Snapshot::take(metadata, net.parameters(), []).unwrap()
}

fn checkpointed(step: u64, end_of_epoch: Option<u64>, best: bool) -> Checkpointed {
    Checkpointed {
        snapshot: Arc::new(snapshot(end_of_epoch.unwrap_or(0), step)),
        end_of_epoch,
        best,
    }
}

/// A checkpoint file to go on from.
fn resume_point(folder: &Path, epoch: u64, step: u64) -> PathBuf {
    let path = folder.join("resume.safetensors");
    write_atomically(&snapshot(epoch, step), &path).unwrap();
    path
}

fn names_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn step(step: u64, losses: Option<Losses>) -> Metric {
    Metric::Step(Step {
        epoch: 0,
        step,
        losses,
        learning_rate: 0.25,
        images_per_second: 1000.0,
        step_in_epoch: step,
        steps_per_epoch: 2,
        epochs: 2,
        images: 8,
    })
}

fn losses(loss: f64) -> Option<Losses> {
    Some(Losses {
        loss,
        cross_entropy: vec![(64, 0.5), (32, 0.0)],
        ensemble_cross_entropy: 0.75,
        distillation: None,
    })
}

fn table(epoch: u64, step: u64) -> Table {
    let row = |resolution| Row {
        resolution,
        batch_norm: resolution,
        top1: 50.0,
        top5: 75.0,
        loss: 1.5,
        multiply_adds: 10,
        parameters: 20,
    };
    Table {
        epoch,
        step,
        rows: vec![row(Some(64)), row(None)],
        images: 4,
        seconds: 2.0,
    }
}

#[test]
fn checkpoints_come_and_go() {
    let run = tempfile::tempdir().unwrap();
    let folder = run.path().join("checkpoints");
    let mut sink = open::<Checkpoints>(CHECKPOINTS, Some(run.path()), None).unwrap();
    // What is sent, and then: the steps of all files; those that are the same file.
    type Sent = (u64, Option<u64>, bool);
    type Files<'a> = &'a [(&'a str, u64)];
    type Same<'a> = &'a [&'a str];
    let table: [(Sent, Files, Same); 6] = [
        ((5, None, false), &[("last", 5)], &[]),
        (
            (10, Some(1), true),
            &[("best", 10), ("epoch-001", 10), ("last", 10)],
            &["best", "epoch-001", "last"],
        ),
        (
            (15, None, false),
            &[("best", 10), ("epoch-001", 10), ("last", 15)],
            &["best", "epoch-001"],
        ),
        (
            (20, Some(2), false),
            &[
                ("best", 10),
                ("epoch-001", 10),
                ("epoch-002", 20),
                ("last", 20),
            ],
            &["epoch-002", "last"],
        ),
        (
            (30, Some(3), false),
            &[
                ("best", 10),
                ("epoch-002", 20),
                ("epoch-003", 30),
                ("last", 30),
            ],
            &["epoch-003", "last"],
        ),
        // An epoch written once more replaces what was there, whatever its names were.
        (
            (31, Some(3), true),
            &[
                ("best", 31),
                ("epoch-002", 20),
                ("epoch-003", 31),
                ("last", 31),
            ],
            &["best", "epoch-003", "last"],
        ),
    ];
    for ((step, end_of_epoch, best), files, same) in table {
        sink.accept(Item::new(checkpointed(step, end_of_epoch, best)))
            .unwrap();
        let file = |name: &str| folder.join(format!("{name}.safetensors"));
        let expected: Vec<String> = files
            .iter()
            .map(|(name, _)| format!("{name}.safetensors"))
            .collect();
        assert_eq!(names_in(&folder), expected, "step {step}");
        for (name, step) in files {
            let checkpoint = Checkpoint::open(&file(name)).unwrap();
            assert_eq!(checkpoint.metadata().step, *step, "{name}");
        }
        let inodes = same.iter().map(|name| fs::metadata(file(name)).unwrap());
        let inodes: Vec<u64> = inodes.map(|metadata| metadata.ino()).collect();
        assert!(inodes.windows(2).all(|pair| pair[0] == pair[1]), "{same:?}");
    }
    assert!(sink.queue() <= 2, "each that waits is a whole network");
}

#[test]
fn checkpoints_of_an_earlier_run() {
    let run = tempfile::tempdir().unwrap();
    let folder = run.path().join("checkpoints");
    fs::create_dir(&folder).unwrap();
    // Unfinished, among them a second name of a complete one; and what is none of ours.
    fs::write(folder.join(".epoch-009.safetensors.partial"), "half").unwrap();
    write_atomically(&snapshot(3, 30), &folder.join("epoch-003.safetensors")).unwrap();
    fs::hard_link(
        folder.join("epoch-003.safetensors"),
        folder.join(".last.safetensors.partial"),
    )
    .unwrap();
    for foreign in [".notes.partial", "epoch-1.safetensors", "notes"] {
        fs::write(folder.join(foreign), "").unwrap();
    }
    for epoch in [7, 8] {
        fs::write(folder.join(format!("epoch-00{epoch}.safetensors")), "").unwrap();
    }

    // It goes on from epoch 3, so 7 and 8 neither go nor push out what is new. The best so far is
    // not here (it may be in another run's folder), so the first epoch's takes its place.
    let items = [4, 5].map(|epoch| checkpointed(epoch * 10, Some(epoch), false));
    drive::<Checkpoints, _>(CHECKPOINTS, run.path(), None, items);
    let expected = [
        ".notes.partial",
        "best.safetensors",
        "epoch-004.safetensors",
        "epoch-005.safetensors",
        "epoch-007.safetensors",
        "epoch-008.safetensors",
        "epoch-1.safetensors",
        "last.safetensors",
        "notes",
    ];
    assert_eq!(names_in(&folder), expected);
}

#[test]
fn what_a_resume_leaves_behind_is_neither_last_nor_best() {
    let run = tempfile::tempdir().unwrap();
    let folder = run.path().join("checkpoints");
    fs::create_dir(&folder).unwrap();
    let path = |name: &str| folder.join(name).with_extension("safetensors");
    let epoch_of = |name: &str| {
        let checkpoint = Checkpoint::open(&path(name)).unwrap();
        checkpoint.metadata().epoch
    };
    for (name, epoch) in [("epoch-002", 2), ("epoch-003", 3), ("best", 5), ("last", 5)] {
        write_atomically(&snapshot(epoch, 10 * epoch), &path(name)).unwrap();
    }
    // By a link that leads there from its own folder only.
    let resume = run.path().join("mine.safetensors");
    std::os::unix::fs::symlink("checkpoints/epoch-003.safetensors", &resume).unwrap();
    let open = || open::<Checkpoints>(CHECKPOINTS, Some(run.path()), Some(&resume)).unwrap();
    let mut sink = open();
    assert_eq!((epoch_of("last"), epoch_of("best")), (3, 5));
    assert_eq!(epoch_of("abandoned"), 5);
    // Not better than epoch 2, which is still there.
    let best = Best::new(1, 70.0, 80.0);
    let fourth = Checkpointed {
        snapshot: Arc::new(snapshot_with(4, 40, Some(best))),
        ..checkpointed(40, Some(4), false)
    };
    sink.accept(Item::new(fourth)).unwrap();
    assert_eq!((epoch_of("last"), epoch_of("best")), (4, 2));
    // What is not later stays.
    drop(sink);
    drop(open());
    assert_eq!((epoch_of("last"), epoch_of("best")), (3, 2));
}

#[test]
fn a_full_disk_leaves_what_was_there() {
    let run = tempfile::tempdir().unwrap();
    let folder = run.path().join("checkpoints");
    let mut sink = open::<Checkpoints>(CHECKPOINTS, Some(run.path()), None).unwrap();
    sink.accept(Item::new(checkpointed(10, Some(1), true)))
        .unwrap();
    let before = names_in(&folder);
    symlink("/dev/full", folder.join(".epoch-002.safetensors.partial")).unwrap();
    let error = sink
        .accept(Item::new(checkpointed(20, Some(2), true)))
        .unwrap_err();
    expect_all(
        &format!("{error:#}"),
        &["epoch-002.safetensors", "No space", "free some space"],
    );
    assert_eq!(names_in(&folder), before);
    for name in before {
        let checkpoint = Checkpoint::open(&folder.join(name)).unwrap();
        assert_eq!(checkpoint.metadata().step, 10);
    }

    symlink("/dev/full", run.path().join("metrics.jsonl")).unwrap();
    let mut sink = open::<MetricsLog>(METRICS, Some(run.path()), None).unwrap();
    let error = sink.accept(Item::new(step(1, losses(1.0)))).unwrap_err();
    expect_all(
        &format!("{error:#}"),
        &["metrics.jsonl", "No space", "free some space"],
    );

    // The folder vanishes.
    let mut sink = open::<Checkpoints>(CHECKPOINTS, Some(&run.path().join("b")), None).unwrap();
    fs::remove_dir_all(run.path().join("b")).unwrap();
    let error = sink
        .accept(Item::new(checkpointed(20, None, false)))
        .unwrap_err();
    expect_all(
        &format!("{error:#}"),
        &["b/checkpoints/last.safetensors", "restore it"],
    );
}

fn expect_all(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in {text:?}");
    }
}

#[test]
fn what_cannot_be_written_is_told_at_once() {
    type Open = fn(Option<&Path>) -> Result<Box<dyn AnySink>>;
    let kinds: [(Open, &str); 3] = [
        (
            |dir| open::<Checkpoints>(CHECKPOINTS, dir, None),
            "checkpoints",
        ),
        (
            |dir| open::<MetricsLog>(METRICS, dir, None),
            "metrics.jsonl",
        ),
        (|dir| open::<TensorBoard>(METRICS, dir, None), "tensorboard"),
    ];
    for (open, name) in kinds {
        let message = |dir: Option<&Path>| match open(dir) {
            Ok(_) => panic!("{name} in {dir:?} was opened"),
            Err(error) => format!("{error:#}"),
        };
        expect_all(&message(None), &["`sink`", "run directory"]);

        let run = tempfile::tempdir().unwrap();
        let file = run.path().join("file");
        fs::write(&file, "").unwrap();
        let path = file.join(name).display().to_string();
        expect_all(&message(Some(&file)), &[&path, "--run-dir"]);

        // A folder that is there and takes no files.
        let place = run.path().join(name);
        symlink("/proc/self/fd", &place).unwrap();
        expect_all(&message(Some(run.path())), &[&place.display().to_string()]);
    }

    // The same files twice.
    let run = tempfile::tempdir().unwrap();
    for (open, name) in &kinds[..2] {
        let first = open(Some(run.path())).unwrap();
        let second = open(Some(run.path())).err().expect("two write one file");
        expect_all(&format!("{second:#}"), &[name, "another run"]);
        drop(first);
        open(Some(run.path())).unwrap();
    }
}

fn lines(run: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn metrics_are_lines() {
    let run = tempfile::tempdir().unwrap();
    fs::write(run.path().join("metrics.jsonl"), "left by a run before\n").unwrap();
    let mut sink = open::<MetricsLog>(METRICS, Some(run.path()), None).unwrap();
    let validating = Metric::Validating(Validating {
        epoch: 0,
        batches: 1,
        of: 2,
    });
    let metrics = [
        (step(1, None), 0),
        (step(2, losses(f64::NAN)), 1),
        (validating, 1),
        (Metric::Epoch(table(0, 2)), 2),
        (Metric::Final(table(0, 2)), 3),
    ];
    for (metric, expected) in metrics {
        sink.accept(Item::new(metric)).unwrap();
        // Each is there at once.
        assert_eq!(lines(run.path()).len(), expected);
    }
    let lines = lines(run.path());
    assert_eq!(
        lines[0],
        json!({
            "kind": "step", "epoch": 0, "step": 2, "loss": null,
            "cross_entropy": { "64": 0.5, "32": 0.0 }, "ensemble_cross_entropy": 0.75,
            "learning_rate": 0.25, "images_per_second": 1000.0,
        })
    );
    assert_eq!(lines[1]["kind"], "epoch");
    assert_eq!(lines[1]["rows"][1]["resolution"], json!(null));
    assert_eq!(lines[1]["rows"][0]["top1"], 50.0);
    assert_eq!(lines[2]["kind"], "final");
}

#[test]
fn a_resume_cuts_the_log_back() {
    let whole = concat!(
        r#"{"kind":"step","epoch":0,"step":2}"#,
        "\n",
        r#"{"kind":"epoch","epoch":0,"step":2}"#,
        "\n",
        r#"{"kind":"step","epoch":1,"step":4}"#,
        "\n",
        r#"{"kind":"epoch","epoch":1,"step":4}"#,
        "\n",
        r#"{"kind":"final","epoch":1,"step":4}"#,
        "\n",
    );
    let killed = &whole[..whole.len() - 50];
    let unended = whole.trim_end();
    let damaged = format!("{}\0\0\0", &whole[..35]);
    // After its first epoch the run went on with larger batches.
    let renumbered = whole.replace(r#""epoch":1,"step":4"#, r#""epoch":1,"step":1"#);
    // The log, the checkpoint's epoch and step, and what stays.
    type Stays<'a> = &'a [(&'a str, u64)];
    let (s2, e2, s4, e4) = (("step", 2), ("epoch", 2), ("step", 4), ("epoch", 4));
    let table: [(&str, u64, u64, Stays); 10] = [
        (whole, 2, 4, &[s2, e2, s4, e4]),
        (unended, 2, 4, &[s2, e2, s4, e4]),
        // Stopped before the validation was through.
        (whole, 1, 4, &[s2, e2, s4]),
        (whole, 1, 3, &[s2, e2]),
        (whole, 1, 2, &[s2, e2]),
        (whole, 0, 2, &[s2]),
        (killed, 2, 4, &[s2, e2, s4]),
        (&damaged, 2, 4, &[s2]),
        (&renumbered, 1, 1, &[s2, e2, ("step", 1)]),
        ("", 2, 4, &[]),
    ];
    for (log, epoch, at, stays) in table {
        let (run, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(run.path().join("metrics.jsonl"), log).unwrap();
        let resume = resume_point(elsewhere.path(), epoch, at);
        drive::<MetricsLog, _>(METRICS, run.path(), Some(&resume), [step(9, losses(1.0))]);
        let lines = lines(run.path());
        let kept: Vec<(&str, u64)> = lines
            .iter()
            .map(|line| {
                (
                    line["kind"].as_str().unwrap(),
                    line["step"].as_u64().unwrap(),
                )
            })
            .collect();
        let expected: Vec<_> = stays.iter().copied().chain([("step", 9)]).collect();
        assert_eq!(kept, expected, "epoch {epoch}, step {at}, {log:?}");
        assert_eq!(names_in(run.path()), ["metrics.jsonl"]);
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, tag = "3")]
    file_version: String,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
    #[prost(message, optional, tag = "7")]
    session_log: Option<SessionLog>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

fn events(path: &Path) -> Vec<Event> {
    let bytes = fs::read(path).unwrap();
    let mut rest = &bytes[..];
    let mut events = Vec::new();
    while !rest.is_empty() {
        let mut checked = |length: usize| {
            let (content, after) = rest.split_at(length);
            let (checksum, after) = after.split_at(4);
            rest = after;
            let crc = crc32c::crc32c(content);
            let masked = crc.rotate_right(15).wrapping_add(0xa282_ead8);
            assert_eq!(checksum, masked.to_le_bytes());
            content
        };
        let length = u64::from_le_bytes(checked(8).try_into().unwrap());
        events.push(Event::decode(checked(length as usize)).unwrap());
    }
    events
}

#[test]
fn tensorboard_reads_what_is_written() {
    let (run, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let with_distillation = losses(1.25).map(|losses| Losses {
        distillation: Some(0.125),
        ..losses
    });
    let first = [
        step(1, None),
        step(2, losses(1.0)),
        Metric::Epoch(table(0, 2)),
        step(4, losses(2.0)),
    ];
    let second = [
        step(3, with_distillation),
        Metric::Epoch(table(1, 4)),
        Metric::Final(table(1, 4)),
    ];
    drive::<TensorBoard, _>(METRICS, run.path(), None, first);
    let resume = resume_point(elsewhere.path(), 1, 2);
    drive::<TensorBoard, _>(METRICS, run.path(), Some(&resume), second);

    let folder = run.path().join("tensorboard");
    let names = names_in(&folder);
    assert_eq!(names.len(), 2);
    let (starts, summaries): (Vec<u64>, Vec<Vec<(i64, Summary)>>) = names
        .iter()
        .map(|name| {
            assert!(name.starts_with("events.out.tfevents."));
            let mut events = events(&folder.join(name)).into_iter();
            assert_eq!(events.next().unwrap().file_version, "brain.Event:2");
            let start = events.next().unwrap();
            assert_eq!(start.session_log, Some(SessionLog { status: 1 }));
            let summaries = events.map(|event| (event.step, event.summary.unwrap()));
            (start.step as u64, summaries.collect::<Vec<_>>())
        })
        .unzip();
    // The second, which is read later, supersedes what follows step 2.
    assert_eq!(starts, [1, 3]);
    let steps = |file: usize| summaries[file].iter().map(|(step, _)| *step);
    assert_eq!(steps(0).collect::<Vec<_>>(), [2, 2, 4]);
    assert_eq!(steps(1).collect::<Vec<_>>(), [3, 4]);
    let scalars = |summary: &Summary| -> Vec<(String, f32)> {
        let values = summary.value.iter();
        values
            .map(|value| (value.tag.clone(), value.simple_value.unwrap()))
            .collect()
    };
    let owned = |scalars: &[(&str, f32)]| -> Vec<(String, f32)> {
        let scalars = scalars.iter();
        scalars
            .map(|(tag, value)| ((*tag).to_owned(), *value))
            .collect()
    };
    assert_eq!(
        scalars(&summaries[1][0].1),
        owned(&[
            ("train/loss", 1.25),
            ("train/ensemble_cross_entropy", 0.75),
            ("train/distillation", 0.125),
            ("train/learning_rate", 0.25),
            ("train/images_per_second", 1000.0),
            ("train/cross_entropy/64", 0.5),
            ("train/cross_entropy/32", 0.0),
        ])
    );
    assert_eq!(
        scalars(&summaries[1][1].1),
        owned(&[
            ("validation/top1/64", 50.0),
            ("validation/top5/64", 75.0),
            ("validation/loss/64", 1.5),
            ("validation/top1/ensemble", 50.0),
            ("validation/top5/ensemble", 75.0),
            ("validation/loss/ensemble", 1.5),
        ])
    );
}

/// Stands for a trainer in plans.
#[derive(Deserialize, JsonSchema)]
struct Talker {}

impl Node for Talker {
    fn inputs(&self) -> Vec<(&'static str, &Input)> {
        vec![]
    }

    fn plan(&self, _: &[Incoming], _: &mut Report) -> Vec<Schema> {
        vec![Schema::default(), Schema::default()]
    }

    fn build(&self, _: &Build) -> Result<Stage> {
        bail!("it is for plans only")
    }
}

impl NodeKind for Talker {
    const NAME: &'static str = "Talker";
    const SUMMARY: &'static str = "talks";
    const INPUTS: &'static [Port] = &[];
    const OUTPUTS: &'static [Port] = &[
        Port {
            name: "metrics",
            carries: Metric::NAME,
        },
        Port {
            name: "checkpoints",
            carries: Checkpointed::NAME,
        },
    ];
    const EXAMPLE: &'static str = "Talker()";
}

const CATALOGUE: Catalogue = Catalogue(&[
    Kind::of::<Talker>(),
    Kind::of::<Checkpoints>(),
    Kind::of::<MetricsLog>(),
    Kind::of::<TensorBoard>(),
]);

#[test]
fn plans_with_sinks() {
    let right = [
        Checkpoints::EXAMPLE,
        MetricsLog::EXAMPLE,
        TensorBoard::EXAMPLE,
    ];
    let check = |checkpoints: &str| -> String {
        let [_, log, events] = right;
        let text = format!(
            r#"(seed: 0, nodes: {{
                "trainer": Talker(), "checkpoints": {checkpoints}, "log": {log}, "events": {events},
            }})"#
        );
        match Recipe::parse(Text::new("test.ron", text), CATALOGUE, &[]).and_then(Plan::new) {
            Ok(_) => String::new(),
            Err(problems) => problems.to_string(),
        }
    };
    assert_eq!(check(right[0]), "");
    let table = [
        (r#"every_steps: 0"#, "`every_steps` must be at least 1"),
        (r#"keep: 0"#, "`keep` must be at least 1"),
        (r#"kep: 1"#, "keep"),
    ];
    for (field, expected) in table {
        let found = check(&format!(
            r#"Checkpoints(input: "trainer.checkpoints", {field})"#
        ));
        expect_all(&found, &[expected]);
    }
    let demands = [
        (r#"(input: "t")"#, None),
        (r#"(input: "t", every_steps: 100)"#, Some(100)),
    ];
    for (text, every_steps) in demands {
        assert_eq!(node::<Checkpoints>(text).demand(), Demand { every_steps });
    }
}
