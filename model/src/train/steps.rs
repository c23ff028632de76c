//! Training steps, one after the other: on a GPU recorded once as a CUDA graph and then replayed.
//!
//! A step starts some thousand kernels, and with small batches or networks the GPU waits for the next
//! one. A graph starts all of them at once. It is bound to its tensors, so a batch is copied into those
//! that were recorded, and the learning rate is a number on the device. The first step of a shape runs
//! as usual: libraries choose their kernels, the optimizer makes its buffers. The next one is done twice
//! from the same state, once as usual and once recorded, and if both do not agree, or something cannot
//! be recorded, all steps run as usual. So do batches of another shape, such as the last one of an epoch.

use anyhow::{Result, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor, no_grad};

use crate::nn::native::{self, Graph};
use crate::nn::switchable::SwitchableNetwork;
use crate::train::distillation::{Distill, Loss};
use crate::train::optimizer::{Rate, RunningOptimizer};
use crate::train::step::StepFunction;

/// Whether training steps on a GPU are recorded as a CUDA graph.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CudaGraph {
    /// Where it works, and there is memory for it.
    #[default]
    Auto,
    /// Never.
    Off,
}

/// Does the steps of a run.
#[derive(Debug)]
pub struct Steps {
    step: StepFunction,
    distill: Distill,
    state: State,
    /// A float scalar on the device; `None` on the CPU, where the learning rate is a plain number.
    lr: Option<Tensor>,
}

#[derive(Debug)]
enum State {
    /// Every step runs as usual.
    Usual,
    /// Nothing has been recorded yet. The shapes of the last batch.
    Waiting(Vec<Vec<i64>>),
    Recorded(Box<Recorded>),
}

/// A step that was recorded, and the tensors that it is bound to.
#[derive(Debug)]
struct Recorded {
    images: Vec<Tensor>,
    labels: Tensor,
    replay: Replay,
}

#[derive(Debug)]
enum Replay {
    /// The loss is computed anew each time, in the same tensors.
    Graph(Graph, Loss),
    /// In place of a graph, for tests: the step runs as usual, on the tensors that it is bound to.
    Plain,
}

impl Steps {
    /// Steps of a network. Those of quantized networks are not recorded.
    ///
    /// # Errors
    /// The device fails.
    pub fn new(
        step: StepFunction,
        distill: Distill,
        net: &SwitchableNetwork,
        graph: CudaGraph,
    ) -> Result<Self> {
        let device = net.parameters().device();
        let on_gpu = device.is_cuda();
        Ok(Steps {
            step,
            distill,
            state: match graph {
                CudaGraph::Auto if on_gpu => State::waiting(net),
                _ => State::Usual,
            },
            lr: on_gpu.then(|| scalar(device)).transpose()?,
        })
    }

    /// The same on the CPU with plain calls in place of a graph, to test what is around it.
    ///
    /// # Errors
    /// Out of memory.
    pub fn with_plain_calls(
        step: StepFunction,
        distill: Distill,
        net: &SwitchableNetwork,
    ) -> Result<Self> {
        Ok(Steps {
            step,
            distill,
            state: State::waiting(net),
            lr: Some(scalar(Device::Cpu)?),
        })
    }

    /// Whether steps are replayed by now.
    pub fn is_recorded(&self) -> bool {
        matches!(self.state, State::Recorded(_))
    }

    /// A step; see [`training_step`](crate::train::step::training_step). The loss is valid until the
    /// next step.
    ///
    /// # Errors
    /// Those of the step.
    pub fn step(
        &mut self,
        net: &SwitchableNetwork,
        optimizer: &mut RunningOptimizer,
        images: &[Tensor],
        labels: &Tensor,
        lr: f64,
    ) -> Result<Loss> {
        let (step, distill) = (self.step, self.distill);
        let rate = match &mut self.lr {
            None => Rate::Value(lr),
            Some(tensor) => {
                let _ = tensor.f_fill_(lr)?;
                Rate::OnDevice(tensor)
            }
        };
        match &mut self.state {
            State::Recorded(recorded) if recorded.fits(images) => {
                recorded.copy(images, labels)?;
                match &mut recorded.replay {
                    Replay::Graph(graph, loss) => {
                        graph.replay()?;
                        Ok(loss.shallow_clone())
                    }
                    Replay::Plain => step(
                        net,
                        optimizer,
                        &recorded.images,
                        &recorded.labels,
                        distill,
                        rate,
                    ),
                }
            }
            State::Waiting(before) if *before == shapes(images) => {
                let usual = |optimizer: &mut RunningOptimizer| {
                    step(net, optimizer, images, labels, distill, rate)
                };
                let recorded = |optimizer: &mut RunningOptimizer| {
                    record(optimizer, images, labels, |optimizer, images, labels| {
                        step(net, optimizer, images, labels, distill, rate)
                    })
                };
                let (loss, recorded) = twice(net, optimizer, usual, recorded)?;
                self.state = match recorded {
                    Ok(recorded) => {
                        tracing::info!("training steps are replayed as a CUDA graph");
                        State::Recorded(Box::new(recorded))
                    }
                    Err(reason) => {
                        tracing::warn!(
                            "training steps are not recorded as a CUDA graph: {reason:#}"
                        );
                        State::Usual
                    }
                };
                Ok(loss)
            }
            state => {
                if let State::Waiting(before) = state {
                    *before = shapes(images);
                }
                step(net, optimizer, images, labels, distill, rate)
            }
        }
    }
}

