//! Numbers of the reference implementation, recomputed: the fixtures hold what PyTorch made of
//! weights, images and labels that are functions of their names.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rsflow_model::exchange::pth::names::reference_name;
use rsflow_model::nn::compute::ExecConfig;
use rsflow_model::nn::layers::Mode;
use rsflow_model::nn::networks::{MobileNetV2, Network};
use rsflow_model::nn::parameters::{Parameter, WeightInit};
use rsflow_model::nn::switchable::SwitchableNetwork;
use rsflow_model::train::distillation::{Distill, Loss, loss};
use rsflow_model::train::optimizer::{Optimizer, Sgd, WeightDecayOn};
use safetensors::SafeTensors;
use serde::Deserialize;
use tch::{Kind, Tensor};

mod filled;
use filled::{bits, fill, unit, values};
#[path = "../../tests/fixtures/mod.rs"]
mod fixtures;
use fixtures::{fixtures, reference, reference_in};

#[derive(Deserialize)]
struct Case {
    constructor: String,
    width_mult: Option<f64>,
    classes: u32,
    sizes: Vec<u32>,
    batch: i64,
    kd_type: String,
    lr: f64,
    weight_decay: f64,
    momentum: f64,
    steps: Vec<Step>,
    grad_norms_step0: BTreeMap<String, f64>,
    parameter_sums_before: BTreeMap<String, f64>,
    parameter_sums_after: BTreeMap<String, f64>,
    alpha_after: Vec<f64>,
    labels: Vec<i64>,
    image_sums: BTreeMap<u32, f64>,
}

#[derive(Deserialize)]
struct Step {
    loss: f64,
    cross_entropy: Vec<f64>,
    ensemble_cross_entropy: f64,
    distillation: f64,
}

/// The sums of a case in which every place has a weight of its own (see tests/fixtures/weighted):
/// `[after, momentum, gradient]` of a parameter, `[after]` of a buffer.
struct Places(BTreeMap<String, Vec<f64>>);

impl Places {
    fn read(case: &Path) -> Result<Self> {
        let name = case.file_name().context("a case has a name")?;
        let file = format!("weighted/{}.json", name.display());
        let file = fixtures().join(file);
        let bytes = fs::read(&file)
            .with_context(|| format!("{} is missing, see the README.md there", file.display()))?;
        Ok(Self(serde_json::from_slice(&bytes)?))
    }

    fn of(&self, name: &str, at: usize) -> Result<f64> {
        let sums = self.0.get(name).and_then(|sums| sums.get(at));
        sums.copied().with_context(|| name.to_owned())
    }

    fn after(&self, name: &str) -> Result<f64> {
        self.of(name, 0)
    }

    fn momentum(&self, name: &str) -> Result<f64> {
        self.of(name, 1)
    }

    fn gradient(&self, name: &str) -> Result<f64> {
        self.of(name, 2)
    }
}

/// What may differ, relative.
struct Tolerance {
    /// In what is computed before the first update, and in the losses of all steps.
    before: f64,
    /// In the first gradients. In single precision this is much: a rounding that lifts one value
    /// over a ReLU's kink switches its gradient on, and with six images each value counts. (In
    /// double precision, images that differ by 6e-8 move ResNet-50's gradient norms by 2e-3.)
    gradients: f64,
    /// What a gradient's norm is compared with if it is smaller, as a share of the largest: the
    /// gradient of a bias whose norm takes it out again is nothing but rounding.
    gradient_floor: f64,
    /// After the last update: updates amplify rounding.
    /// None: only the first step is run.
    after: Option<f64>,
}

