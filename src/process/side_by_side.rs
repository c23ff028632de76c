//! Programs that run side by side on this machine, each on cores of its own.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use libc::{SIGCONT, SIGHUP, SIGTSTP, c_int};
use signal_hook::iterator::Signals;

use super::ending;
use super::supervisor::{end_at_once, ends_with_this_one, pass_on};

/// How long [`SideBySide::wait`] waits if nothing has ended.
const PAUSE: Duration = Duration::from_millis(20);

/// How this process's cores are shared out.
pub struct Shares {
    /// The cores of each share. All have as many: how a program adds up its sums depends on that.
    slices: Vec<Vec<usize>>,
    /// The cores that are shared out.
    pub cores: usize,
}

impl Shares {
    /// `count` shares of the cores that this process may use.
    pub fn new(count: usize) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Shares {
            slices: slices(&own_cores(cores), cores, count),
            cores,
        }
    }

    /// The cores of each share.
    pub fn each(&self) -> usize {
        self.slices.first().map_or(1, Vec::len)
    }
}

/// `count` slices of `cpus`, of which only `cores` may be busy at a time (a container may have a smaller
/// share of time than it has cores). Without enough of them, several slices have the same.
fn slices(cpus: &[usize], cores: usize, count: usize) -> Vec<Vec<usize>> {
    let each = (cores.min(cpus.len()) / count).max(1);
    let stride = (cpus.len() / count).max(1);
    let slice = |at: usize| cpus.iter().cycle().skip(at * stride).take(each).copied();
    (0..count).map(|at| slice(at).collect()).collect()
}

/// The programs that run; they end where this one ends in whatever way. Use it in the main thread: the
/// system takes the end of the thread that started a program for the end of its parent.
pub struct SideBySide {
    signals: Signals,
    slots: Vec<Slot>,
    interrupted: bool,
}

/// A share of the cores, and what runs on it.
struct Slot {
    /// `None`: all cores.
    cores: Option<Vec<usize>>,
    running: Option<Running>,
}

struct Running {
    id: usize,
    process: Child,
    since: Instant,
}

/// A program that has ended.
pub struct Ended {
    pub id: usize,
    pub status: ExitStatus,
    pub took: Duration,
}

impl SideBySide {
    /// Listens to signals from here on.
    ///
    /// # Errors
    /// The system has no more file descriptors.
    pub fn new(shares: Shares) -> Result<Self> {
        let signals = Signals::new(ending().chain([SIGTSTP, SIGCONT]));
        // A single one keeps all cores, also those that do not divide by the number of programs.
        let is_shared = shares.slices.len() > 1;
        let slot = |cores| Slot {
            cores: Some(cores).filter(|_| is_shared),
            running: None,
        };
        Ok(SideBySide {
            signals: signals.context("cannot listen to signals")?,
            slots: shares.slices.into_iter().map(slot).collect(),
            interrupted: false,
        })
    }

    /// How many programs run.
    pub fn running(&self) -> usize {
        let running = self.slots.iter().filter(|slot| slot.running.is_some());
        running.count()
    }

    /// Whether another program can be started.
    pub fn has_room(&self) -> bool {
        self.running() < self.slots.len()
    }

    /// Whether a signal has come that ends the programs.
    pub fn interrupted(&self) -> bool {
        self.interrupted
    }

    /// Starts a program on free cores. `id` is what [`SideBySide::wait`] calls it.
    ///
    /// # Errors
    /// It cannot be started; there is no room.
    pub fn start(&mut self, id: usize, mut command: Command) -> Result<()> {
        let free = self.slots.iter_mut().find(|slot| slot.running.is_none());
        let slot = free.context("all cores are in use")?;
        // A terminal's Ctrl-C comes here alone, and is passed on once.
        command.process_group(0);
        ends_with_this_one(&mut command);
        if let Some(cores) = &slot.cores {
            computes_on(&mut command, cores);
        }
        let process = command.spawn().context("cannot start a program")?;
        let since = Instant::now();
        slot.running = Some(Running { id, process, since });
        Ok(())
    }

    /// Passes on the signals that have come, and returns what has ended; waits a little if nothing has.
    ///
    /// The first signal lets the programs end in their own way, the next one ends them at once; but not
    /// SIGHUP, which a closing terminal sends twice.
    pub fn wait(&mut self) -> Vec<Ended> {
        let signals: Vec<c_int> = self.signals.pending().collect();
        for signal in signals {
            self.take(signal);
        }
        let ended: Vec<_> = self.slots.iter_mut().filter_map(Slot::ended).collect();
        if ended.is_empty() {
            std::thread::sleep(PAUSE);
        }
        ended
    }

