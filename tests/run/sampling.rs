//! Steps that train some of the resolutions.

use std::collections::BTreeSet;
use std::path::Path;

use rsflow_model::checkpoint::Checkpoint;
use serde_json::Value;

use super::{losses, trainings, wait_for_lines};
use crate::workplace::{completed, workplace};

const SANDWICH: [&str; 8] = [
    "--set",
    "trainer.sampling=Sandwich",
    "--set",
    "train_sizes.sizes=[64, 56, 48, 40]",
    "--set",
    "val_sizes.sizes=[64, 56, 48, 40]",
    "--set",
    "trainer.distill=EnsembleTopDown",
];

/// The resolutions of each step, as the log has them.
fn trained(run: &Path) -> Vec<BTreeSet<String>> {
    let log = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let steps = lines.filter(|line| line["kind"] == "step");
    steps
        .map(|step| {
            let values = step["cross_entropy"].as_object().unwrap();
            assert!(values.values().all(|value| value.as_f64().unwrap() > 0.0));
            values.keys().cloned().collect()
        })
        .collect()
}

fn bytes(run: &Path) -> Vec<u8> {
    std::fs::read(run.join("checkpoints/last.safetensors")).unwrap()
}

#[test]
fn a_step_of_a_sandwich_trains_both_ends_and_one_in_between() {
    let folder = workplace();
    let folder = folder.path();
    completed(folder, &[&["--run-dir", "one"], &SANDWICH[..]].concat());
    let steps = trained(&folder.join("one"));
    assert_eq!(steps.len(), 22);
    for step in &steps {
        assert_eq!(step.len(), 3);
        assert!(step.contains("64") && step.contains("40"), "{step:?}");
    }
    let all: BTreeSet<&String> = steps.iter().flatten().collect();
    assert_eq!(all.len(), 4, "{all:?}");
    // What was not trained has neither moved nor decayed: its batch norms have no momentum before their turn.
    let first = steps[0].clone();
    let last = Checkpoint::open(&folder.join("one/checkpoints/last.safetensors")).unwrap();
    assert!(
        last.contains("momentum/layer1.0.bn1.56.weight"),
        "{first:?}"
    );

    // Recomputed, with two processes, and resumed: the same resolutions.
    let recompute = ["--run-dir", "again", "--set", "trainer.recompute=true"];
    completed(folder, &[&recompute[..], &SANDWICH].concat());
    assert_eq!(trained(&folder.join("again")), steps);
    let two = ["--run-dir", "two", "--processes", "2"];
    completed(folder, &[&two[..], &SANDWICH].concat());
    assert_eq!(trained(&folder.join("two")), steps);

    let parts = ["--run-dir", "parts", "--set", "checkpoints.every_steps=3"];
    let mut child = super::command(folder, &[&parts[..], &SANDWICH].concat())
        .spawn()
        .unwrap();
    wait_for_lines(&folder.join("parts/metrics.jsonl"), 5);
    super::signal(&child, "-TERM");
    child.wait().unwrap();
    completed(folder, &[&parts[..], &["--resume"], &SANDWICH].concat());
    assert_eq!(losses(&folder.join("parts")), losses(&folder.join("one")));
    let whole = ["--run-dir", "whole", "--set", "checkpoints.every_steps=3"];
    completed(folder, &[&whole[..], &SANDWICH].concat());
    assert!(bytes(&folder.join("parts")) == bytes(&folder.join("whole")));
    let epochs = ["parts", "whole"].map(|run| trainings(&folder.join(run)));
    assert_eq!(epochs[0], epochs[1]);
}
