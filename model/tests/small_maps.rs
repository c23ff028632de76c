//! Convolutions over maps of a few values.

use rsflow_model::nn::compute::ExecConfig;
use rsflow_model::nn::kernels::{are_small_maps, small_maps_convolution};
use tch::{Device, Kind, Tensor};

fn in_layout(x: &Tensor, channels_last: bool) -> Tensor {
    let compute = ExecConfig {
        channels_last,
        ..ExecConfig::cpu(Kind::Float)
    };
    compute.to_memory_format(x.shallow_clone()).unwrap()
}

/// The largest difference, relative to the largest value.
fn off(a: &Tensor, b: &Tensor) -> f64 {
    let off = (a.to_kind(Kind::Double) - b).abs().max() / b.abs().max();
    off.double_value(&[])
}

/// The gradient of the weight over small maps is as near to that of float64 as libtorch's, in both layouts; the
/// output and the gradient of the images are libtorch's, to the bit.
#[test]
fn convolutions_over_small_maps_are_those_of_float64() {
    let wave = |shape: [i64; 4], speed: f64| {
        let count = shape.iter().product::<i64>();
        let ramp = Tensor::arange(count, (Kind::Double, Device::Cpu));
        (ramp * speed).sin().view(shape)
    };
    for (kind, channels, outputs, [height, width]) in [
        (Kind::BFloat16, 256, 256, [8, 8]),
        (Kind::BFloat16, 256, 512, [1, 3]),
        (Kind::Float, 512, 512, [4, 4]),
        (Kind::Float, 512, 640, [1, 1]),
    ] {
        let of_kind = |x: Tensor| x.to_kind(kind);
        let images = of_kind(wave([3, channels, height, width], 0.9));
        let weight = of_kind(wave([outputs, channels, 3, 3], 0.7) * 0.02);
        let upstream = of_kind(wave([3, outputs, height, width], 1.3));
        assert!(are_small_maps(&images, outputs));
        for last in [false, true] {
            let run = |kind: Kind, own: bool| {
                let leaf = |x: &Tensor| in_layout(&x.to_kind(kind), last).set_requires_grad(true);
                let (images, weight) = (leaf(&images), leaf(&weight));
                let output = match own {
                    true => small_maps_convolution(&images, &weight).unwrap(),
                    false => images.conv2d(&weight, None::<&Tensor>, 1, 1, 1, 1),
                };
                let inputs = [&images, &weight];
                let loss = (&output * upstream.to_kind(kind)).sum(kind);
                let mut gradients = Tensor::run_backward(&[&loss], &inputs, false, false);
                let of_weight = gradients.pop().unwrap();
                (output.detach(), gradients.pop().unwrap(), of_weight)
            };
            let case = format!("{kind:?}, {channels} x {height} x {width}, last {last}");
            let (exact, theirs, ours) =
                (run(Kind::Double, false), run(kind, false), run(kind, true));
            assert!(ours.0.equal(&theirs.0), "{case}");
            assert!(ours.1.equal(&theirs.1), "{case}");
            let (own, libtorch) = (off(&ours.2, &exact.2), off(&theirs.2, &exact.2));
            let rounding = if kind == Kind::Float { 1e-6 } else { 4e-3 };
            assert!(
                own <= libtorch.max(rounding),
                "{case}: off by {own}, libtorch by {libtorch}"
            );
        }
    }
    let large = Tensor::zeros([2, 512, 16, 16], (Kind::BFloat16, Device::Cpu));
    let few = Tensor::zeros([2, 64, 4, 4], (Kind::BFloat16, Device::Cpu));
    let double = Tensor::zeros([2, 512, 4, 4], (Kind::Double, Device::Cpu));
    for images in [large, few, double] {
        assert!(!are_small_maps(&images, 512), "{images:?}");
    }
}
