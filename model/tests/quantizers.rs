//! The quantizers against the reference's numbers, and what they do with values that leave them no
//! choice.

use anyhow::Result;
use rsflow_model::nn::quantizers::{BITS, Basis, Gradient, activations, ema, packed, weights};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

#[path = "../../tests/fixtures/mod.rs"]
mod fixtures;
use fixtures::reference;

const F32: (Kind, Device) = (Kind::Float, Device::Cpu);
const F64: (Kind, Device) = (Kind::Double, Device::Cpu);

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

/// The shape of a convolution's weight.
fn shape(weight: &Tensor) -> [i64; 4] {
    weight.size().try_into().unwrap()
}

/// The basis that networks start with: `[1, bits]`.
fn start(smallest: f64, bits: i64) -> Tensor {
    let basis: Vec<f64> = (0..bits as i32).map(|j| smallest * 2_f64.powi(j)).collect();
    Tensor::from_slice(&basis).view([1, bits])
}

fn start_of_activations(bits: i64) -> Tensor {
    start(activations::initial_basis(bits), bits)
}

/// For a weight of `shape`: `[output, bits]`.
fn start_of_weights(shape: [i64; 4], bits: i64) -> Tensor {
    let channel = start(weights::initial_basis(shape, bits), bits);
    channel.expand([shape[0], bits], false).contiguous()
}

/// Values at their levels, and the basis that is fitted to them.
type Step = fn(&Tensor, &Tensor) -> Result<(Tensor, Tensor)>;

fn quantize_weights(values: &Tensor, basis: &Tensor) -> Result<(Tensor, Tensor)> {
    let levels = weights::levels(basis)?;
    let (quantized, fit) =
        levels.quantize_with_statistics(values, Gradient::StraightThrough, false)?;
    Ok((quantized, weights::fit_basis(&fit, basis)?))
}

fn quantize_activations(values: &Tensor, basis: &Tensor) -> Result<(Tensor, Tensor)> {
    let levels = activations::levels(basis)?;
    let (quantized, fit) =
        levels.quantize_with_statistics(values, Gradient::ClippedIdentity, false)?;
    Ok((quantized, activations::fit_basis(&fit, basis)?))
}

#[test]
fn quantizers_are_those_of_the_reference() {
    let file = reference().join("lq_quantizers.json");
    let cases: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let mut failures = Vec::new();
    let kinds: [(&str, &str, Step); 2] = [
        ("weights", "weight", quantize_weights),
        ("activations", "input", quantize_activations),
    ];
    for (kind, values, step) in kinds {
        let cases = cases[kind].as_array().unwrap();
        assert!(!cases.is_empty(), "no cases of {kind}");
        for (index, case) in cases.iter().enumerate() {
            let bits = case["bits"].as_i64().unwrap();
            let values = tensor(&case[values]);
            let mut at = basis(&case["initial_basis"]);
            let initial = match kind {
                "weights" => start_of_weights(shape(&values), bits),
                _ => start_of_activations(bits),
            };
            let mut worst = [difference(&initial, &at), 0.0, 0.0];
            for expected in case["steps"].as_array().unwrap() {
                let (quantized, fitted) = step(&values, &at).unwrap();
                worst[1] = f64::max(
                    worst[1],
                    difference(&quantized, &tensor(&expected["quantized"])),
                );
                worst[2] = f64::max(
                    worst[2],
                    difference(&fitted, &basis(&expected["least_squares_basis"])),
                );
                at = ema(&at, &fitted).unwrap();
            }
            let after = difference(&at, &basis(&case["basis_after_plain_ema_0_9"]));
            let [initial, quantized, fitted] = worst;
            let line = format!(
                "{kind} {index}, {bits} bits, {:?}: initial basis {initial:.1e}, quantized \
                 {quantized:.1e}, least squares {fitted:.1e}, averaged {after:.1e}",
                values.size()
            );
            println!("{line}");
            // A difference that is not a number fails as well.
            let fits = initial <= 1e-12 && quantized <= 1e-12 && fitted <= 1e-9 && after <= 1e-9;
            if !fits {
                failures.push(line);
            }
        }
    }
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
    let start = Tensor::from_slice(&[1.0_f64]).view([1, 1]);
    let basis = Basis {
        average: start.zeros_like(),
        updates: Tensor::zeros([1], F64),
        value: start,
    };
    for (fitted, expected) in [
        (2.0, 2.0),
        (2.0, 2.0),
        (4.0, 2.738_007_380_073_800_7),
        (0.0, 1.941_843_559_174_178_6),
    ] {
        let fitted = Tensor::from_slice(&[fitted]).view([1, 1]);
        basis.update(&fitted).unwrap();
        let found = basis.value.double_value(&[0, 0]);
        assert!((found - expected).abs() < 1e-14, "{found} for {expected}");
    }
    assert_eq!(basis.updates.double_value(&[0]), 4.0);
    assert!(basis.update(&Tensor::zeros([1, 2], F64)).is_err());
}

