//! A run that is killed, or whose disk is full, at any system call that changes its files, and is resumed:
//! it leaves what a run leaves that was never ended.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail};
use rsflow_base::disk::injection::{Fault, with};
use rsflow_graph::{AnySink, Item, Opaque, RunContext};
use rsflow_model::checkpoint::{Best, Checkpoint, Metadata, Snapshot};
use rsflow_model::nn::networks::{Network, ResNet};
use rsflow_model::sinks::{Checkpoints, MetricsLog, TensorBoard};
use rsflow_model::train::metrics::{Checkpointed, Metric, Step};
use tch::{Kind, Tensor};

use crate::{METRICS, losses, open_in, table};

const EPOCHS: u64 = 4;
const STEPS: u64 = 2;
/// The top-1 accuracy after each epoch: the best are the first and the third.
const TOP1: [f64; EPOCHS as usize] = [20.0, 10.0, 30.0, 15.0];
const CHECKPOINTS: &str = r#"(input: "trainer.checkpoints", keep: 1)"#;

/// What a trainer sends after `at`, in order.
enum Sent {
    Metric(Box<Metric>),
    Checkpoint(Checkpointed),
}

fn training(mut at: Metadata) -> Vec<Sent> {
    let mut sent = Vec::new();
    let metric = |metric| Sent::Metric(Box::new(metric));
    let mut metrics = 0;
    if at.epoch == EPOCHS {
        sent.push(metric(Metric::Final(table(EPOCHS - 1, at.step))));
    }
    while at.epoch < EPOCHS {
        at.step += 1;
        at.sample_in_epoch += 1;
        sent.push(metric(Metric::Step(Step {
            epoch: at.epoch,
            step: at.step,
            losses: losses(at.step as f64),
            learning_rate: 0.5,
            images_per_second: 9.0,
            step_in_epoch: at.sample_in_epoch,
            steps_per_epoch: STEPS,
            epochs: EPOCHS,
            images: 1,
        })));
        metrics += 1;
        let mut end_of_epoch = None;
        let mut is_best = false;
        if at.sample_in_epoch == STEPS {
            sent.push(metric(Metric::Epoch(table(at.epoch, at.step))));
            metrics += 1;
            let best = Best::new(at.epoch, TOP1[at.epoch as usize], 1.0);
            is_best = best.beats(at.best.as_ref());
            at.best = if is_best { Some(best) } else { at.best };
            at.epoch += 1;
            at.sample_in_epoch = 0;
            end_of_epoch = Some(at.epoch);
            if at.epoch == EPOCHS {
                sent.push(metric(Metric::Final(table(EPOCHS - 1, at.step))));
                metrics += 1;
            }
        }
        let weight = Tensor::from_slice(&[at.step as f64]).to_kind(Kind::Float);
        let tensors = vec![("weight".to_owned(), &weight)];
        sent.push(Sent::Checkpoint(Checkpointed {
            snapshot: Arc::new(Snapshot::from_tensors(at.clone(), tensors).unwrap()),
            end_of_epoch,
            best: is_best,
            metrics,
        }));
    }
    sent
}

