//! The quantizers against the reference's numbers, and what they do with values that leave them no
//! choice.

use std::path::PathBuf;

use rsflow_model::quantizers::{
    Activations, BITS, Basis, Weights, activation_basis, average, weight_basis,
};
use serde_json::Value;
use tch::{Kind, Tensor};

/// Nested lists of numbers.
fn tensor(value: &Value) -> Tensor {
    fn gather(value: &Value, numbers: &mut Vec<f64>) {
        match value.as_array() {
            Some(list) => list.iter().for_each(|value| gather(value, numbers)),
            None => numbers.push(value.as_f64().unwrap()),
        }
    }
    let (mut shape, mut numbers) = (Vec::new(), Vec::new());
    let mut first = value;
    while let Some(list) = first.as_array() {
        shape.push(list.len() as i64);
        first = &list[0];
    }
    gather(value, &mut numbers);
    Tensor::from_slice(&numbers).view(shape.as_slice())
}

/// A basis, whose fixtures have the bits first: `[quantizers, bits]`.
fn basis(value: &Value) -> Tensor {
    let basis = tensor(value);
    match basis.dim() {
        1 => basis.unsqueeze(0),
        _ => basis.transpose(0, 1).contiguous(),
    }
}

fn difference(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.size(), expected.size());
    (found - expected).abs().max().double_value(&[])
}

/// Values at their levels, and the basis that is fitted to them.
type Step = fn(&Tensor, &Tensor) -> (Tensor, Tensor);

fn weights(values: &Tensor, basis: &Tensor) -> (Tensor, Tensor) {
    let step = Weights::new(values, basis).unwrap();
    let fitted = step.fitted(basis).unwrap();
    (step.quantized, fitted)
}

fn activations(values: &Tensor, basis: &Tensor) -> (Tensor, Tensor) {
    let step = Activations::new(values, basis).unwrap();
    let fitted = step.fitted(basis).unwrap();
    (step.quantized, fitted)
}

#[test]
fn quantizers_are_those_of_the_reference() {
    let folder = std::env::var_os("RSFLOW_REFERENCE").map_or_else(
        || {
            PathBuf::from(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../tests/fixtures/reference"
            ))
        },
        PathBuf::from,
    );
    let file = folder.join("lq_quantizers.json");
    let cases: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let mut failures = Vec::new();
    let mut compared = 0;
    let kinds: [(&str, &str, Step); 2] = [
        ("weights", "weight", weights),
        ("activations", "input", activations),
    ];
    for (kind, values, step) in kinds {
        for (index, case) in cases[kind].as_array().unwrap().iter().enumerate() {
            let bits = case["bits"].as_i64().unwrap();
            let values = tensor(&case[values]);
            let mut at = basis(&case["initial_basis"]);
            let initial = match kind {
                "weights" => weight_basis(&values.size(), bits).unwrap(),
                _ => activation_basis(bits),
            };
            let mut worst = [difference(&initial, &at), 0.0, 0.0];
            for expected in case["steps"].as_array().unwrap() {
                let (quantized, fitted) = step(&values, &at);
                worst[1] = f64::max(
                    worst[1],
                    difference(&quantized, &tensor(&expected["quantized"])),
                );
                worst[2] = f64::max(
                    worst[2],
                    difference(&fitted, &basis(&expected["least_squares_basis"])),
                );
                at = average(&at, &fitted);
            }
            let after = difference(&at, &basis(&case["basis_after_plain_ema_0_9"]));
            let [initial, quantized, fitted] = worst;
            let line = format!(
                "{kind} {index}, {bits} bits, {:?}: initial basis {initial:.1e}, quantized \
                 {quantized:.1e}, least squares {fitted:.1e}, averaged {after:.1e}",
                values.size()
            );
            println!("{line}");
            compared += 1;
            // A difference that is not a number fails as well.
            let fits = initial <= 1e-12 && quantized <= 1e-12 && fitted <= 1e-9 && after <= 1e-9;
            if !fits {
                failures.push(line);
            }
        }
    }
    assert!(compared > 0, "no cases");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Of a basis at 1 that is fitted to 2, 2, 4, 0: by hand.
///
/// | t | 0.9 biased + 0.1 fitted | 1 - 0.9^t | basis |
/// |---|---|---|---|
/// | 1 | 0.2 | 0.1 | 2 |
/// | 2 | 0.38 | 0.19 | 2 |
/// | 3 | 0.742 | 0.271 | 2.7380073800738007 |
/// | 4 | 0.6678 | 0.3439 | 1.9418435591741786 |
#[test]
fn a_basis_forgets_what_it_began_with() {
    let mut basis = Basis::new(Tensor::from_slice(&[1.0_f64]).view([1, 1]));
    for (fitted, expected) in [
        (2.0, 2.0),
        (2.0, 2.0),
        (4.0, 2.738_007_380_073_800_7),
        (0.0, 1.941_843_559_174_178_6),
    ] {
        let fitted = Tensor::from_slice(&[fitted]).view([1, 1]);
        basis.update(&fitted).unwrap();
        let found = basis.value().double_value(&[0, 0]);
        assert!((found - expected).abs() < 1e-14, "{found} for {expected}");
    }
    assert_eq!(basis.updates(), 4);
}

