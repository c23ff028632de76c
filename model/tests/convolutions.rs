//! The convolutions for inference on the CPU, with every instruction set, against those of libtorch in float64.

mod filled;

use filled::random;
use rsflow_model::nn::kernels::{Activation, Convolution, Place, convolution_sets, max_pool_cpu};
use rsflow_model::nn::layers::Padding;
use tch::{Kind, Tensor};

#[derive(Clone, Copy, Debug)]
struct Case {
    batch: i64,
    channels: [i64; 2],
    sides: [i64; 2],
    kernel: i64,
    stride: i64,
    padding: Padding,
    groups: i64,
    residual: bool,
    activation: Activation,
}

const USUAL: Case = Case {
    batch: 2,
    channels: [8, 16],
    sides: [9, 7],
    kernel: 3,
    stride: 1,
    padding: Padding::Symmetric(1),
    groups: 1,
    residual: false,
    activation: Activation::None,
};

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    // Every number of pixels in the last tile, every width of a panel, and its parts.
    for (side, channels) in [
        (1, 1),
        (2, 7),
        (3, 8),
        (4, 17),
        (5, 32),
        (6, 40),
        (7, 48),
        (8, 72),
        (13, 144),
    ] {
        for (kernel, padding) in [(1, 0), (3, 1), (5, 2)] {
            cases.push(Case {
                channels: [channels + 3, channels],
                sides: [side, side],
                kernel,
                padding: Padding::Symmetric(padding),
                residual: kernel == 3,
                activation: Activation::Relu,
                ..USUAL
            });
        }
    }
    for stride in [1, 2, 3] {
        for padding in [Padding::Symmetric(0), Padding::Symmetric(1), Padding::Same] {
            let case = Case {
                stride,
                padding,
                ..USUAL
            };
            cases.push(case);
            // The first layer; depthwise; groups of several channels.
            for (channels, groups, kernel) in [
                ([3, 24], 1, 7),
                ([3, 24], 1, 3),
                ([35, 35], 35, 3),
                ([96, 96], 96, 3),
                ([12, 12], 12, 5),
                ([9, 9], 9, 5),
                ([16, 24], 4, 3),
                ([64, 64], 32, 3),
            ] {
                cases.push(Case {
                    channels,
                    groups,
                    kernel,
                    sides: [15, 22],
                    activation: Activation::Relu6,
                    ..case
                });
            }
        }
    }
    // Sums that are cut, within a place of the kernel and between places.
    for channels in [300, 512, 1100] {
        for kernel in [1, 3] {
            cases.push(Case {
                batch: 1,
                channels: [channels, 80],
                kernel,
                padding: Padding::Symmetric(kernel / 2),
                residual: true,
                activation: Activation::Relu6,
                ..USUAL
            });
        }
    }
    // Padding beyond every window's reach; a sum after channels with kernels of their own.
    cases.push(Case {
        kernel: 1,
        padding: Padding::Symmetric(2),
        ..USUAL
    });
    cases.push(Case {
        channels: [21, 21],
        groups: 21,
        residual: true,
        activation: Activation::Relu,
        ..USUAL
    });
    // Many tiles, and several images in one.
    cases.push(Case {
        batch: 5,
        sides: [31, 33],
        channels: [20, 130],
        ..USUAL
    });
    // With fewer multiplications: sides of all remainders, chunks of squares, parts of panels.
    for (sides, channels) in [
        ([8, 8], [16, 64]),
        ([7, 8], [32, 48]),
        ([9, 15], [40, 20]),
        ([56, 56], [64, 64]),
        ([14, 14], [256, 256]),
        ([28, 27], [19, 129]),
        ([16, 16], [512, 64]),
        ([16, 16], [1024, 64]),
    ] {
        for padding in [0, 1, 2] {
            cases.push(Case {
                sides,
                channels,
                padding: Padding::Symmetric(padding),
                residual: padding == 1,
                activation: Activation::Relu,
                ..USUAL
            });
        }
    }
    cases.push(Case {
        batch: 40,
        sides: [1, 1],
        channels: [20, 130],
        ..USUAL
    });
    cases
}

