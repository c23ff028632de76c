//! Our kernels: those for the CPU, and those for GPUs, run on the CPU by the emulation.

use rsflow_model::nn::compute::ExecConfig;
use rsflow_model::nn::kernels::{
    Activation, Architecture, BatchNorm, Compiler, Kernels, Statistics, batch_norm, composed,
    depthwise, kernel_names, max_pool, trial,
};
use rsflow_model::nn::layers::{Mode, Padding};
use rsflow_model::nn::networks::{MobileNetV2, Network};
use rsflow_model::nn::parameters::WeightInit;
use rsflow_model::nn::switchable::SwitchableNetwork;
use tch::{Device, Kind, Tensor, no_grad};

mod emulated;
use emulated::emulate;

fn in_layout(x: &Tensor, channels_last: bool) -> Tensor {
    let compute = ExecConfig {
        channels_last,
        ..ExecConfig::cpu(Kind::Float)
    };
    let x = compute.to_memory_format(x.shallow_clone()).unwrap();
    if channels_last { x } else { x.contiguous() }
}

fn channels_last(x: &Tensor) -> Tensor {
    in_layout(x, true)
}

/// What a batch norm is computed of: values, and the gradient of its output.
struct Case {
    x: Tensor,
    residual: Option<Tensor>,
    norm: [Tensor; 4],
    dy: Tensor,
    of_batch: bool,
    channels_last: bool,
}

impl Case {
    /// Output, running statistics and gradients, in float64.
    fn run(
        &self,
        kind: Kind,
        compute: impl Fn(&Tensor, &BatchNorm, Option<&Tensor>, Statistics) -> Tensor,
    ) -> Vec<Tensor> {
        let leaf = |x: &Tensor, kind| {
            let own = in_layout(&x.to_kind(kind), self.channels_last).detach();
            own.copy().set_requires_grad(self.of_batch)
        };
        let own = if kind == Kind::Double {
            Kind::Double
        } else {
            Kind::Float
        };
        let x = leaf(&self.x, kind);
        let residual = self.residual.as_ref().map(|residual| leaf(residual, kind));
        let [weight, bias, mean, var] = &self.norm;
        let norm = BatchNorm {
            weight: leaf(weight, own),
            bias: leaf(bias, own),
            running_mean: mean.to_kind(own).copy(),
            running_var: var.to_kind(own).copy(),
        };
        let statistics = Statistics {
            of_batch: self.of_batch,
            momentum: 0.1,
            epsilon: 1e-5,
        };
        let y = compute(&x, &norm, residual.as_ref(), statistics);
        let mut all = vec![y.detach()];
        if self.of_batch {
            let product = (&y * self.dy.to_kind(kind)).sum(Kind::Double);
            let sources: Vec<&Tensor> = [&x, &norm.weight, &norm.bias]
                .into_iter()
                .chain(&residual)
                .collect();
            all.extend(Tensor::run_backward(&[product], &sources, false, false));
        }
        all.extend([norm.running_mean, norm.running_var]);
        all.iter().map(|x| x.to_kind(Kind::Double)).collect()
    }
}

/// The largest difference, relative to the largest value.
fn off(a: &Tensor, b: &Tensor) -> f64 {
    let largest = b.abs().max().double_value(&[]).max(1e-30);
    let off = (a - b).abs().max().double_value(&[]) / largest;
    if off.is_nan() { f64::INFINITY } else { off }
}

/// The share of values that differ by more than the rounding of `kind`. Where the activation's edge is met
/// within it, a gradient may go either way.
fn outliers(a: &Tensor, b: &Tensor, tolerance: f64) -> f64 {
    let largest = b.abs().max().double_value(&[]).max(1e-30);
    let beyond = (a - b).abs().gt(tolerance * largest);
    beyond
        .to_kind(Kind::Double)
        .mean(Kind::Double)
        .double_value(&[])
}

