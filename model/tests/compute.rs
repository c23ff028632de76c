//! Ways of computing a step: they may differ in precision, layout and memory, not in what they do.

use rsflow_model::checkpoint::LossScaleState;
use rsflow_model::nn::compute::{DeviceChoice, ExecConfig, Precision};
use rsflow_model::nn::kernels::Kernels;
use rsflow_model::nn::layers::Mode;
use rsflow_model::nn::networks::{MobileNetV2, Network, QuantizedMode, QuantizedResNet};
use rsflow_model::nn::parameters::WeightInit;
use rsflow_model::nn::replay::Inference;
use rsflow_model::nn::switchable::SwitchableNetwork;
use rsflow_model::train::distillation::{Distill, loss};
use rsflow_model::train::dropping::Dropping;
use rsflow_model::train::optimizer::{Optimizer, RunningOptimizer};
use rsflow_model::train::step::{Inputs, Step};
use rsflow_model::train::steps::Steps;
use tch::{Kind, Tensor};

mod emulated;
mod small;
use emulated::emulate;
use small::{all_values, resnet, rule, sgd, values};

const SIZES: [u32; 3] = [48, 40, 32];
const CLASSES: u32 = 3;

fn quantized(mode: QuantizedMode, activation_bits: u32) -> Network {
    Network::QuantizedResNet(QuantizedResNet {
        depth: 18,
        width: 4,
        mode,
        weight_bits: 2,
        activation_bits,
        fixed_activation_basis: false,
    })
}

/// A network with its optimizer, and what it is trained with.
struct Training {
    net: SwitchableNetwork,
    optimizer: RunningOptimizer,
    images: Vec<Tensor>,
    labels: Tensor,
    dropping: Dropping,
    steps: u64,
}

impl Training {
    fn new(network: &Network, compute: ExecConfig) -> Self {
        let start = WeightInit::Random { seed: 3 };
        let net = SwitchableNetwork::new(network, CLASSES, &SIZES, compute, start).unwrap();
        let images = SIZES.map(|side| {
            let side = i64::from(side);
            let count = 8 * 3 * side * side;
            // Noise: the fractions of a sine's digits.
            let noise = (Tensor::arange(count, (Kind::Double, compute.device)) * 12.9898).sin()
                * 43758.5453;
            let images = noise
                .frac()
                .abs()
                .view([8, 3, side, side])
                .to_kind(compute.dtype);
            compute.to_memory_format(images).unwrap()
        });
        Training {
            optimizer: Optimizer::Sgd(sgd()).start(net.parameters()).unwrap(),
            net,
            images: images.into(),
            labels: Tensor::from_slice(&[0_i64, 1, 2, 0, 1, 2, 2, 1]),
            dropping: Dropping::default(),
            steps: 0,
        }
    }

    fn step(&mut self, how: Step, lr: f64) -> f64 {
        let mut inputs = Inputs::new(&self.images, &self.labels);
        let drawn = self.dropping.draw(&self.net, 8, 0, (self.steps, 0));
        inputs.drops = drawn.unwrap();
        self.steps += 1;
        let (net, optimizer) = (&self.net, &mut self.optimizer);
        let loss = how.run(net, optimizer, &inputs, lr.into(), None);
        let loss = loss.unwrap();
        loss.total.double_value(&[])
    }

    fn values(&self) -> Vec<(String, Vec<f64>)> {
        all_values(self.net.parameters())
    }
}

fn usual_step() -> Step {
    Distill::EnsembleTopDown.into()
}

const DROPPING: Dropping = Dropping {
    drop_path: 0.5,
    dropout: 0.3,
};

fn recomputing_step() -> Step {
    Step {
        recompute: true,
        ..usual_step()
    }
}

fn compute(compute_dtype: Kind, channels_last: bool) -> ExecConfig {
    ExecConfig {
        compute_dtype,
        channels_last,
        ..ExecConfig::cpu(Kind::Float)
    }
}

/// The largest difference between two networks, relative to each tensor's largest value.
fn difference(a: &[(String, Vec<f64>)], b: &[(String, Vec<f64>)]) -> (f64, String) {
    let mut worst = (0.0, String::new());
    for ((name, a), (_, b)) in a.iter().zip(b) {
        let largest = a.iter().fold(1e-3_f64, |most, value| most.max(value.abs()));
        for (a, b) in a.iter().zip(b) {
            let off = (a - b).abs() / largest;
            if off.is_nan() || off > worst.0 {
                worst = (off, name.clone());
            }
        }
    }
    worst
}

