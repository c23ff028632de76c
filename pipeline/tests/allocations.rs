//! In the steady state decoding and resizing take no memory: what a worker needs it has from the
//! images before.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;

use rsflow_pipeline::pixels::{Decoder, Limits, Rect, Resizer, Verify, crop, header};

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

/// Counts by thread what is asked of the system.
struct Counting;

// SAFETY: all is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_worker_takes_no_memory_once_it_has_seen_such_images() {
    const SIZES: [u32; 3] = [64, 48, 32];
    // Sequential, one scan: photographs as most are. Some bring Huffman tables of their own.
    const FILES: [&str; 7] = [
        "baseline_420.jpg",
        "baseline_420_restart.jpg",
        "baseline_422.jpg",
        "baseline_444.jpg",
        "grey.jpg",
        "optimized.jpg",
        "rgb.jpg",
    ];
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/images");
    let files = FILES.map(|name| {
        let bytes = std::fs::read(images.join(name)).unwrap();
        let header = header(&bytes, &Limits::default()).unwrap();
        (name, bytes, header)
    });
    let mut outputs = SIZES.map(|size| vec![0; (size * size * 3) as usize]);
    let (mut decoder, mut resizer) = (Decoder::new(), Resizer::new());
    for round in 0..2 {
        for (name, bytes, header) in &files {
            let region = Rect {
                x: 3,
                y: 5,
                width: header.width - 7,
                height: header.height - 9,
            };
            let before = ALLOCATIONS.get();
            for verify in [Verify::Region, Verify::Full] {
                let pixels = decoder.decode(bytes, header, region, verify).unwrap();
                for (size, output) in SIZES.into_iter().zip(&mut outputs) {
                    let plan = crop::training(region, size, size == 48);
                    resizer.render(pixels, &plan, output).unwrap();
                }
            }
            let taken = ALLOCATIONS.get() - before;
            assert!(round == 0 || taken == 0, "{name}: {taken} allocations");
        }
    }
    assert!(ALLOCATIONS.get() > 0, "nothing was counted");
}
