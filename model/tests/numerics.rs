//! The numeric parts, each against numbers that are known from elsewhere: published counts and
//! formulas computed by hand.

mod small;

use rsflow_model::nn::compute::ExecConfig;
use rsflow_model::nn::field_error::FieldError;
use rsflow_model::nn::layers::Mode;
use rsflow_model::nn::networks::{MobileNetV2, Network, QuantizedMode, QuantizedResNet, ResNeXt};
use rsflow_model::nn::parameters::{Declaration, Init, Parameter, Parameters, Role, WeightInit};
use rsflow_model::nn::summary::Summary;
use rsflow_model::nn::switchable::{SwitchableNetwork, check_resolutions};
use rsflow_model::train::distillation::{Distill, loss};
use rsflow_model::train::optimizer::{Optimizer, Sgd, WeightDecayOn};
use rsflow_model::train::schedule::{self, Milestones, Schedule, TrainingLength};
use small::{all_values, resnet, sgd, small, values};
use tch::{Device, Kind, Tensor};

const SIZES: [u32; 5] = [224, 192, 160, 128, 96];

#[test]
fn parameters_and_multiply_adds_are_those_of_the_paper() {
    let table = [
        (
            "resnet18",
            11_727_912,
            [1814.1, 1332.9, 925.8, 592.7, 333.6],
        ),
        (
            "resnet50",
            25_769_512,
            [4089.2, 3004.8, 2087.3, 1336.6, 752.7],
        ),
        ("mobilenet_v2", 3_641_320, [300.8, 221.3, 154.1, 99.1, 56.3]),
    ];
    for (name, parameters, multiply_adds) in table {
        let network = Network::by_name(name).unwrap();
        let summary = Summary::new(&network, 1000, &SIZES, &SIZES).unwrap();
        assert_eq!(summary.total_parameters, parameters, "{name}");
        let costs = summary.resolutions.iter();
        assert_eq!(costs.len(), SIZES.len());
        for (cost, expected) in costs.zip(multiply_adds) {
            let millions = cost.multiply_adds as f64 / 1e6;
            assert_eq!(
                format!("{millions:.1}"),
                format!("{expected:.1}"),
                "{name} at {}",
                cost.resolution
            );
        }
        assert_eq!(network.min_resolution().unwrap(), 32);
    }
    // Quantizing weights adds no parameter that gradients train.
    let operations = 1_814_073_344;
    let stem_and_classifier = 112 * 112 * 64 * 3 * 49 + 512 * 1000;
    let rest = operations - stem_and_classifier;
    // All 1x1 shortcuts of ResNet18, which type A has not: channels in and out, side.
    let shortcuts: u64 = [(64, 128, 28), (128, 256, 14), (256, 512, 7)]
        .map(|(input, output, side)| input * output * side * side)
        .iter()
        .sum();
    let type_a = QuantizedMode::PreActivationTypeA;
    for (mode, weight_bits, activation_bits, bits) in [
        (QuantizedMode::WeightsOnly, 2, 32, rest * 2 * 32),
        (QuantizedMode::PreActivation, 3, 2, rest * 3 * 2),
        (type_a, 2, 2, (rest - shortcuts) * 2 * 2),
    ] {
        let network = Network::QuantizedResNet(QuantizedResNet {
            depth: 18,
            width: 64,
            mode,
            weight_bits,
            activation_bits,
            fixed_activation_basis: false,
        });
        let summary = Summary::new(&network, 1000, &SIZES, &SIZES).unwrap();
        if mode == QuantizedMode::WeightsOnly {
            assert_eq!(summary.total_parameters, 11_727_912);
            assert_eq!(summary.resolutions[0].multiply_adds, operations);
        }
        let expected = stem_and_classifier * 1024 + bits;
        let found = summary.resolutions[0].bit_operations;
        assert_eq!(found, expected, "{network}");
    }
    // With one resolution they are the networks that torchvision documents.
    for (name, parameters, multiply_adds) in [
        ("resnet34", 21_797_672, "3.66"),
        ("resnet101", 44_549_160, "7.80"),
        ("resnet152", 60_192_808, "11.51"),
        ("parallel_resnext50_32x4d", 25_028_904, "4.23"),
        ("resnext101_32x8d", 88_791_336, "16.41"),
        ("mobilenetv2", 3_504_872, "0.30"),
    ] {
        let network = Network::by_name(name).unwrap();
        let summary = Summary::new(&network, 1000, &[224], &[224]).unwrap();
        assert_eq!(summary.total_parameters, parameters, "{name}");
        let billions = summary.resolutions[0].multiply_adds as f64 / 1e9;
        assert_eq!(format!("{billions:.2}"), multiply_adds, "{name}");
    }
    for name in [
        "resnet19",
        "resnext50",
        "mobilenetv2_x0",
        "mobilenetv2_xl",
        "vgg16",
        "",
    ] {
        assert_eq!(Network::by_name(name), None, "{name}");
    }
    // What is counted is what is made.
    let net = small(&[64, 32], WeightInit::Zeros);
    let elements = |parameters: Vec<&Parameter>| -> u64 {
        parameters.iter().map(|p| p.tensor.numel() as u64).sum()
    };
    let summary = Summary::new(net.network(), 3, &[64, 32], &[64, 32]).unwrap();
    assert_eq!(
        elements(net.parameters().trainable().collect()),
        summary.total_parameters + summary.alpha
    );
    let at_32 = net.parameters().iter().filter(|p| {
        p.role != Role::Alpha && p.resolution.is_none_or(|resolution| resolution == 32)
    });
    assert_eq!(
        4 * elements(at_32.collect()),
        summary.resolutions[1].float32_bytes
    );
}

