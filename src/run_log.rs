//! The metrics of a run, read: `metrics.jsonl` as it is now, of every version of the format.
//!
//! A run may be writing it, or was killed while it did: a last line without its end is no damage. Other lines
//! that cannot be read are left out and counted. Lines of format 1 have no `format`, count epochs from 0 and
//! have no means over an epoch.

mod follow;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use rsflow_base::input_file;
use rsflow_base::run_files::METRICS;
use rsflow_base::shown::Shown as _;
use rsflow_model::sinks::metrics_line::FORMAT;
use serde::{Deserialize, Deserializer};

pub use follow::Follower;

/// More than any line of a log has.
const LONGEST_LINE: u64 = 1 << 20;
/// Upper bound of a log, in bytes: a thousand times the log of 120 epochs on ImageNet.
const MAX_LOG: u64 = 8 << 30;

/// Bytes that are read at once.
const BUFFER: usize = 1 << 17;

/// What a log says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunLog {
    /// Logged steps, in their order.
    pub steps: Vec<Step>,
    /// Epochs in their order; without rows where one was not validated.
    pub epochs: Vec<Epoch>,
    /// That at the end of the run; `None`: it has not ended.
    pub end: Option<Epoch>,
    /// Lines that could not be read.
    pub damaged: u64,
    /// Whether the last line lacks its end.
    pub is_cut: bool,
    /// Whether a newer version of the program has written it.
    pub is_newer: bool,
}

/// A logged step, or the means over the steps of an epoch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    /// Counted from 1.
    pub epoch: u64,
    /// Steps since the start of the run, this one included.
    pub step: u64,
    pub terms: Terms,
}

/// The terms of the loss, and what goes with them; `None` for what was not logged or is not finite.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Terms {
    pub loss: Option<f64>,
    /// By resolution, the largest first.
    pub cross_entropy: Vec<(u32, f64)>,
    pub ensemble_cross_entropy: Option<f64>,
    pub distillation: Option<f64>,
    pub learning_rate: Option<f64>,
    pub images_per_second: Option<f64>,
    /// Top-1 in training, at the largest size, in percent.
    pub top1: Option<f64>,
    /// In bytes, of the device.
    pub peak_gpu_bytes: Option<f64>,
    /// Whether `top1` is of mixed images.
    pub mixed_labels: bool,
}

/// An epoch, with its validation if there was one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Epoch {
    /// The number of epochs that are over.
    pub epoch: u64,
    pub step: u64,
    /// In the order of the recipe, then the ensemble. Those of the average of the weights, where there is one:
    /// `eval` and `predict` take it, too.
    pub rows: Vec<Row>,
    /// Whether the rows are the average's.
    pub is_average: bool,
    /// Those of the trained weights then; else empty.
    pub trained: Vec<Row>,
    /// Means over the epoch's steps.
    pub training: Option<Terms>,
    /// Validation images.
    pub images: u64,
    /// Of the epoch; at the end, of the run.
    pub seconds: f64,
}

/// One size, or the ensemble.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Row {
    /// `None` for the ensemble.
    pub resolution: Option<u32>,
    /// In percent; `None` if it is not a number.
    pub top1: Option<f64>,
    #[serde(default, deserialize_with = "number")]
    pub top5: Option<f64>,
    #[serde(default, deserialize_with = "number")]
    pub loss: Option<f64>,
    #[serde(default)]
    pub multiply_adds: u64,
    #[serde(default)]
    pub parameters: u64,
}

/// A line, with what any kind of line has.
#[derive(Deserialize)]
struct Line {
    #[serde(default = "one")]
    format: u64,
    kind: String,
    epoch: u64,
    step: u64,
    #[serde(default)]
    rows: Vec<Row>,
    #[serde(default)]
    average: Vec<Row>,
    #[serde(default)]
    training: Option<WrittenTerms>,
    #[serde(default)]
    images: u64,
    #[serde(default, deserialize_with = "number")]
    seconds: Option<f64>,
}

#[derive(Deserialize)]
struct WrittenTerms {
    #[serde(default, deserialize_with = "number")]
    loss: Option<f64>,
    #[serde(default)]
    cross_entropy: BTreeMap<u32, Option<f64>>,
    #[serde(default, deserialize_with = "number")]
    ensemble_cross_entropy: Option<f64>,
    #[serde(default, deserialize_with = "number")]
    distillation: Option<f64>,
    #[serde(default, deserialize_with = "number")]
    learning_rate: Option<f64>,
    #[serde(default, deserialize_with = "number")]
    images_per_second: Option<f64>,
    #[serde(default, deserialize_with = "number")]
    top1: Option<f64>,
    #[serde(default, deserialize_with = "number")]
    peak_gpu_bytes: Option<f64>,
    #[serde(default)]
    mixed_labels: bool,
}

