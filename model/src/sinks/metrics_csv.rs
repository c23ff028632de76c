//! The node `MetricsCsv`: a row for each epoch, for spreadsheets and data frames.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rsflow_base::run_files::METRICS_CSV;
use rsflow_base::shown::Shown as _;
use rsflow_base::{input_file, whole_file};
use rsflow_graph::{
    Build, Incoming, Input, LogWriter, Node, NodeKind, Payload, Port, Report, Schema, Sink, Stage,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{input, run_dir, with_hint};
use crate::checkpoint::{Checkpoint, Row};
use crate::train::metrics::{Metric, Table, Training};

/// More than the file of any run has.
const LIMIT: u64 = 256 << 20;

/// Writes a row for each epoch to `metrics.csv` in the run directory: `epoch` (from 1), `step`, `seconds`, the means
/// of the training (`train_loss`, `train_cross_entropy_64`, `train_top1_64`), and the results (`top1_64`, `top5_64`,
/// `loss_64`, `top1_ensemble`; `average_top1_64` of the average of the weights), empty where it was not validated.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MetricsCsv {
    /// The metrics of a trainer.
    input: Input,
}

impl Node for MetricsCsv {
    fn inputs(&self) -> Vec<(&'static str, &Input)> {
        vec![("input", &self.input)]
    }

    fn plan(&self, _: &[Incoming], _: &mut Report) -> Vec<Schema> {
        vec![]
    }

    fn build(&self, build: &Build) -> Result<Stage> {
        let path = run_dir(build)?.join(METRICS_CSV);
        let epochs = build.resume::<Checkpoint>()?;
        let epochs = epochs.map(|checkpoint| checkpoint.metadata().epoch);
        let rows = Rows::start(&path, epochs).map_err(with_hint)?;
        Ok(Stage::sink(Writer {
            path,
            rows,
            // Each writing is down to the disk when it returns.
            writer: build.run.journal.add(|| Ok(())),
        }))
    }
}

impl NodeKind for MetricsCsv {
    const NAME: &'static str = "MetricsCsv";
    const SUMMARY: &'static str = "writes a row for each epoch to metrics.csv";
    const INPUTS: &'static [Port] = &[input(Metric::NAME)];
    const OUTPUTS: &'static [Port] = &[];
    const EXAMPLE: &'static str = "MetricsCsv(input: \"trainer.metrics\")";
    const OUTPUT_FILE: &'static str = METRICS_CSV;
}

struct Writer {
    path: PathBuf,
    rows: Rows,
    writer: LogWriter,
}

impl Sink for Writer {
    type In = Metric;

    fn accept(&mut self, metric: Metric) -> Result<()> {
        if let Metric::Epoch(table) = metric {
            self.rows.add(row_of(&table));
            self.rows.write(&self.path).map_err(with_hint)?;
        }
        self.writer.accepted();
        Ok(())
    }
}

/// All that the file has. It is written anew for each epoch: a resumed run may have further columns.
#[derive(Debug, Default)]
struct Rows {
    columns: Vec<String>,
    /// Each has at most as many cells as there are columns.
    rows: Vec<Vec<String>>,
}

impl Rows {
    /// Writes the file as it is before the first row of a run: empty, or with the rows of so many `epochs` of the
    /// run that is resumed.
    fn start(path: &Path, epochs: Option<u64>) -> Result<Self> {
        let rows = match epochs {
            None => Rows::default(),
            Some(epochs) => Rows::read(path, epochs)?,
        };
        let folder = path.parent().unwrap_or(Path::new("."));
        whole_file::remove_unfinished(folder, |name| name == METRICS_CSV)
            .with_context(|| cannot(path))?;
        rows.write(path)?;
        Ok(rows)
    }

