//! What a recipe says about batch norms: shared scales and shifts, momentum, epsilon, initial scales of 0.

mod small;

use rsflow_model::nn::compute::ExecConfig;
use rsflow_model::nn::kernels::Fused;
use rsflow_model::nn::layers::{Affine, Mode, NormOptions, Norms};
use rsflow_model::nn::networks::Network;
use rsflow_model::nn::parameters::{Role, WeightInit};
use rsflow_model::nn::switchable::SwitchableNetwork;
use small::{resnet, values};
use tch::{Device, Kind, Tensor};

const SIZES: [u32; 2] = [48, 32];

/// The same weights for the same options: they depend on the seed and names.
fn network(options: NormOptions, compute: ExecConfig) -> SwitchableNetwork {
    let norms = Norms {
        of: SIZES.to_vec(),
        options,
    };
    let start = WeightInit::Random { seed: 2 };
    let net = SwitchableNetwork::with_batch_norms(&resnet(18, 4), 3, &SIZES, norms, compute, start);
    let net = net.unwrap();
    // Scales and shifts that are not 1 and 0, the same at all sizes.
    tch::no_grad(|| {
        for parameter in net.parameters().iter() {
            let count = parameter.tensor.numel() as i64;
            let wave = (Tensor::arange(count, (Kind::Double, Device::Cpu)) * 0.7).sin() * 0.2;
            let middle = match parameter.role {
                Role::BatchNormWeight | Role::BatchNormVar => 1.0,
                Role::BatchNormBias | Role::BatchNormMean => 0.0,
                _ => continue,
            };
            parameter.tensor.shallow_clone().copy_(&(wave + middle));
        }
    });
    net
}

fn images(size: u32, kind: Kind) -> Tensor {
    let side = i64::from(size);
    let waves = (Tensor::arange(4 * 3 * side * side, (Kind::Double, Device::Cpu)) * 0.37).sin();
    waves.view([4, 3, side, side]).to_kind(kind)
}

fn assert_near(found: &Tensor, expected: &Tensor, tolerance: f64, case: &str) {
    assert_eq!(found.size(), expected.size(), "{case}");
    let off = (found - expected).abs().max().double_value(&[]);
    assert!(off < tolerance, "{case}: off by {off}");
}

#[test]
fn shared_scales_and_shifts_get_the_sum_of_all_gradients() {
    let compute = ExecConfig::cpu(Kind::Double);
    let step = |affine: Affine| {
        let options = NormOptions {
            affine,
            ..NormOptions::default()
        };
        let net = network(options, compute);
        let logits: Vec<Tensor> = (0..)
            .zip(SIZES)
            .map(|(at, size)| net.logits(&images(size, Kind::Double), at, Mode::Train))
            .collect::<Result<_, _>>()
            .unwrap();
        let wave = (Tensor::arange(12, (Kind::Double, Device::Cpu)) * 0.9).cos();
        let loss = Tensor::cat(&logits, 0).view([2, 12]) * wave;
        let gradients = net.parameters().gradients(&loss.sum(Kind::Double)).unwrap();
        let names = net.parameters().trainable().map(|p| p.name.clone());
        let gradients: Vec<(String, Tensor)> = names.zip(gradients).collect();
        (net, logits, gradients)
    };
    let (private_net, expected, private) = step(Affine::Private);
    let (net, found, shared) = step(Affine::Shared);
    for (found, expected) in found.iter().zip(&expected) {
        assert_near(found, expected, 1e-12, "logits");
    }
    let of = |name: &str| &private.iter().find(|(other, _)| other == name).unwrap().1;
    let mut norms = 0;
    for (name, gradient) in &shared {
        let role = net.parameters().get(name).unwrap().role;
        if role == Role::Alpha {
            continue; // not part of this loss
        }
        let expected = match role {
            Role::BatchNormWeight | Role::BatchNormBias => {
                norms += 1;
                let (path, part) = name.rsplit_once('.').unwrap();
                of(&format!("{path}.48.{part}")) + of(&format!("{path}.32.{part}"))
            }
            _ => of(name).shallow_clone(),
        };
        assert_near(gradient, &expected, 1e-10, name);
    }
    assert_eq!(norms, 2 * 20);
    // Statistics are private in both.
    for parameter in net.parameters().iter() {
        if matches!(parameter.role, Role::BatchNormMean | Role::BatchNormVar) {
            let other = private_net.parameters().tensor(&parameter.name).unwrap();
            assert_near(&parameter.tensor, &other, 1e-12, &parameter.name);
        }
    }
    let [shared, private] = [&net, &private_net].map(SwitchableNetwork::summary);
    let size = |at: usize| shared.resolutions[at].private_parameters;
    assert_eq!((size(0), size(1)), (0, 0));
    assert_eq!(
        shared.resolutions[0].parameters,
        private.resolutions[0].parameters
    );
    assert!(shared.total_parameters < private.total_parameters);
}