#[test]
fn recipes_name_networks_optimizers_and_losses() {
    let ron = ron::Options::default()
        .with_default_extension(ron::extensions::Extensions::UNWRAP_VARIANT_NEWTYPES);
    assert_eq!(
        ron.from_str::<Network>("ResNet(depth: 50)").unwrap(),
        resnet(50, 64)
    );
    assert_eq!(
        ron.from_str::<Optimizer>("Sgd(lr: 0.1)").unwrap(),
        Optimizer::Sgd(sgd())
    );
    assert_eq!(
        ron.from_str::<Network>("MobileNetV2(width: 0.5)").unwrap(),
        Network::by_name("mobilenetv2_x0.5").unwrap()
    );
    assert_eq!(
        ron.from_str::<Distill>("EnsembleTopDown").unwrap(),
        Distill::EnsembleTopDown
    );
    let schedules = [
        ("Cosine", Schedule::Cosine),
        ("Linear", Schedule::Linear),
        (
            "Step(every: 30)",
            Schedule::Step(schedule::Step {
                every: 30,
                gamma: 0.1,
            }),
        ),
        (
            "Milestones(epochs: [30, 60], gamma: 0.2)",
            Schedule::Milestones(Milestones {
                epochs: vec![30, 60],
                gamma: 0.2,
            }),
        ),
    ];
    for (text, schedule) in schedules {
        assert_eq!(ron.from_str::<Schedule>(text).unwrap(), schedule);
    }
    assert!(
        ron.from_str::<Network>("ResNet(depth: 50, stages: 4)")
            .is_err()
    );
}

#[test]
fn wrong_fields_are_reported() {
    let messages = |errors: Vec<FieldError>| {
        let lines = errors
            .iter()
            .map(|(field, error)| format!("{field}: {error}"));
        lines.collect::<Vec<_>>().join("; ")
    };
    let table = [
        (
            messages(resnet(51, 64).check()),
            "depth: `depth` must be one of 18, 34, 50, 101, 152, not 51",
        ),
        (
            messages(resnet(18, 0).check()),
            "width: `width` must be from 1 to 4096, not 0",
        ),
        (
            messages(Network::ResNeXt(ResNeXt { depth: 18 }).check()),
            "depth: `depth` must be 50 (32x4d) or 101 (32x8d), not 18",
        ),
        (
            messages(Network::MobileNetV2(MobileNetV2 { width: f64::NAN }).check()),
            "width: `width` must be above 0 and at most 16, not NaN",
        ),
        (
            check_resolutions(&resnet(18, 64), &[64, 31, 64])
                .unwrap()
                .join("; "),
            "resolution 31 is too small: the minimum of this network is 32; \
             resolution 64 is listed twice",
        ),
    ];
    for (found, expected) in table {
        assert_eq!(found, expected);
    }
}

