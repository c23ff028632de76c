//! A recipe's text with overrides, and the origin of each byte.
//!
//! `--set` splices values into the text, so that they pass the same parser and checks as the file;
//! then the values of `let` replace each `$name`. Errors must still point at what the user wrote, the
//! file or the command-line argument: [`Text`] keeps that mapping.

use std::ops::Range;

use crate::expansion::Expansion;
use crate::fields;

/// The file's text with overrides spliced in, and then expanded.
#[derive(Clone, Debug)]
pub struct Text {
    path: String,
    original: String,
    /// With overrides.
    written: String,
    edits: Vec<Edit>,
    /// `None` where it is as written.
    expansion: Option<Expansion>,
}

/// One spliced value.
#[derive(Clone, Debug)]
struct Edit {
    /// The new bytes, as a range of the text after this edit.
    new: Range<usize>,
    /// The bytes they replaced, as a range of the text before this edit (empty for an insertion).
    old: Range<usize>,
    /// The value within `new`; names of new fields surround it.
    value: Range<usize>,
    /// The argument, as typed.
    argument: String,
    /// The field's name in the argument.
    typed_name: Range<usize>,
    /// The value in the argument.
    typed_value: Range<usize>,
}

impl Edit {
    /// The place in the argument of `range`, which is in `new`.
    fn place(&self, range: Range<usize>) -> Place<'_> {
        let typed = if !self.value.contains(&range.start) {
            self.typed_name.clone()
        } else if self.value.len() == self.typed_value.len() {
            let typed =
                |at: usize| self.typed_value.start + at.min(self.value.end) - self.value.start;
            typed(range.start)..typed(range.end)
        } else {
            // It was put into quotes.
            self.typed_value.clone()
        };
        Place {
            path: "command line",
            text: &self.argument,
            start: typed.start,
            end: typed.end.max(typed.start),
        }
    }
}

