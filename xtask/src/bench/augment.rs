//! What each augmentation costs on one core, beside torchvision and timm on the same pictures.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::bench;
use crate::workspace::Workspace;

/// What measures the others.
const PEERS: &str = "bench/peers/augment.py";

/// A line that a benchmark prints.
#[derive(Debug, Deserialize)]
struct Measurement {
    /// The set of pictures: their size.
    pictures: String,
    operation: String,
    /// The program.
    by: String,
    /// The mean of all pictures.
    microseconds: f64,
}

/// Measures all augmentations of the middle of photographs below `images`, and prints a table for each size.
/// With a `python` the others are measured too, in turn with ours.
pub(super) fn run(
    workspace: &Workspace,
    images: &str,
    python: Option<&Path>,
    rounds: u16,
) -> Result<()> {
    let pictures = workspace.target.join("augment-pictures");
    if pictures.exists() {
        std::fs::remove_dir_all(&pictures).context("cannot remove the pictures of another run")?;
    }
    let folder = pictures
        .to_str()
        .context("the target folder has a name that is not UTF-8")?;
    let options = ["--images", images, "--pictures", folder, "--json"];
    let mut measured = Vec::new();
    for _ in 0..rounds {
        let mut ours = bench(workspace, "rsflow-pipeline", "augment", &options);
        measured.extend(measurements(&mut ours)?);
        if let Some(python) = python {
            let mut theirs = Command::new(python);
            theirs.arg(workspace.root.join(PEERS)).arg(&pictures);
            measured.extend(measurements(&mut theirs)?);
        }
    }
    print!("{}", tables(&measured));
    Ok(())
}

/// Runs a benchmark that prints a JSON object on each line.
fn measurements(command: &mut Command) -> Result<Vec<Measurement>> {
    let shown = format!("{command:?}");
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {shown}"))?;
    if !output.status.success() {
        bail!("{shown} ended with {}", output.status);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().map(|line| {
        serde_json::from_str(line)
            .with_context(|| format!("{shown} printed no measurement: {line}"))
    });
    lines.collect()
}

/// A table for each set of pictures, with the least time of all rounds. The ratio is the time of the fastest
/// other program to ours.
fn tables(measured: &[Measurement]) -> String {
    let mut best: HashMap<[&str; 3], f64> = HashMap::new();
    for one in measured {
        let place = best
            .entry([&one.pictures, &one.operation, &one.by])
            .or_insert(f64::INFINITY);
        *place = place.min(one.microseconds);
    }
    // In the order in which they were measured: our program first.
    let programs = distinct(measured.iter().map(|one| one.by.as_str()));
    let mut text = String::new();
    for pictures in distinct(measured.iter().map(|one| one.pictures.as_str())) {
        text += &format!("\n{:<20}", format!("us, {pictures}"));
        for program in &programs {
            text += &format!(" {program:>20}");
        }
        text += "   ratio\n";
        for operation in distinct(measured.iter().map(|one| one.operation.as_str())) {
            let times = programs.iter();
            let times = times.map(|program| best.get(&[pictures, operation, program]).copied());
            let times: Vec<Option<f64>> = times.collect();
            text += &format!("{operation:<20}");
            for time in &times {
                text += &format!(" {:>20}", shown(*time, 1));
            }
            let ours = times.first().copied().flatten();
            let theirs = times.iter().skip(1).copied().flatten().reduce(f64::min);
            let ratio = ours.zip(theirs).map(|(ours, theirs)| theirs / ours);
            text += &format!(" {:>7}\n", shown(ratio, 2));
        }
    }
    text
}

fn shown(number: Option<f64>, decimals: usize) -> String {
    number.map_or_else(|| "-".to_owned(), |number| format!("{number:.decimals$}"))
}

fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut found = Vec::new();
    for name in names {
        if !found.contains(&name) {
            found.push(name);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(lines: &str) -> Result<Vec<Measurement>> {
        measurements(Command::new("printf").args(["%s", lines]))
    }

    #[test]
    fn a_table_compares_with_the_fastest_of_the_others() {
        let lines = r#"{"pictures": "9x8", "operation": "Invert", "by": "rsflow", "microseconds": 4.0}
{"pictures": "9x8", "operation": "Hue", "by": "rsflow", "microseconds": 30}
{"pictures": "9x8", "operation": "Invert", "by": "timm", "microseconds": 18.5}
{"pictures": "9x8", "operation": "Invert", "by": "torchvision", "microseconds": 9.0}
{"pictures": "9x8", "operation": "Invert", "by": "torchvision", "microseconds": 11.0}
{"pictures": "9x8", "operation": "Invert", "by": "rsflow", "microseconds": 3.0}
"#;
        let expected = "
us, 9x8                            rsflow                 timm          torchvision   ratio
Invert                                3.0                 18.5                  9.0    3.00
Hue                                  30.0                    -                    -       -
";
        assert_eq!(tables(&printed(lines).unwrap()), expected);
    }

    #[test]
    fn what_is_no_measurement_is_an_error() {
        let error = printed("warming up\n").unwrap_err().to_string();
        assert!(error.contains("no measurement: warming up"), "{error}");
        let error = measurements(&mut Command::new("false")).unwrap_err();
        assert!(error.to_string().contains("exit status: 1"), "{error}");
    }
}
