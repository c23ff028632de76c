//! Numbers as RON writes them.

/// An integer: `12`, `-3`, `0x1F`, `1_000`, `8u32`.
pub(super) fn integer(word: &str) -> Option<i128> {
    let word = word.replace('_', "");
    let (sign, digits) = match word.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, word.strip_prefix('+').unwrap_or(&word)),
    };
    let based = [("0x", 16), ("0o", 8), ("0b", 2)];
    let based = based
        .iter()
        .find_map(|(prefix, base)| Some((digits.strip_prefix(prefix)?, *base)));
    let (digits, base) = based.unwrap_or((digits, 10));
    // A suffix such as that of `8u32`.
    let digits = digits.split(['u', 'i']).next().unwrap_or(digits);
    if !digits.starts_with(|c: char| c.is_digit(base)) {
        return None;
    }
    i128::from_str_radix(digits, base)
        .ok()
        .map(|number| sign * number)
}

/// Any number: an integer, `0.5`, `1e-4`, `2.0f32`.
pub(super) fn float(word: &str) -> Option<f64> {
    let word = word.replace('_', "");
    let word = ["f32", "f64"]
        .iter()
        .find_map(|suffix| word.strip_suffix(suffix))
        .unwrap_or(&word);
    word.parse()
        .ok()
        .or(integer(word).map(|number| number as f64))
}

/// Whether a word begins like a number.
pub(super) fn is_number(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.'))
}