/// The gradients are those of the functions that stand in for the quantizers.
#[test]
fn gradients_are_those_of_finite_differences_of_the_surrogates() {
    let basis = Tensor::from_slice(&[0.2, 0.45]).view([1, 2]);
    let top = 0.65;
    let values = Tensor::arange_start_step(-1.0, 1.5, 0.137, F64);
    let factors = (&values * 3.0).sin();
    type Surrogate = fn(f64, f64) -> f64;
    let cases: [(Gradient, Surrogate); 3] = [
        (Gradient::StraightThrough, |x, _| x),
        (Gradient::ClippedIdentity, f64::min),
        (Gradient::ClippedRelu, |x, top| x.clamp(0.0, top)),
    ];
    for (gradient, surrogate) in cases {
        for in_place in [false, true] {
            let input = values.copy().set_requires_grad(true);
            let levels = activations::levels(&basis).unwrap();
            // What is quantized in place is nobody's but the quantizer's.
            let own = &input * 1.0;
            let quantized = levels.quantize(&own, gradient, in_place).unwrap();
            assert_eq!(in_place, own.data_ptr() == quantized.data_ptr());
            (quantized * &factors).sum(Kind::Double).backward();
            for index in 0..values.size1().unwrap() {
                let [x, factor, found] =
                    [&values, &factors, &input.grad()].map(|of| of.double_value(&[index]));
                let step = 1e-6;
                let rise = surrogate(x + step, top) - surrogate(x - step, top);
                let expected = factor * rise / (2.0 * step);
                assert!(
                    (found - expected).abs() < 1e-9,
                    "{gradient:?} at {x}: {found}"
                );
            }
        }
    }
}

/// In vectors of f32 too, to their ends, and however the values and the gradient lie in memory.
#[test]
fn gradients_pass_where_their_values_do() {
    tch::manual_seed(4);
    let basis = start_of_activations(2).to_kind(Kind::Float);
    let top = basis.sum(Kind::Float).double_value(&[]);
    for gradient in [Gradient::ClippedIdentity, Gradient::ClippedRelu] {
        for channels_last in [false, true] {
            let values = Tensor::randn([3, 5, 7, 11], F32);
            let values = match channels_last {
                true => values
                    .permute([0, 2, 3, 1])
                    .contiguous()
                    .permute([0, 3, 1, 2]),
                false => values,
            };
            let factors = Tensor::randn([11, 7, 5, 3], F32).permute([3, 2, 1, 0]);
            let input = values.detach_copy().set_requires_grad(true);
            let levels = activations::levels(&basis).unwrap();
            let (quantized, _) = levels
                .quantize_with_statistics(&(&input * 1.0), gradient, true)
                .unwrap();
            assert_eq!(
                quantized,
                levels
                    .quantize(&values.contiguous(), gradient, false)
                    .unwrap()
            );
            (quantized * &factors).sum(Kind::Float).backward();
            let mut passes = values.le(top);
            if gradient == Gradient::ClippedRelu {
                passes = passes.logical_and(&values.gt(0.0));
            }
            assert_eq!(
                input.grad(),
                factors.masked_fill(&passes.logical_not(), 0.0)
            );
        }
    }
    let levels = activations::levels(&basis).unwrap();
    let leaf = Tensor::zeros([4], F32).set_requires_grad(true);
    assert!(
        levels
            .quantize(&leaf, Gradient::ClippedIdentity, true)
            .is_err()
    );
    for kind in [Kind::Float, Kind::BFloat16] {
        let empty = Tensor::zeros([0, 4], (kind, Device::Cpu));
        assert_eq!(
            levels
                .quantize(&empty, Gradient::ClippedIdentity, false)
                .unwrap()
                .numel(),
            0
        );
    }
}

