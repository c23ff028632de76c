//! The syntax of a recipe's text: the ranges of names, values and fields, and where to insert a new
//! field. The RON reader decides whether the text is valid; this finds places only.

use std::borrow::Cow;
use std::ops::Range;

use ron::error::SpannedError;
use serde::de::IgnoredAny;

/// RON options for recipes: an optional value needs no `Some(...)`, and a variant such as
/// `ResNet(depth: 50)` only one pair of parentheses.
pub(crate) fn options() -> ron::Options {
    let extensions = ron::extensions::Extensions::IMPLICIT_SOME
        | ron::extensions::Extensions::UNWRAP_VARIANT_NEWTYPES;
    ron::Options::default().with_default_extension(extensions)
}

/// Fails if a text is not valid RON, apart from words that recipes have beyond it ([`tokens`]).
pub(crate) fn ron(text: &str) -> Result<(), SpannedError> {
    options().from_str(&masked(text)).map(|IgnoredAny| ())
}

/// The text with `$name` and `cuda:1` as words of RON of the same length.
fn masked(text: &str) -> Cow<'_, str> {
    if !text.contains('$') && !DEVICES.iter().any(|device| text.contains(device)) {
        return text.into();
    }
    let mut masked = text.to_owned();
    for (token, span) in tokens(text) {
        if token == Token::Word {
            let word = text[span.clone()].replace(['$', ':'], "_");
            masked.replace_range(span, &word);
        }
    }
    masked.into()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// A name, a number, `true`.
    Word,
    /// A string or character.
    Quoted { closed: bool },
    /// A bracket, a comma, a colon; anything else.
    Mark(char),
}

/// The words that a colon and a number may follow as a value.
const DEVICES: [&str; 2] = ["cuda:", "gpu:"];

/// The tokens of a text, without white space and comments. `$name` is a word, and so is `cuda:1` where a
/// value stands.
pub(crate) fn tokens(text: &str) -> Vec<(Token, Range<usize>)> {
    let mut tokens: Vec<(Token, Range<usize>)> = Vec::new();
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        let (token, length) = if first.is_whitespace() {
            (None, first.len_utf8())
        } else if let Some(length) = comment(rest) {
            (None, length)
        } else if let Some((closed, length)) = quoted(rest) {
            (Some(Token::Quoted { closed }), length)
        } else {
            let before = tokens.last().map(|(token, _)| *token);
            let is_value = matches!(before, None | Some(Token::Mark(':')));
            match word(rest, is_value) {
                0 => (Some(Token::Mark(first)), first.len_utf8()),
                length => (Some(Token::Word), length),
            }
        };
        tokens.extend(token.map(|token| (token, at..at + length)));
        at += length;
    }
    tokens
}

/// Length of the word that `text` starts with.
fn word(text: &str, is_value: bool) -> usize {
    let number = |device: &str| {
        let rest = text.strip_prefix(device).filter(|_| is_value)?;
        let digits = rest.find(|c: char| !c.is_ascii_digit());
        let digits = digits.unwrap_or(rest.len());
        (digits > 0).then_some(device.len() + digits)
    };
    if let Some(length) = DEVICES.iter().find_map(|device| number(device)) {
        return length;
    }
    let prefixes = ["r#", "$"].into_iter();
    let mut prefixes = prefixes.filter(|prefix| text.starts_with(prefix));
    let prefix = prefixes.next().map_or(0, str::len);
    let rest = &text[prefix..];
    match rest.find(|c| !is_word(c)).unwrap_or(rest.len()) {
        0 if prefix == 1 => 0,
        length => prefix + length,
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '.' | '+' | '-')
}

/// Length of the comment that `text` starts with.
fn comment(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    let mut depth = 0;
    let mut at = 0;
    loop {
        let rest = text.get(at..)?;
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if depth > 0 && rest.starts_with("*/") {
            depth -= 1;
            at += 2;
        } else if depth == 0 {
            return (at > 0).then_some(at);
        } else {
            // An unclosed comment reaches to the end.
            let Some(next) = rest.chars().next() else {
                return Some(at);
            };
            at += next.len_utf8();
        }
    }
}

