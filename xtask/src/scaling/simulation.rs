//! A simulation of ranks whose steps take unequal times, and of averaging every few steps.

/// How the times of equal steps differ.
#[derive(Clone, Copy, Debug)]
pub struct Jitter {
    /// Standard deviation over mean of a step's time. The distribution is log-normal with the mean that
    /// the step has without jitter.
    pub variation: f64,
    /// Probability of a pause, for each rank in each step.
    pub pause_probability: f64,
    /// What a pause adds, in seconds.
    pub pause_s: f64,
}

/// What is simulated.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    pub world: u32,
    /// At least as many steps are simulated: all groups of `every` are complete.
    pub steps: u32,
    /// A rank's step without jitter, in seconds.
    pub step_s: f64,
    /// Ranks exchange after so many steps. 1: gradients; more: averaged weights (local SGD).
    pub every: u32,
    /// Time of an exchange that is not hidden, in seconds.
    pub exchange_s: f64,
}

/// Share of the time in which the mean rank computes. Ranks start each group of steps together, so every
/// exchange waits for the slowest one. The same seed gives the same result.
pub fn efficiency(run: &Run, jitter: &Jitter, seed: u64) -> f64 {
    let mut random = SplitMix64(seed);
    // Of ln(x), so that x has the mean 1 and the standard deviation `variation`.
    let variance = (1.0 + jitter.variation.powi(2)).ln();
    let (sigma, mu) = (variance.sqrt(), -variance / 2.0);
    let (mut computed_s, mut elapsed_s) = (0.0, 0.0);
    for _ in 0..run.steps.div_ceil(run.every) {
        let mut slowest_s = 0.0_f64;
        for _ in 0..run.world {
            let mut own_s = 0.0;
            for _ in 0..run.every {
                own_s += run.step_s * (mu + sigma * random.normal()).exp();
                if random.uniform() < jitter.pause_probability {
                    own_s += jitter.pause_s;
                }
            }
            computed_s += own_s;
            slowest_s = slowest_s.max(own_s);
        }
        elapsed_s += slowest_s + run.exchange_s;
    }
    computed_s / f64::from(run.world) / elapsed_s
}

/// The generator of Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators" (2014).
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In [0, 1).
    fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Of mean 0 and standard deviation 1, by Box and Muller.
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: Run = Run {
        world: 64,
        steps: 500,
        step_s: 0.1,
        every: 1,
        exchange_s: 0.0,
    };
    const NONE: Jitter = Jitter {
        variation: 0.0,
        pause_probability: 0.0,
        pause_s: 0.0,
    };
    const SOME: Jitter = Jitter {
        variation: 0.05,
        ..NONE
    };

    #[test]
    fn without_jitter_it_is_the_analytic_result() {
        for (world, every, exchange_s) in [(1, 1, 0.0), (8, 1, 0.05), (64, 1, 0.3), (64, 50, 0.3)] {
            let run = Run {
                world,
                every,
                exchange_s,
                ..RUN
            };
            let per_step_s = exchange_s / f64::from(every);
            let expected = super::super::model::efficiency(RUN.step_s, per_step_s);
            let simulated = efficiency(&run, &NONE, 1);
            assert!((simulated - expected).abs() < 1e-9, "{run:?}: {simulated}");
        }
    }

    #[test]
    fn one_rank_waits_for_nobody_and_more_ranks_wait_longer() {
        let at = |world| efficiency(&Run { world, ..RUN }, &SOME, 1);
        assert!((at(1) - 1.0).abs() < 1e-9);
        let by_world = [1, 2, 8, 64, 512].map(at);
        assert!(by_world.is_sorted_by(|a, b| a > b), "{by_world:?}");
        // The largest of 64 normal values lies 2.37 standard deviations above the mean.
        let expected = 1.0 / (1.0 + 2.37 * SOME.variation);
        assert!((at(64) - expected).abs() < 0.01, "{}", at(64));
    }

    #[test]
    fn jitter_does_not_change_the_mean_step() {
        // One rank whose exchange takes as long as its mean step.
        let run = Run {
            world: 1,
            steps: 20_000,
            exchange_s: RUN.step_s,
            ..RUN
        };
        for variation in [0.0, 0.1, 0.5] {
            let simulated = efficiency(&run, &Jitter { variation, ..NONE }, 1);
            assert!((simulated - 0.5).abs() < 0.005, "{variation}: {simulated}");
        }
    }

    #[test]
    fn averaging_less_often_waits_less() {
        let at = |every| {
            let run = Run {
                every,
                exchange_s: 0.1,
                ..RUN
            };
            efficiency(&run, &SOME, 1)
        };
        let by_every = [1, 10, 50, 500].map(at);
        assert!(by_every.is_sorted_by(|a, b| a < b), "{by_every:?}");
    }

    #[test]
    fn a_pause_of_one_rank_delays_all() {
        let jitter = Jitter {
            pause_probability: 1.0,
            pause_s: 0.1,
            ..NONE
        };
        // All pause in every step: nobody waits.
        assert!((efficiency(&RUN, &jitter, 1) - 1.0).abs() < 1e-9);
        // One of 64 pauses in 1 - (1 - 0.01)^64 = 47 % of the steps.
        let rare = Jitter {
            pause_probability: 0.01,
            ..jitter
        };
        let expected = (0.1 + 0.01 * 0.1) / (0.1 + 0.4744 * 0.1);
        let simulated = efficiency(&RUN, &rare, 1);
        assert!((simulated - expected).abs() < 0.03, "{simulated}");
    }

    #[test]
    fn a_seed_decides_the_result() {
        let at = |seed| efficiency(&RUN, &SOME, seed);
        assert_eq!(at(7).to_bits(), at(7).to_bits());
        assert_ne!(at(7).to_bits(), at(8).to_bits());
    }

    #[test]
    fn the_generator_is_the_published_one() {
        let mut random = SplitMix64(1_234_567);
        let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973];
        assert_eq!([random.next(), random.next()], expected);
    }
}
