//! What to do with a file whose tensors do not fit the network.

use std::collections::{HashMap, HashSet};

use anyhow::Result;
use rsflow_base::shown::quoted;

use super::fit::{Fit, Problems};
use super::state_dict::StateDict;
use crate::nn::networks::Network;
use crate::nn::parameters::join_problems;

/// Parts of names by which networks are recognized that are not here, the most telling first.
const MARKS: [(&str, &str); 16] = [
    (
        "lora_",
        "a LoRA adapter; merge the adapters into the weights before you save them",
    ),
    (
        "weight_fake_quant",
        "a network that PyTorch quantized; save the one in floating point",
    ),
    (
        "_packed_params",
        "a network that PyTorch quantized; save the one in floating point",
    ),
    ("cls_token", "a vision transformer"),
    ("class_token", "a vision transformer"),
    ("patch_embed", "a transformer or a mixer"),
    ("relative_position_bias_table", "a Swin transformer"),
    ("denseblock", "a DenseNet"),
    (
        "conv1.0.weight",
        "a residual network with a stem of three convolutions, such as resnet50d",
    ),
    (".se.", "a network with squeeze-and-excitation"),
    (".se_module.", "a network with squeeze-and-excitation"),
    (
        ".block.",
        "an EfficientNet, MobileNetV3 or ConvNeXt of torchvision",
    ),
    (
        "conv_stem.",
        "an EfficientNet, MobileNetV3 or deeper MobileNetV2 of timm",
    ),
    ("stem.conv", "a ResNetV2 or RegNet of timm"),
    ("stages.", "a ConvNeXt, RegNet or ResNetV2"),
    ("trunk_output", "a RegNet of torchvision"),
];

/// Prefixes that a part of the names has where tensors of a wrapped and of a bare network were put together.
const WRAPPERS: [&str; 3] = ["module.", "_orig_mod.", "model."];

/// Why a file is refused, and the way out as far as names and shapes show it.
///
/// # Errors
/// As [`Fit::new`], but not for networks that are only tried.
pub(super) fn explain(
    state: &StateDict,
    fit: &Fit,
    resolutions: &[u32],
    problems: &Problems,
) -> Result<String> {
    let mut text = format!("its tensors do not fit {}", fit.network);
    if let Some((name, network)) = fitting(state, resolutions) {
        text += &format!("; they are those of {network}: --arch {name}");
        return Ok(text);
    }
    text += &match hint(state, fit, problems) {
        Some(hint) => format!(": {hint}"),
        None => "; is it another network?".to_owned(),
    };
    for (what, names) in [
        ("Missing", &problems.missing),
        ("Shape mismatch", &problems.misshaped),
        ("Not in the network", &problems.unknown),
    ] {
        if !names.is_empty() {
            text += &format!("{} {what}: {}", end_of(&text), join_problems(names));
        }
    }
    Ok(text)
}

/// The full stop after a sentence that has none.
fn end_of(text: &str) -> &'static str {
    match text.ends_with(['?', '.']) {
        true => "",
        false => ".",
    }
}

/// The network whose tensors these are, and its name on the command line.
fn fitting(state: &StateDict, resolutions: &[u32]) -> Option<(&'static str, Network)> {
    // Those with a width are examples: the default width becomes that of the tensors.
    let names = Network::NAMES.split(", ");
    let names = names.filter(|name| !name.contains("_x") && !name.contains("_0"));
    names.into_iter().find_map(|name| {
        let fit = Fit::new(state, &Network::by_name(name)?, resolutions).ok()?;
        fit.problems(state)
            .is_empty()
            .then_some((name, fit.network))
    })
}

