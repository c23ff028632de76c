//! `rsflow run` as a user runs it: real JPEG files, real libtorch, the real command.

mod bad_data;
mod ending;
mod lost;
mod pictures;
mod processes;
mod resume;
mod sampling;

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

use crate::workplace::{RECIPE, augmented, cascaded, completed, program, rsflow, workplace};

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

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The step lines of a run: step and loss, exactly as written.
pub fn losses(run_dir: &Path) -> Vec<(u64, String)> {
    let text = std::fs::read_to_string(run_dir.join("metrics.jsonl")).unwrap();
    let lines = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines
        .filter(|line| line["kind"] == "step")
        .map(|line| (line["step"].as_u64().unwrap(), line["loss"].to_string()))
        .collect()
}

/// The training of each epoch that was validated, as written, but for what is measured of time.
pub fn trainings(run_dir: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(run_dir.join("metrics.jsonl")).unwrap();
    let lines = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let epochs = lines.filter(|line| line["kind"] == "epoch");
    let trainings = epochs.map(|mut epoch| {
        if epoch.get("training").is_none() {
            return Value::Null;
        }
        let speed = epoch["training"]["images_per_second"].take();
        assert!(speed.as_f64() > Some(0.0), "{epoch}");
        epoch["training"].take()
    });
    trainings.collect()
}

/// Makes sure that each epoch's training is what its steps, all of which are logged, say.
pub fn assert_means(run_dir: &Path, steps_per_epoch: u64) {
    let text = std::fs::read_to_string(run_dir.join("metrics.jsonl")).unwrap();
    let lines = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let steps: Vec<Value> = lines.filter(|line| line["kind"] == "step").collect();
    let trainings = trainings(run_dir);
    assert_eq!(steps.len() as u64, trainings.len() as u64 * steps_per_epoch);
    for (training, steps) in trainings.iter().zip(steps.chunks(steps_per_epoch as usize)) {
        assert_eq!(training["steps"], steps_per_epoch);
        let terms = [
            "/loss",
            "/ensemble_cross_entropy",
            "/distillation",
            "/cross_entropy/48",
            "/cross_entropy/32",
        ];
        for term in terms {
            let values = steps.iter().filter_map(|step| step.pointer(term)?.as_f64());
            let values: Vec<f64> = values.collect();
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let found = training.pointer(term).and_then(Value::as_f64).unwrap();
            assert!((found - mean).abs() < 1e-9, "{term}: {found} {mean}");
        }
        let images = training["images"].as_u64().unwrap() as f64;
        let right = training["top1"].as_f64().unwrap() / 100.0 * images;
        assert!((right - right.round()).abs() < 1e-9, "{right} of {images}");
        assert!((0.0..=images).contains(&right), "{right} of {images}");
        assert_eq!(training["top1_resolution"], 48);
        let last = steps.last().unwrap();
        assert_eq!(training["learning_rate"], last["learning_rate"]);
        assert_eq!(training["peak_gpu_bytes"], Value::Null, "on the CPU");
    }
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
    assert_means(&out, 11);
    let images: Vec<Value> = trainings(&out)
        .iter_mut()
        .map(|t| t["images"].take())
        .collect();
    assert_eq!(images, [84, 84]);
    let last = Checkpoint::open(&out.join("checkpoints/last.safetensors")).unwrap();
    assert_eq!((last.metadata().epoch, last.metadata().step), (2, 22));
    assert_eq!(last.metadata().training, None, "no epoch is begun");
    assert!(last.metadata().recipe.contains("ShapesFolder"));
}

