//! Damaged, missing and unreadable images: what ends a run, what is passed over, what is said.

use std::collections::BTreeSet;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rsflow_graph::World;

use crate::run::{self, Batches, stream, stream_of};
use crate::workplace::{RECIPE, done, rsflow, workplace};

/// The recipe, but with the source that has a policy, and every file checked as a whole.
fn recipe() -> String {
    let mut recipe = RECIPE.to_owned();
    for (from, to) in [
        (
            r#"ShapesFolder(root: "shapes", split: Train, shuffle: true, train_images: 84, val_images: 24)"#,
            r#"ImageFolder(root: "shapes/train")"#,
        ),
        (
            r#"ShapesFolder(root: "shapes", split: Val, train_images: 84, val_images: 24)"#,
            r#"ImageFolder(root: "shapes/val")"#,
        ),
        (
            r#"DecodeImage(input: "train_files")"#,
            r#"DecodeImage(input: "train_files", verify: Full)"#,
        ),
    ] {
        assert!(recipe.contains(from), "{from}");
        recipe = recipe.replace(from, to);
    }
    recipe
}

/// Every file of the training set, as a run lists and names them.
fn images(folder: &Path) -> Vec<PathBuf> {
    let mut images = Vec::new();
    for class in std::fs::read_dir(folder.join("shapes/train")).unwrap() {
        let files = std::fs::read_dir(class.unwrap().path()).unwrap();
        images.extend(files.map(|file| file.unwrap().path()));
    }
    images.sort();
    let below = images.iter().map(|path| path.strip_prefix(folder).unwrap());
    below.map(Path::to_owned).collect()
}

/// Where a marker's segment begins.
fn marker(jpeg: &[u8], code: u8) -> usize {
    let mut at = 2;
    while jpeg[at + 1] != code {
        at += 2 + usize::from(u16::from_be_bytes([jpeg[at + 2], jpeg[at + 3]]));
    }
    at
}

/// Somewhere between the scan's header and its end, `tenths` of the way.
fn in_scan(jpeg: &[u8], tenths: usize) -> usize {
    let start = marker(jpeg, 0xda) + 20;
    start + (jpeg.len() - start) * tenths / 10
}

const SIZE: u8 = 0xc0;
const HUFFMAN: u8 = 0xc4;

/// Ways in which files are damaged.
const DAMAGES: &[fn(&mut Vec<u8>)] = &[
    |jpeg| jpeg.clear(),
    |jpeg| *jpeg = b"<!DOCTYPE html><title>404 Not Found</title>".to_vec(),
    |jpeg| jpeg.fill(0),
    |jpeg| jpeg[0] = 0,
    |jpeg| jpeg.truncate(3),
    |jpeg| jpeg.truncate(marker(jpeg, SIZE) + 6),
    |jpeg| jpeg.truncate(marker(jpeg, 0xda)),
    |jpeg| jpeg.truncate(in_scan(jpeg, 2)),
    |jpeg| jpeg.truncate(in_scan(jpeg, 5)),
    |jpeg| jpeg.truncate(in_scan(jpeg, 9)),
    // A width of 0, more pixels than are allowed, and twice the rows that are there.
    |jpeg| {
        let at = marker(jpeg, SIZE);
        jpeg[at + 7..at + 9].fill(0);
    },
    |jpeg| {
        let at = marker(jpeg, SIZE);
        jpeg[at + 5..at + 9].fill(0xff);
    },
    |jpeg| {
        let at = marker(jpeg, SIZE);
        let rows = u16::from_be_bytes([jpeg[at + 5], jpeg[at + 6]]);
        jpeg[at + 5..at + 7].copy_from_slice(&(2 * rows).to_be_bytes());
    },
    // A Huffman table with more codes than there can be; then codes that no table has.
    |jpeg| {
        let at = marker(jpeg, HUFFMAN);
        jpeg[at + 5..at + 21].fill(0xff);
    },
    |jpeg| {
        let at = in_scan(jpeg, 3);
        for pair in jpeg[at..at + 32].chunks_exact_mut(2) {
            pair.copy_from_slice(&[0xff, 0]);
        }
    },
    // Another image's beginning in the middle.
    |jpeg| {
        let (at, start) = (in_scan(jpeg, 4), jpeg[..64].to_vec());
        jpeg[at..at + 64].copy_from_slice(&start);
    },
];

