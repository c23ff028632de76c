//! Writes `now.json` while a run continues, on a thread of its own. It reads the meters that every run has; the
//! trainer does nothing for it.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use rsflow_base::run_files::NOW;
use rsflow_base::shown::Shown as _;
use rsflow_base::whole_file;
use rsflow_graph::{Measured, Meters, Workers, WorksOn};

use super::window::Window;
use super::{FORMAT, Node, Now, Queue, State, Validation};
use crate::figures::{Figures, NodeFigures};
use crate::progress::{Latest, Progress};
use crate::verdict::verdict;

/// Time between two files.
const EVERY: Duration = Duration::from_secs(2);
/// A verdict is on at least this much training; of less, most is its start.
const LEAST_TO_JUDGE: Duration = Duration::from_secs(10);
/// From then on a verdict is on the time since the last one of these.
const JUDGED: Duration = Duration::from_secs(30);
/// Characters of an error that are kept.
const LONGEST_ERROR: usize = 2000;

/// What is read for the file.
pub struct Source {
    pub meters: Meters,
    pub workers: Workers,
    pub progress: Progress,
    pub processes: u32,
}

/// How a run ended.
struct End {
    state: State,
    error: Option<String>,
}

/// Writes the file until it is dropped.
pub struct Writer {
    ends: Option<Sender<End>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts to write. What an earlier run left is replaced.
    ///
    /// # Errors
    /// There is no thread for it.
    pub fn start(source: Source, run_dir: &Path) -> Result<Self> {
        let path = run_dir.join(NOW);
        // Only what a killed run left; if that fails, it is in nobody's way.
        let _ = whole_file::remove_unfinished(run_dir, |name| name == NOW);
        let (ends, end) = channel();
        let write = move || {
            let mut file = File::new(path);
            let earlier = std::fs::read(&file.path).ok();
            let mut taker = Taker::new(source);
            file.write(&taker.take(None));
            loop {
                match end.recv_timeout(EVERY) {
                    Err(RecvTimeoutError::Timeout) => file.write(&taker.take(None)),
                    Ok(end) => {
                        let last = taker.take(Some(end));
                        let did_nothing = last.state == State::Finished && last.step.is_none();
                        // A run that had ended and was resumed: what its last steps were stays.
                        return match earlier.filter(|_| did_nothing) {
                            Some(earlier) => file.replace(&earlier),
                            None => file.write(&last),
                        };
                    }
                    // It was dropped on the way out of an error.
                    Err(RecvTimeoutError::Disconnected) => {
                        let (state, error) = (State::Failed, None);
                        return file.write(&taker.take(Some(End { state, error })));
                    }
                }
            }
        };
        let thread = std::thread::Builder::new().name("now.json".to_owned());
        let thread = thread
            .spawn(write)
            .context("cannot start a thread for now.json")?;
        Ok(Writer {
            ends: Some(ends),
            thread: Some(thread),
        })
    }

