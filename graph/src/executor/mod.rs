//! Running a plan: one driver task for each segment, thread and sink; bounded channels between
//! them; one pool for CPU-bound work.

mod drive;
mod failure;
mod pool;
mod segment;
mod skipped;
mod spawn;
mod taps;
mod walk;
mod watch;
mod wiring;
mod workers;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

pub use failure::{Failure, NotThere, RunError};
pub use skipped::Skipped;
pub use taps::{Feed, FeedWith, Tap};
pub use workers::Workers;

use crate::batch::{Allocator, PlainMemory};
use crate::context::RunContext;
use crate::counters::{Measured, Meter, Meters};
use crate::item::Item;
use crate::node::{Build, Role};
use crate::plan::{Plan, Planned};
use crate::shard::Shard;
use crate::stage::{AnySink, Contents, Position, Stage};
use crate::stop::Stop;
use spawn::{Spawned, executor};
use wiring::Wiring;

/// What a run gets besides its plan.
pub struct Options {
    /// What the run knows beyond its recipe.
    pub run: RunContext,
    /// Memory for batches.
    pub allocator: Arc<dyn Allocator>,
    /// More readers of the plan's outputs: a progress display, a test.
    pub taps: Vec<Tap>,
    /// How many epochs the sources run where no thread node says it.
    pub epochs: Option<u64>,
    /// Where the sources start where no thread node says it.
    pub start: Position,
    /// Inputs of threads with another supply than the recipe's.
    pub feeds: Vec<Feed>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            run: RunContext::default(),
            allocator: Arc::new(PlainMemory),
            taps: Vec::new(),
            epochs: None,
            start: Position::default(),
            feeds: Vec::new(),
        }
    }
}

/// A running graph.
pub struct Running {
    spawned: Spawned,
    workers: Workers,
}

/// The result of a run that did not fail.
#[derive(Debug)]
pub struct Finished {
    /// Whether the user stopped it.
    pub interrupted: bool,
    /// In the plan's order.
    pub measured: Vec<Measured>,
    /// By node and sample.
    pub skipped: Vec<Skipped>,
}

impl Running {
    /// Builds every node and starts.
    pub fn start(plan: &Plan, mut options: Options) -> Result<Self, RunError> {
        let (stages, contents) = build(plan, &options)?;
        let workers = Workers::choose(plan, &stages, options.run.world);
        let nodes = plan.nodes.iter().zip(&stages);
        let meters = nodes.map(|(planned, stage)| {
            Meter::traced(
                planned.id.clone(),
                stage.works_on(),
                options.run.trace.clone(),
            )
        });
        let meters: Vec<Meter> = meters.collect();
        let taps = std::mem::take(&mut options.taps);
        let starting = |error: anyhow::Error| RunError {
            failures: vec![Failure::new(&executor(), None, error)],
            skipped: Vec::new(),
        };
        let mut spawned = Spawned::new(workers.count, meters, &options.run).map_err(starting)?;
        let wiring = Wiring {
            plan,
            contents: &contents,
            feeds: &options.feeds,
            start: options.start,
            epochs: options.epochs,
        };
        wiring
            .connect(stages, taps, &mut spawned)
            .map_err(starting)?;
        Ok(Running { spawned, workers })
    }

    /// For another thread that may stop the run.
    pub fn stop(&self) -> Stop {
        self.spawned.stop.clone()
    }

    /// The figures of all nodes, readable while the run continues.
    pub fn meters(&self) -> Meters {
        Meters(self.spawned.meters.clone())
    }

    pub fn workers(&self) -> &Workers {
        &self.workers
    }

    /// Waits for the end, for at most `timeout`; true if the run has ended. [`Running::wait`] then
    /// returns its result.
    pub fn wait_for(&mut self, timeout: Duration) -> bool {
        self.spawned.wait_for(timeout)
    }

    /// Waits for the end. All threads are joined then, except readers stuck in a system call.
    pub fn wait(self) -> Result<Finished, RunError> {
        let stop = self.stop();
        let meters = self.meters();
        let skipped = Arc::clone(&self.spawned.skipped);
        let failures = self.spawned.join();
        if !failures.is_empty() {
            return Err(RunError {
                failures,
                skipped: skipped.list(),
            });
        }
        Ok(Finished {
            interrupted: stop.interrupted(),
            measured: meters.read(),
            skipped: skipped.list(),
        })
    }
}

