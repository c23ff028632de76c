//! Runs that end before their last epoch, and what their best epoch is best at.

use std::path::Path;

use rsflow_model::checkpoint::{Best, BestBy, Checkpoint};
use serde_json::Value;

use super::{losses, run, stderr};
use crate::workplace::{completed, workplace};

/// Its validations, in order.
fn epochs(run: &Path) -> Vec<Value> {
    let log = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["kind"] == "epoch").collect()
}

fn best(run: &Path) -> Best {
    let last = Checkpoint::open(&run.join("checkpoints/last.safetensors")).unwrap();
    last.metadata().best.unwrap()
}

/// The mean over the two resolutions.
fn mean(epoch: &Value, figure: &str) -> f64 {
    let of = |row: usize| epoch["rows"][row][figure].as_f64().unwrap();
    (of(0) + of(1)) / 2.0
}

#[test]
fn the_best_epoch_is_best_at_what_the_recipe_says() {
    let folder = workplace();
    let folder = folder.path();
    let top1 = |row: usize| move |epoch: &Value| epoch["rows"][row]["top1"].as_f64().unwrap();
    type Score = Box<dyn Fn(&Value) -> f64>;
    let cases: [(&str, BestBy, Score); 4] = [
        ("Mean", BestBy::Mean, Box::new(|epoch| mean(epoch, "top1"))),
        ("Loss", BestBy::Loss, Box::new(|epoch| -mean(epoch, "loss"))),
        ("Ensemble", BestBy::Ensemble, Box::new(top1(2))),
        ("Size(32)", BestBy::Size(32), Box::new(top1(1))),
    ];
    for (name, by, score) in cases {
        let best_by = format!("trainer.best={name}");
        let arguments = [
            "--run-dir",
            name,
            "--set",
            &best_by,
            "--set",
            "trainer.epochs=3",
        ];
        let said = completed(folder, &arguments);
        let scores: Vec<f64> = epochs(&folder.join(name)).iter().map(score).collect();
        // The first of equal ones.
        let highest = scores.iter().copied().fold(f64::MIN, f64::max);
        let at = scores.iter().position(|score| *score == highest).unwrap();
        let best = best(&folder.join(name));
        assert_eq!((best.by, best.epoch), (by, at as u64), "{name}: {scores:?}");
        assert!((best.score - highest).abs() < 1e-9, "{name}: {scores:?}");
        // The table at the end is that of the last epoch.
        let line = format!(
            "best epoch: {} of 3, in checkpoints/best.safetensors",
            at + 1
        );
        assert_eq!(said.contains(&line), at < 2, "{line}: {said}");
        let file = folder.join(name).join("checkpoints/best.safetensors");
        assert_eq!(
            Checkpoint::open(&file).unwrap().metadata().epoch,
            at as u64 + 1
        );
    }
    // Resumed with another one, the next epoch is the best by it.
    let other = [
        "--set",
        "trainer.best=Size(32)",
        "--set",
        "trainer.epochs=4",
    ];
    let resume = ["--run-dir", "Loss", "--resume", "--accept-changes"];
    completed(folder, &[&resume[..], &other].concat());
    let best = best(&folder.join("Loss"));
    assert_eq!((best.by, best.epoch), (BestBy::Size(32), 3));
}

/// Between two validations nobody knows whether something is better.
#[test]
fn a_run_that_is_resumed_between_validations_ends_as_if_it_was_not() {
    let folder = workplace();
    let folder = folder.path();
    let fields = [
        "trainer.epochs=50",
        "trainer.validate_every=3",
        "trainer.patience=2",
        "trainer.optimizer.lr=1e-30",
        "trainer.batch_norm_momentum=1e-30",
    ];
    let sets: Vec<&str> = fields.iter().flat_map(|field| ["--set", field]).collect();
    completed(folder, &[&["--run-dir", "whole"], &sets[..]].concat());
    let whole = losses(&folder.join("whole"));
    assert_eq!(
        whole.len(),
        6 * 11,
        "the validations are those of epochs 3 and 6"
    );
    let fifth = "whole/checkpoints/epoch-005.safetensors";
    let resume = ["--run-dir", "resumed", "--resume", fifth];
    completed(folder, &[&resume[..], &sets].concat());
    assert_eq!(losses(&folder.join("resumed")), whole[5 * 11..]);
}

#[test]
fn a_run_ends_when_nothing_gets_better_or_its_time_is_over() {
    let folder = workplace();
    let folder = folder.path();
    let still = "trainer.optimizer.lr=1e-30"; // nothing gets better
    for (processes, name, field, epochs_trained, said) in [
        (
            "1",
            "patience",
            "trainer.patience=2",
            3,
            "nothing was better for 2 epochs",
        ),
        (
            "1",
            "hours",
            "trainer.max_hours=1e-9",
            1,
            "0.000000001 hours are over",
        ),
        (
            "2",
            "together",
            "trainer.max_hours=1e-9",
            1,
            "hours are over",
        ),
    ] {
        let arguments = |extra: &[&str]| -> Vec<String> {
            let common = [
                "--run-dir",
                name,
                "--processes",
                processes,
                "--set",
                "trainer.epochs=50",
                "--set",
                "trainer.batch_norms=Shared",
                // The last statistics alone, so that accuracies stay as they are.
                "--set",
                "trainer.batch_norm_momentum=1e-30",
                "--set",
                still,
                "--set",
                field,
                "--set",
                "trainer.validate_every=1",
            ];
            common
                .iter()
                .chain(extra)
                .map(|&text| text.to_owned())
                .collect()
        };
        let start = |extra: &[&str]| {
            let arguments = arguments(extra);
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let output = run(folder, &arguments);
            assert_eq!(output.status.code(), Some(0), "{name}: {}", stderr(&output));
            (
                String::from_utf8(output.stdout.clone()).unwrap(),
                stderr(&output),
            )
        };
        let (table, output) = start(&[]);
        assert!(output.contains(said), "{name}: {output}");
        let whole = format!("the run ends after epoch {epochs_trained}");
        assert!(output.contains(&whole), "{name}: {output}");
        let steps = epochs_trained * 11;
        assert!(
            table.contains(&format!("({steps} steps)")),
            "{name}: {table}"
        );
        let out = folder.join(name);
        assert_eq!(losses(&out).len(), steps, "{name}");
        let log = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
        assert!(log.lines().last().unwrap().contains("\"final\""), "{name}");

        // A resume has nothing to do, and says how there is more.
        let (table, output) = start(&["--resume"]);
        assert!(
            output.contains("nothing is left to train"),
            "{name}: {output}"
        );
        assert!(
            table.contains(&format!("({steps} steps)")),
            "{name}: {table}"
        );
        let after = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
        assert_eq!(after, log, "{name}");
    }
    let longer = [
        "--set",
        "trainer.patience=3",
        "--accept-changes",
        "--resume",
    ];
    let same = [
        "--set",
        "trainer.epochs=50",
        "--set",
        still,
        "--run-dir",
        "patience",
    ];
    let norms = [
        "--set",
        "trainer.batch_norms=Shared",
        "--set",
        "trainer.batch_norm_momentum=1e-30",
    ];
    completed(folder, &[&longer[..], &same, &norms].concat());
    assert_eq!(losses(&folder.join("patience")).len(), 4 * 11);
}
