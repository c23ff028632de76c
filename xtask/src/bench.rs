//! `cargo xtask bench`: our speed, alone or beside another program's on the same machine.

use std::ffi::OsStr;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::setup;
use crate::workspace::Workspace;

/// The training steps that are measured: a name, and the options of `model/benches/step.rs`.
const STEPS: &[(&str, &[&str])] = &[(
    "resnet18_step",
    &[
        "--depth",
        "18",
        "--batch",
        "32",
        "--classes",
        "10",
        "--sizes",
        "128",
        "112",
        "96",
        "80",
        "64",
    ],
)];

/// Set up, and measure: what the graph engine costs per item and hop, and the training step, which
/// can be put beside another program's.
///
/// The step is run several times and the median is shown. With `--against` the two programs take
/// turns, so that a machine which slows down slows both, and the table shows how many times faster
/// ours is: by the medians, and round by round.
#[derive(clap::Args)]
pub struct Arguments {
    /// A shell command to measure against; it must print a line with `N images/s`
    #[arg(long, value_name = "COMMAND")]
    against: Option<String>,

    /// How often each program is run
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,

    /// Measure only the engine, or only the steps
    #[arg(long, value_name = "PART", value_parser = ["engine", "steps"])]
    only: Option<String>,
}

/// Runs the subcommand.
pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    setup::ensure(workspace, setup::room_to_build(workspace, "release"))?;
    let wanted = |part: &str| arguments.only.as_deref().is_none_or(|only| only == part);
    if wanted("engine") {
        let output = bench(workspace, "rsflow-graph", "hop", &[] as &[&str])
            .stderr(Stdio::inherit())
            .output()
            .context("cannot start cargo")?;
        print!("{}", String::from_utf8_lossy(&output.stdout));
        if !output.status.success() {
            bail!("the measurement of the engine ended with {}", output.status);
        }
    }
    if wanted("steps") {
        println!(
            "{:<16} {:>12} {:>12} {:>7}  by round",
            "measurement", "images/s", "theirs", "ratio"
        );
        for (name, options) in STEPS {
            let mut ours =
                || images_per_second(&mut bench(workspace, "rsflow-model", "step", options));
            let mut theirs = arguments
                .against
                .as_deref()
                .map(|shell| move || images_per_second(Command::new("sh").args(["-c", shell])));
            let theirs = theirs
                .as_mut()
                .map(|theirs| theirs as &mut dyn FnMut() -> Result<f64>);
            let speeds = in_turn(&mut ours, theirs, arguments.rounds)?;
            println!("{}", speeds.row(name));
        }
    }
    Ok(())
}

/// A benchmark of a package, built in release mode first if that is needed.
fn bench(
    workspace: &Workspace,
    package: &str,
    name: &str,
    options: &[impl AsRef<OsStr>],
) -> Command {
    let mut cargo = workspace.cargo();
    cargo
        .args([
            "bench",
            "--quiet",
            "--package",
            package,
            "--bench",
            name,
            "--",
        ])
        .args(options);
    cargo
}

/// The speeds of both programs, round by round.
#[derive(Debug, Default, PartialEq)]
struct Speeds {
    ours: Vec<f64>,
    theirs: Vec<f64>,
}

impl Speeds {
    /// The table's row of these speeds.
    fn row(&self, name: &str) -> String {
        let ours = median(&self.ours);
        if self.theirs.is_empty() {
            let rounds: Vec<_> = self
                .ours
                .iter()
                .map(|speed| format!("{speed:.1}"))
                .collect();
            return format!(
                "{name:<16} {ours:>12.1} {:>12} {:>7}  {}",
                "-",
                "-",
                rounds.join(" ")
            );
        }
        let theirs = median(&self.theirs);
        let pairs = self.ours.iter().zip(&self.theirs);
        let rounds: Vec<_> = pairs
            .map(|(ours, theirs)| format!("{:.2}", ours / theirs))
            .collect();
        let ratio = ours / theirs;
        format!(
            "{name:<16} {ours:>12.1} {theirs:>12.1} {ratio:>7.2}  {}",
            rounds.join(" ")
        )
    }
}

/// Measures ours and theirs in turn. Who goes first alternates: a machine that warms up or
/// throttles would otherwise favour the same side in every round.
fn in_turn(
    ours: &mut dyn FnMut() -> Result<f64>,
    mut theirs: Option<&mut dyn FnMut() -> Result<f64>>,
    rounds: u16,
) -> Result<Speeds> {
    let mut speeds = Speeds::default();
    for round in 0..rounds {
        let ours_first = round % 2 == 0;
        if ours_first {
            speeds.ours.push(ours()?);
        }
        if let Some(theirs) = &mut theirs {
            speeds.theirs.push(theirs()?);
        }
        if !ours_first {
            speeds.ours.push(ours()?);
        }
    }
    Ok(speeds)
}

/// Runs a command and takes its speed from what it prints.
fn images_per_second(command: &mut Command) -> Result<f64> {
    let shown = format!("{command:?}");
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {shown}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("{shown} ended with {}; it printed:\n{text}", output.status);
    }
    speed(&text).with_context(|| format!("{shown} printed no `N images/s`, but:\n{text}"))
}

/// The number before the last ` images/s`: a program that reports as it goes sums up at the end.
fn speed(text: &str) -> Option<f64> {
    let before = &text[..text.rfind(" images/s")?];
    let digits = before
        .rfind(|c: char| !c.is_ascii_digit() && c != '.')
        .map_or(0, |at| {
            at + before[at..].chars().next().map_or(0, char::len_utf8)
        });
    before[digits..].parse().ok().filter(|speed| *speed > 0.0)
}

/// The middle value, or the mean of the two in the middle; `values` is not empty.
fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        (values[middle - 1] + values[middle]) / 2.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_speed_counts() {
        let cases = [
            ("812.5 images/s\n", Some(812.5)),
            (
                "epoch 1: 10 images/s\nall: 20.25 images/s (CPU)\n",
                Some(20.25),
            ),
            ("speed=7 images/s", Some(7.0)),
            ("≈7 images/s", Some(7.0)),
            ("0 images/s", None),
            ("no images/s", None),
            ("12 images", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(speed(text), expected, "{text:?}");
        }
    }

    #[test]
    fn medians() {
        let cases: [(&[f64], f64); 4] = [
            (&[3.0], 3.0),
            (&[3.0, 1.0], 2.0),
            (&[9.0, 1.0, 2.0], 2.0),
            (&[4.0, 1.0, 3.0, 2.0], 2.5),
        ];
        for (values, expected) in cases {
            assert_eq!(median(values), expected, "{values:?}");
        }
    }

    #[test]
    fn the_two_take_turns_and_the_first_to_go_alternates() {
        let order = std::cell::RefCell::new(String::new());
        let mut ours = || {
            order.borrow_mut().push('o');
            Ok(20.0)
        };
        let mut theirs = || {
            order.borrow_mut().push('t');
            Ok(10.0)
        };
        let speeds = in_turn(&mut ours, Some(&mut theirs), 3).unwrap();
        assert_eq!(*order.borrow(), "ottoot");
        assert!(
            speeds.row("x").ends_with("2.00  2.00 2.00 2.00"),
            "{}",
            speeds.row("x")
        );
    }

    #[test]
    fn a_failing_command_is_an_error_with_its_output() {
        let error = images_per_second(Command::new("sh").args(["-c", "echo oh; exit 3"]));
        let error = format!("{:#}", error.unwrap_err());
        assert!(error.contains("oh") && error.contains('3'), "{error}");
    }
}
