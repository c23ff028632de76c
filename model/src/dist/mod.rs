//! The processes of a run that train together: how they meet, and what they exchange.
//!
//! Each process has its own part of every batch, and after each step all hold the same bits: gradients,
//! running statistics and losses are averaged over them. The engine is libtorch's: its store of small
//! values, which lives in process 0, its Gloo, and on GPUs its NCCL.

mod health;
mod meeting;
#[allow(unsafe_code)]
mod native;
pub mod reducer;
mod store;

pub use native::nccl_version;

use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rsflow_graph::{Tally, World};
use tch::{Kind, Tensor, no_grad};

use crate::nn::kernels::JointSum;
use health::{Health, State};
use native::{Group, Sum};
use store::Store;

/// How long processes wait for each other.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Until all have come, and in each exchange: as long as one may be later than the others.
    pub exchange: Duration,
    /// Without a sign of life of a process, whatever it does.
    pub silence: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            exchange: Duration::from_secs(120),
            silence: Duration::from_secs(20),
        }
    }
}

/// How long process 0 may take to write its last files.
const WRITING: Duration = Duration::from_secs(3600);
/// Between two looks at the health of the others, while an exchange takes its time.
const SLICE: Duration = Duration::from_millis(100);
/// Between two looks for a value in the store: at first, and when it takes longer.
const POLL: Range<Duration> = Duration::from_millis(10)..Duration::from_millis(500);
/// How long process 0 keeps the store after its failure, for others that look for the reason.
const KEEP: Duration = Duration::from_secs(1);
/// How long processes that lost another one wait before they end: a launcher takes the one that ends first
/// for the one that failed.
const LINGER: Duration = Duration::from_millis(2500);
/// libtorch's own limit of an exchange: what waits for it has another, in which the time does not count
/// while the process is stopped.
const LIBTORCH: Duration = Duration::from_secs(7 * 24 * 3600);
/// Bytes that are exchanged at once, as in PyTorch's DistributedDataParallel.
const BUCKET: usize = 25 << 20;

/// Another process of the run is gone, or does not answer.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PeerLost(String);

impl PeerLost {
    /// Whether this is what an error is due to.
    pub fn is_in(error: &anyhow::Error) -> bool {
        error.chain().any(|cause| cause.is::<PeerLost>())
    }
}

/// The processes of a run, as one of them sees them.
#[derive(Debug)]
pub struct Peers {
    world: World,
    /// Where the store is.
    place: (String, u16),
    timeouts: Timeouts,
    store: Arc<Store>,
    health: Arc<Health>,
    group: Arc<Group>,
    /// Of this meeting: a store may hold what an earlier one left.
    name: String,
    /// Microseconds that this process has waited for the others so far.
    waited: AtomicU64,
    /// Steps that have exchanged gradients and statistics so far, and the bytes of these.
    steps: AtomicU64,
    bytes: AtomicU64,
}

impl Peers {
    /// Meets the others at a place, where process 0 serves the store; `elsewhere`: a launcher does.
    ///
    /// # Errors
    /// Not all of them come in time; the port is taken.
    pub fn meet(
        world: World,
        host: &str,
        port: u16,
        elsewhere: bool,
        timeouts: Timeouts,
    ) -> Result<Arc<Self>> {
        let serves = world.rank == 0 && !elsewhere;
        let patience = timeouts.exchange;
        let store = Store::open(host, port, serves, patience, timeouts.silence);
        let store = Arc::new(store.with_context(|| match serves {
            true => format!("cannot serve the processes of the run at {host}:{port}"),
            false => format!("process 0 of the run does not answer at {host}:{port}"),
        })?);
        let name = meeting::agree_on_name(&store, world, patience)?;
        health::first_sign(&store, &name, world)?;
        let connect = {
            let name = format!("{name}/gloo");
            move |store: &_| Group::open(store, &name, world.rank, world.size, LIBTORCH)
        };
        let group = store.ask(patience, connect).with_context(|| {
            format!(
                "the {} processes of the run cannot be connected",
                world.size
            )
        })?;
        let group = Arc::new(group);
        let health = Health::start(&store, &name, world, timeouts.silence, Arc::clone(&group))?;
        Ok(Arc::new(Peers {
            world,
            place: (host.to_owned(), port),
            timeouts,
            store,
            health,
            group,
            name,
            waited: AtomicU64::new(0),
            steps: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }))
    }