/// Starts or resumes the run, as the program does, and runs it to its end. A log that fails is closed,
/// and the trainer still sends its checkpoints.
fn run(run_dir: &Path) -> Result<()> {
    let last = run_dir.join("checkpoints/last.safetensors");
    let network = Network::ResNet(ResNet {
        depth: 18,
        width: 8,
    });
    let mut at = Metadata::new(network, vec!["cat".to_owned()], vec![32]);
    let mut context = RunContext {
        run_dir: Some(run_dir.to_owned()),
        ..RunContext::default()
    };
    if last.exists() {
        let resumed = Checkpoint::open(&last)?;
        at = resumed.metadata().clone();
        context.resume = Some(Opaque::new(resumed));
    } else {
        // Nothing is there to resume: the user starts anew.
        fs::remove_dir_all(run_dir)?;
        fs::create_dir(run_dir)?;
    }
    let mut checkpoints = open_in::<Checkpoints>(CHECKPOINTS, &context)?;
    let mut logs: Vec<Option<Box<dyn AnySink>>> = vec![
        Some(open_in::<MetricsLog>(METRICS, &context)?),
        Some(open_in::<TensorBoard>(METRICS, &context)?),
    ];
    let mut failed = None;
    for sent in training(at) {
        match sent {
            Sent::Checkpoint(checkpoint) => checkpoints.accept(Item::new(checkpoint))?,
            Sent::Metric(metric) => {
                for log in &mut logs {
                    let accept = |sink: &mut Box<dyn AnySink>| {
                        sink.accept(Item::new(Metric::clone(&metric)))
                    };
                    if let Some(Err(error)) = log.as_mut().map(accept) {
                        failed = Some(error);
                        *log = None;
                    }
                }
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

/// The files of a run: of the log its bytes, of each checkpoint what it says and its tensors.
fn left(run_dir: &Path) -> BTreeMap<String, String> {
    let mut left = BTreeMap::new();
    for folder in [run_dir.to_owned(), run_dir.join("checkpoints")] {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let content = match path.extension().and_then(|end| end.to_str()) {
                _ if path.is_dir() => continue,
                Some("safetensors") => {
                    let checkpoint = Checkpoint::open(&path).unwrap();
                    let weight = &checkpoint.read(["weight"]).unwrap()[0];
                    format!("{:?} {}", checkpoint.metadata(), weight.double_value(&[0]))
                }
                _ => fs::read_to_string(&path).unwrap(),
            };
            left.insert(name, content);
        }
    }
    left
}

/// On a file system in memory, where there is one: forcing to a disk takes its time.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

#[test]
fn a_run_that_ends_at_any_call_is_completed_by_a_resume() {
    let whole = folder();
    let (result, calls) = with(None, || run(whole.path()));
    result.unwrap();
    let whole = left(whole.path());
    let names: Vec<&str> = whole.keys().map(String::as_str).collect();
    let expected = ["best", "epoch-004", "last"].map(|name| format!("{name}.safetensors"));
    assert_eq!(names[..3], expected);
    assert_eq!(names[3..], ["metrics.jsonl"]);
    assert!(calls > 100, "{calls} calls");

    for fault in [Fault::Killed, Fault::DiskFull] {
        for call in 0..calls {
            let run_dir = folder();
            let (ended, _) = with(Some((call, fault)), || run(run_dir.path()));
            // What has no consequence (a file that could not be removed after an error) is no failure.
            assert!(ended.is_err() || fault == Fault::DiskFull, "call {call}");
            // The resume is ended, too, at some of its calls.
            let _ = with(Some((call * 7 % 60, fault)), || run(run_dir.path()));
            if let Err(error) = run(run_dir.path()) {
                panic!("{fault:?} at call {call}: {error:#}");
            }
            assert_eq!(left(run_dir.path()), whole, "{fault:?} at call {call}");
        }
    }
}

#[test]
fn a_finished_run_is_completed() -> Result<()> {
    let run_dir = folder();
    run(run_dir.path())?;
    let whole = left(run_dir.path());
    // As an older program may have left it: no final line, an old checkpoint, another best one.
    let log = run_dir.path().join("metrics.jsonl");
    let text = fs::read_to_string(&log)?;
    let Some((kept, last)) = text.trim_end().rsplit_once('\n') else {
        bail!("a log of one line")
    };
    assert!(last.contains("final"));
    fs::write(&log, format!("{kept}\n"))?;
    let folder = run_dir.path().join("checkpoints");
    fs::copy(
        folder.join("epoch-004.safetensors"),
        folder.join("epoch-002.safetensors"),
    )?;
    run(run_dir.path())?;
    assert_eq!(left(run_dir.path()), whole);
    // Once more changes nothing.
    run(run_dir.path())?;
    assert_eq!(left(run_dir.path()), whole);
    Ok(())
}
