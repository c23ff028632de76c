//! The program's log of a run, read: when it began, how long it took, and the lines of its processes.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use jiff::Timestamp;
use rsflow_base::input_file;

/// What is read of the beginning and of the end of `run.log`.
const HEAD: u64 = 1 << 16;
const TAIL: u64 = 1 << 20;

/// The beginning and the end of `run.log`.
#[derive(Default)]
pub struct ProgramLog {
    lines: Vec<String>,
}

impl ProgramLog {
    /// Empty if there is none that can be read.
    pub fn read(path: &Path) -> Self {
        let read = || -> std::io::Result<String> {
            let mut file = input_file::open(path)?;
            let length = file.metadata()?.len();
            let mut text = part(&mut file, 0, HEAD)?;
            if length > HEAD {
                let from = length.saturating_sub(TAIL).max(HEAD);
                text.push_str(&part(&mut file, from, TAIL)?);
            }
            Ok(text)
        };
        let text = read().unwrap_or_default();
        ProgramLog {
            lines: text.lines().map(str::to_owned).collect(),
        }
    }

    /// The time of its first line.
    pub fn started(&self) -> Option<Timestamp> {
        self.lines.iter().find_map(|line| timestamp(line))
    }

    /// How long the run took so far, without the pauses before it was resumed. `at_end` is what the run itself says
    /// at its end, which does not know of what was before a resume.
    pub fn seconds(&self, at_end: Option<f64>) -> Option<f64> {
        let at_end = at_end.filter(|seconds| *seconds > 0.0);
        let starts = self.lines.iter().filter(|line| is_start(line)).count();
        let seconds = || Some(self.at_work()).filter(|seconds| *seconds > 0.0);
        match starts {
            0 | 1 => at_end.or_else(seconds),
            _ => seconds().or(at_end),
        }
    }

    /// From line to line, in seconds, but not to one with which a process started.
    fn at_work(&self) -> f64 {
        let timed = |line: &'_ String| Some((timestamp(line)?, is_start(line)));
        let times: Vec<(Timestamp, bool)> = self.lines.iter().filter_map(timed).collect();
        let spans = times.windows(2).filter_map(|pair| match pair {
            [(from, _), (to, false)] => Some(to.duration_since(*from).as_secs_f64()),
            _ => None,
        });
        spans.sum()
    }

    /// The lines of each process of the run, the last one's first.
    pub fn sessions(&self) -> Vec<&[String]> {
        let mut rest = self.lines.as_slice();
        let mut sessions = Vec::new();
        while let Some(begin) = rest.iter().rposition(|line| is_start(line)) {
            let (before, session) = rest.split_at(begin);
            sessions.push(session);
            rest = before;
        }
        sessions
    }
}

/// Whether a process of the run says here that it starts.
fn is_start(line: &str) -> bool {
    line.contains(": started recipe=")
}

fn part(file: &mut File, from: u64, length: u64) -> std::io::Result<String> {
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(length).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The seconds since 1970 that a line begins with.
pub fn time(line: &str) -> Option<f64> {
    Some(timestamp(line)?.as_duration().as_secs_f64())
}

fn timestamp(line: &str) -> Option<Timestamp> {
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(seconds: &str, text: &str) -> String {
        format!("2026-01-02T03:{seconds}.000000Z  INFO rsflow::commands::run: {text}\n")
    }

    #[test]
    fn pauses_are_no_work() {
        let start = "started recipe=a.ron";
        let once = line("00:00", start) + &line("00:40", "saved");
        let twice = format!(
            "{once}{}a second line\n{}",
            line("10:00", start),
            line("10:05", "done")
        );
        for (text, at_end, expected) in [
            ("", None, None),
            ("", Some(3.0), Some(3.0)),
            (&once, None, Some(40.0)),
            (&once, Some(39.0), Some(39.0)),
            (&once, Some(0.0), Some(40.0)),
            (&twice, None, Some(45.0)),
            (&twice, Some(4.0), Some(45.0)),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("run.log");
            std::fs::write(&path, text).unwrap();
            let log = ProgramLog::read(&path);
            assert_eq!(log.seconds(at_end), expected, "{text} {at_end:?}");
        }
    }
}
