//! A network small enough for tests, and its values.

// Not every test needs all of it.
#![allow(dead_code)]

use rsflow_model::nn::compute::ExecConfig;
use rsflow_model::nn::networks::{Network, ResNet};
use rsflow_model::nn::parameters::{Parameters, WeightInit};
use rsflow_model::nn::switchable::SwitchableNetwork;
use rsflow_model::train::optimizer::{Sgd, WeightDecayOn};
use tch::{Kind, Tensor};

pub fn resnet(depth: u32, width: u32) -> Network {
    Network::ResNet(ResNet { depth, width })
}

/// A network small enough for tests.
pub fn small(sizes: &[u32], start: WeightInit) -> SwitchableNetwork {
    SwitchableNetwork::new(
        &resnet(18, 4),
        3,
        sizes,
        ExecConfig::cpu(Kind::Float),
        start,
    )
    .unwrap()
}

pub fn values(tensor: &Tensor) -> Vec<f64> {
    let mut values = vec![0.0; tensor.numel()];
    tensor
        .f_to_kind(Kind::Double)
        .unwrap()
        .f_copy_data(&mut values, tensor.numel())
        .unwrap();
    values
}

pub fn all_values(parameters: &Parameters) -> Vec<(String, Vec<f64>)> {
    parameters
        .iter()
        .map(|p| (p.name.clone(), values(&p.tensor)))
        .collect()
}

pub fn sgd() -> Sgd {
    Sgd {
        lr: 0.1,
        momentum: 0.9,
        weight_decay: 1e-4,
        weight_decay_on: WeightDecayOn::Everything,
        nesterov: false,
    }
}
