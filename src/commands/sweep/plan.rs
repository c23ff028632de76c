//! What a sweep runs: the values of each `--over`, their combinations, and the names of these.

use std::collections::BTreeSet;

/// Characters of a combination's name. With a number it is still the name of a file everywhere.
const MAX_NAME: usize = 100;
/// The name of the only combination where there is no `--over`.
const AS_IT_IS: &str = "recipe";

/// One `--over`: fields that change together, and their values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Over {
    /// The option's value, as typed.
    pub typed: String,
    pub fields: Vec<String>,
    /// As RON, each once.
    pub values: Vec<String>,
}

impl Over {
    /// Reads `FIELD[+FIELD...]=VALUE[,VALUE...]`.
    ///
    /// # Errors
    /// What is wrong with it, as a sentence after the option.
    pub fn parse(typed: &str) -> Result<Self, String> {
        const HELP: &str = "write `--over NODE.FIELD=A,B`";
        let Some((fields, values)) = typed.split_once('=') else {
            return Err(format!("it has no values\nhelp: {HELP}"));
        };
        let fields: Vec<String> = trimmed(fields.split('+'));
        if fields.iter().any(String::is_empty) {
            return Err(format!("a field has no name\nhelp: {HELP}"));
        }
        let values = split(values).map_err(|problem| format!("{problem}\nhelp: {HELP}"))?;
        let values: Vec<String> = trimmed(values.into_iter());
        if values.iter().any(String::is_empty) {
            return Err(format!("a value is empty\nhelp: {HELP}"));
        }
        if let Some(value) = repeated(&values) {
            return Err(format!("{value} is listed twice; remove one"));
        }
        Ok(Over {
            typed: typed.to_owned(),
            fields,
            values,
        })
    }

    /// What `--set` takes to give each of the fields a value.
    pub fn sets<'a>(&'a self, value: &'a str) -> impl Iterator<Item = String> + 'a {
        let fields = self.fields.iter();
        fields.map(move |field| format!("{field}={value}"))
    }
}

fn trimmed<'a>(parts: impl Iterator<Item = &'a str>) -> Vec<String> {
    parts.map(|part| part.trim().to_owned()).collect()
}

/// The first text that is there twice.
fn repeated(texts: &[String]) -> Option<&String> {
    let mut seen = BTreeSet::new();
    texts.iter().find(|text| !seen.insert(*text))
}

/// The field that more than one `--over` names.
pub fn repeated_field(overs: &[Over]) -> Option<String> {
    let fields: Vec<String> = overs.iter().flat_map(|over| over.fields.clone()).collect();
    repeated(&fields).cloned()
}

/// Splits a text at the commas outside brackets and quotes.
fn split(text: &str) -> Result<Vec<&str>, String> {
    let mut parts = Vec::new();
    let (mut start, mut at) = (0, 0);
    let mut open = Vec::new();
    while let Some(first) = text[at..].chars().next() {
        // `r` may also be the end of a word.
        let before = text[..at].chars().next_back();
        let begins = before.is_none_or(|c| !c.is_alphanumeric() && c != '_');
        let string = quoted(&text[at..], begins).map_err(str::to_owned)?;
        if let Some(length) = string {
            at += length;
            continue;
        }
        match first {
            '(' => open.push(')'),
            '[' => open.push(']'),
            '{' => open.push('}'),
            ')' | ']' | '}' if open.pop() != Some(first) => {
                return Err(format!("`{first}` closes nothing"));
            }
            ',' if open.is_empty() => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
        at += first.len_utf8();
    }
    if let Some(closing) = open.pop() {
        return Err(format!("`{closing}` is missing"));
    }
    parts.push(&text[start..]);
    Ok(parts)
}

/// The length of the string that `text` begins with, if it does; a raw one only where a word begins.
fn quoted(text: &str, begins: bool) -> Result<Option<usize>, &'static str> {
    const OPEN: &str = "a string is not closed";
    let raw = text.strip_prefix('r').filter(|_| begins).and_then(|raw| {
        let inner = raw.trim_start_matches('#');
        let hashes = raw.len() - inner.len();
        Some((hashes, inner.strip_prefix('"')?))
    });
    if let Some((hashes, inner)) = raw {
        let end = format!("\"{}", "#".repeat(hashes));
        let found = inner.find(&end).ok_or(OPEN)?;
        return Ok(Some(text.len() - inner.len() + found + end.len()));
    }
    let Some(inner) = text.strip_prefix('"') else {
        return Ok(None);
    };
    let mut escaped = false;
    for (at, c) in inner.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Ok(Some(at + 2)),
            _ => {}
        }
    }
    Err(OPEN)
}

