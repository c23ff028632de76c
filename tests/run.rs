//! `rsflow run` as a user runs it: real JPEG files, real libtorch, the real command.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rsflow::catalogue::CATALOGUE;
use rsflow_graph::{
    Batch, Finished, Options, Plan, Recipe, RunContext, Running, Sink, Tap, Text, World,
};
use rsflow_model::checkpoint::Checkpoint;
use serde_json::Value;

use crate::workplace::{QUANTIZED, RECIPE, cascaded, completed, program, workplace};

pub fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = program(folder, &["run", "recipe.ron"]);
    command
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

pub fn run(folder: &Path, arguments: &[&str]) -> Output {
    command(folder, arguments).output().unwrap()
}

/// The step lines of a run: step and loss, exactly as written.
fn losses(run_dir: &Path) -> Vec<(u64, String)> {
    let text = std::fs::read_to_string(run_dir.join("metrics.jsonl")).unwrap();
    let lines = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines
        .filter(|line| line["kind"] == "step")
        .map(|line| (line["step"].as_u64().unwrap(), line["loss"].to_string()))
        .collect()
}

pub fn signal(child: &Child, signal: &str) {
    let status = Command::new("kill")
        .args([signal, &child.id().to_string()])
        .status();
    assert!(status.unwrap().success());
}

/// Waits until the file holds at least `lines` lines.
pub fn wait_for_lines(file: &Path, lines: usize) {
    let text = || std::fs::read_to_string(file).unwrap_or_default();
    wait_until(file, || text().lines().count() >= lines);
}

