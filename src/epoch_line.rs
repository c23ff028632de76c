//! The line of an epoch, as `rsflow run` prints it.

use std::time::Duration;

use rsflow_model::train::metrics::{Losses, Row, Table, Training};

use crate::figures::rate;
use crate::progress::duration;

/// `epoch 2/8  1:23  loss 8.92 (cross-entropy 2.21 at 64, sum of 4 terms)  ...  top-1 %: 64 45.1  48 44.0`. `epochs`
/// are those of the run.
pub fn epoch_line(table: &Table, epochs: u64) -> String {
    let time = duration(Duration::try_from_secs_f64(table.seconds).unwrap_or_default());
    let mut parts = vec![format!("epoch {}/{epochs}", table.epoch + 1), time];
    parts.extend(table.training.iter().flat_map(of_training));
    if !table.rows.is_empty() {
        parts.push(format!("top-1 %: {}", accuracies(&table.rows)));
    }
    if !table.average.is_empty() {
        parts.push(format!("of the average: {}", accuracies(&table.average)));
    }
    parts.join("  ")
}

fn of_training(training: &Training) -> Vec<String> {
    let top1 = training.top1.map(|top1| {
        let mixed = match training.mixed_labels {
            true => " (mixed labels: the larger share)",
            false => "",
        };
        format!("training top-1 {top1:.1}{mixed}")
    });
    let speed = training.images_per_second;
    let gigabytes = training.peak_gpu_bytes.map(|bytes| bytes as f64 / 1e9);
    let parts = [
        Some(loss(training)),
        top1,
        Some(format!("lr {}", significant(training.learning_rate))),
        speed.map(|speed| format!("{} images/s", rate(speed))),
        gigabytes.map(|gigabytes| format!("GPU {gigabytes:.1} GB")),
    ];
    parts.into_iter().flatten().collect()
}

/// The mean, what it is the sum of, and the term that networks are compared by.
fn loss(training: &Training) -> String {
    let Losses {
        loss,
        cross_entropy,
        distillation,
        ..
    } = &training.losses;
    // The ensemble's is one of them.
    let terms = cross_entropy.len() + 1 + usize::from(distillation.is_some());
    let size = training.top1_resolution;
    let of_size = cross_entropy.iter().find(|(of, _)| *of == size);
    let of_size = of_size.map_or_else(String::new, |(_, value)| {
        format!("cross-entropy {value:.3} at {size}, ")
    });
    let steps = match training.steps < training.steps_per_epoch {
        true => format!(
            ", last {} of {} steps",
            training.steps, training.steps_per_epoch
        ),
        false => String::new(),
    };
    format!("loss {loss:.3} ({of_size}sum of {terms} terms{steps})")
}

fn accuracies(rows: &[Row]) -> String {
    let each = rows.iter().map(|row| {
        let name = row
            .resolution
            .map_or("ensemble".to_owned(), |resolution| resolution.to_string());
        format!("{name} {:.1}", row.top1)
    });
    each.collect::<Vec<_>>().join("  ")
}

/// Three digits: `0.05`, `0.0123`, `1.23e-5`.
pub fn significant(value: f64) -> String {
    let scientific = format!("{value:.2e}");
    match scientific.parse::<f64>() {
        Ok(rounded) if rounded == 0.0 || rounded.abs() >= 1e-4 => rounded.to_string(),
        Ok(rounded) => format!("{rounded:e}"),
        Err(_) => scientific,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(resolution: Option<u32>, top1: f64) -> Row {
        Row {
            resolution,
            batch_norm: resolution,
            between: None,
            top1,
            top5: 90.0,
            loss: 1.5,
            multiply_adds: 10,
            parameters: 20,
        }
    }

    fn table(training: Option<Training>) -> Table {
        Table {
            epoch: 1,
            step: 80,
            rows: vec![row(Some(64), 45.12), row(Some(48), 44.0), row(None, 46.0)],
            average: vec![],
            classes: 10,
            images: 500,
            left_out: 0,
            seconds: 83.4,
            training,
        }
    }

    fn training() -> Training {
        Training {
            steps: 40,
            images: 1280,
            losses: Losses {
                loss: 8.9249,
                cross_entropy: vec![(64, 2.2104), (48, 2.5)],
                ensemble_cross_entropy: 2.0,
                distillation: Some(0.25),
            },
            top1: Some(41.23),
            top1_resolution: 64,
            mixed_labels: false,
            learning_rate: 0.05,
            images_per_second: Some(812.3),
            peak_gpu_bytes: Some(3_100_000_000),
            steps_per_epoch: 40,
        }
    }

    #[test]
    fn a_line_says_what_was_trained_and_how_good_it_is() {
        let results = "top-1 %: 64 45.1  48 44.0  ensemble 46.0";
        let plain = training();
        let bare = Training {
            losses: Losses {
                cross_entropy: vec![(48, 2.5)],
                distillation: None,
                ..training().losses
            },
            top1: None,
            learning_rate: 1.2345e-5,
            images_per_second: Some(3.12),
            peak_gpu_bytes: None,
            ..training()
        };
        let resumed = Training {
            steps: 7,
            mixed_labels: true,
            ..training()
        };
        for (training, expected) in [
            (None, String::new()),
            (
                Some(plain.clone()),
                "loss 8.925 (cross-entropy 2.210 at 64, sum of 4 terms)  training top-1 41.2  lr 0.05  812 images/s  GPU 3.1 GB  "
                    .to_owned(),
            ),
            (
                Some(bare),
                "loss 8.925 (sum of 2 terms)  lr 1.23e-5  3.1 images/s  ".to_owned(),
            ),
            (
                Some(resumed),
                "loss 8.925 (cross-entropy 2.210 at 64, sum of 4 terms, last 7 of 40 steps)  \
                 training top-1 41.2 (mixed labels: the larger share)  lr 0.05  812 images/s  GPU 3.1 GB  "
                    .to_owned(),
            ),
        ] {
            let line = epoch_line(&table(training), 8);
            assert_eq!(line, format!("epoch 2/8  1:23  {expected}{results}"));
        }
        let unvalidated = Table {
            rows: vec![],
            ..table(Some(plain))
        };
        let line = epoch_line(&unvalidated, 8);
        assert!(line.ends_with("812 images/s  GPU 3.1 GB"), "{line}");
        let average = Table {
            average: vec![row(Some(64), 50.0)],
            ..table(None)
        };
        let line = epoch_line(&average, 8);
        assert!(
            line.ends_with("ensemble 46.0  of the average: 64 50.0"),
            "{line}"
        );
    }

    #[test]
    fn a_learning_rate_has_three_digits() {
        for (value, expected) in [
            (0.0, "0"),
            (0.1, "0.1"),
            (0.012_345, "0.0123"),
            (1e-4, "0.0001"),
            (0.000_099_99, "0.0001"),
            (0.000_012_3, "1.23e-5"),
            (1e-30, "1e-30"),
            (12.0, "12"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(significant(value), expected, "{value}");
        }
    }
}
