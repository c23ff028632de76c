//! What became of the requests at one rate.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::{Outcome, Sent};

/// Counts and latencies. A request is in time if it was answered within the deadline, counted from the time at
/// which it was to be sent.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// Requests a second.
    pub rate: f64,
    pub sent: usize,
    pub in_time: usize,
    /// Answered after the deadline.
    pub late: usize,
    /// 503, at once.
    pub refused: usize,
    /// 504: not computed, because the deadline was over.
    pub expired: usize,
    pub failed: usize,
    /// What went wrong, with how often; at most ten kinds.
    pub failures: BTreeMap<String, usize>,
    /// Answers in time a second.
    pub goodput: f64,
    /// Of all answers, in milliseconds; 0 without one.
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    /// Of the refusals, in milliseconds: how promptly they come; 0 without one.
    pub refused_p99_ms: f64,
    /// Of the answers in time, in percent; `None` where classes are not known.
    pub top1: Option<f64>,
    /// Answers in time by size.
    pub sizes: BTreeMap<String, usize>,
}

impl Report {
    /// Of requests that were sent over so long.
    pub fn new(all: &[Sent], deadline: Duration, length: Duration) -> Report {
        const MOST_KINDS: usize = 10;
        let seconds = length.as_secs_f64().max(1e-9);
        let mut report = Report {
            rate: all.len() as f64 / seconds,
            sent: all.len(),
            ..Report::default()
        };
        let (mut answered, mut refused) = (Vec::new(), Vec::new());
        let (mut known, mut correct) = (0_usize, 0_usize);
        for Sent { latency, outcome } in all {
            match outcome {
                Outcome::Answered { size, correct: is } => {
                    answered.push(*latency);
                    if *latency > deadline {
                        report.late += 1;
                        continue;
                    }
                    report.in_time += 1;
                    *report.sizes.entry(size.clone()).or_default() += 1;
                    known += usize::from(is.is_some());
                    correct += usize::from(*is == Some(true));
                }
                Outcome::Refused => {
                    report.refused += 1;
                    refused.push(*latency);
                }
                Outcome::Expired => report.expired += 1,
                Outcome::Failed(why) => {
                    report.failed += 1;
                    let kinds = report.failures.len();
                    match report.failures.get_mut(why) {
                        Some(count) => *count += 1,
                        None if kinds < MOST_KINDS => drop(report.failures.insert(why.clone(), 1)),
                        None => {}
                    }
                }
            }
        }
        answered.sort_unstable();
        refused.sort_unstable();
        report.goodput = report.in_time as f64 / seconds;
        report.p50_ms = quantile(&answered, 0.5);
        report.p99_ms = quantile(&answered, 0.99);
        report.p999_ms = quantile(&answered, 0.999);
        report.refused_p99_ms = quantile(&refused, 0.99);
        report.top1 = (known > 0).then(|| 100.0 * correct as f64 / known as f64);
        report
    }

    /// The share of the requests, in percent.
    pub fn percent(&self, count: usize) -> f64 {
        100.0 * count as f64 / self.sent.max(1) as f64
    }
}

/// The smallest value that at least this share is not above, in milliseconds; 0 without values.
fn quantile(sorted: &[Duration], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    let value = sorted.get(rank.saturating_sub(1));
    value.map_or(0.0, |value| value.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_is_counted_once() {
        let sent = |ms: u64, outcome: Outcome| Sent {
            latency: Duration::from_millis(ms),
            outcome,
        };
        let answered = |ms, size: &str, correct| {
            let size = size.to_owned();
            sent(ms, Outcome::Answered { size, correct })
        };
        let all = [
            answered(10, "64", Some(true)),
            answered(50, "64", Some(false)),
            answered(20, "32", None),
            answered(51, "32", Some(true)),
            sent(1, Outcome::Refused),
            sent(60, Outcome::Expired),
            sent(5, Outcome::Failed("reset".to_owned())),
            sent(6, Outcome::Failed("reset".to_owned())),
        ];
        let report = Report::new(&all, Duration::from_millis(50), Duration::from_secs(2));
        let counts = (report.sent, report.in_time, report.late, report.refused);
        assert_eq!(counts, (8, 3, 1, 1));
        assert_eq!((report.expired, report.failed), (1, 2));
        assert_eq!(report.failures["reset"], 2);
        assert_eq!((report.rate, report.goodput), (4.0, 1.5));
        assert_eq!((report.p50_ms, report.p99_ms), (20.0, 51.0));
        assert_eq!(report.refused_p99_ms, 1.0);
        assert_eq!(report.top1, Some(50.0));
        assert_eq!(report.sizes["64"], 2);
        assert_eq!(report.percent(report.in_time), 37.5);
        let none = Report::new(&[], Duration::ZERO, Duration::ZERO);
        assert_eq!((none.p50_ms, none.top1), (0.0, None));
    }
}
