//! The policy as a function, and the server's queue with it under simulated load.

use std::time::{Duration, Instant};

use rand::{RngExt as _, SeedableRng as _};
use rand_xoshiro::Xoshiro256PlusPlus;
use rsflow_serve::server::policy::{Load, Rules, Waiting, admit, choose, drain, fits};
use rsflow_serve::server::profile::{Curve, Profile};
use rsflow_serve::server::queue::{Asked, Entry, Queue, Refused};

/// ResNet50 of the paper: sizes, millions of multiply-adds, top-1.
const SIZES: [(u32, f64, f64); 5] = [
    (224, 4089.2, 79.3),
    (192, 3004.8, 78.8),
    (160, 2087.3, 77.9),
    (128, 1336.6, 76.3),
    (96, 752.7, 72.7),
];

/// Seconds for a batch, and for each image in it at 224.
#[derive(Clone, Copy)]
struct Device {
    fixed: f64,
    image: f64,
    /// Of the logarithm of a batch's time.
    noise: f64,
    largest: usize,
    deadline: f64,
}

const GPU: Device = Device {
    fixed: 0.6e-3,
    image: 0.125e-3,
    noise: 0.03,
    largest: 64,
    deadline: 0.05,
};
const TWO_CORES: Device = Device {
    fixed: 2e-3,
    image: 60e-3,
    noise: 0.05,
    largest: 8,
    deadline: 1.0,
};

impl Device {
    fn mean(&self, row: usize, images: usize) -> f64 {
        self.fixed + images as f64 * self.image * SIZES[row].1 / SIZES[0].1
    }

    fn profile(&self) -> Profile {
        let counts = || std::iter::successors(Some(1), |n| Some(n * 2));
        let curve = |row| Curve {
            measured: counts()
                .take_while(|n| *n <= self.largest)
                .map(|n| (n, self.mean(row, n)))
                .collect(),
        };
        Profile::new((0..SIZES.len()).map(curve).collect(), Vec::new())
    }

    /// Images per second that a server fixed at 224 can do.
    fn capacity(&self) -> f64 {
        self.largest as f64 / self.mean(0, self.largest)
    }

    fn rules(&self) -> Rules {
        Rules {
            automatic: SIZES.len(),
            deadline: self.deadline,
        }
    }
}

struct Random(Xoshiro256PlusPlus);

impl Random {
    fn new(seed: u64) -> Self {
        Random(Xoshiro256PlusPlus::seed_from_u64(seed))
    }

    fn uniform(&mut self) -> f64 {
        self.0.random::<f64>()
    }

    fn below(&mut self, n: usize) -> usize {
        (self.uniform() * n as f64) as usize
    }

