//! Runs that are interrupted or killed, and resumed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;

use rsflow_model::checkpoint::Checkpoint;
use serde_json::Value;

use super::{command, losses, run, signal, trainings, wait_for_lines, wait_until};
use crate::preprocess::without_sums;
use crate::workplace::{QUANTIZED, completed, workplace};

#[test]
fn an_interrupted_run_goes_on_bit_for_bit() {
    let folder = workplace();
    completed(folder.path(), &["--run-dir", "whole"]);
    let whole = folder.path().join("whole");
    let (whole, whole_epochs) = (losses(&whole), trainings(&whole));

    for name in ["INT", "TERM", "HUP", "QUIT"] {
        if name == "HUP" && ignores_hangups() {
            continue; // These tests run under `nohup`, and so does the program.
        }
        let mut child = command(folder.path(), &["--run-dir", name])
            .spawn()
            .unwrap();
        let out = folder.path().join(name);
        wait_for_lines(&out.join("metrics.jsonl"), 4);
        signal(&child, &format!("-{name}"));
        if name == "HUP" {
            // A closing terminal sends it twice.
            signal(&child, "-HUP");
        }
        let status = child.wait().unwrap();
        let mut stderr = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut stderr)
            .unwrap();
        assert_eq!(status.code(), Some(130), "{stderr}");
        assert!(
            stderr.contains(&format!(
                "to resume: rsflow run {name}/recipe.ron --run-dir {name} --resume"
            )),
            "{stderr}"
        );
        let last = Checkpoint::open(&out.join("checkpoints/last.safetensors")).unwrap();
        let steps = last.metadata().step;
        assert!((4..22).contains(&steps), "stopped after {steps} steps");
        assert_eq!(
            losses(&out).len() as u64,
            steps,
            "the current step was finished and logged"
        );

        if ["HUP", "QUIT"].contains(&name) {
            continue; // The same from here on.
        }
        // Batches of another size cannot begin in mid-epoch; the attempt leaves all as it is.
        let other_size = ["--accept-changes", "--set", "train_batches.size=6"];
        let resume = ["--run-dir", name, "--resume"];
        let refused = run(folder.path(), &[&resume[..], &other_size].concat());
        let stderr = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{stderr}");
        assert!(
            stderr.contains(
                "an epoch of 11 steps (84 images), this recipe has 14 steps (84 images) per epoch; revert the change"
            ),
            "{stderr}"
        );

        if name == "INT" {
            as_format_2(&out.join("checkpoints/last.safetensors"));
        }
        let workers = ["--set", "cpu_workers=4"];
        completed(folder.path(), &[&resume[..], &workers].concat());
        assert_eq!(losses(&out), whole);
        let epochs = trainings(&out);
        if name == "INT" {
            // An older program kept no sums: the mean is of the steps since.
            let resumed = usize::from(steps >= 11);
            let left = if steps == 11 { 0 } else { 11 - steps % 11 };
            assert!(left == 0 || epochs[resumed]["steps"] == left, "{epochs:?}");
        } else {
            assert_eq!(epochs, whole_epochs);
        }
    }
}

/// Whether this process was started to ignore SIGHUP, which what it starts does, too.
fn ignores_hangups() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & 1 != 0)
}

/// Rewrites what a checkpoint says of itself as older programs did: its place in an epoch of 11 steps
/// of 8 samples in steps.
fn as_format_2(path: &Path) {
    let file = fs::read(path).unwrap();
    let (length, rest) = file.split_at(8);
    let length = u64::from_le_bytes(length.try_into().unwrap()) as usize;
    let (header, tensors) = rest.split_at(length);
    let mut header: Value = serde_json::from_slice(header).unwrap();
    without_sums(&mut header);
    let entry = &mut header["__metadata__"]["rsflow"];
    let mut metadata: Value = serde_json::from_str(entry.as_str().unwrap()).unwrap();
    let fields = metadata.as_object_mut().unwrap();
    assert_eq!(fields.insert("format".to_owned(), 2.into()), Some(4.into()));
    fields.remove("samples_per_epoch").unwrap();
    fields.remove("training").unwrap();
    let samples = fields.remove("sample_in_epoch").unwrap().as_u64().unwrap();
    let steps = samples.div_ceil(8);
    assert_eq!(samples, (steps * 8).min(84));
    fields.insert("step_in_epoch".to_owned(), steps.into());
    *entry = metadata.to_string().into();
    let mut header = serde_json::to_vec(&header).unwrap();
    header.resize(header.len().next_multiple_of(8), b' ');
    let length = (header.len() as u64).to_le_bytes();
    fs::write(path, [&length[..], &header, tensors].concat()).unwrap();
}

