//! The node `TensorBoard`, compared byte by byte with event files that TensorBoard's own package
//! wrote (see tests/fixtures/tensorboard).

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rsflow_model::sinks::TensorBoard;
use rsflow_model::train::metrics::{Losses, Metric, Table, Training};

use crate::fixtures::fixtures;
use crate::{METRICS, drive, losses, names_in, resume_point, step, table};

/// The events of a file, each as its bytes, without their lengths and checksums, which are checked.
fn events(path: &Path) -> Vec<Vec<u8>> {
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
            assert_eq!(checksum, masked.to_le_bytes(), "{}", path.display());
            content
        };
        let length = u64::from_le_bytes(checked(8).try_into().unwrap());
        events.push(checked(length as usize).to_vec());
    }
    events
}

/// Takes the wall time out of an event: field 1, a double, which comes first.
fn take_wall_time(event: &mut Vec<u8>) -> f64 {
    let field: Vec<u8> = event.drain(..9).collect();
    assert_eq!(field[0], 1 << 3 | 1, "it does not begin with the wall time");
    f64::from_le_bytes(field[1..].try_into().unwrap())
}

#[test]
fn events_are_those_that_tensorboard_writes() {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let (run, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let with_distillation = losses(1.25).map(|losses| Losses {
        distillation: Some(0.125),
        ..losses
    });
    let training = Training {
        steps: 2,
        images: 16,
        losses: losses(1.5).unwrap(),
        top1: Some(62.5),
        top1_resolution: 64,
        mixed_labels: false,
        learning_rate: 0.25,
        images_per_second: Some(1000.0),
        peak_gpu_bytes: Some(3_000_000_000),
        steps_per_epoch: 2,
    };
    let first = [
        step(1, None),
        step(2, losses(1.0)),
        Metric::Epoch(table(0, 2)),
        step(4, losses(2.0)),
    ];
    // Its start, at step 3, supersedes step 4 of the first: TensorBoard forgets it.
    let resumed = [
        step(3, with_distillation),
        Metric::Epoch(Table {
            training: Some(training),
            ..table(1, 4)
        }),
        Metric::Final(table(1, 4)),
    ];
    let begin = now().as_secs_f64();
    drive::<TensorBoard, _>(METRICS, run.path(), None, first);
    let resume = resume_point(elsewhere.path(), 1, 2);
    drive::<TensorBoard, _>(METRICS, run.path(), Some(&resume), resumed);
    let written = begin..=now().as_secs_f64();

    let folder = run.path().join("tensorboard");
    // TensorBoard reads them in the order of their names.
    let names = names_in(&folder);
    assert_eq!(names.len(), 2, "{names:?}");
    for (name, golden) in names.iter().zip(["first.tfevents", "resumed.tfevents"]) {
        assert!(name.starts_with("events.out.tfevents."), "{name}");
        let mut found = events(&folder.join(name));
        let mut expected = events(&fixtures().join("tensorboard").join(golden));
        for event in &mut expected {
            assert!(take_wall_time(event) >= 1_700_000_000.25);
        }
        for event in &mut found {
            let time = take_wall_time(event);
            assert!(written.contains(&time), "{time} is not in {written:?}");
        }
        let text = |events: &[Vec<u8>]| -> Vec<String> {
            let events = events.iter();
            events
                .map(|event| event.escape_ascii().to_string())
                .collect()
        };
        assert_eq!(text(&found), text(&expected), "{golden}");
    }
}
