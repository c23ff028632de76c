//! What several of the tests need: a folder to run in, and the program.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// A small run: a few seconds, two resolutions, a last batch that is not full.
pub const RECIPE: &str = r#"(
    seed: 3,
    cpu_workers: 2,
    nodes: {
        "train_files":   ShapesFolder(root: "shapes", split: Train, shuffle: true, train_images: 84, val_images: 24),
        "train_images":  DecodeImage(input: "train_files"),
        "train_crops":   RandomResizedCrop(input: "train_images"),
        "train_sizes":   Resize(input: "train_crops", sizes: [48, 32], flip: 0.5),
        "train_batches": Batch(input: "train_sizes", size: 8),
        "val_files":     ShapesFolder(root: "shapes", split: Val, train_images: 84, val_images: 24),
        "val_images":    DecodeImage(input: "val_files"),
        "val_sizes":     ResizeAndCenterCrop(input: "val_images", sizes: [48, 32]),
        "val_batches":   Batch(input: "val_sizes", size: 10),
        "trainer": RsNet(
            train: "train_batches", validate: "val_batches",
            network: ResNet(depth: 18, width: 8), classes: 8,
            optimizer: Sgd(lr: 0.05), epochs: 2, log_every: 1, threads: 1,
        ),
        "checkpoints": Checkpoints(input: "trainer.checkpoints", keep: 2),
        "log":         MetricsLog(input: "trainer.metrics"),
        "events":      TensorBoard(input: "trainer.metrics"),
    },
)"#;

/// A network for it with few channels and few bits.
pub const QUANTIZED: &str =
    "QuantizedResNet(depth: 18, width: 8, mode: PreActivation, weight_bits: 2, activation_bits: 2)";

/// [`RECIPE`] with the nodes that make all resolutions of one picture.
pub fn cascaded() -> String {
    let mut recipe = RECIPE.to_owned();
    for (from, to) in [
        (
            r#"RandomResizedCrop(input: "train_images")"#,
            r#"CascadedRandomCrop(input: "train_images", sizes: [48, 32], flip: 0.5)"#,
        ),
        (
            r#"Resize(input: "train_crops", sizes: [48, 32], flip: 0.5)"#,
            r#"Lighting(input: "train_crops")"#,
        ),
        (
            r#"ResizeAndCenterCrop(input: "val_images", sizes: [48, 32])"#,
            r#"CascadedCenterCrop(input: "val_images", sizes: [48, 32])"#,
        ),
    ] {
        assert!(recipe.contains(from), "{from}");
        recipe = recipe.replace(from, to);
    }
    recipe
}

/// [`RECIPE`] with every augmentation of crops.
pub fn augmented() -> String {
    let crops = r#"RandomResizedCrop(input: "train_images"),"#;
    let sizes = r#"Resize(input: "train_crops", sizes: [48, 32], flip: 0.5)"#;
    let recipe = RECIPE.replace(
        crops,
        &format!(
            r#"{crops}
        "randomly":   RandAugment(input: "train_crops"),
        "trivially":  TrivialAugment(input: "randomly"),
        "jittered":   ColorJitter(input: "trivially", brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.1),
        "erased":     RandomErasing(input: "jittered", probability: 0.5, fill: Noise),
        "flipped":    RandomFlip(input: "erased", vertical: 0.5),"#
        ),
    );
    let filters = "filters: [Box, Bilinear, Bicubic, Lanczos]";
    let augmented = format!(r#"Resize(input: "flipped", sizes: [48, 32], flip: 0.5, {filters})"#);
    assert!(recipe.contains(sizes) && recipe.contains("flipped"));
    recipe.replace(sizes, &augmented)
}

/// A folder with the recipe and the image set in it.
pub fn workplace() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    furnish(folder.path());
    folder
}

/// The same for several tests, which only add files to it: the folder `name`, prepared once.
pub fn shared_workplace(name: &str, prepare: impl FnOnce(&Path)) -> PathBuf {
    let folder = kept().join(name);
    furnish(&folder);
    prepare(&folder);
    folder
}

/// A folder for what this process keeps until it ends. Nothing is dropped then, so what earlier
/// processes kept is removed here.
fn kept() -> &'static Path {
    static KEPT: OnceLock<PathBuf> = OnceLock::new();
    KEPT.get_or_init(|| {
        let all = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kept");
        std::fs::create_dir_all(&all).unwrap();
        let own = std::process::id().to_string();
        for entry in std::fs::read_dir(&all).unwrap() {
            let name = entry.unwrap().file_name();
            if *name == *own || !Path::new("/proc").join(&name).exists() {
                // Another process may be removing it, too.
                let _ = std::fs::remove_dir_all(all.join(name));
            }
        }
        let folder = all.join(own);
        std::fs::create_dir(&folder).unwrap();
        folder
    })
}

/// The recipe and the image set, which is made once.
fn furnish(folder: &Path) {
    static SHAPES: OnceLock<PathBuf> = OnceLock::new();
    let shapes = SHAPES.get_or_init(|| {
        let shapes = kept().join("shapes");
        let parameters = rsflow_pipeline::shapes::ShapesParameters {
            train_images: 84,
            val_images: 24,
            ..Default::default()
        };
        rsflow_pipeline::shapes::generate(&shapes, &parameters, &mut |_, _| {}).unwrap();
        shapes
    });
    copy(shapes, &folder.join("shapes"));
    std::fs::write(folder.join("recipe.ron"), RECIPE).unwrap();
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The program in that folder.
pub fn program(folder: &Path, arguments: &[&str]) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_rsflow"));
    program
        .args(arguments)
        .current_dir(folder)
        .env("XDG_CACHE_HOME", folder.join("cache"))
        // What is compared to the bit is computed on the CPU, wherever the tests run.
        .env("CUDA_VISIBLE_DEVICES", "")
        .stdin(std::process::Stdio::null());
    program
}

/// Runs the program in that folder.
pub fn rsflow(folder: &Path, arguments: &[&str]) -> Output {
    program(folder, arguments).output().unwrap()
}

/// Runs it, expects it to succeed, and gives its stdout.
pub fn done(folder: &Path, arguments: &[&str]) -> String {
    let output = rsflow(folder, arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs the folder's recipe, and expects it to succeed.
pub fn completed(folder: &Path, arguments: &[&str]) -> String {
    done(folder, &[&["run", "recipe.ron"], arguments].concat())
}
