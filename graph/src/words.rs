//! Lists and counts in messages: "`a`, `b` and c", "2 cores", "did you mean ...?".

use std::collections::HashMap;
use std::hash::Hash;

use rsflow_base::shown::Shown as _;

/// "1 core", "2 cores".
pub fn counted(count: usize, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        _ => format!("{count} {noun}s"),
    }
}

/// "`a`, `b` and `c`".
pub fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    joined(&quoted(names), "and")
}

/// "`a`, `b` or `c`".
pub fn one_of<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    joined(&quoted(names), "or")
}

/// "`a`, `b` and 3 more": the first five names and the number of the others.
pub fn first_few(names: &[impl AsRef<str>]) -> String {
    const SHOWN: usize = 5;
    let shown = quoted(names.iter().take(SHOWN).map(AsRef::as_ref)).join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn quoted<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let names = names.into_iter();
    names.map(|name| format!("`{}`", name.shown())).collect()
}

/// "a, b and c", with "and" or another word before the last; "none" if there is nothing.
pub(crate) fn joined(items: &[String], word: &str) -> String {
    match items.split_last() {
        None => "none".to_owned(),
        Some((only, [])) => only.clone(),
        Some((last, rest)) => format!("{} {word} {last}", rest.join(", ")),
    }
}

/// ``did you mean `name`?`` for the nearest of `names`, if one is near.
pub fn did_you_mean<'a>(found: &str, names: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(found, names).map(|name| format!("did you mean `{}`?", name.shown()))
}

/// The name with the smallest edit distance, if that is at most a third of the longer name.
pub fn nearest<'a>(found: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // The distance costs the product of both lengths, and what is longer is no misspelt name.
    const LONGEST: usize = 200;
    if found.len() > LONGEST {
        return None;
    }
    let found = found.to_lowercase();
    let allowed = |name: &str| name.len().max(found.len()).div_ceil(3);
    let similar = names.into_iter().filter(|name| {
        // A distance is at least the difference in characters, of which each has up to 4 bytes.
        name.len() <= LONGEST && name.len().abs_diff(found.len()) <= 4 * allowed(name)
    });
    similar
        .map(|name| {
            let distance = strsim::damerau_levenshtein(&found, &name.to_lowercase());
            (distance, name)
        })
        .filter(|&(distance, name)| distance <= allowed(name))
        // At least one character of a short name is kept.
        .filter(|&(distance, name)| distance < name.len().min(found.len()))
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, name)| name)
}

/// The values that are there more than once, each once, in the order in which they repeat.
pub fn repeated<T: Copy + Eq + Hash>(values: &[T]) -> Vec<T> {
    let mut counts: HashMap<T, u32> = HashMap::new();
    let second = |value: &&T| {
        let count = counts.entry(**value).or_default();
        *count += 1;
        *count == 2
    };
    values.iter().filter(second).copied().collect()
}
