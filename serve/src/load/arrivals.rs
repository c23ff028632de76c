//! When requests are sent.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rand_distr::{Distribution as _, Exp1};
use rsflow_base::keyed;

/// Poisson arrivals: `rate` requests a second for so long, the same at each call with the same seed. With
/// `bursts` above 0, the rate is that share higher in the first second and each other one, and lower between.
pub fn arrivals(rate: f64, bursts: f64, length: Duration, seed: u64) -> Vec<Duration> {
    let mut random = keyed::random(
        seed,
        "load",
        "arrivals",
        &[rate.to_bits(), bursts.to_bits()],
    );
    let length = length.as_secs_f64();
    let mut times = Vec::new();
    let (mut now, mut second) = (0.0, 0_u64);
    while now < length {
        let now_rate = match second % 2 {
            0 => rate * (1.0 + bursts),
            _ => rate * (1.0 - bursts),
        };
        let unit: f64 = Exp1.sample(&mut random);
        let next = now + unit / now_rate;
        // Beyond this second the rate is another one. What has not arrived until then has no memory of how long
        // it has been due.
        let end = (second + 1) as f64;
        if next >= end {
            (now, second) = (end, second + 1);
            continue;
        }
        now = next;
        if now < length {
            times.push(Duration::from_secs_f64(now));
        }
    }
    times
}

/// Times of arrival of a trace: one number of seconds a line, in any order; the first one is the start.
///
/// # Errors
/// A line is no number; there is none.
pub fn read_trace(text: &str) -> Result<Vec<Duration>> {
    let lines = text.lines().enumerate().map(|(at, line)| (at, line.trim()));
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let times = lines.map(|(at, line)| {
        let time = line.parse::<f64>().ok().filter(|time| time.is_finite());
        time.with_context(|| format!("line {}: {line:?} is no number of seconds", at + 1))
    });
    let mut times = times.collect::<Result<Vec<f64>>>()?;
    ensure!(!times.is_empty(), "there are no times in it");
    times.sort_by(f64::total_cmp);
    let first = times[0];
    let times = times.into_iter().map(|time| time - first);
    times
        .map(|time| Duration::try_from_secs_f64(time).context("a time is too far from the first"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_arrive_as_the_rate_says() {
        let minute = Duration::from_secs(60);
        let in_second = |times: &[Duration], odd: u64| {
            let of_it = |time: &&Duration| time.as_secs() % 2 == odd;
            times.iter().filter(of_it).count() as f64
        };
        for (rate, bursts) in [(100.0, 0.0), (100.0, 0.5), (3.0, 0.3), (1.0, 1.0)] {
            let times = arrivals(rate, bursts, minute, 7);
            assert!(times.is_sorted());
            assert!(times.iter().all(|time| *time < minute));
            for (odd, sign) in [(0, 1.0), (1, -1.0)] {
                let expected = 30.0 * rate * (1.0 + sign * bursts);
                let off = (in_second(&times, odd) - expected).abs();
                assert!(
                    off <= 4.0 * expected.sqrt(),
                    "{rate} {bursts} {odd}: off by {off}"
                );
            }
            assert_eq!(times, arrivals(rate, bursts, minute, 7));
            assert_ne!(times, arrivals(rate, bursts, minute, 8));
        }
    }

    #[test]
    fn a_trace_has_a_time_a_line() {
        let times = read_trace("# seconds\n12.5\n\n10\n11.25 \n").unwrap();
        let expected = [0.0, 1.25, 2.5].map(Duration::from_secs_f64);
        assert_eq!(times, expected);
        for (text, expected) in [
            ("1\nx\n", "line 2: \"x\""),
            ("1\nNaN", "line 2"),
            ("# none\n", "no times"),
            ("0\n1e300", "too far"),
        ] {
            let error = read_trace(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