/// The levels of a channel's basis, in the order of the codes.
fn levels_of(basis: &[f64], low: f64) -> Vec<f64> {
    let code = |code: i64, bit: usize| if code >> bit & 1 == 1 { 1.0 } else { low };
    let codes = 0..1_i64 << basis.len();
    let level = |number| {
        let terms = basis.iter().enumerate();
        terms.map(|(bit, v)| code(number, bit) * v).sum()
    };
    codes.map(level).collect()
}

/// Every value is exactly at the nearest level, the counts and sums are those of all values, in f32
/// and f64, for any number of bits and of values (vectors end somewhere), in place or not, in whatever
/// kind of number and with whatever sign the basis has.
#[test]
fn values_are_at_the_nearest_level() {
    tch::manual_seed(1);
    for bits in BITS {
        for kind in [Kind::Float, Kind::Double, Kind::BFloat16] {
            for elements in [1, 7, 16, 37, 1000, 40_000] {
                let values = Tensor::randn([2, elements], F64).to_kind(kind);
                // The second has a negative element, and its levels another order.
                let mut basis = Tensor::rand([2, bits], F64);
                let _ = basis.get(1).get(0).neg_();
                if kind == Kind::Float || kind == Kind::BFloat16 {
                    basis = basis.to_kind(Kind::Float);
                }
                let levels = weights::levels(&basis).unwrap();
                let (quantized, fit) = levels
                    .quantize_with_statistics(&values, Gradient::StraightThrough, false)
                    .unwrap();
                let own = values.copy();
                let same = levels
                    .quantize(&own, Gradient::StraightThrough, true)
                    .unwrap();
                assert_eq!(same, quantized);
                assert_eq!(own, quantized);
                // What is at a level stays there, unless it had to be rounded.
                if kind != Kind::BFloat16 {
                    let again = levels.quantize(&quantized, Gradient::StraightThrough, false);
                    assert_eq!(again.unwrap(), quantized);
                }
                // Least squares of the codes that are found here.
                let mut ours = Vec::new();
                for row in 0..2 {
                    let get = |of: &Tensor| -> Vec<f64> {
                        of.get(row).to_kind(Kind::Double).try_into().unwrap()
                    };
                    let (before, after, basis) = (get(&values), get(&quantized), get(&basis));
                    let all = levels_of(&basis, -1.0);
                    let mut products = vec![0.0; (bits * bits) as usize];
                    let mut targets = vec![0.0; bits as usize];
                    for (x, y) in before.into_iter().zip(after) {
                        let distance = |level: &f64| (level - x).abs();
                        let nearest = (0..all.len())
                            .min_by(|&a, &b| distance(&all[a]).total_cmp(&distance(&all[b])))
                            .unwrap();
                        let tolerance = if kind == Kind::BFloat16 { 0.02 } else { 1e-5 };
                        assert!(
                            ((y - x).abs() - distance(&all[nearest])).abs() < tolerance,
                            "{bits} bits, {kind:?}: {x} to {y}, not {}",
                            all[nearest]
                        );
                        for i in 0..bits as usize {
                            let sign =
                                |bit: usize| if nearest >> bit & 1 == 1 { 1.0 } else { -1.0 };
                            targets[i] += sign(i) * x;
                            for j in 0..bits as usize {
                                products[i * bits as usize + j] += sign(i) * sign(j);
                            }
                        }
                    }
                    let products = Tensor::from_slice(&products).view([bits, bits]);
                    let old = Tensor::from_slice(&basis);
                    let system = products + Tensor::eye(bits, F64) * 1e-4;
                    let right = Tensor::from_slice(&targets) + old * 1e-4;
                    ours.push(Tensor::linalg_solve(&system, &right, true));
                }
                // In doubt between two levels, rounding decides, and then they are not comparable.
                if kind == Kind::Double {
                    let fitted = weights::fit_basis(&fit, &basis).unwrap();
                    let ours = Tensor::stack(&ours, 0);
                    let off: Tensor = (&fitted - &ours) / (1.0 + ours.abs());
                    let off = off.abs().max();
                    let off = off.double_value(&[]);
                    assert!(off < 1e-9, "{bits} bits, {elements} values: {off:.1e}");
                }
            }
        }
    }
}

