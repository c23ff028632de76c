//! Differences between two recipes, by meaning and not by text.

use super::lets::expanded;
use super::number::{float, integer};
use crate::fields::{self, Shape, Token, Value};
use crate::node::Catalogue;
use crate::text::Text;

/// The differences of the recipe `now` from the recipe `was`: one line for each field, and for each
/// node that only one of them has. Empty if both mean the same.
///
/// Comments, white space, the order of nodes and fields and the notation of values do not count.
/// Nor does `cpu_workers`, on which results do not depend. A field that only one of them has is a
/// difference even if it has its default value. Present and former names of a kind of `catalogue` are
/// the same.
pub fn differences(now: &str, was: &str, catalogue: Catalogue) -> Vec<String> {
    let [now, was] = [now, was].map(|text| {
        let text = Text::new("", text);
        expanded(text, catalogue).text.without_let()
    });
    differences_as_written(&now, &was, catalogue)
}

/// The same with each `$name` as a value of its own, and with `let`: recipes that are the same may become
/// different where a value of `let` is set.
pub fn differences_as_written(now: &str, was: &str, catalogue: Catalogue) -> Vec<String> {
    let Some(was_value) = read(was) else {
        return vec!["the previous recipe cannot be parsed".to_owned()];
    };
    let Some(now_value) = read(now) else {
        return vec!["the current recipe cannot be parsed".to_owned()];
    };
    let now = Written::new(now, &now_value, catalogue);
    let was = Written::new(was, &was_value, catalogue);
    let mut found = Vec::new();
    for (name, now, was) in paired(now.entries(), was.entries()) {
        match name.as_str() {
            "cpu_workers" => {}
            "nodes" => {
                let [now, was] = [now, was].map(|nodes| nodes.and_then(Written::entries));
                for (node, now, was) in paired(now, was) {
                    match (now, was) {
                        (Some(_), None) => found.push(format!("node `{node}` was added")),
                        (None, Some(_)) => found.push(format!("node `{node}` was removed")),
                        (now, was) => compare(&node, now, was, &mut found),
                    }
                }
            }
            _ => compare(&name, now, was, &mut found),
        }
    }
    found
}

pub(super) fn read(text: &str) -> Option<Value> {
    fields::ron(text).ok()?;
    fields::shape(text)
}

#[derive(Clone, Copy)]
pub(super) struct Written<'a> {
    text: &'a str,
    pub value: &'a Value,
    catalogue: Catalogue,
}

/// Names and values in parentheses or braces.
pub(super) type Entries<'a> = Vec<(String, Written<'a>)>;

/// Compares the values at `path`; `None` where a recipe does not have the field.
fn compare(path: &str, now: Option<Written>, was: Option<Written>, found: &mut Vec<String>) {
    if let (Some(now), Some(was)) = (now, was) {
        if now.equals(was) {
            return;
        }
        if let (Some(inner_now), Some(inner_was)) = (now.entries(), was.entries())
            && now.head() == was.head()
        {
            for (name, now, was) in paired(Some(inner_now), Some(inner_was)) {
                compare(&format!("{path}.{name}"), now, was, found);
            }
            return;
        }
    }
    let [now, was] = [now, was].map(|value| value.map_or("(default)".to_owned(), Written::line));
    found.push(format!("{path}: {now}, was {was}"));
}

/// Entries paired by name: in the order of `now`, then those that only `was` has.
fn paired<'a>(
    now: Option<Entries<'a>>,
    was: Option<Entries<'a>>,
) -> Vec<(String, Option<Written<'a>>, Option<Written<'a>>)> {
    let mut was = was.unwrap_or_default();
    let mut pairs = Vec::new();
    for (name, value) in now.unwrap_or_default() {
        let other = was.iter().position(|(other, _)| *other == name);
        let other = other.map(|position| was.remove(position).1);
        pairs.push((name, Some(value), other));
    }
    pairs.extend(
        was.into_iter()
            .map(|(name, value)| (name, None, Some(value))),
    );
    pairs
}

