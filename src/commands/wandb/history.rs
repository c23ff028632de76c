//! The metrics of a run by step, under the names that TensorBoard's events have.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::run_log::{Epoch, Row, RunLog, Step, Terms, called};

/// Names and values.
pub type Values = BTreeMap<String, Value>;

/// By step. What a step and the epoch that it ends say of it is together: W&B has one row for a step, and drops what
/// comes later.
pub fn of(log: &RunLog) -> BTreeMap<u64, Values> {
    let mut by_step: BTreeMap<u64, Values> = BTreeMap::new();
    for step in &log.steps {
        by_step.entry(step.step).or_default().extend(of_step(step));
    }
    for epoch in log.epochs.iter().chain(&log.end) {
        by_step
            .entry(epoch.step)
            .or_default()
            .extend(of_epoch(epoch));
    }
    by_step
}

/// The last value of each name, and those of the run as a whole.
pub fn summary(log: &RunLog, history: &BTreeMap<u64, Values>) -> Values {
    let mut summary: Values = history.values().flatten().map(owned).collect();
    if let Some(step) = history.keys().last() {
        summary.insert("_step".to_owned(), (*step).into());
    }
    if let Some(end) = &log.end {
        summary.insert("_runtime".to_owned(), end.seconds.into());
    }
    summary
}

fn owned((name, value): (&String, &Value)) -> (String, Value) {
    (name.clone(), value.clone())
}

fn of_step(step: &Step) -> Values {
    let mut values = named("train", &step.terms);
    values.insert("epoch".to_owned(), step.epoch.into());
    values
}

fn of_epoch(epoch: &Epoch) -> Values {
    let mut values = Values::new();
    if let Some(training) = &epoch.training {
        values.extend(named("epoch", training));
    }
    let group = match epoch.is_average {
        true => "average",
        false => "validation",
    };
    values.extend(of_rows(group, &epoch.rows));
    values.extend(of_rows("validation", &epoch.trained));
    values.insert("epoch".to_owned(), epoch.epoch.into());
    values
}

fn named(group: &str, terms: &Terms) -> Values {
    let whole = [
        ("loss", terms.loss),
        ("ensemble_cross_entropy", terms.ensemble_cross_entropy),
        ("distillation", terms.distillation),
        ("learning_rate", terms.learning_rate),
        ("images_per_second", terms.images_per_second),
        ("peak_gpu_bytes", terms.peak_gpu_bytes),
    ];
    let whole = whole.map(|(name, value)| (name.to_owned(), value));
    let by_size = terms.cross_entropy.iter();
    let by_size = by_size.map(|(size, value)| (format!("cross_entropy/{size}"), Some(*value)));
    let largest = terms.cross_entropy.first();
    let top1 = largest.map(|(size, _)| (format!("training_top1/{size}"), terms.top1));
    let all = whole.into_iter().chain(by_size).chain(top1);
    all.filter_map(|(name, value)| Some((format!("{group}/{name}"), value?.into())))
        .collect()
}

fn of_rows(group: &str, rows: &[Row]) -> Values {
    let figures = rows.iter().flat_map(|row| {
        [("top1", row.top1), ("top5", row.top5), ("loss", row.loss)].map(|(figure, value)| {
            let name = format!("{group}/{figure}/{}", called(row.resolution));
            Some((name, value?.into()))
        })
    });
    figures.flatten().collect()
}
