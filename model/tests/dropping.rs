//! Stochastic depth and dropout: what factors do, and what is drawn.

mod small;

use rsflow_model::nn::compute::ExecConfig;
use rsflow_model::nn::kernels::Fused;
use rsflow_model::nn::layers::{Drops, Mode, droppable, factors};
use rsflow_model::nn::networks::{MobileNetV2, Network};
use rsflow_model::nn::parameters::{Role, WeightInit};
use rsflow_model::nn::switchable::SwitchableNetwork;
use rsflow_model::train::dropping::Dropping;
use small::{quantized, resnet, values};
use tch::{Device, Kind, Tensor};

const SIDE: u32 = 48;
const IMAGES: i64 = 3;

fn network(network: &Network, compute: ExecConfig) -> SwitchableNetwork {
    let start = WeightInit::Random { seed: 5 };
    SwitchableNetwork::new(network, 3, &[SIDE], compute, start).unwrap()
}

fn images(kind: Kind) -> Tensor {
    let side = i64::from(SIDE);
    let count = IMAGES * 3 * side * side;
    let waves = (Tensor::arange(count, (Kind::Double, Device::Cpu)) * 0.37).sin();
    waves.view([IMAGES, 3, side, side]).to_kind(kind)
}

fn branches(values: &[f32]) -> Drops {
    let shape = [values.len() as i64 / IMAGES, IMAGES];
    Drops {
        branches: Some(factors(values, shape, Kind::Double, Device::Cpu).unwrap()),
        features: None,
    }
}

/// With running statistics an image does not depend on the others, and a branch times a factor is one whose last
/// batch norm has its scale and shift times the factor.
#[test]
fn a_factor_scales_a_branch_of_an_image() {
    let compute = ExecConfig::cpu(Kind::Double);
    for (architecture, last_norm) in [
        (resnet(18, 4), "bn2"),
        (resnet(50, 4), "bn3"),
        (Network::MobileNetV2(MobileNetV2 { width: 0.5 }), "conv.3"),
    ] {
        let net = network(&architecture, compute);
        let layers = architecture.layers(3).unwrap();
        let (count, _) = droppable(&layers);
        let factors: Vec<f32> = (0..count * IMAGES)
            .map(|at| [0.0, 1.25, 1.0, 2.0, 0.0][(at % 5) as usize])
            .collect();
        let drops = branches(&factors);
        let found = net.pass(Mode::Evaluate).unwrap();
        let found = { found }
            .logits_without(&images(Kind::Double), 0, &drops)
            .unwrap();
        for image in 0..IMAGES {
            let other = network(&architecture, compute);
            // In the order of the forward pass.
            let mut norms: Vec<String> = Vec::new();
            for parameter in other.parameters().iter() {
                let path = parameter.name.split(&format!(".{SIDE}.")).next().unwrap();
                let is_one = path.ends_with(last_norm) && parameter.role == Role::BatchNormWeight;
                let residual = match architecture {
                    // Blocks of another stride or width have no shortcut.
                    Network::MobileNetV2(_) => is_residual(&layers, path),
                    _ => true,
                };
                if is_one && residual {
                    norms.push(path.to_owned());
                }
            }
            assert_eq!(norms.len() as i64, count, "{architecture}");
            for (branch, norm) in norms.iter().enumerate() {
                let factor = f64::from(factors[branch * IMAGES as usize + image as usize]);
                for part in ["weight", "bias"] {
                    let name = format!("{norm}.{SIDE}.{part}");
                    let mut tensor = other.parameters().tensor(&name).unwrap();
                    tch::no_grad(|| tensor.f_mul_scalar_(factor).map(drop)).unwrap();
                }
            }
            let expected = other
                .logits(&images(Kind::Double), 0, Mode::Evaluate)
                .unwrap();
            let off = (found.get(image) - expected.get(image)).abs().max();
            let off = off.double_value(&[]);
            assert!(off < 1e-12, "{architecture}, image {image}: {off}");
        }
    }
}

/// Whether the batch norm is the last of a residual branch.
fn is_residual(layers: &[rsflow_model::nn::layers::Layer], norm: &str) -> bool {
    use rsflow_model::nn::layers::Layer;
    layers.iter().any(|layer| match layer {
        Layer::Residual { branch, .. } => {
            matches!(branch.last(), Some(Layer::BatchNorm { name, .. }) if name == norm)
        }
        _ => false,
    })
}