/// The distance from the result in float64, of the largest value, of ours and of libtorch's in float32; and whether
/// ours has fewer multiplications.
fn errors(case: &Case, set: usize) -> (f64, f64, bool) {
    let Case {
        batch,
        channels: [inputs, outputs],
        sides: [height, width],
        kernel,
        stride,
        groups,
        ..
    } = *case;
    let images = random("images", &[batch, inputs, height, width]);
    let weight = random("weight", &[outputs, inputs / groups, kernel, kernel]);
    let (scale, shift) = (random("scale", &[outputs]), random("shift", &[outputs]));
    let pads = case
        .sides
        .map(|side| case.padding.amounts(side, kernel, stride));
    let output = case
        .sides
        .map(|side| case.padding.output(side, kernel, stride));
    let residual = random("residual", &[batch, outputs, output[0], output[1]]);
    let residual = case.residual.then_some(residual);
    let of = |kind: Kind| {
        let [rows, columns] = pads;
        let by_channel = |tensor: &Tensor| tensor.to_kind(kind).reshape([1, -1, 1, 1]);
        let padded = images.to_kind(kind);
        let padded = padded.constant_pad_nd([columns.0, columns.1, rows.0, rows.1]);
        let (weight, none) = (weight.to_kind(kind), None::<&Tensor>);
        let sums = padded.conv2d(&weight, none, [stride; 2], [0, 0], [1, 1], groups);
        let mut y = sums * by_channel(&scale) + by_channel(&shift);
        if let Some(residual) = &residual {
            y += residual;
        }
        match case.activation {
            Activation::None => y,
            Activation::Relu => y.relu(),
            Activation::Relu6 => y.clamp(0.0, 6.0),
        }
    };
    let exact = of(Kind::Double);
    let ours = Convolution::new(set, &weight, stride, groups).unwrap();
    let place = Place {
        padding: [pads[0].0, pads[1].0],
        output,
    };
    let norm = (&scale, &shift);
    let is_winograd = ours.suits_winograd(place);
    let ours = ours.run(&images, place, norm, residual.as_ref(), case.activation);
    let ours = ours.unwrap();
    assert_eq!(ours.size(), exact.size(), "{case:?}");
    let off = |found: &Tensor| {
        let most = (found.to_kind(Kind::Double) - &exact).abs().max();
        most.double_value(&[]) / exact.abs().max().double_value(&[]).max(1e-3)
    };
    (off(&ours), off(&of(Kind::Float)), is_winograd)
}

#[test]
fn they_are_those_of_float64() {
    for set in 0..convolution_sets() {
        let mut winograd = 0;
        for case in cases() {
            let (ours, libtorchs, is_winograd) = errors(&case, set);
            winograd += usize::from(is_winograd);
            // Sixteen products, of sums of four and of nine.
            let bound = if is_winograd { 8.0 } else { 3.0 } * libtorchs + 1e-6;
            assert!(
                ours < bound,
                "set {set}, {case:?}: off by {ours:e}, libtorch by {libtorchs:e}"
            );
        }
        assert!(winograd >= 18, "only {winograd}");
    }
}

#[test]
fn what_is_not_a_number_stays_in_its_windows() {
    let place = Place {
        padding: [1, 1],
        output: [8, 9],
    };
    for set in 0..convolution_sets() {
        let conv = Convolution::new(set, &random("weight", &[20, 32, 3, 3]), 1, 1).unwrap();
        assert!(conv.suits_winograd(place));
        let ones = Tensor::ones([20], (Kind::Float, tch::Device::Cpu));
        for (row, column) in [(0, 0), (3, 3), (4, 5), (7, 8), (2, 0)] {
            let images = random("images", &[1, 32, 8, 9]);
            let _ = images.get(0).get(5).get(row).get(column).fill_(f64::NAN);
            let y = conv.run(&images, place, (&ones, &ones), None, Activation::None);
            let found = Vec::<bool>::try_from(y.unwrap().get(0).get(0).isnan().flatten(0, -1));
            let expected =
                (0..8 * 9).map(|at: i64| (at / 9 - row).abs() <= 1 && (at % 9 - column).abs() <= 1);
            assert_eq!(
                found.unwrap(),
                expected.collect::<Vec<_>>(),
                "{row}, {column}"
            );
        }
    }
}

