//! Which validation of a run is the best.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Row;

/// What the best validation of a run is best at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BestBy {
    /// The top-1 accuracy at the first resolution, to 0.1 %; of equal ones the mean of all resolutions' top-1
    /// and top-5 accuracies decides. As the reference implementation.
    #[default]
    First,
    /// The mean of all resolutions' top-1 accuracies.
    Mean,
    /// The top-1 accuracy of the ensemble.
    Ensemble,
    /// The mean of all resolutions' losses, the lower the better.
    Loss,
    /// The top-1 accuracy at one resolution: `Size(96)`.
    Size(u32),
}

impl BestBy {
    fn is_first(&self) -> bool {
        *self == BestBy::First
    }

    /// A validation by these results. `None` if they lack what it is judged by, or that is not finite.
    pub fn judge(self, epoch: u64, rows: &[Row]) -> Option<Best> {
        let resolutions: Vec<&Row> = rows.iter().filter(|row| row.resolution.is_some()).collect();
        let first = resolutions.first()?;
        let mean = |value: fn(&Row) -> f64| {
            let sum: f64 = resolutions.iter().map(|row| value(row)).sum();
            sum / resolutions.len() as f64
        };
        let of = |resolution| {
            let mut found = rows.iter().filter(|row| row.resolution == resolution);
            found.next().map(|row| row.top1)
        };
        let score = match self {
            BestBy::First => {
                let mean = mean(|row| (row.top1 + row.top5) / 2.0);
                return Some(Best::new(epoch, first.top1, mean));
            }
            BestBy::Mean => mean(|row| row.top1),
            // Of a single resolution there is none.
            BestBy::Ensemble => of(None).unwrap_or(first.top1),
            BestBy::Loss => -mean(|row| row.loss),
            BestBy::Size(size) => of(Some(size))?,
        };
        score.is_finite().then_some(Best {
            epoch,
            score,
            mean: 0.0,
            by: self,
        })
    }
}

/// The validation that a run's best checkpoint was chosen by.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// The epoch after which it was measured, from 0.
    pub epoch: u64,
    /// The figure that `by` names, the higher the better: an accuracy in percent (of `First` rounded to 0.1), or
    /// a loss with the other sign.
    #[serde(rename = "first_top1")]
    pub score: f64,
    /// The mean of all resolutions' top-1 and top-5 accuracies, in percent: it decides a tie of `First`.
    pub mean: f64,
    #[serde(default, skip_serializing_if = "BestBy::is_first")]
    pub by: BestBy,
}

impl Best {
    /// By the reference's rule: the first resolution's top-1 counts in tenths of a percent.
    pub fn new(epoch: u64, first_top1: f64, mean: f64) -> Self {
        Self {
            epoch,
            score: (first_top1 * 10.0).round() / 10.0,
            mean,
            by: BestBy::First,
        }
    }

    /// Whether it is better than the best so far, or that was judged by another figure.
    pub fn beats(&self, best: Option<&Best>) -> bool {
        best.is_none_or(|best| {
            self.by != best.by || (self.score, self.mean) > (best.score, best.mean)
        })
    }
}
