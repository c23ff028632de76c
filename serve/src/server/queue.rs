//! The requests that wait for the device: bounded, in the order of their deadlines. Time is an argument, so
//! that tests can let it pass.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::policy::{self, Load, RESERVE, Rules, Waiting};
use super::profile::Profile;

/// While more than this share of the last second's requests was refused or late, all get the smallest size. A
/// single one may be late because the machine was busy otherwise.
const TROUBLE: f64 = 0.01;

/// An image that waits.
#[derive(Debug)]
pub struct Entry<T> {
    /// The row that was named; `None` leaves it to the policy.
    pub row: Option<usize>,
    pub arrived: Instant,
    pub deadline: Instant,
    pub job: T,
}

impl<T> Entry<T> {
    /// The deadline with the reserve taken off.
    fn due(&self) -> Instant {
        self.deadline - self.deadline.duration_since(self.arrived).mul_f64(RESERVE)
    }
}

/// A request that may be queued.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// The row that it names.
    pub row: Option<usize>,
    pub images: usize,
    /// The seconds until it can be queued.
    pub before: f64,
    pub deadline: Instant,
}

/// Images that are computed together.
#[derive(Debug)]
pub struct Batch<T> {
    pub row: usize,
    pub entries: Vec<Entry<T>>,
    /// The seconds that it is predicted to take.
    pub predicted: f64,
}

/// Why a request was not taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Refused {
    /// It cannot be answered in time; in so many seconds it could.
    Hopeless { retry_after: f64 },
    /// The queue is full; it is predicted to be empty in so many seconds.
    Full { retry_after: f64 },
}

/// The batch that is computed now.
#[derive(Clone, Copy, Debug)]
pub struct Running {
    pub since: Instant,
    pub predicted: f64,
}

/// What the queue knows, for whoever watches.
#[derive(Clone, Debug)]
pub struct Watched {
    pub waiting: usize,
    pub rate: f64,
    pub troubled: bool,
    pub running: Option<Running>,
}

/// The queue of one device.
#[derive(Debug)]
pub struct Queue<T> {
    rules: Rules,
    profile: Profile,
    /// Entries that named no row, and those of each row; each by due time.
    any: VecDeque<Entry<T>>,
    at: Vec<VecDeque<Entry<T>>>,
    /// The most entries.
    room: usize,
    arrivals: LastSecond,
    /// Those that were refused or late.
    missed: LastSecond,
    running: Option<Running>,
    /// Whether nobody waits for an answer any more.
    is_cancelled: fn(&T) -> bool,
}

