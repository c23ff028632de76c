//! Validation: top-1, top-5 and loss of every resolution and of the ensemble.

use anyhow::{Context as _, Result};
use tch::{Kind, Reduction, Tensor};

use crate::dist::Peers;
use crate::nn::replay::Inference;
use crate::nn::switchable::SwitchableNetwork;
use crate::train::metrics::Row;

/// Sums over the batches so far. They stay on the device until [`Validation::rows`].
pub struct Validation {
    /// Indices of the resolutions in the ensemble.
    members: Vec<usize>,
    /// For each resolution, then for the ensemble if it has members.
    sums: Vec<Sums>,
    images: u64,
}

/// What a network says of a batch at one resolution. Valid until the next batch.
pub struct Answers {
    /// The most probable class of each image, `[batch]`.
    pub classes: Tensor,
    /// `[batch, classes]`.
    pub logits: Tensor,
}

struct Sums {
    top1: Tensor,
    top5: Tensor,
    loss: Tensor,
}

impl Validation {
    /// `members`: the indices of the resolutions in the ensemble; with fewer than two there is
    /// none.
    pub fn new(net: &SwitchableNetwork, mut members: Vec<usize>) -> Result<Self> {
        if members.len() < 2 {
            members.clear();
        }
        let options = (Kind::Double, net.parameters().device());
        let zero = || Tensor::f_zeros([], options);
        let rows = net.resolutions().len() + usize::from(!members.is_empty());
        let sums = (0..rows)
            .map(|_| {
                Ok(Sums {
                    top1: zero()?,
                    top5: zero()?,
                    loss: zero()?,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Validation {
            members,
            sums,
            images: 0,
        })
    }

    /// Adds a batch: images `[batch, 3, s, s]` of each resolution, and labels `[batch]`. `inference` is that
    /// of `net`. Images at the positions `replaced` are left out: they took the place of damaged ones, and count
    /// elsewhere. Returns the answers of each resolution, then of the ensemble if it has members.
    ///
    /// # Errors
    /// The device fails or is out of memory.
    pub fn add(
        &mut self,
        net: &SwitchableNetwork,
        inference: &mut Inference,
        images: &[Tensor],
        labels: &Tensor,
        replaced: &[usize],
    ) -> Result<Vec<Answers>> {
        let positions: Vec<usize> = (0..images.len()).collect();
        let mut logits = inference.logits(net, &positions, images)?;
        if !self.members.is_empty() {
            logits.push(tch::no_grad(|| net.ensemble_of(&self.members, &logits))?);
        }
        // After the pass, whose batches keep their size.
        let kept = kept(labels, replaced)?;
        let without = |of: &Tensor| match &kept {
            Some(kept) => of.f_index_select(0, kept),
            None => Ok(of.shallow_clone()),
        };
        let labels = without(labels)?;
        self.images += labels.numel() as u64;
        let both = self.sums.iter_mut().zip(logits);
        both.map(|(sums, logits)| {
            let logits = without(&logits)?;
            let classes = sums.add(&logits, &labels)?;
            Ok(Answers { classes, logits })
        })
        .collect()
    }

    /// Adds up what all processes have measured.
    ///
    /// # Errors
    /// As [`Peers::sum`].
    pub fn of_all(self, peers: &Peers) -> Result<Validation> {
        let images = Tensor::from_slice(&[self.images as f64]);
        let own = self
            .sums
            .iter()
            .flat_map(|sums| [&sums.top1, &sums.top5, &sums.loss]);
        let own: Vec<&Tensor> = [&images].into_iter().chain(own).collect();
        let mut all = peers.sum(&own)?.into_iter();
        let mut next = || all.next().context("a sum is missing");
        let images = next()?.f_double_value(&[0])? as u64;
        let sums = self.sums.iter().map(|_| {
            anyhow::Ok(Sums {
                top1: next()?,
                top5: next()?,
                loss: next()?,
            })
        });
        Ok(Validation {
            sums: sums.collect::<Result<_>>()?,
            members: self.members,
            images,
        })
    }

    /// Images so far.
    pub fn images(&self) -> u64 {
        self.images
    }

    /// A row for each resolution, in the network's order, then for the ensemble. Waits for the
    /// device.
    pub fn rows(&self, net: &SwitchableNetwork) -> Result<Vec<Row>> {
        let summary = net.summary();
        let images = self.images.max(1) as f64;
        let mut rows = Vec::new();
        for (position, sums) in self.sums.iter().enumerate() {
            let cost = summary.resolutions.get(position);
            let (multiply_adds, parameters) = match cost {
                Some(cost) => (cost.multiply_adds, cost.parameters),
                None => {
                    let members = self.members.iter();
                    let costs = members.filter_map(|&member| summary.resolutions.get(member));
                    (
                        costs.map(|cost| cost.multiply_adds).sum(),
                        summary.ensemble_parameters(&self.members),
                    )
                }
            };
            rows.push(Row {
                resolution: cost.map(|cost| cost.resolution),
                batch_norm: net.norms().of.get(position).copied(),
                between: None,
                top1: 100.0 * sums.top1.f_double_value(&[])? / images,
                top5: 100.0 * sums.top5.f_double_value(&[])? / images,
                loss: sums.loss.f_double_value(&[])? / images,
                multiply_adds,
                parameters,
            });
        }
        Ok(rows)
    }
}

/// The positions of a batch that are not `replaced`, on its device; `None`: all of them.
fn kept(labels: &Tensor, replaced: &[usize]) -> Result<Option<Tensor>> {
    if replaced.is_empty() {
        return Ok(None);
    }
    let all = 0..labels.numel();
    let kept: Vec<i64> = all
        .filter(|position| !replaced.contains(position))
        .map(|position| position as i64)
        .collect();
    Ok(Some(
        Tensor::f_from_slice(&kept)?.f_to_device(labels.device())?,
    ))
}

impl Sums {
    /// Returns the classes with the largest logits, `[batch]`.
    fn add(&mut self, logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
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
        Ok(best.f_select(-1, 0)?)
    }
}