/// The gradients are those of the functions that stand in for the quantizers: the values themselves,
/// and the values up to the top level.
#[test]
fn gradients_are_those_of_finite_differences_of_the_surrogates() {
    let basis = Tensor::from_slice(&[0.2, 0.45]).view([1, 2]);
    let top = 0.65;
    let values = Tensor::arange_start_step(-1.0, 1.5, 0.137, (Kind::Double, tch::Device::Cpu));
    let factors = (&values * 3.0).sin();
    type Quantize = fn(&Tensor, &Tensor) -> Tensor;
    type Surrogate = fn(f64, f64) -> f64;
    let cases: [(&str, Quantize, Surrogate); 2] = [
        (
            "weights",
            |x, basis| {
                let shape = [1, x.size1().unwrap(), 1, 1];
                Weights::new(&x.view(shape), basis)
                    .unwrap()
                    .quantized
                    .view([-1])
            },
            |x, _| x,
        ),
        (
            "activations",
            |x, basis| Activations::new(x, basis).unwrap().quantized,
            f64::min,
        ),
    ];
    for (name, quantize, surrogate) in cases {
        let input = values.copy().set_requires_grad(true);
        (quantize(&input, &basis) * &factors)
            .sum(Kind::Double)
            .backward();
        let gradient = input.grad();
        for index in 0..values.size1().unwrap() {
            let (x, factor) = (
                values.double_value(&[index]),
                factors.double_value(&[index]),
            );
            let step = 1e-6;
            let rise = surrogate(x + step, top) - surrogate(x - step, top);
            let expected = factor * rise / (2.0 * step);
            let found = gradient.double_value(&[index]);
            assert!((found - expected).abs() < 1e-9, "{name} at {x}: {found}");
        }
    }
}

/// Every value is exactly at a level, in f32 too, whatever the bits.
#[test]
fn values_are_at_the_nearest_level() {
    tch::manual_seed(1);
    for bits in BITS {
        let weight = Tensor::randn([3, 4, 3, 3], (Kind::Float, tch::Device::Cpu)) * 0.2;
        let basis = weight_basis(&weight.size(), bits)
            .unwrap()
            .to_kind(Kind::Float);
        let quantized = Weights::new(&weight, &basis).unwrap().quantized;
        for channel in 0..3 {
            let basis: Vec<f32> = basis.get(channel).try_into().unwrap();
            let levels: Vec<f64> = (0..1 << bits)
                .map(|code: i64| {
                    let sign = |bit: usize| if code >> bit & 1 == 1 { 1.0 } else { -1.0 };
                    let terms = basis.iter().enumerate();
                    terms.map(|(bit, &v)| sign(bit) * f64::from(v)).sum()
                })
                .collect();
            let (before, after) = (weight.get(channel), quantized.get(channel));
            let before: Vec<f32> = before.reshape([-1]).try_into().unwrap();
            let after: Vec<f32> = after.reshape([-1]).try_into().unwrap();
            for (x, y) in before.into_iter().zip(after) {
                let (x, y) = (f64::from(x), f64::from(y));
                let nearest = levels.iter().map(|level| (level - x).abs());
                let nearest = nearest.fold(f64::INFINITY, f64::min);
                assert!(
                    ((y - x).abs() - nearest).abs() < 1e-6,
                    "{bits} bits: {x} to {y}"
                );
                let off = levels.iter().map(|level| (level - y).abs());
                assert!(off.fold(f64::INFINITY, f64::min) < 1e-6, "{bits} bits: {y}");
            }
        }
    }
}

/// f32 counts up to 2^24 only, which the activations of one layer exceed.
#[test]
fn a_fit_of_many_activations_counts_them_all() {
    let cpu = (Kind::Float, tch::Device::Cpu);
    let start = activation_basis(1).to_kind(Kind::Float);
    let (_, fitted) = activations(&Tensor::full([20_000_000], 0.75, cpu), &start);
    assert_eq!(fitted.double_value(&[0, 0]), 0.75);
}

#[test]
fn what_leaves_no_choice_keeps_the_basis_or_is_an_error() {
    let start = activation_basis(2);
    let same_code = Tensor::full([1000], 5.0, (Kind::Double, tch::Device::Cpu));
    let zeros = same_code.zeros_like();
    let only_first = &zeros + 0.5;
    for (name, input) in [
        ("zeros", &zeros),
        ("all at the top", &same_code),
        ("one code", &only_first),
    ] {
        let (_, fitted) = activations(input, &start);
        assert_eq!(difference(&fitted, &start), 0.0, "{name}");
    }

    // A channel of one constant: the ridge decides, and its levels reach the constant.
    let constant = Tensor::full([1, 8, 3, 3], 0.3, (Kind::Double, tch::Device::Cpu));
    let mut basis = weight_basis(&constant.size(), 2).unwrap();
    for _ in 0..3 {
        basis = weights(&constant, &basis).1;
    }
    let (quantized, _) = weights(&constant, &basis);
    assert!(difference(&quantized, &constant) < 1e-5);

    // What is no number stays none, and does not become the basis.
    let broken = constant.copy();
    let _ = broken.view([-1]).get(7).fill_(f64::NAN);
    let (quantized, fitted) = weights(&broken, &basis);
    assert_eq!(quantized.isnan().sum(Kind::Int64).int64_value(&[]), 1);
    let mut kept = Basis::new(basis.copy());
    let error = kept.update(&fitted).unwrap_err().to_string();
    assert!(error.contains("not finite"), "{error}");
    assert_eq!(difference(kept.value(), &basis), 0.0);

    let wide = Tensor::zeros([1, 9], (Kind::Double, tch::Device::Cpu));
    let error = format!("{:#}", Weights::new(&constant, &wide).unwrap_err());
    assert!(error.contains("1 to 8 bits, not 9"), "{error}");
    assert!(Weights::new(&constant, &activation_basis(2).repeat([2, 1])).is_err());
}