fn hint(state: &StateDict, fit: &Fit, problems: &Problems) -> Option<String> {
    if problems.missing.len() + problems.misshaped.len() > 0
        && let Some(hint) = mixed_prefixes(state, fit)
    {
        return Some(hint);
    }
    let Problems {
        missing, misshaped, ..
    } = problems;
    if misshaped.is_empty() && !missing.is_empty() {
        let mut classifier = fit.expected.iter().filter(|e| e.is_classifier);
        let of_classifier: Vec<String> = classifier
            .by_ref()
            .filter_map(|e| e.theirs.as_deref().map(quoted))
            .collect();
        if missing.iter().all(|name| of_classifier.contains(name)) {
            return Some(
                "it has no classifier; save the weights of a network with one, trained or not"
                    .to_owned(),
            );
        }
        let statistics = [".running_mean\"", ".running_var\""];
        let is_statistic = |name: &String| statistics.iter().any(|end| name.ends_with(end));
        if missing.iter().all(is_statistic) {
            return Some(
                "its norms have no running statistics, so they are not batch norms, or were not \
                 saved with `model.state_dict()`"
                    .to_owned(),
            );
        }
    }
    if missing.is_empty() && misshaped.is_empty() {
        let first = problems.unknown.first()?;
        return Some(format!(
            "it has all of the network, and more, such as {first}; save the network's own \
             `state_dict()`"
        ));
    }
    let marked = MARKS.iter().find_map(|(mark, what)| {
        let name = state.names().find(|name| name.contains(mark))?;
        Some((name, what))
    });
    let (name, what) = marked?;
    Some(format!(
        "{} is of {what}. There are {}",
        quoted(name),
        Network::NAMES
    ))
}

/// Names of the network of which only some have a prefix, or others are beside them.
fn mixed_prefixes(state: &StateDict, fit: &Fit) -> Option<String> {
    let expected: HashSet<&str> = fit
        .expected
        .iter()
        .filter_map(|expected| expected.theirs.as_deref())
        .collect();
    // A part of the network is not it: a prefix counts with more than half of all names.
    let is_most = |count: usize| 2 * count > expected.len();
    let mut prefixes: Vec<(&str, usize)> = Vec::new();
    let mut positions = HashMap::new();
    for name in state.names() {
        for (at, _) in name.match_indices('.') {
            if expected.contains(&name[at + 1..]) {
                let prefix = &name[..=at];
                let position = *positions.entry(prefix).or_insert(prefixes.len());
                match prefixes.get_mut(position) {
                    Some((_, count)) => *count += 1,
                    None => prefixes.push((prefix, 1)),
                }
            }
        }
    }
    let there = expected
        .iter()
        .filter(|name| state.find_one(name).is_some());
    let there = there.count();
    let of_wrapper =
        |&(prefix, count): &(&str, usize)| WRAPPERS.contains(&prefix) && is_most(count + there);
    let most: Vec<&str> = prefixes
        .iter()
        .filter(|prefix| is_most(prefix.1))
        .map(|(prefix, _)| *prefix)
        .collect();
    let prefix = match most[..] {
        [] => prefixes.iter().find(|prefix| of_wrapper(prefix))?.0,
        [prefix] => prefix,
        // Two networks, such as a student and a teacher.
        [first, second, ..] => {
            return Some(format!(
                "it holds several networks, under {} and {}; save the `state_dict()` of one of them",
                quoted(first.trim_end_matches('.')),
                quoted(second.trim_end_matches('.'))
            ));
        }
    };
    let other = state.names().find(|name| !name.starts_with(prefix))?;
    let prefix = quoted(&format!("{}{prefix}", state.prefix));
    let save = match there > 0 {
        true => format!(
            "Save one kind of names: `{{name.removeprefix({prefix}): t for name, t in state.items()}}`"
        ),
        false => format!(
            "Save the network alone: `{{name.removeprefix({prefix}): t for name, t in state.items() if name.startswith({prefix})}}`"
        ),
    };
    Some(format!(
        "some names begin with {prefix}, others do not, such as {}. {save}",
        quoted(&format!("{}{other}", state.prefix))
    ))
}