impl<T> Queue<T> {
    pub fn new(
        rules: Rules,
        profile: Profile,
        room: usize,
        is_cancelled: fn(&T) -> bool,
        now: Instant,
    ) -> Self {
        Queue {
            at: (0..profile.rows()).map(|_| VecDeque::new()).collect(),
            any: VecDeque::new(),
            rules,
            profile,
            room,
            arrivals: LastSecond::new(now),
            missed: LastSecond::new(now),
            running: None,
            is_cancelled,
        }
    }

    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    pub fn len(&self) -> usize {
        self.any.len() + self.at.iter().map(VecDeque::len).sum::<usize>()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn watch(&self, now: Instant) -> Watched {
        Watched {
            waiting: self.len(),
            rate: self.arrivals.rate(now),
            troubled: self.is_troubled(now),
            running: self.running,
        }
    }

    /// Whether a request that arrives now could be answered by its deadline.
    ///
    /// # Errors
    /// It could not.
    pub fn admits(&self, asked: Asked, now: Instant) -> Result<(), Refused> {
        let Asked {
            row,
            images,
            before,
            deadline,
        } = asked;
        let at = row.unwrap_or(self.rules.smallest());
        let left = deadline.saturating_duration_since(now).as_secs_f64();
        // The queues are by due time, which is this much before a deadline of a request that arrives now.
        let due = deadline - Duration::from_secs_f64(RESERVE * left);
        let earlier =
            |queue: &VecDeque<Entry<T>>| queue.partition_point(|entry| entry.due() <= due);
        let mut ahead: Vec<usize> = self.at.iter().map(earlier).collect();
        ahead[self.rules.smallest()] += earlier(&self.any);
        ahead[at] += images.saturating_sub(1);
        let busy = self.busy(now).max(before);
        let fits = policy::admit(&self.profile, &ahead, busy, at, left);
        fits.map_err(|retry_after| Refused::Hopeless { retry_after })?;
        match self.len() + images > self.room {
            true => Err(Refused::Full {
                retry_after: self.busy(now) + self.all(),
            }),
            false => Ok(()),
        }
    }

    /// The same, but entries that were cancelled keep nobody out. They are removed only when they would: the next
    /// batch removes them anyway.
    fn admits_uncancelled(&mut self, asked: Asked, now: Instant) -> Result<(), Refused> {
        self.admits(asked, now).or_else(|_| {
            self.forget_cancelled();
            self.admits(asked, now)
        })
    }

    /// The same before a request's files are decoded. One that is refused counts as arrived, and as trouble if it
    /// was not refused for its decoding alone.
    ///
    /// # Errors
    /// As [`Queue::admits`].
    pub fn admits_files(&mut self, asked: Asked, now: Instant) -> Result<(), Refused> {
        let admitted = self.admits_uncancelled(asked, now);
        if admitted.is_err() {
            self.arrivals.count(asked.images, now);
            let at_once = Asked {
                before: 0.0,
                ..asked
            };
            if self.admits(at_once, now).is_err() {
                let left = asked.deadline.saturating_duration_since(now);
                self.is_refused(asked.row, asked.images, left, now);
            }
        }
        admitted
    }

    /// A request that had so much time cannot be in time.
    fn is_refused(&mut self, row: Option<usize>, images: usize, left: Duration, now: Instant) {
        if self.is_usual(row, left) {
            self.missed.count(images, now);
        }
        if self.running.is_none() && self.is_empty() {
            self.profile.fade();
        }
    }

    /// Takes the images of a request, all of them or none.
    ///
    /// # Errors
    /// They cannot be in time, even at the smallest size that they may get; the queue is full.
    pub fn submit(&mut self, entries: Vec<Entry<T>>, now: Instant) -> Result<(), Refused> {
        let Some(last) = entries.last() else {
            return Ok(());
        };
        let asked = Asked {
            row: last.row,
            images: entries.len(),
            before: 0.0,
            deadline: last.deadline,
        };
        let time = last.deadline.duration_since(last.arrived);
        self.arrivals.count(asked.images, now);
        if let Err(refused) = self.admits_uncancelled(asked, now) {
            self.is_refused(asked.row, asked.images, time, now);
            return Err(refused);
        }
        for entry in entries {
            let queue = match entry.row {
                Some(row) => &mut self.at[row],
                None => &mut self.any,
            };
            let at = queue.partition_point(|other| other.due() <= entry.due());
            queue.insert(at, entry);
        }
        Ok(())
    }

    /// The batch to compute now; `None` if nothing waits. What cannot be in time any more goes to `late`.
    pub fn next(&mut self, late: &mut Vec<Entry<T>>, now: Instant) -> Option<Batch<T>> {
        self.forget_cancelled();
        self.forget_late(late, now);
        let waiting = self.waiting(now);
        let load = Load {
            rate: self.arrivals.rate(now),
            troubled: self.is_troubled(now),
        };
        let chosen = policy::choose(&self.rules, &self.profile, &waiting, &load);
        // The earliest of all decides about the row.
        let heads = waiting.at.iter().enumerate();
        let heads = heads.filter_map(|(row, due)| Some((row, *due.first()?)));
        let heads = heads.chain(waiting.any.first().map(|due| (chosen, *due)));
        let (row, _) = heads.min_by(|(_, a), (_, b)| a.total_cmp(b))?;
        let entries = self.take(row, row == chosen);
        let predicted = self.profile.predict(row, entries.len());
        self.running = Some(Running {
            since: now,
            predicted,
        });
        Some(Batch {
            row,
            entries,
            predicted,
        })
    }

    /// A batch has been computed: what it took corrects the profile. `late` of its images, that
    /// [count as trouble](Queue::counts_as_trouble), were late.
    pub fn done(&mut self, row: usize, images: usize, late: usize, now: Instant) {
        if let Some(running) = self.running.take() {
            let took = now.duration_since(running.since).as_secs_f64();
            self.profile.observe(row, images, took);
        }
        self.missed.count(late, now);
    }

    /// Whether this request's fate says that the device is overloaded.
    pub fn counts_as_trouble(&self, entry: &Entry<T>) -> bool {
        self.is_usual(entry.row, entry.deadline.duration_since(entry.arrived))
    }

    /// A request waited in vain for so long, and is not waited for any more.
    pub fn expired(&mut self, row: Option<usize>, after: Duration, now: Instant) {
        if self.is_usual(row, after) {
            self.missed.count(1, now);
        }
    }

    /// Not one that asked for less time than others, or for more work. Of a gRPC call's timeout its transfer is
    /// taken off, and of a request that is refused the time since it arrived: a little less is no less.
    fn is_usual(&self, row: Option<usize>, deadline: Duration) -> bool {
        let most = deadline.mul_f64(1.0 + RESERVE);
        row.is_none() && most >= Duration::from_secs_f64(self.rules.deadline)
    }

    /// Removes everything.
    pub fn clear(&mut self) -> Vec<Entry<T>> {
        let queues = std::iter::once(&mut self.any).chain(&mut self.at);
        queues.flat_map(std::mem::take).collect()
    }

    /// The earliest of a row, and of those that named none.
    fn take(&mut self, row: usize, with_any: bool) -> Vec<Entry<T>> {
        let mut entries = Vec::new();
        while entries.len() < self.profile.largest(row) {
            let any = self.any.front().filter(|_| with_any).map(Entry::due);
            let named = self.at[row].front().map(Entry::due);
            let from = match (any, named) {
                (None, None) => break,
                (Some(any), Some(named)) if named < any => &mut self.at[row],
                (Some(_), _) => &mut self.any,
                (None, Some(_)) => &mut self.at[row],
            };
            entries.extend(from.pop_front());
        }
        entries
    }

    fn forget_cancelled(&mut self) {
        let is_cancelled = self.is_cancelled;
        for queue in std::iter::once(&mut self.any).chain(&mut self.at) {
            queue.retain(|entry| !is_cancelled(&entry.job));
        }
    }

    fn forget_late(&mut self, late: &mut Vec<Entry<T>>, now: Instant) {
        let before = late.len();
        let smallest = self.rules.smallest();
        let rows = std::iter::once(smallest).chain(0..self.at.len());
        let queues = std::iter::once(&mut self.any).chain(&mut self.at);
        for (row, queue) in rows.zip(queues) {
            let one = Duration::from_secs_f64(self.profile.predict(row, 1));
            // By due time, which is nearly the order of deadlines: one that is missed here is late itself.
            while queue
                .front()
                .is_some_and(|entry| now + one > entry.deadline)
            {
                late.extend(queue.pop_front());
            }
        }
        let late = late[before..].iter();
        let missed = late.filter(|entry| self.counts_as_trouble(entry)).count();
        self.missed.count(missed, now);
    }

    fn waiting(&self, now: Instant) -> Waiting {
        let until = |queue: &VecDeque<Entry<T>>| -> Vec<f64> {
            let due = queue.iter().map(Entry::due);
            due.map(|due| due.saturating_duration_since(now).as_secs_f64())
                .collect()
        };
        Waiting {
            any: until(&self.any),
            at: self.at.iter().map(until).collect(),
        }
    }

    /// What is left of the batch that is computed now.
    fn busy(&self, now: Instant) -> f64 {
        self.running.map_or(0.0, |running| {
            (running.predicted - now.duration_since(running.since).as_secs_f64()).max(0.0)
        })
    }

    /// The seconds for all that waits, at the smallest size where none was named.
    fn all(&self) -> f64 {
        let any = self
            .profile
            .predict_all(self.rules.smallest(), self.any.len());
        let named = self.at.iter().enumerate();
        let named = named.map(|(row, queue)| self.profile.predict_all(row, queue.len()));
        any + named.sum::<f64>()
    }

    fn is_troubled(&self, now: Instant) -> bool {
        let missed = self.missed.rate(now);
        missed >= 2.0 && missed > TROUBLE * self.arrivals.rate(now)
    }
}

/// How many came within the last second, in slices of it.
#[derive(Debug)]
struct LastSecond {
    start: Instant,
    /// The number of the newest slice, from `start`.
    newest: u64,
    slices: [u64; Self::SLICES as usize],
}

impl LastSecond {
    const SLICES: u64 = 32;

    fn new(now: Instant) -> Self {
        LastSecond {
            start: now,
            newest: 0,
            slices: [0; Self::SLICES as usize],
        }
    }

    fn slice(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.start).as_secs_f64();
        (since * Self::SLICES as f64) as u64
    }

    fn count(&mut self, images: usize, now: Instant) {
        let slice = self.slice(now).max(self.newest);
        for passed in (self.newest + 1..=slice).take(Self::SLICES as usize) {
            self.slices[(passed % Self::SLICES) as usize] = 0;
        }
        // After a long pause, all of them are old.
        if slice - self.newest > Self::SLICES {
            self.slices = [0; Self::SLICES as usize];
        }
        self.newest = slice;
        self.slices[(slice % Self::SLICES) as usize] += images as u64;
    }

    /// Per second. Before a second has passed it counts as if nothing had come before.
    fn rate(&self, now: Instant) -> f64 {
        let slice = self.slice(now).max(self.newest);
        let old = (slice - self.newest).min(Self::SLICES);
        let kept = (0..Self::SLICES - old).filter_map(|back| self.newest.checked_sub(back));
        let sum: u64 = kept
            .map(|slice| self.slices[(slice % Self::SLICES) as usize])
            .sum();
        sum as f64
    }
}
