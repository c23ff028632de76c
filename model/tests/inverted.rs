//! Inverted residual blocks row by row, with every instruction set, against their convolutions one after the other.

mod filled;

use anyhow::Result;
use filled::random;
use rsflow_model::nn::kernels::{
    Activation, Convolution, Inverted, Normed, Place, convolution_sets,
};
use rsflow_model::nn::layers::Padding;
use tch::{Device, Kind, Tensor};

#[derive(Clone, Copy, Debug)]
struct Case {
    batch: i64,
    /// Of the images, between the convolutions, and of the output.
    channels: [i64; 3],
    sides: [i64; 2],
    stride: i64,
    padding: Padding,
    has_expansion: bool,
    has_residual: bool,
}

const USUAL: Case = Case {
    batch: 2,
    channels: [8, 48, 16],
    sides: [23, 19],
    stride: 1,
    padding: Padding::Symmetric(1),
    has_expansion: true,
    has_residual: false,
};

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    // Every number of rows for a thread and of pixels in a tile, and every width of a panel.
    for (side, channels) in [
        (1, [3, 7, 1]),
        (2, [5, 16, 17]),
        (3, [16, 96, 24]),
        (5, [24, 144, 32]),
        (14, [32, 192, 65]),
        (28, [8, 40, 8]),
        (17, [20, 512, 40]),
    ] {
        for stride in [1, 2, 3] {
            for padding in [Padding::Symmetric(1), Padding::Same] {
                cases.push(Case {
                    channels,
                    sides: [side, side],
                    stride,
                    padding,
                    ..USUAL
                });
            }
        }
    }
    let without_expansion = |channels, outputs| Case {
        channels: [channels, channels, outputs],
        has_expansion: false,
        ..USUAL
    };
    cases.extend([
        without_expansion(32, 16),
        without_expansion(9, 50),
        Case {
            stride: 2,
            batch: 3,
            ..without_expansion(21, 24)
        },
        Case { batch: 1, ..USUAL },
        Case {
            batch: 5,
            sides: [7, 9],
            ..USUAL
        },
        Case {
            has_residual: true,
            ..USUAL
        },
        Case {
            has_residual: true,
            ..without_expansion(16, 16)
        },
        Case {
            padding: Padding::Symmetric(0),
            ..USUAL
        },
        Case {
            padding: Padding::Symmetric(2),
            ..USUAL
        },
    ]);
    cases
}

/// A convolution with a batch norm's scale and shift.
struct Part {
    convolution: Convolution,
    scale: Tensor,
    shift: Tensor,
    activation: Activation,
}

impl Part {
    fn new(
        set: usize,
        name: &str,
        shape: &[i64],
        (stride, groups): (i64, i64),
        activation: Activation,
    ) -> Part {
        let of_channels = |what: &str| random(&format!("{name} {what}"), &shape[..1]);
        Part {
            convolution: Convolution::new(set, &random(name, shape), stride, groups).unwrap(),
            scale: of_channels("scale"),
            shift: of_channels("shift"),
            activation,
        }
    }

    fn normed(&self) -> Normed<'_> {
        Normed {
            convolution: &self.convolution,
            norm: (&self.scale, &self.shift),
            activation: self.activation,
        }
    }

    fn run(&self, x: &Tensor, place: Place, residual: Option<&Tensor>) -> Tensor {
        let norm = (&self.scale, &self.shift);
        let y = self
            .convolution
            .run(x, place, norm, residual, self.activation);
        y.unwrap()
    }
}

struct Parts {
    expand: Option<Part>,
    depthwise: Part,
    project: Part,
}

impl Parts {
    fn new(case: &Case, set: usize) -> Parts {
        let [inputs, inner, outputs] = case.channels;
        let pointwise = |name, inputs, outputs, activation| {
            Part::new(set, name, &[outputs, inputs, 1, 1], (1, 1), activation)
        };
        let relu6 = Activation::Relu6;
        Parts {
            expand: (case.has_expansion).then(|| pointwise("expand", inputs, inner, relu6)),
            depthwise: Part::new(
                set,
                "depthwise",
                &[inner, 1, 3, 3],
                (case.stride, inner),
                relu6,
            ),
            project: pointwise("project", inner, outputs, Activation::None),
        }
    }