/// A range of a text that the user wrote.
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
    /// The text of a file, without overrides. `path` is for messages only.
    pub fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        let original = text.into();
        Text {
            path: path.into(),
            written: original.clone(),
            original,
            edits: Vec::new(),
            expansion: None,
        }
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    /// The text with every override applied and every `$name` replaced by its value: it is parsed.
    pub fn resolved(&self) -> &str {
        let expansion = self.expansion.as_ref();
        expansion.map_or(&self.written, |expansion| &expansion.text)
    }

    /// The text with every override applied, in which `$name` means a value of `let`.
    pub fn written(&self) -> &str {
        &self.written
    }

    /// The resolved text without `let`, which has no use any more: what a run keeps as its `recipe.ron`.
    pub fn without_let(&self) -> String {
        let mut text = self.resolved().to_owned();
        if let Some(range) = self.expansion.as_ref().and_then(|it| it.let_field.clone()) {
            text.replace_range(range, "");
        }
        text
    }

    /// A copy with this expansion of [`Self::written`].
    pub(crate) fn expanded(self, expansion: Expansion) -> Self {
        Text {
            expansion: Some(expansion),
            ..self
        }
    }

    /// The names in `let`.
    pub(crate) fn let_names(&self) -> &[String] {
        let expansion = self.expansion.as_ref();
        expansion.map_or(&[], |expansion| &expansion.names)
    }

    /// A copy in which `range` of the written text reads `before` + `value` + `after`; errors
    /// within it point at `argument`. It is not expanded.
    pub fn spliced(
        &self,
        range: Range<usize>,
        before: &str,
        value: &str,
        after: &str,
        argument: &str,
    ) -> Self {
        let replacement = format!("{before}{value}{after}");
        let start = range.start + before.len();
        let (name, typed_value) = name_and_value(argument).unwrap_or((0..0, 0..argument.len()));
        let last = argument[name.clone()].rfind('.');
        let mut text = self.clone();
        text.expansion = None;
        text.written.replace_range(range.clone(), &replacement);
        text.edits.push(Edit {
            new: range.start..range.start + replacement.len(),
            old: range,
            value: start..start + value.len(),
            argument: argument.to_owned(),
            typed_name: name.start + last.map_or(0, |dot| dot + 1)..name.end,
            typed_value,
        });
        text
    }

    /// The place of the last override's value within `range` of the resolved text.
    pub(crate) fn overridden_in(&self, range: &Range<usize>) -> Option<Place<'_>> {
        let range = self.to_written(range.clone());
        let last_first = self.edits.iter().enumerate().rev();
        let found = last_first.into_iter().find_map(|(index, edit)| {
            let mut value = edit.value.clone();
            for later in &self.edits[index + 1..] {
                let moved = |at: usize| at + later.new.len() - later.old.len();
                if later.old.end <= value.start {
                    value = moved(value.start)..moved(value.end);
                } else if value.start <= later.old.start && later.old.end <= value.end {
                    value.end = moved(value.end);
                } else if later.old.start < value.end {
                    return None;
                }
            }
            (range.start <= value.start && value.end <= range.end).then_some(value)
        })?;
        Some(self.place_of_written(found))
    }

    /// The value as typed, if `range` is a string that an override put quotes around.
    pub(crate) fn typed_without_quotes(&self, range: &Range<usize>) -> Option<&str> {
        let place = self.place(range.clone());
        let typed = &place.text[place.start..place.end];
        let differs = typed != &self.resolved()[range.clone()];
        (differs && !self.is_spelling(range)).then_some(typed)
    }

    /// Whether `range` is another spelling of what is written: `"cuda:1"` of `cuda:1` in `let`.
    pub(crate) fn is_spelling(&self, range: &Range<usize>) -> bool {
        let written = self.written.get(self.to_written(range.clone()));
        written != Some(&self.resolved()[range.clone()])
    }

    /// Where `range` of the resolved text is the value of a `$name`: the place of that name.
    pub(crate) fn use_of(&self, range: &Range<usize>) -> Option<Place<'_>> {
        let used = self.expansion.as_ref()?.use_at(range.start)?;
        Some(self.place_of_written(used))
    }

    fn to_written(&self, range: Range<usize>) -> Range<usize> {
        match &self.expansion {
            Some(expansion) => expansion.to_written(range),
            None => range,
        }
    }

    /// The origin of `range` of the resolved text.
    pub fn place(&self, range: Range<usize>) -> Place<'_> {
        self.place_of_written(self.to_written(range))
    }

    fn place_of_written(&self, range: Range<usize>) -> Place<'_> {
        let (mut start, mut end) = (range.start, range.end);
        for edit in self.edits.iter().rev() {
            if edit.new.contains(&start) {
                return edit.place(start..end);
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

/// The ranges of name and value in `name=value`, without surrounding white space and, of a value that is
/// RON, comments: after one nothing could follow on its line.
pub(crate) fn name_and_value(argument: &str) -> Option<(Range<usize>, Range<usize>)> {
    let equals = argument.find('=')?;
    let trimmed = |range: Range<usize>| {
        let text = &argument[range.clone()];
        let start = range.start + text.len() - text.trim_start().len();
        start..start + text.trim().len()
    };
    let mut value = trimmed(equals + 1..argument.len());
    let typed = &argument[value.clone()];
    if typed.contains(['/', '*']) && fields::ron(typed).is_ok() {
        let tokens = fields::tokens(typed);
        if let (Some((_, first)), Some((_, last))) = (tokens.first(), tokens.last()) {
            value = value.start + first.start..value.start + last.end;
        }
    }
    Some((trimmed(0..equals), value))
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
        let text = text.spliced(1..1, "workers: ", "\"two\"", ", ", "x.workers = two");
        let place = text.place(1..8);
        assert_eq!(&place.text[place.start..place.end], "workers");
        let place = text.place(10..15);
        assert_eq!(&place.text[place.start..place.end], "two");
        assert_eq!(text.typed_without_quotes(&(10..15)), Some("two"));
        assert_eq!(text.typed_without_quotes(&(at + 16..at + 21)), None);
        let overridden = |range| {
            text.overridden_in(&range)
                .map(|place| &place.text[place.start..place.end])
        };
        assert_eq!(overridden(0..text.resolved().len()), Some("two"));
        assert_eq!(overridden(18..text.resolved().len()), Some("12345"));
        assert_eq!(overridden(0..3), None);
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
