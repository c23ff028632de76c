//! Which class of a network each class of some data is: matched by name.

use std::collections::HashMap;

use anyhow::{Result, bail, ensure};
use rsflow_base::nfc::nfc;
use rsflow_base::shown::Shown as _;
use rsflow_graph::{did_you_mean, first_few};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The order in which class folders are the classes of a network whose class names are not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ClassOrder {
    /// Sorted as text, as torchvision's `ImageFolder` does: 0, 1, 10, 11, 2.
    #[default]
    Text,
    /// Sorted as numbers: 0, 1, 2, 10, 11.
    Numeric,
}

/// The network's class of each class of some data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassMap {
    /// `None`: each is the class of its own index.
    to: Option<Vec<i64>>,
    /// Classes of the network that the data lacks.
    pub missing: usize,
}

impl ClassMap {
    /// The map of data whose classes are the network's, in the same order.
    pub fn identity() -> Self {
        ClassMap {
            to: None,
            missing: 0,
        }
    }

    pub fn is_identity(&self) -> bool {
        self.to.is_none()
    }

    /// The network's labels for those of the data; `None` if they are the same.
    pub fn labels(&self, labels: &[i64]) -> Option<Vec<i64>> {
        let to = self.to.as_ref()?;
        // A label that is no class of the data is none of the network's either.
        let label = |&label: &i64| to.get(label as usize).copied().unwrap_or(-1);
        Some(labels.iter().map(label).collect())
    }
}

/// Matches the classes of data with those of a network by name. Data may lack classes of the network.
/// A network whose class names are not known has empty names: then the order counts. `origin` names the
/// data in messages.
///
/// # Errors
/// A class that the network does not know; names that occur twice; an `order` that does not apply.
pub fn match_classes(
    network: &[String],
    data: &[String],
    origin: &str,
    order: ClassOrder,
) -> Result<ClassMap> {
    if network.iter().any(String::is_empty) {
        return match_by_order(network, data, origin, order);
    }
    ensure!(
        order == ClassOrder::Text,
        "the network's classes have names, by which the class folders are matched: leave the numeric \
         class order out"
    );
    let same = |(a, b): (&String, &String)| nfc(a) == nfc(b);
    if network.len() == data.len() && network.iter().zip(data).all(same) {
        return Ok(ClassMap::identity());
    }
    let mut index = HashMap::new();
    for (class, name) in (0_i64..).zip(network) {
        if let Some(other) = index.insert(nfc(name), class) {
            bail!(
                "the network's classes {other} and {class} are both named `{}`, so {origin} cannot be \
                 matched by name",
                name.shown()
            );
        }
    }
    let found = data
        .iter()
        .map(|name| index.get(&nfc(name)).copied().ok_or(name));
    let (known, unknown): (Vec<_>, Vec<_>) = found.partition(Result::is_ok);
    let unknown: Vec<&String> = unknown.into_iter().filter_map(Result::err).collect();
    if let Some(first) = unknown.first() {
        let near = did_you_mean(first, network.iter().map(String::as_str));
        let near = near.map_or_else(String::new, |near| format!("{near} "));
        bail!(
            "{origin} has {} that the network was not trained on: {}; {near}the network has {} classes: {}",
            match unknown.len() {
                1 => "a class".to_owned(),
                count => format!("{count} classes"),
            },
            first_few(&unknown),
            network.len(),
            first_few(network)
        );
    }
    let to: Vec<i64> = known.into_iter().filter_map(Result::ok).collect();
    Ok(ClassMap {
        missing: network.len().saturating_sub(to.len()),
        to: Some(to),
    })
}

