//! Sizes of training images that grow over the epochs.
//!
//! It is here because both sides need it: the data nodes make such images, the trainer checks that its
//! network can take them.

use schemars::JsonSchema;
use serde::Deserialize;

/// Sizes that grow over the epochs, for faster training ("Progressive resizing", as FFCV's): each has the share
/// `from` of its full size up to epoch `start`, then grows in a straight line, and has its full size from epoch
/// `until` on.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Growth {
    /// The share at first, above 0 and below 1, such as 0.7.
    pub from: f64,
    /// The first epoch with full sizes, counted from 0.
    pub until: u64,
    /// The first epoch of growth, counted from 0.
    #[serde(default)]
    pub start: u64,
    /// Sizes are rounded to multiples of so many pixels.
    #[serde(default = "eight")]
    pub multiple_of: u32,
}

fn eight() -> u32 {
    8
}

impl Growth {
    /// The errors in its fields: field, error, help.
    pub fn check(&self) -> Vec<(&'static str, String, &'static str)> {
        let mut errors = Vec::new();
        if !(self.from > 0.0 && self.from < 1.0) {
            let error = format!("`from` must be above 0 and below 1, not {}", self.from);
            errors.push(("from", error, "such as `from: 0.7`"));
        }
        if self.until <= self.start {
            let (until, start) = (self.until, self.start);
            let error = format!("`until`, {until}, must be after `start`, {start}");
            errors.push(("until", error, "such as `until: 60` of 90 epochs"));
        }
        if self.multiple_of == 0 {
            let error = "`multiple_of` must be at least 1".to_owned();
            errors.push(("multiple_of", error, "8 is the default"));
        }
        errors
    }

    /// What a size is in an epoch: a multiple of `multiple_of`, or the full size.
    pub fn size(&self, full: u32, epoch: u64) -> u32 {
        if epoch >= self.until {
            return full;
        }
        let done = epoch.saturating_sub(self.start) as f64;
        let done = done / self.until.saturating_sub(self.start).max(1) as f64;
        let share = self.from + (1.0 - self.from) * done;
        let multiple = self.multiple_of.max(1);
        let steps = (f64::from(full) * share / f64::from(multiple)).round() as u32;
        (steps.max(1) * multiple).min(full)
    }

    /// The same of several.
    pub fn sizes(&self, full: &[u32], epoch: u64) -> Vec<u32> {
        full.iter().map(|&size| self.size(size, epoch)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_grow_from_their_share_to_the_whole() {
        let growth = |from, start, until, multiple_of| Growth {
            from,
            until,
            start,
            multiple_of,
        };
        for (growth, full, expected) in [
            // Epochs 0 to 5.
            (growth(0.5, 0, 4, 8), 128, [64, 80, 96, 112, 128, 128]),
            (growth(0.5, 2, 4, 8), 128, [64, 64, 64, 96, 128, 128]),
            (growth(0.7, 0, 3, 32), 224, [160, 192, 192, 224, 224, 224]),
            // Never above the full size, which need not be a multiple, and never 0.
            (growth(0.9, 0, 2, 32), 100, [96, 96, 100, 100, 100, 100]),
            (growth(0.01, 0, 5, 8), 32, [8, 8, 16, 16, 24, 32]),
            (growth(0.5, 0, 2, 64), 32, [32, 32, 32, 32, 32, 32]),
        ] {
            let found: Vec<u32> = (0..6).map(|epoch| growth.size(full, epoch)).collect();
            assert_eq!(found, expected, "{growth:?} of {full}");
            assert!(growth.check().is_empty());
        }
        let errors = growth(1.0, 3, 3, 0).check();
        let fields: Vec<&str> = errors.iter().map(|(field, ..)| *field).collect();
        assert_eq!(fields, ["from", "until", "multiple_of"]);
    }
}
