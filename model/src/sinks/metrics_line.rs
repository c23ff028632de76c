//! The lines of `metrics.jsonl`, and what a program reads of them that did not write them.

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::train::metrics::Metric;

/// The format of a line, in its key `format`. 1: there is no such key, and epochs count from 0. 2: epochs count
/// from 1. A file may have lines of both: a run that began with an older program and was resumed.
pub const FORMAT: u64 = 2;

/// A line, as it is written.
#[derive(Serialize)]
struct Written<'a> {
    format: u64,
    #[serde(flatten)]
    metric: &'a Metric,
}

/// The line of a metric, with its line break.
pub(super) fn written(metric: &Metric) -> Result<Vec<u8>> {
    let line = Written {
        format: FORMAT,
        metric,
    };
    let mut line = serde_json::to_vec(&line).context("cannot write a metric as JSON")?;
    line.push(b'\n');
    Ok(line)
}

/// Where in its run a line belongs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub kind: String,
    /// From 0, as checkpoints count, in every format.
    pub epoch: u64,
    pub step: u64,
}

impl Place {
    /// `None`: the line was cut off when a run was killed, or is damaged.
    ///
    /// # Errors
    /// A format that this program does not know.
    pub fn of(line: &[u8]) -> Result<Option<Self>> {
        #[derive(Deserialize)]
        struct Line {
            kind: String,
            epoch: u64,
            step: u64,
        }
        let Some(format) = format_of(line)? else {
            return Ok(None);
        };
        let Ok(Line { kind, epoch, step }) = serde_json::from_slice(line) else {
            return Ok(None);
        };
        let epoch = match format {
            1 => Some(epoch),
            _ => epoch.checked_sub(1),
        };
        Ok(epoch.map(|epoch| Place { kind, epoch, step }))
    }
}

/// The format of a line; `None`: it is no whole line.
///
/// # Errors
/// A format that this program does not know.
pub fn format_of(line: &[u8]) -> Result<Option<u64>> {
    #[derive(Deserialize)]
    struct Line {
        #[serde(default = "first")]
        format: u64,
    }
    let Ok(Line { format }) = serde_json::from_slice(line) else {
        return Ok(None);
    };
    if format > FORMAT {
        bail!(
            "it has a line of format {format}, and this program reads formats up to {FORMAT}; use the newer \
             version of rsflow that wrote it"
        );
    }
    Ok((format > 0).then_some(format))
}

fn first() -> u64 {
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_its_epochs_count() {
        let place = |epoch| {
            Ok(Some(Place {
                kind: "step".to_owned(),
                epoch,
                step: 4,
            }))
        };
        for (line, expected) in [
            (r#"{"kind":"step","epoch":1,"step":4}"#, place(1)),
            (r#"{"kind":"step","epoch":0,"step":4}"#, place(0)),
            (r#"{"format":1,"kind":"step","epoch":1,"step":4}"#, place(1)),
            (
                r#"{"format":2,"kind":"step","epoch":1,"step":4,"loss":null}"#,
                place(0),
            ),
            (r#"{"format":2,"kind":"step","epoch":0,"step":4}"#, Ok(None)),
            (r#"{"format":0,"kind":"step","epoch":1,"step":4}"#, Ok(None)),
            (r#"{"format":"2","kind":"step"}"#, Ok(None)),
            (r#"{"format":2,"kind":"step","epo"#, Ok(None)),
            ("", Ok(None)),
            (r#"{"format":3,"type":"step"}"#, Err("line of format 3")),
        ] {
            match (Place::of(line.as_bytes()), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{line}"),
                (Err(error), Err(words)) => {
                    assert!(error.to_string().contains(words), "{line}: {error}");
                }
                (found, _) => panic!("{line}: {found:?}"),
            }
        }
    }
}