#[test]
fn recomputing_is_the_same_step() {
    for network in [
        resnet(18, 4),
        Network::MobileNetV2(MobileNetV2 { width: 0.25 }),
        quantized(QuantizedMode::WeightsOnly, 32),
        quantized(QuantizedMode::PreActivation, 2),
    ] {
        let mut whole = Training::new(&network, ExecConfig::cpu(Kind::Double));
        let mut by_resolution = Training::new(&network, ExecConfig::cpu(Kind::Double));
        for training in [&mut whole, &mut by_resolution] {
            training.dropping = DROPPING;
        }
        for step in 0..3 {
            let a = whole.step(usual_step(), 0.05);
            let b = by_resolution.step(recomputing_step(), 0.05);
            assert!(
                (a - b).abs() < 1e-9 * a.abs(),
                "{network}, step {step}: {a} {b}"
            );
        }
        // Running statistics, bases and alpha among them.
        let (off, name) = difference(&whole.values(), &by_resolution.values());
        assert!(off < 1e-8, "{network}: {name} is off by {off}");
    }
}

#[test]
fn the_layout_does_not_change_what_is_computed() {
    for network in [
        resnet(18, 4),
        Network::MobileNetV2(MobileNetV2 { width: 0.25 }),
    ] {
        let layouts = [false, true].map(|channels_last| {
            let compute = ExecConfig {
                channels_last,
                ..ExecConfig::cpu(Kind::Double)
            };
            let mut training = Training::new(&network, compute);
            let losses: Vec<f64> = (0..3).map(|_| training.step(usual_step(), 0.005)).collect();
            (losses, training.values())
        });
        let [(first, a), (last, b)] = &layouts;
        for (a, b) in first.iter().zip(last) {
            assert!(
                (a - b).abs() < 1e-9 * a.abs(),
                "{network}: {first:?} {last:?}"
            );
        }
        let (off, name) = difference(a, b);
        assert!(off < 1e-8, "{network}: {name} is off by {off}");
    }
}

/// With our kernels a network's logits and gradients are as near to those of float64 as with libtorch's.
#[test]
fn our_kernels_do_not_change_what_is_computed() {
    emulate();
    for network in [
        resnet(18, 4),
        resnet(50, 4),
        Network::MobileNetV2(MobileNetV2 { width: 0.25 }),
    ] {
        let results = [
            (Kind::Double, None),
            (Kind::Float, None),
            (Kind::Float, Some(Kernels::Gpu)),
        ];
        let [exact, theirs, ours] = results.map(|(dtype, kernels)| {
            let compute = ExecConfig {
                channels_last: true,
                kernels,
                ..ExecConfig::cpu(dtype)
            };
            let training = Training::new(&network, compute);
            let Training {
                net,
                images,
                labels,
                ..
            } = &training;
            let mut pass = net.pass(Mode::Train).unwrap();
            let logits = (0..)
                .zip(images)
                .map(|(i, images)| pass.logits(images, i).unwrap());
            let logits: Vec<Tensor> = logits.collect();
            let ensemble = net.ensemble(&logits).unwrap();
            let loss = loss(&logits, &ensemble, labels, Distill::EnsembleTopDown).unwrap();
            let gradients = net.parameters().gradients(&loss.total).unwrap();
            let running = net.logits(&images[1], 1, Mode::Evaluate).unwrap();
            let all = logits.iter().chain(&gradients).chain([&running]);
            all.map(values).collect::<Vec<Vec<f64>>>()
        });
        // The median of all tensors: of so few values, single ones near 0 decide over whole gradients.
        let off = |of: &[Vec<f64>]| {
            let each = of.iter().zip(&exact).map(|(of, exact)| {
                let squares = of.iter().zip(exact).map(|(a, b)| (a - b).powi(2));
                let size: f64 = exact.iter().map(|a| a * a).sum();
                (squares.sum::<f64>() / size).sqrt()
            });
            let mut each: Vec<f64> = each.collect();
            each.sort_by(f64::total_cmp);
            each[each.len() / 2]
        };
        let (ours_off, theirs_off) = (off(&ours), off(&theirs));
        assert!(
            ours_off < 2.0 * theirs_off + 1e-5,
            "{network}: {ours_off}, libtorch's operators {theirs_off}"
        );
        assert_ne!(theirs, ours, "{network}: our kernels were not used");
    }
}

