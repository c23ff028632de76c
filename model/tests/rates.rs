//! Learning rates of parts of a network, and parts that are frozen.

mod small;

use rsflow_model::nn::compute::ExecConfig;
use rsflow_model::nn::kernels::Fused;
use rsflow_model::nn::parameters::{Role, WeightInit};
use rsflow_model::nn::switchable::SwitchableNetwork;
use rsflow_model::train::distillation::Distill;
use rsflow_model::train::optimizer::{Optimizer, Rate};
use rsflow_model::train::step::{Inputs, Step};
use small::{quantized, resnet, rule, sgd, values};
use tch::{Device, Kind, Tensor};

const SIZES: [u32; 2] = [48, 32];

#[test]
fn a_factor_is_another_learning_rate() {
    for optimizer in [
        "Sgd(lr: 0.1, nesterov: true)",
        "AdamW(lr: 0.1, weight_decay: 0.05)",
        "Lamb(lr: 0.1, weight_decay: 0.05)",
    ] {
        for on_device in [false, true] {
            let train = |factor: f64, lr: f64| {
                let compute = ExecConfig::cpu(Kind::Double);
                let start = WeightInit::Random { seed: 1 };
                let net =
                    SwitchableNetwork::new(&resnet(18, 4), 3, &SIZES, compute, start).unwrap();
                let running = rule(optimizer).start(net.parameters()).unwrap();
                let of_layer1 = |name: &str| {
                    if name.starts_with("layer1.") {
                        factor
                    } else {
                        1.0
                    }
                };
                let mut running = running.with_lr_factors(of_layer1);
                for step in 0..3 {
                    let gradients = net.parameters().trainable().map(|p| {
                        let count = p.tensor.numel() as i64;
                        let wave = Tensor::arange(count, (Kind::Double, Device::Cpu)) + step;
                        wave.sin().view(&p.tensor.size()[..])
                    });
                    let tensor = Tensor::from(lr).to_kind(Kind::Float);
                    let rate = match on_device {
                        true => Rate::OnDevice(&tensor),
                        false => Rate::Value(lr),
                    };
                    running.step(gradients.collect(), rate).unwrap();
                }
                net
            };
            // Powers of two: the same bits.
            let (mixed, slow, fast) = (train(0.25, 0.5), train(1.0, 0.125), train(1.0, 0.5));
            for parameter in mixed.parameters().iter() {
                let name = &parameter.name;
                let expected = match name.starts_with("layer1.") {
                    true => slow.parameters().tensor(name),
                    false => fast.parameters().tensor(name),
                };
                assert_eq!(parameter.tensor, expected.unwrap(), "{optimizer}, {name}");
            }
        }
    }
}

#[test]
fn frozen_parts_stay_and_the_others_move_as_ever() {
    let usual: Step = Distill::EnsembleTopDown.into();
    let recomputing = Step {
        recompute: true,
        ..usual
    };
    let double = ExecConfig::cpu(Kind::Double);
    let fused = ExecConfig::cpu(Kind::Float).with_kernels(Fused::Auto);
    let bfloat16 = ExecConfig {
        compute_dtype: Kind::BFloat16,
        ..fused
    };
    type Frozen = fn(&str) -> bool;
    let first: Frozen = |name| {
        ["conv1.", "bn1.", "layer1."]
            .iter()
            .any(|p| name.starts_with(p))
    };
    let middle: Frozen = |name| name.starts_with("layer2.") || name == "alpha";
    let trunk: Frozen = |name| !name.starts_with("fc.");
    for (network, how, compute) in [
        (resnet(18, 4), usual, double),
        (resnet(18, 4), recomputing, double),
        (resnet(18, 4), usual, fused),
        (resnet(18, 4), usual, bfloat16),
        (quantized(), usual, double),
        (quantized(), recomputing, double),
    ] {
        for (case, frozen) in [("first", first), ("middle", middle), ("trunk", trunk)] {
            let step = |frozen: Frozen| {
                let start = WeightInit::Random { seed: 3 };
                let mut net = SwitchableNetwork::new(&network, 3, &SIZES, compute, start).unwrap();
                let before: Vec<Vec<f64>> =
                    net.parameters().iter().map(|p| values(&p.tensor)).collect();
                net.freeze_parameters(frozen).unwrap();
                let images = SIZES.map(|side| {
                    let side = i64::from(side);
                    let count = 4 * 3 * side * side;
                    let waves = (Tensor::arange(count, (Kind::Double, Device::Cpu)) * 0.7).sin();
                    let waves = waves
                        .view([4, 3, side, side])
                        .to_kind(compute.compute_dtype);
                    compute.to_memory_format(waves).unwrap()
                });
                let labels = Tensor::from_slice(&[0_i64, 1, 2, 1]);
                let mut optimizer = Optimizer::Sgd(sgd()).start(net.parameters()).unwrap();
                let inputs = Inputs::new(&images, &labels);
                how.run(&net, &mut optimizer, &inputs, 0.1.into(), None)
                    .unwrap();
                (net, before)
            };
            let ((net, before), (other, _)) = (step(frozen), step(|_| false));
            for ((parameter, before), other) in net
                .parameters()
                .iter()
                .zip(before)
                .zip(other.parameters().iter())
            {
                let case = format!("{network}, {compute}, {case}: {}", parameter.name);
                let trained = parameter.role.is_trainable();
                if trained && frozen(&parameter.name) {
                    assert_eq!(values(&parameter.tensor), before, "{case}");
                } else {
                    assert_eq!(values(&parameter.tensor), values(&other.tensor), "{case}");
                }
                if parameter.role == Role::BatchNormMean {
                    assert_ne!(values(&parameter.tensor), before, "{case}");
                }
            }
        }
    }
    // Alpha alone.
    for how in [usual, recomputing] {
        let start = WeightInit::Random { seed: 3 };
        let net = SwitchableNetwork::new(&resnet(18, 4), 3, &SIZES, double, start);
        let mut net = net.unwrap();
        net.freeze_parameters(|name| name != "alpha").unwrap();
        let mut optimizer = Optimizer::Sgd(sgd()).start(net.parameters()).unwrap();
        let images = SIZES.map(|side| {
            Tensor::rand(
                [4, 3, side.into(), side.into()],
                (Kind::Double, Device::Cpu),
            )
        });
        let inputs = Inputs::new(&images, &Tensor::from_slice(&[0_i64, 1, 2, 1]));
        how.run(&net, &mut optimizer, &inputs, 0.1.into(), None)
            .unwrap();
        assert_ne!(values(net.alpha()), [1.0, 1.0]);
    }
    let start = WeightInit::Zeros;
    let mut net = SwitchableNetwork::new(&resnet(18, 4), 3, &SIZES, double, start).unwrap();
    let error = net.freeze_parameters(|_| true).unwrap_err();
    assert!(error.to_string().contains("are frozen"), "{error}");
}
