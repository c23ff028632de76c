//! Parameters that several data nodes share: the policy for damaged images, and the read timeout.

use std::time::Duration;

use rsflow_graph::{Budget, OnError, Report};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The policy for an image that cannot be read or decoded.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub enum Damage {
    /// End the run with the image's name and the reason.
    #[default]
    Fail,
    /// Name it in the log, in the summary and in `skipped.jsonl`, and replace it by another image,
    /// drawn at random from the recipe's seed. What is measured leaves the other image out there.
    Skip {
        /// How many different images may be skipped in a run; one more ends it. A whole number is a
        /// count, a decimal from 0.0 to 1.0 a fraction of all images (rounded down, at least one).
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
                format!("`budget` must be a count or a fraction from 0.0 to 1.0, not {share}"),
                "such as 50 (images) or 0.001 (of all images)",
            );
        }
    }
}

/// Checks the parameters that every source of files has.
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
            "such as `read_timeout: 60`; `None` for no limit",
        );
    }
}

/// The parameter `read_timeout`, which has been checked.
pub(super) fn read_timeout(timeout: Option<f64>) -> Option<Duration> {
    timeout.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
}
