//! What several data nodes have in common: what becomes of damage, how long a read may take.

use std::time::Duration;

use rsflow_graph::{Budget, OnError, Report};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What becomes of an image that cannot be used.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub enum Damage {
    /// It ends the run.
    #[default]
    Fail,
    /// It is named in the log, in the summary and in `skipped.jsonl`, and another image, drawn at
    /// random, takes its place, in training as in validation.
    Skip {
        /// How many images of this run may be damaged; one more ends it. A whole number counts
        /// them, a decimal from 0.0 to 1.0 is a share of all (rounded down, but at least one). An
        /// image that is met again in a later epoch counts once.
        #[schemars(with = "f64")]
        budget: Budget,
    },
}

impl From<Damage> for OnError {
    fn from(damage: Damage) -> Self {
        match damage {
            Damage::Fail => OnError::Fail,
            Damage::Skip { budget } => OnError::Skip { budget },
        }
    }
}

impl Damage {
    /// Checks the parameter `on_error`.
    pub(super) fn check(self, report: &mut Report) {
        if let Damage::Skip {
            budget: Budget::Share(share),
        } = self
            && !(0.0..=1.0).contains(&share)
        {
            report.parameter(
                "on_error.budget",
                format!("{share} is neither a number of images nor a share of them"),
                "a whole number such as 50 counts images; a share lies between 0.0 and 1.0, such as 0.001",
            );
        }
    }
}

/// Checks what every source of files can be told.
pub(super) fn check_source(on_error: Damage, read_timeout: Option<f64>, report: &mut Report) {
    on_error.check(report);
    check_read_timeout(read_timeout, report);
}

/// The default of the parameter `read_timeout`, in seconds.
pub(super) fn default_read_timeout() -> Option<f64> {
    Some(60.0)
}

/// Checks the parameter `read_timeout`, in seconds.
fn check_read_timeout(timeout: Option<f64>, report: &mut Report) {
    let Some(seconds) = timeout else { return };
    if seconds <= 0.0 || Duration::try_from_secs_f64(seconds).is_err() {
        report.parameter(
            "read_timeout",
            format!("`read_timeout` must be positive, not {seconds}"),
            "such as `read_timeout: 60`; `None` waits for ever",
        );
    }
}

/// The parameter `read_timeout`, once it has been checked.
pub(super) fn read_timeout(timeout: Option<f64>) -> Option<Duration> {
    timeout.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
}