#[test]
fn first_values_depend_on_seed_and_name_alone() {
    let (both, one) = (
        small(&[64, 32], WeightInit::Random { seed: 1 }),
        small(&[32], WeightInit::Random { seed: 1 }),
    );
    let other = small(&[32], WeightInit::Random { seed: 2 });
    let conv = "layer2.0.conv1.weight";
    let of = |net: &SwitchableNetwork| values(&net.parameters().tensor(conv).unwrap());
    assert_eq!(of(&both), of(&one));
    assert_ne!(of(&one), of(&other));
    // Kaiming normal by fan-out: 8 output channels, 3x3.
    let drawn = of(&one);
    let deviation = (drawn.iter().map(|x| x * x).sum::<f64>() / drawn.len() as f64).sqrt();
    let expected = (2.0_f64 / (9.0 * 8.0)).sqrt();
    assert!(
        (deviation / expected - 1.0).abs() < 0.15,
        "{deviation} instead of {expected}"
    );
}

#[test]
fn resolutions_share_convolutions_and_keep_their_own_norms() {
    let net = small(&[64, 32], WeightInit::Random { seed: 1 });
    let before = all_values(net.parameters());
    let images = Tensor::f_rand([4, 3, 32, 32], (Kind::Float, Device::Cpu)).unwrap();
    let _ = net.logits(&images, 1, Mode::Train).unwrap();
    for ((name, before), (_, after)) in before.iter().zip(all_values(net.parameters())) {
        let moved = *before != after;
        assert_eq!(moved, name.contains(".32.running_"), "{name}");
    }
    assert!(net.logits(&images, 2, Mode::Train).is_err());
    assert!(
        net.logits(
            &Tensor::f_rand([4], (Kind::Float, Device::Cpu)).unwrap(),
            0,
            Mode::Train
        )
        .is_err()
    );
}

#[test]
fn loading_tells_everything_that_does_not_fit_and_changes_nothing() {
    let net = small(&[32], WeightInit::Random { seed: 1 });
    let before = all_values(net.parameters());
    let (scalar, unknown) = (Tensor::from(1.0_f32), Tensor::from(2.0_f32));
    let given = net
        .parameters()
        .iter()
        .filter(|p| p.name != "fc.bias")
        .map(|p| {
            (
                p.name.as_str(),
                if p.name == "conv1.weight" {
                    &scalar
                } else {
                    &p.tensor
                },
            )
        });
    let error = net
        .parameters()
        .load(given.chain([("conv9.weight", &unknown)]))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the tensors do not fit the network: \"conv9.weight\" is not in the network; \
         \"conv1.weight\" must have the shape [4, 3, 7, 7], not []; \"fc.bias\" is missing"
    );
    assert_eq!(all_values(net.parameters()), before);
}

