//! What `rsflow eval --latency --json` has measured.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use rsflow_base::input_file;
use rsflow_base::shown::Shown as _;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::run::Found;
use crate::commands::eval::latency::Latency;
use crate::run_log::Row;

/// The name of such a file in a run directory.
pub const FILE: &str = "latency.json";
/// Upper bound of a file of figures, in bytes.
const MAX_JSON: u64 = 64 << 20;

/// An evaluation with its latencies.
#[derive(Debug, Deserialize)]
pub struct Evaluated {
    rows: Vec<Row>,
    #[serde(default)]
    latencies: Vec<Latency>,
    /// Which images they are, if not those of the run's validation.
    #[serde(default)]
    pub data: Option<String>,
}

impl Evaluated {
    /// The file that was named, else that of the run directory.
    ///
    /// # Errors
    /// The file that was named cannot be read.
    pub fn find(run_dir: &Path, named: Option<&Path>) -> Result<Found<Self>> {
        find(run_dir.join(FILE), named, |path| {
            let found: Evaluated = json(path)?;
            ensure!(
                !found.latencies.is_empty(),
                "{} has no latencies; `rsflow eval --latency --json` writes them",
                path.shown()
            );
            Ok(found)
        })
    }

    /// Latency in milliseconds and top-1 in percent by size.
    pub fn points(&self) -> Vec<(u32, f64, f64)> {
        let points = self.latencies.iter().filter_map(|latency| {
            let size = latency.resolution;
            let row = self.rows.iter().find(|row| row.resolution == Some(size))?;
            Some((size, latency.milliseconds, row.top1?))
        });
        points.collect()
    }
}

/// Reads the file that was named, else one in the run directory if it is there. Only what was named must be readable.
pub fn find<T>(
    usual: PathBuf,
    named: Option<&Path>,
    read: impl Fn(&Path) -> Result<T>,
) -> Result<Found<T>> {
    match named {
        Some(path) => Ok(Some(Ok(read(path)?))),
        None if usual.exists() => Ok(Some(read(&usual).map_err(|error| format!("{error:#}")))),
        None => Ok(None),
    }
}

/// Reads a file of figures.
pub fn json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let read = || -> Result<T> {
        let text = input_file::read(path, MAX_JSON)?;
        Ok(serde_json::from_slice(&text)?)
    };
    read().with_context(|| format!("cannot read {}", path.shown()))
}
