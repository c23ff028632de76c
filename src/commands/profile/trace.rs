//! Traces in Chrome's trace event format, which Perfetto opens.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::Result;
use rsflow_cupti::{Activity, What, demangled, group_of};
use rsflow_graph::Recorded;
use serde_json::{Value, json};

/// The number of the only process.
const PID: u32 = 1;

/// What GPUs did.
pub struct OnGpu<'a> {
    pub activities: &'a [Activity],
    /// When the trace began, by the clock of the activities.
    pub began: u64,
    /// Those for which there was no room.
    pub dropped: usize,
}

/// Writes one JSON object: a track for each thread with a slice for each node and item, a counter for each
/// queue, and two tracks for each GPU, with its kernels and its copies. Times are in microseconds.
pub fn write(recorded: &Recorded, gpu: Option<&OnGpu>, out: &mut dyn Write) -> Result<()> {
    let process = metadata("process_name", 0, "rsflow");
    let threads = recorded.threads.iter().enumerate();
    let threads = threads.map(|(thread, name)| metadata("thread_name", tid(thread), name));
    let slices = recorded.slices.iter().map(|slice| {
        let item = slice.item.as_ref();
        let args = item.map(|key| json!({ "epoch": key.epoch + 1, "index": key.index }));
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
    let of_gpu = gpu
        .into_iter()
        .flat_map(|gpu| on_gpu(gpu, recorded.threads.len()));
    let events = [process].into_iter().chain(threads);
    out.write_all(b"{\"displayTimeUnit\":\"ms\",\"traceEvents\":[")?;
    for (number, event) in events.chain(slices).chain(levels).chain(of_gpu).enumerate() {
        out.write_all(if number == 0 { b"\n" } else { b",\n" })?;
        serde_json::to_writer(&mut *out, &event)?;
    }
    Ok(out.write_all(b"\n]}\n")?)
}

/// The events of GPUs, whose tracks come after those of so many threads.
fn on_gpu<'a>(gpu: &'a OnGpu, threads: usize) -> impl Iterator<Item = Value> + 'a {
    let is_kernel = |activity: &Activity| matches!(activity.what, What::Kernel(_));
    let track = move |activity: &Activity| {
        tid(threads) + 2 * activity.device as usize + usize::from(!is_kernel(activity))
    };
    let mut tracks = BTreeMap::new();
    for activity in gpu.activities {
        let what = if is_kernel(activity) {
            "kernels"
        } else {
            "copies"
        };
        tracks
            .entry(track(activity))
            .or_insert_with(|| format!("GPU {}: {what}", activity.device));
    }
    let tracks = tracks.into_iter();
    let tracks = tracks.map(|(tid, name)| metadata("thread_name", tid, &name));
    let slices = gpu.activities.iter().map(move |activity| {
        let (name, category, bytes) = match &activity.what {
            What::Kernel(name) => (demangled(name), group_of(name).to_string(), None),
            What::Copy { kind, bytes } => {
                (format!("copy {kind:?}"), "copy".to_owned(), Some(bytes))
            }
            What::Set { bytes } => ("fill".to_owned(), "copy".to_owned(), Some(bytes)),
        };
        json!({
            "name": name,
            "cat": category,
            "ph": "X",
            "ts": (activity.start as f64 - gpu.began as f64) / 1e3,
            "dur": activity.end.saturating_sub(activity.start) as f64 / 1e3,
            "pid": PID,
            "tid": track(activity),
            "args": bytes.map_or_else(|| json!({}), |bytes| json!({ "bytes": bytes })),
        })
    });
    tracks.chain(slices)
}

/// The number of a thread's track; 0 is the process.
fn tid(thread: usize) -> usize {
    thread + 1
}

fn metadata(what: &str, tid: usize, name: &str) -> Value {
    json!({ "name": what, "ph": "M", "pid": PID, "tid": tid, "args": { "name": name } })
}
