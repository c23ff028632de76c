//! What the engine itself costs: items that need next to no work, through a chain of five stages.
//!
//! Prints microseconds per item and hop, for a chain whose maps share a segment (as in a recipe)
//! and for one where every hop goes through a channel.

#[path = "../tests/toy.rs"]
mod toy;

use std::time::Instant;

use rsflow_graph::{Options, Running};
use toy::plan;

const ITEMS: u64 = 200_000;
/// Five stages have four hops between them.
const HOPS: u64 = 4;

/// Source, three maps, sink.
const CHAIN: &str = r#"
    "source": Count(to: 200000),
    "a": Noise(input: "source"), "b": Noise(input: "a"), "c": Noise(input: "b"),
    "keep": Keep(input: "c"),
"#;

/// The same, but a second reader of every map keeps the maps apart.
const APART: &str = r#"
    "source": Count(to: 200000),
    "a": Noise(input: "source"), "b": Noise(input: "a"), "c": Noise(input: "b"),
    "keep": Keep(input: "c"),
    "keep_source": Keep(input: "source"), "keep_a": Keep(input: "a"), "keep_b": Keep(input: "b"),
"#;

fn main() {
    for (name, nodes) in [
        ("one segment", CHAIN),
        ("a channel at every hop, twice read", APART),
    ] {
        for workers in [1, 2] {
            let plan = plan(nodes, &[&format!("cpu_workers={workers}")]);
            let options = Options {
                epochs: Some(1),
                ..Options::default()
            };
            let start = Instant::now();
            let finished = Running::start(&plan, options).and_then(Running::wait);
            let seconds = start.elapsed().as_secs_f64();
            if let Err(error) = finished {
                eprintln!("error: {error}");
                std::process::exit(1);
            }
            let cost = seconds * 1e6 / (ITEMS * HOPS) as f64;
            println!("engine, {name}, {workers} workers: {cost:.2} microseconds per item and hop");
        }
    }
}
