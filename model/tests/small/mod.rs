//! A network small enough for tests, and its values.

// Not every test needs all of it.
#![allow(dead_code)]

use rsflow_model::nn::compute::ExecConfig;
use rsflow_model::nn::networks::{Network, QuantizedMode, QuantizedResNet, ResNet};
use rsflow_model::nn::parameters::{Parameters, WeightInit};
use rsflow_model::nn::switchable::SwitchableNetwork;
use rsflow_model::train::optimizer::{Optimizer, Sgd, WeightDecayOn};
use tch::{Device, Kind, Tensor};

pub fn resnet(depth: u32, width: u32) -> Network {
    Network::ResNet(ResNet { depth, width })
}

/// A residual network with weights and activations of 2 bits.
pub fn quantized() -> Network {
    Network::QuantizedResNet(QuantizedResNet {
        depth: 18,
        width: 8,
        mode: QuantizedMode::PreActivation,
        weight_bits: 2,
        activation_bits: 2,
        fixed_activation_basis: false,
    })
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

const DOUBLE: (Kind, Device) = (Kind::Double, Device::Cpu);

/// 0, 1, 2 and so on, in float64.
pub fn ramp(count: i64) -> Tensor {
    Tensor::arange(count, DOUBLE)
}

pub fn assert_near(found: &[f64], expected: &[f64], tolerance: f64, case: &str) {
    assert_eq!(found.len(), expected.len(), "{case}");
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let off = (found - expected).abs();
        assert!(
            off < tolerance,
            "{case}, value {at}: {found}, not {expected}"
        );
    }
}

/// An optimizer as a recipe names it.
pub fn rule(text: &str) -> Optimizer {
    use ron::extensions::Extensions;
    let extensions = Extensions::UNWRAP_VARIANT_NEWTYPES | Extensions::IMPLICIT_SOME;
    let ron = ron::Options::default().with_default_extension(extensions);
    ron.from_str(text).unwrap()
}
