//! At which size the next batch is computed, and which requests are refused: pure functions.
//!
//! A switch costs nothing, so each batch gets the largest size with which all that waits is answered in time.
//! There is no hysteresis: it would cost accuracy after a burst, and answers when one begins.

use super::profile::Profile;

/// The share of a deadline that is kept in reserve for what a prediction does not see.
pub const RESERVE: f64 = 0.1;
/// A size whose capacity the requests exceed is taken while all that waits is answered within this share of
/// the deadline: what comes is a burst then.
const BURST: f64 = 0.3;
/// The share of a size's capacity that can be used in the long run.
const SUSTAINED: f64 = 0.98;

/// What does not change while the server runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    /// How many sizes, from the largest on, a request may get that names none. At least 1.
    pub automatic: usize,
    /// The deadline of a request that names none, in seconds.
    pub deadline: f64,
}

impl Rules {
    /// The row of the smallest size that a request may get that names none.
    pub fn smallest(&self) -> usize {
        self.automatic.saturating_sub(1)
    }
}

/// Who waits: seconds from now until each has to be answered, the reserve taken off, in ascending order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Waiting {
    /// Those that named no size.
    pub any: Vec<f64>,
    /// Those that named one, by row.
    pub at: Vec<Vec<f64>>,
}

/// What came within the last second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// Arrivals per second.
    pub rate: f64,
    /// Whether more than a few requests were refused or late within the last second.
    pub troubled: bool,
}

/// How long it takes to answer all that waits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drain {
    pub seconds: f64,
    /// Whether each is answered in time.
    pub in_time: bool,
}

/// The row at which requests are computed next that named no size.
pub fn choose(rules: &Rules, profile: &Profile, waiting: &Waiting, load: &Load) -> usize {
    let smallest = rules.smallest();
    if load.troubled {
        return smallest;
    }
    let mut sizes = 0..smallest;
    sizes
        .find(|&row| fits(rules, profile, waiting, load, row))
        .unwrap_or(smallest)
}

/// Whether all that waits is in time at a size, and the size can be sustained or what comes is a burst.
pub fn fits(rules: &Rules, profile: &Profile, waiting: &Waiting, load: &Load, row: usize) -> bool {
    let is_sustained = load.rate <= SUSTAINED * profile.capacity(row);
    let drain = drain(profile, waiting, row);
    drain.in_time && (is_sustained || drain.seconds < BURST * rules.deadline)
}

/// What happens if all that waits is computed in the order of its deadlines, at `row` where no size was named.
pub fn drain(profile: &Profile, waiting: &Waiting, row: usize) -> Drain {
    let mut merged = waiting.any.clone();
    merged.extend(waiting.at.get(row).into_iter().flatten());
    // Two sorted runs, which the sort merges.
    merged.sort_by(f64::total_cmp);
    let mut queues: Vec<&[f64]> = waiting.at.iter().map(Vec::as_slice).collect();
    queues.resize(queues.len().max(row + 1), &[]);
    queues[row] = &merged;
    let mut drain = Drain {
        seconds: 0.0,
        in_time: true,
    };
    loop {
        let heads = queues.iter().enumerate();
        let heads = heads.filter_map(|(row, queue)| Some((row, *queue.first()?)));
        let Some((row, head)) = heads.min_by(|(_, a), (_, b)| a.total_cmp(b)) else {
            return drain;
        };
        let images = queues[row].len().min(profile.largest(row));
        drain.seconds += profile.predict(row, images);
        // The first of a batch has the earliest deadline in it.
        drain.in_time &= drain.seconds <= head;
        queues[row] = &queues[row][images..];
    }
}

/// Whether a request that arrives can be answered within `left` seconds at `row` (the smallest size if it named
/// none), after `busy` seconds of the batch that is computed now and those that wait before it, a number for
/// each row. If others are before it, it has to be answered within the reserve: a full queue is as long as
/// it may be, and every batch that takes longer than predicted would make requests late.
///
/// # Errors
/// It cannot: the seconds after which it could.
pub fn admit(
    profile: &Profile,
    ahead: &[usize],
    busy: f64,
    row: usize,
    left: f64,
) -> Result<(), f64> {
    let waits = ahead.iter().enumerate().map(|(of, &images)| {
        let largest = profile.largest(of);
        let images = match of == row {
            // Those that come after it fill its batch, and it waits for all of that.
            true if images >= largest => (images + 1).next_multiple_of(largest),
            true => images + 1,
            false => images,
        };
        profile.predict_all(of, images)
    });
    let predicted: f64 = busy + waits.sum::<f64>();
    let is_first = ahead.iter().all(|&images| images == 0);
    let usable = if is_first {
        left
    } else {
        (1.0 - RESERVE) * left
    };
    match predicted <= usable {
        true => Ok(()),
        false => Err(predicted - usable),
    }
}
