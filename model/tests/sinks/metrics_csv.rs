//! The node `MetricsCsv`: its rows, and what a resume makes of those of before.

use std::fs;

use rsflow_model::sinks::MetricsCsv;
use rsflow_model::train::metrics::{Metric, Table, Training};

use crate::{METRICS, drive, losses, open, resume_point, step, table};

const FIRST: &str = "\
epoch,step,seconds,top1_64,top5_64,loss_64,top1_ensemble,top5_ensemble,loss_ensemble
1,2,2,50,75,1.5,50,75,1.5
2,4,2,50,75,1.5,50,75,1.5
";

fn trained(epoch: u64, step: u64) -> Metric {
    Metric::Epoch(Table {
        training: Some(Training {
            steps: 2,
            images: 16,
            losses: losses(f64::NAN).unwrap(),
            top1: Some(62.5),
            top1_resolution: 64,
            mixed_labels: false,
            learning_rate: 0.25,
            images_per_second: Some(1000.0),
            peak_gpu_bytes: None,
            steps_per_epoch: 2,
        }),
        ..table(epoch, step)
    })
}

#[test]
fn an_epoch_is_a_row_and_a_resume_continues_the_table() {
    let run = tempfile::tempdir().unwrap();
    let path = run.path().join("metrics.csv");
    fs::write(&path, "left by a run before\n").unwrap();
    let first = [
        step(2, losses(1.0)),
        Metric::Epoch(table(0, 2)),
        Metric::Epoch(table(1, 4)),
        Metric::Final(table(1, 4)),
    ];
    drive::<MetricsCsv, _>(METRICS, run.path(), None, first);
    assert_eq!(fs::read_to_string(&path).unwrap(), FIRST);

    // From the first epoch, with further columns. A number that is not finite is empty.
    let elsewhere = tempfile::tempdir().unwrap();
    let resume = resume_point(elsewhere.path(), 1, 2);
    drive::<MetricsCsv, _>(METRICS, run.path(), Some(&resume), [trained(1, 4)]);
    let expected = "\
epoch,step,seconds,top1_64,top5_64,loss_64,top1_ensemble,top5_ensemble,loss_ensemble,train_loss,\
train_cross_entropy_64,train_cross_entropy_32,train_cross_entropy_ensemble,train_top1_64,learning_rate,\
images_per_second
1,2,2,50,75,1.5,50,75,1.5,,,,,,,
2,4,2,50,75,1.5,50,75,1.5,,0.5,0,0.75,62.5,0.25,1000
";
    assert_eq!(fs::read_to_string(&path).unwrap(), expected);
}

#[test]
fn what_is_no_table_of_a_run_is_not_overwritten_by_a_resume() {
    let elsewhere = tempfile::tempdir().unwrap();
    let resume = resume_point(elsewhere.path(), 1, 2);
    for (content, words) in [
        ("a,b\n1,2\n", Some("its first column is not `epoch`")),
        ("epoch,step\none,2\n", Some("row 1 has no epoch")),
        ("epoch,step\n1\n", Some("found record with 1 fields")),
        ("epoch,step\n1,\u{fffd}\n", None),
        ("", None),
    ] {
        let run = tempfile::tempdir().unwrap();
        let path = run.path().join("metrics.csv");
        fs::write(&path, content).unwrap();
        let opened = open::<MetricsCsv>(METRICS, Some(run.path()), Some(&resume));
        let error = opened.err().map(|error| format!("{error:#}"));
        match (&error, words) {
            (Some(error), Some(words)) => {
                assert!(
                    error.contains(words) && error.contains("remove or rename it"),
                    "{error}"
                );
            }
            (None, None) => {}
            _ => panic!("{content:?}: {error:?}"),
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), content);
    }
    // One that is gone starts anew.
    let run = tempfile::tempdir().unwrap();
    drive::<MetricsCsv, _>(
        METRICS,
        run.path(),
        Some(&resume),
        [Metric::Epoch(table(1, 4))],
    );
    let text = fs::read_to_string(run.path().join("metrics.csv")).unwrap();
    assert_eq!(text.lines().count(), 2, "{text}");
}
