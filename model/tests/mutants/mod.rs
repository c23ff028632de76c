//! Random changes of files: a fuzzer that needs no other compiler.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// Calls `try_one` with changed copies of `sound`: with 300, or as many as `RSFLOW_FUZZ_SECONDS`
/// allow.
pub fn each(sound: &[u8], mut try_one: impl FnMut(&[u8])) {
    let seconds = std::env::var("RSFLOW_FUZZ_SECONDS").ok();
    let seconds = seconds.and_then(|seconds| seconds.parse().ok());
    let end = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut seed = 0;
    while end.map_or(seed < 300, |end| Instant::now() < end) {
        let mut random = StdRng::seed_from_u64(seed);
        let mut bytes = sound.to_vec();
        for _ in 0..random.random_range(1..4) {
            change(&mut bytes, &mut random);
        }
        try_one(&bytes);
        seed += 1;
    }
    if end.is_some() {
        println!("{seed} mutants");
    }
}

fn change(bytes: &mut Vec<u8>, random: &mut StdRng) {
    const TELLING: [u8; 12] = [
        0, 1, 0x7f, 0x80, 0xff, b'0', b'9', b'"', b'[', b'}', b'-', b'.',
    ];
    let at = random.random_range(0..bytes.len());
    let length = random.random_range(1..=64).min(bytes.len() - at);
    match random.random_range(0..7) {
        0 => bytes[at] ^= 1 << random.random_range(0..8),
        1 => bytes[at] = TELLING[random.random_range(0..TELLING.len())],
        2 => drop(bytes.drain(at..at + length)),
        3 => {
            let part = bytes[at..at + length].to_vec();
            let to = random.random_range(0..bytes.len());
            bytes.splice(to..to, part);
        }
        4 => bytes[at..at + length].fill(0xff),
        5 => bytes.insert(at, TELLING[random.random_range(0..TELLING.len())]),
        _ => bytes[at] = random.random(),
    }
    if bytes.is_empty() {
        bytes.push(0);
    }
}
