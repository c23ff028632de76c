//! The processes of a run that train together: how they meet, and what they exchange.
//!
//! Each process has its own part of every batch, and after each step all hold the same bits: gradients,
//! running statistics and losses are averaged over them. The engine is libtorch's: its store of small
//! values, which lives in the first process, and its Gloo.

#[allow(unsafe_code)]
mod native;

use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rsflow_graph::World;
use tch::{Tensor, no_grad};

use native::{Group, Store};

/// The longest that the processes wait for one of them, when they meet and in each exchange.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// How long the first process may take to write its last files.
const WRITING: Duration = Duration::from_secs(3600);
/// How long a process that lost another one waits for its reason.
const REASON: Duration = Duration::from_secs(2);
/// Bytes that are exchanged at once, as in PyTorch's DistributedDataParallel.
const BUCKET: usize = 25 << 20;
/// Where a process says why it ends.
const FAILED: &str = "failed";

/// Another process of the run is gone, or does not answer.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PeerLost(String);

/// The processes of a run, as one of them sees them.
#[derive(Debug)]
pub struct Peers {
    world: World,
    store: Store,
    group: Group,
    /// Of this meeting: a store may hold what an earlier one left.
    name: String,
}

impl Peers {
    /// Meets the others at a place, where the first process serves the store; `elsewhere`: a launcher does.
    ///
    /// # Errors
    /// Not all of them come in time; the port is taken.
    pub fn meet(world: World, host: &str, port: u16, elsewhere: bool) -> Result<Arc<Self>> {
        let serves = world.rank == 0 && !elsewhere;
        let place = || format!("{host}:{port}");
        let store = Store::open(host, port, serves, PATIENCE).with_context(|| match serves {
            true => format!("cannot serve the processes of the run at {}", place()),
            false => format!("process 0 of the run does not answer at {}", place()),
        })?;
        let name = agree_on_name(&store, world)?;
        let group = Group::open(
            &store,
            &format!("{name}/gloo"),
            world.rank,
            world.size,
            PATIENCE,
        )
        .with_context(|| {
            format!(
                "the {} processes of the run cannot be connected",
                world.size
            )
        })?;
        Ok(Arc::new(Peers {
            world,
            store,
            group,
            name,
        }))
    }

    /// Which of them this is.
    pub fn world(&self) -> World {
        self.world
    }

    /// Whether this is the process that writes files and prints.
    pub fn is_first(&self) -> bool {
        self.world.rank == 0
    }

    /// The value of the first process under `key`, for which all others wait.
    ///
    /// # Errors
    /// The first process is gone.
    pub fn broadcast(&self, key: &str, value: impl FnOnce() -> String) -> Result<String> {
        let key = format!("{}/{key}", self.name);
        if self.is_first() {
            let value = value();
            self.store.set(&key, &value).map_err(lost)?;
            return Ok(value);
        }
        self.store.get(&key, PATIENCE).map_err(lost)
    }

    /// The sums of tensors over all processes. They are of one dtype, on the CPU, and the same in every
    /// process in number and shapes.
    ///
    /// # Errors
    /// Another process is gone, or does something else.
    pub fn sum(&self, tensors: &[&Tensor]) -> Result<Vec<Tensor>> {
        self.exchange(tensors, |_| Ok(()))
    }

    /// The means of floating-point tensors over all processes: each process's share first, then the sum, so
    /// that two processes get the same bits as one that adds both shares.
    ///
    /// # Errors
    /// As [`Peers::sum`].
    pub fn average(&self, tensors: &[&Tensor]) -> Result<Vec<Tensor>> {
        let size = i64::from(self.world.size);
        self.exchange(tensors, |flat| Ok(flat.f_div_scalar_(size).map(drop)?))
    }

    /// `prepare` is done to the values of this process before they are summed.
    fn exchange(
        &self,
        tensors: &[&Tensor],
        prepare: impl Fn(&mut Tensor) -> Result<()>,
    ) -> Result<Vec<Tensor>> {
        no_grad(|| {
            let mut begun = Vec::new();
            for tensors in buckets(tensors) {
                let flat = tensors.iter().map(|tensor| tensor.f_reshape([-1]));
                let mut flat = Tensor::f_cat(&flat.collect::<Result<Vec<_>, _>>()?, 0)?;
                prepare(&mut flat)?;
                begun.push((self.group.sum(&flat).map_err(lost)?, flat, tensors));
            }
            let mut all = Vec::with_capacity(tensors.len());
            for (sum, flat, tensors) in begun {
                sum.wait().map_err(lost)?;
                let mut at = 0;
                for tensor in tensors {
                    let count = tensor.numel() as i64;
                    all.push(
                        flat.f_narrow(0, at, count)?
                            .f_view(tensor.size().as_slice())?,
                    );
                    at += count;
                }
            }
            Ok(all)
        })
    }

