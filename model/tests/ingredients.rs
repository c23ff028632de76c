//! Losses, optimizers, clipping and averages, in float64 against PyTorch and timm
//! (tests/fixtures/ingredients; `source` says of what the values were computed).

mod small;

use rsflow_model::checkpoint::OptimizerState;
use rsflow_model::nn::compute::ExecConfig;
use rsflow_model::nn::parameters::{Declaration, Init, Parameters, Role, WeightInit};
use rsflow_model::nn::replay::CudaGraph;
use rsflow_model::nn::switchable::SwitchableNetwork;
use rsflow_model::train::average::Average;
use rsflow_model::train::distillation::{Distill, loss};
use rsflow_model::train::objective::{BinaryCrossEntropy, Criterion, Objective, OverSizes};
use rsflow_model::train::optimizer::{Optimizer, RunningOptimizer, Sgd};
use rsflow_model::train::schedule::{self, LearningRates, Schedule, TrainingLength};
use serde::Deserialize;
use small::{all_values, assert_near, ramp, resnet, rule, sgd, values};
use tch::{Kind, Tensor};

fn fixture<T: for<'de> Deserialize<'de>>(name: &str) -> T {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/ingredients");
    let text = std::fs::read_to_string(format!("{folder}/{name}.json")).unwrap();
    serde_json::from_str(&text).unwrap()
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
