//! How far apart two sets of runs are, and how much of that chance may do.
//!
//! Chance comes in twice: with other validation images accuracies would differ, and with another seed the
//! network would. The first is estimated image by image: what counts is on how many images two networks
//! differ, not how many both get wrong. The second is the variance between runs of one recipe, for which all
//! recipes with several runs are taken together. The variances are added; as errors on single images are in
//! both, the interval is rather too wide than too narrow.
//!
//! Images on which both are right, or both wrong, do not say which network is better. So the interval is Student's,
//! with one degree of freedom less than there are images on which they differ: of two runs it excludes 0 about where
//! the exact test of these images (McNemar's) is below 5 %, be they six or thousands.

use statrs::distribution::{ContinuousCDF as _, Normal, StudentsT};

/// Of fewer images on which two networks differ, even one that is right on all of them may be by chance: five coins
/// fall on one side in 6 % of all throws.
pub const LEAST: usize = 6;

/// A difference in points (percent of the images), and its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    pub points: f64,
    /// The standard error.
    pub error: f64,
    pub low: f64,
    pub high: f64,
    /// On how many images they differ.
    pub differing: usize,
}

impl Difference {
    /// Whether they differ on too few images to say more.
    pub fn is_undecidable(&self) -> bool {
        self.differing < LEAST
    }

    /// Whether 0 is in the interval, or it is of too few images.
    pub fn may_be_chance(&self) -> bool {
        self.is_undecidable() || (self.low <= 0.0 && 0.0 <= self.high)
    }
}

/// The variance between runs of one recipe, in squared points, and its degrees of freedom.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub variance: f64,
    pub freedom: f64,
}

/// The confidence of the intervals: 95 %, of which half of the rest lies on each side.
const QUANTILE: f64 = 0.975;
/// Beyond this many degrees of freedom Student's distribution is as good as the normal one.
const MANY: f64 = 1e4;

/// For each image the share of the runs that get it right, from 0 to 1.
pub fn shares(runs: &[&[bool]]) -> Vec<f64> {
    let images = runs.iter().map(|right| right.len()).min().unwrap_or(0);
    let share = |image: usize| {
        let right = runs.iter().filter(|right| right[image]).count();
        right as f64 / runs.len() as f64
    };
    (0..images).map(share).collect()
}

/// For each image the mean of several shares.
pub fn mean_of(shares: &[Vec<f64>]) -> Vec<f64> {
    let images = shares.iter().map(Vec::len).min().unwrap_or(0);
    let at = |image: usize| shares.iter().map(|of| of[image]).sum::<f64>() / shares.len() as f64;
    (0..images).map(at).collect()
}

/// The variance between runs, of the accuracies in percent of the runs of each recipe; `None` if none has
/// several runs.
pub fn spread(recipes: &[Vec<f64>]) -> Option<Spread> {
    let mut squares = 0.0;
    let mut freedom = 0.0;
    for accuracies in recipes.iter().filter(|runs| runs.len() > 1) {
        let mean = mean(accuracies);
        squares += accuracies.iter().map(|it| (it - mean).powi(2)).sum::<f64>();
        freedom += accuracies.len() as f64 - 1.0;
    }
    (freedom > 0.0).then(|| Spread {
        variance: squares / freedom,
        freedom,
    })
}

pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// How far one recipe is above another: by the shares of each image, the numbers of runs, and the variance
/// between runs where it is known.
pub fn difference(
    (own, runs): (&[f64], usize),
    (base, base_runs): (&[f64], usize),
    spread: Option<Spread>,
) -> Difference {
    let each: Vec<f64> = own.iter().zip(base).map(|(own, base)| own - base).collect();
    let images = each.len() as f64;
    let mean = each.iter().sum::<f64>() / images;
    let squares = each.iter().map(|it| (it - mean).powi(2)).sum::<f64>();
    // One image says nothing of others.
    let of_images = match each.len() {
        0 | 1 => f64::INFINITY,
        _ => 1e4 * squares / (images - 1.0) / images,
    };
    let of_runs = spread.map_or(0.0, |spread| {
        spread.variance * (1.0 / runs as f64 + 1.0 / base_runs as f64)
    });
    let variance = of_images + of_runs;
    // Shares that are equal may differ by rounding.
    let differing = each.iter().filter(|it| it.abs() > 1e-9).count();
    let freedom_of_images = differing.max(2) as f64 - 1.0;
    // Welch and Satterthwaite.
    let terms = of_images.powi(2) / freedom_of_images
        + spread.map_or(0.0, |spread| of_runs.powi(2) / spread.freedom);
    let freedom = Some(variance.powi(2) / terms).filter(|freedom| freedom.is_finite());
    let quantile = quantile(freedom.unwrap_or(freedom_of_images));
    let error = variance.sqrt();
    let margin = quantile * error;
    let points = 100.0 * mean;
    Difference {
        points,
        error,
        low: points - margin,
        high: points + margin,
        differing,
    }
}