#[test]
fn validating_less_often_changes_nothing_else() {
    let folder = workplace();
    let folder = folder.path();
    let epochs = ["--set", "trainer.epochs=5"];
    completed(folder, &[&epochs[..], &["--run-dir", "always"]].concat());
    let seldom = ["--set", "trainer.validate_every=2", "--run-dir", "seldom"];
    let table = completed(folder, &[&epochs[..], &seldom].concat());
    assert!(table.contains("after 5 epochs (55 steps)"), "{table}");
    let [always, seldom] = ["always", "seldom"].map(|run| folder.join(run));
    assert_eq!(losses(&seldom), losses(&always));
    let metrics = std::fs::read_to_string(seldom.join("metrics.jsonl")).unwrap();
    let lines = metrics
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let epochs = lines.filter(|line| line["kind"] == "epoch").map(|line| {
        let steps = line["training"]["steps"].as_u64();
        let is_validated = !line["rows"].as_array().unwrap().is_empty();
        (line["epoch"].as_u64().unwrap(), steps, is_validated)
    });
    let expected = [false, true, false, true, true];
    let expected = expected.into_iter().zip(1..);
    let expected = expected.map(|(is_validated, epoch)| (epoch, Some(11), is_validated));
    assert!(epochs.eq(expected), "{metrics}");
    let last = "checkpoints/last.safetensors";
    let [always, seldom] = [always, seldom].map(|run| Checkpoint::open(&run.join(last)).unwrap());
    let names = always.names();
    let names = || names.iter().map(String::as_str);
    assert_eq!(
        always.read(names()).unwrap(),
        seldom.read(names()).unwrap(),
        "the last epoch's network"
    );
    let of_last = |checkpoint: &Checkpoint| checkpoint.metadata().validation.clone();
    assert_eq!(of_last(&always), of_last(&seldom));
}

/// In every epoch images have the size of it, in training alone.
#[test]
fn sizes_grow_over_the_epochs() {
    let folder = workplace();
    let folder = folder.path();
    let recipe = RECIPE.replace("[48, 32]", "[96, 64]");
    std::fs::write(folder.join("recipe.ron"), &recipe).unwrap();
    let growth = "train_sizes.growth=Growth(from: 0.5, until: 2)";
    let start = |epoch| rsflow_graph::Position { epoch, sample: 0 };
    let (_, batches) = stream(folder, &recipe, &[growth], start(0));
    let sides = |batch: &(Vec<i64>, Vec<Vec<u8>>)| {
        let (labels, pixels) = batch;
        let side = |pixels: &Vec<u8>| (pixels.len() / labels.len() / 3).isqrt();
        pixels.iter().map(side).collect::<Vec<_>>()
    };
    for (epoch, expected) in [(0, [48, 32]), (1, [72, 48])] {
        for batch in &batches[epoch * 11..][..11] {
            assert_eq!(sides(batch), expected, "epoch {epoch}");
        }
    }
    assert_eq!(
        stream(folder, &recipe, &[growth], start(1)).1,
        batches[11..]
    );

    let train = |run, epochs, others: &[&str]| {
        let common = ["--set", growth, "--run-dir", run, "--set", epochs];
        completed(folder, &[&common[..], others].concat())
    };
    // The third epoch has full sizes.
    let table = train("grown", "trainer.epochs=3", &[]);
    assert!(table.contains("after 3 epochs (33 steps)"), "{table}");
    train("two", "trainer.epochs=3", &["--processes", "2"]);
    train("short", "trainer.epochs=2", &[]);
    train(
        "short",
        "trainer.epochs=3",
        &["--resume", "--accept-changes"],
    );
    assert_eq!(losses(&folder.join("short")).len(), 33);

    let check = |arguments: &[&str], expected: &str| {
        let check = rsflow(folder, &[&["check"], arguments].concat());
        let stderr = String::from_utf8_lossy(&check.stderr).into_owned();
        assert!(
            !check.status.success() && stderr.contains(expected),
            "{stderr}"
        );
    };
    let small = "train_sizes.growth=Growth(from: 0.01, until: 2, multiple_of: 1)";
    check(
        &["recipe.ron", "--set", small],
        "in the first epoch a size is 1:",
    );
    let never = "train_sizes.growth=Growth(from: 0.5, until: 0)";
    check(&["recipe.ron", "--set", never], "must be after `start`");
    // Images to measure with do not grow.
    let both = recipe.replace(
        r#"ResizeAndCenterCrop(input: "val_images", sizes: [96, 64])"#,
        r#"Resize(input: "val_crops", sizes: [96, 64], growth: Growth(from: 0.5, until: 2)),
        "val_crops":     RandomResizedCrop(input: "val_images")"#,
    );
    std::fs::write(folder.join("both.ron"), both).unwrap();
    check(&["both.ron"], "do not have their full size in every epoch");
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
    for recipe in [RECIPE.to_owned(), cascaded(), augmented()] {
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
