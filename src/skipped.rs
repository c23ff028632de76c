//! Reports of damaged images that a run skipped.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::Result;
use rsflow_base::run_files::SKIPPED;
use rsflow_base::shown::Shown as _;
use rsflow_graph::Skipped;
use serde_json::{Value, json};

use crate::progress::Screen;

/// Number of images printed; the file lists all.
const SHOWN: usize = 10;

/// Prints every skipped image.
pub fn tell(skipped: &[Skipped], screen: &Screen) {
    if !skipped.is_empty() {
        screen.line(&format!("{}:", summary(skipped)));
        list(skipped, screen);
    }
}

/// Prints the first skipped images and appends all of them to a file of the run directory; a resumed
/// run adds to it.
pub fn tell_and_keep(skipped: &[Skipped], run_dir: &Path, screen: &Screen) {
    if skipped.is_empty() {
        return;
    }
    let path = run_dir.join(SKIPPED);
    screen.line(&format!(
        "{}; {} lists all:",
        summary(skipped),
        path.shown()
    ));
    list(&skipped[..skipped.len().min(SHOWN)], screen);
    if skipped.len() > SHOWN {
        screen.line(&format!("  and {} more", skipped.len() - SHOWN));
    }
    // Not worth failing a run that has ended.
    if let Err(error) = write(skipped, &path) {
        tracing::warn!("cannot write {}: {error}", path.shown());
    }
}

fn list(skipped: &[Skipped], screen: &Screen) {
    for Skipped {
        node, item, reason, ..
    } in skipped
    {
        screen.line(&format!("  {item} ({node}): {reason}"));
    }
}

fn summary(skipped: &[Skipped]) -> String {
    let times: u64 = skipped.iter().map(|skipped| skipped.times).sum();
    let images = match skipped.len() {
        1 => "1 damaged image was replaced by others".to_owned(),
        many => format!("{many} damaged images were replaced by others"),
    };
    let times = match times {
        1 => "once".to_owned(),
        many => format!("{many} times in all"),
    };
    format!("{images}, {times}")
}

/// What a process has skipped, for [`of_lines`].
pub fn to_line(skipped: &[Skipped]) -> Result<String> {
    Ok(serde_json::to_string(skipped)?)
}

/// What all processes of a run have skipped; an image may have been skipped by several.
pub fn of_lines(lines: &[String]) -> Result<Vec<Skipped>> {
    let mut all = BTreeMap::<_, Skipped>::new();
    for line in lines {
        for skipped in serde_json::from_str::<Vec<Skipped>>(line)? {
            let key = (skipped.node.clone(), skipped.item.clone());
            match all.get_mut(&key) {
                Some(again) => again.times += skipped.times,
                None => drop(all.insert(key, skipped)),
            }
        }
    }
    Ok(all.into_values().collect())
}

/// The JSON object of a skipped image.
pub fn as_json(skipped: &Skipped) -> Value {
    let Skipped {
        node,
        item,
        reason,
        times,
    } = skipped;
    json!({ "node": node, "image": item, "reason": reason, "times": times })
}

fn write(skipped: &[Skipped], path: &Path) -> io::Result<()> {
    let mut lines = String::new();
    for skipped in skipped {
        lines += &format!("{}\n", as_json(skipped));
    }
    let mut file = File::options().create(true).append(true).open(path)?;
    file.write_all(lines.as_bytes())
}
