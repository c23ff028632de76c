//! A text in which parts are replaced by other parts of it, and the origin of each byte.

use std::ops::Range;

/// The expanded text.
#[derive(Clone, Debug, Default)]
pub(crate) struct Expansion {
    pub text: String,
    /// The names in `let`.
    pub names: Vec<String>,
    /// `let: {...}` in the expanded text, with its comma and its line.
    pub let_field: Option<Range<usize>>,
    /// In order, without gaps.
    pieces: Vec<Piece>,
    /// The pieces that are as written there, by index. Their origins are in order, too.
    copied: Vec<usize>,
}

#[derive(Clone, Debug)]
struct Piece {
    /// Its first byte in the expanded text.
    start: usize,
    /// Where it comes from in the text as written.
    origin: Range<usize>,
    /// Whether it has the bytes of its origin; else it is in place of all of it.
    is_copy: bool,
    /// The `$name` as written that it replaces.
    used: Option<Range<usize>>,
}

impl Expansion {
    pub fn new(names: Vec<String>) -> Self {
        Expansion {
            names,
            ..Expansion::default()
        }
    }

    /// Adds what is written in `origin`, in place of the `$name` in `used`.
    pub fn copy(&mut self, written: &str, origin: Range<usize>, used: Option<&Range<usize>>) {
        let text = &written[origin.clone()];
        self.push(text, origin, true, used);
    }

    /// Adds `text` for what is written in `origin`.
    pub fn replace(&mut self, text: &str, origin: Range<usize>, used: Option<&Range<usize>>) {
        self.push(text, origin, false, used);
    }

    fn push(
        &mut self,
        text: &str,
        origin: Range<usize>,
        is_copy: bool,
        used: Option<&Range<usize>>,
    ) {
        if text.is_empty() {
            return;
        }
        if is_copy && used.is_none() {
            self.copied.push(self.pieces.len());
        }
        self.pieces.push(Piece {
            start: self.text.len(),
            origin,
            is_copy,
            used: used.cloned(),
        });
        self.text += text;
    }

    /// The piece with the byte `at`, or the one before it.
    fn piece(&self, at: usize) -> Option<&Piece> {
        let after = self.pieces.partition_point(|piece| piece.start <= at);
        self.pieces.get(after.checked_sub(1)?)
    }

    /// The `$name` as written that the byte `at` comes from.
    pub fn use_at(&self, at: usize) -> Option<Range<usize>> {
        self.piece(at)?.used.clone()
    }

    /// The origin of `range`; of a range that begins or ends in the value of a `$name` and is not all in
    /// it, the name is a part.
    pub fn to_written(&self, range: Range<usize>) -> Range<usize> {
        let last = range.end.saturating_sub(1).max(range.start);
        let (Some(first), Some(last)) = (self.piece(range.start), self.piece(last)) else {
            return 0..0;
        };
        let within = first.used == last.used;
        let start = match &first.used {
            Some(used) if !within => used.start,
            _ if first.is_copy => {
                (first.origin.start + range.start - first.start).min(first.origin.end)
            }
            _ => first.origin.start,
        };
        let end = match &last.used {
            Some(used) if !within => used.end,
            _ if last.is_copy => (last.origin.start + range.end - last.start).min(last.origin.end),
            _ => last.origin.end,
        };
        start..end.max(start)
    }

    /// Where the written byte `at`, which no `$name` replaced, is in the expanded text.
    pub fn in_expanded(&self, at: usize) -> usize {
        let origin = |index: &usize| &self.pieces[*index].origin;
        let after = self
            .copied
            .partition_point(|index| origin(index).start <= at);
        let found = after
            .checked_sub(1)
            .map(|index| &self.pieces[self.copied[index]]);
        let found = found.filter(|piece| at <= piece.origin.end);
        found.map_or(0, |piece| piece.start + at - piece.origin.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_survive() {
        let written = "a: [1, 2], b: $a, c: ($a, x)";
        let mut expansion = Expansion::default();
        let at = |text: &str| written.find(text).unwrap();
        let (first, second) = (at("$a"), at("($a") + 1);
        let value = at("[1")..at(", b");
        expansion.copy(written, 0..first, None);
        expansion.copy(written, value.clone(), Some(&(first..first + 2)));
        expansion.copy(written, first + 2..second, None);
        expansion.replace("[one]", value, Some(&(second..second + 2)));
        expansion.copy(written, second + 2..written.len(), None);
        let text = expansion.text.clone();
        assert_eq!(text, "a: [1, 2], b: [1, 2], c: ([one], x)");
        for (part, from, expected) in [
            ("a:", 0, "a:"),
            ("[1, 2]", 0, "[1, 2]"),
            ("[1, 2]", 12, "[1, 2]"),
            ("2", 12, "2"),
            ("c:", 0, "c:"),
            ("([one], x)", 0, "($a, x)"),
            ("[one]", 0, "[1, 2]"),
            ("[one], x", 0, "$a, x"),
            ("x", 0, "x"),
        ] {
            let start = from + text[from..].find(part).unwrap();
            let found = expansion.to_written(start..start + part.len());
            assert_eq!(&written[found], expected, "{part}");
        }
        assert_eq!(expansion.use_at(0), None);
        assert_eq!(expansion.use_at(15), Some(first..first + 2));
        let end = expansion.in_expanded(at("x"));
        assert_eq!(&text[end..=end], "x");
    }
}
