//! Several processes that train together. Here they are threads with a network each, which meet and exchange
//! as processes do.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rsflow_graph::World;
use rsflow_model::dist::reducer::Exchange;
use rsflow_model::dist::{PeerLost, Peers, Timeouts};
use rsflow_model::nn::compute::ExecConfig;
use rsflow_model::nn::kernels::Fused;
use rsflow_model::nn::layers::Mode;
use rsflow_model::nn::networks::{MobileNetV2, Network, QuantizedMode, QuantizedResNet};
use rsflow_model::nn::parameters::{Role, WeightInit};
use rsflow_model::nn::replay::{CudaGraph, Inference};
use rsflow_model::nn::switchable::SwitchableNetwork;
use rsflow_model::nn::transfer::{Channels, DeviceTransfer, HostBatch};
use rsflow_model::train::distillation::{Distill, loss};
use rsflow_model::train::optimizer::{Optimizer, RunningOptimizer};
use rsflow_model::train::processes::{NormsOver, StepExchange};
use rsflow_model::train::step::{Inputs, Step};
use rsflow_model::train::validation::Validation;
use tch::{Kind, Tensor, no_grad};

mod small;
use small::{resnet, sgd, values};

const SIZES: [u32; 3] = [48, 40, 32];
const CLASSES: u32 = 3;
/// Images of all processes in a step.
const BATCH: i64 = 12;
const STEPS: i64 = 3;
const LR: f64 = 0.02;

/// Runs `work` as each of `size` processes, and gives their results.
fn processes<T: Send + 'static>(
    size: u32,
    work: impl Fn(Arc<Peers>) -> T + Send + Sync + 'static,
) -> Vec<T> {
    let free = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let work = Arc::new(work);
    let threads: Vec<_> = (0..size)
        .map(|rank| {
            let work = Arc::clone(&work);
            let world = World {
                rank,
                size,
                local_rank: rank,
                local_size: size,
            };
            let timeouts = Timeouts {
                exchange: Duration::from_secs(60),
                silence: Duration::from_secs(20),
            };
            std::thread::spawn(move || {
                work(Peers::meet(world, "127.0.0.1", port, false, timeouts).unwrap())
            })
        })
        .collect();
    let threads = threads.into_iter();
    threads.map(|thread| thread.join().unwrap()).collect()
}

/// A network and its optimizer, the same in every process.
struct Training {
    net: SwitchableNetwork,
    optimizer: RunningOptimizer,
}

impl Training {
    fn new(network: &Network, compute: ExecConfig) -> Self {
        let start = WeightInit::Random { seed: 3 };
        let net = SwitchableNetwork::new(network, CLASSES, &SIZES, compute, start).unwrap();
        Training {
            optimizer: Optimizer::Sgd(sgd()).start(net.parameters()).unwrap(),
            net,
        }
    }

    /// Of the images of a step, those of a process: one of `size`, each of which takes every `size`-th.
    fn batch(&self, step: i64, rank: i64, size: i64) -> (Vec<Tensor>, Tensor) {
        let compute = self.net.parameters().compute();
        let first = step * BATCH + rank;
        let positions: Vec<i64> = (first..(step + 1) * BATCH).step_by(size as usize).collect();
        let images = SIZES.map(|side| {
            let side = i64::from(side);
            let count = 3 * side * side;
            let images = positions.iter().map(|position| {
                let noise = Tensor::arange(count, (Kind::Double, compute.device)) + position * 977;
                let noise = (noise * 12.9898).sin() * 43758.5453;
                noise.frac().abs().view([3, side, side])
            });
            let images = Tensor::stack(&images.collect::<Vec<_>>(), 0);
            compute
                .to_memory_format(images.to_kind(compute.dtype))
                .unwrap()
        });
        let labels: Vec<i64> = positions
            .iter()
            .map(|p| p * 7 % i64::from(CLASSES))
            .collect();
        (images.into(), Tensor::from_slice(&labels))
    }