    /// From now on exchanges tensors on this process's GPU, too, by NCCL. All processes call it.
    ///
    /// # Errors
    /// libtorch has no NCCL, or it finds no GPU.
    pub fn use_gpu(&self) -> Result<()> {
        let (host, port) = &self.place;
        let store = native::Store::open(host, *port, false, self.timeouts.exchange)?;
        let name = format!("{}/nccl", self.name);
        let opened = self.group.open_gpu(&store, &name, LIBTORCH);
        opened.context("the GPUs of the processes cannot be connected by NCCL")
    }

    /// Which of them this is.
    pub fn world(&self) -> World {
        self.world
    }

    /// How long this process has waited for the others so far.
    pub fn waited(&self) -> Duration {
        Duration::from_micros(self.waited.load(Relaxed))
    }

    /// Steps that have exchanged gradients and statistics so far, and the bytes of these.
    pub fn exchanged(&self) -> (u64, u64) {
        (self.steps.load(Relaxed), self.bytes.load(Relaxed))
    }

    /// Counts a step, and what it sends.
    pub(crate) fn count_step(&self, bytes: u64) {
        self.steps.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    /// Whether this is the process that writes files and prints.
    pub fn is_first(&self) -> bool {
        self.world.rank == 0
    }

    /// What this process does from now on, for the message if it is lost: "in step 7".
    pub fn set_doing(&self, doing: impl Into<String>) {
        self.health.set_doing(doing.into());
    }

    /// The value of process 0 under `key`, for which all others wait.
    ///
    /// # Errors
    /// Another process is lost.
    pub fn broadcast(&self, key: &str, value: impl FnOnce() -> String) -> Result<String> {
        self.value_of_first(key, value, self.timeouts.exchange)
    }

    fn value_of_first(
        &self,
        key: &str,
        value: impl FnOnce() -> String,
        timeout: Duration,
    ) -> Result<String> {
        let key = format!("{}/{key}", self.name);
        if self.is_first() {
            let value = value();
            let set = self.store.set(key, value.clone());
            set.map_err(|error| self.lost(&error))?;
            return Ok(value);
        }
        let pause = Cell::new(POLL.start);
        let found = self.await_peers(timeout, || {
            let found = self.store.find(key.clone())?;
            if found.is_none() {
                sleep(pause.get());
                pause.set((pause.get() * 2).min(POLL.end));
            }
            Ok(found)
        });
        found.map_err(|error| self.lost(&error))
    }

    /// What `poll` finds, which takes a moment each time.
    ///
    /// # Errors
    /// Another process is lost, or nothing is found for too long.
    fn await_peers<T>(&self, timeout: Duration, poll: impl Fn() -> Result<Option<T>>) -> Result<T> {
        self.health.set_state(State::Waits);
        let began = Instant::now();
        let found = self.poll_peers(timeout, poll);
        self.waited
            .fetch_add(began.elapsed().as_micros() as u64, Relaxed);
        self.health.set_state(State::Works);
        found
    }

    fn poll_peers<T>(&self, timeout: Duration, poll: impl Fn() -> Result<Option<T>>) -> Result<T> {
        let mut waited = Duration::ZERO;
        loop {
            let began = Instant::now();
            if let Some(found) = poll()? {
                return Ok(found);
            }
            if let Some(reason) = self.health.reason() {
                return Err(PeerLost(reason.to_owned()).into());
            }
            // Not the time in which this process was stopped.
            waited += began.elapsed().min(2 * POLL.end);
            if waited > timeout {
                let (awaited, writes) = self.health.who_is_awaited()?;
                if writes && waited < WRITING {
                    continue;
                }
                let seconds = waited.as_secs();
                let reason = format!("{awaited}, and the others have waited for {seconds} s");
                return Err(PeerLost(self.health.fail(reason).to_owned()).into());
            }
        }
    }

    /// Does something for which the others may have to wait longer than for an exchange: `write` writes files.
    pub fn writing<T>(&self, write: impl FnOnce() -> T) -> T {
        self.health.set_state(State::Writes);
        let written = write();
        self.health.set_state(State::Works);
        written
    }

    /// The sums of tensors over all processes. They are of one dtype, on one device, and the same in
    /// every process in number and shapes.
    ///
    /// # Errors
    /// Another process is lost, or does something else.
    pub fn sum(&self, tensors: &[&Tensor]) -> Result<Vec<Tensor>> {
        self.finish(self.begin_sum(tensors)?)
    }

    /// The means of floating-point tensors over all processes: each process's share first, then the sum, so
    /// that two processes get the same bits as one that adds both shares.
    ///
    /// # Errors
    /// As [`Peers::sum`].
    pub fn average(&self, tensors: &[&Tensor]) -> Result<Vec<Tensor>> {
        self.finish(self.begin_average(tensors)?)
    }

    /// Begins [`Peers::sum`]. All processes begin their exchanges in the same order.
    ///
    /// # Errors
    /// As [`Peers::sum`].
    pub fn begin_sum(&self, tensors: &[&Tensor]) -> Result<Exchanged> {
        self.begin(tensors, |_| Ok(()))
    }

    /// Begins [`Peers::average`].
    ///
    /// # Errors
    /// As [`Peers::sum`].
    pub fn begin_average(&self, tensors: &[&Tensor]) -> Result<Exchanged> {
        let size = i64::from(self.world.size);
        self.begin(tensors, |flat| Ok(flat.f_div_scalar_(size).map(drop)?))
    }

    /// `prepare` is done to the values of this process before they are summed.
    fn begin(
        &self,
        tensors: &[&Tensor],
        prepare: impl Fn(&mut Tensor) -> Result<()>,
    ) -> Result<Exchanged> {
        no_grad(|| {
            let mut begun = Vec::new();
            for bucket in buckets(tensors.iter().map(|tensor| bytes_of(tensor))) {
                let tensors = &tensors[bucket];
                let flat = tensors.iter().map(|tensor| tensor.f_reshape([-1]));
                let mut flat = Tensor::f_cat(&flat.collect::<Result<Vec<_>, _>>()?, 0)?;
                prepare(&mut flat)?;
                let sum = self.group.sum(&flat)?;
                let shapes = tensors.iter().map(|tensor| tensor.size());
                begun.push((sum, flat, shapes.collect()));
            }
            Ok(Exchanged(begun))
        })
    }

    /// Waits for what was begun.
    ///
    /// # Errors
    /// As [`Peers::sum`].
    pub fn finish(&self, exchanged: Exchanged) -> Result<Vec<Tensor>> {
        let mut all = Vec::new();
        for (sum, flat, shapes) in exchanged.0 {
            self.await_exchange(|timeout| sum.wait(timeout))?;
            let mut at = 0;
            for shape in shapes {
                let count = shape.iter().product();
                all.push(flat.f_narrow(0, at, count)?.f_view(shape.as_slice())?);
                at += count;
            }
        }
        Ok(all)
    }

    /// Gives these tensors the values that they have in process 0, to the bit.
    ///
    /// # Errors
    /// As [`Peers::sum`].
    pub fn share(&self, tensors: &[&Tensor]) -> Result<()> {
        let mut kinds: Vec<Kind> = Vec::new();
        for tensor in tensors {
            if !kinds.contains(&tensor.kind()) {
                kinds.push(tensor.kind());
            }
        }
        for kind in kinds {
            let own = tensors.iter().filter(|tensor| tensor.kind() == kind);
            let own: Vec<&Tensor> = own.copied().collect();
            // A sum with -0 changes no value, neither 0 nor -0.
            let first = self.is_first();
            let values = |flat: &mut Tensor| match first {
                true => Ok(()),
                false => Ok(flat.f_fill_(-0.0).map(drop)?),
            };
            let shared = self.finish(self.begin(&own, values)?)?;
            no_grad(|| {
                for (own, shared) in own.iter().zip(&shared) {
                    own.shallow_clone().f_copy_(shared)?;
                }
                anyhow::Ok(())
            })?;
        }
        Ok(())
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

    /// The end of a run: waits until process 0 has come here, which has files to write before, and then for
    /// all. Returns whether any process says so, and in process 0 what each one has to report, in one line.
    ///
    /// # Errors
    /// Another process is lost.
    pub fn leave(&self, own: bool, report: String) -> Result<(bool, Vec<String>)> {
        let _ = self.value_of_first("written", || "yes".to_owned(), WRITING)?;
        let reports = format!("{}/report/", self.name);
        let set = self
            .store
            .set(format!("{reports}{}", self.world.rank), report);
        set.map_err(|error| self.lost(&error))?;
        let any = self.any(own);
        let reports = match (&any, self.is_first()) {
            (Ok(_), true) => self.store.list(reports, self.world.size as usize),
            _ => Ok(Vec::new()),
        };
        let reports = reports.map_err(|error| self.lost(&error));
        self.health.end();
        Ok((any?, reports?))
    }

    /// Waits for something that all processes take part in; `wait` does so for a while.
    fn await_exchange(&self, wait: impl Fn(Duration) -> Result<bool>) -> Result<()> {
        let poll = || Ok(wait(SLICE)?.then_some(()));
        let done = self.await_peers(self.timeouts.exchange, poll);
        done.map_err(|error| self.lost(&error))
    }

    /// How batch norms take their statistics of the images of all processes.
    pub fn joint_sum(&self) -> JointSum {
        self.group.joint_sum()
    }

    /// The error of a step: where it is due to another process, the reason why that one is lost.
    pub fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        match self.group.has_failed() && !PeerLost::is_in(&error) {
            true => self.lost(&error),
            false => error,
        }
    }

    /// The reason why this process cannot exchange anything any more.
    fn lost(&self, error: &anyhow::Error) -> anyhow::Error {
        anyhow::Error::new(PeerLost(self.health.find_reason(error)))
    }

    /// Publishes why this process ends, unless it only lost another one.
    pub fn end(&self, error: &anyhow::Error, lost: bool) {
        if !lost {
            let reason = format!("process {} failed: {error:#}", self.world.rank);
            self.health.fail(reason);
        }
        if lost {
            sleep(LINGER);
        } else if self.is_first() {
            sleep(KEEP);
        }
    }
}

impl Tally for Peers {
    fn count(&self, name: &str) -> Result<u64> {
        let count = self.store.count(format!("{}/{name}", self.name));
        count.map_err(|error| self.lost(&error))
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        if self.health.reason().is_some() {
            // Its destructor would wait for exchanges that others will never take part in.
            std::mem::forget(Arc::clone(&self.group));
        }
    }
}

/// An exchange that was begun; see [`Peers::finish`].
#[must_use]
#[derive(Debug)]
pub struct Exchanged(Vec<(Sum, Tensor, Vec<Vec<i64>>)>);

/// Bytes of a tensor's values.
pub(crate) fn bytes_of(tensor: &Tensor) -> usize {
    tensor.numel() * tensor.kind().elt_size_in_bytes()
}

/// The ranges of consecutive tensors that are exchanged together, each of at least [`BUCKET`] bytes but for
/// the last one.
fn buckets(bytes: impl Iterator<Item = usize>) -> Vec<Range<usize>> {
    let mut all = Vec::new();
    let (mut from, mut end, mut sum) = (0, 0, 0);
    for bytes in bytes {
        end += 1;
        sum += bytes;
        if sum >= BUCKET {
            all.push(from..end);
            (from, sum) = (end, 0);
        }
    }
    if from < end {
        all.push(from..end);
    }
    all
}