/// Two resolutions whose logits are worked out by hand. The reference's cases hold the values of
/// the terms; this holds who is trained by which.
#[test]
fn teachers_get_no_gradient_and_alpha_always_does() {
    let table = [
        (Distill::None, 0.0),
        (Distill::Ensemble, 1.0),
        (Distill::EnsembleTopDown, 2.0 / 3.0),
    ];
    for (distill, weight) in table {
        assert_eq!(distill.weight(2), weight);
        let net = small(&[64, 32], WeightInit::Zeros);
        let z = [[0.0_f32, 1.0, 2.0], [1.0, 0.0, 0.0]].map(|row| {
            Tensor::f_from_slice(&row)
                .unwrap()
                .f_reshape([1, 3])
                .unwrap()
                .set_requires_grad(true)
        });
        let labels = Tensor::f_from_slice(&[2_i64]).unwrap();
        let ensemble = net.ensemble(&z).unwrap();
        let terms = loss(&z, &ensemble, &labels, distill).unwrap();
        let value = |t: &Tensor| t.f_double_value(&[]).unwrap();
        let distilled = terms.distillation.as_ref().map_or(0.0, value);
        let sum = values(&terms.cross_entropy).iter().sum::<f64>()
            + value(&terms.ensemble_cross_entropy)
            + weight * distilled;
        assert!((value(&terms.total) - sum).abs() < 1e-6, "{distill:?}");
        assert_eq!(terms.distillation.is_some(), distill != Distill::None);

        // The gradient of a cross-entropy, soft or hard, is softmax(z) - target.
        let softmax = |t: &Tensor| values(&t.f_softmax(-1, None).unwrap());
        let (s0, s1, ens) = (softmax(&z[0]), softmax(&z[1]), softmax(&ensemble));
        let alpha = net.parameters().tensor("alpha").unwrap();
        let inputs = [&z[0], &z[1], &alpha];
        let gradients = Tensor::f_run_backward(&[&terms.total], &inputs, false, false).unwrap();
        for c in 0..3 {
            let hard = f64::from(c == 2);
            let ensemble_only = [s0[c] - ens[c], s1[c] - ens[c]];
            let top_down = [ensemble_only[0], ensemble_only[1] + s1[c] - s0[c]];
            let soft = if distill == Distill::EnsembleTopDown {
                top_down
            } else {
                ensemble_only
            };
            let expected = [
                s0[c] - hard + weight * soft[0],
                s1[c] - hard + weight * soft[1],
            ];
            for (gradient, expected) in gradients.iter().zip(expected) {
                assert!(
                    (values(gradient)[c] - expected).abs() < 1e-6,
                    "{distill:?}, class {c}"
                );
            }
        }
        // z_0 is the better one: its weight grows, at the other's cost.
        let alpha = values(&gradients[2]);
        assert!(
            alpha[0] < 0.0 && (alpha[0] + alpha[1]).abs() < 1e-6,
            "{distill:?}: {alpha:?}"
        );
    }
}

