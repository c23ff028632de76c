//! Work of a GPU that is recorded once, as a CUDA graph, and then replayed.
//!
//! A pass through a network starts hundreds of kernels, and with small batches or networks the GPU waits
//! for the next one. A graph starts all of them at once. It is bound to its tensors: inputs are copied
//! into those that were recorded, and the output is computed anew each time, in the same tensors.

use anyhow::{Result, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor, no_grad};

use crate::nn::layers::Mode;
use crate::nn::native::{self, Graph};
use crate::nn::switchable::SwitchableNetwork;

/// Whether passes on a GPU are recorded as a CUDA graph.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CudaGraph {
    /// Where it works, and there is memory for it.
    #[default]
    Auto,
    /// Never.
    Off,
}

/// Work that was recorded, and the tensors that it is bound to. On the CPU, for tests, plain calls take
/// the place of a graph.
#[derive(Debug)]
pub struct Recording<T> {
    inputs: Vec<Tensor>,
    graph: Option<Graph>,
    output: T,
}

impl<T> Recording<T> {
    /// Records `work` on inputs of the shapes of these, and replays it once. `work` may not wait for the
    /// device.
    ///
    /// # Errors
    /// Those of `work`; something in it cannot be recorded; out of memory.
    pub fn new(inputs: &[Tensor], work: impl FnOnce(&[Tensor]) -> Result<T>) -> Result<Self> {
        let inputs = inputs.iter().map(copy).collect::<Result<Vec<_>>>()?;
        let (graph, output) = match inputs.first().map(Tensor::device) {
            Some(Device::Cuda(gpu)) => {
                // What a graph uses it keeps: it takes what nobody else uses.
                native::empty_cache()?;
                let (mut graph, output) = Graph::record(gpu, || work(&inputs))?;
                graph.replay()?;
                native::synchronize(gpu)?;
                (Some(graph), output)
            }
            _ => (None, work(&inputs)?),
        };
        Ok(Recording {
            inputs,
            graph,
            output,
        })
    }

    /// Whether inputs have the shapes of those that were recorded.
    pub fn fits(&self, inputs: &[Tensor]) -> bool {
        shapes(&self.inputs) == shapes(inputs)
    }

    /// The output for these inputs, which is valid until the next call. `work` is what was recorded.
    ///
    /// # Errors
    /// The device fails.
    pub fn replay(
        &mut self,
        inputs: &[Tensor],
        work: impl FnOnce(&[Tensor]) -> Result<T>,
    ) -> Result<&T> {
        no_grad(|| {
            for (own, input) in self.inputs.iter_mut().zip(inputs) {
                own.f_copy_(input)?;
            }
            anyhow::Ok(())
        })?;
        match &mut self.graph {
            Some(graph) => graph.replay()?,
            None => self.output = work(&self.inputs)?,
        }
        Ok(&self.output)
    }

    /// What the last call computed.
    pub fn output(&self) -> &T {
        &self.output
    }
}

/// The result, unless the device can be used no more: what cannot be recorded is an error of the device,
/// too, but one after which it still works.
///
/// # Errors
/// That of the result, if the device fails.
pub fn unless_lost<T>(device: Device, result: Result<T>) -> Result<Result<T>> {
    match (device, result) {
        (Device::Cuda(gpu), Err(error)) if native::synchronize(gpu).is_err() => Err(error),
        (_, result) => Ok(result),
    }
}

/// Forward passes in [`Mode::Evaluate`] of one network, whose tensors stay where they are: on a GPU, those
/// of the shape that came twice in a row are replayed.
#[derive(Debug)]
pub struct Inference(State);

/// The positions of the resolutions of a pass, and the shapes of its images.
type Inputs = Vec<(usize, Vec<i64>)>;

#[derive(Debug)]
enum State {
    /// All passes run as usual.
    Usual,
    /// Nothing has been recorded yet. The last inputs.
    Waiting(Inputs),
    Recorded(Inputs, Recording<Vec<Tensor>>),
}

impl Inference {
    /// Passes of a network. Those of quantized networks are not recorded.
    pub fn new(net: &SwitchableNetwork, graph: CudaGraph) -> Self {
        match graph {
            CudaGraph::Auto if net.parameters().device().is_cuda() => Self::recording(net),
            _ => Inference(State::Usual),
        }
    }

