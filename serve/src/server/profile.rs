//! How long a batch takes: measured at start-up, corrected while the server runs.

/// Of an observation's logarithm, what changes all predictions: a processor that got slower is slower at
/// everything.
const SHARED: f64 = 0.07;
/// And what changes the prediction of the batch that was observed.
const OWN: f64 = 0.03;
/// What a correction that is not observed keeps, for each batch of another kind: a size that looked slow for
/// a moment is tried again.
const KEPT: f64 = 0.998;
/// An observation counts as at most so many times its prediction, and at least one over it.
const OUTLIER: f64 = 4.0;

/// The measured times of one row: a size, or the ensemble.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// `(images, seconds)`, by images from 1 on. The last is the largest batch.
    pub measured: Vec<(usize, f64)>,
}

/// The predicted seconds of a batch, by row and number of images.
///
/// The first rows are sizes from the largest to the smallest; what follows them (the ensemble) is of its own
/// kind. A prediction never falls with the number of images, nor from one size to a larger one: the
/// [policy](super::policy) relies on it.
#[derive(Clone, Debug)]
pub struct Profile {
    rows: Vec<Row>,
    /// The number of rows that are sizes.
    sizes: usize,
    /// The shared correction, a logarithm.
    drift: f64,
}

#[derive(Clone, Debug)]
struct Row {
    images: Vec<usize>,
    measured: Vec<f64>,
    /// Logarithms, beside the shared one.
    correction: Vec<f64>,
    predicted: Vec<f64>,
}

impl Profile {
    /// Of the curves of each size, from the largest to the smallest, and of further rows.
    ///
    /// # Panics
    /// A curve without a point, or without sizes.
    pub fn new(sizes: Vec<Curve>, others: Vec<Curve>) -> Self {
        let count = sizes.len();
        let rows = sizes.into_iter().chain(others).map(|curve| {
            assert!(!curve.measured.is_empty(), "a curve needs a point");
            let (images, measured): (Vec<_>, Vec<_>) = curve.measured.into_iter().unzip();
            Row {
                correction: vec![0.0; images.len()],
                predicted: measured.clone(),
                images,
                measured,
            }
        });
        let mut profile = Profile {
            rows: rows.collect(),
            sizes: count,
            drift: 0.0,
        };
        assert!(count > 0, "a profile needs a size");
        profile.update();
        profile
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// The number of rows that are sizes.
    pub fn sizes(&self) -> usize {
        self.sizes
    }

    /// The largest batch of a row.
    pub fn largest(&self, row: usize) -> usize {
        self.rows[row].images.last().copied().unwrap_or(1)
    }

    /// The seconds that a batch is predicted to take.
    pub fn predict(&self, row: usize, images: usize) -> f64 {
        self.rows[row].predict(images)
    }

    /// The seconds that `images` images take in as few batches as possible.
    pub fn predict_all(&self, row: usize, images: usize) -> f64 {
        let largest = self.largest(row);
        let whole = (images / largest) as f64 * self.predict(row, largest);
        whole + self.predict(row, images % largest)
    }

    /// Images per second in the largest batches.
    pub fn capacity(&self, row: usize) -> f64 {
        let largest = self.largest(row);
        largest as f64 / self.predict(row, largest)
    }

    /// Corrects the predictions by what a batch took.
    pub fn observe(&mut self, row: usize, images: usize, seconds: f64) {
        let predicted = self.predict(row, images);
        if images == 0 || seconds <= 0.0 || predicted <= 0.0 {
            return;
        }
        let error = (seconds / predicted).ln();
        let error = error.clamp(-OUTLIER.ln(), OUTLIER.ln());
        self.drift += SHARED * error;
        for (at, of_row) in self.rows.iter_mut().enumerate() {
            let weights = (at == row).then(|| of_row.weights(images));
            for (cell, correction) in of_row.correction.iter_mut().enumerate() {
                match weights {
                    Some((low, _, _)) if cell == low => {}
                    Some((_, high, _)) if cell == high => {}
                    _ => *correction *= KEPT,
                }
            }
            if let Some((low, high, share)) = weights {
                of_row.correction[low] += OWN * error * (1.0 - share);
                of_row.correction[high] += OWN * error * share;
            }
        }
        self.update();
    }

    /// Goes a tenth of the way back to what was measured at the start: where predictions alone keep all requests
    /// out, nothing is observed that could correct them.
    pub fn fade(&mut self) {
        const FADED: f64 = 0.9;
        self.drift *= FADED;
        for row in &mut self.rows {
            row.correction.iter_mut().for_each(|of| *of *= FADED);
        }
        self.update();
    }

    /// Computes all predictions, from the smallest size to the largest.
    fn update(&mut self) {
        for at in (0..self.rows.len()).rev() {
            let (before, after) = self.rows.split_at_mut(at + 1);
            let Some(row) = before.last_mut() else { break };
            let smaller = after.first().filter(|_| at + 1 < self.sizes);
            let mut least = 0.0_f64;
            for cell in 0..row.images.len() {
                let own = row.measured[cell] * (self.drift + row.correction[cell]).exp();
                let below = smaller.map_or(0.0, |smaller| smaller.predict(row.images[cell]));
                least = least.max(own).max(below);
                row.predicted[cell] = least;
            }
        }
    }
}

impl Row {
    fn predict(&self, images: usize) -> f64 {
        let last = self.images.len() - 1;
        if images == 0 {
            return 0.0;
        }
        if images > self.images[last] {
            return self.predicted[last] * images as f64 / self.images[last] as f64;
        }
        let (low, high, share) = self.weights(images);
        self.predicted[low] + share * (self.predicted[high] - self.predicted[low])
    }

    /// The cells below and above a number of images, and how far it is from the first to the second.
    fn weights(&self, images: usize) -> (usize, usize, f64) {
        let last = self.images.len() - 1;
        let high = self.images.partition_point(|&cell| cell < images).min(last);
        if self.images[high] <= images || high == 0 {
            return (high, high, 0.0);
        }
        let (from, to) = (self.images[high - 1], self.images[high]);
        (high - 1, high, (images - from) as f64 / (to - from) as f64)
    }
}