impl State {
    fn waiting(net: &SwitchableNetwork) -> State {
        match net.network().is_quantized() {
            true => State::Usual,
            false => State::Waiting(vec![]),
        }
    }
}

impl Recorded {
    fn fits(&self, images: &[Tensor]) -> bool {
        shapes(&self.images) == shapes(images)
    }

    fn copy(&mut self, images: &[Tensor], labels: &Tensor) -> Result<()> {
        no_grad(|| {
            for (own, images) in self.images.iter_mut().zip(images) {
                own.f_copy_(images)?;
            }
            Ok(self.labels.f_copy_(labels)?)
        })
    }
}

fn scalar(device: Device) -> Result<Tensor> {
    Ok(Tensor::f_zeros([], (Kind::Float, device))?)
}

fn shapes(images: &[Tensor]) -> Vec<Vec<i64>> {
    images.iter().map(Tensor::size).collect()
}

/// With the same strides, and without a gradient.
fn copy(tensor: &Tensor) -> Result<Tensor> {
    no_grad(|| {
        let mut copy = tensor.f_empty_like()?;
        copy.f_copy_(tensor)?;
        Ok(copy)
    })
}

/// Records a step, and replays it once.
fn record(
    optimizer: &mut RunningOptimizer,
    images: &[Tensor],
    labels: &Tensor,
    step: impl Fn(&mut RunningOptimizer, &[Tensor], &Tensor) -> Result<Loss>,
) -> Result<Recorded> {
    let images = images.iter().map(copy).collect::<Result<Vec<_>>>()?;
    let labels = copy(labels)?;
    let replay = match labels.device() {
        Device::Cuda(gpu) => {
            // What a graph uses it keeps, and steps that run as usual need as much again.
            let (peak, total) = native::peak_memory(gpu)?;
            ensure!(
                2 * peak <= total,
                "that would take twice as much memory as a step, {} MiB, and there are {} MiB",
                peak >> 20,
                total >> 20
            );
            native::empty_cache()?;
            let (mut graph, loss) = Graph::record(gpu, || step(optimizer, &images, &labels))?;
            graph.replay()?;
            native::synchronize(gpu)?;
            let total = loss.total.f_detach()?;
            Replay::Graph(graph, Loss { total, ..loss })
        }
        _ => {
            step(optimizer, &images, &labels)?;
            Replay::Plain
        }
    };
    Ok(Recorded {
        images,
        labels,
        replay,
    })
}

/// Everything that a step changes: the tensors, and copies of what they had.
struct Kept(Vec<(Tensor, Tensor)>);

impl Kept {
    fn of(net: &SwitchableNetwork, optimizer: &RunningOptimizer) -> Result<Self> {
        let parameters = net.parameters().iter().map(|parameter| &parameter.tensor);
        let tensors = parameters.chain(optimizer.state());
        let kept = tensors.map(|tensor| anyhow::Ok((tensor.shallow_clone(), copy(tensor)?)));
        Ok(Kept(kept.collect::<Result<_>>()?))
    }

    fn restore(&self) -> Result<()> {
        no_grad(|| {
            for (tensor, copy) in &self.0 {
                tensor.shallow_clone().f_copy_(copy)?;
            }
            Ok(())
        })
    }

    /// Makes sure that another step from `before` led to the same.
    fn agrees(&self, before: &Kept, other: &Kept) -> Result<()> {
        // Of the change, which kernels whose sums have no fixed order compute a little differently.
        const TOLERANCE: f64 = 0.05;
        let distance = |from: &Kept| -> Result<f64> {
            let mut sum = 0.0;
            for ((_, a), (_, b)) in self.0.iter().zip(&from.0) {
                let difference = a
                    .f_to_kind(Kind::Double)?
                    .f_sub(&b.f_to_kind(Kind::Double)?)?;
                sum += difference.f_square()?.f_sum(None)?.f_double_value(&[])?;
            }
            Ok(sum.sqrt())
        };
        let (change, off) = (distance(before)?, distance(other)?);
        ensure!(
            self.0.len() == other.0.len() && off <= TOLERANCE * change, // NaN is no agreement
            "a replayed step is not the same as one that runs as usual: off by {:.2} % of it",
            100.0 * off / change
        );
        Ok(())
    }
}

/// Does a step twice from the same state, as usual and recorded, and compares. Afterwards it was done
/// once. Returns the loss, and what was recorded, or why nothing was.
fn twice(
    net: &SwitchableNetwork,
    optimizer: &mut RunningOptimizer,
    usual: impl FnOnce(&mut RunningOptimizer) -> Result<Loss>,
    recorded: impl FnOnce(&mut RunningOptimizer) -> Result<Recorded>,
) -> Result<(Loss, Result<Recorded>)> {
    let before = Kept::of(net, optimizer)?;
    let loss = usual(optimizer)?;
    let after = Kept::of(net, optimizer)?;
    before.restore()?;
    let recorded = match recorded(optimizer) {
        // What cannot be recorded is an error of the device, too, but one after which it still works.
        Err(error) => match net.parameters().device() {
            Device::Cuda(gpu) if native::synchronize(gpu).is_err() => return Err(error),
            _ => Err(error),
        },
        Ok(recorded) => after
            .agrees(&before, &Kept::of(net, optimizer)?)
            .map(|()| recorded),
    };
    after.restore()?;
    Ok((loss, recorded))
}
