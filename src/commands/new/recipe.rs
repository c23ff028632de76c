//! The text of a new recipe, with comments that say what to change and why.

use std::path::{Path, PathBuf};

use rsflow_base::shown::Shown as _;

use super::choices::Choices;
use super::find::Found;

/// What the text needs beside the choices.
pub struct Subject<'a> {
    pub found: &'a Found,
    /// The name of the file in its own comments.
    pub file: &'a str,
    pub classes: usize,
    /// Of each class that many of 100 images are held out, where there are no validation images.
    pub validation_percent: f64,
    /// What the data set holds, a sentence each.
    pub facts: &'a [String],
    /// How many of 100 images are passed over if they are damaged; `None`: the first one ends the run.
    pub skip_percent: Option<usize>,
    /// Whether there are images that lie as their EXIF orientation says.
    pub turned: bool,
}

pub fn text(subject: &Subject, choices: &Choices) -> String {
    let mut text = head(subject);
    text.push_str(&lets(subject, choices));
    text.push_str("    nodes: {\n");
    text.push_str(&data(subject, choices));
    text.push_str(&trainer(subject.classes, choices));
    text.push_str(SINKS);
    text.push_str("    },\n)\n");
    text
}

fn head(subject: &Subject) -> String {
    let file = subject.file;
    let facts: Vec<String> = subject
        .facts
        .iter()
        .map(|fact| format!("// {}\n", fact.shown()))
        .collect();
    format!(
        "// Written by `rsflow new`. Change anything here; `rsflow nodes KIND` explains the fields of a node.\n\
         //\n\
         //     rsflow check {file}    finds mistakes, without touching data\n\
         //     rsflow run {file}      trains; --set trainer.epochs=3 changes a field for one run\n\
         //\n\
         {}\
         // Paths are absolute, so the recipe runs from any folder.\n\
         (\n    \
             // Another seed begins with other weights, and draws other crops and another order.\n    \
             seed: 0,\n",
        facts.concat()
    )
}

fn lets(subject: &Subject, choices: &Choices) -> String {
    let sizes: Vec<String> = choices.sizes.iter().map(u32::to_string).collect();
    let mut text = format!(
        "    let: {{\n        \
                 // Values that are used as $name below; --set sizes=[64,48] changes one.\n\n        \
                 // The resolutions, the largest first. Time goes with the sum of their squares.\n        \
                 \"sizes\": [{}],\n",
        sizes.join(", ")
    );
    if subject.found.validation.is_none() {
        text.push_str(&format!(
            "        // All images. There are none for validation, so of each class this share (in percent) is held\n        \
                     // out. Which ones, their names decide: new images move no others. Images that are nearly the\n        \
                     // same, such as frames of one video, need a folder of their own for validation.\n        \
                     \"data\": {},\n        \
                     \"held_out\": {},\n",
            path(subject.found.training.path()),
            subject.validation_percent
        ));
    }
    text.push_str("    },\n");
    text
}

/// A path as a recipe has it: absolute, so that the recipe runs from any folder.
fn path(path: &Path) -> String {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    // Without `.` and `/` at its end.
    let whole: PathBuf = whole.components().collect();
    format!("{:?}", whole.display().to_string())
}

fn data(subject: &Subject, choices: &Choices) -> String {
    let Found {
        training,
        validation,
        ..
    } = subject.found;
    const SHUFFLE: &str = "shuffle: true";
    let (train_files, val_files) = match validation {
        Some(validation) => (
            training.node_with(&path(training.path()), &[SHUFFLE]),
            validation.node_with(&path(validation.path()), &[]),
        ),
        None => {
            let [train, val] = ["Training", "Validation"]
                .map(|part| format!("part: {part}(validation_percent: $held_out)"));
            (
                training.node_with("$data", &[SHUFFLE, &train]),
                training.node_with("$data", &[&val]),
            )
        }
    };
    let Choices {
        crop,
        batch,
        drop_last,
        ..
    } = choices;
    let drop_last = if *drop_last { ", drop_last: true" } else { "" };
    let turn = if subject.turned {
        ", exif_orientation: true"
    } else {
        ""
    };
    let (skip, why_skip) = match subject.skip_percent {
        None => (String::new(), ""),
        Some(percent) => (
            format!(", on_error: Skip(budget: {})", percent as f64 / 100.0),
            "        // Up to this share of damaged images is replaced by others and listed in the run's skipped.jsonl.\n",
        ),
    };
    format!(
        r#"        // Training: a random crop of each image, resized to every size, each flipped or not on its own.
        // With more images smaller crops help (0.08), where details matter larger ones (0.5).
        "train_files":   {train_files},
{why_skip}        "train_images":  DecodeImage(input: "train_files"{turn}{skip}),
        "train_crops":   RandomResizedCrop(input: "train_images", scale: ({crop}, 1.0)),
        "train_sizes":   Resize(input: "train_crops", sizes: $sizes, flip: 0.5),
        // If memory does not suffice: half the size, and half the learning rate.
        "train_batches": Batch(input: "train_sizes", size: {batch}{drop_last}),

        // Validation: the centre of each image, at the same sizes.
        "val_files":     {val_files},
        "val_images":    DecodeImage(input: "val_files"{turn}{skip}),
        "val_sizes":     ResizeAndCenterCrop(input: "val_images", sizes: $sizes),
        "val_batches":   Batch(input: "val_sizes", size: 64),

"#
    )
}

fn trainer(classes: usize, choices: &Choices) -> String {
    let Choices {
        network,
        why_network,
        lr,
        weight_decay,
        warm_up_epochs,
        epochs,
        sizes,
        ..
    } = choices;
    let distill = match sizes.as_slice() {
        [_] => "None",
        _ => "EnsembleTopDown",
    };
    format!(
        r#"        "trainer": RsNet(
            train: "train_batches",
            validate: "val_batches",
            // {why}.
            // Others: ResNet(depth: 18), ResNet(depth: 50), MobileNetV2(width: 1.0); `rsflow summary` counts their work.
            network: {network},
            classes: {classes},
            // The sizes together teach each of them. `None` trains each by the labels alone.
            distill: {distill},
            // If the loss does not fall, a third of the rate; `rsflow sweep` tries several.
            optimizer: Sgd(lr: {lr}, momentum: 0.9, nesterov: true, weight_decay: {weight_decay}, weight_decay_on: Weights),
            schedule: Cosine,
            warm_up_epochs: {warm_up_epochs},
            // More are better up to a point: twice as many where training and validation are still alike.
            epochs: {epochs},
        ),

"#,
        why = sentence(why_network),
    )
}

/// With an upper-case letter at its start.
fn sentence(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(characters).collect()
}

const SINKS: &str = r#"        // What is kept: the last two epochs and the best one, figures as JSON lines, and for TensorBoard.
        "checkpoints": Checkpoints(input: "trainer.checkpoints", keep: 2),
        "log":         MetricsLog(input: "trainer.metrics"),
        "events":      TensorBoard(input: "trainer.metrics"),
"#;