/// One value of each `--over`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Combination {
    /// The name of its folder.
    pub name: String,
    /// In the order of the options.
    pub values: Vec<String>,
    /// What `--set` takes.
    pub sets: Vec<String>,
}

/// Every combination, the values of the last option changing first. `known` gives the names of those that
/// are there already, by their values: they keep them.
pub fn combinations(overs: &[Over], known: &[(String, Vec<String>)]) -> Vec<Combination> {
    let labels = labels(overs);
    let mut all: Vec<Vec<&str>> = vec![Vec::new()];
    for over in overs {
        let longer = all.iter().flat_map(|values| {
            let each = over.values.iter();
            each.map(move |value| [&values[..], &[value.as_str()]].concat())
        });
        all = longer.collect();
    }
    let mut taken: BTreeSet<String> = known.iter().map(|(name, _)| lowered(name)).collect();
    let named = all.into_iter().map(|values| {
        let known = known.iter().find(|(_, known)| *known == values);
        let name = match known {
            Some((name, _)) => name.clone(),
            None => free(&name(&labels, &values), &mut taken),
        };
        let sets = overs.iter().zip(&values);
        Combination {
            name,
            sets: sets.flat_map(|(over, value)| over.sets(value)).collect(),
            values: values.into_iter().map(str::to_owned).collect(),
        }
    });
    named.collect()
}

/// Some file systems do not tell upper and lower case apart.
fn lowered(name: &str) -> String {
    name.to_ascii_lowercase()
}

/// How each option is called in names: by the last parts of its first field, as many as tell them apart.
fn labels(overs: &[Over]) -> Vec<String> {
    let last = |over: &Over, count: usize| {
        let parts: Vec<&str> = over.fields[0].split('.').collect();
        parts[parts.len().saturating_sub(count)..].join(".")
    };
    let label = |over: &Over| {
        let parts = over.fields[0].split('.').count();
        let is_unique = |count: &usize| {
            let named = |other: &&Over| last(other, *count) == last(over, *count);
            overs.iter().filter(named).count() == 1
        };
        last(over, (1..parts).find(is_unique).unwrap_or(parts))
    };
    overs.iter().map(label).collect()
}

fn name(labels: &[String], values: &[&str]) -> String {
    let parts = labels.iter().zip(values);
    let parts: Vec<String> = parts
        .map(|(label, value)| format!("{}={}", safe(label), safe(value)))
        .collect();
    let mut name = match parts.is_empty() {
        true => AS_IT_IS.to_owned(),
        false => parts.join(","),
    };
    name.truncate(MAX_NAME); // It is ASCII.
    name
}

/// Letters, digits, dots and underscores of a text; whatever is between them becomes one hyphen.
fn safe(text: &str) -> String {
    let mut safe = String::new();
    for (at, c) in text.char_indices() {
        let is_sign = c == '-' && text[at + 1..].starts_with(|c: char| c.is_ascii_digit());
        match c {
            c if c.is_ascii_alphanumeric() || matches!(c, '.' | '_') => safe.push(c),
            '-' if is_sign => safe.push('-'),
            _ if safe.is_empty() || safe.ends_with('-') => {}
            _ => safe.push('-'),
        }
    }
    safe.trim_end_matches('-').to_owned()
}