#[test]
fn factors_of_1_change_nothing() {
    for (architecture, kind, tolerance) in [
        (resnet(18, 4), Kind::Float, 1e-4),
        (resnet(18, 4), Kind::Double, 1e-10),
        (quantized(), Kind::Double, 1e-10),
    ] {
        let compute = ExecConfig::cpu(kind).with_kernels(Fused::Auto);
        let run = |with: bool| {
            let net = network(&architecture, compute);
            let (count, features) = droppable(&architecture.layers(3).unwrap());
            let ones = |shape: [i64; 2]| {
                let values = vec![1.0; (shape[0] * shape[1]) as usize];
                Some(factors(&values, shape, kind, Device::Cpu).unwrap())
            };
            let drops = match with {
                true => Drops {
                    branches: ones([count, IMAGES]),
                    features: ones([IMAGES, features]),
                },
                false => Drops::default(),
            };
            let mut pass = net.pass(Mode::Train).unwrap();
            let logits = pass.logits_without(&images(kind), 0, &drops).unwrap();
            let wave = (Tensor::arange(3 * IMAGES, (kind, Device::Cpu)) * 0.9).cos();
            let loss = (&logits * wave.view([IMAGES, 3])).sum(kind);
            let gradients = net.parameters().gradients(&loss).unwrap();
            let gradients = gradients.iter().filter(|g| g.defined()).map(values);
            [values(&logits)]
                .into_iter()
                .chain(gradients)
                .collect::<Vec<_>>()
        };
        let (with, without) = (run(true), run(false));
        assert_eq!(with.len(), without.len());
        for (with, without) in with.iter().zip(&without) {
            let largest = without.iter().fold(1.0_f64, |most, x| most.max(x.abs()));
            for (a, b) in with.iter().zip(without) {
                let off = (a - b).abs() / largest;
                assert!(off < tolerance, "{architecture} in {kind:?}: {a} and {b}");
            }
        }
    }
}

#[test]
fn features_are_left_out_before_the_classifier() {
    let compute = ExecConfig::cpu(Kind::Double);
    let net = network(&resnet(18, 4), compute);
    let (_, features) = droppable(&net.network().layers(3).unwrap());
    let logits = |factor: f32| {
        let all = vec![factor; (IMAGES * features) as usize];
        let drops = Drops {
            branches: None,
            features: Some(factors(&all, [IMAGES, features], Kind::Double, Device::Cpu).unwrap()),
        };
        let mut pass = net.pass(Mode::Evaluate).unwrap();
        pass.logits_without(&images(Kind::Double), 0, &drops)
            .unwrap()
    };
    let bias = net.parameters().tensor("fc.bias").unwrap();
    let [none, one, two] = [0.0, 1.0, 2.0].map(|factor| logits(factor) - &bias);
    assert!(none.abs().max().double_value(&[]) < 1e-12);
    let off = (one * 2.0 - two).abs().max().double_value(&[]);
    assert!(off < 1e-12, "{off}");
}

#[test]
fn what_is_left_out_is_drawn_as_the_recipe_says() {
    let compute = ExecConfig {
        compute_dtype: Kind::BFloat16,
        ..ExecConfig::cpu(Kind::Float)
    };
    let net = network(&resnet(18, 4), compute);
    let dropping = Dropping {
        drop_path: 0.5,
        dropout: 0.2,
    };
    let draw = |step, rank| dropping.draw(&net, 2000, 1, (step, rank)).unwrap();
    let tensors = |drops: Drops| drops.tensors().map(Tensor::copy).collect::<Vec<_>>();
    let first = tensors(draw(0, 0));
    assert_eq!(tensors(draw(0, 0)), first, "the same after a resume");
    for other in [draw(1, 0), draw(0, 1)] {
        for (other, first) in tensors(other).iter().zip(&first) {
            assert_ne!(other, first);
        }
    }
    let [branches, features] = &first[..] else {
        panic!("{} tensors", first.len());
    };
    assert_eq!(branches.kind(), Kind::BFloat16);
    assert_eq!(branches.size(), [8, 2000]);
    assert_eq!(features.size(), [2000, 32]);
    for branch in 0..8 {
        // In equal steps from 0 for the first to that of the last.
        let probability = 0.5 * branch as f64 / 7.0;
        let values = branches.get(branch).to_kind(Kind::Float);
        let dropped = values.eq(0.0).to_kind(Kind::Double).mean(Kind::Double);
        let dropped = dropped.double_value(&[]);
        assert!((dropped - probability).abs() < 0.04, "{branch}: {dropped}");
        let kept = values.max().double_value(&[]) * (1.0 - probability);
        assert!((kept - 1.0).abs() < 4e-3, "{branch}: {kept}");
    }
    let dropped = features.eq(0.0).to_kind(Kind::Double).mean(Kind::Double);
    assert!((dropped.double_value(&[]) - 0.2).abs() < 0.01);
    assert_eq!(
        Dropping::default()
            .draw(&net, 9, 1, (0, 0))
            .unwrap()
            .tensors()
            .count(),
        0
    );
    let wrong = Dropping {
        drop_path: 1.0,
        dropout: -0.1,
    };
    let fields: Vec<&str> = wrong.check().iter().map(|(field, _)| *field).collect();
    assert_eq!(fields, ["drop_path", "dropout"]);
}