fn match_by_order(
    network: &[String],
    data: &[String],
    origin: &str,
    order: ClassOrder,
) -> Result<ClassMap> {
    ensure!(
        network.len() == data.len(),
        "the network has {} classes, whose names are not known, but {origin} has {}; to evaluate some of \
         its classes, import the network with `--class-names`",
        network.len(),
        data.len()
    );
    let mut pairs = network.iter().zip(data).enumerate();
    let differs = |ours: &str, theirs: &str| !ours.is_empty() && nfc(ours) != nfc(theirs);
    if let Some((class, (ours, theirs))) = pairs.find(|(_, (ours, theirs))| differs(ours, theirs)) {
        bail!(
            "the network was trained on other classes than {origin} holds: class {class} is `{}`, not \
             `{}`",
            ours.shown(),
            theirs.shown()
        );
    }
    let numbers: Option<Vec<u64>> = data.iter().map(|name| name.parse().ok()).collect();
    let Some(numbers) = numbers else {
        ensure!(
            order == ClassOrder::Text,
            "the numeric class order needs class folders whose names are numbers; {origin} has {}",
            first_few(data)
        );
        return Ok(ClassMap::identity());
    };
    let mut sorted: Vec<usize> = (0..numbers.len()).collect();
    sorted.sort_by_key(|&class| numbers[class]);
    if sorted.is_sorted() {
        return Ok(ClassMap::identity());
    }
    if order == ClassOrder::Text {
        tracing::warn!(
            "the network's class names are not known, and the class folders of {origin} are numbers, which \
             are sorted as text here ({}, ...): if the network's classes are in the order of the numbers, \
             `eval --class-order numeric` matches them, and `import --class-names` with a list of the names \
             in the network's order does it for good",
            first_few(&data[..data.len().min(5)])
        );
        return Ok(ClassMap::identity());
    }
    let mut to = vec![0; numbers.len()];
    for (rank, class) in (0..).zip(sorted) {
        to[class] = rank;
    }
    Ok(ClassMap {
        to: Some(to),
        missing: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn classes_are_matched_by_name() {
        let text = ClassOrder::Text;
        let twelve: Vec<String> = (0..12).map(|number| number.to_string()).collect();
        let mut as_text = twelve.clone();
        as_text.sort();
        let unknown = vec![String::new(); 12];
        let map = |network: &[String], data: &[String], order| {
            let map = match_classes(network, data, "DATA", order).unwrap();
            let labels: Vec<i64> = (0..data.len() as i64).collect();
            (map.labels(&labels).unwrap_or(labels), map.missing)
        };
        let three = names(&["cat", "dog", "eel"]);
        for (network, data, order, labels, missing) in [
            (&three, &three, text, vec![0, 1, 2], 0),
            (
                &three,
                &names(&["eel", "cat", "dog"]),
                text,
                vec![2, 0, 1],
                0,
            ),
            (&three, &names(&["eel"]), text, vec![2], 2),
            (
                &names(&["caf\u{e9}", "zoo"]),
                &names(&["cafe\u{301}", "zoo"]),
                text,
                vec![0, 1],
                0,
            ),
            (
                // Names that are alike, but in the same order.
                &names(&["crane", "crane"]),
                &names(&["crane", "crane"]),
                text,
                vec![0, 1],
                0,
            ),
            (
                &twelve,
                &as_text,
                text,
                vec![0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9],
                0,
            ),
            (&unknown, &as_text, text, (0..12).collect(), 0),
            (
                &unknown,
                &as_text,
                ClassOrder::Numeric,
                vec![0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9],
                0,
            ),
        ] {
            assert_eq!(map(network, data, order), (labels, missing), "{data:?}");
        }
        assert_eq!(
            match_classes(&three, &names(&["eel", "cat", "dog"]), "DATA", text)
                .unwrap()
                .labels(&[3, -1]),
            Some(vec![-1, -1]),
            "what is no class of the data"
        );
    }

    #[test]
    fn classes_that_do_not_match_are_named() {
        let three = names(&["cat", "dog", "eel"]);
        let unknown = vec![String::new(); 3];
        let partly = names(&["cat", "", ""]);
        let (text, numeric) = (ClassOrder::Text, ClassOrder::Numeric);
        for (network, data, order, expected) in [
            (
                &three,
                names(&["cat", "dogs"]),
                text,
                "DATA has a class that the network was not trained on: `dogs`; did you mean `dog`? the \
                 network has 3 classes: `cat`, `dog`, `eel`",
            ),
            (
                &three,
                names(&["train", "validation"]),
                text,
                "DATA has 2 classes that the network was not trained on: `train`, `validation`; the network",
            ),
            (
                &names(&["crane", "crane"]),
                names(&["crane"]),
                text,
                "classes 0 and 1 are both named `crane`",
            ),
            (
                &three,
                names(&["1", "2", "3"]),
                numeric,
                "leave the numeric class order out",
            ),
            (
                &unknown,
                names(&["1", "2"]),
                text,
                "the network has 3 classes, whose names are not known, but DATA has 2;",
            ),
            (
                &unknown,
                names(&["1", "2", "x"]),
                numeric,
                "DATA has `1`, `2`, `x`",
            ),
            (
                &partly,
                names(&["dog", "eel", "x"]),
                text,
                "class 0 is `cat`, not `dog`",
            ),
        ] {
            let error = match_classes(network, &data, "DATA", order).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