fn one() -> u64 {
    1
}

/// `None` for what is no number, as `null` for one that is not finite.
fn number<'de, D: Deserializer<'de>>(from: D) -> Result<Option<f64>, D::Error> {
    Ok(serde_json::Value::deserialize(from)?.as_f64())
}

impl From<WrittenTerms> for Terms {
    fn from(written: WrittenTerms) -> Self {
        let by_size = written.cross_entropy.into_iter().rev();
        Terms {
            loss: written.loss,
            cross_entropy: by_size.filter_map(|(size, it)| Some((size, it?))).collect(),
            ensemble_cross_entropy: written.ensemble_cross_entropy,
            distillation: written.distillation,
            learning_rate: written.learning_rate,
            images_per_second: written.images_per_second,
            top1: written.top1,
            peak_gpu_bytes: written.peak_gpu_bytes,
            mixed_labels: written.mixed_labels,
        }
    }
}

/// Which steps are kept of a log. Nearly all of its lines are steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Steps {
    #[default]
    All,
    /// The last one, without its terms: these take the most time to read.
    Last,
}

/// A log while it is read.
#[derive(Default)]
struct Reading {
    log: RunLog,
    steps: Steps,
    /// By their number: a run that was resumed validates an epoch again.
    epochs: BTreeMap<u64, Epoch>,
}

impl Reading {
    /// Adds lines, of which the last may lack its end; it is added if it can be read, unless it `waits` for it.
    /// Returns how many bytes the whole lines have.
    fn add(&mut self, mut lines: impl BufRead, waits: bool) -> io::Result<u64> {
        let mut line = Vec::new();
        let mut whole = 0;
        self.log.is_cut = false;
        loop {
            line.clear();
            let count = (&mut lines)
                .take(LONGEST_LINE)
                .read_until(b'\n', &mut line)? as u64;
            if count == 0 {
                break;
            }
            let is_whole = line.last() == Some(&b'\n');
            if !is_whole && count == LONGEST_LINE {
                self.log.damaged += 1;
                whole += count + lines.skip_until(b'\n')? as u64;
                continue;
            }
            if !is_whole && waits {
                self.log.is_cut = true;
                break;
            }
            let is_read = line.trim_ascii().is_empty() || self.add_line(&line);
            match (is_read, is_whole) {
                (false, true) => self.log.damaged += 1,
                (false, false) => self.log.is_cut = true,
                _ => {}
            }
            whole += if is_whole { count } else { 0 };
        }
        Ok(whole)
    }

    /// Adds a line, unless it cannot be read.
    fn add_line(&mut self, text: &[u8]) -> bool {
        let Ok(line) = serde_json::from_slice::<Line>(text) else {
            return false;
        };
        let log = &mut self.log;
        log.is_newer |= line.format > FORMAT;
        let epoch = line.epoch.saturating_add(u64::from(line.format < 2));
        match line.kind.as_str() {
            "step" => {
                let terms = match self.steps {
                    Steps::All => serde_json::from_slice::<WrittenTerms>(text).map(Terms::from),
                    Steps::Last => Ok(Terms::default()),
                };
                let Ok(terms) = terms else {
                    return false;
                };
                if self.steps == Steps::Last {
                    log.steps.clear();
                }
                // A run that was resumed continues a log.
                log.end = None;
                log.steps.push(Step {
                    epoch,
                    step: line.step,
                    terms,
                });
            }
            "epoch" => {
                log.end = None;
                self.epochs.insert(epoch, line.validation(epoch));
            }
            "final" => log.end = Some(line.validation(epoch)),
            // Of a newer version.
            _ => {}
        }
        true
    }

    fn end(mut self) -> RunLog {
        self.log.epochs = self.epochs.into_values().collect();
        self.log
    }
}

impl RunLog {
    /// Reads the log of a run. One that is not there yet is empty.
    ///
    /// # Errors
    /// It cannot be read, or is larger than any log. The message names the path.
    pub fn read(run_dir: &Path) -> Result<Self> {
        Self::read_with(run_dir, Steps::All)
    }

    /// The same in a fraction of the time and memory: of the steps only the last one, without its terms, which are not
    /// looked at for damage either.
    ///
    /// # Errors
    /// As [`RunLog::read`].
    pub fn read_epochs(run_dir: &Path) -> Result<Self> {
        Self::read_with(run_dir, Steps::Last)
    }

