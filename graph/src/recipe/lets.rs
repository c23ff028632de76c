//! `let`: values with names; `$name` is such a value.
//!
//! They are put in place of the names in the text, so that all else reads a recipe without names. So are
//! the recipe's own words for values that other programs call otherwise: `Cuda(1)` for `cuda:1`.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::read::{SETTINGS, is_name};
use crate::expansion::Expansion;
use crate::fields::{self, Field, Shape, Token, Value};
use crate::node::{Catalogue, Kind};
use crate::problem::{Problem, SHOWN};
use crate::text::Text;
use crate::words::{did_you_mean, first_few};

/// Upper bound of an expanded text in bytes: a few names within each other can be a text of any size.
const MAX_SIZE: usize = 64 << 20;
/// Values within values within values.
const MAX_DEPTH: usize = 50;

/// A text with all values in place of their names. The spans of problems are in the expanded text.
pub(super) struct Expanded {
    pub text: Text,
    pub problems: Vec<Problem>,
    /// Values that nothing uses.
    pub warnings: Vec<Problem>,
}

pub(super) fn expanded(text: Text, catalogue: Catalogue) -> Expanded {
    let whole = text.written();
    let Some(shape) = fields::shape(whole) else {
        return Expanded {
            text,
            problems: Vec::new(),
            warnings: Vec::new(),
        };
    };
    let mut lets = Lets::new(whole, &shape);
    lets.find_uses(&shape);
    if lets.is_written() {
        lets.check_names(&shape);
    }
    lets.find_spellings(&shape, catalogue);
    if lets.sites.is_empty() && !lets.is_written() {
        let problems = lets.problems;
        return Expanded {
            text,
            problems,
            warnings: Vec::new(),
        };
    }
    let expansion = lets.expansion();
    let warnings = lets.unused();
    let moved = |problems: Vec<Problem>| {
        let all = problems.into_iter();
        all.map(|problem| problem.in_expanded(&expansion)).collect()
    };
    Expanded {
        problems: moved(lets.problems),
        warnings: moved(warnings),
        text: text.expanded(expansion),
    }
}

/// The place of an entry's name without its quotes, and the name.
pub(super) fn key(whole: &str, key: &Value) -> (Range<usize>, String) {
    let written = &whole[key.span.clone()];
    let name = fields::options().from_str::<String>(written);
    let name = name.unwrap_or_else(|_| written.to_owned());
    let inner = key.span.start + 1..key.span.end.saturating_sub(1);
    match whole.get(inner.clone()) {
        Some(inside) if inside == name && !name.is_empty() => (inner, name),
        _ => (key.span.clone(), name),
    }
}

/// The names and values of a recipe's field `field`.
pub(super) fn entries<'a>(
    whole: &str,
    shape: &'a Value,
    field: &str,
) -> Vec<(Range<usize>, String, &'a Value)> {
    match shape.at(whole, field).map(|value| &value.shape) {
        Some(Shape::Map(entries)) => {
            let entries = entries.iter();
            let entry = entries.map(|(name, value)| {
                let (span, name) = key(whole, name);
                (span, name, value)
            });
            entry.collect()
        }
        // Not how it is written, which is reported elsewhere.
        Some(Shape::Fields(fields)) => {
            let fields = fields.iter();
            let field = fields.map(|field| {
                let name = whole[field.name.clone()].to_owned();
                (field.name.clone(), name, &field.value)
            });
            field.collect()
        }
        _ => Vec::new(),
    }
}

/// One value with a name.
struct Entry<'a> {
    name: String,
    name_span: Range<usize>,
    value: &'a Value,
    /// Bytes of its value when expanded.
    size: usize,
    /// How many values are within each other in it.
    depth: usize,
    is_used: bool,
}

/// What is put in place of a part of the text.
enum Site {
    /// The value of an entry.
    Entry(usize),
    /// A text, for what is written in `origin`.
    Text { text: String, origin: Range<usize> },
}

struct Lets<'a> {
    whole: &'a str,
    /// `let: {...}`.
    field: Option<&'a Field>,
    entries: Vec<Entry<'a>>,
    /// By name; of two of the same name the first.
    named: HashMap<String, usize>,
    /// By place, the first first.
    sites: Vec<(Range<usize>, Site)>,
    problems: Vec<Problem>,
}