    /// Steps of one process of several, or alone, with batch norms over some images. Each takes its images in
    /// blocks of so many.
    fn train(&mut self, peers: Option<&Arc<Peers>>, norms: NormsOver, steps: i64) {
        let (rank, size) = peers.map_or((0, 1), |peers| {
            let world = peers.world();
            (i64::from(world.rank), i64::from(world.size))
        });
        let share = (BATCH / size) as u64;
        let scope = norms.scope(peers.map(AsRef::as_ref), share, false).unwrap();
        self.net.set_norm_scope(scope);
        let exchange = peers.map(|peers| {
            StepExchange::new(Arc::clone(peers), &self.net, Exchange::Float32, true).unwrap()
        });
        for step in 0..steps {
            let (images, labels) = self.batch(step, 0, 1);
            let block = i64::from(norms.block());
            let own: Vec<i64> = (0..BATCH).filter(|p| p / block % size == rank).collect();
            let own = Tensor::from_slice(&own);
            let images = images.iter().map(|images| images.index_select(0, &own));
            let images: Vec<Tensor> = images.collect();
            let labels = labels.index_select(0, &own);
            let (net, optimizer) = (&self.net, &mut self.optimizer);
            let step = Step::from(Distill::EnsembleTopDown);
            let exchange = exchange.as_ref();
            step.run(
                net,
                optimizer,
                &Inputs::new(&images, &labels),
                LR.into(),
                exchange,
            )
            .unwrap();
        }
    }

    /// Everything that is kept, by name.
    fn values(&self) -> Vec<(String, Vec<f64>)> {
        let parameters = self.net.parameters().iter();
        let parameters = parameters.map(|p| (p.name.clone(), values(&p.tensor)));
        let momentum = self.optimizer.momentum();
        let momentum = momentum.map(|(name, v)| (format!("momentum of {name}"), values(v)));
        parameters.chain(momentum).collect()
    }
}

/// The values after some steps of this process, as one of several.
fn trained(
    peers: Arc<Peers>,
    network: &Network,
    recompute: bool,
    exchange: Exchange,
    compute: ExecConfig,
    steps: i64,
) -> Vec<(String, Vec<f64>)> {
    let world = peers.world();
    let mut training = Training::new(network, compute);
    let exchange = StepExchange::new(peers, &training.net, exchange, !recompute).unwrap();
    let how = Step {
        recompute,
        ..Distill::EnsembleTopDown.into()
    };
    for step in 0..steps {
        let (images, labels) = training.batch(step, world.rank.into(), world.size.into());
        let Training { net, optimizer } = &mut training;
        let exchange = Some(&exchange);
        let loss = how.run(
            net,
            optimizer,
            &Inputs::new(&images, &labels),
            LR.into(),
            exchange,
        );
        let loss = loss.unwrap();
        let total = loss.total.double_value(&[]);
        assert!(total.is_finite() && !loss.total.requires_grad());
    }
    training.values()
}

/// The same by one process that does the parts of two, one after the other.
fn both_parts(network: &Network, compute: ExecConfig) -> Vec<(String, Vec<f64>)> {
    let mut training = Training::new(network, compute);
    for step in 0..STEPS {
        let batches = [0, 1].map(|rank| training.batch(step, rank, 2));
        let Training { net, optimizer } = &mut training;
        let buffers = || {
            let all = net.parameters().iter();
            all.filter(|p| matches!(p.role, Role::BatchNormMean | Role::BatchNormVar))
                .map(|p| p.tensor.shallow_clone())
        };
        let before: Vec<Tensor> = buffers().map(|buffer| buffer.copy()).collect();
        let parts = batches.map(|(images, labels)| {
            no_grad(|| {
                for (mut buffer, before) in buffers().zip(&before) {
                    buffer.copy_(before);
                }
            });
            let mut pass = net.pass(Mode::Train).unwrap();
            let logits = (0..)
                .zip(&images)
                .map(|(i, images)| pass.logits(images, i).unwrap());
            let logits: Vec<Tensor> = logits.collect();
            let ensemble = net.ensemble(&logits).unwrap();
            let loss = loss(&logits, &ensemble, &labels, Distill::EnsembleTopDown).unwrap();
            let scaled = optimizer.scale_loss(&loss.total).unwrap();
            let gradients = net.parameters().gradients(&scaled).unwrap();
            let shares: Vec<Tensor> = gradients.iter().map(|g| g / 2).collect();
            let statistics: Vec<Tensor> = buffers().map(|buffer| buffer / 2).collect();
            (shares, statistics, pass)
        });
        let [
            (shares, statistics, first),
            (other_shares, other_statistics, second),
        ] = parts;
        no_grad(|| {
            for ((mut buffer, a), b) in buffers().zip(&statistics).zip(&other_statistics) {
                buffer.copy_(&(a + b));
            }
            for (a, b) in first.activation_sums().iter().zip(second.activation_sums()) {
                let _ = a.shallow_clone().g_add_(b);
            }
        });
        let gradients = shares
            .iter()
            .zip(&other_shares)
            .map(|(a, b)| a + b)
            .collect();
        optimizer.step(gradients, LR).unwrap();
        first.update_bases().unwrap();
    }
    training.values()
}

