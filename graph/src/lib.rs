//! A recipe becomes a checked plan, a plan becomes a running graph.
//!
//! The three phases are three types, and only the next phase accepts the previous one's:
//! [`Recipe`] (what was written), [`Plan`] (what fits together), [`Running`] (what is at work).
//! This crate knows neither images nor tensors.
//!
//! | file | what it holds |
//! |---|---|
//! | `text`, `fields` | the recipe's text, the places in it, `--set` |
//! | `recipe` | reading a recipe |
//! | `node` | what a node kind is; the catalogue |
//! | `plan` | names, types, schemas, cycles |
//! | `draw` | a plan as a picture |
//! | `problem` | what is wrong with a recipe, as the user reads it |
//! | `say` | a line on stderr |
//! | `context` | what a run knows beyond its recipe: its world, run directory, checkpoint to resume |
//! | `stage` | the shapes that a running node can have: source, map, fold, thread, sink |
//! | `shard` | one process's part of a source's samples |
//! | `item`, `batch` | what travels between nodes |
//! | `ports`, `stop` | the ends of streams; how a run is told to end |
//! | `executor` | tasks, threads, channels; failures; signals |
//! | `counters`, `times`, `trace` | what each node does with its time |

mod batch;
mod context;
mod counters;
mod draw;
mod executor;
mod fields;
mod item;
mod node;
mod plan;
mod ports;
mod problem;
mod recipe;
mod say;
mod shard;
mod stage;
mod stop;
mod text;
mod times;
mod trace;
pub mod whole_file;

pub use batch::{Allocator, Batch, Memory, PlainMemory, Pool, Slots, bytes_per_image};
pub use context::{Resume, RunContext, World};
pub use counters::{Measured, Meter, Meters, NodeId, Queue, WorksOn};
pub use draw::{Format, draw};
pub use executor::{
    Failure, Feed, FeedWith, Finished, Options, RunError, Running, Skipped, Tap, Workers,
};
pub use item::{Item, Key, Message, Payload};
pub use node::{
    Build, Catalogue, Demand, Incoming, Input, Kind, Node, NodeKind, Port, Report, Schema,
};
pub use plan::{Edge, Plan, Planned};
pub use ports::{Ports, Received, Receiver, Sender};
pub use problem::{Problem, Problems, counted, did_you_mean, listed};
pub use recipe::{Recipe, differences};
pub use say::say;
pub use shard::Shard;
pub use stage::{
    AnyFold, AnyMap, AnySink, AnySource, Budget, Contents, Context, Fold, Map, OnError, Position,
    Sink, Source, Stage, Thread, random,
};
pub use stop::Stop;
pub use text::{Place, Text, line_column};
pub use times::Times;
pub use trace::{Level, Recorded, Slice, Trace};
