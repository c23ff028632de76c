//! A histogram of durations with logarithmic buckets, recorded by many threads without a lock.
//!
//! The hdrhistogram crate records through `&mut`, or through a recorder for each thread whose counts
//! a reader collects with a rendezvous; atomics need neither.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// 16 buckets for each octave: the middle of a bucket is within 1/32 of its values.
const FINE_BITS: u32 = 4;
const FINE: usize = 1 << FINE_BITS;
/// Up to 2^40 ns, 18 minutes; longer durations are counted in the last bucket.
const BUCKETS: usize = (40 - FINE_BITS as usize + 1) * FINE;

#[derive(Debug)]
pub(crate) struct Histogram(Box<[AtomicU64]>);

impl Default for Histogram {
    fn default() -> Self {
        Histogram((0..BUCKETS).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Histogram {
    pub fn record(&self, nanoseconds: u64) {
        self.0[bucket(nanoseconds)].fetch_add(1, Relaxed);
    }

    pub fn read(&self) -> Times {
        Times(self.0.iter().map(|count| count.load(Relaxed)).collect())
    }
}

/// Exact below [`FINE`], then [`FINE`] buckets for each octave.
fn bucket(nanoseconds: u64) -> usize {
    let shift = (u64::BITS - nanoseconds.leading_zeros()).saturating_sub(FINE_BITS + 1);
    let bucket = shift as usize * FINE + (nanoseconds >> shift) as usize;
    bucket.min(BUCKETS - 1)
}

/// The middle of a bucket.
fn middle(bucket: usize) -> u64 {
    if bucket < 2 * FINE {
        return bucket as u64;
    }
    let shift = bucket / FINE - 1;
    let least = ((bucket % FINE + FINE) as u64) << shift;
    least + (1 << shift) / 2
}

/// The times per item of a node, exact to 4 %.
#[derive(Clone, Default)]
pub struct Times(Vec<u64>);

impl Times {
    /// Number of items.
    pub fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The quantile `share` (0.5: the median); `None` without items.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let rank = ((self.count() as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        let found = self.0.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        found.map(|bucket| Duration::from_nanos(middle(bucket)))
    }

    /// The difference to an earlier reading.
    pub(crate) fn since(&self, earlier: &Times) -> Times {
        let pairs = self.0.iter().zip(&earlier.0);
        Times(pairs.map(|(now, then)| now.saturating_sub(*then)).collect())
    }
}

impl fmt::Debug for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let median = self.quantile(0.5).unwrap_or_default();
        write!(f, "{} items, median {median:?}", self.count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_near_their_values_and_in_order() {
        let mut last = 0;
        for value in (0..100).chain((7..40).flat_map(|octave| {
            let least = 1u64 << octave;
            [least - 1, least, least + least / 3, least + least / 2]
        })) {
            let found = bucket(value);
            assert!(found >= last, "{value}");
            last = found;
            let error = middle(found).abs_diff(value) as f64;
            assert!(error <= value as f64 / 32.0, "{value}: {}", middle(found));
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_those_of_the_values() {
        let histogram = Histogram::default();
        assert_eq!(histogram.read().quantile(0.5), None);
        for value in 1..=1000u64 {
            histogram.record(value * 1000);
        }
        let first = histogram.read();
        for (share, expected) in [(0.0, 1.0), (0.5, 500.0), (0.99, 990.0), (1.0, 1000.0)] {
            let found = first.quantile(share).unwrap().as_secs_f64() * 1e6;
            assert!((found / expected - 1.0).abs() < 0.04, "{share}: {found}");
        }
        histogram.record(5);
        let later = histogram.read().since(&first);
        assert_eq!(later.count(), 1);
        assert_eq!(later.quantile(0.99), Some(Duration::from_nanos(5)));
    }
}
