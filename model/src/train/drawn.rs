//! What is drawn for a step: how images are mixed, what is left out of the network, which resolutions it trains.

use anyhow::Result;
use tch::Tensor;

use crate::nn::switchable::SwitchableNetwork;
use crate::train::dropping::Dropping;
use crate::train::mixing::Mix;
use crate::train::sampling::Sampling;
use crate::train::step::Inputs;

/// How a trainer draws the inputs of its steps.
#[derive(Clone, Copy, Debug)]
pub struct Drawn {
    pub mix: Option<Mix>,
    pub dropping: Dropping,
    pub sampling: Sampling,
}

impl Drawn {
    /// The inputs of a step, counted from 0, of a process: images of all resolutions, which may be changed in
    /// place, and labels. The same after a resume.
    ///
    /// # Errors
    /// Out of memory.
    pub fn draw(
        &self,
        net: &SwitchableNetwork,
        images: Vec<Tensor>,
        labels: Tensor,
        seed: u64,
        (step, rank): (u64, u32),
    ) -> Result<Inputs> {
        let count = labels.size().first().copied().unwrap_or(0);
        let (images, labels) = match self.mix {
            None => (images, labels),
            Some(mix) => {
                let mixed = mix.draw(seed, step)?;
                mixed.apply(images, &labels, net.classes().into())?
            }
        };
        let inputs = Inputs {
            drops: self.dropping.draw(net, count, seed, (step, rank))?,
            ..Inputs::new(&images, &labels)
        };
        Ok(inputs.at(self.sampling.draw(net.resolutions(), seed, step)))
    }
}