fn quantized() -> Network {
    Network::QuantizedResNet(QuantizedResNet {
        depth: 18,
        width: 4,
        mode: QuantizedMode::PreActivation,
        weight_bits: 2,
        activation_bits: 2,
        fixed_activation_basis: false,
    })
}

#[test]
fn two_processes_have_the_bits_of_one_that_does_both_parts() {
    tch::set_num_threads(1);
    let mobilenet = Network::MobileNetV2(MobileNetV2 { width: 0.25 });
    let float = ExecConfig::cpu(Kind::Float);
    let half = ExecConfig {
        compute_dtype: Kind::Half,
        channels_last: true,
        ..float
    };
    for (network, compute) in [
        (resnet(18, 4), float),
        (mobilenet, float),
        (quantized(), float),
        (resnet(18, 4), half), // with a scaled loss
    ] {
        let of_each = network.clone();
        let found = processes(2, move |peers| {
            trained(peers, &of_each, false, Exchange::Float32, compute, STEPS)
        });
        let expected = both_parts(&network, compute);
        for (rank, found) in found.iter().enumerate() {
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(&expected) {
                assert_eq!(found, expected, "{network}, process {rank}");
            }
        }
    }
}

#[test]
fn all_processes_hold_the_same_bits() {
    let compute = ExecConfig::cpu(Kind::Float);
    let by = |size, network: &Network, recompute, exchange, steps| {
        let network = network.clone();
        let train = move |peers| trained(peers, &network, recompute, exchange, compute, steps);
        let found = processes(size, train);
        for other in &found[1..] {
            assert_eq!(found[0], *other, "{size} processes, {exchange:?}");
        }
        found.into_iter().next().unwrap()
    };
    let small = resnet(18, 4);
    by(3, &small, false, Exchange::Float32, STEPS);
    by(4, &quantized(), false, Exchange::Float32, STEPS);
    for recompute in [false, true] {
        let exact = by(2, &small, recompute, Exchange::Float32, 1);
        let rounded = by(2, &small, recompute, Exchange::BFloat16, 1);
        let off = difference(&exact, &rounded);
        assert!((1e-4..0.005).contains(&off), "{off}");
        by(2, &small, recompute, Exchange::BFloat16, STEPS);
    }
}

/// The largest difference of two networks' values, beside the largest value.
fn difference(a: &[(String, Vec<f64>)], b: &[(String, Vec<f64>)]) -> f64 {
    assert_eq!(a.len(), b.len());
    let values = |all: &[(String, Vec<f64>)]| -> Vec<f64> {
        all.iter().flat_map(|(_, values)| values.clone()).collect()
    };
    let (a, b) = (values(a), values(b));
    assert_eq!(a.len(), b.len());
    let most = |all: &mut dyn Iterator<Item = f64>| all.map(f64::abs).fold(0.0, f64::max);
    let largest = most(&mut a.iter().copied());
    most(&mut a.iter().zip(&b).map(|(a, b)| a - b)) / largest
}