    fn read_with(run_dir: &Path, steps: Steps) -> Result<Self> {
        let path = run_dir.join(METRICS);
        let read = || -> Result<Self> {
            let file = match input_file::open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Ok(RunLog::default());
                }
                file => file?,
            };
            let length = file.metadata()?.len();
            ensure!(
                length <= MAX_LOG,
                "it has {length} bytes, the limit is {MAX_LOG}"
            );
            // The run may be writing more.
            let lines = BufReader::with_capacity(BUFFER, file.take(length));
            Ok(Self::of(lines, steps)?)
        };
        read().with_context(|| format!("cannot read {}", path.shown()))
    }

    fn of(lines: impl BufRead, steps: Steps) -> io::Result<Self> {
        let mut reading = Reading {
            steps,
            ..Reading::default()
        };
        reading.add(lines, false)?;
        Ok(reading.end())
    }

    /// The newest validation.
    pub fn newest(&self) -> Option<&Epoch> {
        let validated = |epoch: &&Epoch| !epoch.rows.is_empty();
        let epochs = || self.epochs.iter().rev();
        self.end.as_ref().or_else(|| epochs().find(validated))
    }

    /// Validations, that at the end included, which may be the last epoch's.
    pub fn validations(&self) -> impl Iterator<Item = &Epoch> {
        let last = self.epochs.last().map(|epoch| epoch.epoch);
        let end = self.end.iter().filter(move |end| Some(end.epoch) != last);
        let all = self.epochs.iter().chain(end);
        all.filter(|epoch| !epoch.rows.is_empty())
    }

    /// The last epoch that is over, validated or not.
    pub fn last_epoch(&self) -> Option<&Epoch> {
        self.end.as_ref().or(self.epochs.last())
    }

    /// What could not be read, a sentence each.
    pub fn notes(&self) -> Vec<String> {
        let damaged = match self.damaged {
            0 => None,
            1 => Some(format!("{METRICS} has a damaged line, which was left out.")),
            count => Some(format!(
                "{METRICS} has {count} damaged lines, which were left out."
            )),
        };
        let newer = self.is_newer.then(|| {
            format!("{METRICS} was written by a newer version of rsflow; some of it may be missing here.")
        });
        damaged.into_iter().chain(newer).collect()
    }

    /// Steps of an epoch, as far as the log shows them.
    pub fn steps_per_epoch(&self) -> Option<f64> {
        let newest = self.last_epoch()?;
        let per_epoch = newest.step as f64 / newest.epoch as f64;
        (per_epoch.is_finite() && per_epoch > 0.0).then_some(per_epoch)
    }
}

impl Line {
    fn validation(self, epoch: u64) -> Epoch {
        let is_average = !self.average.is_empty();
        let (rows, trained) = match is_average {
            true => (self.average, self.rows),
            false => (self.rows, Vec::new()),
        };
        Epoch {
            epoch,
            step: self.step,
            rows,
            is_average,
            trained,
            training: self.training.map(Terms::from),
            images: self.images,
            seconds: self.seconds.unwrap_or(0.0),
        }
    }
}

/// The end of a run: top-1, by resolution and of the ensemble.
#[derive(Deserialize)]
pub struct Final {
    kind: String,
    rows: Vec<Row>,
    /// The same of the average of the weights.
    #[serde(default)]
    average: Vec<Row>,
}

impl Final {
    /// Reads the last line alone. `None`: the run has not ended.
    pub fn of(run_dir: &Path) -> Option<Self> {
        let last: Final = serde_json::from_slice(&last_line(run_dir)?).ok()?;
        (last.kind == "final").then_some(last)
    }

    /// Those of the average, where there is one: `eval` and `predict` take it, too.
    pub fn rows(&self) -> &[Row] {
        match self.average.is_empty() {
            true => &self.rows,
            false => &self.average,
        }
    }

    /// `48 80.0  32 75.0  ensemble 81.0`.
    pub fn line(&self) -> String {
        let each = self.rows().iter().map(|row| {
            let top1 = row.top1.map_or("-".to_owned(), |top1| format!("{top1:.1}"));
            format!("{} {top1}", called(row.resolution))
        });
        each.collect::<Vec<_>>().join("  ")
    }
}

/// The last line of a run's metrics, if it is whole.
pub fn last_line(run_dir: &Path) -> Option<Vec<u8>> {
    let mut file = File::open(run_dir.join(METRICS)).ok()?;
    let length = file.metadata().ok()?.len();
    let start = length.saturating_sub(LONGEST_LINE);
    file.seek(SeekFrom::Start(start)).ok()?;
    let mut end = Vec::new();
    file.take(LONGEST_LINE).read_to_end(&mut end).ok()?;
    let body = end.strip_suffix(b"\n")?;
    let line = body.rsplit(|byte| *byte == b'\n').next()?;
    Some(line.to_owned())
}