    /// The rows of the first epochs; none where there is no file.
    fn read(path: &Path, epochs: u64) -> Result<Self> {
        let place = path.shown();
        let bytes = match input_file::read(path, LIMIT) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Rows::default()),
            bytes => bytes.with_context(|| format!("cannot read {place}"))?,
        };
        let rows = Rows::parse(&bytes, epochs);
        rows.with_context(|| {
            format!("cannot resume {place}: remove or rename it to resume without")
        })
    }

    fn parse(bytes: &[u8], epochs: u64) -> Result<Self> {
        let mut file = csv::Reader::from_reader(bytes);
        let columns: Vec<String> = file.headers()?.iter().map(str::to_owned).collect();
        let mut rows = Vec::new();
        if columns.is_empty() {
            return Ok(Rows::default());
        }
        ensure!(columns[0] == "epoch", "its first column is not `epoch`");
        for row in file.records() {
            let row: Vec<String> = row?.iter().map(str::to_owned).collect();
            let epoch = row.first().and_then(|epoch| epoch.parse::<u64>().ok());
            let epoch = epoch.with_context(|| format!("row {} has no epoch", rows.len() + 1))?;
            if epoch <= epochs {
                rows.push(row);
            }
        }
        Ok(Rows { columns, rows })
    }

    fn add(&mut self, cells: Vec<(String, String)>) {
        let mut row = vec![String::new(); self.columns.len()];
        for (column, cell) in cells {
            let at = self.columns.iter().position(|known| *known == column);
            match at {
                Some(at) => row[at] = cell,
                None => {
                    self.columns.push(column);
                    row.push(cell);
                }
            }
        }
        self.rows.push(row);
    }

    fn write(&self, path: &Path) -> Result<()> {
        let write = |file: &mut dyn std::io::Write| {
            if self.columns.is_empty() {
                return Ok(());
            }
            let mut csv = csv::Writer::from_writer(file);
            csv.write_record(&self.columns)?;
            for row in &self.rows {
                let missing = self.columns.len().saturating_sub(row.len());
                let empty = std::iter::repeat_n("", missing);
                csv.write_record(row.iter().map(String::as_str).chain(empty))?;
            }
            Ok(csv.flush()?)
        };
        whole_file::write(path, write).with_context(|| cannot(path))
    }
}

fn cannot(path: &Path) -> String {
    format!("cannot write {}", path.shown())
}

/// The columns of an epoch and what is in them. What is not finite is empty.
fn row_of(table: &Table) -> Vec<(String, String)> {
    let mut cells = vec![
        ("epoch".to_owned(), (table.epoch + 1).to_string()),
        ("step".to_owned(), table.step.to_string()),
        ("seconds".to_owned(), number(table.seconds)),
    ];
    cells.extend(table.training.iter().flat_map(of_training));
    for (prefix, rows) in [("", &table.rows), ("average_", &table.average)] {
        for row in rows {
            let name = name(row);
            for (figure, value) in [("top1", row.top1), ("top5", row.top5), ("loss", row.loss)] {
                cells.push((format!("{prefix}{figure}_{name}"), number(value)));
            }
        }
    }
    cells
}

fn of_training(training: &Training) -> Vec<(String, String)> {
    let losses = &training.losses;
    let mut cells = vec![("train_loss".to_owned(), losses.loss)];
    let by_size = losses.cross_entropy.iter();
    cells.extend(by_size.map(|(size, value)| (format!("train_cross_entropy_{size}"), *value)));
    let size = training.top1_resolution;
    let others = [
        (
            "train_cross_entropy_ensemble".to_owned(),
            Some(losses.ensemble_cross_entropy),
        ),
        ("train_distillation".to_owned(), losses.distillation),
        (format!("train_top1_{size}"), training.top1),
        ("learning_rate".to_owned(), Some(training.learning_rate)),
        ("images_per_second".to_owned(), training.images_per_second),
        (
            "peak_gpu_bytes".to_owned(),
            training.peak_gpu_bytes.map(|bytes| bytes as f64),
        ),
    ];
    let others = others.into_iter();
    cells.extend(others.filter_map(|(column, value)| Some((column, value?))));
    let cells = cells.into_iter();
    cells
        .map(|(column, value)| (column, number(value)))
        .collect()
}

fn name(row: &Row) -> String {
    row.resolution.map_or_else(
        || "ensemble".to_owned(),
        |resolution| resolution.to_string(),
    )
}

fn number(value: f64) -> String {
    match value.is_finite() {
        true => value.to_string(),
        false => String::new(),
    }
}