/// Forward and backward, all types, shapes from a single pixel on, with everything that can be fused,
/// against the same composed of libtorch's operators in float64.
fn compare_with_float64(kernels: Kernels, shapes: &[[i64; 4]], kinds: &[Kind], last: bool) {
    for &shape in shapes {
        for &kind in kinds {
            for (residual, activation, of_batch) in [
                (false, Activation::None, true),
                (false, Activation::Relu, true),
                (false, Activation::Relu6, true),
                (true, Activation::None, true),
                (true, Activation::Relu, true),
                (true, Activation::Relu6, true),
                (true, Activation::Relu, false),
                (false, Activation::Relu6, false),
            ] {
                let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Double, Device::Cpu));
                let values = |scale: f64| (random(&shape) * scale).to_kind(kind);
                let channels = &shape[1..2];
                let case = Case {
                    x: values(3.0) + 2.0,
                    residual: residual.then(|| values(1.0)),
                    norm: [
                        random(channels) * 0.3 + 2.0,
                        random(channels),
                        random(channels),
                        random(channels).square() + 0.5,
                    ],
                    dy: in_layout(&values(1.0), last),
                    of_batch,
                    channels_last: last,
                };
                let ours = case.run(kind, |x, norm, residual, statistics| {
                    let y = batch_norm(kernels, x, norm, residual, activation, statistics).unwrap();
                    y.expect("there are kernels for it")
                });
                let reference = case.run(Kind::Double, |x, norm, residual, statistics| {
                    composed(x, norm, residual, activation, statistics).unwrap()
                });
                let tolerance = match kind {
                    Kind::Float => 2e-6,
                    Kind::BFloat16 => 4e-3,
                    _ => 5e-4,
                };
                assert_eq!(ours.len(), reference.len());
                for (i, (a, b)) in ours.iter().zip(&reference).enumerate() {
                    let what = format!(
                        "{shape:?} {kind:?} {last} {residual} {activation:?} {of_batch}: {i}"
                    );
                    assert_eq!(a.size(), b.size(), "{what}");
                    // Two values a channel become 1 and -1, however near they are: rounding counts for
                    // more, and the gradients are nearly 0, made of large ones.
                    if shape[0] * shape[2] * shape[3] < 4 {
                        assert!(
                            i != 0 || off(a, b) < 100.0 * tolerance,
                            "{what}: {}",
                            off(a, b)
                        );
                        continue;
                    }
                    // Of many values one is so near the activation's edge that its gradient goes the
                    // other way. That moves the sums over its channel, and by them the channel's dx.
                    let rows = (shape[0] * shape[2] * shape[3]) as f64;
                    let tolerance = match i {
                        1 if rows > 1e4 => 10.0 * tolerance,
                        2 | 3 if rows > 1e4 => 3.0 / rows.sqrt(),
                        2 | 3 => 10.0 * tolerance,
                        _ => tolerance,
                    };
                    let share = outliers(a, b, tolerance);
                    assert!(share < 2e-3, "{what}: {share} are off, by {}", off(a, b));
                }
            }
        }
    }
}

#[test]
fn batch_norms_of_gpus_are_those_of_float64() {
    emulate();
    tch::manual_seed(17);
    let shapes = [
        [2, 8, 1, 1],
        [3, 16, 5, 7],
        [2, 24, 9, 9], // 3 vectors a row: threads are left over
        [5, 64, 14, 14],
        [1, 320, 7, 7],  // two columns of blocks, with 20 vectors
        [2, 1032, 3, 3], // five, and the last one not full
        [2, 2048, 4, 4],
        [4, 8, 112, 112], // all blocks have rows, and groups of them
        [64, 8, 1, 1],
    ];
    let kinds = [Kind::Float, Kind::BFloat16, Kind::Half];
    compare_with_float64(Kernels::Gpu, &shapes, &kinds, true);
}

