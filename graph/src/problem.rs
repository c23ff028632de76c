//! Errors in a recipe: message, place and help of each, and how they are printed.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use rsflow_base::shown::lines;

use crate::expansion::Expansion;
use crate::text::{Place, Text};
use crate::words::counted;

#[derive(Clone, Debug)]
pub struct Problem {
    /// One sentence without a full stop.
    pub message: String,
    /// Byte range of the resolved text.
    pub span: Range<usize>,
    /// Printed beside the underlined place: usually what was expected there.
    pub label: String,
    /// Related places (the other end of a mismatch), each with its label.
    pub also: Vec<(Range<usize>, String)>,
    /// What to write instead.
    pub help: Option<String>,
    /// Whether the recipe runs in spite of it.
    pub is_warning: bool,
}

impl Problem {
    pub fn new(message: impl Into<String>, span: Range<usize>) -> Self {
        Problem {
            message: message.into(),
            span,
            label: String::new(),
            also: Vec::new(),
            help: None,
            is_warning: false,
        }
    }

    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub fn maybe_help(mut self, help: Option<String>) -> Self {
        self.help = help.or(self.help);
        self
    }

    /// A problem of the text as written, at its places in the expanded one.
    pub(crate) fn in_expanded(mut self, expansion: &Expansion) -> Self {
        let moved = |span: Range<usize>| {
            let start = expansion.in_expanded(span.start);
            start..start + span.len()
        };
        self.span = moved(self.span);
        for (span, _) in &mut self.also {
            *span = moved(span.clone());
        }
        self
    }

    /// Adds a related place.
    pub fn also(mut self, span: Range<usize>, label: impl Into<String>) -> Self {
        self.also.push((span, label.into()));
        self
    }
}

/// How many bytes of a place are underlined, and how many of the text behind it are laid out: a line of
/// megabytes would take as long as all else together.
const LONGEST: usize = 4000;

/// How many problems are explained and printed; of the others the number.
pub(crate) const SHOWN: usize = 50;

/// Every problem of one recipe, ordered by place.
#[derive(Clone, Debug)]
pub struct Problems {
    /// Each text with its problems: the recipe, and arguments of the command line.
    parts: Vec<(Text, Vec<Problem>)>,
}

impl Problems {
    pub fn new(text: Text, mut list: Vec<Problem>) -> Self {
        list.sort_by_key(|problem| problem.span.start);
        remove_repeated(&text, &mut list);
        Problems {
            parts: vec![(text, list)],
        }
    }

    /// These problems and then others.
    pub(crate) fn and(mut self, others: Problems) -> Self {
        self.parts.extend(others.parts);
        self
    }

    /// The same with each help as `changed` returns it.
    pub fn with_help(mut self, changed: impl Fn(&str) -> String) -> Self {
        for problem in self.parts.iter_mut().flat_map(|(_, list)| list) {
            problem.help = problem.help.as_deref().map(&changed);
        }
        self
    }

    pub fn list(&self) -> impl Iterator<Item = &Problem> {
        self.parts.iter().flat_map(|(_, list)| list)
    }

    /// Where everything that the problems name was written.
    pub fn places(&self) -> impl Iterator<Item = Place<'_>> {
        self.parts.iter().flat_map(|(text, list)| {
            let spans = list.iter().flat_map(|problem| {
                let also = problem.also.iter().map(|(span, _)| span);
                also.chain([&problem.span])
            });
            spans.map(|span| text.place(span.clone()))
        })
    }

    /// For the terminal: every problem with its place underlined. `colour` adds escape sequences.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let all = self.parts.iter();
        let all = all.flat_map(|(text, list)| list.iter().map(move |problem| (text, problem)));
        let shown = all.clone().take(SHOWN);
        let reports = shown.map(|(text, problem)| render(&renderer, text, problem));
        let mut out = reports.collect::<Vec<_>>().join("\n\n");
        out.push('\n');
        match all.count().saturating_sub(SHOWN) {
            0 => {}
            more => out += &format!("\nand {}\n", counted(more, "more problem")),
        }
        out
    }
}

/// Keeps one of the problems that a value of `let` has wherever its `$name` is used.
fn remove_repeated(text: &Text, list: &mut Vec<Problem>) {
    let mut seen = HashSet::new();
    list.retain(|problem| {
        if text.use_of(&problem.span).is_none() {
            return true;
        }
        let place = text.place(problem.span.clone());
        let place = (place.text.as_ptr(), place.start, place.end);
        // Not by the message, which names the field: `sizes` of training and of validation may differ in type.
        seen.insert((place, problem.label.clone(), problem.help.clone()))
    });
}

fn render(renderer: &Renderer, text: &Text, problem: &Problem) -> String {
    let written = text.place(problem.span.clone());
    // Where an override changed a part of it, the user looks for the override.
    let main = text.overridden_in(&problem.span).unwrap_or(written);
    let mut notes = Vec::new();
    if !std::ptr::eq(written.text, main.text) {
        notes.push((written, "a part of this is overridden"));
    }
    notes.extend(text.use_of(&problem.span).map(|place| (place, "used here")));
    for (span, label) in &problem.also {
        notes.push((text.place(span.clone()), label));
    }
    // The file, or one argument of the command line: each has its own lines.
    let (beside, elsewhere): (Vec<_>, Vec<_>) = notes
        .into_iter()
        .partition(|(place, _)| std::ptr::eq(place.text, main.text));
    let end = beside.iter().map(|(place, _)| underlined_end(place)).max();
    let snippet = Snippet::source(up_to(
        main.text,
        end.unwrap_or(0).max(underlined_end(&main)),
    ))
    .path(main.path)
    .annotation(labelled(AnnotationKind::Primary, &main, &problem.label))
    .annotations(
        beside
            .iter()
            .map(|(place, label)| labelled(AnnotationKind::Context, place, label)),
    );
    let elsewhere = elsewhere.iter().map(|(place, label)| {
        Snippet::source(up_to(place.text, underlined_end(place)))
            .path(place.path)
            .annotation(labelled(AnnotationKind::Context, place, label))
    });
    let level = match problem.is_warning {
        true => Level::WARNING,
        false => Level::ERROR,
    };
    let message = lines(&problem.message);
    let title = level.primary_title(&*message);
    let mut report = vec![
        Group::with_title(title)
            .element(snippet)
            .elements(elsewhere),
    ];
    let help = problem.help.as_deref().map(lines);
    if let Some(help) = &help {
        report.push(Group::with_title(Level::HELP.secondary_title(&**help)));
    }
    renderer.render(&report)
}

fn labelled<'a>(
    kind: AnnotationKind,
    place: &Place,
    label: &'a str,
) -> annotate_snippets::Annotation<'a> {
    let annotation = kind.span(place.start..underlined_end(place));
    if label.is_empty() {
        annotation
    } else {
        annotation.label(lines(label))
    }
}

/// The end of what is underlined.
fn underlined_end(place: &Place) -> usize {
    let text = place.text.get(..place.end).unwrap_or(place.text);
    up_to(text, place.start).len()
}

/// The text up to `at`, and [`LONGEST`] bytes more.
fn up_to(text: &str, at: usize) -> &str {
    let end = at.saturating_add(LONGEST).min(text.len());
    let end = (end..=text.len()).find(|&end| text.is_char_boundary(end));
    &text[..end.unwrap_or(text.len())]
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render(false).trim_end())
    }
}

impl std::error::Error for Problems {}
