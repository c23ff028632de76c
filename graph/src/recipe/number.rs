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

/// `1e-4` for `1e-4f`, as other languages mark the type of a number.
pub(super) fn without_suffix(word: &str) -> Option<&str> {
    let number = word.strip_suffix(['f', 'F', 'd', 'D', 'l', 'L'])?;
    number.parse::<f64>().ok().map(|_| number)
}

/// The result of one operation, as it is written: `0.01` for `1/100`, `0.0001` for `10**-4`.
pub(super) fn result(text: &str) -> Option<String> {
    let number = |text: &str| float(text.trim()).filter(|_| is_number(text.trim()));
    let compute = |sign: &str, one: f64, other: f64| match sign {
        "**" | "^" => one.powf(other),
        "*" => one * other,
        "/" => one / other,
        "+" => one + other,
        _ => one - other,
    };
    let mut results = ["**", "^", "*", "/", "+", "-"]
        .into_iter()
        .flat_map(|sign| {
            let places = text.match_indices(sign);
            places.filter_map(move |(at, sign)| {
                let (one, other) = (number(&text[..at])?, number(&text[at + sign.len()..])?);
                Some(compute(sign, one, other)).filter(|result| result.is_finite())
            })
        });
    // Without the last digits, which are those of binary fractions.
    let result: f64 = format!("{:.11e}", results.next()?).parse().ok()?;
    Some(match result == 0.0 || result.abs() >= 1e-4 {
        true => format!("{result}"),
        false => format!("{result:e}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_have_a_result() {
        for (text, expected) in [
            ("1/100", Some("0.01")),
            ("4 * 32", Some("128")),
            ("10**-4", Some("0.0001")),
            ("10^-6", Some("1e-6")),
            ("0.1*3", Some("0.3")),
            ("0.1 + 0.05", Some("0.15")),
            ("1-0.1", Some("0.9")),
            ("1e-3-1e-4", Some("0.0009")),
            ("3-3", Some("0")),
            ("1e-4", None),
            ("-4", None),
            ("2024-01-05", None),
            ("1/0", None),
            ("1/2/3", None),
            ("a/b", None),
            ("1/", None),
        ] {
            assert_eq!(result(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn suffixes_of_other_languages_are_left_out() {
        for (word, expected) in [
            ("1e-4f", Some("1e-4")),
            ("0.1F", Some("0.1")),
            ("32L", Some("32")),
            ("0x1F", None),
            ("inf", None),
            ("f", None),
            ("1e-4", None),
        ] {
            assert_eq!(without_suffix(word), expected, "{word}");
        }
    }
}
