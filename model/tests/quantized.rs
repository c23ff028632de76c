//! Quantized networks against a PyTorch program's (see tests/fixtures/quantized), and their quantizers
//! through whole steps.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use rsflow_model::nn::compute::ExecConfig;
use rsflow_model::nn::layers::Mode;
use rsflow_model::nn::networks::{Network, QuantizedMode, QuantizedResNet};
use rsflow_model::nn::parameters::{Role, WeightInit};
use rsflow_model::nn::quantizers::{Basis, Gradient, activations, weights};
use rsflow_model::nn::switchable::SwitchableNetwork;
use rsflow_model::train::distillation::{Distill, loss};
use rsflow_model::train::optimizer::{Optimizer, Sgd, WeightDecayOn};
use safetensors::SafeTensors;
use serde::Deserialize;
use tch::{Device, Kind, Tensor};

mod filled;
use filled::{bits, fill, unit, values};
#[path = "../../tests/fixtures/mod.rs"]
mod fixtures;

#[derive(Deserialize)]
struct Case {
    network: QuantizedResNet,
    classes: u32,
    sizes: Vec<u32>,
    batch: i64,
    lr: f64,
    momentum: f64,
    nesterov: bool,
    weight_decay: f64,
    steps: Vec<Step>,
    grad_norms_step0: BTreeMap<String, f64>,
    parameter_sums_before: BTreeMap<String, f64>,
    parameter_sums_after: BTreeMap<String, [f64; 2]>,
    basis_updates_after: BTreeMap<String, f64>,
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

/// That all are as expected, relative to each or to `least`, whichever is more.
fn close(what: &str, found: &[f64], expected: &[f64], tolerance: f64, least: f64) -> Result<()> {
    ensure!(
        found.len() == expected.len(),
        "{what}: {} values",
        found.len()
    );
    for (index, (a, b)) in found.iter().zip(expected).enumerate() {
        let off = (a - b).abs() / b.abs().max(least);
        ensure!(
            off <= tolerance,
            "{what} [{index}]: {a}, not {b}: off by {off:.1e}"
        );
    }
    Ok(())
}

#[test]
fn networks_are_those_of_the_reference() {
    let mut cases: Vec<PathBuf> = fs::read_dir(fixtures::fixtures().join("quantized"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("expected.json").is_file())
        .collect();
    cases.sort();
    assert!(!cases.is_empty());
    for case in cases {
        run(&case)
            .with_context(|| case.display().to_string())
            .unwrap();
    }
}

fn run(folder: &Path) -> Result<()> {
    const TIGHT: f64 = 1e-9;
    let case: Case = serde_json::from_slice(&fs::read(folder.join("expected.json"))?)?;
    let bytes = fs::read(folder.join("expected.safetensors"))?;
    let tensors = SafeTensors::deserialize(&bytes)?;
    let expected = |name: &str| -> Result<Vec<f64>> {
        let (values, _) = tensors.tensor(name)?.data().as_chunks::<8>();
        Ok(values
            .iter()
            .map(|value| f64::from_le_bytes(*value))
            .collect())
    };
    let network = Network::QuantizedResNet(case.network.clone());
    let start = WeightInit::Random { seed: 0 };
    let kind = Kind::Double;
    let net = SwitchableNetwork::new(
        &network,
        case.classes,
        &case.sizes,
        ExecConfig::cpu(kind),
        start,
    )?;
    let filled = net.parameters().iter().map(|p| fill(p, &p.name));
    let filled = filled.collect::<Result<Vec<_>>>()?;
    let names = net.parameters().iter().map(|p| p.name.as_str());
    net.parameters().load(names.zip(&filled))?;
    let sum = |of: &Tensor| Ok::<_, anyhow::Error>(of.f_sum(kind)?.f_double_value(&[])?);
    let compared = |role| !matches!(role, Role::BasisAverage | Role::BasisUpdates);
    let all = || net.parameters().iter().filter(|p| compared(p.role));
    ensure!(
        all().count() == case.parameter_sums_before.len(),
        "other tensors"
    );
    for p in all() {
        let before = *case
            .parameter_sums_before
            .get(&p.name)
            .context(p.name.clone())?;
        close(&p.name, &[sum(&p.tensor)?], &[before], TIGHT, 1.0)?;
    }

    let mut images = Vec::new();
    for &size in &case.sizes {
        let side = i64::from(size);
        let count = (case.batch * 3 * side * side) as usize;
        let pixels: Vec<f64> = unit(&format!("images_{size}"), count)
            .map(|u| f64::from(u as f32))
            .collect();
        let pixels = Tensor::from_slice(&pixels);
        close(
            "image sums",
            &[sum(&pixels)?],
            &[case.image_sums[&size]],
            TIGHT,
            1.0,
        )?;
        images.push(pixels.view([case.batch, 3, side, side]));
    }
    let classes = u64::from(case.classes);
    let labels = bits("labels", case.batch as usize).map(|word| (word % classes) as i64);
    let labels: Vec<i64> = labels.collect();
    ensure!(labels == case.labels, "other labels");
    let labels = Tensor::from_slice(&labels);

    let evaluate = |name: &str| -> Result<()> {
        for (index, size) in case.sizes.iter().enumerate() {
            let logits = values(&net.logits(&images[index], index, Mode::Evaluate)?)?;
            let name = format!("{name}_{size}");
            close(&name, &logits, &expected(&name)?, TIGHT, 0.1)?;
        }
        Ok(())
    };
    evaluate("eval_logits")?;
    let mut optimizer = Optimizer::Sgd(Sgd {
        lr: case.lr,
        momentum: case.momentum,
        weight_decay: case.weight_decay,
        weight_decay_on: WeightDecayOn::Weights,
        nesterov: case.nesterov,
    })
    .start(net.parameters())?;
    for (index, step) in case.steps.iter().enumerate() {
        // As `training_step` does it; here what comes between is looked at.
        let mut pass = net.pass(Mode::Train)?;
        let logits = (0..images.len()).map(|at| pass.logits(&images[at], at));
        let logits = logits.collect::<Result<Vec<_>>>()?;
        let distill = Distill::EnsembleTopDown;
        let loss = loss(&logits, &net.ensemble(&logits)?, &labels, distill)?;
        let read = |tensor: &Tensor| tensor.double_value(&[]);
        let mut found = vec![
            read(&loss.total),
            read(&loss.ensemble_cross_entropy),
            loss.distillation.as_ref().map_or(0.0, read),
        ];
        found.extend(Vec::<f64>::try_from(&loss.cross_entropy)?);
        let mut wanted = vec![step.loss, step.ensemble_cross_entropy, step.distillation];
        wanted.extend(&step.cross_entropy);
        close(
            &format!("losses of step {index}"),
            &found,
            &wanted,
            TIGHT,
            0.01,
        )?;
        let gradients = net.parameters().gradients(&loss.total)?;
        if index == 0 {
            for (size, logits) in case.sizes.iter().zip(&logits) {
                let name = format!("train_logits_{size}");
                close(&name, &values(logits)?, &expected(&name)?, TIGHT, 0.1)?;
            }
            for (p, gradient) in net.parameters().trainable().zip(&gradients) {
                let norm = *case.grad_norms_step0.get(&p.name).context(p.name.clone())?;
                // Some are 0, but for rounding: a further batch norm takes the bias out again.
                let found = gradient.norm().double_value(&[]);
                close(&p.name, &[found], &[norm], TIGHT, 1e-3)?;
            }
        }
        optimizer.step(gradients, case.lr)?;
        pass.update_bases()?;
    }
    for p in all() {
        let [total, squares] = *case
            .parameter_sums_after
            .get(&p.name)
            .context(p.name.clone())?;
        let name = format!("{} after", p.name);
        close(&name, &[sum(&p.tensor)?], &[total], TIGHT, squares.sqrt())?;
        close(&name, &[sum(&p.tensor.square())?], &[squares], TIGHT, 0.0)?;
    }
    let updates = net
        .parameters()
        .iter()
        .filter(|p| p.role == Role::BasisUpdates);
    let mut compared = 0;
    for p in updates {
        let name = p.name.strip_suffix("_updates").context("no updates")?;
        let expected = *case.basis_updates_after.get(name).context(p.name.clone())?;
        close(&p.name, &values(&p.tensor)?, &[expected], 0.0, 1.0)?;
        compared += 1;
    }
    ensure!(
        compared == case.basis_updates_after.len(),
        "other quantizers"
    );
    for name in tensors.names() {
        if let Some(basis) = name.strip_prefix("after/") {
            let found = values(&net.parameters().tensor(basis)?)?;
            close(name, &found, &expected(name)?, TIGHT, 1e-3)?;
        }
    }
    evaluate("eval_logits_after")
}

/// The largest, wherever it stands in the list.
#[test]
fn the_largest_resolution_alone_moves_a_fixed_basis() {
    let network = Network::QuantizedResNet(QuantizedResNet {
        depth: 18,
        width: 4,
        mode: QuantizedMode::PreActivation,
        weight_bits: 2,
        activation_bits: 2,
        fixed_activation_basis: true,
    });
    let bases = |sizes: &[u32]| {
        let kind = Kind::Double;
        let start = WeightInit::Random { seed: 1 };
        let net = SwitchableNetwork::new(&network, 3, sizes, ExecConfig::cpu(kind), start).unwrap();
        let mut pass = net.pass(Mode::Train).unwrap();
        for (index, &size) in sizes.iter().enumerate() {
            let side = i64::from(size);
            let images = Tensor::arange(2 * 3 * side * side, (kind, Device::Cpu)).sin();
            let images = images.view([2, 3, side, side]);
            let _ = pass.logits(&images, index).unwrap();
        }
        pass.update_bases().unwrap();
        let all = net.parameters().iter();
        let of = all.filter(|p| p.role.is_quantizer_state() && p.name.contains("quant"));
        of.map(|p| values(&p.tensor).unwrap()).collect::<Vec<_>>()
    };
    let alone = bases(&[64]);
    assert!(!alone.is_empty());
    for sizes in [&[64, 48][..], &[48, 64], &[48, 64, 32]] {
        assert_eq!(bases(sizes), alone, "{sizes:?}");
    }
}

#[derive(Deserialize)]
struct Updates {
    activations: Vec<ActivationCase>,
    weights: Vec<WeightCase>,
}

#[derive(Deserialize)]
struct ActivationCase {
    name: String,
    initial_basis: Vec<f64>,
    fixed_activation_basis: bool,
    steps: Vec<ActivationStep>,
}

#[derive(Deserialize)]
struct ActivationStep {
    resolutions: Vec<Resolution>,
    biased_after: Vec<f64>,
    t_after: f64,
    basis_after: Vec<f64>,
}

#[derive(Deserialize)]
struct Resolution {
    input: Vec<f64>,
    quantized: Vec<f64>,
    passes: Vec<bool>,
    fitted: Vec<f64>,
}

#[derive(Deserialize)]
struct WeightCase {
    name: String,
    updates_per_step: usize,
    initial_basis: Vec<Vec<f64>>,
    steps: Vec<WeightStep>,
}

#[derive(Deserialize)]
struct WeightStep {
    weight: Vec<Vec<f64>>,
    quantized: Vec<Vec<f64>>,
    fitted: Vec<Vec<f64>>,
    biased_after: Vec<Vec<f64>>,
    t_after: f64,
    basis_after: Vec<Vec<f64>>,
}

/// A basis that has not moved yet.
fn basis(rows: &[Vec<f64>]) -> Basis {
    let value = matrix(rows);
    Basis {
        average: value.zeros_like(),
        updates: Tensor::zeros([1], (Kind::Double, Device::Cpu)),
        value,
    }
}

fn matrix(rows: &[Vec<f64>]) -> Tensor {
    Tensor::from_slice(&rows.concat()).view([rows.len() as i64, -1])
}

#[test]
fn bases_move_through_steps_as_those_of_the_reference() {
    let text = fs::read(fixtures::fixtures().join("quantized").join("updates.json")).unwrap();
    let cases: Updates = serde_json::from_slice(&text).unwrap();
    let near = |what: &str, found: &Tensor, expected: &[f64]| {
        close(what, &values(found).unwrap(), expected, 1e-10, 1.0).unwrap();
    };
    for case in &cases.activations {
        let name = &case.name;
        let basis = basis(std::slice::from_ref(&case.initial_basis));
        for step in &case.steps {
            let old = basis.value.copy();
            let levels = activations::levels(&old).unwrap();
            for (index, at) in step.resolutions.iter().enumerate() {
                let input = Tensor::from_slice(&at.input).set_requires_grad(true);
                let (quantized, fit) = levels
                    .quantize_with_statistics(&input, Gradient::ClippedIdentity, false)
                    .unwrap();
                near(name, &quantized, &at.quantized);
                quantized.sum(Kind::Double).backward();
                let passes: Vec<f64> = at.passes.iter().map(|&p| f64::from(u8::from(p))).collect();
                near(name, &input.grad(), &passes);
                let fitted = activations::fit_basis(&fit, &old).unwrap();
                near(name, &fitted, &at.fitted);
                // The sizes fall: the first is the largest.
                if index == 0 || !case.fixed_activation_basis {
                    basis.update(&fitted).unwrap();
                }
            }
            near(name, &basis.value, &step.basis_after);
            near(name, &basis.average, &step.biased_after);
            near(name, &basis.updates, &[step.t_after]);
        }
    }
    for case in &cases.weights {
        let name = &case.name;
        let basis = basis(&case.initial_basis);
        for step in &case.steps {
            let weight = matrix(&step.weight);
            let levels = weights::levels(&basis.value).unwrap();
            let (quantized, fit) = levels
                .quantize_with_statistics(&weight, Gradient::StraightThrough, false)
                .unwrap();
            near(name, &quantized, &step.quantized.concat());
            let fitted = weights::fit_basis(&fit, &basis.value).unwrap();
            near(name, &fitted, &step.fitted.concat());
            for _ in 0..case.updates_per_step {
                basis.update(&fitted).unwrap();
            }
            near(name, &basis.value, &step.basis_after.concat());
            near(name, &basis.average, &step.biased_after.concat());
            near(name, &basis.updates, &[step.t_after]);
        }
    }
}
