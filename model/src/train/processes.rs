//! What several processes exchange in a step: gradients, running statistics, losses, and the sums that
//! quantizers are fitted to. Nothing of the network changes before all of it has arrived, but the running
//! statistics, which can be taken back: a step is done by all processes or by none.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, no_grad};

use crate::dist::reducer::{Exchange, Reducer};
use crate::dist::{Exchanged, Peers, bytes_of};
use crate::nn::layers::NormScope;
use crate::nn::parameters::Role;
use crate::nn::switchable::SwitchableNetwork;
use crate::train::distillation::Loss;

/// The images over which batch norms take their statistics in training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NormsOver {
    /// A process's part of the batch, as PyTorch's `DistributedDataParallel` does.
    #[default]
    Process,
    /// The whole batch, as PyTorch's `SyncBatchNorm` does.
    AllProcesses,
    /// So many consecutive images of the batch.
    Groups(u32),
}

impl NormsOver {
    /// Consecutive images of a batch that one process must have.
    pub fn block(self) -> u32 {
        match self {
            NormsOver::Groups(size) => size.max(1),
            _ => 1,
        }
    }

    /// The same for the batch norms of one process, which gets `images` of each batch, or of each of its `parts`.
    ///
    /// # Errors
    /// Its images are no whole number of groups.
    pub fn scope(self, peers: Option<&Peers>, images: u64, parts: bool) -> Result<NormScope> {
        Ok(match (self, peers) {
            (NormsOver::AllProcesses, Some(peers)) => NormScope::AllProcesses(peers.joint_sum()),
            (NormsOver::AllProcesses | NormsOver::Process, _) => NormScope::Batch,
            (NormsOver::Groups(size), _) => {
                ensure!(
                    images.is_multiple_of(u64::from(size.max(1))),
                    "`norms_over: Groups({size})` needs a whole number of groups, and {}",
                    match parts {
                        true => format!("`micro_batch: {images}` is none; change one of them"),
                        false => format!(
                            "each process has {images} images of a batch; change `size` of the batches or the \
                             number of processes"
                        ),
                    }
                );
                NormScope::Groups(size.into())
            }
        })
    }
}

/// What a network's steps exchange.
#[derive(Debug)]
pub struct StepExchange {
    peers: Arc<Peers>,
    /// Averages gradients during the backward pass; `None`: they are averaged after it.
    reducer: Option<Reducer>,
    exchange: Exchange,
    gradient_bytes: u64,
    /// The running statistics, and what they were after the last whole step.
    statistics: Vec<(Tensor, Tensor)>,
}

/// An exchange that was begun; see [`StepExchange::finish`].
#[must_use]
pub struct Begun {
    means: Exchanged,
    sums: Option<Exchanged>,
    /// Those of the loss, after the running statistics.
    has_distillation: bool,
    has_right: bool,
}