/// Whether the string that `text` starts with is closed, and its length.
fn quoted(text: &str) -> Option<(bool, usize)> {
    let plain = text.strip_prefix('b').unwrap_or(text);
    let hashes_from = plain.strip_prefix('r');
    if let Some(hashes_from) = hashes_from {
        let inner = hashes_from.trim_start_matches('#');
        let hashes = hashes_from.len() - inner.len();
        if let Some(inner) = inner.strip_prefix('"') {
            let start = text.len() - inner.len();
            let end = format!("\"{}", "#".repeat(hashes));
            let found = inner.find(&end).map(|at| start + at + end.len());
            return Some((found.is_some(), found.unwrap_or(text.len())));
        }
    }
    let quote = plain.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let start = text.len() - plain.len() + 1;
    let mut escaped = false;
    for (at, c) in text[start..].char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return Some((true, start + at + 1)),
            _ => {}
        }
    }
    Some((false, text.len()))
}

#[derive(Debug)]
pub(crate) struct Value {
    pub span: Range<usize>,
    /// The name in front of the parentheses; all of a plain word; else empty.
    pub head: Range<usize>,
    pub shape: Shape,
}

#[derive(Debug)]
pub(crate) enum Shape {
    /// A word or a number.
    Word,
    /// A string.
    Quoted,
    /// `[a, b]`.
    List(Vec<Value>),
    /// `(a, b)`, `Name(a, b)`, `()`.
    Tuple(Vec<Value>),
    /// `(a: 1, b: 2)`, `Name(a: 1, b: 2)`.
    Fields(Vec<Field>),
    /// `{a: 1, b: 2}`.
    Map(Vec<(Value, Value)>),
}

#[derive(Debug)]
pub(crate) struct Field {
    pub name: Range<usize>,
    pub value: Value,
}

impl Value {
    pub fn fields(&self) -> &[Field] {
        match &self.shape {
            Shape::Fields(fields) => fields,
            _ => &[],
        }
    }

    /// The value of the field `name`, alone.
    pub fn take(self, text: &str, name: &str) -> Option<Value> {
        let Shape::Fields(fields) = self.shape else {
            return None;
        };
        let mut fields = fields.into_iter();
        let field = fields.find(|field| &text[field.name.clone()] == name)?;
        Some(field.value)
    }

    /// The value of `path` (`field`, or `field.inner`).
    pub fn at(&self, text: &str, path: &str) -> Option<&Value> {
        path.split('.').try_fold(self, |value, name| {
            let mut fields = value.fields().iter();
            fields
                .find(|field| &text[field.name.clone()] == name)
                .map(|field| &field.value)
        })
    }
}

/// Parses a text. One that the RON reader accepts has a shape; another one may have one.
pub(crate) fn shape(text: &str) -> Option<Value> {
    let tokens = tokens(text);
    let mut walk = Walk {
        tokens,
        at: 0,
        depth: 0,
    };
    // Attributes such as `#![enable(...)]`.
    while walk.take('#') {
        while !walk.take(']') {
            walk.next()?;
        }
    }
    let value = walk.value()?;
    walk.peek(0).is_none().then_some(value)
}

struct Walk {
    tokens: Vec<(Token, Range<usize>)>,
    at: usize,
    /// Values around the one that is parsed.
    depth: usize,
}

/// Values within each other, more than the RON reader allows: a text must not exhaust the stack.
const DEEPEST: usize = 200;

impl Walk {
    fn peek(&self, ahead: usize) -> Option<Token> {
        self.tokens.get(self.at + ahead).map(|(token, _)| *token)
    }

    fn next(&mut self) -> Option<(Token, Range<usize>)> {
        self.at += 1;
        self.tokens.get(self.at - 1).cloned()
    }

    fn take(&mut self, mark: char) -> bool {
        let found = self.peek(0) == Some(Token::Mark(mark));
        self.at += usize::from(found);
        found
    }

    fn value(&mut self) -> Option<Value> {
        self.depth += 1;
        let value = (self.depth <= DEEPEST).then(|| self.shallow_value())?;
        self.depth -= 1;
        value
    }