#[test]
fn a_run_killed_while_it_writes_leaves_whole_checkpoints() {
    let folder = workplace();
    let save = [
        "--set",
        "checkpoints.every_steps=1",
        "--set",
        "trainer.epochs=50",
        "--run-dir",
    ];
    for lines in [5, 8, 12, 17] {
        let name = format!("killed{lines}");
        let mut child = command(folder.path(), &[&save[..], &[&name]].concat())
            .spawn()
            .unwrap();
        let out = folder.path().join(&name);
        wait_for_lines(&out.join("metrics.jsonl"), lines);
        // The log may be ahead: training does not wait for a checkpoint to be written.
        let checkpoints = out.join("checkpoints");
        wait_until(&checkpoints, || {
            let names = names(&checkpoints);
            let is_being_written = |name: &String| name.contains("partial");
            names.contains("last.safetensors") && names.iter().any(is_being_written)
        });
        signal(&child, "-KILL");
        child.wait().unwrap();
        let last = Checkpoint::open(&out.join("checkpoints/last.safetensors")).unwrap();
        let tensors = last.names();
        last.read(tensors.iter().map(String::as_str)).unwrap();
        let epochs = (last.metadata().epoch + 1).to_string();
        let set = format!("trainer.epochs={epochs}");
        completed(
            folder.path(),
            &[
                "--run-dir",
                &name,
                "--resume",
                "--accept-changes",
                "--set",
                &set,
            ],
        );
        let names = names(&checkpoints);
        let partial: Vec<_> = names
            .iter()
            .filter(|name| name.contains("partial"))
            .collect();
        assert!(partial.is_empty(), "left behind: {partial:?}");
    }
}

