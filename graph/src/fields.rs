//! Finding fields in RON text: where a value stands, and where a new field would go.

use std::ops::Range;

use ron::value::RawValue;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

/// How all of a recipe is read: an optional value needs no `Some(...)` around it, and a choice
/// such as `ResNet(depth: 50)` one pair of parentheses only.
pub(crate) fn options() -> ron::Options {
    let extensions = ron::extensions::Extensions::IMPLICIT_SOME
        | ron::extensions::Extensions::UNWRAP_VARIANT_NEWTYPES;
    ron::Options::default().with_default_extension(extensions)
}

/// The kind's name at the start of `Kind(...)`.
pub(crate) fn kind_span(text: &str) -> Range<usize> {
    let end = text
        .find(|c: char| !(c.is_alphanumeric() || c == '_'))
        .unwrap_or(text.len());
    0..end
}

/// Where the value of `path` (`field`, or `field.inner`) stands in `Kind(field: value)`.
pub(crate) fn value_span(text: &str, path: &str) -> Option<Range<usize>> {
    let (field, rest) = match path.split_once('.') {
        Some((field, rest)) => (field, Some(rest)),
        None => (path, None),
    };
    let (_, span) = entries(text)?
        .into_iter()
        .find(|(name, _)| *name == field)?;
    match rest {
        None => Some(span),
        Some(rest) => {
            let inner = value_span(&text[span.clone()], rest)?;
            Some(span.start + inner.start..span.start + inner.end)
        }
    }
}

/// The fields of `Kind(a: 1, b: 2)` or `(a: 1)`: name and the value's range.
pub(crate) fn entries(text: &str) -> Option<Vec<(&str, Range<usize>)>> {
    struct Entries<'de>(Vec<(&'de str, &'de RawValue)>);
    impl<'de> Deserialize<'de> for Entries<'de> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Fields;
            impl<'de> Visitor<'de> for Fields {
                type Value = Entries<'de>;

                fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                    f.write_str("named fields")
                }

                fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                    let mut list = Vec::new();
                    while let Some(entry) = map.next_entry()? {
                        list.push(entry);
                    }
                    Ok(Entries(list))
                }
            }
            deserializer.deserialize_any(Fields)
        }
    }
    let entries: Entries = options().from_str(text).ok()?;
    Some(
        entries
            .0
            .into_iter()
            .map(|(name, value)| (name, trimmed_span(text, value.get_ron())))
            .collect(),
    )
}

/// The range of `part` within `whole` (which it borrows from), without the white space and
/// comments around it.
pub(crate) fn trimmed_span(whole: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr() as usize - whole.as_ptr() as usize;
    let end = start + part.len();
    let leading = skip_blank(part);
    (start + leading).min(end)..start + part.trim_end().len().max(leading)
}

/// Length of the white space and comments at the start of `text`.
fn skip_blank(text: &str) -> usize {
    let mut at = 0;
    loop {
        let rest = &text[at..];
        let blank = rest.len() - rest.trim_start().len();
        let rest = &rest[blank..];
        let comment = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else {
            0
        };
        at += blank + comment;
        if blank + comment == 0 {
            return at;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found() {
        let text = "Kind(a: 1, // note: b: 9\n  b: Inner(c: \"x\", d: [1, 2]), e: /* no */ Word)";
        for (path, expected) in [
            ("a", Some("1")),
            ("b", Some("Inner(c: \"x\", d: [1, 2])")),
            ("b.c", Some("\"x\"")),
            ("b.d", Some("[1, 2]")),
            ("e", Some("Word")),
            ("f", None),
            ("a.b", None),
        ] {
            assert_eq!(
                value_span(text, path).map(|span| &text[span]),
                expected,
                "{path}"
            );
        }
        assert_eq!(&text[kind_span(text)], "Kind");
    }
}