/// Libtorch's operators, which do it on GPUs and for values of another kind than the levels, find what
/// the pass over memory finds: quantized values and gradients to the bit, fits to the rounding of sums.
#[test]
fn operators_find_what_the_pass_over_memory_does() {
    tch::manual_seed(5);
    for bits in BITS {
        for gradient in [
            Gradient::StraightThrough,
            Gradient::ClippedIdentity,
            Gradient::ClippedRelu,
        ] {
            let values = Tensor::randn([3, 40_007], F32);
            let basis = Tensor::rand([3, bits], F32);
            let levels = weights::levels(&basis).unwrap();
            let [pass, operators] = [Kind::Float, Kind::Double].map(|kind| {
                let input = values.to_kind(kind).detach_copy().set_requires_grad(true);
                let (quantized, fit) = levels
                    .quantize_with_statistics(&input, gradient, false)
                    .unwrap();
                (&quantized * &values).sum(Kind::Double).backward();
                let found = [quantized, input.grad()].map(|t| t.to_kind(Kind::Float));
                (found, weights::fit_basis(&fit, &basis).unwrap())
            });
            assert_eq!(pass.0, operators.0, "{bits} bits, {gradient:?}");
            let off = difference(&pass.1, &operators.1);
            assert!(off < 1e-5, "{bits} bits, {gradient:?}: {off:.1e}");
        }
    }
}

/// The sums of a pass do not depend on the number of threads.
#[test]
fn fits_are_the_same_with_any_number_of_threads() {
    tch::manual_seed(2);
    let values = Tensor::randn([300_000], F32);
    let basis = start_of_activations(3).to_kind(Kind::Float);
    let threads = tch::get_num_threads();
    let mut fits = Vec::new();
    for count in [1, 2, 5] {
        tch::set_num_threads(count);
        fits.push(quantize_activations(&values, &basis).unwrap());
    }
    tch::set_num_threads(threads);
    assert!(fits.iter().all(|fit| *fit == fits[0]));
}

/// f32 counts up to 2^24 only, which the activations of one layer exceed.
#[test]
fn a_fit_of_many_activations_counts_them_all() {
    let start = start_of_activations(1).to_kind(Kind::Float);
    let (_, fitted) = quantize_activations(&Tensor::full([20_000_000], 0.75, F32), &start).unwrap();
    assert_eq!(fitted.double_value(&[0, 0]), 0.75);
}

