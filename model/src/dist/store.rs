//! The small values that all processes of a run reach, by name.

use std::sync::Mutex;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::native;

/// libtorch's store, on a thread of its own: where the process that serves it is stopped, a request waits
/// for ever in a system call, and this value gives up after a while.
#[derive(Debug)]
pub(super) struct Store {
    requests: Mutex<Sender<Request>>,
    /// The longest that an answer may take.
    timeout: Duration,
}

type Request = Box<dyn FnOnce(&native::Store) + Send>;

impl Store {
    /// The store at a place. `serves`: it lives in this process, for as long as this value. The other
    /// processes wait until it is there, at most `patience`. No later answer may take more than `timeout`.
    ///
    /// # Errors
    /// Nobody answers; the port is taken.
    pub fn open(
        host: &str,
        port: u16,
        serves: bool,
        patience: Duration,
        timeout: Duration,
    ) -> Result<Self> {
        let store = native::Store::open(host, port, serves, patience)?;
        let (requests, receiver) = channel::<Request>();
        let thread = std::thread::Builder::new().name("store".to_owned());
        let answer = move || receiver.iter().for_each(|request| request(&store));
        thread.spawn(answer).context("cannot start a thread")?;
        Ok(Store {
            requests: Mutex::new(requests),
            timeout,
        })
    }

    /// What `ask` gets of the store, within `timeout`.
    ///
    /// # Errors
    /// Those of `ask`; no answer.
    pub fn ask<T: Send + 'static>(
        &self,
        timeout: Duration,
        ask: impl FnOnce(&native::Store) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (sender, answer) = channel();
        let request = Box::new(move |store: &native::Store| drop(sender.send(ask(store))));
        let requests = self.requests.lock().ok().map(|all| all.clone());
        let sent = requests.and_then(|requests| requests.send(request).ok());
        sent.context("the store's thread has ended")?;
        // In slices, so that the time in which this process was stopped counts as one.
        const SLICES: u32 = 20;
        for _ in 0..SLICES {
            match answer.recv_timeout(timeout / SLICES) {
                Ok(answer) => return answer,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("the store's thread has ended"),
            }
        }
        let seconds = timeout.as_secs_f64();
        bail!("the store, which process 0 or the launcher holds, has not answered for {seconds} s")
    }

    /// Sets a value.
    ///
    /// # Errors
    /// As [`Store::ask`].
    pub fn set(&self, key: String, value: String) -> Result<()> {
        self.ask(self.timeout, move |store| store.set(&key, &value))
    }

    /// A value, if it was set.
    ///
    /// # Errors
    /// As [`Store::ask`].
    pub fn find(&self, key: String) -> Result<Option<String>> {
        self.ask(self.timeout, move |store| store.find(&key))
    }

    /// Sets a value unless there is one. Returns the one that is there.
    ///
    /// # Errors
    /// As [`Store::ask`].
    pub fn set_first(&self, key: String, value: String) -> Result<String> {
        self.ask(self.timeout, move |store| store.set_first(&key, &value))
    }

    /// Adds one to a number, which is 0 at first, and returns it.
    ///
    /// # Errors
    /// As [`Store::ask`].
    pub fn count(&self, key: String) -> Result<u64> {
        self.ask(self.timeout, move |store| store.count(&key))
    }

    /// The values of `prefix0`, `prefix1` and so on, which must have been set.
    ///
    /// # Errors
    /// As [`Store::ask`].
    pub fn list(&self, prefix: String, count: usize) -> Result<Vec<String>> {
        self.ask(self.timeout, move |store| store.list(&prefix, count))
    }
}
