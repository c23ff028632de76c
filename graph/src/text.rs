//! A recipe's text, and where each byte of it came from.
//!
//! `--set` splices new values into the text, so that they pass the very same parser and checks as
//! what was written in the file. An error must still point at the place that the user knows: the
//! file, or the command-line argument. [`Text`] keeps that mapping.

use std::ops::Range;

/// The text that is parsed: the file's, with the command line's overrides spliced in.
#[derive(Clone, Debug)]
pub struct Text {
    path: String,
    original: String,
    resolved: String,
    edits: Vec<Edit>,
}

/// One spliced value.
#[derive(Clone, Debug)]
struct Edit {
    /// Where the new bytes stand in the resolved text.
    new: Range<usize>,
    /// What they replaced, as a range of the text before this edit (empty for an insertion).
    old: Range<usize>,
    /// The argument that asked for it, as typed.
    argument: String,
}

/// A stretch of text that a user can look up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// The file's path, or `command line`.
    pub path: &'a str,
    /// The whole text that the range is in.
    pub text: &'a str,
    /// Start of the range in `text`, in bytes.
    pub start: usize,
    /// End of the range in `text`, in bytes.
    pub end: usize,
}

impl Text {
    /// The text of the file at `path` (only named, not read), without overrides.
    pub fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        let original = text.into();
        Text {
            path: path.into(),
            resolved: original.clone(),
            original,
            edits: Vec::new(),
        }
    }

    /// The path as it was given.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The text with every override applied: what is parsed, and what a run writes as its
    /// `recipe.ron`.
    pub fn resolved(&self) -> &str {
        &self.resolved
    }

    /// A copy in which `range` of the resolved text reads `before` + `value` + `after`; errors
    /// within it point at `argument`.
    pub fn spliced(
        &self,
        range: Range<usize>,
        before: &str,
        value: &str,
        after: &str,
        argument: &str,
    ) -> Self {
        let replacement = format!("{before}{value}{after}");
        let mut text = self.clone();
        text.resolved.replace_range(range.clone(), &replacement);
        text.edits.push(Edit {
            new: range.start..range.start + replacement.len(),
            old: range,
            argument: argument.to_owned(),
        });
        text
    }

    /// Where the user finds `range` of the resolved text.
    pub fn place(&self, range: Range<usize>) -> Place<'_> {
        let (mut start, mut end) = (range.start, range.end);
        for edit in self.edits.iter().rev() {
            if start >= edit.new.start && start < edit.new.end {
                let value = edit.argument.find('=').map_or(0, |equals| equals + 1);
                return Place {
                    path: "command line",
                    text: &edit.argument,
                    start: value,
                    end: edit.argument.len(),
                };
            }
            let back = |at: usize| {
                if at >= edit.new.end {
                    at - edit.new.end + edit.old.end
                } else {
                    at.min(edit.old.end)
                }
            };
            (start, end) = (back(start), back(end));
        }
        Place {
            path: &self.path,
            text: &self.original,
            start: start.min(self.original.len()),
            end: end.clamp(start, self.original.len().max(start)),
        }
    }
}

/// Byte offset of a line and column, both counted from 1, the column in characters.
pub(crate) fn offset_of(text: &str, line: usize, column: usize) -> usize {
    let start = text
        .split_inclusive('\n')
        .take(line.saturating_sub(1))
        .map(str::len)
        .sum::<usize>();
    let rest = &text[start.min(text.len())..];
    let within = rest
        .char_indices()
        .nth(column.saturating_sub(1))
        .map_or(rest.len(), |(at, _)| at);
    start + within
}

/// Line and column, both counted from 1, of a byte offset.
pub fn line_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
    (line, column)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_survive_splices() {
        let text = Text::new("r.ron", "(seed: 0, nodes: {})");
        let at = text.resolved().find('0').unwrap();
        let text = text.spliced(at..at + 1, "", "12345", "", "seed=12345");
        assert_eq!(text.resolved(), "(seed: 12345, nodes: {})");
        let place = text.place(at..at + 5);
        assert_eq!(&place.text[place.start..place.end], "12345");
        assert_eq!(place.path, "command line");
        let nodes = text.resolved().find("nodes").unwrap();
        let place = text.place(nodes..nodes + 5);
        assert_eq!(&place.text[place.start..place.end], "nodes");
        assert_eq!(place.path, "r.ron");
    }

    #[test]
    fn offsets_and_columns_agree() {
        let text = "ab\nçd\n";
        for (offset, expected) in [(0, (1, 1)), (3, (2, 1)), (5, (2, 2)), (7, (3, 1))] {
            assert_eq!(line_column(text, offset), expected);
            assert_eq!(offset_of(text, expected.0, expected.1), offset);
        }
    }
}