#[test]
fn packed_weights_are_the_same_to_the_bit() {
    tch::manual_seed(3);
    for bits in BITS {
        let weight = Tensor::randn([3, 5, 3, 3], F32) * 0.2;
        let basis = start_of_weights(shape(&weight), bits).to_kind(Kind::Float);
        let _ = basis.get(2).get(0).neg_();
        let quantized = quantize_weights(&weight, &basis).unwrap().0;
        let codes = packed::pack(&weight, &basis).unwrap();
        assert_eq!(
            codes.numel() as u64,
            packed::packed_bytes(3 * 5 * 9, bits as u64)
        );
        let unpacked = packed::unpack(&codes, &basis, &weight.size()).unwrap();
        assert_eq!(unpacked, quantized, "{bits} bits");
        // And quantized once more, as a network does that is trained on.
        assert_eq!(quantize_weights(&unpacked, &basis).unwrap().0, quantized);
        for wrong in [0, 9, 40, 64] {
            let (basis, codes) = (Tensor::zeros([3, wrong], F32), codes.narrow(0, 0, 1));
            let codes = codes.repeat([wrong, 1]);
            let error = packed::unpack(&codes, &basis, &weight.size()).unwrap_err();
            let error = format!("{error:#}");
            assert!(
                error.contains(&format!("1 to 8 bits, not {wrong}")),
                "{error}"
            );
        }
        let few = codes.narrow(1, 0, 16);
        let error = packed::unpack(&few, &basis, &weight.size()).unwrap_err();
        assert!(error.to_string().contains("must have the shape"), "{error}");
    }
}

/// Levels between which there is no further number stay apart.
#[test]
fn neighbouring_levels_keep_their_values() {
    let one = 1.0_f32;
    for next in [one.next_up(), one.next_up().next_up()] {
        let basis = Tensor::from_slice(&[one, next - one]).view([1, 2]);
        let levels = activations::levels(&basis).unwrap();
        let values = Tensor::from_slice(&[one, next]);
        assert_eq!(
            levels
                .quantize(&values, Gradient::ClippedIdentity, false)
                .unwrap(),
            values
        );
    }
}

#[test]
fn what_leaves_no_choice_keeps_the_basis_or_is_an_error() {
    let start = start_of_activations(2);
    let same_code = Tensor::full([1000], 5.0, F64);
    let zeros = same_code.zeros_like();
    let only_first = &zeros + 0.5;
    for (name, input) in [
        ("zeros", &zeros),
        ("all at the top", &same_code),
        ("one code", &only_first),
    ] {
        let (_, fitted) = quantize_activations(input, &start).unwrap();
        assert_eq!(difference(&fitted, &start), 0.0, "{name}");
    }

    // A channel of one constant: the ridge decides, and its levels reach the constant.
    let constant = Tensor::full([1, 8, 3, 3], 0.3, F64);
    let mut basis = start_of_weights(shape(&constant), 2);
    for _ in 0..3 {
        basis = quantize_weights(&constant, &basis).unwrap().1;
    }
    let (quantized, _) = quantize_weights(&constant, &basis).unwrap();
    assert!(difference(&quantized, &constant) < 1e-5);

    // What is no number stays none, so that the loss tells.
    for (kind, broken) in [
        (Kind::Float, f64::NAN),
        (Kind::Float, f64::INFINITY),
        (Kind::Double, f64::NEG_INFINITY),
        (Kind::BFloat16, f64::NAN),
    ] {
        let values = constant.to_kind(kind);
        for place in [7, 71] {
            let _ = values.view([-1]).get(place).fill_(broken);
        }
        let basis = basis.to_kind(if kind == Kind::Double {
            kind
        } else {
            Kind::Float
        });
        let (quantized, _) = quantize_weights(&values, &basis).unwrap();
        assert_eq!(
            quantized.isnan().sum(Kind::Int64).int64_value(&[]),
            2,
            "{broken}"
        );
    }

    let wide = Tensor::zeros([1, 9], F64);
    let error = format!("{:#}", quantize_weights(&constant, &wide).unwrap_err());
    assert!(error.contains("1 to 8 bits, not 9"), "{error}");
    let two = start_of_activations(2).repeat([2, 1]);
    let error = format!("{:#}", quantize_weights(&constant, &two).unwrap_err());
    assert!(
        error.contains("2 quantizers for values of the shape"),
        "{error}"
    );
}
