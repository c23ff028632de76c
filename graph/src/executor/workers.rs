//! The number of threads of the CPU pool.

use std::fmt;

use crate::context::World;
use crate::plan::Plan;
use crate::stage::Stage;
use crate::words::{counted, listed};

/// Where a thread node keeps all cores busy, there is one worker for so many cores. Reasoned, not
/// measured: on the CPU a training step costs many times what it takes to prepare its images, and a
/// worker that preempts one thread of the step stalls all of them.
const CORES_PER_WORKER: usize = 8;

/// The size of the CPU pool, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workers {
    pub count: usize,
    /// Cores that this process may use.
    pub cores: usize,
    /// `None` if the recipe sets `cpu_workers`.
    pub chosen: Option<Chosen>,
}

/// What a number of workers was chosen from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The nodes that compute on their own threads.
    pub threads: Vec<String>,
    /// Cores that they use.
    pub busy: usize,
}

impl Workers {
    /// The recipe's `cpu_workers`; by default the cores that the thread nodes leave free, but at
    /// least an eighth of all.
    pub(super) fn choose(plan: &Plan, stages: &[Stage], world: World) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let cores = (cores / world.local_size.max(1) as usize).max(1);
        let mut chosen = Chosen {
            threads: Vec::new(),
            busy: 0,
        };
        for (planned, stage) in plan.nodes.iter().zip(stages) {
            if let Stage::Thread(thread) = stage {
                chosen.threads.push(planned.id.name.clone());
                chosen.busy += thread.cores(cores);
            }
        }
        match plan.cpu_workers {
            Some(count) => Workers {
                count,
                cores,
                chosen: None,
            },
            None => Workers {
                count: automatic(cores, chosen.busy),
                cores,
                chosen: Some(chosen),
            },
        }
    }
}

fn automatic(cores: usize, busy: usize) -> usize {
    cores
        .saturating_sub(busy)
        .max(cores.div_ceil(CORES_PER_WORKER))
}

/// "2 workers (auto: the machine has 2 cores, and no other node computes)".
impl fmt::Display for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", counted(self.count, "worker"))?;
        let cores = counted(self.cores, "core");
        let Some(Chosen { threads, busy }) = &self.chosen else {
            return write!(f, "(`cpu_workers` of the recipe; the machine has {cores})");
        };
        write!(f, "(auto: the machine has {cores}")?;
        if threads.is_empty() {
            return f.write_str(", and no other node computes)");
        }
        let threads = listed(threads.iter().map(String::as_str));
        let busy = busy.min(&self.cores);
        write!(f, ", of which {threads} keeps {busy} busy)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_get_what_they_need_and_workers_the_rest() {
        for (cores, busy, expected) in [
            (1, 0, 1),
            (2, 0, 2),
            (1, 1, 1),
            (2, 2, 1),
            (2, 1, 1),
            (16, 1, 15),
            (16, 4, 12),
            (64, 64, 8),
            (8, 99, 1),
        ] {
            assert_eq!(
                automatic(cores, busy),
                expected,
                "{cores} cores, {busy} busy"
            );
        }
    }

    #[test]
    fn the_choice_is_explained() {
        let workers = |count, chosen: Option<(&[&str], usize)>| Workers {
            count,
            cores: 2,
            chosen: chosen.map(|(threads, busy)| Chosen {
                threads: threads.iter().map(ToString::to_string).collect(),
                busy,
            }),
        };
        for (workers, expected) in [
            (
                workers(7, None),
                "7 workers (`cpu_workers` of the recipe; the machine has 2 cores)",
            ),
            (
                workers(2, Some((&[], 0))),
                "2 workers (auto: the machine has 2 cores, and no other node computes)",
            ),
            (
                workers(1, Some((&["trainer"], 2))),
                "1 worker (auto: the machine has 2 cores, of which `trainer` keeps 2 busy)",
            ),
        ] {
            assert_eq!(workers.to_string(), expected);
        }
    }
}
