//! Noticing that a process of the run is lost, and why.
//!
//! Every process says several times a second, through the store, that it is alive and what it does. Process
//! 0 looks at all of them: one that is silent for too long is lost. The reason why a run fails, whichever
//! process found it, is one value in the store, which all look at as often.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
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
/// How long a process that lost another one looks for the reason. Process 0 needs [`SHORT_SILENCE`] to see
/// which one is lost.
const SEARCH: Duration = Duration::from_secs(5);

/// How a process and the others are.
#[derive(Debug)]
pub(super) struct Health {
    world: World,
    store: Arc<Store>,
    /// Prefix of all keys of this meeting.
    name: String,
    silence: Duration,
    doing: Mutex<String>,
    /// Whether this process waits for the others.
    waits: AtomicBool,
    /// Why the run fails.
    reason: OnceLock<String>,
    /// The run is over.
    is_over: AtomicBool,
    /// What waits for other processes within libtorch.
    group: OnceLock<Arc<Group>>,
    /// By rank, as process 0 sees them.
    others: Mutex<Vec<Sign>>,
}

/// A process's last sign of life.
#[derive(Clone, Debug)]
struct Sign {
    text: String,
    /// When it came.
    at: Instant,
}

impl Sign {
    fn new(text: String) -> Self {
        Sign {
            text,
            at: Instant::now(),
        }
    }

    /// `number waits doing`, as [`Health::sign`] writes it.
    fn doing(&self) -> &str {
        self.text.splitn(3, ' ').nth(2).unwrap_or_default()
    }

    fn waits(&self) -> bool {
        self.text.split(' ').nth(1) == Some("1")
    }
}

impl Health {
    /// Says that this process is alive, now and from now on, for as long as this value.
    ///
    /// # Errors
    /// The store does not answer; there are no more threads.
    pub fn start(
        store: &Arc<Store>,
        name: &str,
        world: World,
        silence: Duration,
    ) -> Result<Arc<Self>> {
        let health = Arc::new(Health {
            world,
            store: Arc::clone(store),
            name: name.to_owned(),
            silence,
            doing: Mutex::new("starting".to_owned()),
            waits: AtomicBool::new(false),
            reason: OnceLock::new(),
            is_over: AtomicBool::new(false),
            group: OnceLock::new(),
            others: Mutex::new(vec![Sign::new(String::new()); world.size as usize]),
        });
        health.sign(0)?;
        let thread = std::thread::Builder::new().name("signs of life".to_owned());
        let weak = Arc::downgrade(&health);
        let every = EVERY.min(silence / 4);
        thread
            .spawn(move || watch(&weak, every))
            .context("cannot start a thread")?;
        Ok(health)
    }

    /// What this process does from now on, to be told if it is lost: "in step 7".
    pub fn set_doing(&self, doing: String) {
        *self.doing.lock().unwrap_or_else(PoisonError::into_inner) = doing;
    }

    /// Whether this process waits for the others.
    pub fn set_waiting(&self, waits: bool) {
        self.waits.store(waits, Relaxed);
    }

    /// This group is not to wait any more once the run fails.
    pub fn set_group(&self, group: Arc<Group>) {
        let _ = self.group.set(group);
    }

    /// No process looks for signs of life any more: the store may go away.
    pub fn end(&self) {
        self.is_over.store(true, Relaxed);
    }

    /// Why the run fails, once that is known.
    pub fn reason(&self) -> Option<&str> {
        self.reason.get().map(String::as_str)
    }

    /// Tells all processes why the run fails, unless one has done so before. Returns the reason that counts.
    pub fn fail(&self, reason: String) -> &str {
        let known = self.store.find(self.failed());
        let reason = match known {
            Ok(Some(first)) => first,
            _ => {
                let _ = self.store.set(self.failed(), reason.clone());
                reason
            }
        };
        self.reason.get_or_init(|| reason)
    }

    /// Why an exchange failed with this error, which is what the system noticed first.
    pub fn find_reason(&self, error: &anyhow::Error) -> String {
        let until = Instant::now() + SEARCH;
        while Instant::now() < until {
            if let Some(reason) = self.reason() {
                return reason.to_owned();
            }
            if let Err(gone) = self.look(SHORT_SILENCE) {
                return self.fail(first_is_gone(&gone)).to_owned();
            }
            sleep(Duration::from_millis(50));
        }
        let reason = format!("another process of the run is gone or does not answer: {error:#}");
        self.fail(reason).to_owned()
    }

    /// Which processes let the others wait, and what they do.
    pub fn who_is_awaited(&self) -> Result<String> {
        let mut awaited = Vec::new();
        for rank in 0..self.world.size {
            let sign = Sign::new(self.store.find(self.key_of(rank))?.unwrap_or_default());
            if !sign.waits() {
                awaited.push(format!("process {rank} is {}", sign.doing()));
            }
        }
        Ok(awaited.join(", "))
    }

    fn key_of(&self, rank: u32) -> String {
        format!("{}/alive/{rank}", self.name)
    }

    fn failed(&self) -> String {
        format!("{}/failed", self.name)
    }

    fn sign(&self, number: u64) -> Result<()> {
        let doing = self.doing.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = u8::from(self.waits.load(Relaxed));
        let text = format!("{number} {waits} {doing}");
        drop(doing);
        self.store.set(self.key_of(self.world.rank), text)
    }

    /// Looks for a reason why the run fails. As process 0 also whether another one is silent for so long.
    fn look(&self, silence: Duration) -> Result<()> {
        if let Some(reason) = self.store.find(self.failed())? {
            let _ = self.reason.set(reason);
            return Ok(());
        }
        if self.world.rank != 0 {
            return Ok(());
        }
        for rank in 1..self.world.size {
            let found = self.store.find(self.key_of(rank))?.unwrap_or_default();
            let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
            let sign = &mut others[rank as usize];
            if sign.text != found {
                *sign = Sign::new(found);
            }
            let silent = sign.at.elapsed();
            if silent > silence {
                let reason = format!(
                    "process {rank} is lost: it has been silent for {:.1} s, last it was {}",
                    silent.as_secs_f64(),
                    sign.doing()
                );
                drop(others);
                self.fail(reason);
                break;
            }
        }
        Ok(())
    }

    /// Nobody was watched for a while: this process itself was stopped.
    fn forgive(&self) {
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        others.iter_mut().for_each(|sign| sign.at = Instant::now());
    }
}

fn first_is_gone(error: &anyhow::Error) -> String {
    format!("the store of the run is gone, and with it process 0: {error:#}")
}

fn watch(health: &Weak<Health>, every: Duration) {
    let mut last = Instant::now();
    for number in 1.. {
        sleep(every);
        let Some(health) = health.upgrade().filter(|h| !h.is_over.load(Relaxed)) else {
            return;
        };
        if last.elapsed() > 2 * every + SHORT_SILENCE / 2 {
            health.forgive();
        }
        last = Instant::now();
        let seen = health
            .sign(number)
            .and_then(|()| health.look(health.silence));
        if let Err(gone) = seen {
            let _ = health.reason.set(first_is_gone(&gone));
        }
        if let (Some(_), Some(group)) = (health.reason(), health.group.get()) {
            group.give_up();
        }
    }
}