/// That of Student's distribution; of the normal one with much `freedom`.
fn quantile(freedom: f64) -> f64 {
    let student = Some(freedom).filter(|freedom| *freedom < MANY);
    match student.and_then(|freedom| StudentsT::new(0.0, 1.0, freedom).ok()) {
        Some(student) => student.inverse_cdf(QUANTILE),
        None => Normal::standard().inverse_cdf(QUANTILE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `n` images, of which the first `right` are right.
    fn first(right: usize, n: usize) -> Vec<bool> {
        (0..n).map(|image| image < right).collect()
    }

    fn near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-9, "{found} is not {expected}");
    }

    #[test]
    fn only_images_on_which_two_networks_differ_count() {
        // 60 and 50 of 100: ten images differ, all in one direction.
        let [own, base] = [first(60, 100), first(50, 100)].map(|right| shares(&[&right]));
        let found = difference((&own, 1), (&base, 1), None);
        near(found.points, 10.0);
        // The standard deviation of ten ones and ninety zeros.
        let deviation = (10.0 * 0.9_f64.powi(2) + 90.0 * 0.1_f64.powi(2)) / 99.0;
        let error = 100.0 * (deviation / 100.0).sqrt();
        near(found.error, error);
        // Student's quantile for nine degrees of freedom.
        let margin = 2.262_157_163 * error;
        assert!((found.high - found.points - margin).abs() < 1e-4);
        assert!(!found.may_be_chance());

        // The same accuracies with errors on other images: much less certain.
        let other: Vec<bool> = (0..100).map(|image| image >= 50).collect();
        let base = shares(&[&other]);
        assert!(difference((&own, 1), (&base, 1), None).may_be_chance());

        let same = difference((&own, 1), (&own, 1), None);
        assert_eq!(same.points, 0.0);
        assert!(same.may_be_chance());
    }

    /// By tables.
    #[test]
    fn quantiles_are_those_of_tables() {
        for (freedom, expected) in [
            (1.0, 12.706_204_7),
            (2.0, 4.302_652_7),
            (3.77, 2.843_5),
            (10.0, 2.228_138_9),
            (100.0, 1.983_971_5),
            (1e5, 1.959_964_0),
        ] {
            let found = quantile(freedom);
            assert!(
                (found - expected).abs() < 2e-3 * expected,
                "{freedom:?}: {found}"
            );
        }
    }

    /// What is marked, the exact test of the images on which two networks differ finds unlikely, however many there
    /// are in all.
    #[test]
    fn few_images_decide_as_the_exact_test_does() {
        // At least so many of `n` coins on one side, whichever it is.
        let exact = |most: usize, n: usize| {
            let ways = |k: usize| (0..k).fold(1.0, |it, i| it * (n - i) as f64 / (i + 1) as f64);
            let tail: f64 = (most..=n).map(ways).sum();
            (2.0 * tail / 2_f64.powi(n as i32)).min(1.0)
        };
        for images in [6, 8, 15, 26, 60, 200, 1000] {
            for differing in 0..=images.min(40) {
                for worse in 0..=differing / 2 {
                    let better = differing - worse;
                    let own: Vec<f64> = (0..images).map(|at| f64::from(at < better)).collect();
                    let base = (0..images).map(|at| f64::from((better..differing).contains(&at)));
                    let base: Vec<f64> = base.collect();
                    let found = difference((&own, 1), (&base, 1), None);
                    assert_eq!(found.differing, differing);
                    let likely = exact(better, differing);
                    let right = match found.may_be_chance() {
                        true => likely > 0.03,
                        false => likely < 0.08,
                    };
                    assert!(right, "{better} to {worse} of {images}: {likely}");
                }
            }
        }
    }

    #[test]
    fn one_image_decides_nothing() {
        let found = difference((&[1.0], 1), (&[0.0], 1), None);
        assert_eq!(found.points, 100.0);
        assert!(found.may_be_chance());
    }

    #[test]
    fn the_variance_between_runs_is_that_of_all_recipes() {
        assert_eq!(spread(&[vec![50.0], vec![60.0]]), None);
        let pooled = spread(&[vec![50.0, 52.0], vec![60.0, 60.0, 63.0], vec![1.0]]).unwrap();
        // Squares of 1, 1 about 51, and of 1, 1, 2 about 61.
        near(pooled.variance, 8.0 / 3.0);
        near(pooled.freedom, 3.0);
    }

    #[test]
    fn runs_that_differ_much_among_themselves_decide_nothing() {
        let runs = [first(600, 1000), first(560, 1000)];
        let other = [first(550, 1000), first(500, 1000)];
        let [own, base] = [&runs, &other].map(|runs| shares(&[&runs[0], &runs[1]]));
        let images = difference((&own, 2), (&base, 2), None);
        near(images.points, 5.5);
        assert!(!images.may_be_chance());
        let runs = spread(&[vec![60.0, 56.0], vec![55.0, 50.0]]);
        let both = difference((&own, 2), (&base, 2), runs);
        near(both.points, 5.5);
        // Two degrees of freedom: the quantile is near 4.3, not 1.96.
        let error = (10.25_f64 + images.error.powi(2)).sqrt();
        assert!(both.high - 5.5 > 4.0 * error && both.may_be_chance());
    }
}
