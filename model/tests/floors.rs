//! The floors of this crate: what a file uses lies on its own floor or below. Read from the sources,
//! since modules of one crate may use each other as they like.

use std::fs;
use std::path::{Path, PathBuf};

/// From below; rooms of one floor do not use each other, except that sinks write what training reports.
const FLOORS: [(&str, &[&str]); 7] = [
    ("nn", &[]),
    ("dist", &["nn"]),
    ("checkpoint", &["nn"]),
    ("exchange", &["nn", "checkpoint"]),
    ("runtime", &["nn", "checkpoint"]),
    ("train", &["nn", "checkpoint", "dist"]),
    ("sinks", &["nn", "checkpoint", "train"]),
];

/// What only some rooms may use of other crates: the network at rest knows no graph.
const OUTSIDE: [(&str, &str); 1] = [("nn", "rsflow_graph")];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// The rooms that a source text names by `crate::ROOM`, alone or in braces.
fn rooms_used(text: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    for after in text.split("crate::").skip(1) {
        let names = match after.strip_prefix('{') {
            Some(list) => list.split('}').next().unwrap_or_default(),
            None => after,
        };
        for name in names.split(',') {
            let end = |c: char| !c.is_alphanumeric() && c != '_';
            let name = name.trim().split(end).next().unwrap_or_default();
            rooms.push(name.to_owned());
            if !after.starts_with('{') {
                break;
            }
        }
    }
    rooms.retain(|room| !room.is_empty());
    rooms
}

#[test]
fn every_room_uses_only_the_floors_below_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut faults = Vec::new();
    let mut rooms_seen = std::collections::BTreeSet::new();
    for file in files {
        let path = file.strip_prefix(&root).unwrap();
        let first = path.components().next().unwrap().as_os_str();
        let room = first.to_str().unwrap().trim_end_matches(".rs").to_owned();
        if room == "lib" {
            continue;
        }
        rooms_seen.insert(room.clone());
        let Some((_, below)) = FLOORS.iter().find(|(name, _)| *name == room) else {
            faults.push(format!("{}: `{room}` is on no floor", path.display()));
            continue;
        };
        let text = fs::read_to_string(&file).unwrap();
        for used in rooms_used(&text) {
            if used != room && !below.contains(&used.as_str()) {
                faults.push(format!("{} uses crate::{used}", path.display()));
            }
        }
        if text.contains("super::super") {
            faults.push(format!("{} reaches out by super::super", path.display()));
        }
        for (from, outside) in OUTSIDE {
            if room == from && text.contains(outside) {
                faults.push(format!("{} uses {outside}", path.display()));
            }
        }
    }
    assert_eq!(faults, Vec::<String>::new());
    let rooms: std::collections::BTreeSet<String> =
        FLOORS.iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(rooms_seen, rooms);
}

#[test]
fn rooms_are_found_however_they_are_named() {
    for (text, rooms) in [
        ("use crate::nn::compute;", vec!["nn"]),
        ("use crate::{nn, train::step};", vec!["nn", "train"]),
        (
            "let x = crate::sinks::y(crate::nn::z);",
            vec!["sinks", "nn"],
        ),
    ] {
        assert_eq!(rooms_used(text), rooms, "{text}");
    }
}