/// Batch norms over all processes make two of them the same as one that has the whole batch, and so do
/// batch norms over groups of images. With those of each process it is another training.
#[test]
fn norms_over_more_than_a_process_are_those_of_the_whole_batch() {
    tch::set_num_threads(1);
    let mobilenet = Network::MobileNetV2(MobileNetV2 { width: 0.25 });
    // A deep network makes a hundred times more of a difference in the last bit with each step.
    let steps = 1;
    let (double, float) = (ExecConfig::cpu(Kind::Double), ExecConfig::cpu(Kind::Float));
    let fused = float.with_kernels(Fused::Auto);
    assert!(fused.kernels.is_some());
    for (network, compute, norms, size, most) in [
        (resnet(18, 4), double, NormsOver::AllProcesses, 2, 1e-12),
        (resnet(50, 4), double, NormsOver::AllProcesses, 3, 1e-12),
        (mobilenet, double, NormsOver::AllProcesses, 2, 1e-12),
        (resnet(18, 4), float, NormsOver::AllProcesses, 2, 1e-5),
        (resnet(18, 4), fused, NormsOver::AllProcesses, 2, 1e-5),
        (resnet(18, 4), double, NormsOver::Groups(3), 2, 1e-12),
        (resnet(18, 4), double, NormsOver::Groups(3), 4, 1e-12),
        (resnet(18, 4), fused, NormsOver::Groups(2), 3, 1e-5),
    ] {
        let case = format!("{network}, {norms:?}, {size} processes");
        let mut whole = Training::new(&network, compute);
        whole.train(None, norms, steps);
        let whole = whole.values();
        let of_each = network.clone();
        let found = processes(size, move |peers| {
            let mut training = Training::new(&of_each, compute);
            training.train(Some(&peers), norms, steps);
            training.values()
        });
        for own in &found {
            assert_eq!(*own, found[0], "{case}");
            let off = difference(&whole, own);
            assert!(off < most, "{case}: {off}");
        }
        let mut other = Training::new(&network, compute);
        other.train(None, NormsOver::Groups(6), steps);
        let off = difference(&whole, &other.values());
        assert!(off > 1e-3, "{case}: other groups are off by {off}");
    }
    let refused = NormsOver::Groups(5).scope(None, 12, false).unwrap_err();
    assert!(refused.to_string().contains("a whole number of groups"));
}

/// A batch of some of 13 images: noise, and labels.
#[derive(Clone, Debug)]
struct Images(Vec<i64>, Vec<Vec<u8>>);

impl Images {
    fn of(positions: impl Iterator<Item = usize>) -> Self {
        let positions: Vec<usize> = positions.collect();
        let labels = positions
            .iter()
            .map(|p| (*p as i64 * 7) % i64::from(CLASSES));
        let pixels = SIZES.map(|side| {
            let count = (3 * side * side) as usize;
            let noise = |p: &usize| {
                (0..count)
                    .map(move |i| ((i * 37 + p * 101) % 251) as u8)
                    .collect()
            };
            positions.iter().flat_map::<Vec<u8>, _>(noise).collect()
        });
        Images(labels.collect(), pixels.into())
    }
}

impl HostBatch for Images {
    fn labels(&self) -> &[i64] {
        &self.0
    }

    fn images(&self) -> Vec<(u32, &[u8])> {
        let pixels = self.1.iter().map(Vec::as_slice);
        SIZES.into_iter().zip(pixels).collect()
    }
}

/// A prime number of images, and more processes than some batches have images: nothing is counted twice,
/// and nothing is left out.
#[test]
fn a_validation_is_the_same_for_any_number_of_processes() {
    let measure = |rank: usize, size: usize, peers: Option<&Peers>| {
        let compute = ExecConfig::cpu(Kind::Double);
        let net = Training::new(&resnet(18, 4), compute).net;
        let transfer = DeviceTransfer::new(compute, None, Channels::default()).unwrap();
        let mut inference = Inference::new(&net, CudaGraph::Off);
        let mut validation = Validation::new(&net, vec![0, 1, 2]).unwrap();
        let own: Vec<usize> = (rank..13).step_by(size).collect();
        for images in own.chunks(4) {
            let batch = Images::of(images.iter().copied());
            let (images, labels) = transfer.batch(&batch, net.classes()).unwrap();
            validation
                .add(&net, &mut inference, &images, &labels, &[])
                .unwrap();
        }
        let validation = match peers {
            Some(peers) => validation.of_all(peers).unwrap(),
            None => validation,
        };
        assert_eq!(validation.images(), 13);
        let rows = validation.rows(&net).unwrap();
        let rows = rows
            .iter()
            .map(|row| [row.top1, row.top5, (row.loss * 1e9).round()]);
        rows.collect::<Vec<_>>()
    };
    let expected = measure(0, 1, None);
    assert_eq!(expected.len(), 4);
    for size in [2, 3, 5] {
        let found = processes(size, move |peers| {
            let rank = peers.world().rank as usize;
            measure(rank, size as usize, Some(&peers))
        });
        for rows in found {
            assert_eq!(rows, expected, "{size} processes");
        }
    }
}

