//! The training step alone, on images that are already there.
//!
//! Options: `--depth 18 --batch 32 --classes 10 --steps 10 --sizes 128 112 96 80 64`. Prints
//! `N images/s` from the median step; an image counts once, at all its resolutions.

use std::time::Instant;

use anyhow::{Context as _, Result};
use rsflow_model::distillation::Distill;
use rsflow_model::networks::{Network, ResNet};
use rsflow_model::optimizer::{Optimizer, Sgd, WeightDecayOn};
use rsflow_model::parameters::Start;
use rsflow_model::rs_net::RsNet;
use rsflow_model::step::training_step;
use tch::{Device, Kind, Tensor};

/// The numbers behind `--name`, or `default`.
fn numbers(name: &str, default: &[i64]) -> Result<Vec<i64>> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    if arguments.next().is_none() {
        return Ok(default.to_vec());
    }
    arguments
        .take_while(|argument| !argument.starts_with("--"))
        .map(|number| {
            number
                .parse()
                .with_context(|| format!("{name}: {number} is not a number"))
        })
        .collect()
}

fn number(name: &str, default: i64) -> Result<i64> {
    numbers(name, &[default])?
        .first()
        .copied()
        .with_context(|| format!("{name} needs a number"))
}

fn main() -> Result<()> {
    let depth = number("--depth", 18)?;
    let batch = number("--batch", 32)?;
    let classes = number("--classes", 10)?;
    let steps = usize::try_from(number("--steps", 10)?)?.max(1);
    let sizes = numbers("--sizes", &[128, 112, 96, 80, 64])?;

    let network = Network::ResNet(ResNet {
        depth: depth.try_into()?,
        width: 64,
    });
    let resolutions = sizes
        .iter()
        .map(|&size| Ok(size.try_into()?))
        .collect::<Result<Vec<u32>>>()?;
    let start = Start::Random { seed: 0 };
    let net = RsNet::new(
        &network,
        classes.try_into()?,
        &resolutions,
        Kind::Float,
        Device::Cpu,
        start,
    )?;
    let optimizer = Optimizer::Sgd(Sgd {
        lr: 0.1,
        momentum: 0.9,
        weight_decay: 1e-4,
        weight_decay_on: WeightDecayOn::Everything,
        nesterov: false,
    });
    let mut optimizer = optimizer.start(net.parameters())?;
    let images = sizes
        .iter()
        .map(|&size| {
            Ok(Tensor::f_rand(
                [batch, 3, size, size],
                (Kind::Float, Device::Cpu),
            )?)
        })
        .collect::<Result<Vec<_>>>()?;
    let labels = Tensor::f_randint(classes, [batch], (Kind::Int64, Device::Cpu))?;

    const WARM_UP: usize = 2;
    let mut seconds = Vec::new();
    for step in 0..WARM_UP + steps {
        let start = Instant::now();
        training_step(
            &net,
            &mut optimizer,
            &images,
            &labels,
            Distill::EnsembleTopDown,
            0.1,
        )?;
        if step >= WARM_UP {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    println!(
        "ResNet{depth}, batch {batch}, sizes {sizes:?}, {} threads: {:.2} images/s, median step {:.0} ms",
        tch::get_num_threads(),
        batch as f64 / median,
        median * 1e3
    );
    Ok(())
}