impl<'a> Lets<'a> {
    fn new(whole: &'a str, shape: &'a Value) -> Self {
        let mut fields = shape.fields().iter();
        let entries = entries(whole, shape, "let");
        let entries = entries.into_iter().map(|(name_span, name, value)| Entry {
            name,
            name_span,
            value,
            size: value.span.len(),
            depth: 0,
            is_used: false,
        });
        let entries: Vec<Entry> = entries.collect();
        let mut named = HashMap::new();
        for (index, entry) in entries.iter().enumerate() {
            named.entry(entry.name.clone()).or_insert(index);
        }
        Lets {
            whole,
            field: fields.find(|field| &whole[field.name.clone()] == "let"),
            entries,
            named,
            sites: Vec::new(),
            problems: Vec::new(),
        }
    }

    fn is_written(&self) -> bool {
        self.field.is_some()
    }

    fn word(&self, value: &Value) -> &'a str {
        &self.whole[value.span.clone()]
    }

    /// The names in `let` that may be used, and the fields and nodes that they are not confused with.
    fn check_names(&mut self, shape: &Value) {
        let nodes = entries(self.whole, shape, "nodes").into_iter();
        let mut others: HashMap<String, Range<usize>> = HashMap::new();
        for (span, name, _) in nodes {
            others.entry(name).or_insert(span);
        }
        for (index, entry) in self.entries.iter().enumerate() {
            let (name, span) = (&entry.name, entry.name_span.clone());
            let first = self.named.get(name).copied().unwrap_or(index);
            if first != index {
                let problem = Problem::new(format!("`{name}` is given twice in `let`"), span);
                self.problems.push(
                    problem
                        .label("the second one")
                        .also(self.entries[first].name_span.clone(), "the first one")
                        .help("remove one of them"),
                );
            } else if !is_quoted(self.whole, &span) {
                let problem = Problem::new("a name in `let` must be in quotes", span);
                self.problems
                    .push(problem.help(format!("write `\"{name}\"`")));
            } else if !is_valid_name(name) {
                let problem = Problem::new(format!("`{name}` cannot be a name in `let`"), span);
                self.problems
                    .push(problem.help("use letters, digits and `_`, and begin with a letter"));
            } else if let Some(node) = others.get(name) {
                let message = format!("`{name}` is the name of a node and a name in `let`");
                self.problems.push(
                    Problem::new(message, span)
                        .label("in `let`")
                        .also(node.clone(), "the node")
                        .help(format!(
                            "rename one of them: `--set {name}=...` could mean both"
                        )),
                );
            } else if [SETTINGS, &["nodes", "let"]]
                .concat()
                .contains(&name.as_str())
            {
                let message = format!("`{name}` is a field of the recipe and a name in `let`");
                let help = format!("rename it: `--set {name}=...` could mean both");
                self.problems.push(Problem::new(message, span).help(help));
            }
        }
    }

    /// Every `$name` that is a value, first in `let`, in its order, then elsewhere.
    fn find_uses(&mut self, shape: &Value) {
        for index in 0..self.entries.len() {
            self.find_uses_in_entry(index);
        }
        let is_let = |field: &&Field| {
            let found = self.field.map(|field| &field.name);
            found == Some(&field.name)
        };
        let (_, others): (Vec<_>, Vec<_>) = shape.fields().iter().partition(is_let);
        let sizes = self.entries.iter().map(|entry| entry.size);
        let mut size = sizes.fold(0, usize::saturating_add);
        for field in others {
            for span in names_in(self.whole, &field.value) {
                if let Some(used) = self.find_use(span.clone(), self.entries.len()) {
                    size = size.saturating_add(self.entries[used].size);
                    self.sites.push((span, Site::Entry(used)));
                }
            }
        }
        if size > MAX_SIZE {
            let span = self.field.map_or(0..0, |field| field.name.clone());
            let message = "with the values of `let` in place of their names the recipe is too long";
            let problem = Problem::new(message, span).help("use shorter values");
            self.problems.push(problem);
            self.sites.clear();
        }
    }

    fn find_uses_in_entry(&mut self, index: usize) {
        for span in names_in(self.whole, self.entries[index].value) {
            let Some(used) = self.find_use(span.clone(), index) else {
                continue;
            };
            let (size, depth) = (self.entries[used].size, self.entries[used].depth + 1);
            let entry = &mut self.entries[index];
            entry.size = entry.size.saturating_add(size);
            if depth > MAX_DEPTH {
                let message = format!("more than {MAX_DEPTH} values within each other");
                self.problems.push(Problem::new(message, span));
            } else {
                entry.depth = entry.depth.max(depth);
                self.sites.push((span, Site::Entry(used)));
            }
        }
    }

    /// The entry that the `$name` in `span` means, of the first `visible` ones.
    fn find_use(&mut self, span: Range<usize>, visible: usize) -> Option<usize> {
        let name = &self.whole[span.start + 1..span.end];
        let found = self.named.get(name).copied();
        if let Some(found) = found {
            self.entries[found].is_used = true;
        }
        let problem = match found {
            Some(found) if found < visible => return Some(found),
            Some(found) if found == visible => {
                Problem::new(format!("`{name}` contains `${name}`"), span)
                    .help("write a value without it")
            }
            Some(found) => Problem::new(format!("`{name}` comes after this"), span)
                .also(self.entries[found].name_span.clone(), "here")
                .help(format!(
                    "a value of `let` may use those before it: move `{name}` up"
                )),
            None if self.problems.len() < SHOWN => self.unknown(name, span),
            None => Problem::new(format!("there is no `{name}` in `let`"), span),
        };
        self.problems.push(problem);
        None
    }

    fn unknown(&self, name: &str, span: Range<usize>) -> Problem {
        let problem = Problem::new(format!("there is no `{name}` in `let`"), span);
        let names: Vec<&str> = self
            .entries
            .iter()
            .map(|entry| entry.name.as_str())
            .collect();
        if names.is_empty() {
            let help = format!("add `let: {{\"{name}\": ...}},` before `nodes`");
            return problem.label("the recipe has no `let`").help(help);
        }
        let meant: Vec<String> = names.iter().map(|name| format!("${name}")).collect();
        let meant = did_you_mean(&format!("${name}"), meant.iter().map(String::as_str));
        let add = || format!("add it to `let`: `\"{name}\": ...`");
        problem
            .label(format!("`let` has {}", first_few(&names)))
            .help(meant.unwrap_or_else(add))
    }

    /// Values of nodes that are written in another program's words.
    fn find_spellings(&mut self, shape: &Value, catalogue: Catalogue) {
        let mut found = Vec::new();
        for (_, _, node) in entries(self.whole, shape, "nodes") {
            // Also of a node that is a value of `let`.
            let Some(node) = self.named_value(node) else {
                continue;
            };
            let kind = catalogue.find(&self.whole[node.head.clone()]);
            for field in node.fields() {
                found.extend(kind.and_then(|kind| self.spelling(kind, field)));
            }
        }
        // `cuda:1` is no RON.
        for entry in &self.entries {
            let word = self.word(entry.value);
            if matches!(entry.value.shape, Shape::Word) && word.contains(':') {
                let origin = entry.value.span.clone();
                let text = format!("\"{word}\"");
                found.push((origin.clone(), Site::Text { text, origin }));
            }
        }
        if !found.is_empty() {
            let changed: HashSet<usize> = found.iter().map(|(span, _)| span.start).collect();
            self.sites
                .retain(|(span, _)| !changed.contains(&span.start));
            self.sites.extend(found);
        }
        self.sites.sort_by_key(|(span, _)| span.start);
        // Several nodes may have the same value of `let`.
        self.sites.dedup_by_key(|(span, _)| span.start);
    }

    /// The value itself, or that of the `$name` that it is.
    fn named_value<'b>(&'b self, mut value: &'b Value) -> Option<&'b Value> {
        for _ in 0..=MAX_DEPTH {
            let Some(name) = self.word(value).strip_prefix('$') else {
                break;
            };
            value = self.entries[*self.named.get(name)?].value;
        }
        Some(value)
    }

    fn spelling(&self, kind: &Kind, field: &Field) -> Option<(Range<usize>, Site)> {
        let name = &self.whole[field.name.clone()];
        let (_, spelling) = kind.spellings.iter().find(|(field, _)| *field == name)?;
        let value = self.named_value(&field.value)?;
        let word = match value.shape {
            Shape::Word => self.word(value).to_owned(),
            Shape::Quoted => fields::options().from_str(self.word(value)).ok()?,
            _ => return None,
        };
        let text = spelling(&word).filter(|text| *text != self.word(value))?;
        let origin = value.span.clone();
        Some((field.value.span.clone(), Site::Text { text, origin }))
    }

    fn expansion(&self) -> Expansion {
        let names = self.entries.iter().map(|entry| entry.name.clone());
        let mut expansion = Expansion::new(names.collect());
        let end = self.whole.len();
        let Some(field) = self.field else {
            self.copy(&mut expansion, 0..end, None);
            return expansion;
        };
        let removed = self.line_of(field);
        self.copy(&mut expansion, 0..removed.start, None);
        let start = expansion.text.len();
        self.copy(&mut expansion, removed.clone(), None);
        expansion.let_field = Some(start..expansion.text.len());
        self.copy(&mut expansion, removed.end..end, None);
        expansion
    }

    /// A field with the comma after it, and with its whole lines where nothing else is in them.
    fn line_of(&self, field: &Field) -> Range<usize> {
        let (mut start, mut end) = (field.name.start, field.value.span.end);
        if let Some((Token::Mark(','), comma)) = fields::tokens(&self.whole[end..]).first() {
            end += comma.end;
        }
        let before = self.whole[..start].trim_end_matches([' ', '\t']).len();
        let after = &self.whole[end..];
        let blank = after.len() - after.trim_start_matches([' ', '\t', '\r']).len();
        if after[blank..].starts_with('\n') && self.whole[..before].ends_with('\n') {
            start = before;
            end += blank + 1;
        }
        start..end
    }

    /// Copies a part of the text, with values in place of names.
    fn copy(&self, out: &mut Expansion, range: Range<usize>, used: Option<&Range<usize>>) {
        let mut at = range.start;
        let first = self.sites.partition_point(|(span, _)| span.start < at);
        let sites = self.sites[first..].iter();
        for (span, site) in sites.take_while(|(span, _)| span.end <= range.end) {
            out.copy(self.whole, at..span.start, used);
            let is_name = self.whole[span.clone()].starts_with('$');
            let inner = used.or(is_name.then_some(span));
            match site {
                Site::Entry(entry) => {
                    self.copy(out, self.entries[*entry].value.span.clone(), inner)
                }
                Site::Text { text, origin } => out.replace(text, origin.clone(), inner),
            }
            at = span.end;
        }
        out.copy(self.whole, at..range.end, used);
    }

    fn unused(&self) -> Vec<Problem> {
        let unused = self.entries.iter().filter(|entry| !entry.is_used);
        let warning = unused.map(|entry| {
            let name = &entry.name;
            let problem = Problem::new(format!("nothing uses `{name}`"), entry.name_span.clone());
            let help = format!("write `${name}` where its value is meant, or remove it");
            Problem {
                is_warning: true,
                ..problem.help(help)
            }
        });
        warning.collect()
    }
}

fn is_quoted(whole: &str, span: &Range<usize>) -> bool {
    whole[..span.start].ends_with('"') || whole[span.clone()].ends_with(['"', '#'])
}

fn is_valid_name(name: &str) -> bool {
    let is_letter = |c: char| c.is_alphabetic() || c == '_';
    name.starts_with(is_letter) && name.chars().all(|c| is_letter(c) || c.is_numeric())
}

/// Every value `$name` within `value`.
fn names_in(whole: &str, value: &Value) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    find_names(whole, value, &mut found);
    found
}

fn find_names(whole: &str, value: &Value, found: &mut Vec<Range<usize>>) {
    let mut all = |values: &mut dyn Iterator<Item = &Value>| {
        values.for_each(|value| find_names(whole, value, found));
    };
    match &value.shape {
        Shape::Word if is_name(whole, value) => found.push(value.span.clone()),
        Shape::Word | Shape::Quoted => {}
        Shape::List(items) | Shape::Tuple(items) => all(&mut items.iter()),
        Shape::Fields(fields) => all(&mut fields.iter().map(|field| &field.value)),
        Shape::Map(entries) => all(&mut entries.iter().map(|(_, value)| value)),
    }
}
