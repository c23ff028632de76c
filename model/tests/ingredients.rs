//! Losses, optimizers, clipping and accumulation, in float64 against PyTorch and timm
//! (tests/fixtures/ingredients; `source` says of what the values were computed).

mod small;

use rsflow_model::checkpoint::OptimizerState;
use rsflow_model::nn::compute::ExecConfig;
use rsflow_model::nn::networks::{Network, QuantizedMode, QuantizedResNet};
use rsflow_model::nn::parameters::{Declaration, Init, Parameters, Role, WeightInit};
use rsflow_model::nn::replay::CudaGraph;
use rsflow_model::nn::switchable::SwitchableNetwork;
use rsflow_model::train::average::Average;
use rsflow_model::train::distillation::{Distill, loss};
use rsflow_model::train::dropping::Dropping;
use rsflow_model::train::mixing::{Mix, Mixed};
use rsflow_model::train::objective::{BinaryCrossEntropy, Criterion, Objective, OverSizes};
use rsflow_model::train::optimizer::{Optimizer, RunningOptimizer, Sgd};
use rsflow_model::train::schedule::{self, LearningRates, Schedule, TrainingLength};
use rsflow_model::train::step::{Inputs, Step};
use serde::Deserialize;
use small::{all_values, resnet, sgd, values};
use tch::{Device, Kind, Tensor};

const DOUBLE: (Kind, Device) = (Kind::Double, Device::Cpu);