/// Steps that are replayed, with plain calls in place of a graph: the same bits, also around batches of
/// another size.
#[test]
fn replayed_steps_are_the_same() {
    let sgd = || Optimizer::Sgd(sgd());
    for (network, how, compute_dtype, optimizer, recorded) in [
        (resnet(18, 4), usual_step(), Kind::Float, sgd(), true),
        (resnet(18, 4), recomputing_step(), Kind::Half, sgd(), true),
        (
            resnet(18, 4),
            usual_step(),
            Kind::Half,
            rule("AdamW(lr: 0.1)"),
            true,
        ),
        (
            resnet(18, 4),
            usual_step(),
            Kind::Float,
            rule("Lamb(lr: 0.1)"),
            true,
        ),
        // It reads its overflow.
        (
            resnet(18, 4),
            usual_step(),
            Kind::Half,
            rule("Lamb(lr: 0.1)"),
            false,
        ),
        (
            quantized(QuantizedMode::PreActivation, 2),
            usual_step(),
            Kind::Float,
            sgd(),
            false,
        ),
    ] {
        let compute = compute(compute_dtype, compute_dtype == Kind::Half);
        let start = || {
            let mut training = Training::new(&network, compute);
            training.optimizer = optimizer.start(training.net.parameters()).unwrap();
            training
        };
        let (mut usual, mut replayed) = (start(), start());
        let mut steps = Steps::with_plain_calls(how, &replayed.net).unwrap();
        for step in 0..10 {
            // The fourth batch is a smaller one, and so are the last four; all have images of their own.
            let take = |images: &Tensor| {
                let rolled = images.roll([step], [0]);
                rolled.narrow(0, 0, if step == 3 || step > 5 { 5 } else { 8 })
            };
            let lr = 0.01 / (step + 1) as f64;
            // As on the device.
            let as_float = f64::from(lr as f32);
            let inputs: Vec<Tensor> = usual.images.iter().map(take).collect();
            let labels = take(&usual.labels);
            let mut inputs = Inputs::new(&inputs, &labels);
            let count = labels.size()[0];
            let drawn = DROPPING.draw(&usual.net, count, 0, (step as u64, 0));
            inputs.drops = drawn.unwrap();
            let (net, optimizer) = (&usual.net, &mut usual.optimizer);
            let a = how.run(net, optimizer, &inputs, as_float.into(), None);
            let a = a.unwrap();
            let (net, optimizer) = (&replayed.net, &mut replayed.optimizer);
            let b = steps.step(net, optimizer, &inputs, lr, None).unwrap();
            let (a, b) = (a.total.double_value(&[]), b.total.double_value(&[]));
            assert_eq!(a, b, "{network}, step {step}");
            assert_eq!(
                steps.is_recorded(),
                recorded && step > 0 && step != 7, // the second of another size
                "{network}, step {step}"
            );
        }
        assert_eq!(usual.values(), replayed.values(), "{network}");
    }
}

/// Passes that are replayed, with plain calls in place of a graph: the logits of the images and weights that
/// they are called with, also around batches of another size and at other resolutions.
#[test]
fn replayed_passes_are_the_same() {
    for (network, recorded) in [
        (resnet(18, 4), true),
        (quantized(QuantizedMode::PreActivation, 2), false),
    ] {
        let mut training = Training::new(&network, compute(Kind::BFloat16, true));
        let mut inference = Inference::with_plain_calls(&training.net);
        let mut distinct = Vec::new();
        for (call, (positions, batch)) in [
            (vec![0, 1, 2], 8),
            (vec![0, 1, 2], 8),
            (vec![0, 1, 2], 5), // the last one of an epoch
            (vec![0, 1, 2], 8),
            (vec![2], 8),
            (vec![0, 2], 8),
            (vec![0, 1, 2], 8),
        ]
        .into_iter()
        .enumerate()
        {
            if call == 3 {
                training.step(usual_step(), 0.01);
            }
            let net = &training.net;
            let images: Vec<Tensor> = positions
                .iter()
                .map(|&position| training.images[position].narrow(0, 0, batch))
                .map(|images| images.roll([call as i64], [0]))
                .collect();
            let found = inference.logits(net, &positions, &images).unwrap();
            assert_eq!(inference.is_recorded(), recorded && call > 0, "{network}");
            assert_eq!(found.len(), positions.len());
            for ((&position, images), found) in positions.iter().zip(&images).zip(&found) {
                let expected = net.logits(images, position, Mode::Evaluate).unwrap();
                let (expected, found) = (values(&expected), values(found));
                assert_eq!(expected, found, "{network}, call {call}, {position}");
                distinct.push(found);
            }
        }
        let all = distinct.len();
        distinct.dedup();
        assert_eq!(distinct.len(), all);
    }
}

