//! `now.json`: what a run is doing, for who watches it from outside, also over a shared disk.
//!
//! The run replaces it every two seconds ([`writer`]); `rsflow top` and scripts read it.

mod window;
pub mod writer;

use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Result, ensure};
use jiff::Timestamp;
use rsflow_base::input_file;
use rsflow_base::run_files::NOW;
use serde::{Deserialize, Serialize};

/// The version of the format: keys may be added to it, none is removed or changes its meaning.
pub const FORMAT: u64 = 1;
/// Upper bound of the file, in bytes; a node takes some 300.
const MAX_BYTES: u64 = 64 << 20;

/// What a run is doing. Field names are JSON keys; the table in docs/runs.md explains them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Now {
    pub format: u64,
    pub written: Option<Timestamp>,
    pub started: Option<Timestamp>,
    pub host: String,
    pub pid: u32,
    pub version: String,
    pub processes: u32,
    pub state: State,
    /// Why it failed.
    pub error: Option<String>,
    /// Counted from 1; `None` before the first step.
    pub epoch: Option<u64>,
    pub epochs: Option<u64>,
    /// Steps since the start of the run.
    pub step: Option<u64>,
    pub step_in_epoch: Option<u64>,
    pub steps_per_epoch: Option<u64>,
    pub validation: Option<Validation>,
    pub seconds_left: Option<f64>,
    pub images_per_second: Option<f64>,
    pub loss: Option<f64>,
    pub learning_rate: Option<f64>,
    pub peak_gpu_bytes: Option<u64>,
    pub workers: u64,
    pub cores: u64,
    pub verdict: Option<String>,
    /// Length of the period of all rates and shares of nodes.
    pub seconds: f64,
    pub nodes: Vec<Node>,
}

/// How far a validation is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Validation {
    pub batches: u64,
    pub of: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Running,
    Validating,
    Finished,
    /// By a signal; a resume continues it.
    Stopped,
    Failed,
    /// Of a newer version of the program.
    #[default]
    #[serde(other)]
    Unknown,
}

impl State {
    pub fn has_ended(self) -> bool {
        matches!(self, State::Finished | State::Stopped | State::Failed)
    }

    /// As the file has it.
    pub fn name(self) -> &'static str {
        match self {
            State::Running => "running",
            State::Validating => "validating",
            State::Finished => "finished",
            State::Stopped => "stopped",
            State::Failed => "failed",
            State::Unknown => "unknown",
        }
    }
}

/// What a node did in the period. Shares are from 0 to 1.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Node {
    pub name: String,
    pub kind: String,
    /// `workers`, `thread` or `sink`.
    pub works_on: String,
    /// Since the process began.
    pub items: u64,
    pub items_per_second: f64,
    pub busy_share: f64,
    pub wait_input_share: f64,
    pub wait_output_share: f64,
    pub queue: Option<Queue>,
}

/// The queue of a node's input.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Queue {
    /// Mean of what waited when the node took from it; `None` if it took nothing in the period.
    pub waiting: Option<f64>,
    pub bound: u64,
}

impl Now {
    /// Reads the file of a run directory. `None`: there is none.
    ///
    /// # Errors
    /// It cannot be read, is damaged, or of a newer format.
    pub fn read(run_dir: &Path) -> Result<Option<Self>> {
        let text = match input_file::read(&run_dir.join(NOW), MAX_BYTES) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            text => text?,
        };
        Self::of(&text).map(Some)
    }

    fn of(text: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Head {
            format: u64,
        }
        let head: Head = serde_json::from_slice(text)?;
        ensure!(
            (1..=FORMAT).contains(&head.format),
            "its format is {}, this version of rsflow reads up to {FORMAT}",
            head.format
        );
        Ok(serde_json::from_slice(text)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_and_newer_files_are_refused() {
        for (text, expected) in [
            ("", "EOF"),
            (r#"{"format":1,"nodes":[{"na"#, "EOF"),
            ("[]", "invalid length 0"),
            (r#"{"state":"running"}"#, "missing field `format`"),
            (r#"{"format":0}"#, "its format is 0"),
            (
                r#"{"format":2,"nodes":"new"}"#,
                "its format is 2, this version of rsflow reads up to 1",
            ),
            (r#"{"format":1,"step":"one"}"#, "invalid type"),
        ] {
            let error = Now::of(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let bare = Now::of(br#"{"format":1,"state":"dreaming","more":[1]}"#).unwrap();
        assert_eq!((bare.state, bare.epoch), (State::Unknown, None));
        assert!(Now::read(Path::new("/nowhere")).unwrap().is_none());
    }
}
