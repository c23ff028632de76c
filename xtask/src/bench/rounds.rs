//! Runs two programs in turn, several times, and compares their speed and memory.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};

/// What is known of one run of a program.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Measured {
    images_per_second: f64,
    /// The most memory that one of its processes ever had in RAM, in MiB.
    peak_memory: f64,
}

pub(super) const HEADER: &str =
    "measurement      images/s     theirs   ratio  peak MiB   theirs  by round";

/// What was measured of both programs, round by round.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Rounds {
    ours: Vec<Measured>,
    theirs: Vec<Measured>,
}

impl Rounds {
    /// The table's row, under [`HEADER`]. Speeds are medians, memory is the most of all rounds.
    pub(super) fn row(&self, name: &str) -> String {
        let speed = |of: &[Measured]| median(of.iter().map(|one| one.images_per_second));
        let memory = |of: &[Measured]| of.iter().map(|one| one.peak_memory).fold(0.0, f64::max);
        let (ours, peak) = (speed(&self.ours), memory(&self.ours));
        let (theirs, ratio, their_peak, rounds): (_, _, _, Vec<_>) = if self.theirs.is_empty() {
            let rounds = self.ours.iter();
            let rounds = rounds.map(|one| format!("{:.1}", one.images_per_second));
            let none = || "-".to_owned();
            (none(), none(), none(), rounds.collect())
        } else {
            let theirs = speed(&self.theirs);
            let rounds = self.ours.iter().zip(&self.theirs).map(|(ours, theirs)| {
                format!("{:.2}", ours.images_per_second / theirs.images_per_second)
            });
            (
                format!("{theirs:.1}"),
                format!("{:.2}", ours / theirs),
                format!("{:.0}", memory(&self.theirs)),
                rounds.collect(),
            )
        };
        format!(
            "{name:<14} {ours:>10.1} {theirs:>10} {ratio:>7} {peak:>9.0} {their_peak:>8}  {}",
            rounds.join(" ")
        )
    }
}

/// Measures ours and theirs in turn. Who goes first alternates: a machine that warms up or
/// throttles would otherwise favour the same side in every round.
pub(super) fn in_turn(
    ours: &mut dyn FnMut() -> Result<Measured>,
    mut theirs: Option<&mut dyn FnMut() -> Result<Measured>>,
    rounds: u16,
) -> Result<Rounds> {
    let mut measured = Rounds::default();
    for round in 0..rounds {
        let ours_first = round % 2 == 0;
        if ours_first {
            measured.ours.push(ours()?);
        }
        if let Some(theirs) = &mut theirs {
            measured.theirs.push(theirs()?);
        }
        if !ours_first {
            measured.ours.push(ours()?);
        }
    }
    Ok(measured)
}

/// Runs a command, takes its speed from what it prints and its memory from the system.
pub(super) fn measure(command: &mut Command) -> Result<Measured> {
    let shown = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .with_context(|| format!("cannot start {shown}"))?;
    let mut text = Vec::new();
    if let Some(stdout) = &mut child.stdout {
        let read = stdout.read_to_end(&mut text);
        read.with_context(|| format!("cannot read what {shown} prints"))?;
    }
    let text = String::from_utf8_lossy(&text);
    let (status, peak_memory) = wait(child).with_context(|| format!("cannot wait for {shown}"))?;
    if !status.success() {
        bail!("{shown} ended with {status}; it printed:\n{text}");
    }
    let speed = speed(&text);
    let images_per_second =
        speed.with_context(|| format!("{shown} printed no `N images/s`, but:\n{text}"))?;
    Ok(Measured {
        images_per_second,
        peak_memory,
    })
}

/// Waits for a process to end: how it ended, and the peak resident memory in MiB of itself or of
/// the processes that it waited for, whichever had more.
fn wait(child: Child) -> std::io::Result<(ExitStatus, f64)> {
    let pid = child.id() as libc::pid_t;
    let mut status = 0;
    // SAFETY: a struct of numbers, for which zeros are values.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both places outlive the call. The child is not waited for elsewhere: it is ours.
    while unsafe { libc::wait4(pid, &mut status, 0, &mut usage) } < 0 {
        let error = std::io::Error::last_os_error();
        if error.kind() != std::io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    // Linux counts in KiB.
    Ok((
        ExitStatus::from_raw(status),
        usage.ru_maxrss as f64 / 1024.0,
    ))
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
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
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
            assert_eq!(median(values.iter().copied()), expected, "{values:?}");
        }
    }

    #[test]
    fn the_two_take_turns_and_the_first_to_go_alternates() {
        let order = std::cell::RefCell::new(String::new());
        let measured = |name: char, images_per_second: f64, peak_memory: f64| {
            order.borrow_mut().push(name);
            Ok(Measured {
                images_per_second,
                peak_memory,
            })
        };
        let mut ours = || measured('o', 20.0, 300.0);
        let mut theirs = || measured('t', 10.0, 400.0);
        let alone = in_turn(&mut ours, None, 2).unwrap().row("alone");
        order.borrow_mut().clear();
        let both = in_turn(&mut ours, Some(&mut theirs), 3).unwrap();
        assert_eq!(*order.borrow(), "ottoot");
        let table = [HEADER, &alone, &both.row("mobilenet_v2")].join("\n");
        let expected = "
measurement      images/s     theirs   ratio  peak MiB   theirs  by round
alone                20.0          -       -       300        -  20.0 20.0
mobilenet_v2         20.0       10.0    2.00       300      400  2.00 2.00 2.00";
        assert_eq!(table, expected.trim_start());
    }

    #[test]
    fn memory_is_that_of_the_process_and_of_those_that_it_waits_for() {
        // `tail` keeps as much in memory as it is to print.
        let shell = "head -c 100000000 /dev/zero | tail -c 99999999 | wc -c; echo 5 images/s";
        let large = measure(Command::new("sh").args(["-c", shell])).unwrap();
        let small = measure(Command::new("sh").args(["-c", "echo 5 images/s"])).unwrap();
        assert_eq!(large.images_per_second, 5.0);
        assert!(large.peak_memory > 90.0, "{large:?}");
        // Until it runs its own program, a child counts the memory of the process that has started it: this
        // one, with all of its tests.
        let own = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let own = own.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let own = own.and_then(|own| own.split_whitespace().next()?.parse::<f64>().ok());
        let most = own.map_or(50.0, |kib| (kib / 1024.0 + 1.0).max(50.0));
        assert!(small.peak_memory < most, "{small:?}, {most}");
    }

    #[test]
    fn a_failing_command_is_an_error_with_its_output() {
        let error = measure(Command::new("sh").args(["-c", "echo oh; exit 3"]));
        let error = format!("{:#}", error.unwrap_err());
        assert!(error.contains("oh") && error.contains('3'), "{error}");
    }
}
