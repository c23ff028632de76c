//! The training step alone, on images that are already there.
//!
//! Options: `--arch resnet18 --batch 32 --classes 10 --steps 10 --sizes 128 112 96 80 64`; `--arch`
//! takes the names of `Network::by_name`. Prints `N images/s` from the median step (an image counts
//! once, at all its resolutions), that step's time and the process's peak resident memory.

use std::time::Instant;

use anyhow::{Context as _, Result};
use rsflow_model::compute::Compute;
use rsflow_model::distillation::Distill;
use rsflow_model::networks::Network;
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

fn text(name: &str, default: &str) -> Result<String> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    if arguments.next().is_none() {
        return Ok(default.to_owned());
    }
    arguments
        .next()
        .with_context(|| format!("{name} needs a value"))
}

/// The most memory that this process ever had in RAM, in MiB; Linux alone tells.
fn peak_memory() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024.0)
}

fn main() -> Result<()> {
    rsflow_model::keep_freed_memory();
    let arch = text("--arch", "resnet18")?;
    let batch = number("--batch", 32)?;
    let classes = number("--classes", 10)?;
    let steps = usize::try_from(number("--steps", 10)?)?.max(1);
    let sizes = numbers("--sizes", &[128, 112, 96, 80, 64])?;

    let network = Network::by_name(&arch)
        .with_context(|| format!("--arch: no {arch}; there are {}", Network::NAMES))?;
    let resolutions = sizes
        .iter()
        .map(|&size| Ok(size.try_into()?))
        .collect::<Result<Vec<u32>>>()?;
    let compute = Compute {
        multiply: if text("--precision", "")? == "bf16" {
            Kind::BFloat16
        } else {
            Kind::Float
        },
        channels_last: text("--layout", "")? == "last",
        ..Compute::cpu(Kind::Float)
    };
    let start = Start::Random { seed: 0 };
    let net = RsNet::new(&network, classes.try_into()?, &resolutions, compute, start)?;
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
            compute.lay_out(Tensor::f_rand(
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
    let peak = peak_memory().map_or_else(String::new, |mib| format!(", peak memory {mib:.0} MiB"));
    println!(
        "{arch}, batch {batch}, sizes {sizes:?}, {} threads: {:.2} images/s, median step {:.0} ms{peak}",
        tch::get_num_threads(),
        batch as f64 / median,
        median * 1e3
    );
    Ok(())
}
