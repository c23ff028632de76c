//! The program's log of a run, read: when it began and how long it took, and the lines themselves.

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

    /// All of them, but the middle of a long log.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// The time of its first line.
    pub fn started(&self) -> Option<Timestamp> {
        self.times().next()
    }

    /// From its first line to its last one.
    pub fn seconds(&self) -> Option<f64> {
        let mut times = self.times();
        let first = times.next()?;
        let last = times.next_back()?;
        let seconds = last.duration_since(first).as_secs_f64();
        (seconds > 0.0).then_some(seconds)
    }

    fn times(&self) -> impl DoubleEndedIterator<Item = Timestamp> {
        self.lines.iter().filter_map(|line| timestamp(line))
    }
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
