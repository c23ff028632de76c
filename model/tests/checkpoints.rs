//! What a checkpoint holds: all that a resumed run needs, any subset of resolutions, and sound values.

mod counting;
mod hostile;
mod mutants;
mod small;

use std::fs;
use std::path::Path;

use anyhow::Result;
use rsflow_model::checkpoint::packed::pack;
use rsflow_model::checkpoint::{Best, BestBy, Checkpoint, Metadata, Snapshot, write_atomically};
use rsflow_model::nn::compute::ExecConfig;
use rsflow_model::nn::layers::Mode;
use rsflow_model::nn::networks::{Network, QuantizedMode, QuantizedResNet};
use rsflow_model::nn::parameters::WeightInit;
use rsflow_model::nn::switchable::SwitchableNetwork;
use rsflow_model::train::distillation::{Distill, loss};
use rsflow_model::train::optimizer::{Optimizer, RunningOptimizer};
use rsflow_model::train::step::{Inputs, Step};
use small::{all_values, resnet, sgd, small, values};
use tch::{Device, Kind, Tensor};

/// One step on random images, the same at each call.
fn step(net: &SwitchableNetwork, optimizer: &mut RunningOptimizer) -> Result<f64> {
    let mut logits = Vec::new();
    for (index, &size) in net.resolutions().iter().enumerate() {
        let side = i64::from(size);
        let ramp = Tensor::f_arange(4 * 3 * side * side, (Kind::Float, Device::Cpu))?;
        let images = ramp.f_sin()?.f_reshape([4, 3, side, side])?;
        logits.push(net.logits(&images, index, Mode::Train)?);
    }
    let labels = Tensor::f_from_slice(&[0_i64, 1, 2, 0])?;
    let loss = loss(
        &logits,
        &net.ensemble(&logits)?,
        &labels,
        Distill::EnsembleTopDown,
    )?;
    optimizer.step(net.parameters().gradients(&loss.total)?, 0.05)?;
    Ok(loss.total.f_double_value(&[])?)
}

fn metadata(resolutions: &[u32]) -> Metadata {
    let classes = ["cat", "dog", "fish"].map(str::to_owned).to_vec();
    Metadata {
        epoch: 1,
        sample_in_epoch: 2,
        step: 12,
        steps_per_epoch: Some(10),
        seed: u64::MAX,
        best: Some(Best {
            epoch: 0,
            score: 71.3,
            by: BestBy::First,
            mean: 0.1 + 0.2,
        }),
        recipe: "(seed: 0)\n".to_owned(),
        ..Metadata::new(resnet(18, 4), classes, resolutions.to_vec())
    }
}

#[test]
fn a_validation_that_is_not_finite_is_not_the_best() {
    let row = |loss| rsflow_model::checkpoint::Row {
        resolution: Some(64),
        batch_norm: Some(64),
        between: None,
        top1: 50.0,
        top5: 90.0,
        loss,
        multiply_adds: 1,
        parameters: 1,
    };
    let judge = |loss| BestBy::Loss.judge(0, &[row(loss), row(1.0)]);
    assert_eq!(judge(2.0).unwrap().score, -1.5);
    assert!(
        [f64::NAN, f64::INFINITY]
            .into_iter()
            .all(|loss| judge(loss).is_none())
    );
}

#[test]
fn the_best_is_chosen_by_tenths_of_the_first_then_by_the_mean() {
    let best = |first, mean| Best::new(0, first, mean);
    // What imported files have: a float32 of 73.1 is 73.0999985.
    let before = best(f64::from(73.1_f32), 60.0);
    for (candidate, better) in [
        (best(73.16, 50.0), true),
        (best(73.14, 60.0), false),
        (best(73.14, 60.1), true),
        (best(73.04, 99.0), false),
    ] {
        assert_eq!(candidate.beats(Some(&before)), better, "{candidate:?}");
    }
    assert!(best(0.0, 0.0).beats(None));
}