    fn shallow_value(&mut self) -> Option<Value> {
        let (first, span) = self.next()?;
        let head = match first {
            Token::Word => span.clone(),
            _ => span.start..span.start,
        };
        let shape = match first {
            Token::Word if self.take('(') => self.parentheses()?,
            Token::Word => Shape::Word,
            Token::Quoted { .. } => Shape::Quoted,
            Token::Mark('(') => self.parentheses()?,
            Token::Mark('[') => Shape::List(self.until(']', Self::value)?),
            Token::Mark('{') => Shape::Map(self.until('}', |walk| {
                let key = walk.value()?;
                walk.take(':').then_some(())?;
                Some((key, walk.value()?))
            })?),
            Token::Mark(_) => return None,
        };
        let end = self.tokens[self.at - 1].1.end;
        Some(Value {
            span: span.start..end,
            head,
            shape,
        })
    }

    fn parentheses(&mut self) -> Option<Shape> {
        let named = self.peek(0) == Some(Token::Word) && self.peek(1) == Some(Token::Mark(':'));
        Some(if named {
            Shape::Fields(self.until(')', |walk| {
                let (_, name) = walk.next()?;
                walk.take(':').then_some(())?;
                let value = walk.value()?;
                Some(Field { name, value })
            })?)
        } else {
            Shape::Tuple(self.until(')', Self::value)?)
        })
    }

    fn until<T>(
        &mut self,
        close: char,
        mut item: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        let mut items = Vec::new();
        while !self.take(close) {
            items.push(item(self)?);
            if !self.take(',') && self.peek(0) != Some(Token::Mark(close)) {
                return None;
            }
        }
        Some(items)
    }
}

/// Where to write the value of `path` in `Kind(...)`: the range to replace, and the text before and
/// after the value. It replaces the old value, or is a new field after the others.
pub(crate) fn insertion(text: &str, path: &str) -> Option<(Range<usize>, String, String)> {
    let whole = shape(text)?;
    let mut value = &whole;
    let mut names = path.split('.');
    while let Some(name) = names.next() {
        let mut fields = value.fields().iter();
        if let Some(field) = fields.find(|field| &text[field.name.clone()] == name) {
            value = &field.value;
            continue;
        }
        // Missing outer values are added, too.
        let inner: Vec<&str> = names.collect();
        let before: String = inner.iter().map(|name| format!("({name}: ")).collect();
        let before = format!("{name}: {before}");
        let after = ")".repeat(inner.len());
        return match &value.shape {
            Shape::Fields(fields) => {
                let end = fields.last()?.value.span.end;
                Some((end..end, format!(", {before}"), after))
            }
            Shape::Tuple(items) if items.is_empty() => {
                let close = value.span.end - 1;
                Some((close..close, before, after))
            }
            Shape::Word => {
                let end = value.span.end;
                Some((end..end, format!("({before}"), format!("{after})")))
            }
            _ => None,
        };
    }
    Some((value.span.clone(), String::new(), String::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found<'a>(text: &'a str, path: &str) -> Option<&'a str> {
        let span = shape(text)?.at(text, path)?.span.clone();
        Some(&text[span])
    }

    #[test]
    fn values_are_found() {
        let text =
            "Kind(a: 1, // note: b: 9\n  b: Inner(c: \"x)\", d: [1, 2]), e: /* ( /* */ */ Word,
            f: (-0.5, 'ü'), g: {\"k\": r#\"\"\"#, 'l': ()}, h: Some(3),)";
        for (path, expected) in [
            ("a", Some("1")),
            ("b", Some("Inner(c: \"x)\", d: [1, 2])")),
            ("b.c", Some("\"x)\"")),
            ("b.d", Some("[1, 2]")),
            ("e", Some("Word")),
            ("f", Some("(-0.5, 'ü')")),
            ("g", Some("{\"k\": r#\"\"\"#, 'l': ()}")),
            ("h", Some("Some(3)")),
            ("i", None),
            ("a.b", None),
        ] {
            assert_eq!(found(text, path), expected, "{path}");
        }
        assert_eq!(&text[shape(text).unwrap().head], "Kind");
    }

    #[test]
    fn attributes_are_no_value() {
        let text = "#![enable(implicit_some)]\n(a: 1)";
        assert_eq!(found(text, "a"), Some("1"));
    }
}
