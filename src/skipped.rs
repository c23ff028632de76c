//! Reports of damaged images that a run skipped.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::Result;
use rsflow_base::input_file;
use rsflow_base::run_files::SKIPPED;
use rsflow_base::shown::Shown as _;
use rsflow_graph::Skipped;

use crate::files::replace;
use crate::progress::Screen;

/// Number of images printed; the file lists all.
const SHOWN: usize = 10;
/// More than the file of any run has, in bytes.
const LIMIT: u64 = 1 << 30;

/// Prints every skipped image.
pub fn tell(skipped: &[Skipped], screen: &Screen) {
    if !skipped.is_empty() {
        screen.line(&format!("{}:", summary(skipped)));
        list(skipped, screen);
    }
}

/// Prints the first skipped images and writes all of them to a file of the run directory, which keeps those
/// that were skipped before the run was resumed.
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
        tracing::warn!("cannot add them to {}: {error:#}", path.shown());
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
        1 => "1 damaged image was passed over".to_owned(),
        many => format!("{many} damaged images were passed over"),
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

/// What all processes of a run have skipped.
pub fn of_lines(lines: &[String]) -> Result<Vec<Skipped>> {
    let mut all = Vec::new();
    for line in lines {
        all.extend(serde_json::from_str::<Vec<Skipped>>(line)?);
    }
    Ok(merged(all))
}

/// Each image once, by node and path. Several processes may have skipped it, or one before a resume and after.
fn merged(all: Vec<Skipped>) -> Vec<Skipped> {
    let mut images = BTreeMap::<_, Skipped>::new();
    for skipped in all {
        let key = (skipped.node.clone(), skipped.item.clone());
        match images.get_mut(&key) {
            Some(again) => again.times += skipped.times,
            None => drop(images.insert(key, skipped)),
        }
    }
    images.into_values().collect()
}

/// Writes a JSON object for each image, in place of those that are there with theirs.
fn write(skipped: &[Skipped], path: &Path) -> Result<()> {
    let before = match input_file::read_to_string(path, LIMIT) {
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        text => text?,
    };
    let before = before.lines().map(serde_json::from_str);
    let mut all = before.collect::<Result<Vec<Skipped>, _>>()?;
    all.extend_from_slice(skipped);
    let mut text = String::new();
    for skipped in merged(all) {
        text += &format!("{}\n", serde_json::to_string(&skipped)?);
    }
    replace(path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skipped(node: &str, item: &str, times: u64) -> Skipped {
        Skipped {
            node: node.to_owned(),
            item: item.to_owned(),
            reason: "the file is empty".to_owned(),
            times,
        }
    }

    #[test]
    fn an_image_is_listed_once_over_all_resumes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(SKIPPED);
        write(
            &[skipped("train", "b.jpg", 2), skipped("val", "a.jpg", 1)],
            &path,
        )
        .unwrap();
        write(
            &[skipped("train", "b.jpg", 1), skipped("train", "a.jpg", 1)],
            &path,
        )
        .unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        let expected = [
            skipped("train", "a.jpg", 1),
            skipped("train", "b.jpg", 3),
            skipped("val", "a.jpg", 1),
        ];
        assert_eq!(lines.collect::<Vec<Skipped>>(), expected);
        assert!(text.starts_with(
            r#"{"node":"train","image":"a.jpg","reason":"the file is empty","times":1}"#
        ));

        // What is there is kept, whatever it is.
        std::fs::write(&path, "by hand").unwrap();
        assert!(write(&[skipped("train", "b.jpg", 2)], &path).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "by hand");
    }
}
