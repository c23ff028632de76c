//! What a GPU spent its time on: activities by kind of work, and the kernels that took the most time.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;

use serde::Serialize;

use crate::{Activity, What};

mod names;

pub use names::{demangled, group_of};

/// How many kernels [`Shares`] lists.
const KERNELS: usize = 20;

/// A kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// Convolutions but depthwise ones, and matrix products. Those that a library fuses with something else,
    /// such as a batch norm, count as convolutions.
    Convolution,
    /// Batch norm and the like.
    Norm,
    Pooling,
    /// Depthwise convolutions, and the kernels of cuDNN for few channels in a group.
    Depthwise,
    /// What reads and writes each value once: sums of tensors, reductions, softmax, concatenations, casts.
    Elementwise,
    /// The optimizer's step, the loss scale, and other operators on lists of tensors.
    Optimizer,
    /// Copies and fills of memory, and kernels of cuDNN that change the memory format for a convolution. Those
    /// compute nothing: their time goes away with the right memory format, so it is shown apart from that of
    /// the convolutions.
    Copies,
    /// All else.
    Other,
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Group::Convolution => "convolution",
            Group::Norm => "norm",
            Group::Pooling => "pooling",
            Group::Depthwise => "depthwise",
            Group::Elementwise => "elementwise",
            Group::Optimizer => "optimizer",
            Group::Copies => "copies",
            Group::Other => "other",
        })
    }
}

/// How a GPU spent a span of time.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Shares {
    /// The span, in nanoseconds.
    pub window_ns: u64,
    /// How much of it the GPU did something, in nanoseconds. Activities that overlap count once.
    pub busy_ns: u64,
    /// The same as a share of the span, from 0 to 1. 0 if there was nothing.
    pub busy_share: f64,
    /// The time of all activities together, in nanoseconds. Above `busy_ns` if some overlap.
    pub sum_ns: u64,
    /// The number of activities.
    pub count: u64,
    /// The groups that occur, the one with the most time first.
    pub groups: Vec<GroupShare>,
    /// The kernels with the most time, the first one with the most. At most 20 unless asked otherwise.
    pub kernels: Vec<KernelShare>,
}

/// What a group took.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GroupShare {
    pub group: Group,
    pub count: u64,
    /// In nanoseconds.
    pub time_ns: u64,
    /// Of `sum_ns`, from 0 to 1.
    pub share: f64,
}

/// What the kernels of one name took.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KernelShare {
    /// As CUPTI gives it: mangled. [`demangled`] makes it readable.
    pub name: String,
    pub group: Group,
    pub count: u64,
    /// In nanoseconds.
    pub time_ns: u64,
    /// Of `sum_ns`, from 0 to 1.
    pub share: f64,
}

impl Shares {
    /// Of all activities, from the first start to the last end. They need no order, and should be those of one
    /// GPU: what one GPU does hides the pauses of another.
    pub fn of(activities: &[Activity]) -> Shares {
        let start = activities.iter().map(|activity| activity.start).min();
        let end = activities.iter().map(end_of).max();
        let window = start.unwrap_or(0)..end.unwrap_or(0);
        // What starts and ends at the last moment belongs to it, too.
        Self::new(activities.iter(), window, KERNELS)
    }

    /// Of a span of time, in nanoseconds of CUPTI's clock, with that many kernels. Of an activity that lies
    /// partly in the span, that part counts.
    pub fn within(activities: &[Activity], window: Range<u64>, kernels: usize) -> Shares {
        let inside = activities.iter().filter(|activity| {
            let overlaps = activity.start < window.end && end_of(activity) > window.start;
            // One that takes no time.
            overlaps || window.contains(&activity.start)
        });
        Self::new(inside, window.clone(), kernels)
    }

    fn new<'a>(
        activities: impl Iterator<Item = &'a Activity>,
        window: Range<u64>,
        kernels: usize,
    ) -> Shares {
        let mut spans = Vec::new();
        let mut by_name: HashMap<&str, Total> = HashMap::new();
        let mut copies = Total::default();
        for activity in activities {
            let start = activity.start.max(window.start);
            let end = end_of(activity).min(window.end).max(start);
            spans.push((start, end));
            match &activity.what {
                What::Kernel(name) => by_name.entry(name).or_default().add(end - start),
                What::Copy { .. } | What::Set { .. } => copies.add(end - start),
            }
        }
        let sum = spans.iter().map(|(start, end)| end - start).sum();
        let mut by_group = HashMap::from([(Group::Copies, copies)]);
        let mut listed = Vec::new();
        for (name, total) in by_name {
            let group = group_of(name);
            by_group.entry(group).or_default().join(total);
            listed.push((total, name, group));
        }
        // Names break ties, so that the order never depends on that of a hash map.
        listed.sort_unstable_by_key(|&(total, name, _)| (std::cmp::Reverse(total.time), name));
        let listed = listed.into_iter().take(kernels);
        let kernels = listed.map(|(total, name, group)| KernelShare {
            name: name.to_owned(),
            group,
            count: total.count,
            time_ns: total.time,
            share: share(total.time, sum),
        });
        let groups = by_group.into_iter().filter(|(_, total)| total.count > 0);
        let mut groups: Vec<GroupShare> = groups
            .map(|(group, total)| GroupShare {
                group,
                count: total.count,
                time_ns: total.time,
                share: share(total.time, sum),
            })
            .collect();
        groups.sort_unstable_by_key(|group| (std::cmp::Reverse(group.time_ns), group.group));
        let count = spans.len() as u64;
        let busy = union(spans);
        let window = window.end.saturating_sub(window.start);
        Shares {
            window_ns: window,
            busy_ns: busy,
            busy_share: share(busy, window),
            sum_ns: sum,
            count,
            groups,
            kernels: kernels.collect(),
        }
    }
}

/// A record whose end lies before its start is taken as one that took no time.
fn end_of(activity: &Activity) -> u64 {
    activity.end.max(activity.start)
}

#[derive(Clone, Copy, Default)]
struct Total {
    time: u64,
    count: u64,
}

impl Total {
    fn add(&mut self, time: u64) {
        self.join(Total { time, count: 1 });
    }

    fn join(&mut self, other: Total) {
        self.time += other.time;
        self.count += other.count;
    }
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    part as f64 / whole as f64
}

/// The length of what the spans cover together.
fn union(mut spans: Vec<(u64, u64)>) -> u64 {
    spans.sort_unstable();
    let mut covered = 0;
    let mut reached = 0;
    for (start, end) in spans {
        covered += end.saturating_sub(start.max(reached));
        reached = reached.max(end);
    }
    covered
}

#[cfg(test)]
mod tests;