    /// Whether any process says so.
    ///
    /// # Errors
    /// As [`Peers::sum`].
    pub fn any(&self, own: bool) -> Result<bool> {
        let own = Tensor::from_slice(&[i64::from(own)]);
        let sums = self.sum(&[&own])?;
        Ok(sums.first().context("no sum")?.f_int64_value(&[0])? > 0)
    }

    /// Makes sure that all processes have the same values, each with its name.
    ///
    /// # Errors
    /// They have not: the names of those that differ.
    pub fn ensure_same(&self, values: &[(&str, String)]) -> Result<()> {
        let hash = |value: &str| format!("{:032x}", xxhash_rust::xxh3::xxh3_128(value.as_bytes()));
        let own: Vec<String> = values.iter().map(|(_, value)| hash(value)).collect();
        let first = self.broadcast("same", || own.join(" "))?;
        let first: Vec<&str> = first.split(' ').collect();
        let differ = (0..values.len()).filter(|&at| first.get(at) != Some(&own[at].as_str()));
        let differ: Vec<&str> = differ.map(|at| values[at].0).collect();
        ensure!(
            differ.is_empty(),
            "process {} differs from process 0 in: {}; start all processes with the same program, recipe and \
             data",
            self.world.rank,
            differ.join(", ")
        );
        Ok(())
    }

    /// Waits until the first process has come here, which has files to write before.
    ///
    /// # Errors
    /// It is gone.
    pub fn wait_for_first(&self) -> Result<()> {
        let key = format!("{}/written", self.name);
        if self.is_first() {
            return self.store.set(&key, "yes").map_err(lost);
        }
        self.store.get(&key, WRITING).map(drop).map_err(lost)
    }

    /// Tells the others why this process ends. Returns the error to report: if it only `lost` another one,
    /// that one's reason, where it comes in time.
    pub fn ended_by(&self, error: anyhow::Error, lost: bool) -> anyhow::Error {
        let key = format!("{}/{FAILED}", self.name);
        let error = if lost {
            let reason = self.store.get(&key, REASON);
            reason.map_or(error, |reason| anyhow::Error::new(PeerLost(reason)))
        } else {
            let reason = format!("process {} failed: {error:#}", self.world.rank);
            let _ = self.store.set(&key, &reason);
            error
        };
        if self.is_first() {
            // The store is here, and the others may still have to read it.
            sleep(REASON);
        }
        error
    }
}

/// Consecutive tensors that are exchanged together.
fn buckets<'a, 't>(tensors: &'a [&'t Tensor]) -> Vec<&'a [&'t Tensor]> {
    let mut all = Vec::new();
    let (mut from, mut bytes) = (0, 0);
    for (position, tensor) in tensors.iter().enumerate() {
        bytes += tensor.numel() * tensor.kind().elt_size_in_bytes();
        if bytes >= BUCKET || position + 1 == tensors.len() {
            all.push(&tensors[from..=position]);
            (from, bytes) = (position + 1, 0);
        }
    }
    all
}

/// An error of an exchange: of another process, as far as this one can know.
fn lost(error: anyhow::Error) -> anyhow::Error {
    anyhow::Error::new(PeerLost(format!(
        "another process of the run is gone or does not answer: {error:#}"
    )))
}

/// A name for this meeting that no earlier one had, whatever earlier ones left in the store: every process
/// leaves a number of its own, and the first one answers each number that it sees, until all have confirmed.
fn agree_on_name(store: &Store, world: World) -> Result<String> {
    let own = format!("{:016x}", rand::random::<u64>());
    if world.rank != 0 {
        store.set(&format!("join/{}", world.rank), &own)?;
        let name = store.get(&format!("welcome/{own}"), PATIENCE);
        let name = name.context("process 0 of the run does not answer")?;
        store.set(&format!("{name}/here/{}", world.rank), "yes")?;
        return Ok(name);
    }
    let until = Instant::now() + PATIENCE;
    let mut answered = vec![String::new(); world.size as usize];
    loop {
        let mut missing = Vec::new();
        for rank in 1..world.size {
            if store.has(&format!("{own}/here/{rank}"))? {
                continue;
            }
            missing.push(rank.to_string());
            let join = format!("join/{rank}");
            if !store.has(&join)? {
                continue;
            }
            let number = store.get(&join, PATIENCE)?;
            let known = &mut answered[rank as usize];
            if *known != number {
                store.set(&format!("welcome/{number}"), &own)?;
                *known = number;
            }
        }
        if missing.is_empty() {
            return Ok(own);
        }
        ensure!(
            Instant::now() < until,
            "of the {} processes of the run, {} did not come within {} s",
            world.size,
            missing.join(", "),
            PATIENCE.as_secs()
        );
        sleep(Duration::from_millis(20));
    }
}
