//! Which resolutions a step trains.

use rand::RngExt as _;
use rsflow_base::keyed;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which resolutions a step trains. The loss is that of a network of these alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Sampling {
    /// All of them.
    #[default]
    All,
    /// The largest, the smallest, and one in between that is drawn for each step ("Universally Slimmable
    /// Networks", ICCV 2019): a step takes less time and memory.
    Sandwich,
}

impl Sampling {
    /// The positions of a step's resolutions, the same in all processes and after a resume.
    pub fn draw(self, resolutions: &[u32], seed: u64, step: u64) -> Vec<usize> {
        self.with(resolutions, |between| {
            let random = &mut keyed::random(seed, "trainer", "sandwich", &[step]);
            random.random_range(0..between.len())
        })
    }

    /// The positions of a step that takes most memory.
    pub fn largest(self, resolutions: &[u32]) -> Vec<usize> {
        self.with(resolutions, |between| {
            let largest = (0..between.len()).max_by_key(|&at| resolutions[between[at]]);
            largest.unwrap_or(0)
        })
    }

    /// The share of the steps that train each resolution.
    pub fn shares(self, resolutions: &[u32]) -> Vec<f64> {
        let all = resolutions.len();
        let ends = [resolutions.iter().min(), resolutions.iter().max()];
        let between = match self.largest(resolutions).len() == all {
            true => 1.0,
            false => 1.0 / (all - 2) as f64,
        };
        let share = |size| match ends.contains(&Some(size)) {
            true => 1.0,
            false => between,
        };
        resolutions.iter().map(share).collect()
    }

    /// `choose` gets the positions in between, and says which of them.
    fn with(self, resolutions: &[u32], choose: impl FnOnce(&[usize]) -> usize) -> Vec<usize> {
        let all = 0..resolutions.len();
        let largest = all.clone().max_by_key(|&at| resolutions[at]);
        let smallest = all.clone().min_by_key(|&at| resolutions[at]);
        let (Some(largest), Some(smallest)) = (largest, smallest) else {
            return all.collect();
        };
        let is_between = |at: &usize| ![largest, smallest].contains(at);
        let between: Vec<usize> = all.clone().filter(is_between).collect();
        if self == Sampling::All || between.len() < 2 {
            return all.collect();
        }
        let mut chosen = vec![largest, smallest, between[choose(&between)]];
        // In the recipe's order, in which each teaches those after it.
        chosen.sort_unstable();
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandwich_has_both_ends_and_one_in_between() {
        // In any order.
        let sizes = [160, 224, 96, 192, 128];
        let mut counts = [0; 5];
        for step in 0..3000 {
            let chosen = Sampling::Sandwich.draw(&sizes, 7, step);
            assert_eq!(chosen, Sampling::Sandwich.draw(&sizes, 7, step));
            assert!(chosen.len() == 3 && chosen.is_sorted(), "{chosen:?}");
            for at in chosen {
                counts[at] += 1;
            }
        }
        assert_eq!((counts[1], counts[2]), (3000, 3000));
        for at in [0, 3, 4] {
            assert!((900..1100).contains(&counts[at]), "{counts:?}");
        }
        assert_eq!(Sampling::Sandwich.largest(&sizes), [1, 2, 3]);
        let third = 1.0 / 3.0;
        let shares = Sampling::Sandwich.shares(&sizes);
        assert_eq!(shares, [third, 1.0, 1.0, third, third]);
        assert_eq!(Sampling::All.shares(&sizes), [1.0; 5]);
        assert_eq!(Sampling::All.draw(&sizes, 7, 0), [0, 1, 2, 3, 4]);
        for few in [&[64][..], &[64, 32], &[64, 48, 32]] {
            let all: Vec<usize> = (0..few.len()).collect();
            assert_eq!(Sampling::Sandwich.draw(few, 7, 0), all);
            assert_eq!(Sampling::Sandwich.shares(few), vec![1.0; few.len()]);
        }
    }
}