#[test]
fn momentum_and_epsilon_are_those_of_the_recipe() {
    let default = NormOptions::default();
    for (kind, fused, tolerance) in [
        (Kind::Double, Fused::Off, 1e-12),
        (Kind::Float, Fused::Auto, 1e-5),
        (Kind::Float, Fused::Off, 1e-5),
    ] {
        let compute = ExecConfig::cpu(kind).with_kernels(fused);
        let options = NormOptions {
            momentum: 0.25,
            epsilon: 0.125,
            ..default
        };
        let net = network(options, compute);
        let tensor = |name: &str| net.parameters().tensor(name).unwrap();
        let (mean, var) = (tensor("bn1.32.running_mean"), tensor("bn1.32.running_var"));
        let before = (mean.copy(), var.copy());
        let x = images(32, kind);
        let _ = net.logits(&x, 1, Mode::Train).unwrap();
        let maps = x.conv2d(&tensor("conv1.weight"), None::<&Tensor>, 2, 3, 1, 1);
        let channels = [0, 2, 3];
        let of_batch = maps.mean_dim(&channels[..], false, kind);
        assert_near(
            &mean,
            &(before.0 * 0.75 + of_batch * 0.25),
            tolerance,
            "mean",
        );
        let of_batch = maps.var_dim(&channels[..], true, false);
        assert_near(
            &var,
            &(before.1 * 0.75 + of_batch * 0.25),
            tolerance,
            "variance",
        );

        // A larger epsilon is a larger variance.
        let found = net.logits(&x, 1, Mode::Evaluate).unwrap();
        let other = network(default, compute);
        tch::no_grad(|| {
            for parameter in other.parameters().iter() {
                let tensor = net.parameters().tensor(&parameter.name).unwrap();
                let tensor = match parameter.role {
                    Role::BatchNormVar => tensor + (0.125 - default.epsilon),
                    _ => tensor,
                };
                parameter.tensor.shallow_clone().copy_(&tensor);
            }
        });
        let expected = other.logits(&x, 1, Mode::Evaluate).unwrap();
        assert_near(&found, &expected, tolerance, "logits");
    }
}

#[test]
fn residual_branches_start_at_zero() {
    for (name, of_branches) in [
        ("resnet18", "bn2"),
        ("resnet50", "bn3"),
        ("mobilenet_v2", "conv.3"),
    ] {
        let network = Network::by_name(name).unwrap();
        let compute = ExecConfig::cpu(Kind::Float);
        let start = WeightInit::Random { seed: 0 };
        let net = SwitchableNetwork::new(&network, 3, &SIZES, compute, start).unwrap();
        net.zero_residual_norms().unwrap();
        let mut zeros = 0;
        for parameter in net.parameters().iter() {
            if parameter.role == Role::BatchNormWeight {
                let scale = values(&parameter.tensor)[0];
                let layer = parameter.name.rsplitn(3, '.').nth(2).unwrap();
                if scale == 0.0 {
                    zeros += 1;
                    assert!(layer.ends_with(of_branches), "{}", parameter.name);
                } else {
                    assert_eq!(scale, 1.0, "{}", parameter.name);
                }
            }
        }
        let blocks = match name {
            "resnet18" => 8,
            "resnet50" => 16,
            _ => 10,
        };
        assert_eq!(zeros, 2 * blocks, "{name}");
    }
}
