//! Ranges of axes, their ticks, and numbers as labels.

use crate::table::thousands;

/// The values that an axis covers, and where its ticks are.
#[derive(Clone, Debug, PartialEq)]
pub struct Scale {
    pub low: f64,
    pub high: f64,
    /// Each with its label.
    pub ticks: Vec<(f64, String)>,
}

impl Scale {
    /// An axis with room around the values, of which there may be one or none, and about `wanted` ticks.
    /// `whole`: ticks are at integers only.
    pub fn around(values: impl Iterator<Item = f64>, wanted: usize, whole: bool) -> Self {
        let finite = values.filter(|value| value.is_finite());
        let (low, high) = finite.fold((f64::MAX, f64::MIN), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        let (low, high) = match low <= high {
            true => (low, high),
            false => (0.0, 1.0),
        };
        let room = match high - low {
            span if span > 0.0 && span.is_finite() => 0.05 * span,
            _ => (0.1 * high.abs()).max(if whole { 1.0 } else { 1e-12 }),
        };
        // What cannot be negative has no negative part of its axis.
        let below = match low >= 0.0 && low - room < 0.0 {
            true => 0.0,
            false => low - room,
        };
        let (low, high) = (below, high + room);
        Scale {
            ticks: ticks(low, high, wanted, whole),
            low,
            high,
        }
    }

    /// Where a value is on the axis, from 0 to 1.
    pub fn place(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }
}

fn ticks(low: f64, high: f64, wanted: usize, whole: bool) -> Vec<(f64, String)> {
    let step = step((high - low) / wanted.max(1) as f64, whole);
    if !(step.is_normal() && high.is_finite() && low.is_finite()) {
        return Vec::new();
    }
    let first = (low / step).ceil() as i64;
    let last = (high / step).floor() as i64;
    let values = (first..=last.min(first.saturating_add(100))).map(|at| at as f64 * step);
    values.map(|value| (value, label(value, step))).collect()
}

/// 1, 2 or 5 times a power of ten, near `wanted`: rather more ticks than a few.
fn step(wanted: f64, whole: bool) -> f64 {
    let least = 0.75 * wanted;
    let least = if whole { least.max(1.0) } else { least };
    let power = 10_f64.powi(least.log10().floor() as i32);
    let steps = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
    let found = steps.into_iter().find(|step| *step >= least * 0.999_999);
    found.unwrap_or(10.0 * power)
}

/// A value of an axis whose ticks are `step` apart: `0.25`, `1,200`, `2e-7`.
fn label(value: f64, step: f64) -> String {
    let digits = (-step.log10().floor()).max(0.0) as usize;
    if value == 0.0 {
        return "0".to_owned();
    }
    if digits > 5 || value.abs() >= 1e12 {
        let digits = value.abs().log10().floor() - step.log10().floor();
        return format!("{value:.*e}", digits.clamp(0.0, 3.0) as usize);
    }
    if digits > 0 {
        return format!("{value:.digits$}");
    }
    let sign = if value < 0.0 { "-" } else { "" };
    format!("{sign}{}", thousands(value.abs().round() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_numbers() {
        let table: [(&[f64], bool, &str); 10] = [
            (&[0.0, 1.0], false, "0 0.2 0.4 0.6 0.8 1.0"),
            (&[60.1, 70.7], false, "60 62 64 66 68 70"),
            (&[1.0, 4.0], true, "1 2 3 4"),
            (&[1.0, 120.0], true, "0 20 40 60 80 100 120"),
            (
                &[2.7e6, 11e6],
                false,
                "4,000,000 6,000,000 8,000,000 10,000,000",
            ),
            (&[0.0, 0.03], false, "0 0.005 0.010 0.015 0.020 0.025 0.030"),
            (&[1e-9, 8e-8], false, "0 2e-8 4e-8 6e-8 8e-8"),
            (&[0.0, 1.2e-5], false, "0 2e-6 4e-6 6e-6 8e-6 1.0e-5 1.2e-5"),
            (&[-3.0, 3.0], false, "-3 -2 -1 0 1 2 3"),
            (&[7.0], true, "6 7 8"),
        ];
        for (values, whole, expected) in table {
            let scale = Scale::around(values.iter().copied(), 5, whole);
            let labels: Vec<&str> = scale.ticks.iter().map(|(_, text)| text.as_str()).collect();
            assert_eq!(labels.join(" "), expected, "{values:?}");
            for value in values {
                let place = scale.place(*value);
                assert!((0.0..=1.0).contains(&place), "{value} is at {place}");
            }
        }
    }

    #[test]
    fn no_value_breaks_an_axis() {
        let (small, large) = (f64::MIN_POSITIVE, f64::MAX);
        for values in [
            vec![],
            vec![f64::NAN, f64::INFINITY],
            vec![0.0],
            vec![small],
            vec![large],
            vec![-large, large],
            vec![1.0, 1.0 + f64::EPSILON],
        ] {
            for whole in [false, true] {
                let scale = Scale::around(values.iter().copied(), 5, whole);
                assert!(scale.ticks.len() <= 101, "{values:?}");
            }
        }
    }
}
