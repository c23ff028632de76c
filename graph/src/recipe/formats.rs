//! What is given as a recipe and is in another language, as the configurations of other programs are: YAML, TOML,
//! JSON.

use std::ops::Range;
use std::path::Path;

use serde::de::IgnoredAny;

use crate::problem::Problem;

const HELP: &str = "a recipe has this form, and `rsflow new DATA` writes a whole one:
(
    nodes: {\"train_files\": ImageFolder(root: \"data/train\"), ...},
)";

/// Explains a text that is no recipe, if it is known in what language it is.
pub(super) fn foreign_format(path: &str, text: &str) -> Option<Problem> {
    let (line, span) = first_line(text)?;
    if line.starts_with('(') {
        return None;
    }
    let ending = Path::new(path)
        .extension()
        .and_then(|ending| ending.to_str());
    let language = match ending.unwrap_or_default() {
        "yaml" | "yml" => "YAML",
        "toml" => "TOML",
        "json" => "JSON",
        _ if is_json(text) => "JSON",
        _ if is_yaml(line) => "YAML",
        _ if is_toml(line) => "TOML",
        _ => return None,
    };
    let problem = Problem::new(format!("this is {language}, but a recipe is RON"), span);
    Some(problem.help(HELP))
}

/// The first line that is neither empty nor a comment of YAML or TOML, and its place.
fn first_line(text: &str) -> Option<(&str, Range<usize>)> {
    let mut end = 0;
    let mut lines = text.split_inclusive('\n').map(|line| {
        end += line.len();
        let start = end - line.trim_start().len();
        (line.trim(), start..start + line.trim().len())
    });
    let line = lines
        .find(|(line, _)| !line.is_empty() && (!line.starts_with('#') || line.starts_with("#!")));
    // A comment of RON's.
    line.filter(|(line, _)| !line.starts_with("//") && !line.starts_with("/*"))
}

/// All of it, so that a recipe with names in quotes is not taken for JSON.
fn is_json(text: &str) -> bool {
    text.trim_start().starts_with(['{', '[']) && serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// `---`, `- item`, `key:`, `key: value`, but no node of a recipe.
fn is_yaml(line: &str) -> bool {
    let is_entry = line.split_once(':').is_some_and(|(key, value)| {
        let is_apart = value.is_empty() || value.starts_with(char::is_whitespace);
        is_key(key) && is_apart && !value.contains(['(', '{']) && !value.ends_with(',')
    });
    line == "---" || line.starts_with("- ") || line.starts_with("%YAML") || is_entry
}

/// `[table]`, `key = value`.
fn is_toml(line: &str) -> bool {
    let table = line.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    let is_table = table.is_some_and(|name| is_key(name.trim_matches(['[', ']'])));
    is_table || line.split_once('=').is_some_and(|(key, _)| is_key(key))
}

fn is_key(text: &str) -> bool {
    let name = text.trim().trim_matches(['"', '\'']);
    name.starts_with(|c: char| c.is_alphabetic() || c == '_')
        && name
            .chars()
            .all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_languages_are_recognized_by_their_first_line() {
        let table = [
            ("y.ron", "model: resnet18\n", Some("YAML")),
            ("y.ron", "# c\n\n---\n(x)", Some("YAML")),
            ("y.ron", "nodes:\n  a: 1\n", Some("YAML")),
            ("y.ron", "- a\n- b\n", Some("YAML")),
            ("y.ron", "\"epochs\": 3\n", Some("YAML")),
            ("t.ron", "# c\n[trainer]\nepochs = 3\n", Some("TOML")),
            ("t.ron", "[[node]]\n", Some("TOML")),
            ("t.ron", "train.epochs = 3\n", Some("TOML")),
            ("j.ron", "{\"nodes\": {\"a\": null}}", Some("JSON")),
            ("j.ron", " [1,\n2]", Some("JSON")),
            ("j.json", "{\"nodes\": {},}", Some("JSON")),
            ("y.yml", "{a: 1}", Some("YAML")),
            ("r.ron", "(nodes: {})", None),
            ("r.yaml", "(nodes: {})", None),
            ("r.ron", "nodes: {\"a\": Batch()}", None),
            ("r.ron", "\"a\": Batch(input: \"b\")", None),
            ("r.ron", "{\"nodes\": {\"a\": Batch()}}", None),
            ("r.ron", "#![enable(implicit_some)]\n(", None),
            ("r.ron", "# comment\n(nodes: {})", None),
            ("r.ron", "// a = b\n", None),
            ("r.ron", "http://x", None),
            ("r.ron", "", None),
        ];
        for (path, text, expected) in table {
            let found = foreign_format(path, text).map(|problem| problem.message);
            let expected = expected.map(|it| format!("this is {it}, but a recipe is RON"));
            assert_eq!(found, expected, "{path}: {text}");
        }
    }

    #[test]
    fn the_first_line_has_its_place() {
        let text = "# c\n  a: 1  \nb: 2";
        let problem = foreign_format("r.ron", text).unwrap();
        assert_eq!(&text[problem.span], "a: 1");
    }
}