/// The names in a folder; none if there is no such folder.
fn names(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

#[test]
fn a_run_killed_between_checkpoints_goes_on_bit_for_bit() {
    let folder = workplace();
    let quantized = format!("trainer.network={QUANTIZED}");
    let adam = [
        "trainer.precision=Float32",
        "trainer.optimizer=AdamW(lr: 0.01)",
        "trainer.label_smoothing=0.1",
        "trainer.drop_path=0.2",
        "trainer.dropout=0.2",
        "trainer.mix=Mix(mixup: 0.2, cutmix: 1.0)",
    ];
    let lamb = [
        "trainer.precision=Float16",
        "trainer.optimizer=Lamb(lr: 0.01, weight_decay: 0.02)",
        "trainer.clip_gradients=1.0",
        "trainer.micro_batch=4",
        "trainer.criterion=BinaryCrossEntropy(sum_classes: true)",
        "trainer.warm_up_steps=3",
        "trainer.average=Average(decay: 0.9, warm_up: true, every_steps: 3)",
    ];
    for (kind, changes, all_lines) in [
        (
            "float32",
            &["trainer.precision=Float32"][..],
            &[5, 10, 14, 18][..],
        ),
        ("bfloat16", &["trainer.precision=BFloat16"], &[7, 15]),
        ("quantized", &[&quantized], &[7, 15]),
        // With its loss scale, which halves in the first steps.
        ("float16", &["trainer.precision=Float16"], &[9]),
        ("adam in float32", &adam, &[7]),
        ("lamb in float16", &lamb, &[15]),
    ] {
        let sets = changes.iter().flat_map(|change| ["--set", change]);
        let save: Vec<&str> = sets
            .chain(["--set", "checkpoints.every_steps=4", "--run-dir"])
            .collect();
        killed_and_resumed(folder.path(), &save, kind, all_lines);
        // It is evaluated as it was trained.
        let last = format!("{kind}-whole/checkpoints/last.safetensors");
        let last = Checkpoint::open(&folder.path().join(last)).unwrap();
        let hints = last.metadata().hints().unwrap();
        let float32 = ["float32", "quantized", "adam in float32"].contains(&kind);
        assert_eq!(hints.float32, float32, "{kind}");
    }
}

/// Runs as a whole; then kills a run after each of these numbers of lines in its log, and resumes it.
fn killed_and_resumed(folder: &Path, save: &[&str], kind: &str, all_lines: &[usize]) {
    let whole = format!("{kind}-whole");
    completed(folder, &[save, &[&whole]].concat());
    let whole = folder.join(whole);
    let final_of = |run: &Path| {
        let last = Checkpoint::open(&run.join("checkpoints/last.safetensors")).unwrap();
        let names = last.names();
        let tensors = last.read(names.iter().map(String::as_str)).unwrap();
        (names, tensors)
    };
    let (whole, epochs, checkpoint) = (losses(&whole), trainings(&whole), final_of(&whole));

    for &lines in all_lines {
        let name = format!("{kind}-killed{lines}");
        let mut child = command(folder, &[save, &[&name]].concat()).spawn().unwrap();
        let out = folder.join(&name);
        let log = out.join("metrics.jsonl");
        wait_for_lines(&log, lines);
        let last = out.join("checkpoints/last.safetensors");
        wait_until(&last, || last.exists());
        signal(&child, "-KILL");
        child.wait().unwrap();
        // Wherever it stopped: the log may be ahead of the checkpoint, its last line cut off.
        let ahead =
            "{\"kind\":\"step\",\"epoch\":1,\"step\":21,\"loss\":0.5}\n{\"kind\":\"step\",\"epo";
        let mut file = std::fs::File::options().append(true).open(&log).unwrap();
        file.write_all(ahead.as_bytes()).unwrap();
        drop(file);

        completed(folder, &[save, &[&name, "--resume"]].concat());
        assert_eq!(losses(&out), whole, "{kind}, killed after {lines} lines");
        assert_eq!(
            trainings(&out),
            epochs,
            "{kind}, killed after {lines} lines"
        );
        assert!(
            final_of(&out) == checkpoint,
            "{kind}, killed after {lines} lines"
        );
    }
}

/// What was frozen and is not any more starts as in a new run, with its own count of updates.
#[test]
fn parts_can_be_frozen_and_thawed_between_runs() {
    let folder = workplace();
    let folder = folder.path();
    let run = |epochs: &str, frozen: &str, others: &[&str]| {
        let epochs = format!("trainer.epochs={epochs}");
        let factors = format!("trainer.lr_factors={frozen}");
        let adam = "trainer.optimizer=AdamW(lr: 0.001)";
        let common = [
            "--run-dir",
            "out",
            "--set",
            &epochs,
            "--set",
            &factors,
            "--set",
            adam,
        ];
        completed(folder, &[&common[..], others].concat());
        let last = folder.join("out/checkpoints/last.safetensors");
        let last = Checkpoint::open(&last).unwrap();
        let weight = last.read(["layer1.0.conv1.weight"]).unwrap().remove(0);
        let weight = Vec::<f32>::try_from(weight.view(-1)).unwrap();
        (weight, last.metadata().optimizer_missed.clone())
    };
    let resume = ["--resume", "--accept-changes"];
    let (first, missed) = run("1", "[]", &[]);
    assert!(missed.is_empty());
    let (second, _) = run(
        "2",
        "[(\"layer1\", 0.0), (\"layer2.0.bn1.48\", 0.5)]",
        &resume,
    );
    assert_eq!(second, first);
    let (third, missed) = run("3", "[]", &resume);
    assert_ne!(third, second);
    assert_eq!(missed["layer1.0.conv1.weight"], 22);
    assert!(!missed.contains_key("layer2.0.conv1.weight"));
    // No step of Adam is much larger than the learning rate.
    let changes = third
        .iter()
        .zip(&second)
        .map(|(after, before)| (after - before).abs());
    let most = changes.fold(0.0, f32::max);
    assert!(most < 11.0 * 0.001 * 1.5, "{most}");
    let wrong = [
        "--set",
        "trainer.lr_factors=[(\"bn1.0\", 0.5)]",
        "--run-dir",
        "wrong",
    ];
    let output = super::run(folder, &wrong);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("no tensor of the network has a name"),
        "{stderr}"
    );
}

