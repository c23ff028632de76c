//! Since when rates and shares are counted: the last ten seconds, or longer where a step takes longer.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::State;

/// Shorter ones swing: a node counts its work when an item is done.
const LENGTH: Duration = Duration::from_secs(10);
/// How many moments are kept: those of two minutes. Of longer steps nothing is seen between two of them.
const MOST: usize = 60;

/// Earlier moments of one state of a run.
pub struct Window<T> {
    state: State,
    moments: VecDeque<Moment<T>>,
}

struct Moment<T> {
    at: Instant,
    images: u64,
    value: T,
}

impl<T: Clone> Window<T> {
    pub fn new(at: Instant, value: T) -> Self {
        let first = Moment {
            at,
            images: 0,
            value,
        };
        Window {
            state: State::Running,
            moments: VecDeque::from([first]),
        }
    }

    /// Adds a moment, up to which so many images were trained on; returns the one from which to count to it.
    /// In training at least one step lies between them, if one ended since the state began.
    pub fn add(
        &mut self,
        at: Instant,
        images: u64,
        state: State,
        value: T,
    ) -> Option<(Instant, T)> {
        let is_old = |moment: &Moment<T>| {
            at.saturating_duration_since(moment.at) >= LENGTH
                && (state != State::Running || images > moment.images)
        };
        // A state ends between two moments. Of a run that ends, the last seconds count.
        let goes_on = state == self.state || state.has_ended();
        while self.moments.len() > 1
            && (!goes_on || self.moments.len() > MOST || self.moments.get(1).is_some_and(is_old))
        {
            self.moments.pop_front();
        }
        self.state = state;
        let from = self.moments.front();
        let from = from.map(|moment| (moment.at, moment.value.clone()));
        self.moments.push_back(Moment { at, images, value });
        from
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Moments every two seconds: the seconds from which each counts.
    fn counted_from(moments: &[(u64, State)]) -> Vec<u64> {
        let start = Instant::now();
        let mut window = Window::new(start, 0);
        let moments = (1..).zip(moments).map(|(number, (images, state))| {
            let at = start + Duration::from_secs(2 * number);
            window.add(at, *images, *state, 2 * number).unwrap().1
        });
        moments.collect()
    }

    #[test]
    fn the_last_ten_seconds_count() {
        let quick: Vec<_> = (1..9).map(|number| (8 * number, State::Running)).collect();
        assert_eq!(counted_from(&quick), [0, 0, 0, 0, 0, 2, 4, 6]);
    }

    #[test]
    fn a_whole_step_counts_however_long_it_takes() {
        // One ends after 16 s, the next one after 32 s.
        let slow: Vec<_> = (1..18).map(|number| (number / 8, State::Running)).collect();
        let expected = [0, 0, 0, 0, 0, 0, 0, 6, 8, 10, 12, 14, 14, 14, 14, 22, 24];
        assert_eq!(counted_from(&slow), expected);
        let never = vec![(0, State::Running); 100];
        assert!(
            counted_from(&never)
                .iter()
                .all(|&from| from <= 2 * 100 - 2 * MOST as u64 + 2)
        );
    }

    #[test]
    fn training_and_validation_are_apart() {
        let training = [(8, State::Running); 3];
        let validating = [(8, State::Validating); 8];
        let from = counted_from(&[&training[..], &validating, &[(8, State::Finished)]].concat());
        assert_eq!(from, [0, 0, 0, 6, 6, 6, 6, 6, 8, 10, 12, 14]);
    }
}
