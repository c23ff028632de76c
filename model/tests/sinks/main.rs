//! The sinks: what they leave on the disk, what a resume makes of it, and what they say when the
//! disk fails. Folders below `/proc` and the device `/dev/full` fail for every user, root too.
#![allow(missing_docs)]

mod checkpoints;
#[path = "../../../tests/fixtures/mod.rs"]
mod fixtures;
mod metrics_csv;
mod metrics_log;
mod plans;
mod protocol;
mod tensorboard;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, bail};
use ron::extensions::Extensions;
use rsflow_base::disk::injection::{Fault, with};
use rsflow_graph::{
    AnySink, Build, Item, NodeKind, Opaque, Payload, PlainMemory, RunContext, Stage,
};
use rsflow_model::checkpoint::{Best, Checkpoint, Metadata, Snapshot, write_atomically};
use rsflow_model::nn::compute::ExecConfig;
use rsflow_model::nn::networks::{Network, ResNet};
use rsflow_model::nn::parameters::WeightInit;
use rsflow_model::nn::switchable::SwitchableNetwork;
use rsflow_model::sinks::{Checkpoints, MetricsLog, TensorBoard};
use rsflow_model::train::metrics::{Checkpointed, Losses, Metric, Row, Step, Table};

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
    let run = RunContext {
        run_dir: run_dir.map(Path::to_owned),
        resume: resume.map(|path| Opaque::new(Checkpoint::open(path).unwrap())),
        ..RunContext::default()
    };
    open_in::<K>(text, &run)
}

fn open_in<K: NodeKind>(text: &str, run: &RunContext) -> Result<Box<dyn AnySink>> {
    let stage = node::<K>(text).build(&Build {
        node: "sink",
        seed: 0,
        run,
        recipe: "",
        inputs: &[],
        schemas: &[],
        outputs: &[],
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
    let net = SwitchableNetwork::new(
        &network,
        2,
        &[32],
        ExecConfig::cpu(tch::Kind::Float),
        WeightInit::Zeros,
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
        metrics: 0,
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
        between: None,
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
        average: vec![],
        classes: 10,
        images: 4,
        left_out: 0,
        seconds: 2.0,
        training: None,
    }
}

#[test]
fn a_full_disk_leaves_what_was_there() {
    let run = tempfile::tempdir().unwrap();
    let folder = run.path().join("checkpoints");
    let mut sink = open::<Checkpoints>(CHECKPOINTS, Some(run.path()), None).unwrap();
    sink.accept(Item::new(checkpointed(10, Some(1), true)))
        .unwrap();
    let before = names_in(&folder);
    let write = || sink.accept(Item::new(checkpointed(20, Some(2), true)));
    // The calls: create, three writes.
    let (result, _) = with(Some((3, Fault::DiskFull)), write);
    let error = result.unwrap_err();
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

fn expect_all(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in {text:?}");
    }
}