#[test]
fn batch_norms_of_the_cpu_are_those_of_float64() {
    tch::manual_seed(20);
    let shapes = [
        [2, 8, 1, 1],
        [7, 1, 1, 1],
        [3, 5, 5, 7],
        [2, 24, 9, 9],
        [5, 64, 14, 14],
        [2, 33, 3, 3],
        [1, 2048, 4, 4],
        [2, 3, 112, 112],
    ];
    for last in [false, true] {
        let kinds = [Kind::Float, Kind::BFloat16];
        compare_with_float64(Kernels::Cpu, &shapes, &kinds, last);
        // Results that go past the caches.
        compare_with_float64(Kernels::Cpu, &[[16, 64, 64, 64]], &[Kind::Float], last);
    }
}

/// Means that are large beside the deviation, and variances of any size: no worse than libtorch.
#[test]
fn statistics_do_not_cancel() {
    emulate();
    tch::manual_seed(18);
    for (kernels, last) in [
        (Kernels::Gpu, true),
        (Kernels::Cpu, true),
        (Kernels::Cpu, false),
    ] {
        statistics_are_exact(kernels, last);
    }
}

fn statistics_are_exact(kernels: Kernels, last: bool) {
    for (offset, deviation) in [
        (0.0, 1.0),
        (1e3, 1.0),
        (1e5, 1.0),
        (-1e8, 1e3),
        (0.0, 1e-12),
        (0.0, 1e15),
        (7.0, 0.0),
    ] {
        let shape = [6, 16, 23, 31];
        let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Double, Device::Cpu));
        let x = (random(&shape) * deviation + offset).to_kind(Kind::Float);
        let channels = || Tensor::zeros([16], (Kind::Double, Device::Cpu));
        let case = Case {
            x,
            residual: None,
            norm: [channels() + 1.0, channels(), channels(), channels()],
            dy: in_layout(&random(&shape), last),
            of_batch: true,
            channels_last: last,
        };
        let ours = case.run(Kind::Float, |x, norm, _, statistics| {
            let y = batch_norm(kernels, x, norm, None, Activation::None, statistics).unwrap();
            y.expect("there are kernels for it")
        });
        let theirs = |kind| {
            case.run(kind, |x, norm, _, statistics| {
                composed(x, norm, None, Activation::None, statistics).unwrap()
            })
        };
        let (reference, libtorch) = (theirs(Kind::Double), theirs(Kind::Float));
        for (i, ours) in ours.iter().enumerate() {
            let (mut own, other) = (off(ours, &reference[i]), off(&libtorch[i], &reference[i]));
            if i == 4 {
                // A mean near 0 is as exact as the values that it is made of.
                let largest = reference[i].abs().max().double_value(&[]);
                own *= largest / largest.max(0.1 * deviation);
            }
            assert!(
                own <= 1.2 * other + 3e-6,
                "{offset} {deviation}: {i} is off by {own}, libtorch's by {other}"
            );
        }
    }
}

#[test]
fn values_that_are_not_finite_stay_so() {
    emulate();
    for (kernels, bad) in [
        (Kernels::Gpu, f64::NAN),
        (Kernels::Gpu, f64::INFINITY),
        (Kernels::Cpu, f64::NAN),
        (Kernels::Cpu, f64::INFINITY),
    ] {
        let mut x = Tensor::randn([2, 8, 5, 5], (Kind::Float, Device::Cpu));
        let _ = x.get(1).get(3).get(2).get(2).fill_(bad);
        let zeros = || Tensor::zeros([8], (Kind::Float, Device::Cpu));
        let norm = BatchNorm {
            weight: zeros() + 1.0,
            bias: zeros(),
            running_mean: zeros(),
            running_var: zeros(),
        };
        let statistics = Statistics {
            of_batch: true,
            momentum: 0.1,
            epsilon: 1e-5,
        };
        x = channels_last(&x);
        let y = batch_norm(kernels, &x, &norm, None, Activation::Relu, statistics).unwrap();
        let y = y.expect("there are kernels for it");
        let of_channel = |channel| y.select(1, channel).isnan().any().int64_value(&[]);
        assert_eq!([of_channel(3), of_channel(2)], [1, 0], "{bad}");
        assert!(norm.running_mean.double_value(&[3]).is_nan() || bad.is_infinite());
    }
}