#[test]
fn a_resume_with_another_recipe_says_what_differs_and_writes_nothing() {
    let folder = workplace();
    let one_epoch = ["--run-dir", "out", "--set", "trainer.epochs=1"];
    completed(folder.path(), &one_epoch);
    let out = folder.path().join("out");
    let before = contents(&out);

    let resume = [
        "--run-dir",
        "out",
        "--resume",
        "--set",
        "trainer.optimizer.lr=0.02",
        "--set",
        "train_batches.size=6",
        "--set",
        "cpu_workers=1",
    ];
    let output = run(folder.path(), &resume);
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "error: the recipe is not the one that out/checkpoints/last.safetensors was made with\n  \
         train_batches.size: 6, was 8\n  \
         trainer.optimizer.lr: 0.02, was 0.05\n  \
         trainer.epochs: 2, was 1\n\
         help: revert the changes (recipe.ron in the run directory is the recipe as it ran); \
         `--accept-changes` resumes with them\n"
    );
    assert_eq!(output.status.code(), Some(2));
    assert!(contents(&out) == before, "something was written");

    // What nothing can go on with is refused all the same.
    let accepted = [&resume[..], &["--accept-changes"]].concat();
    for (set, words) in [
        ("trainer.network.width=16", "holds ResNet"),
        (
            "trainer.epochs=1",
            "has completed 1 epochs, and the recipe has `epochs: 1`",
        ),
    ] {
        let output = run(folder.path(), &[&accepted[..], &["--set", set]].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(words), "{words} is not in {stderr}");
        let recipe = |files: &BTreeMap<String, Vec<u8>>| files["recipe.ron"].clone();
        assert!(recipe(&contents(&out)) == recipe(&before), "{words}");
    }

    // With 14 steps an epoch, the second one begins at the middle of the schedule.
    let output = run(folder.path(), &accepted);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(
        stderr.contains("WARN the recipe was changed: train_batches.size: 6, was 8"),
        "{stderr}"
    );
    assert!(
        stderr.contains("the learning rate rises from 1.01e-3 to 1.00e-2"),
        "{stderr}"
    );
    let steps: Vec<u64> = losses(&out).into_iter().map(|(step, _)| step).collect();
    let expected: Vec<u64> = (1..=11).chain(15..=28).collect();
    assert_eq!(steps, expected);
    let log = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let first = log.lines().find(|line| line.contains("\"step\":15,"));
    assert!(first.unwrap().contains("\"learning_rate\":0.01,"), "{log}");

    let output = run(folder.path(), &["--run-dir", "new", "--accept-changes"]);
    assert_eq!(output.status.code(), Some(2), "only a resume has changes");
}

/// Every file of a run directory, by its path.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let (path, name) = {
            let entry = entry.unwrap();
            (entry.path(), entry.file_name().into_string().unwrap())
        };
        if path.is_dir() {
            let inner = contents(&path).into_iter();
            files.extend(inner.map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else {
            files.insert(name, std::fs::read(path).unwrap());
        }
    }
    files
}

/// As it is behind a pipe whose reader was ended first, by the same Ctrl-C.
#[test]
fn a_run_whose_screen_is_gone_can_be_interrupted() {
    let folder = workplace();
    let out = folder.path().join("out");
    let mut child = command(folder.path(), &["--run-dir", "out"])
        .spawn()
        .unwrap();
    drop(child.stderr.take());
    wait_for_lines(&out.join("metrics.jsonl"), 2);
    signal(&child, "-INT");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(out.join("checkpoints/last.safetensors").exists());
}