#[test]
fn max_pooling_is_that_of_libtorch() {
    for set in 0..convolution_sets() {
        for (channels, sides, kernel, stride, padding) in [
            (64, [13, 12], 3, 2, 1),
            (1, [5, 5], 3, 2, 1),
            (21, [9, 9], 2, 2, 0),
            (35, [8, 9], 3, 1, 1),
            (16, [3, 3], 3, 3, 0),
        ] {
            let images = random("images", &[2, channels, sides[0], sides[1]]);
            let _ = images.get(1).get(0).get(2).get(1).fill_(f64::NAN);
            let expected = images.max_pool2d([kernel; 2], [stride; 2], [padding; 2], [1, 1], false);
            let (_, _, height, width) = expected.size4().unwrap();
            let place = Place {
                padding: [padding, padding],
                output: [height, width],
            };
            let found = max_pool_cpu(set, &images, kernel, stride, place).unwrap();
            let bits = |tensor: &Tensor| {
                let values = Vec::<f32>::try_from(tensor.contiguous().flatten(0, -1)).unwrap();
                // One kind of not a number is as good as another.
                let bits = values
                    .iter()
                    .map(|value| if value.is_nan() { 1 } else { value.to_bits() });
                bits.collect::<Vec<_>>()
            };
            assert_eq!(
                bits(&found),
                bits(&expected),
                "set {set}, {channels}, {sides:?}"
            );
            assert!(expected.isnan().any().double_value(&[]) > 0.0);
        }
        let images = random("images", &[1, 4, 5, 5]);
        for (padding, output, part) in [
            ([3, 0], [2, 2], "beyond the image"),
            ([0, 0], [4, 2], "beyond the image"),
            ([0, 0], [0, 2], "no max pooling"),
        ] {
            let error = max_pool_cpu(set, &images, 3, 2, Place { padding, output }).unwrap_err();
            assert!(error.to_string().contains(part), "{error:#}");
        }
    }
}

#[test]
fn what_is_not_a_number_stays_so() {
    for set in 0..convolution_sets() {
        let conv = Convolution::new(set, &random("weight", &[20, 4, 1, 1]), 1, 1).unwrap();
        let images = random("images", &[1, 4, 2, 2]);
        let _ = images.get(0).get(1).get(1).get(0).fill_(f64::NAN);
        let ones = Tensor::ones([20], (Kind::Float, tch::Device::Cpu));
        let place = Place {
            padding: [0, 0],
            output: [2, 2],
        };
        for activation in [Activation::None, Activation::Relu, Activation::Relu6] {
            let y = conv
                .run(&images, place, (&ones, &ones), None, activation)
                .unwrap();
            let expected = [0, 0, 20, 0].map(i64::from).to_vec();
            let found: Vec<i64> = y
                .isnan()
                .sum_dim_intlist([0_i64, 1].as_slice(), false, Kind::Int64)
                .flatten(0, -1)
                .try_into()
                .unwrap();
            assert_eq!(found, expected, "{activation:?}");
        }
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    if convolution_sets() == 0 {
        return;
    }
    let conv = Convolution::new(0, &random("weight", &[6, 4, 3, 3]), 1, 1).unwrap();
    let norm = random("norm", &[6]);
    let place = |padding, output| Place { padding, output };
    let fits = place([1, 1], [5, 5]);
    let images = random("images", &[1, 4, 5, 5]);
    let run = |images: &Tensor, place, norm: &Tensor, residual: Option<&Tensor>| {
        let result = conv.run(images, place, (norm, norm), residual, Activation::None);
        result.map_err(|error| format!("{error:#}"))
    };
    assert!(run(&images, fits, &norm, None).is_ok());
    let wrong = [
        (
            run(&random("", &[1, 5, 5, 5]), fits, &norm, None),
            "5 channels",
        ),
        (
            run(&images.to_kind(Kind::Double), fits, &norm, None),
            "float32",
        ),
        (
            run(&images, place([-1, 1], [5, 5]), &norm, None),
            "5 x 5 pixels",
        ),
        (
            run(&images, place([1, 1], [5, 0]), &norm, None),
            "5 x 5 pixels",
        ),
        (
            run(&images, fits, &random("", &[5]), None),
            "the batch norm of 6 channels has a Float tensor of shape [5]",
        ),
        (
            run(&images, fits, &norm.to_kind(Kind::Double), None),
            "a Double tensor",
        ),
        (
            run(&images, fits, &norm, Some(&random("", &[1, 6, 4, 5]))),
            "a residual of shape",
        ),
        (
            Convolution::new(9, &random("", &[6, 4, 3, 3]), 1, 1)
                .map(|_| norm.copy())
                .map_err(|error| error.to_string()),
            "no convolutions",
        ),
        (
            Convolution::new(0, &random("", &[6, 4, 3, 2]), 1, 1)
                .map(|_| norm.copy())
                .map_err(|error| error.to_string()),
            "no convolution has a weight",
        ),
    ];
    for (at, (result, part)) in wrong.into_iter().enumerate() {
        let message = result.expect_err(&format!("case {at}"));
        assert!(message.contains(part), "case {at}: {message}");
    }
}