fn fixture<T: for<'de> Deserialize<'de>>(name: &str) -> T {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/ingredients");
    let text = std::fs::read_to_string(format!("{folder}/{name}.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// 0, 1, 2 and so on, in float64.
fn ramp(count: i64) -> Tensor {
    Tensor::arange(count, DOUBLE)
}

fn assert_near(found: &[f64], expected: &[f64], tolerance: f64, case: &str) {
    assert_eq!(found.len(), expected.len(), "{case}");
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let off = (found - expected).abs();
        assert!(
            off < tolerance,
            "{case}, value {at}: {found}, not {expected}"
        );
    }
}

#[derive(Deserialize)]
struct Losses {
    cases: Vec<LossCase>,
}

#[derive(Debug, Deserialize)]
struct LossCase {
    criterion: String,
    #[serde(default)]
    threshold: Option<f64>,
    #[serde(default)]
    sum_classes: bool,
    smoothing: f64,
    soft: bool,
    over_sizes: OverSizes,
    distill: Distill,
    total: f64,
    cross_entropy: Vec<f64>,
    ensemble: f64,
    alpha: Vec<f64>,
    gradient: Vec<f64>,
}

#[test]
fn losses_are_those_of_pytorch_and_timm() {
    const SIZES: i64 = 3;
    let compute = ExecConfig::cpu(Kind::Double);
    let start = WeightInit::Zeros;
    let net = SwitchableNetwork::new(&resnet(18, 4), 5, &[64, 48, 32], compute, start).unwrap();
    let mut alpha = net.parameters().tensor("alpha").unwrap();
    tch::no_grad(|| alpha.copy_(&Tensor::from_slice(&[0.3, -0.2, 0.5])));
    let labels = Tensor::from_slice(&[2_i64, 0, 4, 1]);
    let partners = Tensor::from_slice(&[1_i64, 1, 3, 2]);
    let shares = [(&labels, 0.7), (&partners, 0.3)]
        .map(|(labels, share)| labels.one_hot(5).to_kind(Kind::Double) * share);
    let shares = &shares[0] + &shares[1];
    for case in fixture::<Losses>("losses").cases {
        let z = (ramp(SIZES * 20) * 1.7).sin() * 3.0;
        let z = z.view([SIZES, 4, 5]).unbind(0);
        let z: Vec<Tensor> = z.iter().map(|z| z.copy().set_requires_grad(true)).collect();
        let ensemble = net.ensemble(&z).unwrap();
        let objective = Objective {
            distill: case.distill,
            criterion: match case.criterion.as_str() {
                "CrossEntropy" => Criterion::CrossEntropy,
                _ => Criterion::BinaryCrossEntropy(BinaryCrossEntropy {
                    threshold: case.threshold,
                    sum_classes: case.sum_classes,
                }),
            },
            label_smoothing: case.smoothing,
            over_sizes: case.over_sizes,
        };
        assert!(objective.check().is_empty(), "{case:?}");
        let targets = if case.soft { &shares } else { &labels };
        let found = loss(&z, &ensemble, targets, objective).unwrap();
        let inputs: Vec<&Tensor> = z.iter().chain([&alpha]).collect();
        let mut gradients = Tensor::run_backward(&[&found.total], &inputs, false, false);
        let name = format!("{case:?}");
        let near = |found: &[f64], expected: &[f64]| assert_near(found, expected, 1e-12, &name);
        near(&values(&gradients.pop().unwrap()), &case.alpha);
        let wave = ramp(20).cos().view([4, 5]);
        let sums = gradients.iter().map(|g| g * &wave);
        let sums = sums.chain(gradients.iter().map(Tensor::abs));
        let sums: Vec<f64> = sums
            .map(|g| g.sum(Kind::Double).double_value(&[]))
            .collect();
        near(&sums, &case.gradient);
        near(&[found.total.double_value(&[])], &[case.total]);
        near(&values(&found.cross_entropy), &case.cross_entropy);
        near(
            &[found.ensemble_cross_entropy.double_value(&[])],
            &[case.ensemble],
        );
    }
}

#[derive(Deserialize)]
struct Optimizers {
    shapes: Vec<Vec<i64>>,
    cases: Vec<OptimizerCase>,
}

#[derive(Deserialize)]
struct OptimizerCase {
    optimizer: String,
    clip: Option<f64>,
    /// Whether the third parameter starts as zeros.
    zero: bool,
    parameters: Vec<Vec<f64>>,
}

/// An optimizer as a recipe names it.
fn rule(text: &str) -> Optimizer {
    use ron::extensions::Extensions;
    let extensions = Extensions::UNWRAP_VARIANT_NEWTYPES | Extensions::IMPLICIT_SOME;
    let ron = ron::Options::default().with_default_extension(extensions);
    ron.from_str(text).unwrap()
}

/// The state as a checkpoint holds it.
fn saved(optimizer: &RunningOptimizer) -> OptimizerState {
    let copied = |(name, tensor): (&str, &Tensor)| (name.to_owned(), tensor.copy());
    OptimizerState {
        momentum: optimizer.momentum().map(copied).collect(),
        variance: optimizer.variance().map(copied).collect(),
        updates: optimizer.updates().unwrap().unwrap_or(0),
    }
}

#[test]
fn optimizers_are_those_of_pytorch_and_timm() {
    let Optimizers { shapes, cases } = fixture("optimizers");
    let roles = [
        Role::ConvWeight,
        Role::BatchNormWeight,
        Role::LinearWeight,
        Role::LinearBias,
    ];
    let declarations: Vec<Declaration> = shapes
        .iter()
        .zip(roles)
        .enumerate()
        .map(|(k, (shape, role))| Declaration {
            name: format!("p{k}"),
            role,
            resolution: None,
            shape: shape.clone(),
            init: Init::Uniform(1.0),
        })
        .collect();
    for OptimizerCase {
        optimizer,
        clip,
        zero,
        parameters: expected,
    } in cases
    {
        let case = format!("{optimizer}, clip {clip:?}");
        let rule = rule(&optimizer);
        let compute = ExecConfig::cpu(Kind::Double);
        let start = WeightInit::Random { seed: 0 };
        let parameters = Parameters::new(&declarations, compute, start).unwrap();
        let wave = |k: usize| {
            let shape = &shapes[k];
            let start =
                ((ramp(shape.iter().product()) * 0.9 + k as f64).cos() * 0.5).view(&shape[..]);
            if zero && k == 2 { start * 0.0 } else { start }
        };
        let waves: Vec<Tensor> = (0..shapes.len()).map(wave).collect();
        let named = declarations.iter().zip(&waves);
        parameters
            .load(named.map(|(declaration, wave)| (declaration.name.as_str(), wave)))
            .unwrap();
        let start = || rule.start(&parameters).unwrap().with_clipping(clip);
        let mut optimizer = start();
        for (step, lr) in [0.02, 0.03, 0.025, 0.01, 0.005].into_iter().enumerate() {
            let gradients = shapes.iter().enumerate().map(|(k, shape)| {
                let count = shape.iter().product();
                let wave = (ramp(count) * 0.37 + (1.3 * step as f64 + k as f64)).sin();
                (wave * (0.2 + 0.3 * k as f64)).view(&shape[..])
            });
            optimizer.step(gradients.collect(), lr).unwrap();
            if step == 2 {
                // As after a resume.
                let state = saved(&optimizer);
                optimizer = start();
                optimizer.load(state).unwrap();
            }
        }
        for ((name, found), expected) in all_values(&parameters).iter().zip(&expected) {
            assert_near(found, expected, 1e-10, &format!("{case}, {name}"));
        }
    }
}

/// AdamW counts the updates of each parameter, as PyTorch does: one that has no gradient at first moves as in an
/// optimizer that starts later.
#[test]
fn a_parameter_without_a_gradient_misses_an_update() {
    let compute = ExecConfig::cpu(Kind::Double);
    let start = WeightInit::Random { seed: 8 };
    let new = || {
        let net = SwitchableNetwork::new(&resnet(18, 4), 3, &[32], compute, start).unwrap();
        let adam = rule("AdamW(lr: 0.1, weight_decay: 0.0)").start(net.parameters());
        (net, adam.unwrap())
    };
    let gradients = |net: &SwitchableNetwork, step: i64, defined: bool| -> Vec<Tensor> {
        let all = net.parameters().trainable();
        let gradients = all.map(|p| match p.name == "fc.bias" && !defined {
            true => Tensor::new(),
            false => (ramp(p.tensor.numel() as i64) + step)
                .sin()
                .view(&p.tensor.size()[..]),
        });
        gradients.collect()
    };
    let ((net, mut adam), (late_net, mut late)) = (new(), new());
    for step in 0..6 {
        adam.step(gradients(&net, step, step >= 3), 0.1).unwrap();
        if step >= 3 {
            late.step(gradients(&late_net, step, true), 0.1).unwrap();
        }
        if step == 4 {
            // As after a resume.
            let (state, missed) = (saved(&adam), adam.missed());
            assert_eq!(missed.get("fc.bias"), Some(&3));
            let updates = state.updates;
            adam = rule("AdamW(lr: 0.1, weight_decay: 0.0)")
                .start(net.parameters())
                .unwrap();
            adam.load(state).unwrap();
            adam.load_missed(&missed, updates);
        }
    }
    let bias = |net: &SwitchableNetwork| values(&net.parameters().tensor("fc.bias").unwrap());
    assert_near(&bias(&net), &bias(&late_net), 1e-12, "fc.bias");
}

#[derive(Deserialize)]
struct Averages {
    cases: Vec<AverageCase>,
}

#[derive(Deserialize)]
struct AverageCase {
    average: String,
    values: Vec<f64>,
}

/// Gives every tensor of a network what it has after a step, in the fixture.
fn fill(net: &SwitchableNetwork, step: u64) {
    let value = 2.0 + (1.3 * step as f64).cos();
    tch::no_grad(|| {
        for parameter in net.parameters().iter() {
            let _ = parameter.tensor.shallow_clone().fill_(value);
        }
    });
}

#[test]
fn averages_are_those_of_timm() {
    let compute = ExecConfig::cpu(Kind::Double);
    let network = resnet(18, 4);
    let net = SwitchableNetwork::new(&network, 3, &[48, 32], compute, WeightInit::Zeros).unwrap();
    let smooth = |rule: &str, every: u64| {
        let rule = rule.replace(')', &format!(", every_steps: {every})"));
        let rule: Average = ron::from_str(&rule).unwrap();
        assert!(rule.check().is_empty());
        fill(&net, 0);
        let mut average = rule.start(&net, CudaGraph::Off).unwrap();
        let steps = (1..=5 * every).map(|step| {
            // What lies between two updates does not count.
            fill(&net, if step % every == 0 { step / every } else { 99 });
            average.update(&net, step).unwrap();
            (step % every == 0).then(|| all_values(average.net.parameters()))
        });
        steps.flatten().collect::<Vec<_>>()
    };
    for AverageCase { average, values } in fixture::<Averages>("averages").cases {
        for every in [1, 3] {
            let found = smooth(&average, every);
            assert_eq!(found.len(), values.len());
            for (step, (found, expected)) in found.iter().zip(&values).enumerate() {
                for (name, found) in found {
                    let case = format!("{average}, step {step}, {name}");
                    assert_near(found, &vec![*expected; found.len()], 1e-10, &case);
                }
            }
        }
    }
}

/// The state of another kind of optimizer is not used.
#[test]
fn an_optimizer_starts_fresh_after_one_of_another_kind() {
    let compute = ExecConfig::cpu(Kind::Float);
    let start = WeightInit::Random { seed: 1 };
    let net = SwitchableNetwork::new(&resnet(18, 4), 3, &[32], compute, start).unwrap();
    let adam = rule("AdamW(lr: 0.1)");
    let gradients = || -> Vec<Tensor> {
        let all = net.parameters().trainable();
        all.map(|p| p.tensor.ones_like()).collect()
    };
    let plain = Optimizer::Sgd(Sgd {
        momentum: 0.0,
        ..sgd()
    });
    for (before, after) in [
        (Optimizer::Sgd(sgd()), adam.clone()),
        (adam, Optimizer::Sgd(sgd())),
        (Optimizer::Sgd(sgd()), plain),
    ] {
        let mut old = before.start(net.parameters()).unwrap();
        old.step(gradients(), 0.0).unwrap();
        let mut new = after.start(net.parameters()).unwrap();
        assert!(!new.load(saved(&old)).unwrap(), "{after:?}");
        assert_eq!(new.buffers().count(), 0, "{after:?}");
        assert!(new.load(OptimizerState::default()).unwrap(), "{after:?}");
    }
}

/// The gradient of a batch in parts is the sum of those of the parts as batches of their own, each by its share,
/// and quantizers are fitted to the whole batch: all parts have the same images, so the same statistics.
#[test]
fn parts_of_a_batch_add_up() {
    const SIDES: [u32; 2] = [48, 32];
    let quantized = Network::QuantizedResNet(QuantizedResNet {
        depth: 18,
        width: 8,
        mode: QuantizedMode::PreActivation,
        weight_bits: 2,
        activation_bits: 2,
        fixed_activation_basis: false,
    });
    let labels = Tensor::from_slice(&[0_i64, 1, 2, 2, 1, 0]);
    let shares = labels.one_hot(3).to_kind(Kind::Double) * 0.9 + 0.1 / 3.0;
    let two = SIDES.map(|side| {
        let side = i64::from(side);
        let waves = (ramp(2 * 3 * side * side) * 0.7).sin();
        waves.view([2, 3, side, side])
    });
    for (network, recompute, labels) in [
        (resnet(18, 4), false, &labels),
        (resnet(18, 4), true, &shares),
        (quantized.clone(), false, &labels),
        (quantized, true, &labels),
    ] {
        // A step of a learning rate of 1 from the same start: it moves weights by their gradients.
        let step_of = |from: i64, count: i64, micro_batch: Option<i64>| {
            let compute = ExecConfig::cpu(Kind::Double);
            let start = WeightInit::Random { seed: 4 };
            let net = SwitchableNetwork::new(&network, 3, &SIDES, compute, start).unwrap();
            let sgd = Sgd {
                momentum: 0.0,
                weight_decay: 0.0,
                ..sgd()
            };
            let mut optimizer = Optimizer::Sgd(sgd).start(net.parameters()).unwrap();
            let trained: Vec<bool> = net
                .parameters()
                .iter()
                .map(|p| p.tensor.requires_grad())
                .collect();
            let before = all_values(net.parameters());
            let images = two.each_ref().map(|two| two.repeat([count / 2, 1, 1, 1]));
            let labels = labels.narrow(0, from, count);
            let step = Step {
                micro_batch,
                recompute,
                ..Distill::EnsembleTopDown.into()
            };
            // Behind the last batch norm: statistics stay the same. (Quantized channels that are constant
            // amplify rounding.)
            let dropping = Dropping {
                drop_path: 0.0,
                dropout: if network.is_quantized() { 0.0 } else { 0.3 },
            };
            let drops = dropping.draw(&net, 6, 0, (0, 0)).unwrap();
            let inputs = Inputs {
                drops: drops.part(from, count).unwrap(),
                ..Inputs::new(&images, &labels)
            };
            let loss = step.run(&net, &mut optimizer, &inputs, 1.0.into(), None);
            let loss = loss.unwrap();
            let losses = [
                &loss.total,
                &loss.cross_entropy,
                &loss.ensemble_cross_entropy,
            ];
            (
                losses.map(values).concat(),
                before,
                all_values(net.parameters()),
                trained,
            )
        };
        let (whole_losses, start, whole, trained) = step_of(0, 6, None);
        // The last part may be smaller.
        for (micro_batch, parts) in [(2, &[(0, 2), (2, 2), (4, 2)][..]), (4, &[(0, 4), (4, 2)])] {
            let case = format!("{network}, recompute {recompute}, {micro_batch}");
            let (losses, _, found, _) = step_of(0, 6, Some(micro_batch));
            assert_near(&losses, &whole_losses, 1e-10, &case);
            let parts = parts.iter().map(|&(from, count)| {
                let (_, _, after, _) = step_of(from, count, None);
                (count as f64 / 6.0, after)
            });
            let parts: Vec<_> = parts.collect();
            for (at, (name, found)) in found.iter().enumerate() {
                let case = format!("{case}, {name}");
                if !trained[at] {
                    // Each part moves the running statistics, once each.
                    if !name.contains(".running_") {
                        assert_near(found, &whole[at].1, 1e-10, &case);
                    }
                    continue;
                }
                let mut expected = vec![0.0; found.len()];
                for (share, after) in &parts {
                    for (sum, after) in expected.iter_mut().zip(&after[at].1) {
                        *sum += share * after;
                    }
                }
                assert_near(found, &expected, 1e-8, &case);
            }
            assert_ne!(start, found, "{case}");
        }
    }
}

/// Ten epochs of ten steps, the last two of them at the last learning rate; a warm-up of twenty steps.
#[test]
fn schedules_start_and_end_where_they_are_told() {
    let length = TrainingLength {
        epochs: 10,
        warm_up_steps: 20,
        cool_down_epochs: 2,
        steps_per_epoch: 10,
    };
    let rates = LearningRates {
        lr: 0.1,
        min: 0.02,
        warm_up: 0.01,
    };
    for (schedule, rows) in [
        (
            Schedule::Cosine,
            &[
                (0, 0.01),
                (10, 0.055),
                (20, 0.1),
                (50, 0.06),
                (80, 0.02),
                (99, 0.02),
            ][..],
        ),
        (
            Schedule::Linear,
            &[
                (1, 0.0145),
                (20, 0.1),
                (35, 0.08),
                (79, 0.02 + 0.08 / 60.0),
                (80, 0.02),
                (500, 0.02),
            ],
        ),
        (
            Schedule::Step(schedule::Step {
                every: 4,
                gamma: 0.5,
            }),
            &[
                (0, 0.01),
                (39, 0.1),
                (40, 0.05),
                (79, 0.05),
                (80, 0.05),
                (99, 0.05),
            ],
        ),
    ] {
        for &(step, expected) in rows {
            let found = schedule.learning_rate(rates, step, length);
            let off = (found - expected).abs();
            assert!(
                off < 1e-15,
                "{schedule:?}, step {step}: {found}, not {expected}"
            );
        }
    }
}

/// Each image and the one at its place from the end, in the shares that were drawn; a cut lies at the same place of
/// all sizes, and the targets have the shares of the first one's pixels.
#[test]
fn images_are_mixed_with_their_labels() {
    let labels = Tensor::from_slice(&[0_i64, 1, 2]);
    // Each image has its number as its value.
    let images = || -> Vec<Tensor> {
        let of_size = |side: i64| {
            let values = Tensor::from_slice(&[1.0_f32, 2.0, 3.0]);
            values.view([3, 1, 1, 1]).repeat([1, 3, side, side])
        };
        [8, 4].map(of_size).into()
    };
    let apply = |mixed: Mixed| mixed.apply(images(), &labels, 3).unwrap();
    let (same, targets) = apply(Mixed::Not);
    assert!(same.iter().zip(images()).all(|(a, b)| *a == b));
    assert_eq!(
        values(&targets),
        [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    );

    let (mixed, targets) = apply(Mixed::Mixup { share: 0.75 });
    for images in &mixed {
        let means = images.mean_dim([1, 2, 3].as_slice(), false, Kind::Double);
        assert_near(&values(&means), &[1.5, 2.0, 2.5], 1e-6, "mixup");
    }
    let expected = [0.75, 0.0, 0.25, 0.0, 1.0, 0.0, 0.25, 0.0, 0.75];
    assert_near(&values(&targets), &expected, 1e-7, "mixup's targets");

    // Sides of half the image's, in its last quarter: cut off at the right end.
    let (mixed, targets) = apply(Mixed::CutMix {
        share: 0.75,
        centre: (0.99, 0.5),
    });
    for (images, [columns, rows]) in mixed.iter().zip([[5..8, 2..6], [2..4, 1..3]]) {
        let first = values(&images.get(0).get(0));
        let side = images.size()[2];
        let found = (0..side * side).filter(|&at| first[at as usize] == 3.0);
        let expected = rows.flat_map(|row| columns.clone().map(move |column| row * side + column));
        let expected: Vec<i64> = expected.collect();
        assert_eq!(found.collect::<Vec<_>>(), expected, "{side}");
        let last = values(&images.get(2).get(1));
        assert_eq!(last.iter().filter(|&&x| x == 1.0).count(), expected.len());
    }
    let own = 1.0 - 12.0 / 64.0;
    let expected = [own, 0.0, 1.0 - own, 0.0, 1.0, 0.0, 1.0 - own, 0.0, own];
    assert_near(&values(&targets), &expected, 1e-7, "CutMix's targets");
}

/// How often, with which shares and where; the same for the same step.
#[test]
fn what_is_mixed_is_drawn_as_the_recipe_says() {
    let mix = Mix {
        mixup: 0.4,
        cutmix: 2.0,
        probability: 0.8,
        cutmix_share: 0.25,
    };
    const DRAWS: u64 = 20_000;
    let all: Vec<Mixed> = (0..DRAWS).map(|step| mix.draw(7, step).unwrap()).collect();
    assert_eq!(mix.draw(7, 5).unwrap(), all[5]);
    assert_ne!(mix.draw(8, 5).unwrap(), all[5]);
    let mixups = all.iter().filter_map(|mixed| match mixed {
        Mixed::Mixup { share } => Some(*share),
        _ => None,
    });
    let cuts = all.iter().filter_map(|mixed| match mixed {
        Mixed::CutMix { share, centre } => Some((*share, *centre)),
        _ => None,
    });
    let moments = |values: &[f64]| {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let square = |value: &f64| (value - mean).powi(2);
        (
            mean,
            values.iter().map(square).sum::<f64>() / values.len() as f64,
        )
    };
    let mixups: Vec<f64> = mixups.collect();
    let (shares, centres): (Vec<f64>, Vec<(f64, f64)>) = cuts.unzip();
    let (xs, ys): (Vec<f64>, Vec<f64>) = centres.into_iter().unzip();
    for (case, found, count, variance) in [
        // The variance of Beta(a, a) is 1 / (4 (2 a + 1)), that of a uniform distribution 1 / 12.
        ("mixup", &mixups, 0.6, 1.0 / (4.0 * 1.8)),
        ("CutMix", &shares, 0.2, 1.0 / (4.0 * 5.0)),
        ("x", &xs, 0.2, 1.0 / 12.0),
        ("y", &ys, 0.2, 1.0 / 12.0),
    ] {
        let (mean, spread) = moments(found);
        let part = found.len() as f64 / DRAWS as f64;
        assert!((part - count).abs() < 0.015, "{case}: {part}");
        assert!((mean - 0.5).abs() < 0.02, "{case}: {mean}");
        assert!((spread / variance - 1.0).abs() < 0.06, "{case}: {spread}");
    }
}

/// A step of some resolutions is that of a network that has no others, with its weights and its alphas.
#[test]
fn a_step_of_some_resolutions_is_that_of_a_smaller_network() {
    const SIDES: [u32; 4] = [64, 56, 48, 40];
    let compute = ExecConfig::cpu(Kind::Double);
    let start = WeightInit::Random { seed: 6 };
    let labels = Tensor::from_slice(&[0_i64, 1, 2, 2]);
    let step = |sides: &[u32], positions: &[usize], recompute: bool| {
        let net = SwitchableNetwork::new(&resnet(18, 4), 3, sides, compute, start).unwrap();
        let mut optimizer = Optimizer::Sgd(sgd()).start(net.parameters()).unwrap();
        let images = sides.iter().map(|&side| {
            let side = i64::from(side);
            (ramp(4 * 3 * side * side) * 0.7)
                .sin()
                .view([4, 3, side, side])
        });
        let images: Vec<Tensor> = images.collect();
        let inputs = Inputs::new(&images, &labels).at(positions.to_vec());
        let how = Step {
            recompute,
            ..Distill::EnsembleTopDown.into()
        };
        let loss = how.run(&net, &mut optimizer, &inputs, 0.1.into(), None);
        let loss = loss.unwrap();
        (
            values(&loss.cross_entropy),
            loss.total.double_value(&[]),
            net,
        )
    };
    for recompute in [false, true] {
        let (found, total, net) = step(&SIDES, &[0, 2, 3], recompute);
        let (expected, expected_total, smaller) = step(&[64, 48, 40], &[0, 1, 2], recompute);
        assert_near(&found, &expected, 1e-12, "losses");
        assert_near(&[total], &[expected_total], 1e-12, "total");
        let untouched = SwitchableNetwork::new(&resnet(18, 4), 3, &SIDES, compute, start).unwrap();
        for (name, found) in all_values(net.parameters()) {
            let expected = match smaller.parameters().get(&name) {
                Some(parameter) if name != "alpha" => values(&parameter.tensor),
                Some(parameter) => {
                    let of = values(&parameter.tensor);
                    // Weight decay alone.
                    vec![of[0], 1.0 - 0.1 * 1e-4, of[1], of[2]]
                }
                None => values(&untouched.parameters().tensor(&name).unwrap()),
            };
            assert_near(&found, &expected, 1e-10, &name);
        }
    }
}
