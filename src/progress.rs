//! Progress of a run: bars on a terminal, plain lines elsewhere.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use rsflow_base::shown::lines;
use rsflow_graph::{Measured, Meters, Payload as _, Plan, Sink, Tap, Workers};
use rsflow_model::train::metrics::{Metric, Step, Table, Validating};

use crate::epoch_line::epoch_line;
use crate::figures::Figures;
use crate::verdict::{is_starved, verdict};

/// Minimum time between two lines where there is no terminal.
const BETWEEN_LINES: Duration = Duration::from_secs(5);

/// Of a shorter epoch most is its start and its end: nothing is advised.
const LEAST_TO_JUDGE: Duration = Duration::from_secs(10);

/// Writes to stderr; lines go above the progress bars.
#[derive(Clone)]
pub struct Screen {
    bars: Option<MultiProgress>,
    silent: bool,
}

impl Screen {
    /// Bars are drawn only on a terminal.
    pub fn new(terminal: bool) -> Self {
        let bars = terminal
            .then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10)));
        Screen {
            bars,
            silent: false,
        }
    }

    /// Shows nothing: another process of the run does.
    pub fn silent() -> Self {
        Screen {
            bars: None,
            silent: true,
        }
    }

    /// Prints a line, control characters in it escaped.
    pub fn line(&self, line: &str) {
        let line = lines(line);
        // If stderr is closed there is nowhere to report it.
        let _ = self.clone().write_all(format!("{line}\n").as_bytes());
    }
}

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.silent {
            return Ok(bytes.len());
        }
        let print = || io::stderr().lock().write(bytes);
        match &self.bars {
            Some(bars) => bars.suspend(print),
            None => print(),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Shows the metrics of a run.
#[derive(Clone)]
pub struct Progress(Arc<Mutex<State>>);

struct State {
    screen: Screen,
    bar: Option<ProgressBar>,
    began: Instant,
    /// Training steps of this process, since `began`.
    steps: u64,
    /// Sum and number of the epoch's losses that were read.
    losses: (f64, u64),
    latest: Latest,
    last_line: Option<Instant>,
    epochs: u64,
    table: Option<Table>,
    watched: Option<Watched>,
}

/// Where a run is, and its newest figures.
#[derive(Clone, Debug, Default)]
pub struct Latest {
    /// The last training step of this process, with when it was known, and the images that were trained on up to
    /// it since this process began.
    pub step: Option<(Step, Instant, u64)>,
    /// The newest that was logged.
    pub loss: Option<f64>,
    /// The validation that it is in.
    pub validating: Option<Validating>,
    /// See [`Training::peak_gpu_bytes`]; from the end of the first epoch on.
    pub peak_gpu_bytes: Option<u64>,
    /// Time to the end of the training, at the pace so far.
    pub left: Option<Duration>,
}

/// The run's meters at the end of the last epoch.
struct Watched {
    meters: Meters,
    workers: Workers,
    at: Instant,
    measured: Vec<Measured>,
    /// Images trained on since then.
    images: usize,
}

impl Progress {
    /// Nothing is shown before the first step.
    pub fn new(screen: Screen) -> Self {
        Progress(Arc::new(Mutex::new(State {
            screen,
            bar: None,
            began: Instant::now(),
            steps: 0,
            losses: (0.0, 0),
            latest: Latest::default(),
            last_line: None,
            epochs: 0,
            table: None,
            watched: None,
        })))
    }

    /// Whether a training step was done.
    pub fn has_steps(&self) -> bool {
        self.state().steps > 0
    }

    /// Prints a verdict at the end of each epoch in which the trainer was starved, unless it was short.
    pub fn watch(&self, meters: Meters, workers: Workers) {
        self.state().watched = Some(Watched {
            measured: meters.read(),
            meters,
            workers,
            at: Instant::now(),
            images: 0,
        });
    }

    /// Taps that read every stream of metrics.
    pub fn taps(&self, plan: &Plan) -> Vec<Tap> {
        let mut taps = Vec::new();
        for planned in plan.nodes() {
            for (output, port) in planned.kind.outputs.iter().enumerate() {
                if port.carries == Metric::NAME {
                    taps.push(Tap {
                        node: planned.id.name.clone(),
                        output,
                        sink: Box::new(Follow(self.clone())),
                        name: "progress",
                    });
                }
            }
        }
        taps
    }

    pub fn latest(&self) -> Latest {
        self.state().latest.clone()
    }

    /// Removes the bars.
    pub fn end(&self) {
        if let Some(bar) = self.state().bar.take() {
            bar.finish_and_clear();
        }
    }

    /// The table of the last validation.
    pub fn last_table(&self) -> Option<Table> {
        self.state().table.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Follow(Progress);

impl Sink for Follow {
    type In = Metric;

    fn accept(&mut self, metric: Metric) -> Result<()> {
        let mut state = self.0.state();
        match metric {
            Metric::Samples(_) => {}
            Metric::Step(step) => state.step(&step),
            Metric::Validating(validating) => state.validating(&validating),
            Metric::Epoch(table) => state.epoch(table),
            Metric::Final(table) => {
                state.latest.validating = None;
                state.table = Some(table);
            }
        }
        Ok(())
    }

    fn queue(&self) -> usize {
        1024
    }
}

impl State {
    fn step(&mut self, step: &Step) {
        self.steps += 1;
        if let Some(watched) = &mut self.watched {
            watched.images += step.images;
        }
        self.epochs = step.epochs;
        if let Some(losses) = &step.losses {
            self.losses.0 += losses.loss;
            self.losses.1 += 1;
            self.latest.loss = Some(losses.loss);
        }
        let left = self.left(step);
        let images = self.latest.step.as_ref().map_or(0, |(.., images)| *images);
        let images = images + step.images as u64;
        self.latest.step = Some((step.clone(), Instant::now(), images));
        self.latest.left = Some(left);
        self.latest.validating = None;
        let loss = match self.losses {
            (_, 0) => String::new(),
            (sum, count) => format!("mean loss {:.3}  ", sum / count as f64),
        };
        let words = format!(
            "{:.0} images/s  {loss}{} left",
            step.images_per_second,
            duration(left),
        );
        let title = format!("epoch {}/{}", step.epoch + 1, step.epochs);
        if self.screen.bars.is_some() {
            self.show(&title, step.step_in_epoch, step.steps_per_epoch, words);
        } else if step.losses.is_some() && self.line_is_due() {
            self.screen.line(&format!(
                "{title}  step {}/{}  {words}",
                step.step_in_epoch, step.steps_per_epoch
            ));
        }
    }

    /// Time to the end of the training at the pace so far, validations included.
    fn left(&self, step: &Step) -> Duration {
        let done = step.epoch * step.steps_per_epoch + step.step_in_epoch;
        let all = step.epochs.saturating_mul(step.steps_per_epoch);
        let left = all.saturating_sub(done) as f64;
        let seconds = self.began.elapsed().as_secs_f64() / self.steps as f64 * left;
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }

    fn validating(&mut self, validating: &Validating) {
        self.latest.validating = Some(validating.clone());
        // A run may be resumed right before a validation: then no step came before it.
        self.epochs = validating.epochs;
        let (title, words) = match self.epochs {
            0 => ("evaluation".to_owned(), ""),
            epochs => (
                format!("epoch {}/{epochs}", validating.epoch + 1),
                "validating",
            ),
        };
        let (done, of) = (validating.batches, validating.of);
        // No line of an epoch follows an evaluation, whose last line would be that of a batch before the end.
        let is_end = self.epochs == 0 && done == of;
        if self.screen.bars.is_some() {
            self.show(&title, done, of, words.to_owned());
        } else if self.line_is_due() || is_end {
            let words = match words {
                "" => String::new(),
                words => format!("{words}, "),
            };
            self.screen
                .line(&format!("{title}  {words}batch {done}/{of}"));
        }
    }

    /// Whether a line may be printed now; if so, the time to the next one starts.
    fn line_is_due(&mut self) -> bool {
        let due = self
            .last_line
            .is_none_or(|at| at.elapsed() >= BETWEEN_LINES);
        if due {
            self.last_line = Some(Instant::now());
        }
        due
    }

    fn epoch(&mut self, table: Table) {
        self.losses = (0.0, 0);
        self.latest.validating = None;
        let training = table.training.as_ref();
        if let Some(peak) = training.and_then(|training| training.peak_gpu_bytes) {
            self.latest.peak_gpu_bytes = Some(peak);
        }
        self.screen.line(&epoch_line(&table, self.epochs));
        if let Some(verdict) = self.watched.as_mut().and_then(Watched::verdict) {
            self.screen.line(&verdict);
        }
        if !table.rows.is_empty() {
            self.table = Some(table);
        }
    }

    fn show(&mut self, title: &str, done: u64, of: u64, words: String) {
        let Some(bars) = &self.screen.bars else {
            return;
        };
        let bar = self.bar.get_or_insert_with(|| new_bar(bars, of));
        bar.set_length(of);
        bar.set_position(done);
        bar.set_prefix(title.to_owned());
        bar.set_message(words);
    }
}

impl Watched {
    /// The verdict on the epoch that has just ended, if the trainer was starved. Starts the next one.
    fn verdict(&mut self) -> Option<String> {
        let measured = self.meters.read();
        let seconds = self.at.elapsed().as_secs_f64();
        let speed = self.images as f64 / seconds.max(1e-9);
        let figures = Figures::new(
            &self.measured,
            &measured,
            seconds,
            speed,
            self.workers.clone(),
        );
        (self.at, self.measured, self.images) = (Instant::now(), measured, 0);
        (seconds >= LEAST_TO_JUDGE.as_secs_f64() && is_starved(&figures)).then(|| verdict(&figures))
    }
}

/// Progress of work on a known number of items.
pub struct Count {
    screen: Screen,
    title: &'static str,
    of: usize,
    bar: Option<ProgressBar>,
    last_line: Instant,
}

impl Count {
    /// Nothing is shown before the first [`Count::done`].
    pub fn new(screen: Screen, title: &'static str, of: usize) -> Self {
        Count {
            screen,
            title,
            of,
            bar: None,
            last_line: Instant::now(),
        }
    }

    /// Shows that `done` items are finished.
    pub fn done(&mut self, done: usize) {
        if let Some(bars) = &self.screen.bars {
            let of = self.of as u64;
            let bar = self.bar.get_or_insert_with(|| {
                let bar = new_bar(bars, of);
                bar.set_prefix(self.title);
                bar
            });
            bar.set_position(done as u64);
        } else if self.last_line.elapsed() >= BETWEEN_LINES {
            self.last_line = Instant::now();
            let Count { title, of, .. } = self;
            self.screen.line(&format!("{title} {done}/{of}"));
        }
    }

    /// Shows words beside the bar, if there is one.
    pub fn note(&self, words: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(lines(words).into_owned());
        }
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn new_bar(bars: &MultiProgress, of: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} [{bar:30}] {pos}/{len}  {wide_msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ");
    bars.add(ProgressBar::new(of).with_style(style))
}

/// `1:02:03` or `2:03`.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{seconds:02}")
    } else {
        format!("{minutes}:{seconds:02}")
    }
}