/// Three steps of everything that a network has, against the formulas of PyTorch's documentation
/// in plain loops. One gradient lies in memory in another order than its parameter (channels
/// last), one is spread from a single value, one is undefined in the first step.
#[test]
fn sgd_moves_as_pytorch_defines_it() {
    const LR: f64 = 0.1;
    let declarations = [
        ("conv", Role::ConvWeight, vec![3, 2, 3, 3]),
        ("fc.weight", Role::LinearWeight, vec![5, 70]),
        ("fc.bias", Role::LinearBias, vec![5]),
        ("gamma", Role::BatchNormWeight, vec![2]),
        ("alpha", Role::Alpha, vec![1]),
    ]
    .map(|(name, role, shape)| Declaration {
        name: name.to_owned(),
        role,
        resolution: None,
        shape,
        init: Init::Uniform(1.0),
    });
    let gradient = |step: usize, position: usize, shape: &[i64], kind: Kind| {
        let count = shape.iter().product::<i64>();
        let ramp = Tensor::f_arange(count, (kind, Device::Cpu)).unwrap();
        let wave = ramp
            .f_add_scalar((7 * step + position) as f64)
            .unwrap()
            .f_sin()
            .unwrap();
        match *shape {
            _ if step == 0 && position == 2 => Tensor::new(),
            [out, channels, height, width] => wave
                .f_reshape([out, height, width, channels])
                .unwrap()
                .f_permute([0, 3, 1, 2])
                .unwrap(),
            [5] => wave
                .f_slice(0, 1, 2, 1)
                .unwrap()
                .f_expand([5], false)
                .unwrap(),
            _ => wave.f_reshape(shape).unwrap(),
        }
    };
    let kinds = [(Kind::Double, 1e-13), (Kind::Float, 1e-6)];
    let ways = [(0.0, false), (0.9, false), (0.9, true)];
    let decays = [
        (0.0, WeightDecayOn::Everything),
        (0.5, WeightDecayOn::Everything),
        (0.5, WeightDecayOn::Weights),
    ];
    for ((kind, tolerance), (momentum, nesterov), (weight_decay, weight_decay_on)) in kinds
        .into_iter()
        .flat_map(|kind| ways.map(|way| (kind, way)))
        .flat_map(|(kind, way)| decays.map(|decay| (kind, way, decay)))
    {
        let sgd = Sgd {
            lr: LR,
            momentum,
            weight_decay,
            weight_decay_on,
            nesterov,
        };
        let start = WeightInit::Random { seed: 0 };
        let parameters = Parameters::new(&declarations, ExecConfig::cpu(kind), start).unwrap();
        let mut expected = all_values(&parameters);
        let mut velocities: Vec<Option<Vec<f64>>> = vec![None; declarations.len()];
        let mut optimizer = Optimizer::Sgd(sgd.clone()).start(&parameters).unwrap();
        for step in 0..3 {
            let gradients: Vec<Tensor> = declarations
                .iter()
                .enumerate()
                .map(|(position, d)| gradient(step, position, &d.shape, kind))
                .collect();
            for (position, (declaration, gradient)) in
                declarations.iter().zip(&gradients).enumerate()
            {
                if !gradient.defined() {
                    continue;
                }
                let is_weight = declaration.name == "conv" || declaration.name == "fc.weight";
                let decay = match weight_decay_on {
                    WeightDecayOn::Weights if !is_weight => 0.0,
                    _ => weight_decay,
                };
                let p = &mut expected[position].1;
                let g = values(&gradient.f_contiguous().unwrap());
                let g: Vec<f64> = g.iter().zip(&*p).map(|(g, p)| g + decay * p).collect();
                let v = match &velocities[position] {
                    None => g.clone(),
                    Some(v) => v.iter().zip(&g).map(|(v, g)| momentum * v + g).collect(),
                };
                for ((p, g), v) in p.iter_mut().zip(&g).zip(&v) {
                    *p -= LR * if nesterov { g + momentum * v } else { *v };
                }
                velocities[position] = Some(v);
            }
            optimizer.step(gradients, LR).unwrap();
            for ((name, found), (_, expected)) in all_values(&parameters).iter().zip(&expected) {
                for (found, expected) in found.iter().zip(expected) {
                    assert!(
                        (found - expected).abs() < tolerance,
                        "{sgd:?} in {kind:?}, step {step}, {name}: {found}, not {expected}"
                    );
                }
            }
        }
        let momenta = optimizer.momentum().count();
        assert_eq!(
            momenta,
            if momentum == 0.0 {
                0
            } else {
                declarations.len()
            }
        );
    }
}

#[test]
fn gradients_that_do_not_fit_are_refused() {
    let net = small(&[32], WeightInit::Zeros);
    let mut optimizer = Optimizer::Sgd(sgd()).start(net.parameters()).unwrap();
    let gradients = |kind: Kind, last: &[i64]| -> Vec<Tensor> {
        let shapes = net.parameters().trainable().map(|p| p.tensor.size());
        let mut shapes: Vec<Vec<i64>> = shapes.collect();
        *shapes.last_mut().unwrap() = last.to_vec();
        let zeros = |shape| Tensor::f_zeros(shape, (kind, Device::Cpu)).unwrap();
        shapes.into_iter().map(zeros).collect()
    };
    let table = [
        (gradients(Kind::Float, &[2]), "a gradient has the shape [2]"),
        (
            gradients(Kind::Double, &[3]),
            "a gradient has the dtype Double, its parameter Float",
        ),
        (vec![], "parameters were given 0 gradients"),
    ];
    for (gradients, expected) in table {
        let error = format!("{:#}", optimizer.step(gradients, 0.1).unwrap_err());
        assert!(error.contains(expected), "{error}");
    }
    optimizer.step(gradients(Kind::Float, &[3]), 0.1).unwrap();
}