fn names_in(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().file_name());
    names
        .map(|name| name.to_string_lossy().into_owned())
        .collect()
}

#[test]
fn a_run_resumed_from_a_checkpoint_continues_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("last.safetensors");
    let sizes = [64, 32];
    let net = small(&sizes, WeightInit::Random { seed: 1 });
    let mut optimizer = Optimizer::Sgd(sgd()).start(net.parameters()).unwrap();
    for _ in 0..2 {
        step(&net, &mut optimizer).unwrap();
    }
    for _ in 0..2 {
        // The second time it replaces what is there.
        let snapshot = Snapshot::take(metadata(&sizes), net.parameters(), optimizer.buffers());
        write_atomically(&snapshot.unwrap(), &path).unwrap();
    }
    assert_eq!(names_in(folder.path()), ["last.safetensors"]);

    let checkpoint = Checkpoint::open(&path).unwrap();
    assert_eq!(*checkpoint.metadata(), metadata(&sizes));
    let resumed = small(&sizes, WeightInit::Zeros);
    let mut resumed_optimizer = Optimizer::Sgd(sgd()).start(resumed.parameters()).unwrap();
    checkpoint.load(&resumed).unwrap();
    let state = checkpoint.optimizer().unwrap();
    resumed_optimizer.load(state).unwrap();
    assert_eq!(
        all_values(net.parameters()),
        all_values(resumed.parameters())
    );
    for _ in 0..2 {
        let losses = [
            step(&net, &mut optimizer),
            step(&resumed, &mut resumed_optimizer),
        ];
        let [straight, resumed] = losses.map(|loss| loss.unwrap().to_bits());
        assert_eq!(straight, resumed);
    }
    assert_eq!(
        all_values(net.parameters()),
        all_values(resumed.parameters())
    );
}

#[test]
fn checkpoints_hold_finite_values_only() {
    let net = small(&[32], WeightInit::Random { seed: 1 });
    let mut optimizer = Optimizer::Sgd(sgd()).start(net.parameters()).unwrap();
    step(&net, &mut optimizer).unwrap();
    let take = |optimizer| {
        Snapshot::take(
            metadata(&[32]),
            net.parameters(),
            RunningOptimizer::buffers(optimizer),
        )
    };
    take(&optimizer).unwrap();
    let set = |tensor: &Tensor, value: f64| {
        let mut second = tensor
            .f_detach()
            .unwrap()
            .f_view([-1])
            .unwrap()
            .f_narrow(0, 1, 1)
            .unwrap();
        let _ = second.f_fill_(value).unwrap();
    };
    let weight = net.parameters().tensor("layer2.0.conv1.weight").unwrap();
    let variance = net
        .parameters()
        .tensor("layer3.1.bn2.32.running_var")
        .unwrap();
    let momentum = |name| {
        let mut all = optimizer.momentum();
        all.find(|(of, _)| *of == name).unwrap().1.shallow_clone()
    };
    let table = [
        (&weight, f64::NAN, "\"layer2.0.conv1.weight\""),
        (&weight, f64::INFINITY, "\"layer2.0.conv1.weight\""),
        (&variance, f64::INFINITY, "\"layer3.1.bn2.32.running_var\""),
        (
            &momentum("fc.weight"),
            f64::NEG_INFINITY,
            "\"momentum/fc.weight\"",
        ),
    ];
    for (tensor, value, name) in table {
        set(tensor, value);
        let error = format!("{:#}", take(&optimizer).unwrap_err());
        assert!(
            error.contains(&format!("{name} holds values that are not finite")),
            "{error}"
        );
        set(tensor, 1.0);
    }
    take(&optimizer).unwrap();
}