    fn exponential(&mut self, rate: f64) -> f64 {
        -(1.0 - self.uniform()).ln() / rate
    }

    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

/// An image that is there, at any size.
fn one(deadline: Instant) -> Asked {
    Asked {
        row: None,
        images: 1,
        before: 0.0,
        deadline,
    }
}

fn some_waiting(random: &mut Random, most: usize) -> Waiting {
    let deadlines = |random: &mut Random, n: usize| {
        let mut deadlines: Vec<f64> = (0..n).map(|_| 0.004 + random.uniform() * 0.06).collect();
        deadlines.sort_by(f64::total_cmp);
        deadlines
    };
    let n = random.below(most);
    Waiting {
        any: deadlines(random, n),
        at: vec![Vec::new(); SIZES.len()],
    }
}

#[test]
fn an_idle_server_takes_the_largest_size() {
    for device in [GPU, TWO_CORES] {
        let waiting = Waiting {
            any: vec![0.9 * device.deadline],
            at: Vec::new(),
        };
        let load = Load {
            rate: 1.0,
            troubled: false,
        };
        assert_eq!(
            choose(&device.rules(), &device.profile(), &waiting, &load),
            0
        );
        // With a floor or without switching, sizes are a part of them.
        let rules = Rules {
            automatic: 1,
            ..device.rules()
        };
        let flood = Waiting {
            any: vec![1e-6; 5000],
            at: Vec::new(),
        };
        assert_eq!(choose(&rules, &device.profile(), &flood, &load), 0);
    }
}

#[test]
fn more_that_waits_or_comes_never_gives_a_larger_size() {
    let (rules, profile) = (GPU.rules(), GPU.profile());
    let mut random = Random::new(1);
    for _ in 0..3000 {
        let waiting = some_waiting(&mut random, 600);
        let load = Load {
            rate: random.uniform() * 40_000.0,
            troubled: false,
        };
        let row = choose(&rules, &profile, &waiting, &load);
        let mut more = waiting.clone();
        more.any.push(random.uniform() * 0.06);
        more.any.sort_by(f64::total_cmp);
        let more_comes = Load {
            rate: load.rate * (1.0 + random.uniform()),
            ..load
        };
        assert!(choose(&rules, &profile, &more, &load) >= row);
        assert!(choose(&rules, &profile, &waiting, &more_comes) >= row);
        let troubled = Load {
            troubled: true,
            ..load
        };
        assert_eq!(choose(&rules, &profile, &waiting, &troubled), 4);
    }
}

#[test]
fn a_size_that_misses_a_deadline_is_taken_only_if_all_smaller_ones_do_not_fit() {
    let (rules, profile) = (GPU.rules(), GPU.profile());
    let mut random = Random::new(2);
    let mut missed = 0;
    for _ in 0..3000 {
        let mut waiting = some_waiting(&mut random, 1200);
        for at in &mut waiting.at {
            *at = some_waiting(&mut random, 40).any;
        }
        let load = Load {
            rate: random.uniform() * 40_000.0,
            troubled: false,
        };
        let row = choose(&rules, &profile, &waiting, &load);
        if !drain(&profile, &waiting, row).in_time {
            missed += 1;
            let smaller = row + 1..SIZES.len();
            assert!(
                smaller
                    .into_iter()
                    .all(|row| !fits(&rules, &profile, &waiting, &load, row))
            );
        }
        let larger = 0..row;
        assert!(
            larger
                .into_iter()
                .all(|row| !fits(&rules, &profile, &waiting, &load, row))
        );
    }
    assert!((300..2700).contains(&missed), "both happens: {missed}");
}

#[test]
fn only_what_misses_at_the_smallest_size_is_refused() {
    let profile = GPU.profile();
    let mut random = Random::new(3);
    for _ in 0..3000 {
        let mut ahead = vec![0; SIZES.len()];
        ahead[4] = random.below(1500) * random.below(2);
        let (busy, left) = (random.uniform() * 0.01, random.uniform() * 0.06);
        let admitted = admit(&profile, &ahead, busy, 4, left);
        // Behind a whole batch, its own will be a whole one, too.
        let images = match ahead[4] + 1 {
            images if images <= 64 => images,
            images => images.next_multiple_of(64),
        };
        let takes = busy + profile.predict_all(4, images);
        // With others before it, a tenth of the deadline is kept in reserve.
        let left = if ahead[4] == 0 { left } else { 0.9 * left };
        match admitted {
            Ok(()) => assert!(takes <= left),
            Err(later) => assert!(takes > left && (later - (takes - left)).abs() < 1e-12),
        }
    }
}

#[test]
fn a_prediction_follows_the_device_and_forgets() {
    let mut profile = GPU.profile();
    let before = profile.predict(0, 64);
    for _ in 0..300 {
        profile.observe(4, 64, 2.0 * GPU.mean(4, 64));
    }
    let after = profile.predict(4, 64) / GPU.mean(4, 64);
    assert!((after - 2.0).abs() < 0.02, "{after}");
    assert!(profile.predict(0, 64) > 1.3 * before, "all of it is slower");
    for _ in 0..3000 {
        profile.observe(4, 64, GPU.mean(4, 64));
    }
    let after = profile.predict(0, 64) / before;
    assert!((0.8..1.2).contains(&after), "it is as before: {after}");
    // One stall is no change.
    profile.observe(0, 64, 3.0);
    assert!(profile.predict(0, 64) < 1.3 * before);
    // Whatever is observed, more images and larger sizes take no less.
    let mut random = Random::new(4);
    for _ in 0..2000 {
        let (row, images) = (random.below(5), 1 + random.below(64));
        profile.observe(row, images, random.uniform() * 0.02);
        let images = 1 + random.below(63);
        assert!(profile.predict(row, images) <= profile.predict(row, images + 1));
        assert!(row == 4 || profile.predict(row, images) >= profile.predict(row + 1, images));
    }
}

/// What a simulation found.
#[derive(Debug, Default)]
struct Found {
    requests: usize,
    in_time: usize,
    refused: usize,
    /// Top-1 of what was in time, summed.
    top1: f64,
}

impl Found {
    fn share(&self) -> f64 {
        100.0 * self.in_time as f64 / self.requests as f64
    }