impl StepExchange {
    /// For the steps of a network. `overlaps`: one backward pass gives a step's gradients, which are averaged
    /// meanwhile.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(
        peers: Arc<Peers>,
        net: &SwitchableNetwork,
        exchange: Exchange,
        overlaps: bool,
    ) -> Result<Self> {
        let parameters = net.parameters();
        let first = net.resolutions().first().copied();
        let statistics = parameters
            .iter()
            .filter(|p| matches!(p.role, Role::BatchNormMean | Role::BatchNormVar))
            .map(|p| Ok((p.tensor.shallow_clone(), p.tensor.f_detach_copy()?)));
        Ok(StepExchange {
            statistics: statistics.collect::<Result<_>>()?,
            reducer: overlaps
                .then(|| Reducer::new(Arc::clone(&peers), parameters, first, exchange))
                .transpose()?,
            gradient_bytes: parameters
                .trainable()
                .map(|p| match exchange {
                    Exchange::Float32 => bytes_of(&p.tensor) as u64,
                    Exchange::BFloat16 => 2 * p.tensor.numel() as u64,
                })
                .sum(),
            exchange,
            peers,
        })
    }

    /// Bytes that are exchanged in a step: of gradients, as they are sent, and of running statistics.
    pub fn bytes(&self) -> (u64, u64) {
        let statistics = self
            .statistics
            .iter()
            .map(|(now, _)| bytes_of(now))
            .sum::<usize>();
        (self.gradient_bytes, statistics as u64)
    }

    /// After the forward pass, and before the backward pass whose gradients are averaged meanwhile. `sums`
    /// are those that quantizers are fitted to.
    ///
    /// # Errors
    /// As [`Peers::sum`].
    pub fn begin(&self, sums: &[&Tensor], loss: &Loss) -> Result<Begun> {
        let (gradients, statistics) = self.bytes();
        self.peers.count_step(gradients + statistics);
        let total = loss.total.f_detach()?;
        let terms = [&total, &loss.ensemble_cross_entropy, &loss.cross_entropy];
        let statistics = self.statistics.iter().map(|(now, _)| now);
        let may_be_missing = loss.distillation.iter().chain(&loss.right);
        let means: Vec<&Tensor> = statistics.chain(terms).chain(may_be_missing).collect();
        if let Some(reducer) = &self.reducer {
            reducer.begin()?;
        }
        Ok(Begun {
            means: self.peers.begin_average(&means)?,
            sums: match sums {
                [] => None,
                sums => Some(self.peers.begin_sum(sums)?),
            },
            has_distillation: loss.distillation.is_some(),
            has_right: loss.right.is_some(),
        })
    }

    /// Before anything is changed by the step. Gives the gradients and the losses that are the same in all
    /// processes; `sums` are replaced by those of all.
    ///
    /// # Errors
    /// As [`Peers::sum`].
    pub fn finish(
        &self,
        begun: Begun,
        sums: &[&Tensor],
        gradients: Vec<Tensor>,
    ) -> Result<(Vec<Tensor>, Loss)> {
        let mut means = self.peers.finish(begun.means)?.into_iter();
        let of_all = begun.sums.map(|sums| self.peers.finish(sums)).transpose()?;
        let gradients = match &self.reducer {
            Some(reducer) => reducer.finish().map(|()| gradients)?,
            None => self.averaged(gradients)?,
        };
        let mut next = || means.next().context("a mean is missing");
        no_grad(|| {
            for (own, sum) in sums.iter().zip(of_all.iter().flatten()) {
                own.shallow_clone().f_copy_(sum)?;
            }
            for (now, whole) in &self.statistics {
                let mean = next()?;
                now.shallow_clone().f_copy_(&mean)?;
                whole.shallow_clone().f_copy_(&mean)?;
            }
            anyhow::Ok(())
        })?;
        let loss = Loss {
            total: next()?,
            ensemble_cross_entropy: next()?,
            cross_entropy: next()?,
            distillation: begun.has_distillation.then(&mut next).transpose()?,
            right: match begun.has_right {
                // A count, not a mean.
                true => Some(next()?.f_mul_scalar(i64::from(self.peers.world().size))?),
                false => None,
            },
        };
        Ok((gradients, loss))
    }

    /// Takes back what a step that failed has changed: the running statistics.
    ///
    /// # Errors
    /// The device fails.
    pub fn undo(&self) -> Result<()> {
        no_grad(|| {
            for (now, whole) in &self.statistics {
                now.shallow_clone().f_copy_(whole)?;
            }
            Ok(())
        })
    }

    /// The means of gradients; those that are undefined stay so.
    fn averaged(&self, gradients: Vec<Tensor>) -> Result<Vec<Tensor>> {
        let defined = gradients.iter().filter(|gradient| gradient.defined());
        let mut means = match self.exchange {
            Exchange::Float32 => self.peers.average(&defined.collect::<Vec<_>>())?,
            Exchange::BFloat16 => {
                // As `Reducer`: each share is rounded, then their sum.
                let size = i64::from(self.peers.world().size);
                let shares: Result<Vec<Tensor>, _> = defined
                    .map(|own| own.f_div_scalar(size)?.f_to_kind(Kind::BFloat16))
                    .collect();
                self.peers.sum(&shares?.iter().collect::<Vec<_>>())?
            }
        }
        .into_iter();
        let mean = |gradient: &Tensor| match gradient.defined() {
            true => Ok(means
                .next()
                .context("a gradient without a mean")?
                .f_to_kind(gradient.kind())?),
            false => Ok(gradient.shallow_clone()),
        };
        gradients.iter().map(mean).collect()
    }
}
