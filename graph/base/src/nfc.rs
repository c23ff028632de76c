//! Names that look the same: macOS writes an accent as a character of its own (NFD), most others do
//! not (NFC).

use std::borrow::Cow;

use unicode_normalization::{UnicodeNormalization as _, is_nfc};

/// The name in NFC, in which names are compared.
pub fn nfc(name: &str) -> Cow<'_, str> {
    match is_nfc(name) {
        true => Cow::Borrowed(name),
        false => Cow::Owned(name.nfc().collect()),
    }
}

/// The name with its characters beyond ASCII as escapes, to tell apart names that look the same.
pub fn spelled_out(name: &str) -> String {
    let spell = |char: char| match char.is_ascii() {
        true => char.to_string(),
        false => char.escape_unicode().to_string(),
    };
    name.chars().map(spell).collect()
}
