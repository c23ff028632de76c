//! Noticing that a process of the run is lost, and why.
//!
//! Every process says several times a second, through the store, that it is alive and what it does. Process
//! 0 looks at all of them, and all of them at process 0: one that is silent for too long is lost. The reason
//! why a run fails, whichever process found it, is one value in the store, which all look at as often.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rsflow_graph::World;

use super::native::Group;
use super::store::Store;

/// The longest time between two signs of life.
const EVERY: Duration = Duration::from_millis(500);
/// How long a process may be silent when it is known that one is lost: three times [`EVERY`], and some.
const SHORT_SILENCE: Duration = Duration::from_secs(2);
/// How long a process that lost another one looks for the reason; [`SHORT_SILENCE`] shows which one is lost.
const SEARCH: Duration = Duration::from_secs(5);

/// What a process is about, for those that wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Works = 0,
    /// For the others.
    Waits = 1,
    /// Files, which may take long.
    Writes = 2,
}

/// How a process and the others are.
#[derive(Debug)]
pub(super) struct Health {
    world: World,
    store: Arc<Store>,
    /// Prefix of all keys of this meeting.
    name: String,
    silence: Duration,
    doing: Mutex<String>,
    state: AtomicU8,
    /// Why the run fails.
    reason: OnceLock<String>,
    /// The run is over.
    is_over: AtomicBool,
    /// What waits for other processes within libtorch.
    group: Arc<Group>,
    /// By rank.
    signs: Mutex<Vec<Sign>>,
}

/// A process's last sign of life, and when it came.
#[derive(Clone, Debug)]
struct Sign {
    text: String,
    at: Instant,
}

/// A sign of life: `number state doing`.
fn sign(number: u64, state: u8, doing: &str) -> String {
    format!("{number} {state} {}", doing.replace('\n', " "))
}

fn state_of(sign: &str) -> State {
    match sign.split(' ').nth(1) {
        Some("1") => State::Waits,
        Some("2") => State::Writes,
        _ => State::Works,
    }
}

fn doing_of(sign: &str) -> &str {
    sign.splitn(3, ' ').nth(2).unwrap_or_default()
}

fn key_of(name: &str, rank: impl std::fmt::Display) -> String {
    format!("{name}/alive/{rank}")
}

/// The first sign of life of this process; the processes are connected when all have given theirs.
///
/// # Errors
/// The store does not answer.
pub(super) fn first_sign(store: &Store, name: &str, world: World) -> Result<()> {
    let first = sign(0, State::Works as u8, "starting");
    store.set(key_of(name, world.rank), first)
}

impl Health {
    /// Says from now on, for as long as this value, that this process is alive.
    ///
    /// # Errors
    /// There are no more threads.
    pub fn start(
        store: &Arc<Store>,
        name: &str,
        world: World,
        silence: Duration,
        group: Arc<Group>,
    ) -> Result<Arc<Self>> {
        let unseen = Sign {
            text: String::new(),
            at: Instant::now(),
        };
        let health = Arc::new(Health {
            world,
            store: Arc::clone(store),
            name: name.to_owned(),
            silence,
            doing: Mutex::new("starting".to_owned()),
            state: AtomicU8::new(State::Works as u8),
            reason: OnceLock::new(),
            is_over: AtomicBool::new(false),
            group,
            signs: Mutex::new(vec![unseen; world.size as usize]),
        });
        let thread = std::thread::Builder::new().name("signs of life".to_owned());
        let weak = Arc::downgrade(&health);
        let every = EVERY.min(silence / 4);
        thread
            .spawn(move || watch(&weak, every))
            .context("cannot start a thread")?;
        Ok(health)
    }

    /// What this process does from now on, for the message if it is lost: "in step 7".
    pub fn set_doing(&self, doing: String) {
        *self.doing.lock().unwrap_or_else(PoisonError::into_inner) = doing;
    }

    /// What the others are to know of this process from now on.
    pub fn set_state(&self, state: State) {
        self.state.store(state as u8, Relaxed);
    }

    /// No process looks for signs of life any more: the store may go away.
    pub fn end(&self) {
        self.is_over.store(true, Relaxed);
    }

    /// Why the run fails, once that is known.
    pub fn reason(&self) -> Option<&str> {
        self.reason.get().map(String::as_str)
    }

    /// Publishes why the run fails, unless another process has done so before. Returns the reason that counts.
    pub fn fail(&self, reason: String) -> &str {
        let first = self.store.set_first(self.failed(), reason.clone());
        self.reason.get_or_init(|| first.unwrap_or(reason))
    }