/// What a row is called: `64`, or `ensemble`.
pub fn called(resolution: Option<u32>) -> String {
    resolution.map_or("ensemble".to_owned(), |resolution| resolution.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> RunLog {
        RunLog::of(text.as_bytes(), Steps::All).unwrap()
    }

    const OLD: &str = r#"{"kind":"step","epoch":0,"step":10,"loss":3.5,"cross_entropy":{"32":1.25,"64":1.0},"ensemble_cross_entropy":0.5,"learning_rate":0.1,"images_per_second":90.5}
{"kind":"epoch","epoch":0,"step":20,"rows":[{"resolution":64,"top1":50.0,"top5":90.0,"loss":null,"multiply_adds":7,"parameters":3}],"images":24,"seconds":2.5}
"#;

    #[test]
    fn epochs_count_from_one_in_both_formats() {
        let new = OLD.replace(r#""epoch":0"#, r#""epoch":1"#);
        let new = new.replace(r#"{"kind""#, r#"{"format":2,"kind""#);
        let (old, new) = (read(OLD), read(&new));
        assert_eq!(old, new);
        assert_eq!((old.steps[0].epoch, old.epochs[0].epoch), (1, 1));
        let terms = &old.steps[0].terms;
        assert_eq!(terms.cross_entropy, [(64, 1.0), (32, 1.25)]);
        assert_eq!((terms.loss, terms.distillation), (Some(3.5), None));
        assert_eq!(old.epochs[0].rows[0].loss, None);
        assert_eq!(old.steps_per_epoch(), Some(20.0));

        let training = r#"{"format":2,"kind":"epoch","epoch":3,"step":60,"rows":[],"training":{"steps":20,"loss":2.5,"cross_entropy":{"64":0.5},"ensemble_cross_entropy":0.25,"distillation":null,"top1":61.5,"learning_rate":0.01,"images_per_second":88.0,"peak_gpu_bytes":1000}}"#;
        let log = read(&format!("{training}\n"));
        let means = log.epochs[0].training.as_ref().unwrap();
        assert_eq!((means.loss, means.top1), (Some(2.5), Some(61.5)));
        assert_eq!(
            (means.distillation, means.peak_gpu_bytes),
            (None, Some(1000.0))
        );
        assert_eq!(log.validations().count(), 0);
    }

    #[test]
    fn damage_is_left_out_and_counted() {
        let end = r#"{"kind":"final","epoch":0,"step":20,"rows":[],"images":24,"seconds":3.0}"#;
        let long = "x".repeat(3 << 20);
        let table: [(&str, u64, bool, bool); 9] = [
            ("", 0, false, false),
            ("\n\n", 0, false, false),
            (end, 0, false, true),
            (&format!("{end}\n"), 0, false, true),
            (&end[..30], 0, true, false),
            ("{}\n[1]\nnull\n\u{0}\u{1}\n", 4, false, false),
            (&format!("{long}\n{end}\n"), 1, false, true),
            (
                r#"{"kind":"step","epoch":"one","step":2}
"#,
                1,
                false,
                false,
            ),
            // A resumed run.
            (&format!("{end}\n{OLD}"), 0, false, false),
        ];
        for (more, damaged, is_cut, has_ended) in table {
            let log = read(&format!("{OLD}{more}"));
            let found = (log.damaged, log.is_cut, log.end.is_some());
            assert_eq!(found, (damaged, is_cut, has_ended), "{more:.80}");
            assert_eq!(log.epochs.len(), 1, "{more:.80}");
            // The same but for the steps.
            let text = format!("{OLD}{more}");
            let brief = RunLog::of(text.as_bytes(), Steps::Last).unwrap();
            let last = log.steps.last().map(|step| Step {
                terms: Terms::default(),
                ..step.clone()
            });
            let steps = Vec::from_iter(last);
            assert_eq!(brief, RunLog { steps, ..log }, "{more:.80}");
        }
        let newer = r#"{"format":9,"kind":"dream","epoch":1,"step":1}"#;
        assert!(read(&format!("{newer}\n")).is_newer);
    }

    #[test]
    fn a_run_has_ended_if_its_last_line_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let last = r#"{"kind":"final","epoch":1,"rows":[{"resolution":48,"top1":50.0},{"resolution":null,"top1":null}]}"#;
        let average = last.replace("]}", r#"],"average":[{"resolution":48,"top1":60.0}]}"#);
        let epoch = last.replace("final", "epoch");
        for (log, expected) in [
            (String::new(), None),
            (format!("{epoch}\n"), None),
            (format!("{epoch}\n{last}\n"), Some("48 50.0  ensemble -")),
            (format!("{average}\n"), Some("48 60.0")),
            // It was killed, or is resumed.
            (format!("{epoch}\n{last}"), None),
            (format!("{last}\n{epoch}\n"), None),
        ] {
            std::fs::write(folder.path().join(METRICS), &log).unwrap();
            let line = Final::of(folder.path()).map(|last| last.line());
            assert_eq!(line.as_deref(), expected, "{log}");
        }
    }
}
