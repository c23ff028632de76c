//! What is wrong with a recipe: each problem with its place, its reason and the way out.

use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use crate::text::Text;

/// One thing that is wrong.
#[derive(Clone, Debug)]
pub struct Problem {
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
    /// Where, as a byte range of the resolved text.
    pub span: Range<usize>,
    /// What stands beside the underlined place: usually what was expected there.
    pub label: String,
    /// Other places that belong to it (the other end of a mismatch), each with its words.
    pub also: Vec<(Range<usize>, String)>,
    /// The way out.
    pub help: Option<String>,
}

impl Problem {
    /// A problem at `span`.
    pub fn new(message: impl Into<String>, span: Range<usize>) -> Self {
        Problem {
            message: message.into(),
            span,
            label: String::new(),
            also: Vec::new(),
            help: None,
        }
    }

    /// Adds what stands beside the underlined place.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// Adds the way out.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds the way out, if there is one to tell.
    pub fn maybe_help(mut self, help: Option<String>) -> Self {
        self.help = help.or(self.help);
        self
    }

    /// Adds another place that belongs to the problem.
    pub fn also(mut self, span: Range<usize>, words: impl Into<String>) -> Self {
        self.also.push((span, words.into()));
        self
    }
}

/// Every problem found in one recipe, in the order of their places.
#[derive(Clone, Debug)]
pub struct Problems {
    /// Problems and the text that they are in.
    parts: Vec<(Text, Vec<Problem>)>,
}

impl Problems {
    /// Gathers problems found in `text`.
    pub fn new(text: Text, mut list: Vec<Problem>) -> Self {
        list.sort_by_key(|problem| problem.span.start);
        Problems {
            parts: vec![(text, list)],
        }
    }

    /// These problems and then others.
    pub(crate) fn and(mut self, others: Problems) -> Self {
        self.parts.extend(others.parts);
        self
    }

    /// The problems.
    pub fn list(&self) -> impl Iterator<Item = &Problem> {
        self.parts.iter().flat_map(|(_, list)| list)
    }

    /// What a user reads: every problem with its line underlined. `colour` adds terminal escapes.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let all = self.parts.iter();
        let all = all.flat_map(|(text, list)| list.iter().map(move |problem| (text, problem)));
        let reports = all.map(|(text, problem)| render(&renderer, text, problem));
        let mut out = reports.collect::<Vec<_>>().join("\n\n");
        out.push('\n');
        out
    }
}

fn render(renderer: &Renderer, text: &Text, problem: &Problem) -> String {
    let written = text.place(problem.span.clone());
    // Where an override changed a part of it, that is what the user will look for.
    let main = text
        .overridden_in(&problem.span)
        .map_or(written, |span| text.place(span));
    let place = labelled(
        AnnotationKind::Primary,
        main.start..main.end,
        &problem.label,
    );
    let mut snippet = Snippet::source(main.text).path(main.path).annotation(place);
    let mut elsewhere = Vec::new();
    if !std::ptr::eq(written.text, main.text) {
        let range = written.start..written.end;
        let note = labelled(
            AnnotationKind::Context,
            range,
            "a part of this is overridden",
        );
        let snippet = Snippet::source(written.text).path(written.path);
        elsewhere.push(snippet.annotation(note));
    }
    for (span, words) in &problem.also {
        let place = text.place(span.clone());
        let note = labelled(AnnotationKind::Context, place.start..place.end, words);
        // The file, or one argument of the command line: each has its own lines.
        if std::ptr::eq(place.text, main.text) {
            snippet = snippet.annotation(note);
        } else {
            elsewhere.push(
                Snippet::source(place.text)
                    .path(place.path)
                    .annotation(note),
            );
        }
    }
    let title = Level::ERROR.primary_title(&problem.message);
    let mut report = vec![
        Group::with_title(title)
            .element(snippet)
            .elements(elsewhere),
    ];
    if let Some(help) = &problem.help {
        report.push(Group::with_title(Level::HELP.secondary_title(help)));
    }
    renderer.render(&report)
}

fn labelled(
    kind: AnnotationKind,
    span: Range<usize>,
    label: &str,
) -> annotate_snippets::Annotation<'_> {
    let annotation = kind.span(span);
    if label.is_empty() {
        annotation
    } else {
        annotation.label(label)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render(false).trim_end())
    }
}

impl std::error::Error for Problems {}

/// ``did you mean `name`?`` for the nearest of `names`, if one is near.
pub fn did_you_mean<'a>(found: &str, names: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(found, names).map(|name| format!("did you mean `{name}`?"))
}

/// The nearest of `names`, if one is near.
pub(crate) fn nearest<'a>(
    found: &str,
    names: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let found = found.to_lowercase();
    let distances = names.into_iter().map(|name| {
        let distance = strsim::damerau_levenshtein(&found, &name.to_lowercase());
        (distance, name)
    });
    distances
        .filter(|&(distance, name)| distance <= name.len().max(found.len()).div_ceil(3))
        // Of a short name nothing may be left.
        .filter(|&(distance, name)| distance < name.len().min(found.len()))
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, name)| name)
}

/// "1 core", "2 cores".
pub fn counted(count: usize, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        _ => format!("{count} {noun}s"),
    }
}

/// "`a`, `b` and `c`".
pub fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    joined(names, "and")
}

/// "`a`, `b` or `c`".
pub(crate) fn one_of<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    joined(names, "or")
}

fn joined<'a>(names: impl IntoIterator<Item = &'a str>, word: &str) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    match names.split_last() {
        None => "none".to_owned(),
        Some((only, [])) => only.clone(),
        Some((last, rest)) => format!("{} {word} {last}", rest.join(", ")),
    }
}