#[test]
fn agrees_with_the_reference() {
    let folder = reference();
    let entries = fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("no reference cases in {}: {e}", folder.display()));
    let mut cases: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("expected.json").is_file())
        .collect();
    cases.sort();
    assert!(
        !cases.is_empty(),
        "no reference cases in {}",
        folder.display()
    );
    let mut failures = Vec::new();
    for case in &cases {
        let runs = [
            (
                Kind::Double,
                Tolerance {
                    before: 1e-8,
                    gradients: 1e-8,
                    gradient_floor: 1e-6,
                    after: Some(1e-6),
                },
            ),
            (
                Kind::Float,
                Tolerance {
                    before: 1e-4,
                    gradients: 2e-2,
                    gradient_floor: 5e-2,
                    after: None,
                },
            ),
        ];
        for (kind, tolerance) in runs {
            let name = format!(
                "{} in {kind:?}",
                case.file_name().unwrap().to_string_lossy()
            );
            match run(case, kind, &tolerance) {
                Err(error) => failures.push(format!("{name}: {error:#}")),
                Ok(worst) => {
                    // Not `println!`, which is heard only when the test fails.
                    let mut out = std::io::stderr();
                    writeln!(out, "{name}: worst relative errors").unwrap();
                    for (quantity, error, allowed) in worst.0 {
                        let line = format!("{quantity:<24} {error:.1e} (allowed {allowed:.0e})");
                        writeln!(out, "    {line}").unwrap();
                        if error.is_nan() || error > allowed {
                            failures.push(format!("{name}: {quantity} is off by {error:.1e}"));
                        }
                    }
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
#[should_panic(expected = "RSFLOW_REFERENCE: there is no folder /nowhere/reference")]
fn a_reference_that_is_not_there_is_not_passed_over() {
    reference_in(Some("/nowhere/reference".into()));
}

/// The network of a case.
fn network(case: &Case) -> Result<Network> {
    let network = Network::by_name(&case.constructor)
        .with_context(|| format!("unknown constructor {:?}", case.constructor))?;
    Ok(match (network, case.width_mult) {
        (Network::MobileNetV2(_), Some(width)) => Network::MobileNetV2(MobileNetV2 { width }),
        (network, None | Some(1.0)) => network,
        (network, Some(width)) => bail!("{network:?} has no width multiplier {width}"),
    })
}

/// Quantity, the worst relative error seen, what is allowed.
#[derive(Default)]
struct Worst(Vec<(&'static str, f64, f64)>);

impl Worst {
    /// The largest difference, relative to the largest value.
    fn compare(&mut self, quantity: &'static str, allowed: f64, found: &[f64], expected: &[f64]) {
        self.compare_each(quantity, allowed, found, expected, 1.0);
    }

    /// Every value by itself; one that is below the share `floor` of the largest, relative to that.
    fn compare_each(
        &mut self,
        quantity: &'static str,
        allowed: f64,
        found: &[f64],
        expected: &[f64],
        floor: f64,
    ) {
        assert_eq!(found.len(), expected.len(), "{quantity}");
        let largest = expected.iter().fold(0.0, |max: f64, x| max.max(x.abs()));
        let errors = found.iter().zip(expected).map(|(a, b)| {
            let scale = b.abs().max(floor * largest);
            (a - b).abs() / if scale > 0.0 { scale } else { 1.0 }
        });
        for error in errors {
            self.keep(quantity, allowed, error);
        }
    }

    fn keep(&mut self, quantity: &'static str, allowed: f64, error: f64) {
        match self.0.iter_mut().find(|(q, ..)| *q == quantity) {
            // Not `max`, which passes over NaN.
            Some((_, worst, _)) if !worst.is_nan() && (error.is_nan() || error > *worst) => {
                *worst = error;
            }
            Some(_) => {}
            None => self.0.push((quantity, error, allowed)),
        }
    }

    /// Whether every value is in its place, which sums and norms do not show: the sum with another
    /// weight for each place, relative to the tensor's norm or to `least`, whichever is more.
    fn compare_places(
        &mut self,
        quantity: &'static str,
        allowed: f64,
        (name, found): (&str, &Tensor),
        expected: f64,
        least: f64,
    ) -> Result<()> {
        let values = values(found)?;
        let weights = format!("positions of {name}");
        let weights = unit(&weights, values.len()).map(|u| 2.0 * u - 1.0);
        let sum: f64 = values.iter().zip(weights).map(|(x, w)| x * w).sum();
        let norm = values.iter().map(|x| x * x).sum::<f64>().sqrt();
        let scale = norm.max(expected.abs()).max(least);
        let error = (sum - expected).abs() / if scale > 0.0 { scale } else { 1.0 };
        self.keep(quantity, allowed, error);
        Ok(())
    }
}

fn run(folder: &Path, kind: Kind, tolerance: &Tolerance) -> Result<Worst> {
    let case: Case = serde_json::from_slice(&fs::read(folder.join("expected.json"))?)?;
    let network = network(&case)?;
    let places = Places::read(folder)?;
    let bytes = fs::read(folder.join("expected.safetensors"))?;
    let tensors = SafeTensors::deserialize(&bytes)?;
    let expected_logits = |name: &str, size: u32| -> Result<Vec<f64>> {
        let (values, _) = tensors
            .tensor(&format!("{name}_{size}"))?
            .data()
            .as_chunks::<8>();
        Ok(values
            .iter()
            .map(|value| f64::from_le_bytes(*value))
            .collect())
    };
    let distill = match case.kd_type.as_str() {
        "" | "none" => Distill::None,
        "ens" => Distill::Ensemble,
        "ens_topdown" => Distill::EnsembleTopDown,
        other => bail!("unknown kd_type {other:?}"),
    };
    let mut worst = Worst::default();
    let before = tolerance.before;

    // Fill, and see that the fill is right before anything is computed with it.
    let net = SwitchableNetwork::new(
        &network,
        case.classes,
        &case.sizes,
        ExecConfig::cpu(kind),
        WeightInit::Zeros,
    )?;
    let names: Vec<String> = net
        .parameters()
        .iter()
        .map(|p| their_name(&network, p, &case.sizes))
        .collect();
    let filled: Vec<Tensor> = net
        .parameters()
        .iter()
        .zip(&names)
        .map(|(p, name)| fill(p, name))
        .collect::<Result<_>>()?;
    net.parameters().load(
        net.parameters()
            .iter()
            .map(|p| p.name.as_str())
            .zip(&filled),
    )?;
    ensure!(
        names.len() == case.parameter_sums_before.len(),
        "not the reference's parameters"
    );
    compare_sums(
        &mut worst,
        "parameter sums before",
        before,
        &net,
        &case.parameter_sums_before,
    )?;

    let mut images = Vec::new();
    for &size in &case.sizes {
        let side = i64::from(size);
        let count = case.batch * 3 * side * side;
        let pixels: Vec<f32> = unit(&format!("images_{size}"), count as usize)
            .map(|u| u as f32)
            .collect();
        let tensor = Tensor::f_from_slice(&pixels)?
            .f_reshape([case.batch, 3, side, side])?
            .f_to_kind(kind)?;
        worst.compare(
            "image sums",
            before,
            &[sum(&tensor)?],
            &[case.image_sums[&size]],
        );
        images.push(tensor);
    }
    let labels: Vec<i64> = bits("labels", case.batch as usize)
        .map(|word| (word % u64::from(case.classes)) as i64)
        .collect();
    ensure!(
        labels == case.labels,
        "labels {labels:?} instead of {:?}",
        case.labels
    );
    let labels = Tensor::f_from_slice(&labels)?;

    let compare_eval = |worst: &mut Worst, quantity, name, allowed| -> Result<()> {
        for (index, &size) in case.sizes.iter().enumerate() {
            let logits = values(&net.logits(&images[index], index, Mode::Evaluate)?)?;
            worst.compare(quantity, allowed, &logits, &expected_logits(name, size)?);
        }
        Ok(())
    };
    compare_eval(&mut worst, "eval logits", "eval_logits", before)?;

    let optimizer = Optimizer::Sgd(Sgd {
        lr: case.lr,
        momentum: case.momentum,
        weight_decay: case.weight_decay,
        weight_decay_on: WeightDecayOn::Everything,
        nesterov: false,
    });
    let mut optimizer = optimizer.start(net.parameters())?;
    for (index, step) in case.steps.iter().enumerate() {
        let logits = (0..images.len())
            .map(|resolution| net.logits(&images[resolution], resolution, Mode::Train))
            .collect::<Result<Vec<_>>>()?;
        let loss = loss(&logits, &net.ensemble(&logits)?, &labels, distill)?;
        compare_loss(&mut worst, before, index, &loss, step)?;
        let gradients = net.parameters().gradients(&loss.total)?;
        if index == 0 {
            for (&size, logits) in case.sizes.iter().zip(&logits) {
                let expected = expected_logits("train_logits", size)?;
                worst.compare("train logits", before, &values(logits)?, &expected);
            }
            let (allowed, floor) = (tolerance.gradients, tolerance.gradient_floor);
            let norms = case.grad_norms_step0.values().copied();
            let least = floor * norms.fold(0.0, f64::max);
            let (mut found, mut expected) = (Vec::new(), Vec::new());
            for (parameter, gradient) in net.parameters().trainable().zip(&gradients) {
                let name = their_name(&network, parameter, &case.sizes);
                // In single precision one value over a kink moves a whole place.
                if kind == Kind::Double {
                    let (at, expected) = ((name.as_str(), gradient), places.gradient(&name)?);
                    worst.compare_places("gradients", allowed, at, expected, least)?;
                }
                found.push(gradient.f_norm()?.f_double_value(&[])?);
                expected.push(*case.grad_norms_step0.get(&name).context(name)?);
            }
            worst.compare_each("gradient norms", allowed, &found, &expected, floor);
            if tolerance.after.is_none() {
                return Ok(worst);
            }
        }
        optimizer.step(gradients, case.lr)?;
    }
    let after = tolerance.after.unwrap_or(before);
    compare_sums(
        &mut worst,
        "parameter sums after",
        after,
        &net,
        &case.parameter_sums_after,
    )?;
    let momentum: BTreeMap<&str, &Tensor> = optimizer.momentum().collect();
    for parameter in net.parameters().iter() {
        let name = their_name(&network, parameter, &case.sizes);
        let at = (name.as_str(), &parameter.tensor);
        worst.compare_places("parameters after", after, at, places.after(&name)?, 0.0)?;
    }
    for parameter in net.parameters().trainable() {
        let name = their_name(&network, parameter, &case.sizes);
        let at = (name.as_str(), momentum[parameter.name.as_str()]);
        worst.compare_places("momentum after", after, at, places.momentum(&name)?, 0.0)?;
    }
    let alpha = net.parameters().tensor("alpha")?;
    worst.compare("alpha after", after, &values(&alpha)?, &case.alpha_after);
    compare_eval(&mut worst, "eval logits after", "eval_logits_after", after)?;
    Ok(worst)
}

fn compare_loss(
    worst: &mut Worst,
    allowed: f64,
    index: usize,
    found: &Loss,
    expected: &Step,
) -> Result<()> {
    // The first step is told apart from later ones: only those depend on the updates.
    let names = if index == 0 {
        [
            "loss",
            "cross-entropies",
            "ensemble cross-entropy",
            "distillation",
        ]
    } else {
        [
            "loss, later",
            "cross-entropies, later",
            "ensemble c.-e., later",
            "distillation, later",
        ]
    };
    let read = |tensor: &Tensor| tensor.f_double_value(&[]);
    let cross_entropy = Vec::<f64>::try_from(&found.cross_entropy)?;
    let distillation = found.distillation.as_ref().map_or(Ok(0.0), read)?;
    worst.compare(names[0], allowed, &[read(&found.total)?], &[expected.loss]);
    worst.compare(names[1], allowed, &cross_entropy, &expected.cross_entropy);
    let ensemble = read(&found.ensemble_cross_entropy)?;
    worst.compare(
        names[2],
        allowed,
        &[ensemble],
        &[expected.ensemble_cross_entropy],
    );
    worst.compare_each(
        names[3],
        allowed,
        &[distillation, read(&found.total)?],
        &[expected.distillation, expected.loss],
        // For a single resolution it is nothing, and what is found is rounding of the loss.
        1e-6,
    );
    Ok(())
}

fn compare_sums(
    worst: &mut Worst,
    quantity: &'static str,
    allowed: f64,
    net: &SwitchableNetwork,
    expected: &BTreeMap<String, f64>,
) -> Result<()> {
    for parameter in net.parameters().iter() {
        let name = their_name(net.network(), parameter, net.resolutions());
        let expected = *expected.get(&name).context(name)?;
        worst.compare(quantity, allowed, &[sum(&parameter.tensor)?], &[expected]);
    }
    Ok(())
}

fn their_name(network: &Network, parameter: &Parameter, sizes: &[u32]) -> String {
    reference_name(network, &parameter.name, parameter.resolution, sizes).unwrap()
}

fn sum(tensor: &Tensor) -> Result<f64> {
    Ok(tensor.f_sum(Kind::Double)?.f_double_value(&[])?)
}