#[test]
fn max_pooling_is_libtorchs() {
    emulate();
    tch::manual_seed(19);
    for (shape, kernel, stride, padding, ceil) in [
        ([2, 16, 12, 9], 3, 2, 1, false),
        ([1, 8, 7, 8], 3, 2, 0, true), // windows that reach beyond the map
        ([2, 24, 8, 8], 2, 2, 0, false),
        ([1, 8, 5, 5], 5, 1, 2, false),
        ([1, 8, 1, 1], 3, 2, 1, false),
    ] {
        for kind in [Kind::Float, Kind::BFloat16, Kind::Half] {
            // Few different values: ties.
            let x = Tensor::randint(5, shape, (Kind::Float, Device::Cpu)).to_kind(kind);
            let mut x = channels_last(&x);
            if kind == Kind::Float {
                let _ = x.get(0).get(0).get(0).get(0).fill_(f64::NAN);
            }
            let run = |pool: &dyn Fn(&Tensor) -> Tensor| {
                let x = x.detach().copy().set_requires_grad(true);
                let y = pool(&x);
                let weights = Tensor::arange(y.numel() as i64, (Kind::Float, Device::Cpu));
                let weights = weights
                    .remainder(7.0)
                    .view_as(&y.contiguous())
                    .to_kind(kind);
                let dx = Tensor::run_backward(&[(&y * weights).sum(kind)], &[&x], false, false);
                let numbers = |x: &Tensor| x.nan_to_num(-1.0, 0.0, 0.0).to_kind(Kind::Double);
                (numbers(&y.detach()), numbers(&dx[0]))
            };
            let (reference, reference_dx) =
                run(&|x| x.max_pool2d([kernel; 2], [stride; 2], [padding; 2], [1, 1], ceil));
            let out = [reference.size()[2], reference.size()[3]];
            let (y, dx) = run(&|x| {
                let y = max_pool(x, kernel, stride, [padding; 2], out).unwrap();
                y.expect("there are kernels for it")
            });
            assert_eq!(y, reference, "{shape:?} {kernel} {kind:?}");
            assert_eq!(dx, reference_dx, "{shape:?} {kernel} {kind:?}");
            x = x.detach();
            assert!(x.defined());
        }
    }
}

/// A depthwise convolution by libtorch, which pads both sides of a dimension alike.
fn libtorch_depthwise(x: &Tensor, weight: &Tensor, stride: i64, pads: [(i64, i64); 2]) -> Tensor {
    let [rows, columns] = pads;
    let x = x.constant_pad_nd([columns.0, columns.1, rows.0, rows.1]);
    let groups = weight.size()[0];
    let none = None::<&Tensor>;
    x.f_conv2d(weight, none, [stride; 2], [0, 0], [1, 1], groups)
        .unwrap()
}

