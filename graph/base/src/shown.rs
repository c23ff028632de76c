//! Text from outside as it is printed: names of files, classes, nodes and tensors, and messages that
//! contain them.
//!
//! A terminal obeys control characters: a name could move the cursor, change colours or titles, or pretend
//! to be a line of the program. Here they become visible escapes, as `\u{1b}` and `\n`; so do characters
//! that show nothing or change the direction of what follows. What is very long loses its middle.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::path::Path;

/// Characters of a name that are printed; more than any file system allows.
const NAME: usize = 400;
/// Characters of a message's line.
const LINE: usize = 20_000;

/// How a name from outside is printed, on one line.
pub trait Shown {
    /// With control characters as escapes, and without its middle if it is very long.
    fn shown(&self) -> Cow<'_, str>;
}

impl Shown for str {
    fn shown(&self) -> Cow<'_, str> {
        escaped(shortened(self.into(), NAME))
    }
}

impl Shown for OsStr {
    fn shown(&self) -> Cow<'_, str> {
        escaped(shortened(self.to_string_lossy(), NAME))
    }
}

impl Shown for Path {
    fn shown(&self) -> Cow<'_, str> {
        self.as_os_str().shown()
    }
}

/// A name in quotes, in which quotes are escaped, too.
pub fn quoted(name: &str) -> String {
    format!("{:?}", shortened(name.into(), NAME))
}

/// A message of several lines, each as [`Shown`]. Names in it should be [`Shown`] themselves: here a line
/// break cannot be distinguished from one of the message.
pub fn lines(message: &str) -> Cow<'_, str> {
    if !message.chars().any(is_escaped) && message.len() <= LINE {
        return message.into();
    }
    let lines = message.split('\n');
    let lines: Vec<_> = lines
        .map(|line| escaped(shortened(line.into(), LINE)))
        .collect();
    lines.join("\n").into()
}

fn is_escaped(character: char) -> bool {
    // Zero-width and bidirectional formatting, interlinear annotation, tags.
    let invisible = matches!(character, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}');
    character.is_control() || invisible
}

fn escaped(text: Cow<'_, str>) -> Cow<'_, str> {
    if !text.chars().any(is_escaped) {
        return text;
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match is_escaped(character) {
            true => escaped.extend(character.escape_default()),
            false => escaped.push(character),
        }
    }
    escaped.into()
}

fn shortened(text: Cow<'_, str>, longest: usize) -> Cow<'_, str> {
    if text.len() <= longest {
        return text; // It has no more characters than bytes.
    }
    let count = text.chars().count();
    if count <= longest {
        return text;
    }
    let at = |character| text.char_indices().nth(character).map_or(0, |(at, _)| at);
    let (start, end) = (at(longest * 2 / 3), at(count - longest / 3));
    let left_out = count - longest * 2 / 3 - longest / 3;
    format!(
        "{}[... {left_out} characters ...]{}",
        &text[..start],
        &text[end..]
    )
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_seen_and_not_obeyed() {
        let table = [
            ("cat", "cat"),
            ("Kätzchen 猫 🐱", "Kätzchen 猫 🐱"),
            ("a\x1b[31mb", "a\\u{1b}[31mb"),
            ("b\nerror: fake", "b\\nerror: fake"),
            ("\r\t\0\x7f\u{9b}", "\\r\\t\\u{0}\\u{7f}\\u{9b}"),
            ("photo\u{202e}gpj.exe", "photo\\u{202e}gpj.exe"),
        ];
        for (name, shown) in table {
            assert_eq!(name.shown(), shown);
            assert_eq!(Path::new(name).shown(), shown);
        }
        assert_eq!(lines("one\ntwo\x1b[2J\n"), "one\ntwo\\u{1b}[2J\n");
        let long = format!("{}\x1b{}", "ä".repeat(5_000_000), "z".repeat(300));
        let shown = long.shown();
        assert!(
            shown.len() < 1000 && shown.starts_with("ää"),
            "{}",
            shown.len()
        );
        assert!(shown.ends_with("zz") && shown.contains("characters"));
        assert!(lines(&long).len() < 50_000);
    }
}
