//! What a step is computed of: parts of a batch, mixed images, some of the resolutions.

mod small;

use rsflow_model::nn::compute::ExecConfig;
use rsflow_model::nn::parameters::WeightInit;
use rsflow_model::nn::switchable::SwitchableNetwork;
use rsflow_model::train::distillation::Distill;
use rsflow_model::train::dropping::Dropping;
use rsflow_model::train::mixing::{Mix, Mixed};
use rsflow_model::train::optimizer::{Optimizer, Sgd};
use rsflow_model::train::step::{Inputs, Step};
use small::{all_values, assert_near, quantized, ramp, resnet, sgd, values};
use tch::{Kind, Tensor};

/// The gradient of a batch in parts is the sum of those of the parts as batches of their own, each by its share,
/// and quantizers are fitted to the whole batch: all parts have the same images, so the same statistics.
#[test]
fn parts_of_a_batch_add_up() {
    const SIDES: [u32; 2] = [48, 32];
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
        (quantized(), false, &labels),
        (quantized(), true, &labels),
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