    fn run(&self, images: &Tensor, place: Place, residual: Option<&Tensor>) -> Result<Tensor> {
        let block = Inverted {
            expand: self.expand.as_ref().map(Part::normed),
            depthwise: self.depthwise.normed(),
            project: self.project.normed(),
        };
        block.run(images, place, residual)
    }
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    let values = Vec::<f32>::try_from(tensor.contiguous().flatten(0, -1)).unwrap();
    // One kind of not a number is as good as another.
    let bits = values.iter().map(|value| match value.is_nan() {
        true => f32::NAN.to_bits(),
        false => value.to_bits(),
    });
    bits.collect()
}

fn place_of(case: &Case) -> Place {
    let pads = case
        .sides
        .map(|side| case.padding.amounts(side, 3, case.stride));
    Place {
        padding: [pads[0].0, pads[1].0],
        output: case
            .sides
            .map(|side| case.padding.output(side, 3, case.stride)),
    }
}

#[test]
fn they_are_their_convolutions_to_the_bit() {
    for set in 0..convolution_sets() {
        for case in cases() {
            let [inputs, _, outputs] = case.channels;
            let [height, width] = case.sides;
            let images = random("images", &[case.batch, inputs, height, width]) * 4;
            let _ = images
                .get(0)
                .get(0)
                .get(height / 2)
                .get(width - 1)
                .fill_(f64::NAN);
            let parts = Parts::new(&case, set);
            let place = place_of(&case);
            if place.output.contains(&0) {
                continue;
            }
            let residual = case.has_residual.then(|| {
                random(
                    "residual",
                    &[case.batch, outputs, place.output[0], place.output[1]],
                )
            });
            let whole = Place {
                padding: [0, 0],
                output: case.sides,
            };
            let widened = match &parts.expand {
                Some(expand) => expand.run(&images, whole, None),
                None => images.copy(),
            };
            let filtered = parts.depthwise.run(&widened, place, None);
            let after = Place {
                padding: [0, 0],
                output: place.output,
            };
            let expected = parts.project.run(&filtered, after, residual.as_ref());
            for threads in [1, 2, 7] {
                tch::set_num_threads(threads);
                let found = parts.run(&images, place, residual.as_ref()).unwrap();
                assert_eq!(found.size(), expected.size(), "{case:?}");
                assert!(
                    bits(&found) == bits(&expected),
                    "set {set}, {threads} threads, {case:?}"
                );
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    if convolution_sets() == 0 {
        return;
    }
    let parts = Parts::new(&USUAL, 0);
    let (place, [height, width]) = (place_of(&USUAL), USUAL.sides);
    let images = random("images", &[1, 8, height, width]);
    assert!(parts.run(&images, place, None).is_ok());
    let changed = |change: fn(&mut Parts)| {
        let mut parts = Parts::new(&USUAL, 0);
        change(&mut parts);
        parts.run(&images, place, None)
    };
    let wide = Case {
        channels: [8, 513, 16],
        ..USUAL
    };
    let nowhere = Place {
        output: [0, 5],
        ..place
    };
    let no_block = "no inverted residual block";
    for (at, (result, part)) in [
        (
            parts.run(&random("", &[1, 9, height, width]), place, None),
            no_block,
        ),
        (
            parts.run(&images.to_kind(Kind::Double), place, None),
            "float32",
        ),
        (parts.run(&images, nowhere, None), "23 x 19 pixels"),
        (
            parts.run(&images, place, Some(&images)),
            "a residual of shape",
        ),
        (changed(|parts| parts.expand = None), no_block),
        (
            changed(|parts| parts.project = Parts::new(&USUAL, 0).depthwise),
            no_block,
        ),
        (
            changed(|parts| parts.depthwise = Parts::new(&USUAL, 0).project),
            no_block,
        ),
        (
            changed(|parts| parts.depthwise.scale = Tensor::ones([3], (Kind::Float, Device::Cpu))),
            "the batch norm of 48 channels",
        ),
        (
            Parts::new(&wide, 0).run(&images, place, None),
            "513 channels",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let message = format!("{:#}", result.expect_err(&format!("case {at}")));
        assert!(message.contains(part), "case {at}: {message}");
    }
}