/// Forward and backward, all types, against libtorch in float64.
#[test]
fn depthwise_convolutions_are_those_of_float64() {
    emulate();
    tch::manual_seed(20);
    let shapes: [[i64; 4]; 11] = [
        [1, 8, 1, 1],
        [3, 16, 1, 6],
        [2, 8, 2, 2],
        [2, 24, 5, 3],
        [5, 32, 7, 7],
        [3, 16, 9, 14], // strips that are not full
        [1, 264, 8, 8], // two columns of blocks, three for the weight's gradient; the last one not full
        [1, 960, 4, 5],
        [2, 144, 14, 13],
        [2, 32, 56, 56],
        [2, 8, 41, 150], // several blocks, and several chunks for a thread of the sum
    ];
    for shape in shapes {
        for (stride, padding) in [
            (1, Padding::Symmetric(1)),
            (2, Padding::Symmetric(1)),
            (2, Padding::Same), // at one side alone where that is even
            (2, Padding::Symmetric(2)),
        ] {
            let sides = [shape[2], shape[3]];
            let pads = sides.map(|side| padding.amounts(side, 3, stride));
            let out = sides.map(|side| padding.output(side, 3, stride));
            // Values that all types have.
            let random = |shape: [i64; 4]| {
                let values = Tensor::randn(shape, (Kind::Double, Device::Cpu));
                channels_last(&values.to_kind(Kind::BFloat16))
            };
            let x = random(shape);
            let weight = random([shape[1], 1, 3, 3]);
            let dy = random([shape[0], shape[1], out[0], out[1]]);
            let run = |kind, convolve: &dyn Fn(&Tensor, &Tensor) -> Tensor| {
                let leaf = |x: &Tensor| x.to_kind(kind).copy().set_requires_grad(true);
                let (x, weight) = (leaf(&x), leaf(&weight));
                let y = convolve(&x, &weight);
                let product = (&y * dy.to_kind(kind)).sum(Kind::Double);
                let mut all = vec![y.detach()];
                let sources = [&x, &weight];
                all.extend(Tensor::run_backward(&[product], &sources, false, false));
                all
            };
            let reference = run(Kind::Double, &|x, weight| {
                libtorch_depthwise(x, weight, stride, pads)
            });
            for kind in [Kind::Float, Kind::BFloat16, Kind::Half] {
                let ours = run(kind, &|x, weight| {
                    let padding = [pads[0].0, pads[1].0];
                    let y = depthwise(x, weight, stride, padding, out).unwrap();
                    y.expect("there are kernels for it")
                });
                let tolerance = match kind {
                    Kind::Float => 2e-6,
                    Kind::BFloat16 => 4e-3,
                    _ => 5e-4,
                };
                for (i, (a, b)) in ours.iter().zip(&reference).enumerate() {
                    let what = format!("{shape:?} {stride} {padding:?} {kind:?}: {i}");
                    assert_eq!(a.size(), b.size(), "{what}");
                    assert_eq!(a.kind(), kind, "{what}");
                    let off = off(&a.to_kind(Kind::Double), b);
                    assert!(off < tolerance, "{what}: off by {off}");
                }
            }
        }
    }
}

/// One of the two gradients alone, and none at all.
#[test]
fn depthwise_gradients_are_computed_where_they_are_needed() {
    emulate();
    tch::manual_seed(21);
    let x = channels_last(&Tensor::randn([2, 8, 6, 6], (Kind::Float, Device::Cpu)));
    let weight = Tensor::randn([8, 1, 3, 3], (Kind::Float, Device::Cpu));
    let run = |of_x: bool, of_weight: bool| {
        let x = x.detach().set_requires_grad(of_x);
        let weight = weight.detach().set_requires_grad(of_weight);
        let y = depthwise(&x, &weight, 2, [1, 1], [3, 3]).unwrap().unwrap();
        assert_eq!(y.requires_grad(), of_x || of_weight);
        let mut sources = Vec::new();
        sources.extend(of_x.then_some(&x));
        sources.extend(of_weight.then_some(&weight));
        if sources.is_empty() {
            return vec![];
        }
        Tensor::run_backward(&[y.square().sum(Kind::Float)], &sources, false, false)
    };
    let both = run(true, true);
    assert_eq!(run(true, false)[0], both[0]);
    assert_eq!(run(false, true)[0], both[1]);
    assert!(run(false, false).is_empty());
}

