//! The node `Checkpoints`: which files there are, which one is the last, which one the best.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::sync::Arc;

use rsflow_graph::Item;
use rsflow_model::checkpoint::{Best, Checkpoint, write_atomically};
use rsflow_model::sinks::Checkpoints;
use rsflow_model::train::metrics::Checkpointed;

use crate::{CHECKPOINTS, checkpointed, drive, names_in, open, snapshot, snapshot_with};

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

    // It resumes from epoch 3, so 7 and 8 neither go nor push out what is new.
    let items = [4, 5].map(|epoch| checkpointed(epoch * 10, Some(epoch), false));
    drive::<Checkpoints, _>(CHECKPOINTS, run.path(), None, items);
    let expected = [
        ".notes.partial",
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
    let (second, fifth) = (Best::new(1, 70.0, 80.0), Best::new(4, 90.0, 90.0));
    for (name, epoch, best) in [
        ("epoch-002", 2, second),
        ("epoch-003", 3, second),
        ("best", 5, fifth),
        ("last", 5, fifth),
    ] {
        write_atomically(&snapshot_with(epoch, 10 * epoch, Some(best)), &path(name)).unwrap();
    }
    // By a link that leads there from its own folder only.
    let resume = run.path().join("mine.safetensors");
    symlink("checkpoints/epoch-003.safetensors", &resume).unwrap();
    let open = || open::<Checkpoints>(CHECKPOINTS, Some(run.path()), Some(&resume)).unwrap();
    let mut sink = open();
    assert_eq!((epoch_of("last"), epoch_of("best")), (3, 2));
    assert_eq!(epoch_of("abandoned"), 5);
    let fourth = Checkpointed {
        snapshot: Arc::new(snapshot_with(4, 40, Some(second))),
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
fn a_resume_restores_what_is_missing() {
    let best = Some(Best::new(1, 70.0, 80.0));
    let files = |run: &Path, names: &[(&str, u64)]| {
        let folder = run.join("checkpoints");
        fs::create_dir(&folder).unwrap();
        for (name, epoch) in names {
            let path = folder.join(name).with_extension("safetensors");
            write_atomically(&snapshot_with(*epoch, 10 * epoch, best), &path).unwrap();
        }
        folder
    };
    // What is there, what is resumed, and the epochs of the last and the best afterwards.
    type Case<'a> = (&'a [(&'a str, u64)], &'a str, (u64, Option<u64>));
    let table: [Case; 5] = [
        // Killed before `best` was linked.
        (
            &[("epoch-002", 2), ("last", 2), ("best", 1)],
            "last",
            (2, Some(2)),
        ),
        (&[("epoch-002", 2), ("last", 3)], "last", (3, Some(2))),
        // The last one is gone.
        (&[("epoch-002", 2)], "epoch-002", (2, Some(2))),
        (&[("epoch-003", 3), ("best", 2)], "epoch-003", (3, Some(2))),
        // The best one is nowhere: none takes its name.
        (&[("epoch-003", 3)], "epoch-003", (3, None)),
    ];
    for (there, resumed, (last, best)) in table {
        let run = tempfile::tempdir().unwrap();
        let folder = files(run.path(), there);
        let path = |name: &str| folder.join(name).with_extension("safetensors");
        let epoch_of = |name: &str| {
            let checkpoint = Checkpoint::open(&path(name)).ok()?;
            Some(checkpoint.metadata().epoch)
        };
        let resumed = path(resumed);
        drop(open::<Checkpoints>(CHECKPOINTS, Some(run.path()), Some(&resumed)).unwrap());
        assert_eq!(
            (epoch_of("last"), epoch_of("best")),
            (Some(last), best),
            "{there:?}"
        );
    }

    // A damaged last one is kept, and another run's best one is found beside the resumed checkpoint.
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let theirs = files(first.path(), &[("best", 2), ("last", 3)]);
    let ours = files(second.path(), &[("epoch-003", 3)]);
    fs::write(ours.join("last.safetensors"), "damaged").unwrap();
    let resume = |path: &Path| {
        drop(open::<Checkpoints>(CHECKPOINTS, Some(second.path()), Some(path)).unwrap())
    };
    resume(&ours.join("epoch-003.safetensors"));
    let kept = fs::read(ours.join("abandoned.safetensors")).unwrap();
    assert_eq!(kept, b"damaged");
    assert!(Checkpoint::open(&ours.join("last.safetensors")).is_ok());
    resume(&theirs.join("last.safetensors"));
    let found = Checkpoint::open(&ours.join("best.safetensors")).unwrap();
    assert_eq!(found.metadata().epoch, 2);
}