/// Damages 50 of the 84 training images, each in its way; returns which.
fn damage(folder: &Path) -> Vec<String> {
    let chosen = images(folder).into_iter().skip(20).take(50);
    let damaged: Vec<PathBuf> = chosen.collect();
    for (number, path) in damaged.iter().enumerate() {
        let path = folder.join(path);
        let mut bytes = std::fs::read(&path).unwrap();
        DAMAGES[number % DAMAGES.len()](&mut bytes);
        std::fs::write(&path, bytes).unwrap();
    }
    // Not an image at all.
    let class = folder.join(damaged[0].parent().unwrap());
    std::fs::create_dir(class.join("folder.jpg")).unwrap();
    let names = damaged.iter().map(|path| path.display().to_string());
    names.collect()
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    std::fs::write(folder.join("recipe.ron"), recipe()).unwrap();
    run::command(folder, &[&["--run-dir", "out"], arguments].concat())
        .output()
        .unwrap()
}

/// The objects of `skipped.jsonl`.
fn skipped(folder: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(folder.join("out/skipped.jsonl")).unwrap();
    let lines = text.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().unwrap()
}

#[test]
fn fifty_damaged_images_end_a_run_or_are_named_and_replaced() {
    let folder = workplace();
    let folder = folder.path();
    let damaged = damage(folder);

    let output = run(folder, &[]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let first = format!(
        "train_images (DecodeImage): {}: the file is empty",
        damaged[0]
    );
    assert!(stderr.contains(&first), "{stderr}");
    let errors = stderr.lines().filter(|line| line.starts_with("error:"));
    assert_eq!(errors.count(), 1, "{stderr}");
    assert!(stderr.contains("help: `on_error: Skip"), "{stderr}");
    // The line that is printed to resume it, but with a budget that is enough.
    let resume = "--resume --accept-changes --set 'train_images.on_error=Skip(budget: 0.01)' \
                  --set 'val_images.on_error=Skip(budget: 0.01)'";
    assert!(stderr.contains(resume), "{stderr}");
    let resume = ["--resume", "--accept-changes", "--set"];
    let skip = "train_images.on_error=Skip(budget: 60)";
    let output = run(folder, &[&resume[..], &[skip]].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert_eq!(skipped(folder).len(), 50);

    std::fs::remove_dir_all(folder.join("out")).unwrap();
    let output = run(folder, &["--set", "train_images.on_error=Skip(budget: 60)"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    for words in [
        "50 damaged images were passed over, ",
        "out/skipped.jsonl",
        "and 40 more",
    ] {
        assert!(stderr.contains(words), "{words} is not in {stderr}");
    }
    let lines = skipped(folder);
    let named: Vec<&str> = lines
        .iter()
        .filter_map(|line| line["image"].as_str())
        .collect();
    assert_eq!(named, damaged);
    let log = std::fs::read_to_string(folder.join("out/run.log")).unwrap();
    for line in &lines {
        assert_eq!(line["node"], "train_images");
        assert!(line["times"].as_u64() >= Some(2), "two epochs: {line}");
        assert!(log.contains(line["image"].as_str().unwrap()), "{line}");
        assert_ne!(line["reason"], "", "{line}");
    }
    let metrics = std::fs::read_to_string(folder.join("out/metrics.jsonl")).unwrap();
    assert_eq!(
        metrics.matches(r#""kind":"step""#).count(),
        22,
        "all batches are there"
    );

    std::fs::remove_dir_all(folder.join("out")).unwrap();
    let output = run(
        folder,
        &["--set", "train_images.on_error=Skip(budget: 0.5)"],
    );
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    for words in [
        "more than 42 of 84 samples are damaged, the budget of `on_error`",
        "help: `on_error: Skip(budget: 1.0)`",
    ] {
        assert!(stderr.contains(words), "{stderr}");
    }
    assert_eq!(skipped(folder).len(), 42);
}

/// A damaged image for validation is in no figure, neither of the run nor of what measures it again.
#[test]
fn damaged_images_are_not_measured() {
    let folder = workplace();
    let folder = folder.path();
    let class = std::fs::read_dir(folder.join("shapes/val")).unwrap().next();
    let class = class.unwrap().unwrap();
    let image = std::fs::read_dir(class.path()).unwrap().next();
    let image = image.unwrap().unwrap();
    std::fs::write(image.path(), "").unwrap();
    let damaged = Path::new(&class.file_name()).join(image.file_name());
    let damaged = damaged.to_str().unwrap();

    let skip = "val_images.on_error=Skip(budget: 1)";
    let output = run(folder, &["--set", "trainer.epochs=1", "--set", skip]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("23 of 24 validation images"), "{said}");
    let metrics = std::fs::read_to_string(folder.join("out/metrics.jsonl")).unwrap();
    let last: serde_json::Value = serde_json::from_str(metrics.lines().last().unwrap()).unwrap();
    assert_eq!(last["images"], 23, "{last}");

    // As its training, by default.
    let eval = ["eval", "out", "--json", "-", "--predictions", "p.csv"];
    let table: serde_json::Value = serde_json::from_str(&done(folder, &eval)).unwrap();
    assert_eq!(table["images"], 23, "{table}");
    assert!(
        table["skipped"][0]["image"]
            .as_str()
            .unwrap()
            .ends_with(damaged)
    );
    for (row, of_run) in table["rows"]
        .as_array()
        .unwrap()
        .iter()
        .zip(last["rows"].as_array().unwrap())
    {
        assert_eq!(row["top1"], of_run["top1"]);
        let [loss, other] = [row, of_run].map(|row| row["loss"].as_f64().unwrap());
        assert!((loss - other).abs() < 1e-4, "{row} {of_run}");
    }
    let rows = std::fs::read_to_string(folder.join("p.csv")).unwrap();
    let mut names: Vec<&str> = rows
        .lines()
        .skip(1)
        .map(|row| row.split_once(',').unwrap().0)
        .collect();
    assert_eq!(
        (names.len(), names.contains(&damaged)),
        (23, false),
        "{rows}"
    );
    // Each is beside its class, and none is there twice.
    let classes = rows
        .lines()
        .skip(1)
        .map(|row| row.split(',').nth(1).unwrap());
    assert!(
        names
            .iter()
            .zip(classes)
            .all(|(name, class)| name.starts_with(&format!("{class}/"))),
        "{rows}"
    );
    names.dedup();
    assert_eq!(names.len(), 23);

    let strict = ["eval", "out", "--skip", "0"];
    let output = rsflow(folder, &strict);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("more than 0 of 24 samples are damaged"),
        "{said}"
    );
    let sound = [
        "run",
        "recipe.ron",
        "--run-dir",
        "other",
        "--set",
        "trainer.epochs=1",
        "--set",
    ];
    done(
        folder,
        &[
            &sound[..],
            &["val_files=ImageFolder(root: \"shapes/train\")"],
        ]
        .concat(),
    );
    let output = rsflow(folder, &["eval", "other", "--data", "shapes"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("--skip 0.01 passes over") && !said.contains("on_error"),
        "{said}"
    );
}

/// The budget is that of all processes, and one list names what each of them skipped.
#[test]
fn several_processes_skip_together() {
    let folder = workplace();
    let folder = folder.path();
    let damaged = damage(folder);
    for (budget, code) in [(50, 0), (42, 1)] {
        let skip = format!("train_images.on_error=Skip(budget: {budget})");
        let output = run(folder, &["--processes", "2", "--set", &skip]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        let words = match code {
            0 => "50 damaged images were passed over, ",
            _ => "more than 42 of 84 samples are damaged, the budget of `on_error`",
        };
        assert!(stderr.contains(words), "{stderr}");
        let lines = skipped(folder);
        let names = lines.iter().filter_map(|line| line["image"].as_str());
        let names: BTreeSet<&str> = names.collect();
        if code == 0 {
            assert_eq!(lines.len(), 50, "each is named once");
            assert!(names.into_iter().eq(damaged.iter().map(String::as_str)));
        }
        std::fs::remove_dir_all(folder.join("out")).unwrap();
    }
}

#[test]
fn damaged_images_move_no_other() {
    let (sound, spoilt) = (workplace(), workplace());
    damage(spoilt.path());
    let recipe = recipe();
    let skip = [
        "train_files.shuffle=true",
        "train_images.on_error=Skip(budget: 50)",
    ];
    let start = rsflow_graph::Position::default();
    let (_, clean) = stream(sound.path(), &recipe, &skip, start);
    let (finished, batches) = stream(spoilt.path(), &recipe, &skip, start);
    assert_eq!(finished.skipped.len(), 50);
    let (clean, images) = (slots(&clean), slots(&batches));
    assert_eq!(clean.len(), images.len(), "batches keep their size");
    let replaced = clean.iter().zip(&images).filter(|(a, b)| a != b).count();
    assert_eq!(replaced, 2 * 50);
    let again = stream(
        spoilt.path(),
        &recipe,
        &[&skip[..], &["cpu_workers=5"]].concat(),
        start,
    );
    assert!(
        again.1 == batches,
        "replacements do not depend on the workers"
    );
}

/// Label and pixels of every image.
fn slots(batches: &Batches) -> Vec<(i64, Vec<&[u8]>)> {
    let mut slots = Vec::new();
    for (labels, pixels) in batches {
        for (slot, &label) in labels.iter().enumerate() {
            let sizes = pixels.iter().map(|pixels| {
                let bytes = pixels.len() / labels.len();
                &pixels[slot * bytes..(slot + 1) * bytes]
            });
            slots.push((label, sizes.collect()));
        }
    }
    slots
}

#[test]
fn shards_of_the_images_have_the_crops_of_a_single_process() {
    let folder = workplace();
    let recipe = recipe();
    let start = rsflow_graph::Position::default();
    let (_, whole) = stream(folder.path(), &recipe, &["train_files.shuffle=true"], start);
    let whole = slots(&whole);
    for world in [2, 4, 5] {
        for rank in 0..world {
            let (size, process) = (world as u32, rank as u32);
            let as_process = World {
                rank: process,
                size,
                ..World::default()
            };
            let batch = format!("train_batches.size={}", 4 * world);
            for shuffle in ["true", "false"] {
                let shuffled = format!("train_files.shuffle={shuffle}");
                let (_, part) = stream_of(
                    as_process,
                    folder.path(),
                    &recipe,
                    &[&batch, &shuffled],
                    start,
                );
                let part = slots(&part);
                let (pads, length) = (shuffle == "true", 84_usize.div_ceil(world));
                let own = (84 - rank).div_ceil(world);
                assert_eq!(part.len(), 2 * if pads { length } else { own });
                if pads {
                    let expected: Vec<_> = whole[..84].iter().skip(rank).step_by(world).collect();
                    let found: Vec<_> = part[..own].iter().collect();
                    assert!(found == expected, "rank {rank} of {world}");
                }
            }
        }
    }
}

/// What is done to an image while a run is at work.
type Spoil = fn(&Path);

/// A file with a lease on it, as file servers take: whoever opens it waits for this process.
fn hang(image: &Path) {
    /// Of Linux, on every processor.
    const F_SETSIG: libc::c_int = 10;
    let leased = image.with_extension("leased");
    std::fs::copy(image, &leased).unwrap();
    let file = std::fs::File::open(&leased).unwrap();
    // SAFETY: it changes what the kernel knows of the open file, nothing in memory.
    #[allow(unsafe_code)]
    let taken = unsafe {
        // A signal without an effect; the default one would end the process.
        libc::fcntl(file.as_raw_fd(), F_SETSIG, libc::SIGWINCH) == 0
            && libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK) == 0
    };
    assert!(taken, "{}", std::io::Error::last_os_error());
    std::mem::forget(file);
    std::fs::rename(leased, image).unwrap();
}

#[test]
fn an_image_that_cannot_be_read_any_more_ends_a_run_or_is_replaced() {
    let cases: [(Spoil, &[&str]); 5] = [
        (
            |image| std::fs::remove_file(image).unwrap(),
            &[
                "cannot read the file: it existed when the run began",
                "No such file",
            ],
        ),
        (
            |image| {
                std::fs::remove_file(image).unwrap();
                std::fs::create_dir(image).unwrap();
            },
            &[
                "cannot read the file: remove it",
                "it is a folder, not a file",
            ],
        ),
        (
            |image| {
                std::fs::remove_file(image).unwrap();
                // Its first page is never there.
                std::os::unix::fs::symlink("/proc/self/mem", image).unwrap();
            },
            &["cannot read the file: check its disk", "Input/output error"],
        ),
        (
            |image| {
                let pipe = image.with_extension("pipe");
                let made = Command::new("mkfifo").arg(&pipe).status();
                assert!(made.unwrap().success());
                std::fs::rename(pipe, image).unwrap();
            },
            &[
                "cannot read the file: remove it",
                "it is a FIFO, not a file",
            ],
        ),
        (hang, &["read timed out after 0.5 s", "`read_timeout`"]),
    ];
    for (spoil, words) in cases {
        for policy in ["Fail", "Skip(budget: 1)"] {
            let folder = workplace();
            let folder = folder.path();
            std::fs::write(folder.join("recipe.ron"), recipe()).unwrap();
            let image = images(folder).swap_remove(30);
            let on_error = format!("train_files.on_error={policy}");
            let arguments = [
                "--run-dir",
                "out",
                "--set",
                &on_error,
                "--set",
                "train_files.read_timeout=0.5",
                "--set",
                "trainer.epochs=1000",
                "--set",
                "cpu_workers=1",
            ];
            let mut child = run::command(folder, &arguments).spawn().unwrap();
            run::wait_for_lines(&folder.join("out/metrics.jsonl"), 2);
            spoil(&folder.join(&image));
            let name = image.display().to_string();
            if policy != "Fail" {
                // It has met the image, and continues.
                let log = folder.join("out/run.log");
                run::wait_until(&log, || {
                    std::fs::read_to_string(&log).unwrap().contains(&name)
                });
                let steps = std::fs::read_to_string(folder.join("out/metrics.jsonl")).unwrap();
                let more = steps.lines().count() + 12;
                run::wait_for_lines(&folder.join("out/metrics.jsonl"), more);
                run::signal(&child, "-INT");
            }
            let stderr = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
            let code = child.wait().unwrap().code();
            let expected = if policy == "Fail" { 1 } else { 130 };
            assert_eq!(code, Some(expected), "{stderr}");
            for words in words.iter().copied().chain([&name[..], "train_files"]) {
                assert!(
                    stderr.contains(words),
                    "{policy}: {words} is not in {stderr}"
                );
            }
            // One interrupted in the middle of another such read waits for it for a while.
            if policy == "Fail" {
                assert!(!stderr.contains("detached"), "{stderr}");
            }
        }
    }
}

#[test]
fn a_damaged_image_of_the_validation_is_replaced_and_named() {
    let folder = workplace();
    let image = folder.path().join("shapes/val/discs_hatched/00001.jpg");
    assert!(image.exists());
    std::fs::write(&image, b"junk").unwrap();
    let output = run(
        folder.path(),
        &["--set", "val_images.on_error=Skip(budget: 1)"],
    );
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stdout.contains("24 validation images"), "{stdout}");
    assert!(
        stderr.contains("1 damaged image was passed over, "),
        "{stderr}"
    );
    assert!(
        stderr.contains("  shapes/val/discs_hatched/00001.jpg (val_images): not a JPEG, PNG"),
        "{stderr}"
    );
    let names: BTreeSet<String> = skipped(folder.path())
        .iter()
        .map(|line| line["image"].to_string())
        .collect();
    assert_eq!(names.len(), 1);
}