/// In half precision losses stay within its error of those in float32, over 50 steps; what is kept
/// stays in float32.
#[test]
fn half_precision_follows_float32() {
    let losses = |compute_dtype| {
        let mut training = Training::new(
            &resnet(18, 4),
            compute(compute_dtype, compute_dtype != Kind::Float),
        );
        // Small enough for every step: one that is left out would shift the losses.
        let (scale, steps) = (256.0, 0);
        let state = LossScaleState { scale, steps };
        training.optimizer.load_loss_scale(state).unwrap();
        let losses: Vec<f64> = (0..50)
            .map(|_| training.step(usual_step(), 0.0002))
            .collect();
        for parameter in training.net.parameters().iter() {
            assert_eq!(parameter.tensor.kind(), Kind::Float, "{}", parameter.name);
        }
        let logits = training
            .net
            .logits(&training.images[0], 0, Mode::Evaluate)
            .unwrap();
        assert_eq!(logits.kind(), Kind::Float);
        losses
    };
    let expected = losses(Kind::Float);
    assert!(expected[49] < 0.9 * expected[0], "{expected:?}");
    // 8 bits of significand: half a unit in the last place is 2^-9, here after some twenty layers.
    for (kind, allowed) in [(Kind::BFloat16, 0.03), (Kind::Half, 0.01)] {
        let found = losses(kind);
        for (step, (a, b)) in expected.iter().zip(&found).enumerate() {
            let off = (a - b).abs() / expected[0];
            assert!(
                off < allowed,
                "{kind:?}, step {step}: {b}, not {a}: off by {off}"
            );
        }
        assert_ne!(expected, found, "{kind:?} was not used");
    }
}

#[test]
fn gradients_that_overflow_move_nothing_but_the_scale() {
    let mut training = Training::new(&resnet(18, 4), compute(Kind::Half, true));
    let trained = |training: &Training| -> Vec<Vec<f64>> {
        let parameters = training.net.parameters().trainable();
        parameters
            .map(|parameter| values(&parameter.tensor))
            .collect()
    };
    let state = |training: &Training| training.optimizer.loss_scale().unwrap().unwrap();
    assert_eq!(state(&training).scale, 65536.0);
    let before = trained(&training);
    let scale = 2_f64.powi(100);
    let too_large = LossScaleState { scale, steps: 7 };
    training.optimizer.load_loss_scale(too_large).unwrap();
    assert!(training.step(usual_step(), 0.1).is_finite());
    assert_eq!(trained(&training), before);
    let (scale, steps) = (scale / 2.0, 0);
    assert_eq!(state(&training), LossScaleState { scale, steps });

    let fine = LossScaleState {
        scale: 64.0,
        steps: 1999,
    };
    training.optimizer.load_loss_scale(fine).unwrap();
    training.step(usual_step(), 0.1);
    assert_ne!(trained(&training), before);
    let (scale, steps) = (128.0, 0);
    assert_eq!(state(&training), LossScaleState { scale, steps });
}

/// A frozen network runs as the one that is trained does, in the dtype that it computes in.
#[test]
fn freezing_changes_no_logit() {
    for network in [resnet(18, 4), quantized(QuantizedMode::PreActivation, 2)] {
        for compute_dtype in [Kind::Float, Kind::BFloat16] {
            let mut training = Training::new(&network, compute(compute_dtype, false));
            training.step(usual_step(), 0.05);
            let logits = |net: &SwitchableNetwork| {
                values(&net.logits(&training.images[1], 1, Mode::Evaluate).unwrap())
            };
            let before = logits(&training.net);
            training.net.freeze().unwrap();
            assert!(training.net.pass(Mode::Train).is_err());
            assert_eq!(
                logits(&training.net),
                before,
                "{network} in {compute_dtype:?}"
            );
        }
    }
}

#[test]
fn what_a_device_cannot_do_is_told() {
    let network = resnet(18, 4);
    let open = |device, precision| ExecConfig::resolve(device, precision, network.hints().unwrap());
    let error = open(DeviceChoice::Cpu, Precision::TensorFloat32).unwrap_err();
    assert!(error.to_string().contains("is for GPUs"), "{error}");
    // Wherever this runs there are no ninety GPUs.
    let error = open(DeviceChoice::Cuda(90), Precision::Auto).unwrap_err();
    let text = format!("{error:#}");
    for part in ["`device: Cuda(90)`", "`rsflow doctor`", "`Auto`"] {
        assert!(text.contains(part), "{text}");
    }
    for (network, channels_last) in [
        (resnet(18, 4), false),
        (resnet(50, 4), true),
        (Network::MobileNetV2(MobileNetV2 { width: 0.25 }), true),
    ] {
        let (device, precision) = (DeviceChoice::Cpu, Precision::Float32);
        let on_cpu = ExecConfig::resolve(device, precision, network.hints().unwrap()).unwrap();
        assert_eq!(on_cpu.compute_dtype, Kind::Float);
        assert_eq!(on_cpu.channels_last, channels_last, "{network}");
    }
    let quantized = quantized(QuantizedMode::WeightsOnly, 32);
    let auto = ExecConfig::resolve(
        DeviceChoice::Cpu,
        Precision::Auto,
        quantized.hints().unwrap(),
    )
    .unwrap();
    assert_eq!(auto.compute_dtype, Kind::Float);
}