pub fn wait_until(file: &Path, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !done() {
        assert!(
            Instant::now() < deadline,
            "{} never came or grew",
            file.display()
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_run_ends_with_a_table_and_leaves_everything_it_promises() {
    let folder = workplace();
    let table = completed(folder.path(), &["--run-dir", "out"]);
    for words in [
        "resolution",
        "48",
        "32",
        "ensemble",
        "top-1 %",
        "MAdds",
        "params",
        "after 2 epochs (22 steps), 24 validation images",
    ] {
        assert!(table.contains(words), "{words} is not in\n{table}");
    }
    let out = folder.path().join("out");
    for file in [
        "recipe.ron",
        "run.log",
        "metrics.jsonl",
        "checkpoints/last.safetensors",
        "checkpoints/best.safetensors",
        "checkpoints/epoch-001.safetensors",
        "checkpoints/epoch-002.safetensors",
    ] {
        assert!(out.join(file).is_file(), "{file} is missing");
    }
    let losses = losses(&out);
    assert_eq!(losses.len(), 22);
    assert!(
        losses
            .iter()
            .all(|(_, loss)| loss.parse::<f64>().is_ok_and(f64::is_finite)),
        "{losses:?}"
    );
    let last = Checkpoint::open(&out.join("checkpoints/last.safetensors")).unwrap();
    assert_eq!((last.metadata().epoch, last.metadata().step), (2, 22));
    assert!(last.metadata().recipe.contains("ShapesFolder"));
}

#[test]
fn losses_do_not_depend_on_the_number_of_workers() {
    let folder = workplace();
    for workers in ["1", "4"] {
        let set = format!("cpu_workers={workers}");
        completed(folder.path(), &["--run-dir", workers, "--set", &set]);
    }
    assert_eq!(
        losses(&folder.path().join("1")),
        losses(&folder.path().join("4"))
    );
}

#[test]
fn batches_are_the_same_bytes_for_any_number_of_workers_and_after_a_resume() {
    let folder = workplace();
    for recipe in [RECIPE.to_owned(), cascaded()] {
        let batches = |workers, start| batches(folder.path(), &recipe, workers, start);
        let whole = batches(1, Default::default());
        assert_eq!(whole.len(), 2 * 11, "84 images in batches of 8, two epochs");
        assert_eq!(whole[10].0.len(), 4, "the last batch holds the rest");
        assert_ne!(whole[0], whole[11], "every epoch has its own order");
        assert_eq!(whole, batches(4, Default::default()));
        let start = rsflow_graph::Position {
            epoch: 1,
            sample: 3 * 8,
        };
        assert_eq!(whole[11 + 3..], batches(3, start));
    }
}

/// Labels and the pixels of each size, batch by batch, for two epochs.
pub type Batches = Vec<(Vec<i64>, Vec<Vec<u8>>)>;

fn batches(folder: &Path, recipe: &str, workers: usize, start: rsflow_graph::Position) -> Batches {
    let workers = format!("cpu_workers={workers}");
    stream(folder, recipe, &[&workers], start).1
}

/// What the training nodes of a recipe yield in two epochs, with the image set of `folder`.
pub fn stream(
    folder: &Path,
    recipe: &str,
    overrides: &[&str],
    start: rsflow_graph::Position,
) -> (Finished, Batches) {
    stream_of(World::default(), folder, recipe, overrides, start)
}

/// The same for one of several processes.
pub fn stream_of(
    world: World,
    folder: &Path,
    recipe: &str,
    overrides: &[&str],
    start: rsflow_graph::Position,
) -> (Finished, Batches) {
    #[derive(Clone, Default)]
    struct Collect(Arc<Mutex<Batches>>);
    impl Sink for Collect {
        type In = Batch;

        fn accept(&mut self, batch: Batch) -> anyhow::Result<()> {
            let pixels = (0..batch.resolutions().len()).map(|at| batch.pixels(at).to_vec());
            self.0
                .lock()
                .unwrap()
                .push((batch.labels().to_vec(), pixels.collect()));
            Ok(())
        }
    }
    let shapes = format!("{:?}", folder.join("shapes").display().to_string());
    let recipe = recipe.replace(
        r#"root: "shapes"#,
        &format!("root: {}", &shapes[..shapes.len() - 1]),
    );
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    let recipe = Recipe::parse(Text::new("recipe.ron", recipe), CATALOGUE, &overrides).unwrap();
    let plan = Plan::new(recipe).unwrap().until("train_batches").unwrap();
    let collect = Collect::default();
    let options = Options {
        run: RunContext {
            world,
            ..RunContext::default()
        },
        taps: vec![Tap {
            node: "train_batches".to_owned(),
            output: 0,
            sink: Box::new(collect.clone()),
            name: "test",
        }],
        epochs: Some(2),
        start,
        ..Options::default()
    };
    let finished = Running::start(&plan, options).unwrap().wait().unwrap();
    let batches = std::mem::take(&mut *collect.0.lock().unwrap());
    (finished, batches)
}

#[test]
fn an_interrupted_run_goes_on_bit_for_bit() {
    let folder = workplace();
    completed(folder.path(), &["--run-dir", "whole"]);
    let whole = losses(&folder.path().join("whole"));

    for name in ["INT", "TERM"] {
        let mut child = command(folder.path(), &["--run-dir", name])
            .spawn()
            .unwrap();
        let out = folder.path().join(name);
        wait_for_lines(&out.join("metrics.jsonl"), 4);
        signal(&child, &format!("-{name}"));
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
            "the step in hand was finished and logged"
        );

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
    }
}

/// Rewrites what a checkpoint says of itself as older programs did: its place in an epoch of 11 steps
/// of 8 samples in steps.
fn as_format_2(path: &Path) {
    let file = fs::read(path).unwrap();
    let (length, rest) = file.split_at(8);
    let length = u64::from_le_bytes(length.try_into().unwrap()) as usize;
    let (header, tensors) = rest.split_at(length);
    let mut header: Value = serde_json::from_slice(header).unwrap();
    let entry = &mut header["__metadata__"]["rsflow"];
    let mut metadata: Value = serde_json::from_str(entry.as_str().unwrap()).unwrap();
    let fields = metadata.as_object_mut().unwrap();
    assert_eq!(fields.insert("format".to_owned(), 2.into()), Some(3.into()));
    fields.remove("samples_per_epoch").unwrap();
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
    for (kind, change, all_lines) in [
        ("float32", "trainer.precision=Float32", &[5, 10, 14, 18][..]),
        ("bfloat16", "trainer.precision=BFloat16", &[7, 15]),
        ("quantized", &quantized, &[7, 15]),
        // With its loss scale, which halves in the first steps.
        ("float16", "trainer.precision=Float16", &[9]),
    ] {
        let save = [
            "--set",
            change,
            "--set",
            "checkpoints.every_steps=4",
            "--run-dir",
        ];
        killed_and_resumed(folder.path(), &save, kind, all_lines);
        // It is evaluated as it was trained.
        let last = format!("{kind}-whole/checkpoints/last.safetensors");
        let last = Checkpoint::open(&folder.path().join(last)).unwrap();
        let suits = last.metadata().suits().unwrap();
        let float32 = ["float32", "quantized"].contains(&kind);
        assert_eq!(suits.float32, float32, "{kind}");
    }
}

/// Runs as a whole; then kills a run after each of these numbers of lines in its log, and resumes it.
fn killed_and_resumed(folder: &Path, save: &[&str], kind: &str, all_lines: &[usize]) {
    let whole = format!("{kind}-whole");
    completed(folder, &[save, &[&whole]].concat());
    let whole = losses(&folder.join(whole));

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
    }
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

/// What is done to a workplace before the run.
type Spoil = fn(&Path);

#[test]
fn bad_data_gives_one_clear_error_and_no_half_written_run() {
    const IMAGE: &str = "shapes/train/discs_hatched/00001.jpg";
    let cases: &[(&str, Spoil, &[&str], &[&str])] = &[
        (
            "missing folder",
            |folder| {
                let shapes = RECIPE.lines().find(|line| line.contains("split: Train"));
                let recipe = RECIPE.replace(
                    shapes.unwrap(),
                    r#""train_files": ImageFolder(root: "nowhere"),"#,
                );
                std::fs::write(folder.join("recipe.ron"), recipe).unwrap();
            },
            &[],
            &[
                "train_files (ImageFolder): there is no folder nowhere",
                "--set NODE.root=FOLDER",
            ],
        ),
        (
            "empty class",
            |folder| {
                std::fs::remove_dir_all(folder.join("shapes/train/discs_hatched")).unwrap();
                std::fs::create_dir(folder.join("shapes/train/discs_hatched")).unwrap();
            },
            &[],
            &[
                "train_files (ShapesFolder): class folders without an image in shapes/train: `discs_hatched`",
            ],
        ),
        (
            "no images at all",
            |folder| {
                std::fs::remove_dir_all(folder.join("shapes/train")).unwrap();
                std::fs::create_dir(folder.join("shapes/train")).unwrap();
            },
            &[],
            &["train_files (ShapesFolder): shapes/train holds no class folders"],
        ),
        (
            "a class too few",
            |folder| std::fs::remove_dir_all(folder.join("shapes/train/discs_hatched")).unwrap(),
            &[],
            &["trainer (RsNet): `classes` is 8, but shapes/train has 7 classes"],
        ),
        (
            "other classes in validation",
            |folder| {
                let val = folder.join("shapes/val");
                std::fs::rename(val.join("discs_hatched"), val.join("disks_hatched")).unwrap();
            },
            &[],
            &["trainer (RsNet)", "`discs_hatched` is only in shapes/train"],
        ),
        (
            "truncated image",
            |folder| {
                let bytes = std::fs::read(folder.join(IMAGE)).unwrap();
                std::fs::write(folder.join(IMAGE), &bytes[..bytes.len() / 2]).unwrap();
            },
            &[],
            &[
                "train_images (DecodeJpeg): shapes/train/discs_hatched/00001.jpg: ",
                "byte",
            ],
        ),
        (
            "empty image",
            |folder| std::fs::write(folder.join(IMAGE), b"").unwrap(),
            &[],
            &["train_images (DecodeJpeg): shapes/train/discs_hatched/00001.jpg: the file is empty"],
        ),
        (
            "text called .jpg",
            |folder| std::fs::write(folder.join(IMAGE), b"<html>not found</html>").unwrap(),
            &[],
            &["train_images (DecodeJpeg): shapes/train/discs_hatched/00001.jpg: not JPEG, PNG"],
        ),
        (
            "a last batch of one image",
            |_| {},
            &["--set", "train_batches.size=83"],
            &[
                "trainer (RsNet): the last batch of an epoch is a single image",
                "drop_last",
            ],
        ),
        (
            "a run directory that is a file",
            |folder| std::fs::write(folder.join("out"), b"").unwrap(),
            &[],
            &["error: out is not a folder"],
        ),
        (
            "a run directory that cannot be made",
            |folder| std::fs::write(folder.join("out"), b"").unwrap(),
            &["--run-dir", "out/deeper"],
            &["error: cannot make the run directory out/deeper; --run-dir names another"],
        ),
        (
            "nothing to resume",
            |_| {},
            &["--resume"],
            &["there is no checkpoint out/checkpoints/last.safetensors to resume from"],
        ),
    ];
    for (case, spoil, arguments, expected) in cases {
        let folder = workplace();
        spoil(folder.path());
        let run_dir: &[&str] = if arguments.contains(&"--run-dir") {
            &[]
        } else {
            &["--run-dir", "out"]
        };
        let output = run(folder.path(), &[run_dir, arguments].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{case}: {stderr}");
        for words in *expected {
            assert!(
                stderr.contains(words),
                "{case}: `{words}` is not in\n{stderr}"
            );
        }
        assert_eq!(
            stderr.matches("error:").count(),
            1,
            "{case}: one error in\n{stderr}"
        );
        assert!(!stderr.contains("panicked"), "{case}: {stderr}");
        let last = folder.path().join("out/checkpoints/last.safetensors");
        if last.exists() {
            Checkpoint::open(&last).unwrap();
        }
    }
}

#[test]
fn a_loss_that_is_not_finite_ends_the_run_and_sound_checkpoints_stay() {
    // The first update ruins the weights: the second loss is the first to show it, the fifth the
    // first to be read. A learning rate beyond single precision leaves weights that no checkpoint
    // may hold.
    let cases: [(&[&str], &str, Option<u64>); 3] = [
        (
            &["trainer.optimizer.lr=1e30", "trainer.log_every=5"],
            "trainer (RsNet): the loss of step 2 (epoch 1 of 2) is NaN: the cross-entropy at \
             resolution 48 is NaN, the first term that is not finite. There is no earlier checkpoint",
            None,
        ),
        (
            &["trainer.optimizer.lr=1e30", "checkpoints.every_steps=1"],
            "The last checkpoint is from step 1 and sound",
            Some(1),
        ),
        (
            &["trainer.optimizer.lr=1e300", "checkpoints.every_steps=1"],
            "no checkpoint can be taken after step 1 (epoch 1 of 2). There is no earlier checkpoint",
            None,
        ),
    ];
    for (overrides, expected, step) in cases {
        let folder = workplace();
        let mut arguments = vec!["--run-dir", "out"];
        for set in overrides {
            arguments.extend(["--set", set]);
        }
        let output = run(folder.path(), &arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(expected), "{stderr}");
        let checkpoints = folder.path().join("out/checkpoints");
        let names: Vec<_> = std::fs::read_dir(&checkpoints).unwrap().collect();
        assert_eq!(names.len() as u64, step.unwrap_or(0), "{names:?}");
        if let Some(step) = step {
            let last = Checkpoint::open(&checkpoints.join("last.safetensors")).unwrap();
            assert_eq!(last.metadata().step, step);
            let names = last.names();
            for (name, tensor) in names
                .iter()
                .zip(last.read(names.iter().map(String::as_str)).unwrap())
            {
                let (least, greatest) = tensor.f_aminmax(None, false).unwrap();
                for value in [least, greatest] {
                    assert!(value.f_double_value(&[]).unwrap().is_finite(), "{name}");
                }
            }
        }
    }
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
