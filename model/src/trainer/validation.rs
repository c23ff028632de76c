//! Measuring a network: top-1, top-5 and loss at every resolution, and of the ensemble.

use anyhow::Result;
use rsflow_graph::Batch;
use tch::{Kind, Reduction, Tensor};

use super::feed::Feed;
use crate::layers::Mode;
use crate::metrics::Row;
use crate::rs_net::RsNet;

/// Sums over the batches seen so far. They stay on the device until the end.
pub(super) struct Validation {
    /// One for each resolution, then the ensemble's.
    sums: Vec<Sums>,
    images: u64,
}

struct Sums {
    top1: Tensor,
    top5: Tensor,
    loss: Tensor,
}

impl Validation {
    pub fn new(net: &RsNet) -> Result<Self> {
        let options = (Kind::Double, net.parameters().device());
        let zero = || Tensor::f_zeros([], options);
        let sums = (0..=net.resolutions().len())
            .map(|_| {
                Ok(Sums {
                    top1: zero()?,
                    top5: zero()?,
                    loss: zero()?,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Validation { sums, images: 0 })
    }

    pub fn add(&mut self, net: &RsNet, feed: &Feed, batch: &Batch) -> Result<()> {
        let labels = feed.labels(batch, net.classes())?;
        let mut logits = (0..net.resolutions().len())
            .map(|position| net.logits(&feed.images(batch, position)?, position, Mode::Evaluate))
            .collect::<Result<Vec<_>>>()?;
        logits.push(tch::no_grad(|| net.ensemble(&logits))?);
        for (sums, logits) in self.sums.iter_mut().zip(&logits) {
            sums.add(logits, &labels)?;
        }
        self.images += batch.labels().len() as u64;
        Ok(())
    }

    pub fn images(&self) -> u64 {
        self.images
    }

    /// The figures, without the counts that [`Row`] has beside them.
    pub fn rows(&self, net: &RsNet) -> Result<Vec<Row>> {
        let images = self.images.max(1) as f64;
        let resolutions = net.resolutions().iter().copied().map(Some).chain([None]);
        let mut rows = Vec::new();
        for (sums, resolution) in self.sums.iter().zip(resolutions) {
            rows.push(Row {
                resolution,
                top1: 100.0 * sums.top1.f_double_value(&[])? / images,
                top5: 100.0 * sums.top5.f_double_value(&[])? / images,
                loss: sums.loss.f_double_value(&[])? / images,
                multiply_adds: 0,
                parameters: 0,
            });
        }
        Ok(rows)
    }
}

impl Sums {
    fn add(&mut self, logits: &Tensor, labels: &Tensor) -> Result<()> {
        let classes = logits.size().last().copied().unwrap_or(1);
        let (_, best) = logits.f_topk(classes.min(5), -1, true, true)?;
        let hits = best.f_eq_tensor(&labels.f_unsqueeze(-1)?)?;
        let loss =
            logits.f_cross_entropy_loss(labels, None::<&Tensor>, Reduction::Sum, -100, 0.0)?;
        for (sum, value) in [
            (
                &mut self.top1,
                hits.f_narrow(-1, 0, 1)?.f_sum(Kind::Double)?,
            ),
            (&mut self.top5, hits.f_sum(Kind::Double)?),
            (&mut self.loss, loss.f_to_kind(Kind::Double)?),
        ] {
            *sum = sum.f_add(&value)?;
        }
        Ok(())
    }
}
