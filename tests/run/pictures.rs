//! The sample images in TensorBoard's events.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use rsflow_graph::Preprocess;
use rsflow_pipeline::preprocess;

use crate::workplace::{RECIPE, completed, workplace};

/// The PNG files in the events of a run, by the order of their file and place: the text before each, width, height and
/// pixels.
fn pictures(events: &Path) -> Vec<(String, usize, usize, Vec<u8>)> {
    let mut files: Vec<PathBuf> = fs::read_dir(events)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    let mut found = Vec::new();
    for file in files {
        let bytes = fs::read(file).unwrap();
        let start = b"\x89PNG\r\n\x1a\n";
        let mut at = 0;
        while let Some(next) = bytes[at..].windows(8).position(|part| part == start) {
            let before = String::from_utf8_lossy(&bytes[at..at + next]).into_owned();
            at += next;
            let mut reader = png::Decoder::new(Cursor::new(&bytes[at..]))
                .read_info()
                .unwrap();
            let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
            let info = reader.next_frame(&mut pixels).unwrap();
            found.push((before, info.width as usize, info.height as usize, pixels));
            at += 8;
        }
    }
    found
}

/// The first files of a folder of class folders, by their paths.
fn first_files(folder: &Path, count: usize) -> Vec<PathBuf> {
    let list = |folder: &Path| {
        fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
    };
    let mut files: Vec<PathBuf> = list(folder).flat_map(|class| list(&class)).collect();
    files.sort();
    files.truncate(count);
    files
}

#[test]
fn a_run_shows_its_first_images_once() {
    let folder = workplace();
    let root = folder.path();
    // The images as they are validated on, in their order: known without the run.
    let mut recipe = RECIPE.to_owned();
    for (from, to) in [
        ("split: Train, shuffle: true", "split: Train"),
        (
            r#"RandomResizedCrop(input: "train_images")"#,
            r#"ResizeAndCenterCrop(input: "train_images", sizes: [48, 32])"#,
        ),
        (
            r#""train_sizes":   Resize(input: "train_crops", sizes: [48, 32], flip: 0.5),"#,
            "",
        ),
        (
            r#"input: "train_sizes", size: 8"#,
            r#"input: "train_crops", size: 10"#,
        ),
    ] {
        assert!(recipe.contains(from), "{from}");
        recipe = recipe.replace(from, to);
    }
    fs::write(root.join("recipe.ron"), recipe).unwrap();
    completed(root, &["--run-dir", "run", "--set", "trainer.epochs=1"]);
    let events = root.join("run/tensorboard");
    let found = pictures(&events);
    assert_eq!(found.len(), 2);
    let files = first_files(&root.join("shapes/train"), 8);
    for ((before, width, height, pixels), side) in found.into_iter().zip([48, 32]) {
        assert!(before.contains(&format!("images/{side}")), "{before}");
        let cell = side + 2;
        assert_eq!((width, height), (4 * cell - 2, 2 * cell - 2));
        for (number, file) in files.iter().enumerate() {
            let bytes = fs::read(file).unwrap();
            let image = preprocess::pixels(&Preprocess::default(), &bytes, side as u32).unwrap();
            let (x, y) = (number % 4 * cell, number / 4 * cell);
            let rows = (y..y + side).flat_map(|y| {
                let start = (y * width + x) * 3;
                &pixels[start..start + side * 3]
            });
            assert!(rows.eq(&image), "{} at {side}", file.display());
        }
    }

    completed(root, &["--run-dir", "run", "--resume", "--accept-changes"]);
    assert_eq!(fs::read_dir(&events).unwrap().count(), 2);
    assert_eq!(pictures(&events).len(), 2, "those of the start alone");
    let log = fs::read_to_string(root.join("run/metrics.jsonl")).unwrap();
    for line in log.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let kind = line["kind"].as_str().unwrap();
        assert!(["step", "epoch", "final"].contains(&kind), "{kind}");
    }
}