    fn top1(&self) -> f64 {
        self.top1 / self.in_time.max(1) as f64
    }
}

/// `(seconds, requests per second, burst)`: with a burst, the rate alternates between (1 - burst) and (1 + burst)
/// times, 0.2 s each on average.
type Trace<'a> = &'a [(f64, f64, f64)];

/// The server's own queue and policy, open loop, in virtual time.
fn simulate(device: Device, automatic: usize, trace: Trace<'_>, seed: u64) -> Found {
    let mut random = Random::new(seed);
    let mut arrivals = Vec::new();
    let mut time = 0.0;
    for &(seconds, rate, burst) in trace {
        let (end, mut is_high, mut change) = (time + seconds, false, time);
        while time < end {
            if time >= change {
                is_high = !is_high;
                change = time + random.exponential(5.0);
            }
            let now = rate * if is_high { 1.0 + burst } else { 1.0 - burst };
            time += random.exponential(now);
            arrivals.push(time);
        }
    }
    let start = Instant::now();
    let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
    let rules = Rules {
        automatic,
        deadline: device.deadline,
    };
    let mut queue = Queue::new(rules, device.profile(), 10_000, |_: &usize| false, start);
    let mut found = Found {
        requests: arrivals.len(),
        ..Found::default()
    };
    let mut late = Vec::new();
    let (mut next, mut now) = (0, 0.0_f64);
    while next < arrivals.len() || !queue.is_empty() {
        if queue.is_empty() {
            now = now.max(arrivals[next]);
        }
        // Those that came while the last batch was computed, and are judged as of then.
        while next < arrivals.len() && arrivals[next] <= now {
            submit(&mut queue, at(arrivals[next]), device.deadline, &mut found);
            next += 1;
        }
        let Some(batch) = queue.next(&mut late, at(now)) else {
            continue;
        };
        let images = batch.entries.len();
        let took = device.mean(batch.row, images) * (device.noise * random.normal()).exp();
        let end = now + took;
        // Arrivals are judged while the batch runs.
        while next < arrivals.len() && arrivals[next] <= end {
            submit(&mut queue, at(arrivals[next]), device.deadline, &mut found);
            next += 1;
        }
        now = end;
        let in_time = batch
            .entries
            .iter()
            .filter(|entry| at(now) <= entry.deadline)
            .count();
        queue.done(batch.row, images, images - in_time, at(now));
        found.in_time += in_time;
        found.top1 += in_time as f64 * SIZES[batch.row].2;
    }
    found
}

fn submit(queue: &mut Queue<usize>, now: Instant, deadline: f64, found: &mut Found) {
    let entry = Entry {
        row: None,
        arrived: now,
        deadline: now + Duration::from_secs_f64(deadline),
        job: 0,
    };
    match queue.submit(vec![entry], now) {
        Ok(()) => {}
        Err(Refused::Hopeless { .. } | Refused::Full { .. }) => found.refused += 1,
    }
}

#[test]
fn under_load_all_are_answered_at_the_largest_size_that_allows_it() {
    for (device, seconds, at_three) in [(GPU, 4.0, 75.2), (TWO_CORES, 100.0, 75.8)] {
        for seed in [1, 2] {
            let run = |automatic, load: f64, burst| {
                let trace = [(seconds, load * device.capacity(), burst)];
                simulate(device, automatic, &trace, seed)
            };
            for (load, burst, least) in [
                (0.5, 0.0, 79.2),
                (0.9, 0.3, 79.0),
                (1.5, 0.3, 78.0),
                (3.0, 0.0, at_three - 0.3),
            ] {
                let switched = run(SIZES.len(), load, burst);
                assert!(switched.share() >= 99.9, "{load} +-{burst}: {switched:?}");
                assert!(switched.top1() >= least, "{load} +-{burst}: {switched:?}");
            }
            // A server with one size answers what it can do, and refuses the rest.
            let fixed = run(1, 3.0, 0.0);
            assert!((31.0..34.0).contains(&fixed.share()), "{fixed:?}");
            // Beyond what the smallest size can do, some are refused, and all others are in time.
            let beyond = run(SIZES.len(), 4.5, 0.3);
            let late = beyond.requests - beyond.refused - beyond.in_time;
            assert!(beyond.share() > 80.0, "{beyond:?}");
            assert!((late as f64) < 0.002 * beyond.requests as f64, "{beyond:?}");
        }
    }
}

#[test]
fn one_late_request_is_no_overload() {
    let start = Instant::now();
    let at = |milliseconds| start + Duration::from_millis(milliseconds);
    let mut queue = Queue::new(GPU.rules(), GPU.profile(), 10_000, |_: &usize| false, start);
    let mut late = Vec::new();
    // 1,000 a second, one by one; at 0.5 s two are late, at 3 s twenty.
    let mut rows = Vec::new();
    for millisecond in 0..6000 {
        submit(&mut queue, at(millisecond), 0.05, &mut Found::default());
        let batch = queue.next(&mut late, at(millisecond)).unwrap();
        rows.push(batch.row);
        let missed = match millisecond {
            500 => 2,
            3000 => 20,
            _ => 0,
        };
        let took = Duration::from_secs_f64(batch.predicted.min(9e-4));
        queue.done(batch.row, 1, missed, at(millisecond) + took);
    }
    assert!(late.is_empty());
    let at_smallest = |row: &usize| *row == 4;
    assert_eq!(
        rows[600..3000]
            .iter()
            .filter(|row| at_smallest(row))
            .count(),
        0
    );
    assert!(rows[3001..3900].iter().all(at_smallest));
    assert_eq!(
        rows[4100..].iter().filter(|row| at_smallest(row)).count(),
        0
    );
}

#[test]
fn cancelled_requests_keep_nobody_out() {
    let now = Instant::now();
    let entry = |is_cancelled| Entry {
        row: None,
        arrived: now,
        deadline: now + Duration::from_millis(50),
        job: is_cancelled,
    };
    let deadline = entry(false).deadline;
    let filled = |is_cancelled: bool| {
        let mut queue = Queue::new(GPU.rules(), GPU.profile(), 10_000, |job: &bool| *job, now);
        let mut count = 0;
        while queue
            .admits(one(deadline), now)
            .inspect_err(|refused| assert!(matches!(refused, Refused::Hopeless { .. })))
            .is_ok()
        {
            queue.submit(vec![entry(is_cancelled)], now).unwrap();
            count += 1;
        }
        assert!(count > 100, "{count}");
        queue
    };
    filled(true).submit(vec![entry(false)], now).unwrap();
    let mut queue = filled(true);
    queue.admits_files(one(deadline), now).unwrap();
    assert_eq!(queue.len(), 0);
    // Those that are waited for do.
    let mut queue = filled(false);
    queue.submit(vec![entry(false)], now).unwrap_err();
    queue.admits_files(one(deadline), now).unwrap_err();
}

#[test]
fn a_timeout_that_is_the_deadline_less_a_transfer_counts_as_trouble() {
    let now = Instant::now();
    // (milliseconds of the server's 50, named row, whether it counts)
    for (time, row, counts) in [
        (50, None, true),
        (47, None, true),
        (40, None, false),
        (47, Some(0), false),
    ] {
        let mut queue = Queue::new(GPU.rules(), GPU.profile(), 10_000, |_: &i32| false, now);
        let time = Duration::from_millis(time);
        let entry = Entry {
            row,
            arrived: now,
            deadline: now + time,
            job: 0,
        };
        assert_eq!(queue.counts_as_trouble(&entry), counts, "{time:?}, {row:?}");
        for _ in 0..3 {
            queue.expired(row, time, now);
        }
        assert_eq!(queue.watch(now).troubled, counts, "{time:?}, {row:?}");
    }
}

#[test]
fn a_step_of_the_load_loses_nothing() {
    let capacity = GPU.capacity();
    let trace = [
        (2.0, 0.5 * capacity, 0.0),
        (2.0, 3.0 * capacity, 0.3),
        (2.0, 0.5 * capacity, 0.0),
    ];
    for seed in [1, 2, 3] {
        let switched = simulate(GPU, SIZES.len(), &trace, seed);
        assert!(switched.share() >= 99.9, "{switched:?}");
        assert!(switched.top1() >= 75.2, "{switched:?}");
        let fixed = simulate(GPU, 1, &trace, seed);
        assert!(fixed.share() < 70.0, "{fixed:?}");
    }
}

#[test]
fn a_slow_moment_does_not_keep_requests_out_for_good() {
    let start = Instant::now();
    let at = |milliseconds| start + Duration::from_millis(milliseconds);
    let entry = |now: Instant| Entry {
        row: None,
        arrived: now,
        deadline: now + Duration::from_millis(50),
        job: 0,
    };
    // One image takes 30 ms of the 50.
    let curve = Curve {
        measured: vec![(1, 0.03)],
    };
    let rules = Rules {
        automatic: 1,
        deadline: 0.05,
    };
    let profile = Profile::new(vec![curve], Vec::new());
    let mut queue = Queue::new(rules, profile, 10, |_: &i32| false, start);
    let mut late = Vec::new();
    // The machine is three times as slow until nothing is admitted any more.
    let mut now = 0;
    while queue.submit(vec![entry(at(now))], at(now)).is_ok() {
        let batch = queue.next(&mut late, at(now)).unwrap();
        now += 90;
        queue.done(batch.row, 1, 1, at(now));
        assert!(now < 20_000, "it never refuses");
    }
    // The refused one, and those after it, bring the prediction back though nothing is computed.
    let mut tries = 0;
    while queue.submit(vec![entry(at(now))], at(now)).is_err() {
        now += 100;
        tries += 1;
        assert!(tries < 50, "refused for good");
    }
    queue.clear();
    let deadline = at(now) + Duration::from_millis(50);
    queue.admits_files(one(deadline), at(now)).unwrap();
}
