//! Traces in Chrome's trace event format, which Perfetto opens.

use std::io::Write;

use anyhow::Result;
use rsflow_graph::Recorded;
use serde_json::{Value, json};

/// The number of the only process.
const PID: u32 = 1;

/// Writes one JSON object: a track for each thread with a slice for each node and item, and a
/// counter for each queue. Times are in microseconds.
pub fn write(recorded: &Recorded, out: &mut dyn Write) -> Result<()> {
    let process = metadata("process_name", 0, "rsflow");
    let threads = recorded.threads.iter().enumerate();
    let threads = threads.map(|(thread, name)| metadata("thread_name", tid(thread), name));
    let slices = recorded.slices.iter().map(|slice| {
        let item = slice.item.as_ref();
        let args = item.map(|key| json!({ "epoch": key.epoch, "index": key.index }));
        json!({
            "name": slice.node.name,
            "cat": slice.node.kind,
            "ph": "X",
            "ts": slice.start.as_nanos() as f64 / 1e3,
            "dur": slice.length.as_nanos() as f64 / 1e3,
            "pid": PID,
            "tid": tid(slice.thread),
            "args": args.unwrap_or_else(|| json!({})),
        })
    });
    let levels = recorded.levels.iter().map(|level| {
        json!({
            "name": format!("queue of {}", level.node.name),
            "cat": "queue",
            "ph": "C",
            "ts": level.at.as_nanos() as f64 / 1e3,
            "pid": PID,
            "tid": 0,
            "args": { "items": level.waiting },
        })
    });
    let events = [process].into_iter().chain(threads);
    out.write_all(b"{\"displayTimeUnit\":\"ms\",\"traceEvents\":[")?;
    for (number, event) in events.chain(slices).chain(levels).enumerate() {
        out.write_all(if number == 0 { b"\n" } else { b",\n" })?;
        serde_json::to_writer(&mut *out, &event)?;
    }
    Ok(out.write_all(b"\n]}\n")?)
}

/// The number of a thread's track; 0 is the process.
fn tid(thread: usize) -> usize {
    thread + 1
}

fn metadata(what: &str, tid: usize, name: &str) -> Value {
    json!({ "name": what, "ph": "M", "pid": PID, "tid": tid, "args": { "name": name } })
}