impl<'a> Written<'a> {
    /// `Some(value)` is the same as `value`.
    pub fn new(text: &'a str, value: &'a Value, catalogue: Catalogue) -> Self {
        match &value.shape {
            Shape::Tuple(items) if &text[value.head.clone()] == "Some" && items.len() == 1 => {
                Written::new(text, &items[0], catalogue)
            }
            _ => Written {
                text,
                value,
                catalogue,
            },
        }
    }

    /// The name before the parentheses; of a kind, its present one.
    pub fn head(self) -> &'a str {
        let head = &self.text[self.value.head.clone()];
        self.catalogue.find(head).map_or(head, |kind| kind.name)
    }

    fn items(self) -> Option<Vec<Written<'a>>> {
        match &self.value.shape {
            Shape::List(items) | Shape::Tuple(items) => Some(
                items
                    .iter()
                    .map(|item| Written::new(self.text, item, self.catalogue))
                    .collect(),
            ),
            _ => None,
        }
    }

    /// Empty for `Name` and `Name()`; `None` for lists, tuples and strings.
    pub fn entries(self) -> Option<Entries<'a>> {
        let entry = |name: String, value| (name, Written::new(self.text, value, self.catalogue));
        match &self.value.shape {
            Shape::Fields(fields) => Some(
                fields
                    .iter()
                    .map(|field| entry(self.text[field.name.clone()].to_owned(), &field.value))
                    .collect(),
            ),
            Shape::Map(pairs) => Some(
                pairs
                    .iter()
                    .map(|(key, value)| {
                        entry(
                            Written::new(self.text, key, self.catalogue).unquoted(),
                            value,
                        )
                    })
                    .collect(),
            ),
            Shape::Word => Some(Vec::new()),
            Shape::Tuple(items) if items.is_empty() => Some(Vec::new()),
            Shape::Tuple(_) | Shape::List(_) | Shape::Quoted => None,
        }
    }

    /// The contents of a string; anything else as written.
    pub fn unquoted(self) -> String {
        let written = &self.text[self.value.span.clone()];
        let text = fields::options().from_str::<String>(written);
        text.unwrap_or_else(|_| written.to_owned())
    }

    /// Whether both are the same number, word, string, list or tuple.
    fn equals(self, other: Written) -> bool {
        match (&self.value.shape, &other.value.shape) {
            (Shape::Word, Shape::Word) => {
                let (one, other) = (self.head(), other.head());
                match (integer(one), integer(other)) {
                    (Some(one), Some(other)) => one == other,
                    _ => one == other || float(one).is_some_and(|it| Some(it) == float(other)),
                }
            }
            (Shape::Quoted, Shape::Quoted) => self.unquoted() == other.unquoted(),
            (Shape::List(_), Shape::List(_)) | (Shape::Tuple(_), Shape::Tuple(_)) => {
                let (one, two) = (self.items(), other.items());
                let (one, two) = (one.unwrap_or_default(), two.unwrap_or_default());
                let differ = |(one, two): (&Written, &Written)| {
                    let mut found = Vec::new();
                    compare("", Some(*one), Some(*two), &mut found);
                    !found.is_empty()
                };
                self.head() == other.head()
                    && one.len() == two.len()
                    && !one.iter().zip(&two).any(differ)
            }
            _ => false,
        }
    }

    /// On one line, without comments.
    pub fn line(self) -> String {
        let written = &self.text[self.value.span.clone()];
        let mut line = String::new();
        for (token, span) in fields::tokens(written) {
            if let Token::Mark(')' | ']' | '}') = token {
                line.truncate(line.trim_end_matches(", ").len());
            }
            line.push_str(&written[span]);
            if let Token::Mark(',' | ':') = token {
                line.push(' ');
            }
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAS: &str = r#"(
        seed: 1,
        nodes: {
            "files": Folder(root: "data", sizes: [64, 32], scale: (0.08, 1.0)),
            "net":   Net(
                input: "files",
                network: ResNet(depth: 18), // small
                optimizer: Sgd(lr: 0.0001),
                threads: Some(2),
            ),
        },
    )"#;

    /// What differs after `from` was replaced by `to`.
    fn replaced(from: &str, to: &str) -> Vec<String> {
        let now = WAS.replace(from, to);
        assert_ne!(now, WAS, "{from} is not there");
        differences(&now, WAS, Catalogue(&[]))
    }

    #[test]
    fn notation_does_not_count() {
        for (from, to) in [
            (" // small", "/* large */\n\n"),
            ("0.0001", "1e-4"),
            ("lr: 0.0001", "lr: 1.0e-04"),
            ("depth: 18", "depth: 0x12"),
            ("0.08, 1.0", "8e-2, 1"),
            ("\"data\"", "r#\"data\"#"),
            ("\"data\"", "\"d\\u{61}ta\""),
            ("Some(2)", "2"),
            ("32],", "32,],"),
            ("seed: 1,", "seed: 1, cpu_workers: 7,"),
            (
                "(\n        seed: 1,",
                "#![enable(implicit_some)]\n(seed: 1,",
            ),
            (
                "root: \"data\", sizes: [64, 32]",
                "sizes: [64, 32], root: \"data\"",
            ),
        ] {
            assert_eq!(replaced(from, to), [""; 0], "{from} -> {to}");
        }
        let reordered = "(nodes: {\
            \"net\": Net(threads: 2, optimizer: Sgd(lr: 1e-4), network: ResNet(depth: 18), input: \"files\"),\
            \"files\": Folder(scale: (0.08, 1), sizes: [64, 32], root: \"data\")}, seed: 1)";
        assert_eq!(differences(reordered, WAS, Catalogue(&[])), [""; 0]);
    }

    #[test]
    fn every_difference_is_listed_by_field() {
        for (from, to, expected) in [
            ("seed: 1", "seed: 2", "seed: 2, was 1"),
            ("seed: 1,", "", "seed: (default), was 1"),
            // Different as integers, equal as floats.
            (
                "seed: 1",
                "seed: 9007199254740993",
                "seed: 9007199254740993, was 1",
            ),
            ("\"data\"", "\"Data\"", "files.root: \"Data\", was \"data\""),
            ("64, 32", "64, 48,", "files.sizes: [64, 48], was [64, 32]"),
            ("64, 32", "32, 64", "files.sizes: [32, 64], was [64, 32]"),
            ("64, 32", "64", "files.sizes: [64], was [64, 32]"),
            (
                "1.0)",
                "/* less */ 0.9)",
                "files.scale: (0.08, 0.9), was (0.08, 1.0)",
            ),
            ("18", "50", "net.network.depth: 50, was 18"),
            (
                "depth: 18",
                "depth: 18, width: 64",
                "net.network.width: 64, was (default)",
            ),
            (
                "ResNet(depth: 18)",
                "ResNet()",
                "net.network.depth: (default), was 18",
            ),
            (
                "ResNet(depth: 18)",
                "MobileNet(\n    width: 0.5,\n)",
                "net.network: MobileNet(width: 0.5), was ResNet(depth: 18)",
            ),
            ("0.0001", "2e-4", "net.optimizer.lr: 2e-4, was 0.0001"),
            ("Some(2)", "None", "net.threads: None, was 2"),
            (
                "Folder(root: \"data\", sizes: [64, 32], scale: (0.08, 1.0))",
                "Zip",
                "files: Zip, was Folder(root: \"data\", sizes: [64, 32], scale: (0.08, 1.0))",
            ),
            (
                "\"net\":",
                "\"more\": Log(), \"net\":",
                "node `more` was added",
            ),
        ] {
            assert_eq!(replaced(from, to), [expected], "{from} -> {to}");
        }
        assert_eq!(
            replaced("\"net\":", "\"trainer\":"),
            ["node `trainer` was added", "node `net` was removed"]
        );
        assert_eq!(
            differences(
                "(seed: 9007199254740993, nodes: {})",
                "(seed: 9007199254740992, nodes: {})",
                Catalogue(&[]),
            ),
            ["seed: 9007199254740993, was 9007199254740992"]
        );
    }

    #[test]
    fn invalid_recipes_do_not_panic() {
        for text in ["", "(", "(nodes: {", &"(".repeat(100_000), "\u{0}"] {
            assert_eq!(
                differences(WAS, text, Catalogue(&[])),
                ["the previous recipe cannot be parsed"],
                "{text:.9}"
            );
        }
        assert_eq!(differences(WAS, "3", Catalogue(&[])).len(), 3);
    }
}