#[test]
fn a_subset_of_resolutions_can_be_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("last.safetensors");
    let net = small(&[96, 64, 32], WeightInit::Random { seed: 1 });
    let alpha = Tensor::f_from_slice(&[1.0_f32, 2.0, 3.0]).unwrap();
    tch::no_grad(|| net.parameters().tensor("alpha").unwrap().f_copy_(&alpha)).unwrap();
    let snapshot = Snapshot::take(metadata(&[96, 64, 32]), net.parameters(), []).unwrap();
    write_atomically(&snapshot, &path).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();

    let part = small(&[32, 96], WeightInit::Zeros);
    checkpoint.load(&part).unwrap();
    assert_eq!(
        values(&part.parameters().tensor("alpha").unwrap()),
        [3.0, 1.0]
    );
    let images = Tensor::f_rand([2, 3, 32, 32], (Kind::Float, Device::Cpu)).unwrap();
    let logits = |net: &SwitchableNetwork, index| {
        values(&net.logits(&images, index, Mode::Evaluate).unwrap())
    };
    assert_eq!(logits(&net, 2), logits(&part, 0));
    // Switching is choosing other handles: nothing is loaded, nothing remembers what came before.
    let places = || {
        part.parameters()
            .iter()
            .map(|p| p.tensor.data_ptr())
            .collect::<Vec<_>>()
    };
    let before = places();
    assert_eq!(logits(&net, 0), logits(&part, 1));
    assert_eq!(logits(&net, 2), logits(&part, 0));
    assert_eq!(before, places());

    let error = checkpoint
        .load(&small(&[48], WeightInit::Zeros))
        .unwrap_err();
    assert!(
        format!("{error:#}")
            .contains("it has no batch norms of resolution 48, but of [96, 64, 32]"),
        "{error:#}"
    );
}

/// What is packed runs as the network that was trained does, whose weights are no levels.
#[test]
fn a_packed_checkpoint_gives_the_same_logits_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    for (mode, weight_bits, activation_bits) in [
        (QuantizedMode::WeightsOnly, 2, 32),
        (QuantizedMode::PreActivation, 2, 2),
        (QuantizedMode::PreActivationTypeA, 3, 4),
        (QuantizedMode::PreActivation, 1, 8),
        (QuantizedMode::PreActivation, 32, 2),
    ] {
        let name = format!("{mode:?} {weight_bits}/{activation_bits}");
        let network = Network::QuantizedResNet(QuantizedResNet {
            depth: 18,
            width: 6,
            mode,
            weight_bits,
            activation_bits,
            fixed_activation_basis: false,
        });
        let sizes = [64, 48];
        let (kind, cpu) = (Kind::Float, Device::Cpu);
        let start = WeightInit::Random { seed: 5 };
        let net =
            SwitchableNetwork::new(&network, 3, &sizes, ExecConfig::cpu(kind), start).unwrap();
        let mut optimizer = Optimizer::Sgd(sgd()).start(net.parameters()).unwrap();
        let images = sizes.map(|side| {
            let side = i64::from(side);
            let ramp = Tensor::arange(4 * 3 * side * side, (kind, cpu));
            ramp.sin().view([4, 3, side, side])
        });
        let labels = Tensor::from_slice(&[0_i64, 1, 2, 0]);
        for _ in 0..3 {
            let step = Step::from(Distill::EnsembleTopDown);
            step.run(
                &net,
                &mut optimizer,
                &Inputs::new(&images, &labels),
                0.05.into(),
                None,
            )
            .unwrap();
        }
        let logits = |net: &SwitchableNetwork, size: usize| {
            net.logits(&images[size], size, Mode::Evaluate).unwrap()
        };

        let metadata = Metadata {
            network: network.clone(),
            ..metadata(&sizes)
        };
        let whole = folder.path().join("whole.safetensors");
        let snapshot = Snapshot::take(metadata, net.parameters(), optimizer.buffers()).unwrap();
        write_atomically(&snapshot, &whole).unwrap();
        let whole = Checkpoint::open(&whole).unwrap();
        let packed = folder.path().join("packed.safetensors");
        write_atomically(&pack(&whole).unwrap(), &packed).unwrap();

        let bytes = fs::read(&packed).unwrap();
        let header = u64::from_le_bytes(*bytes.first_chunk().unwrap());
        let alpha = 4 * sizes.len() as u64;
        let expected = 8 + header + net.summary().packed_bytes + alpha;
        assert_eq!(bytes.len() as u64, expected, "{name}");

        let packed = Checkpoint::open(&packed).unwrap();
        let load = |checkpoint: &Checkpoint, compute| {
            let loaded = checkpoint.network(&sizes, &sizes, compute).unwrap();
            [0, 1].map(|size| logits(&loaded, size))
        };
        let trained = [0, 1].map(|size| logits(&net, size));
        for checkpoint in [&whole, &packed] {
            assert_eq!(load(checkpoint, ExecConfig::cpu(kind)), trained, "{name}");
        }
        let bfloat16 = ExecConfig {
            compute_dtype: Kind::BFloat16,
            channels_last: true,
            ..ExecConfig::cpu(kind)
        };
        assert_eq!(
            load(&packed, bfloat16),
            load(&whole, bfloat16),
            "{name}, bfloat16"
        );
        let error = pack(&packed).unwrap_err().to_string();
        assert!(error.contains("packed already"), "{error}");
    }

    let net = small(&[32], WeightInit::Random { seed: 0 });
    let full = folder.path().join("full.safetensors");
    let snapshot = Snapshot::take(metadata(&[32]), net.parameters(), []).unwrap();
    write_atomically(&snapshot, &full).unwrap();
    let error = pack(&Checkpoint::open(&full).unwrap()).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("ResNet(depth: 18, width: 4) is not quantized"),
        "{error}"
    );
}

