//! What a run knows beyond its recipe.

use std::any::Any;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};

use crate::journal::Journal;
use crate::stop::Stop;
use crate::trace::Trace;

/// What a run knows beyond its recipe: one value, which every node gets when it is built. The
/// processes of a run differ in their `world` alone.
#[derive(Clone, Default)]
pub struct RunContext {
    /// Which of the run's processes this is.
    pub world: World,
    /// Consecutive images of a batch that one process takes before the next one's turn; 0 is 1.
    pub block: u32,
    /// Where the run keeps its files; `None` where it keeps none (a profile, a test).
    pub run_dir: Option<PathBuf>,
    /// What connects the run's processes; `None` where there is one.
    pub peers: Option<Opaque>,
    /// Counts that these processes share; `None` where there is one.
    pub tally: Option<Arc<dyn Tally>>,
    /// The checkpoint to resume from, opened once; of several processes by the first one alone.
    pub resume: Option<Opaque>,
    /// The logs, for which checkpoints wait.
    pub journal: Journal,
    /// Ends the run when it is asked to.
    pub stop: Stop,
    /// Records what every thread does.
    pub trace: Option<Arc<Trace>>,
}

/// Which process of a run this is, as launchers number them. The default is a run of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct World {
    /// Less than `size`.
    pub rank: u32,
    /// Processes of the run; at least 1.
    pub size: u32,
    /// The number of the process on its machine.
    pub local_rank: u32,
    /// Processes of the run on this machine, which share its cores; at least 1.
    pub local_size: u32,
}

impl Default for World {
    fn default() -> Self {
        World {
            rank: 0,
            size: 1,
            local_rank: 0,
            local_size: 1,
        }
    }
}

/// Counts that all processes of a run share, by name.
pub trait Tally: Send + Sync {
    /// Counts one more; how many that makes, of all processes.
    ///
    /// # Errors
    /// Another process is lost.
    fn count(&self, name: &str) -> Result<u64>;
}

/// A value whose type is known to those who make it and to the nodes that use it; the graph only hands it
/// on.
#[derive(Clone)]
pub struct Opaque(Arc<dyn Any + Send + Sync>);

impl Opaque {
    /// To be read again by [`Opaque::get`] as the same type.
    pub fn new<T: Any + Send + Sync>(value: T) -> Self {
        Opaque(Arc::new(value))
    }

    /// The value.
    ///
    /// # Errors
    /// It is of another type.
    pub fn get<T: Any>(&self) -> Result<&T> {
        let value = self.0.downcast_ref();
        value.with_context(|| format!("it is no {}", std::any::type_name::<T>()))
    }
}
