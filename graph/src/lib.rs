//! A recipe becomes a checked plan, a plan becomes a running graph.
//!
//! The three phases are three types, and only the next phase accepts the previous one's:
//! [`Recipe`] (parsed), [`Plan`] (checked), [`Running`].
//! This crate knows neither images nor tensors.
//!
//! | file | what it holds |
//! |---|---|
//! | `text`, `expansion`, `fields` | the recipe's text, the places in it, `--set`, what `let` puts in place of names |
//! | `recipe` | reading a recipe |
//! | `node`, `node_id` | node kinds and their catalogue; a node's name |
//! | `plan` | names, types, schemas, cycles |
//! | `context` | what a run knows beyond its recipe: its world, run directory, checkpoint to resume |
//! | `journal` | how far the logs of a run are on the disk |
//! | `draw` | a plan as Mermaid, graphviz or SVG |
//! | `problem`, `words` | errors in a recipe as they are printed; lists and counts in messages |
//! | `schema` | the types of parameters in words |
//! | `stage` | the shapes that a running node can have: source, map, fold, thread, sink |
//! | `shard` | one process's part of a source's samples |
//! | `item`, `batch` | what travels between nodes |
//! | `preprocess` | how an image becomes the pixels of a batch |
//! | `ports`, `stop` | the ends of streams; stopping a run |
//! | `executor` | tasks, threads, channels; failures |
//! | `counters`, `times`, `trace` | time spent by each node |

mod batch;
mod context;
mod counters;
mod draw;
mod executor;
mod expansion;
mod fields;
mod growth;
mod item;
mod journal;
mod node;
mod node_id;
mod plan;
mod ports;
mod preprocess;
mod problem;
mod recipe;
pub mod schema;
mod shard;
mod stage;
mod stop;
mod text;
mod times;
mod trace;
mod words;

/// The target of `tracing` events that tell the user how far slow work is: the program shows them on the
/// screen, whatever the level of its log.
pub const PROGRESS: &str = "rsflow::progress";

pub use batch::{Allocator, Batch, Memory, PlainMemory, Pool, Slots, bytes_per_image};
pub use context::{Opaque, RunContext, Tally, World};
pub use counters::{Measured, Meter, Meters, Queue, WorksOn};
pub use draw::{Format, draw};
pub use executor::{
    Failure, Feed, FeedWith, Finished, NotThere, Options, RunError, Running, Skipped, Tap, Workers,
    source_contents, training_classes,
};
pub use growth::Growth;
pub use item::{Item, Key, Message, Payload};
pub use journal::{Journal, LogWriter};
pub use node::{
    Build, Catalogue, Demand, Incoming, Input, Kind, ListedImages, ListedPart, Node, NodeKind,
    Port, Report, Role, Schema, Spelling,
};
pub use node_id::NodeId;
pub use plan::{Edge, Plan, Planned};
pub use ports::{Ports, Received, Receiver, Sender};
pub use preprocess::{DEFAULT_MAX_PIXELS, Interpolation, MAX_SIZE, Preprocess, Resize};
pub use problem::{Problem, Problems};
pub use recipe::{OTHER_NAMES, Recipe, differences, differences_as_written, settings};
pub use rsflow_base::keyed::random;
pub use shard::Shard;
pub use stage::{
    AnyFold, AnyMap, AnySink, AnySource, Budget, Contents, Context, Fold, Map, OnError, Position,
    SampleNames, Sink, Source, Stage, Thread,
};
pub use stop::Stop;
pub use text::{Place, Text, line_column};
pub use times::Times;
pub use trace::{Level, Recorded, Slice, Trace};
pub use words::{counted, did_you_mean, first_few, listed, nearest, one_of, repeated};