#[test]
fn files_that_are_no_checkpoints_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("last.safetensors");
    let net = small(&[32], WeightInit::Zeros);
    let snapshot = Snapshot::take(metadata(&[32]), net.parameters(), []).unwrap();
    write_atomically(&snapshot, &path).unwrap();
    let whole = fs::read(&path).unwrap();
    let foreign = safetensors::serialize(
        [(
            "a",
            safetensors::tensor::TensorView::new(safetensors::Dtype::U8, vec![1], &[0]).unwrap(),
        )],
        None,
    );
    let table: [(&[u8], &str); 6] = [
        (&whole[..whole.len() - 1], "the file is truncated: it has"),
        (&whole[..100], "the file is truncated within its header"),
        (
            &whole[..3],
            "the file is not a safetensors file: it has only 3 bytes",
        ),
        (&[whole.clone(), vec![0]].concat(), "the file is damaged"),
        (
            &[0xff; 64],
            "the file is not a safetensors file: it does not begin like",
        ),
        (&foreign.unwrap(), "not a checkpoint of rsflow"),
    ];
    for (bytes, expected) in table {
        fs::write(&path, bytes).unwrap();
        let error = format!("{:#}", Checkpoint::open(&path).unwrap_err());
        assert!(error.contains(expected), "{error}");
        assert!(error.contains("last.safetensors"), "{error}");
    }
    let error = format!(
        "{:#}",
        Checkpoint::open(&folder.path().join("none")).unwrap_err()
    );
    assert!(error.contains("No such file"), "{error}");
}

#[test]
fn a_checkpoint_that_cannot_be_written_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let net = small(&[32], WeightInit::Zeros);
    let snapshot = Snapshot::take(metadata(&[32]), net.parameters(), []).unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    fs::create_dir(folder.path().join("folder")).unwrap();
    // No such folder; a file in the place of one; a folder in the place of the file, which is
    // found out only after everything was written.
    let table = [
        ("none/last.safetensors", "No such file"),
        ("file/last.safetensors", "Not a directory"),
        ("folder", "Is a directory"),
    ];
    for (name, expected) in table {
        let path = folder.path().join(name);
        let error = format!("{:#}", write_atomically(&snapshot, &path).unwrap_err());
        assert!(error.contains(expected), "{error}");
        assert!(error.contains(name), "{error}");
    }
    let mut left = names_in(folder.path());
    left.sort();
    assert_eq!(left, ["file", "folder"]);
}