/// The name, with a number if it is taken.
fn free(name: &str, taken: &mut BTreeSet<String>) -> String {
    let mut free = name.to_owned();
    let mut number = 2;
    while !taken.insert(lowered(&free)) {
        free = format!("{name}-{number}");
        number += 1;
    }
    free
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_split_outside_brackets_and_quotes() {
        type Case = (
            &'static str,
            &'static [&'static str],
            &'static [&'static str],
        );
        let cases: [Case; 10] = [
            ("t.lr=0.1,0.03", &["t.lr"], &["0.1", "0.03"]),
            ("t.lr = 0.1 , 0.03", &["t.lr"], &["0.1", "0.03"]),
            ("t.lr=0.1", &["t.lr"], &["0.1"]),
            (
                "a.sizes+b.sizes=[64,48],[32]",
                &["a.sizes", "b.sizes"],
                &["[64,48]", "[32]"],
            ),
            (
                "t.optimizer=Sgd(lr: 0.1, momentum: 0.9),AdamW(lr: 0.001)",
                &["t.optimizer"],
                &["Sgd(lr: 0.1, momentum: 0.9)", "AdamW(lr: 0.001)"],
            ),
            (
                "t.a={\"x\": [1, 2]},{}",
                &["t.a"],
                &["{\"x\": [1, 2]}", "{}"],
            ),
            (
                r#"f.root="a,b","c\",]d",e"#,
                &["f.root"],
                &[r#""a,b""#, r#""c\",]d""#, "e"],
            ),
            (
                r##"f.root=r#"a",b"#,r"\",far"##,
                &["f.root"],
                &[r##"r#"a",b"#"##, r#"r"\""#, "far"],
            ),
            ("f.root=data/a=b//c,d", &["f.root"], &["data/a=b//c", "d"]),
            ("f.name=it's,zwölf", &["f.name"], &["it's", "zwölf"]),
        ];
        for (typed, fields, values) in cases {
            let over = Over::parse(typed).unwrap();
            assert_eq!(over.fields, fields, "{typed}");
            assert_eq!(over.values, values, "{typed}");
        }
    }

    #[test]
    fn what_cannot_be_split_is_refused() {
        for (typed, expected) in [
            ("t.lr", "it has no values"),
            ("=1", "a field has no name"),
            ("a+=1", "a field has no name"),
            ("t.lr=", "a value is empty"),
            ("t.lr=1,,2", "a value is empty"),
            ("t.lr=1,", "a value is empty"),
            ("t.lr=[1", "`]` is missing"),
            ("t.lr=1]", "`]` closes nothing"),
            ("t.lr=(1]", "`]` closes nothing"),
            ("t.lr=\"1", "a string is not closed"),
            ("t.lr=r#\"1\"", "a string is not closed"),
            ("t.lr=1, 2, 1", "1 is listed twice"),
        ] {
            let problem = Over::parse(typed).unwrap_err();
            assert!(problem.contains(expected), "{typed}: {problem}");
        }
    }

    fn names(overs: &[&str], known: &[(&str, &[&str])]) -> Vec<String> {
        let overs: Vec<Over> = overs.iter().map(|it| Over::parse(it).unwrap()).collect();
        let owned = |values: &[&str]| values.iter().map(|it| (*it).to_owned()).collect();
        let known: Vec<_> = known
            .iter()
            .map(|(name, values)| ((*name).to_owned(), owned(values)))
            .collect();
        let all = combinations(&overs, &known);
        all.into_iter().map(|it| it.name).collect()
    }

    #[test]
    fn combinations_have_names_that_are_read_and_are_safe() {
        let long = format!("t.v={0}1,{0}2", "x".repeat(MAX_NAME));
        let cut = format!("v={}", "x".repeat(MAX_NAME - 2));
        let second = format!("{cut}-2");
        type Case<'a> = (&'a [&'a str], &'a [&'a str]);
        let cases: [Case; 11] = [
            (&[], &["recipe"]),
            (
                &["t.optimizer.lr=0.1,1e-3", "a.sizes+b.sizes=[64, 48],[32]"],
                &[
                    "lr=0.1,sizes=64-48",
                    "lr=0.1,sizes=32",
                    "lr=1e-3,sizes=64-48",
                    "lr=1e-3,sizes=32",
                ],
            ),
            // The same last part of two fields.
            (&["a.size=1", "b.size=2"], &["a.size=1,b.size=2"]),
            (&["a.x.size=1", "a.y.size=2"], &["x.size=1,y.size=2"]),
            (&["seed=1", "a.seed=2"], &["seed=1,a.seed=2"]),
            (&["t.lr=-0.1,0.1"], &["lr=-0.1", "lr=0.1"]),
            (
                &["t.o=Sgd(lr: 0.1),\"../x y\",\"a\u{1b}\""],
                &["o=Sgd-lr-0.1", "o=..-x-y", "o=a"],
            ),
            // Only what is not in a name differs.
            (&["t.v=[],{},()"], &["v=", "v=-2", "v=-3"]),
            (&["t.v=\"a\",a,A"], &["v=a", "v=a-2", "v=A-3"]),
            (&["t.v=a-2,\"a\",a"], &["v=a-2", "v=a", "v=a-3"]),
            (&[&long], &[&cut, &second]),
        ];
        for (overs, expected) in cases {
            let names = names(overs, &[]);
            let is_safe = |c: char| c.is_ascii_alphanumeric() || ".=,_-".contains(c);
            assert!(names.iter().all(|name| name.chars().all(is_safe)));
            assert_eq!(names, expected, "{overs:?}");
        }
    }

    #[test]
    fn a_combination_keeps_its_name() {
        assert_eq!(
            names(&["t.v=\"a\",a,b"], &[("v=a", &["a"])]),
            ["v=a-2", "v=a", "v=b"]
        );
    }
}
