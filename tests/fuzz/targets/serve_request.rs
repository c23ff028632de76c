//! Any bytes as a request for the server, over HTTP and over gRPC. Nothing may panic, and no request may take much
//! more memory than its bytes.

#![no_main]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::LazyLock;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use rsflow_serve::server::Config;
use rsflow_serve::server::fuzzing::{grpc, http};

/// Memory for each byte of a request: a number of two bytes in JSON may be four in a vector that has room for as many
/// again, and a character in an error may be an escape of eight.
const TIMES: usize = 16;
/// And for any: errors, and as many fields as a small message may have.
const MORE: usize = 128 << 10;

static CONFIG: LazyLock<Config> = LazyLock::new(|| Config {
    listen: "127.0.0.1:0".parse().expect("an address"),
    name: "m".to_owned(),
    deadline: Duration::from_millis(50),
    switching: true,
    floor: None,
    max_batch: 4,
    queue: 16,
});

fuzz_target!(|bytes: &[u8]| {
    // The header with the length of the JSON is what comes before the first line break, if any.
    let end = bytes.iter().take(24).position(|byte| *byte == b'\n');
    let (length, body) = match end {
        Some(end) => (Some(&bytes[..end]), &bytes[end + 1..]),
        None => (None, bytes),
    };
    let body = body.to_vec().into();
    let most = TIMES * bytes.len() + MORE;
    for read in [&|| http(&CONFIG, length, &body), &|| grpc(&CONFIG, &body)] as [&dyn Fn(); 2] {
        let before = HELD.load(Relaxed);
        PEAK.store(before, Relaxed);
        read();
        let took = PEAK.load(Relaxed).saturating_sub(before);
        assert!(took <= most, "{} bytes took {took}", bytes.len());
    }
});

#[global_allocator]
static COUNTED: Counted = Counted;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// The system's, and how much of it is held.
struct Counted;

unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(HELD.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let held = HELD.fetch_add(size, Relaxed) + size;
        HELD.fetch_sub(layout.size(), Relaxed);
        PEAK.fetch_max(held - layout.size(), Relaxed);
        unsafe { System.realloc(block, layout, size) }
    }
}