    /// The same on the CPU with plain calls in place of a graph, to test what is around it.
    pub fn with_plain_calls(net: &SwitchableNetwork) -> Self {
        Self::recording(net)
    }

    fn recording(net: &SwitchableNetwork) -> Self {
        Inference(match net.network().is_quantized() {
            true => State::Usual,
            false => State::Waiting(vec![]),
        })
    }

    /// Whether passes are replayed by now.
    pub fn is_recorded(&self) -> bool {
        matches!(self.0, State::Recorded(..))
    }

    /// The logits `[batch, classes]` of images at several resolutions, of which `positions` has the
    /// positions; see [`SwitchableNetwork::logits`]. They are valid until the next call.
    ///
    /// # Errors
    /// Those of the pass.
    pub fn logits(
        &mut self,
        net: &SwitchableNetwork,
        positions: &[usize],
        images: &[Tensor],
    ) -> Result<Vec<Tensor>> {
        ensure!(
            positions.len() == images.len(),
            "there are images for {} of {} resolutions",
            images.len(),
            positions.len()
        );
        let pass = |images: &[Tensor]| {
            let mut pass = net.pass(Mode::Evaluate)?;
            let at = positions.iter().zip(images);
            at.map(|(&position, images)| pass.logits(images, position))
                .collect::<Result<Vec<_>>>()
        };
        let inputs = || positions.iter().copied().zip(shapes(images)).collect();
        match &mut self.0 {
            State::Recorded(recorded, recording) if *recorded == inputs() => {
                let logits = recording.replay(images, pass)?;
                Ok(logits.iter().map(Tensor::shallow_clone).collect())
            }
            State::Waiting(before) if *before == inputs() => {
                let logits = pass(images)?;
                let recording = Recording::new(images, pass).and_then(|recording| {
                    agrees(recording.output(), &logits)?;
                    Ok(recording)
                });
                self.0 = match unless_lost(net.parameters().device(), recording)? {
                    Ok(recording) => State::Recorded(inputs(), recording),
                    Err(reason) => {
                        tracing::warn!(
                            "forward passes are not recorded as a CUDA graph: {reason:#}"
                        );
                        State::Usual
                    }
                };
                Ok(logits)
            }
            state => {
                if let State::Waiting(before) = state {
                    *before = inputs();
                }
                pass(images)
            }
        }
    }
}

/// The shape of each tensor.
pub fn shapes(tensors: &[Tensor]) -> Vec<Vec<i64>> {
    tensors.iter().map(Tensor::size).collect()
}

/// With the same strides, and without a gradient.
///
/// # Errors
/// Out of memory.
pub fn copy(tensor: &Tensor) -> Result<Tensor> {
    no_grad(|| {
        let mut copy = tensor.f_empty_like()?;
        copy.f_copy_(tensor)?;
        Ok(copy)
    })
}

/// The Euclidean distance between two lists of tensors of the same shapes.
///
/// # Errors
/// Shapes that differ; the device fails.
pub fn distance<'a>(
    a: impl IntoIterator<Item = &'a Tensor>,
    b: impl IntoIterator<Item = &'a Tensor>,
) -> Result<f64> {
    let mut sum = 0.0;
    for (a, b) in a.into_iter().zip(b) {
        let difference = a
            .f_to_kind(Kind::Double)?
            .f_sub(&b.f_to_kind(Kind::Double)?)?;
        sum += difference.f_square()?.f_sum(None)?.f_double_value(&[])?;
    }
    Ok(sum.sqrt())
}

/// Makes sure that replayed logits are those of a usual pass, but for what kernels whose sums have no
/// fixed order compute a little differently.
fn agrees(replayed: &[Tensor], usual: &[Tensor]) -> Result<()> {
    const TOLERANCE: f64 = 0.01;
    no_grad(|| {
        let zeros: Vec<Tensor> = usual
            .iter()
            .map(Tensor::f_zeros_like)
            .collect::<Result<_, _>>()?;
        let (size, off) = (distance(usual, &zeros)?, distance(replayed, usual)?);
        // Outputs that are not finite say nothing, and are no error of the graph.
        ensure!(
            off <= TOLERANCE * size || !size.is_finite(),
            "replayed logits are not the same as those of a usual pass: off by {:.2} % of them",
            100.0 * off / size
        );
        Ok(())
    })
}