    fn take(&mut self, signal: c_int) {
        let running = self.slots.iter_mut().filter_map(|it| it.running.as_mut());
        let is_ending = !matches!(signal, SIGTSTP | SIGCONT);
        if !is_ending || !self.interrupted {
            self.interrupted |= is_ending;
            pass_on(signal, running.map(|running| running.process.id()));
        } else if signal != SIGHUP {
            running.for_each(|running| end_at_once(&mut running.process));
        }
    }
}

impl Slot {
    fn ended(&mut self) -> Option<Ended> {
        let running = self.running.as_mut()?;
        let status = running.process.try_wait().ok()??;
        let ended = Ended {
            id: running.id,
            status,
            took: running.since.elapsed(),
        };
        self.running = None;
        Some(ended)
    }
}

/// The numbers of the cores that this process may use.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn own_cores(cores: usize) -> Vec<usize> {
    // SAFETY: all bits zero is an empty set; the call writes no more than the size it is given, and
    // `CPU_ISSET` is asked for no core that the set has no place for.
    let numbers: Vec<usize> = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        let known = libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) == 0;
        let all = 0..libc::CPU_SETSIZE as usize;
        all.filter(|&core| known && libc::CPU_ISSET(core, &set))
            .collect()
    };
    match numbers.is_empty() {
        true => (0..cores).collect(),
        false => numbers,
    }
}

#[cfg(not(target_os = "linux"))]
fn own_cores(cores: usize) -> Vec<usize> {
    (0..cores).collect()
}

/// Has a program that is started compute on some cores only. libtorch and the data workers count those
/// that they may use.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn computes_on(command: &mut Command, cores: &[usize]) {
    // SAFETY: as in `own_cores`, whose numbers these are.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        let places = 0..libc::CPU_SETSIZE as usize;
        for &core in cores.iter().filter(|core| places.contains(core)) {
            libc::CPU_SET(core, &mut set);
        }
        set
    };
    // SAFETY: between fork and exec it makes one system call, which allocates nothing.
    unsafe {
        command.pre_exec(move || {
            // Where it is not allowed, the program computes on all cores: slower, and right.
            libc::sched_setaffinity(0, size_of_val(&set), &raw const set);
            Ok(())
        });
    }
}

/// There is no affinity: the number of threads alone.
#[cfg(not(target_os = "linux"))]
fn computes_on(command: &mut Command, cores: &[usize]) {
    command.env("OMP_NUM_THREADS", cores.len().to_string());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_has_as_many_cores() {
        type Case = (&'static [usize], usize, usize, &'static [&'static [usize]]);
        let cases: [Case; 7] = [
            (&[0, 1], 2, 2, &[&[0], &[1]]),
            (&[0, 1, 2, 3], 4, 2, &[&[0, 1], &[2, 3]]),
            // Not all of them, but the same number for each.
            (&[2, 4, 6, 8, 10], 5, 2, &[&[2, 4], &[6, 8]]),
            (&[0, 1], 2, 1, &[&[0, 1]]),
            // More programs than cores.
            (&[5, 7], 2, 3, &[&[5], &[7], &[5]]),
            // A container with two cores' time on a machine of eight.
            (&[0, 1, 2, 3, 4, 5, 6, 7], 2, 2, &[&[0], &[4]]),
            (&[0, 1, 2, 3, 4, 5, 6, 7], 1, 4, &[&[0], &[2], &[4], &[6]]),
        ];
        for (cpus, cores, count, expected) in cases {
            assert_eq!(slices(cpus, cores, count), expected, "{cpus:?} for {count}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_program_counts_its_own_cores_alone() {
        let folder = tempfile::tempdir().unwrap();
        let shares = Shares::new(2);
        let each = shares.each();
        let mut programs = SideBySide::new(shares).unwrap();
        let count = |at: usize| folder.path().join(at.to_string());
        for at in 0..3 {
            while !programs.has_room() {
                programs.wait();
            }
            let mut nproc = Command::new("nproc");
            // It counts no more than this says.
            nproc.env_remove("OMP_NUM_THREADS");
            nproc.stdout(std::fs::File::create(count(at)).unwrap());
            programs.start(at, nproc).unwrap();
        }
        while programs.running() > 0 {
            programs.wait();
        }
        for at in 0..3 {
            let counted = std::fs::read_to_string(count(at)).unwrap();
            assert_eq!(counted.trim(), each.to_string(), "program {at}");
        }
    }
}