/// The number of classes of the images that a trainer learns from. Opens their source, unless it is known before;
/// `None` if nothing leads to one.
pub fn training_classes(plan: &Plan, trainer: &Planned) -> Result<Option<usize>, RunError> {
    let Some(mut edge) = trainer.training_input() else {
        return Ok(None);
    };
    while let Some(before) = plan.nodes[edge.node].inputs.first() {
        edge = before;
    }
    let source = &plan.nodes[edge.node];
    if let Some(known) = source.node.known_classes() {
        return Ok(Some(known));
    }
    let contents = source_contents(plan, &source.id.name)?;
    Ok(contents.map(|contents| contents.classes.len()))
}

/// What a source holds. Opens it; `None` if there is no such node.
pub fn source_contents(plan: &Plan, source: &str) -> Result<Option<Contents>, RunError> {
    let Some(source) = plan.until(source) else {
        return Ok(None);
    };
    let (_, contents) = build(&source, &Options::default())?;
    Ok(contents.into_iter().last())
}

/// Builds every node's stage and derives the contents of its stream.
fn build(plan: &Plan, options: &Options) -> Result<(Vec<Stage>, Vec<Contents>), RunError> {
    let mut stages: Vec<Option<Stage>> = Vec::new();
    let mut contents: Vec<Contents> = Vec::new();
    let mut failures = Vec::new();
    for (index, planned) in plan.nodes.iter().enumerate() {
        // A node downstream of one that failed cannot be built.
        if planned
            .inputs
            .iter()
            .any(|edge| stages[edge.node].is_none())
        {
            stages.push(None);
            contents.push(Contents::default());
            continue;
        }
        let inputs: Vec<(&'static str, Contents)> = planned
            .inputs
            .iter()
            .map(|edge| (edge.port, contents[edge.node].clone()))
            .collect();
        let schemas = plan.incoming(planned);
        let demands: Vec<_> = plan
            .nodes
            .iter()
            .flat_map(|reader| reader.inputs.iter().map(move |edge| (reader, edge)))
            .filter(|(_, edge)| edge.node == index)
            .map(|(reader, edge)| (planned.kind.outputs[edge.output].name, reader.node.demand()))
            .collect();
        // One process of a run writes.
        if planned.kind.role == Role::Sink && options.run.world.rank > 0 {
            contents.push(Contents::default());
            stages.push(Some(Stage::Sink(Box::new(Drain))));
            continue;
        }
        let span = tracing::info_span!("build", node = planned.id.name);
        let _entered = span.enter();
        let built = planned.node.build(&Build {
            node: &planned.id.name,
            seed: plan.seed,
            run: &options.run,
            recipe: &plan.recipe_text,
            inputs: &inputs,
            schemas: &schemas,
            outputs: &planned.outputs,
            demands: &demands,
            allocator: Arc::clone(&options.allocator),
        });
        match built {
            Ok(stage) => {
                let input = inputs.into_iter().next().map(|(_, contents)| contents);
                contents.push(contents_of(&stage, input.unwrap_or_default(), &options.run));
                stages.push(Some(stage));
            }
            Err(error) => {
                failures.push(Failure::at_start(planned, error));
                contents.push(Contents::default());
                stages.push(None);
            }
        }
    }
    if failures.is_empty() {
        Ok((stages.into_iter().flatten().collect(), contents))
    } else {
        Err(RunError {
            failures,
            skipped: Vec::new(),
        })
    }
}

/// In place of a sink where nothing is written.
struct Drain;

impl AnySink for Drain {
    fn accept(&mut self, _: Item) -> Result<()> {
        Ok(())
    }

    fn end_of_epoch(&mut self, _: u64) -> Result<()> {
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        Ok(())
    }

    fn queue(&self) -> usize {
        1
    }
}

fn contents_of(stage: &Stage, input: Contents, run: &RunContext) -> Contents {
    match stage {
        Stage::Source(source) => {
            let whole = source.contents();
            let shard = Shard::of(run.world, run.block, source.pads());
            Contents {
                items_per_epoch: shard.items(whole.items_per_epoch),
                samples: whole.items_per_epoch,
                shard,
                ..whole
            }
        }
        Stage::Map(_) => input,
        Stage::Fold(fold) => {
            let size = fold.group() as u64;
            let (dealt, whole) = (input.dealt(), size * u64::from(input.shard.world));
            let (full, rest) = (dealt / whole, dealt % whole);
            let kept_rest = rest > 0 && !fold.drop_last();
            Contents {
                items_per_epoch: full + u64::from(kept_rest),
                shard: Shard::default(),
                group: size,
                last_group: match kept_rest {
                    true => input.shard.items(rest),
                    false => size.min(input.items_per_epoch),
                },
                ..input
            }
        }
        Stage::Thread(_) | Stage::Sink(_) => Contents::default(),
    }
}
