//! Training steps, one after the other: on a GPU recorded once as a CUDA graph and then replayed.
//!
//! A step starts some thousand kernels. It is recorded as [`replay`](crate::nn::replay) describes, with
//! the learning rate as a number on the device. The first step of a shape runs as usual: libraries choose
//! their kernels, the optimizer makes its buffers. The next one is done twice from the same state, once as
//! usual and once recorded, and if both do not agree, or something cannot be recorded, all steps run as
//! usual. So do batches of another shape, such as the last one of an epoch; one that comes twice in a row, as when
//! images grow, is recorded in place of the first.

use anyhow::{Result, ensure};
use tch::{Device, Kind, Tensor, no_grad};

use crate::nn::native;
use crate::nn::replay::{CudaGraph, Recording, copy, distance, shapes, unless_lost};
use crate::nn::switchable::SwitchableNetwork;
use crate::train::distillation::Loss;
use crate::train::optimizer::{Rate, RunningOptimizer};
use crate::train::processes::StepExchange;
use crate::train::step::{Inputs, Step};

/// Does the steps of a run.
#[derive(Debug)]
pub struct Steps {
    step: Step,
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
    /// Its inputs are those of [`Inputs::tensors`]. The shapes of the last batch that it did not fit.
    Recorded(Box<Recording<Loss>>, Vec<Vec<i64>>),
}

impl Steps {
    /// Steps of a network. Those of quantized networks are not recorded.
    ///
    /// # Errors
    /// The device fails.
    pub fn new(step: Step, net: &SwitchableNetwork, graph: CudaGraph) -> Result<Self> {
        let device = net.parameters().device();
        let on_gpu = device.is_cuda();
        Ok(Steps {
            step,
            state: match graph {
                // Steps of other resolutions each time would be recorded over and over.
                CudaGraph::Auto if on_gpu && step.whole => State::waiting(net),
                _ => State::Usual,
            },
            lr: on_gpu.then(|| scalar(device)).transpose()?,
        })
    }

    /// The same on the CPU with plain calls in place of a graph, to test what is around it.
    ///
    /// # Errors
    /// Out of memory.
    pub fn with_plain_calls(step: Step, net: &SwitchableNetwork) -> Result<Self> {
        Ok(Steps {
            step,
            state: State::waiting(net),
            lr: Some(scalar(Device::Cpu)?),
        })
    }

    /// Whether steps are replayed by now.
    pub fn is_recorded(&self) -> bool {
        matches!(self.state, State::Recorded(..))
    }

    /// Forgets the recorded step: the next one of its shape is recorded anew.
    pub fn forget_recorded(&mut self) {
        if self.is_recorded() {
            self.state = State::Waiting(vec![]);
        }
    }

    /// A step; see [`Step::run`]. The loss is valid until the
    /// next step.
    ///
    /// # Errors
    /// Those of the step.
    pub fn step(
        &mut self,
        net: &SwitchableNetwork,
        optimizer: &mut RunningOptimizer,
        inputs: &Inputs,
        lr: f64,
        exchange: Option<&StepExchange>,
    ) -> Result<Loss> {
        let step = self.step;
        let rate = match &mut self.lr {
            None => Rate::Value(lr),
            Some(tensor) => {
                let _ = tensor.f_fill_(lr)?;
                Rate::OnDevice(tensor)
            }
        };
        let usual =
            |optimizer: &mut RunningOptimizer| step.run(net, optimizer, inputs, rate, exchange);
        let tensors = || inputs.tensors();
        let on_tensors = |optimizer: &mut RunningOptimizer, tensors: &[Tensor]| {
            let inputs = inputs.with_tensors(tensors)?;
            let loss = step.run(net, optimizer, &inputs, rate, None)?;
            let total = loss.total.f_detach()?;
            Ok(Loss { total, ..loss })
        };
        if exchange.is_some() {
            return usual(optimizer); // a graph cannot wait for other processes
        }
        match &mut self.state {
            State::Recorded(recording, other) if recording.fits(&tensors()) => {
                other.clear();
                let loss =
                    recording.replay(&tensors(), |tensors| on_tensors(optimizer, tensors))?;
                Ok(loss.shallow_clone())
            }
            State::Waiting(before)
                if *before == shapes(&inputs.images) && !optimizer.waits_for_device() =>
            {
                let recorded = |optimizer: &mut RunningOptimizer| {
                    ensure_twice_the_memory(inputs.labels.device())?;
                    Recording::new(&tensors(), |tensors| on_tensors(optimizer, tensors))
                };
                let (loss, recording) = twice(net, optimizer, usual, recorded)?;
                self.state = match recording {
                    Ok(recording) => {
                        tracing::info!("training steps are replayed as a CUDA graph");
                        State::Recorded(Box::new(recording), vec![])
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
                let now = shapes(&inputs.images);
                match state {
                    State::Waiting(before) => *before = now,
                    // Twice in a row: images have another size from now on.
                    State::Recorded(_, other) if *other == now => *state = State::Waiting(now),
                    State::Recorded(_, other) => *other = now,
                    State::Usual => {}
                }
                usual(optimizer)
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

fn scalar(device: Device) -> Result<Tensor> {
    Ok(Tensor::f_zeros([], (Kind::Float, device))?)
}

/// What a graph uses it keeps, and steps that run as usual need as much again.
fn ensure_twice_the_memory(device: Device) -> Result<()> {
    if let Device::Cuda(gpu) = device {
        let (peak, total) = native::peak_memory(gpu)?;
        ensure!(
            2 * peak <= total,
            "that would take twice as much memory as a step, {} MiB, and there are {} MiB",
            peak >> 20,
            total >> 20
        );
    }
    Ok(())
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

    fn copies(&self) -> impl Iterator<Item = &Tensor> {
        self.0.iter().map(|(_, copy)| copy)
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
        let distance = |from: &Kept| no_grad(|| distance(self.copies(), from.copies()));
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
    recorded: impl FnOnce(&mut RunningOptimizer) -> Result<Recording<Loss>>,
) -> Result<(Loss, Result<Recording<Loss>>)> {
    let before = Kept::of(net, optimizer)?;
    let loss = usual(optimizer)?;
    let after = Kept::of(net, optimizer)?;
    before.restore()?;
    let recording = unless_lost(net.parameters().device(), recorded(optimizer))?;
    let recording = recording.and_then(|recording| {
        after.agrees(&before, &Kept::of(net, optimizer)?)?;
        Ok(recording)
    });
    after.restore()?;
    Ok((loss, recording))
}