/// A training step of a network with our kernels, against the same without them in float64.
#[test]
fn a_step_of_mobilenet_v2_is_that_of_float64() {
    emulate();
    tch::manual_seed(23);
    let images = Tensor::randn([4, 3, 64, 64], (Kind::Float, Device::Cpu));
    let step = |dtype: Kind, kernels: Option<Kernels>| {
        let compute = ExecConfig {
            channels_last: true,
            kernels,
            ..ExecConfig::cpu(dtype)
        };
        let network = Network::MobileNetV2(MobileNetV2 { width: 0.25 });
        let init = WeightInit::Random { seed: 22 };
        let net = SwitchableNetwork::new(&network, 5, &[64], compute, init).unwrap();
        let images = channels_last(&images.to_kind(dtype));
        let logits = net.logits(&images, 0, Mode::Train).unwrap();
        let loss = logits.cross_entropy_for_logits(&Tensor::from_slice(&[0_i64, 1, 2, 3]));
        let gradients = net.parameters().gradients(&loss).unwrap();
        let names = net.parameters().trainable().map(|p| p.name.clone());
        let named = names.zip(gradients).filter(|(name, _)| name != "alpha");
        let all = [("logits".to_owned(), logits.detach())]
            .into_iter()
            .chain(named);
        all.collect::<Vec<_>>()
    };
    let (ours, reference) = (
        step(Kind::Float, Some(Kernels::Gpu)),
        step(Kind::Double, None),
    );
    assert!(ours.len() > 100 && ours.len() == reference.len());
    let norm = |x: &Tensor| x.norm().double_value(&[]);
    for ((name, ours), (_, reference)) in ours.iter().zip(&reference) {
        let off = norm(&(ours - reference));
        // Single values may go either way at an activation's edge. Some gradients are 0: those of biases
        // that the next batch norm takes away.
        let tolerance = 0.01 * norm(reference) + 1e-4;
        assert!(
            off < tolerance,
            "{name}: off by {off} of {}",
            norm(reference)
        );
    }
}

/// What a GPU is tried with before a run.
#[test]
fn the_trial_passes() {
    emulate();
    for kind in [Kind::Float, Kind::BFloat16, Kind::Half] {
        trial(Device::Cpu, kind).unwrap();
    }
}

/// Inputs that no kernel is for are left to libtorch.
#[test]
fn other_inputs_have_no_kernel() {
    emulate();
    let options = (Kind::Float, Device::Cpu);
    for x in [
        channels_last(&Tensor::zeros([2, 6, 5, 5], options)), // no whole vectors
        Tensor::zeros([2, 8, 5, 5], options),                 // channels first
        channels_last(&Tensor::zeros([2, 8, 5, 5], (Kind::Double, Device::Cpu))),
        Tensor::zeros([2, 8], options),
    ] {
        no_grad(|| assert!(max_pool(&x, 3, 2, [1, 1], [3, 3]).unwrap().is_none()));
        if x.dim() == 4 {
            let weight = Tensor::zeros([x.size()[1], 1, 3, 3], (x.kind(), Device::Cpu));
            let y = depthwise(&x, &weight, 2, [1, 1], [3, 3]).unwrap();
            assert!(y.is_none());
        }
    }
    let x = channels_last(&Tensor::zeros([2, 8, 5, 5], options));
    let weight = |side: i64, kind| Tensor::zeros([8, 1, side, side], (kind, Device::Cpu));
    let convolve = |weight: Tensor, stride| depthwise(&x, &weight, stride, [1, 1], [2, 2]);
    let none = |weight, stride| convolve(weight, stride).unwrap().is_none();
    assert!(none(weight(5, Kind::Float), 1) && none(weight(3, Kind::Half), 1));
    assert!(none(weight(3, Kind::Float), 3) && !none(weight(3, Kind::Float), 2));
    let far = depthwise(&x, &weight(3, Kind::Float), 1, [3, 3], [9, 9]).unwrap();
    assert!(far.is_none());
    let dense = Tensor::zeros([8, 8, 3, 3], options);
    assert!(convolve(dense, 1).is_err());
}

/// Compiled for every GPU that the program may meet. `RSFLOW_NVRTC` is the path of the compiler's library.
#[test]
fn the_kernels_compile() {
    let Some(path) = std::env::var_os("RSFLOW_NVRTC") else {
        eprintln!("skipped: RSFLOW_NVRTC is not set");
        return;
    };
    let compiler = Compiler::open(path.as_ref()).unwrap();
    for capability in [(8, 0), (9, 0), (10, 0)] {
        let program = compiler.compile(Architecture(capability)).unwrap();
        assert!(program.starts_with(b"\x7fELF"), "{capability:?}");
        for name in kernel_names() {
            let name = name.to_bytes();
            assert!(program.windows(name.len()).any(|part| part == name));
        }
    }
    let error = compiler.compile(Architecture((1, 0))).unwrap_err();
    assert!(format!("{error:#}").contains("sm_10"), "{error:#}");
}