#[test]
fn schedules_have_known_values() {
    // Ten steps an epoch.
    let at = |schedule: &Schedule, epochs, warm_up_epochs: u64, step| {
        let length = TrainingLength {
            epochs,
            warm_up_steps: 10 * warm_up_epochs,
            cool_down_epochs: 0,
            steps_per_epoch: 10,
        };
        schedule.learning_rate(0.1, step, length)
    };
    let (cosine, linear) = (Schedule::Cosine, Schedule::Linear);
    let step = Schedule::Step(schedule::Step {
        every: 30,
        gamma: 0.1,
    });
    let halving = Schedule::Step(schedule::Step {
        every: 1,
        gamma: 0.5,
    });
    let milestones = Schedule::Milestones(Milestones {
        epochs: vec![30, 60, 85, 95, 105],
        gamma: 0.1,
    });
    let table = [
        (at(&cosine, 10, 0, 0), 0.1),
        (at(&cosine, 10, 0, 25), 0.05 * (1.0 + 0.5_f64.sqrt())),
        (at(&cosine, 10, 0, 50), 0.05),
        (at(&cosine, 10, 0, 100), 0.0),
        (at(&cosine, 10, 0, 1000), 0.0),
        (at(&cosine, 10, 2, 0), 0.0),
        (at(&cosine, 10, 2, 5), 0.025),
        (at(&cosine, 10, 2, 20), 0.1),
        (at(&cosine, 10, 2, 60), 0.05),
        (at(&cosine, 0, 0, 3), 0.0),
        (at(&linear, 10, 0, 0), 0.1),
        (at(&linear, 10, 0, 1), 0.099),
        (at(&linear, 10, 0, 75), 0.025),
        (at(&linear, 10, 0, 1000), 0.0),
        (at(&linear, 10, 2, 10), 0.05),
        (at(&linear, 10, 2, 60), 0.05),
        (at(&step, 120, 0, 0), 0.1),
        (at(&step, 120, 0, 299), 0.1),
        (at(&step, 120, 0, 300), 0.01),
        (at(&step, 120, 0, 1199), 1e-4),
        (at(&step, 120, 5, 25), 0.05),
        (at(&step, 120, 5, 299), 0.1),
        (at(&step, 120, 5, 300), 0.01),
        (at(&halving, 4, 0, 39), 0.0125),
        (at(&milestones, 120, 0, 299), 0.1),
        (at(&milestones, 120, 0, 300), 0.01),
        (at(&milestones, 120, 0, 849), 1e-3),
        (at(&milestones, 120, 0, 850), 1e-4),
        (at(&milestones, 120, 0, 950), 1e-5),
        (at(&milestones, 120, 0, 1199), 1e-6),
        (at(&milestones, 120, 5, 300), 0.01),
    ];
    for (row, (found, expected)) in table.into_iter().enumerate() {
        assert!(
            (found - expected).abs() < 1e-15,
            "row {row}: {found} instead of {expected}"
        );
    }
}

#[test]
fn calibration_weighs_images_not_batches() {
    let images = Tensor::f_rand([4, 3, 64, 64], (Kind::Float, Device::Cpu)).unwrap();
    let mean = |batches: &[(i64, i64, f64)]| {
        let net = small(&[64], WeightInit::Random { seed: 1 });
        for &(start, count, share) in batches {
            let batch = images.f_narrow(0, start, count).unwrap();
            let logits = net.logits(&batch, 0, Mode::Calibrate { share }).unwrap();
            assert!(!logits.requires_grad());
        }
        values(&net.parameters().tensor("bn1.64.running_mean").unwrap())
    };
    // What comes before the first batch norm is the same in both.
    let (one, two) = (mean(&[(0, 4, 1.0)]), mean(&[(0, 3, 1.0), (3, 1, 0.25)]));
    for (one, two) in one.iter().zip(&two) {
        assert!((one - two).abs() < 1e-6, "{one} {two}");
    }
}

#[test]
fn the_smallest_map_leaves_so_many_values() {
    let table = [
        ("resnet18", 32, 1),
        ("resnet18", 33, 4),
        ("mobilenet_v2", 32, 1),
        ("mobilenet_v2", 48, 4),
        ("resnet50", 224, 49),
    ];
    for (name, size, expected) in table {
        let network = Network::by_name(name).unwrap();
        let found = network.least_values(size).unwrap();
        assert_eq!(found, expected, "{name} at {size}");
    }
}
