//! The results of the runs of a sweep, read from their metrics.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use rsflow_base::run_files::METRICS;
use rsflow_base::shown::Shown as _;
use rsflow_model::sinks::metrics_line::format_of;

use super::Run;
use crate::commands::compare;
use crate::process::say;
use crate::run_log::{Final, called, last_line};
use crate::table;

/// Makes sure that this program can read the metrics of the runs that there are.
///
/// # Errors
/// A newer program wrote some.
pub fn ensure_readable(runs: &[Run]) -> Result<()> {
    for run in runs {
        if let Some(line) = last_line(&run.dir) {
            format_of(&line)
                .with_context(|| format!("cannot read {}", run.dir.join(METRICS).shown()))?;
        }
    }
    Ok(())
}

/// Prints how far the combinations are apart, or where they cannot be compared, why, and the accuracies of each.
pub fn finish(runs: &[Run], out: &mut dyn Write) -> Result<()> {
    let ended = runs.iter().filter(|run| run.is_done());
    let ended: Vec<PathBuf> = ended.map(|run| run.dir.clone()).collect();
    if ended.len() > 1 {
        match compare::text_of(&ended) {
            Ok(text) => return Ok(writeln!(out, "{text}")?),
            Err(error) => say(format_args!("the runs are not compared: {error:#}")),
        }
    }
    print(runs, out)
}

/// A row for each combination, a column for each resolution and for the ensemble.
fn print(runs: &[Run], out: &mut dyn Write) -> Result<()> {
    let rows = by_combination(runs);
    let columns: BTreeSet<_> = rows.iter().flat_map(|row| row.top1.keys()).collect();
    let names: Vec<String> = columns.iter().map(|column| called(column.0)).collect();
    let mut header = vec!["combination", "runs"];
    header.extend(names.iter().map(String::as_str));
    let cells = rows.iter().map(|row| {
        let figures = columns.iter().map(|column| {
            let values = row.top1.get(column);
            figure(values.map_or(&[], Vec::as_slice))
        });
        let first = [row.combination.to_owned(), row.ended.to_string()];
        first.into_iter().chain(figures).collect()
    });
    writeln!(out, "{}", table::grid(&header, cells))?;
    let spread = match rows.iter().any(|row| row.ended > 1) {
        true => ", mean ± standard deviation over the seeds",
        false => "",
    };
    Ok(writeln!(out, "top-1 %{spread}")?)
}

/// The runs of a combination that have ended.
struct Ended<'a> {
    combination: &'a str,
    ended: usize,
    /// Of each run, by resolution: the largest first, the ensemble last.
    top1: BTreeMap<Reverse<Option<u32>>, Vec<f64>>,
}

fn by_combination(runs: &[Run]) -> Vec<Ended<'_>> {
    let of_one = runs.chunk_by(|one, next| one.combination.name == next.combination.name);
    let rows = of_one.map(|runs| {
        let ended: Vec<Final> = runs.iter().filter_map(|run| Final::of(&run.dir)).collect();
        let mut top1: BTreeMap<_, Vec<f64>> = BTreeMap::new();
        for row in ended.iter().flat_map(Final::rows) {
            let values = top1.entry(Reverse(row.resolution)).or_default();
            values.extend(row.top1);
        }
        Ended {
            combination: &runs[0].combination.name, // No chunk is empty.
            ended: ended.len(),
            top1,
        }
    });
    rows.collect()
}

/// The mean of some values; of several also their standard deviation, as that of a sample.
fn figure(values: &[f64]) -> String {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    match values.len() {
        0 => "-".to_owned(),
        1 => format!("{mean:.2}"),
        _ => {
            let squares = values.iter().map(|value| (value - mean).powi(2));
            let deviation = (squares.sum::<f64>() / (count - 1.0)).sqrt();
            format!("{mean:.2} ± {deviation:.2}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::sweep::plan::Combination;

    #[test]
    fn figures_have_a_mean_and_a_deviation() {
        for (values, expected) in [
            (&[][..], "-"),
            (&[50.0], "50.00"),
            (&[50.0, 52.0], "51.00 ± 1.41"),
            (&[1.0, 2.0, 3.0], "2.00 ± 1.00"),
        ] {
            assert_eq!(figure(values), expected, "{values:?}");
        }
    }

    #[test]
    fn metrics_of_a_newer_program_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let run = || Run {
            combination: Combination {
                name: "lr=0.1".to_owned(),
                values: vec![],
                sets: vec![],
            },
            seed: 0,
            dir: folder.path().to_owned(),
        };
        assert!(ensure_readable(&[run()]).is_ok(), "it has not begun");
        for (format, readable) in [(2, true), (3, false)] {
            let line = format!("{{\"format\":{format},\"kind\":\"final\"}}\n");
            std::fs::write(folder.path().join(METRICS), line).unwrap();
            let result = ensure_readable(&[run()]);
            assert_eq!(result.is_ok(), readable, "{format}: {result:?}");
        }
    }
}
