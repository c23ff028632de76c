//! A recipe's fields one by one, as programs list them that compare runs.

use super::difference::{Written, read};
use super::lets::expanded;
use crate::fields::Shape;
use crate::node::Catalogue;
use crate::text::Text;

/// The fields that a recipe has, by path, such as `trainer.optimizer.lr`, in its order: numbers, words, lists and
/// strings as written on one line, strings without their quotes. A value with a name, such as `Sgd(lr: 0.1)`, has
/// an entry for the name, too. What a node reads from is left out, and so are fields that are not written. Empty
/// where the text is no recipe.
pub fn settings(recipe: &str) -> Vec<(String, String)> {
    let catalogue = Catalogue(&[]);
    let text = expanded(Text::new("", recipe), catalogue)
        .text
        .without_let();
    let Some(value) = read(&text) else {
        return Vec::new();
    };
    let whole = Written::new(&text, &value, catalogue);
    let mut found = Vec::new();
    for (name, value) in whole.entries().unwrap_or_default() {
        if name != "nodes" {
            add(&name, value, &mut found);
            continue;
        }
        let nodes = value.entries().unwrap_or_default();
        for (node, kind) in &nodes {
            for (field, value) in kind.entries().unwrap_or_default() {
                let text = value.unquoted();
                let (first, _) = text.split_once('.').unwrap_or((&text, ""));
                let is_reference = matches!(value.value.shape, Shape::Quoted)
                    && nodes.iter().any(|(name, _)| name == first);
                if !is_reference {
                    add(&format!("{node}.{field}"), value, &mut found);
                }
            }
        }
    }
    found
}

fn add(path: &str, value: Written, found: &mut Vec<(String, String)>) {
    let entries = value.entries().filter(|entries| !entries.is_empty());
    let Some(entries) = entries else {
        let text = match value.value.shape {
            Shape::Quoted => value.unquoted(),
            _ => value.line(),
        };
        found.push((path.to_owned(), text));
        return;
    };
    if !value.head().is_empty() {
        found.push((path.to_owned(), value.head().to_owned()));
    }
    for (name, value) in entries {
        add(&format!("{path}.{name}"), value, found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_listed_by_path() {
        let recipe = r#"(
            let: { "sizes": [64, 48] },
            seed: 3, // the first
            nodes: {
                "files": Folder(root: "data/a b", shuffle: true),
                "sizes": Resize(input: "files", sizes: $sizes),
                "trainer": RsNet(
                    train: "sizes", network: ResNet(depth: 18), schedule: Cosine,
                    optimizer: Sgd(lr: 0.05, weight_decay: Some(1e-4)), scale: (0.25,
                        1.0),
                ),
                "log": Log(input: "trainer.metrics"),
            },
        )"#;
        let expected = [
            ("seed", "3"),
            ("files.root", "data/a b"),
            ("files.shuffle", "true"),
            ("sizes.sizes", "[64, 48]"),
            ("trainer.network", "ResNet"),
            ("trainer.network.depth", "18"),
            ("trainer.schedule", "Cosine"),
            ("trainer.optimizer", "Sgd"),
            ("trainer.optimizer.lr", "0.05"),
            ("trainer.optimizer.weight_decay", "1e-4"),
            ("trainer.scale", "(0.25, 1.0)"),
        ];
        let expected = expected.map(|(path, value)| (path.to_owned(), value.to_owned()));
        assert_eq!(settings(recipe), expected);
        for text in ["", "(nodes:", "7"] {
            assert!(settings(text).is_empty(), "{text}");
        }
    }
}