#[test]
fn values_that_differ_are_named() {
    let errors = processes(2, |peers| {
        let rank = peers.world().rank;
        let same = peers.ensure_same(&[
            ("recipe", "the same".to_owned()),
            ("seed", rank.to_string()),
        ]);
        peers.leave(false, String::new()).unwrap();
        same.err().map(|error| error.to_string())
    });
    assert_eq!(errors[0], None);
    let error = errors[1].as_deref().unwrap();
    assert!(
        error.starts_with("process 1 differs from process 0 in: seed;"),
        "{error}"
    );
}

/// Sums over more than one bucket, of shapes of all kinds, and a value of the first process.
#[test]
fn sums_are_those_of_all_processes() {
    let results = processes(3, |peers| {
        let rank = f64::from(peers.world().rank);
        let shapes = [vec![], vec![3, 2], vec![4 << 20], vec![3 << 20], vec![5]];
        let own: Vec<Tensor> = shapes
            .iter()
            .map(|shape| Tensor::ones(shape, (Kind::Float, tch::Device::Cpu)) * (rank + 1.0))
            .collect();
        let own: Vec<&Tensor> = own.iter().collect();
        let sums = peers.sum(&own).unwrap();
        for ((sum, own), shape) in sums.iter().zip(&own).zip(&shapes) {
            assert_eq!(&sum.size(), shape);
            assert_eq!(sum.min().double_value(&[]), 6.0);
            assert_eq!(sum.max().double_value(&[]), 6.0);
            assert_eq!(own.max().double_value(&[]), rank + 1.0, "its own stay");
        }
        let means = peers.average(&own).unwrap();
        assert_eq!(means[1].double_value(&[2, 1]), 2.0);
        assert!(peers.sum(&[]).unwrap().is_empty());
        assert!(peers.any(peers.world().rank == 2).unwrap());
        assert!(!peers.any(false).unwrap());
        peers.broadcast("name", || "value".to_owned()).unwrap()
    });
    assert_eq!(results, ["value", "value", "value"]);
}

#[test]
fn a_process_that_is_lost_is_noticed_and_its_reason_told() {
    let results = processes(2, |peers| {
        if peers.world().rank == 1 {
            let error = anyhow::anyhow!("a.jpg is damaged").context("node `train_images`");
            peers.end(&error, false);
            return (Duration::ZERO, String::new());
        }
        let began = Instant::now();
        let error = peers.any(false).unwrap_err();
        assert!(error.is::<PeerLost>(), "{error:#}");
        (began.elapsed(), error.to_string())
    });
    let (took, reason) = &results[0];
    assert!(*took < Duration::from_secs(20), "{took:?}");
    assert_eq!(
        reason,
        "process 1 failed: node `train_images`: a.jpg is damaged"
    );
}

/// Without libtorch's part for GPUs, or without a GPU.
#[test]
fn gpus_that_are_not_there_are_an_error() {
    if tch::Cuda::is_available() {
        return;
    }
    let errors = processes(2, |peers| {
        let error = peers.use_gpu().unwrap_err();
        let left = peers.leave(false, String::new()).unwrap();
        assert!(!left.0, "the CPUs are still connected");
        format!("{error:#}")
    });
    for error in errors {
        println!("{error}");
        assert!(error.contains("cannot be connected by NCCL"), "{error}");
    }
}