    /// Why an exchange failed with this error, which is what the system noticed first.
    pub fn find_reason(&self, error: &anyhow::Error) -> String {
        let until = Instant::now() + SEARCH;
        while Instant::now() < until {
            if let Some(reason) = self.reason() {
                return reason.to_owned();
            }
            if let Err(gone) = self.look(SHORT_SILENCE, 0..self.world.size) {
                // Not published: without the store there is no way to.
                return self.reason.get_or_init(|| store_is_gone(&gone)).clone();
            }
            sleep(Duration::from_millis(50));
        }
        let reason = format!("another process of the run is gone or does not answer: {error:#}");
        self.fail(reason).to_owned()
    }

    /// Which processes let the others wait, and what they do; whether one of them writes files.
    ///
    /// # Errors
    /// The store does not answer.
    pub fn who_is_awaited(&self) -> Result<(String, bool)> {
        let signs = self.signs_of_all()?;
        let awaited = (0..)
            .zip(&signs)
            .filter(|(_, sign)| state_of(sign) != State::Waits);
        let awaited: Vec<String> = awaited
            .map(|(rank, sign): (u32, _)| format!("process {rank} is {}", doing_of(sign)))
            .collect();
        let writes = signs.iter().any(|sign| state_of(sign) == State::Writes);
        Ok(match awaited.is_empty() {
            true => (
                "all processes wait for each other: the network may be broken".to_owned(),
                writes,
            ),
            false => (awaited.join(", "), writes),
        })
    }

    fn failed(&self) -> String {
        format!("{}/failed", self.name)
    }

    fn signs_of_all(&self) -> Result<Vec<String>> {
        self.store
            .list(key_of(&self.name, ""), self.world.size as usize)
    }

    fn sign(&self, number: u64) -> Result<()> {
        let doing = self
            .doing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let sign = sign(number, self.state.load(Relaxed), &doing);
        self.store.set(key_of(&self.name, self.world.rank), sign)
    }

    /// Looks for a reason why the run fails, and whether one of these processes is silent for so long.
    fn look(&self, silence: Duration, ranks: Range<u32>) -> Result<()> {
        if let Some(reason) = self.store.find(self.failed())? {
            let _ = self.reason.set(reason);
            return Ok(());
        }
        let found = match ranks.len() {
            1 => vec![
                self.store
                    .find(key_of(&self.name, ranks.start))?
                    .unwrap_or_default(),
            ],
            _ => self.signs_of_all()?,
        };
        let mut signs = self.signs.lock().unwrap_or_else(PoisonError::into_inner);
        let mut longest: Option<(u32, Duration, String)> = None;
        for (rank, text) in ranks.zip(found) {
            let Some(sign) = signs.get_mut(rank as usize) else {
                continue;
            };
            let own = rank == self.world.rank;
            if sign.text != text || own {
                *sign = Sign {
                    text,
                    at: Instant::now(),
                };
            }
            let silent = sign.at.elapsed();
            if silent > silence && longest.as_ref().is_none_or(|(_, most, _)| silent > *most) {
                longest = Some((rank, silent, doing_of(&sign.text).to_owned()));
            }
        }
        drop(signs);
        if let Some((rank, silent, doing)) = longest {
            let seconds = silent.as_secs_f64();
            self.fail(format!(
                "process {rank} is lost: it has been silent for {seconds:.1} s, last it was {doing}"
            ));
        }
        Ok(())
    }

    /// Nobody was watched for a while: this process itself was stopped.
    fn forgive(&self) {
        let mut signs = self.signs.lock().unwrap_or_else(PoisonError::into_inner);
        signs.iter_mut().for_each(|sign| sign.at = Instant::now());
    }
}

fn store_is_gone(error: &anyhow::Error) -> String {
    format!("process 0, or the launcher that holds the store of the run, is lost: {error:#}")
}

fn watch(health: &Weak<Health>, every: Duration) {
    for number in 1.. {
        let slept = Instant::now();
        sleep(every);
        let slept = slept.elapsed();
        let Some(health) = health.upgrade().filter(|h| !h.is_over.load(Relaxed)) else {
            return;
        };
        if slept > every + SHORT_SILENCE / 2 {
            health.forgive();
        }
        let ranks = if health.world.rank == 0 {
            0..health.world.size
        } else {
            0..1
        };
        let seen = health
            .sign(number)
            .and_then(|()| health.look(health.silence, ranks));
        if let Err(gone) = seen {
            let _ = health.reason.set(store_is_gone(&gone));
        }
        if health.reason().is_some() {
            health.group.give_up();
        }
    }
}
