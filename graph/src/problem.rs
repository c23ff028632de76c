//! Errors in a recipe: message, place and help of each, and how they are printed.

use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use rsflow_base::shown::lines;

use crate::text::Text;
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

    /// Adds a related place.
    pub fn also(mut self, span: Range<usize>, label: impl Into<String>) -> Self {
        self.also.push((span, label.into()));
        self
    }
}

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
        Problems {
            parts: vec![(text, list)],
        }
    }

    /// These problems and then others.
    pub(crate) fn and(mut self, others: Problems) -> Self {
        self.parts.extend(others.parts);
        self
    }

    pub fn list(&self) -> impl Iterator<Item = &Problem> {
        self.parts.iter().flat_map(|(_, list)| list)
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

fn render(renderer: &Renderer, text: &Text, problem: &Problem) -> String {
    let written = text.place(problem.span.clone());
    // Where an override changed a part of it, the user looks for the override.
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
    for (span, label) in &problem.also {
        let place = text.place(span.clone());
        let note = labelled(AnnotationKind::Context, place.start..place.end, label);
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

fn labelled(
    kind: AnnotationKind,
    span: Range<usize>,
    label: &str,
) -> annotate_snippets::Annotation<'_> {
    let annotation = kind.span(span);
    if label.is_empty() {
        annotation
    } else {
        annotation.label(lines(label))
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render(false).trim_end())
    }
}

impl std::error::Error for Problems {}