    /// Writes the last one.
    pub fn end(self, state: State, error: Option<&anyhow::Error>) {
        let error = error.map(|error| {
            let text = format!("{error:#}");
            text.chars().take(LONGEST_ERROR).collect()
        });
        if let Some(ends) = &self.ends {
            // A thread that has ended has panicked, and said so.
            let _ = ends.send(End { state, error });
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.ends = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The file, about whose first failure a warning is given.
struct File {
    path: PathBuf,
    has_warned: bool,
}

impl File {
    fn new(path: PathBuf) -> Self {
        File {
            path,
            has_warned: false,
        }
    }

    fn write(&mut self, now: &Now) {
        let mut text = serde_json::to_vec(now).unwrap_or_default(); // It has no maps, whose keys could fail.
        text.push(b'\n');
        self.replace(&text);
    }

    fn replace(&mut self, text: &[u8]) {
        if let Err(error) = whole_file::write_unsynced(&self.path, text)
            && !self.has_warned
        {
            self.has_warned = true;
            tracing::warn!(
                "cannot write {}: {error}; the run continues, but `rsflow top` does not see it",
                self.path.shown()
            );
        }
    }
}

/// All meters at a moment.
#[derive(Clone)]
struct Reading {
    at: Instant,
    measured: Vec<Measured>,
    images: u64,
}

/// Makes the file's content from differences to earlier readings.
struct Taker {
    source: Source,
    about: Now,
    window: Window<Vec<Measured>>,
    /// When the newest step of the last time was known, and the images up to it.
    last_step: Option<(Instant, u64)>,
    images_per_second: Option<f64>,
    /// Where the period of the verdict begins, and where its next one will. Both are of the same training.
    judged: Option<(Reading, Reading)>,
}

impl Taker {
    fn new(source: Source) -> Self {
        let about = Now {
            format: FORMAT,
            started: Some(Timestamp::now()),
            host: host(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            processes: source.processes,
            workers: source.workers.count as u64,
            cores: source.workers.cores as u64,
            ..Now::default()
        };
        Taker {
            window: Window::new(Instant::now(), source.meters.read()),
            source,
            about,
            last_step: None,
            images_per_second: None,
            judged: None,
        }
    }

    fn take(&mut self, end: Option<End>) -> Now {
        let latest = self.source.progress.latest();
        let state = match (&end, &latest.validating) {
            (Some(end), _) => end.state,
            (None, Some(_)) => State::Validating,
            (None, None) => State::Running,
        };
        let images = latest.step.as_ref().map_or(0, |(.., images)| *images);
        let reading = Reading::of(&self.source.meters, images);
        let measured = reading.measured.clone();
        let from = self.window.add(reading.at, images, state, measured);
        let (since, before) = from.unwrap_or((reading.at, reading.measured.clone()));
        let seconds = reading.at.saturating_duration_since(since).as_secs_f64();
        let nodes = self.nodes(&before, &reading.measured, seconds);
        self.count_images(&latest, state);
        let verdict = self.judge(&reading, state);
        Now {
            written: Some(Timestamp::now()),
            state,
            error: end.and_then(|end| end.error),
            images_per_second: self.images_per_second,
            verdict,
            seconds,
            nodes,
            ..self.position(&latest, state)
        }
    }

    /// Where the run is.
    fn position(&self, latest: &Latest, state: State) -> Now {
        let step = latest.step.as_ref().map(|(step, ..)| step);
        let validating = latest.validating.as_ref();
        let finite = |value: Option<f64>| value.filter(|value| value.is_finite());
        let (epoch, epochs) = match (validating, step) {
            (Some(validating), _) => (Some(validating.epoch + 1), Some(validating.epochs)),
            (None, step) => (
                step.map(|step| step.epoch + 1),
                step.map(|step| step.epochs),
            ),
        };
        Now {
            epoch,
            epochs,
            step: step.map(|step| step.step),
            step_in_epoch: step.map(|step| step.step_in_epoch),
            steps_per_epoch: step.map(|step| step.steps_per_epoch),
            validation: validating.map(|validating| Validation {
                batches: validating.batches,
                of: validating.of,
            }),
            seconds_left: match state.has_ended() {
                true => None,
                false => latest.left.map(|left| left.as_secs_f64()),
            },
            loss: finite(latest.loss),
            learning_rate: finite(step.map(|step| step.learning_rate)),
            peak_gpu_bytes: latest.peak_gpu_bytes,
            ..self.about.clone()
        }
    }

    /// Over the steps that ended since the last time: two seconds are few steps, so it is from the end of one to
    /// that of another. Where none ended it stays.
    fn count_images(&mut self, latest: &Latest, state: State) {
        let newest = latest.step.as_ref().map(|(_, at, images)| (*at, *images));
        let (State::Running, Some((at, images))) = (state, newest) else {
            (self.last_step, self.images_per_second) = (None, None);
            return;
        };
        if let Some((before, images_before)) = self.last_step
            && at > before
        {
            let seconds = (at - before).as_secs_f64();
            self.images_per_second = Some((images - images_before) as f64 / seconds);
        }
        self.last_step = Some((at, images));
    }

    fn nodes(&self, before: &[Measured], now: &[Measured], seconds: f64) -> Vec<Node> {
        let workers = self.source.workers.count as f64;
        let nodes = before.iter().zip(now).map(|(before, after)| {
            let period = after.since(before);
            node(after.items, &period, seconds, workers)
        });
        nodes.collect()
    }

    /// On the last half minute or minute of training without a validation in it.
    fn judge(&mut self, reading: &Reading, state: State) -> Option<String> {
        if state != State::Running || reading.images == 0 {
            self.judged = None;
            return None;
        }
        let (from, next) = self
            .judged
            .get_or_insert_with(|| (reading.clone(), reading.clone()));
        let period = reading.since(from);
        if period < LEAST_TO_JUDGE {
            return None;
        }
        let seconds = period.as_secs_f64();
        let speed = (reading.images - from.images) as f64 / seconds;
        let workers = self.source.workers.clone();
        let figures = Figures::new(&from.measured, &reading.measured, seconds, speed, workers);
        if reading.since(next) >= JUDGED {
            *from = std::mem::replace(next, reading.clone());
        }
        Some(verdict(&figures))
    }
}

impl Reading {
    fn of(meters: &Meters, images: u64) -> Self {
        Reading {
            at: Instant::now(),
            measured: meters.read(),
            images,
        }
    }

    fn since(&self, earlier: &Reading) -> Duration {
        self.at.saturating_duration_since(earlier.at)
    }
}

/// `period`: what it did in so many seconds.
fn node(items: u64, period: &Measured, seconds: f64, workers: f64) -> Node {
    let figures = NodeFigures::new(period, seconds, workers);
    let queue = period.queue;
    Node {
        items,
        items_per_second: figures.items as f64 / seconds.max(1e-9),
        busy_share: figures.busy,
        wait_input_share: figures.wait_input,
        wait_output_share: figures.wait_output,
        queue: (queue.capacity > 0).then(|| Queue {
            waiting: (queue.samples > 0).then(|| queue.items as f64 / queue.samples as f64),
            bound: queue.capacity,
        }),
        name: figures.name,
        kind: figures.kind.to_owned(),
        works_on: match figures.works_on {
            WorksOn::Workers => "workers",
            WorksOn::Thread => "thread",
            WorksOn::Sink => "sink",
        }
        .to_owned(),
    }
}

/// The name of this machine.
pub fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_written_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = File::new(folder.path().join("gone").join(NOW));
        for _ in 0..2 {
            file.write(&Now::default());
            assert!(file.has_warned);
        }
        let mut file = File::new(folder.path().join(NOW));
        let now = Now {
            format: FORMAT,
            state: State::Validating,
            images_per_second: Some(2.5),
            ..Now::default()
        };
        file.write(&now);
        assert!(!file.has_warned);
        assert_eq!(Now::read(folder.path()).unwrap(), Some(now));
    }

    #[test]
    fn a_node_is_as_fast_and_as_busy_as_its_meters_say() {
        use rsflow_graph::{NodeId, Times};

        let measured = Measured {
            node: NodeId {
                name: "sizes".to_owned(),
                kind: "Resize",
            },
            works_on: WorksOn::Workers,
            items: 30,
            busy: Duration::from_secs(2),
            wait_input: Duration::from_secs(1),
            wait_output: Duration::ZERO,
            skipped: 0,
            queue: rsflow_graph::Queue {
                samples: 4,
                items: 10,
                capacity: 8,
            },
            bytes: 0,
            times: Times::default(),
        };
        let found = node(100, &measured, 2.0, 2.0);
        let expected = Node {
            name: "sizes".to_owned(),
            kind: "Resize".to_owned(),
            works_on: "workers".to_owned(),
            items: 100,
            items_per_second: 15.0,
            busy_share: 0.5,
            wait_input_share: 0.5,
            wait_output_share: 0.0,
            queue: Some(Queue {
                waiting: Some(2.5),
                bound: 8,
            }),
        };
        assert_eq!(found, expected);
        let mut idle = measured;
        idle.queue.samples = 0;
        let queue = node(100, &idle, 2.0, 2.0).queue.unwrap();
        assert_eq!(queue.waiting, None);
        idle.queue.capacity = 0;
        assert_eq!(node(100, &idle, 2.0, 2.0).queue, None);
    }
}
