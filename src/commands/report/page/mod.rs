//! The page: HTML without scripts, and without anything that is loaded. It is complete as it is; what is folded
//! is printed, too.
//!
//! | file | content |
//! |---|---|
//! | `mod` | the page around its sections |
//! | `accuracy` | the head, accuracies, what differs between runs |
//! | `answers` | classes, confusions, mistakes |
//! | `rest` | the ensemble, where the time went, the recipe |
//! | `style.css` | how it looks: light, dark, narrow, printed |

mod accuracy;
mod answers;
mod rest;

use std::path::Path;

use maud::{DOCTYPE, Markup, PreEscaped, html};
use rsflow_base::shown::{Shown as _, lines};

use super::charts::{self, Figure};
use super::run::Run;
use super::{answers as predictions, latency};
use crate::plot;

/// What a report begins with, by which the next one knows that it may replace it.
pub const GENERATOR: &str = r#"<meta name="generator" content="rsflow report">"#;

const STYLE: &str = include_str!("style.css");

/// The page of some runs; of at least one.
pub fn page(runs: &[Run]) -> String {
    let title = match runs {
        [run] => run.name.clone(),
        runs => format!("{} runs", runs.len()),
    };
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                (PreEscaped(GENERATOR))
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                // Nothing is loaded or run, whatever a name in the page says.
                meta http-equiv="Content-Security-Policy"
                    content="default-src 'none'; style-src 'unsafe-inline'; img-src data:";
                title { (title) " – rsflow report" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    @match runs {
                        [run] => (of_run(run)),
                        runs => (of_runs(runs, &title)),
                    }
                    footer { p { "Written by rsflow " (env!("CARGO_PKG_VERSION")) " on " (now()) "." } }
                }
            }
        }
    };
    page.into_string()
}

fn of_run(run: &Run) -> Markup {
    html! {
        (accuracy::head(run))
        (accuracy::notes(run))
        (section("accuracy", "Accuracy", &accuracy::by_size(run)))
        (section("curves", "Curves", &curves(&charts::of_run(run))))
        (section("cost", "Accuracy and cost", &cost(std::slice::from_ref(run))))
        (section("ensemble", "The ensemble", &rest::ensemble(run)))
        (section("answers", "Classes and mistakes", &answers::of_run(run)))
        (section("time", "Where the time went", &rest::times(run)))
        (section("recipe", "Recipe", &rest::recipe(run)))
    }
}

fn of_runs(runs: &[Run], title: &str) -> Markup {
    html! {
        (accuracy::head_of_several(runs, title))
        (section("accuracy", "Accuracy", &accuracy::of_several(runs)))
        (section("differences", "What differs between the recipes", &accuracy::differences(runs)))
        (section("curves", "Curves", &curves(&charts::of_runs(runs))))
        (section("cost", "Accuracy and cost", &cost(runs)))
        (section("classes", "Accuracy by class", &answers::of_several(runs)))
        h2 #runs { "The runs one by one" }
        @for run in runs {
            details.run {
                summary { h3 { (run.name) } " " (accuracy::state(run.state)) " " (accuracy::in_short(run)) }
                (accuracy::notes(run))
                (accuracy::by_size(run))
                h4 { "Curves" }
                (curves(&charts::of_run(run)))
                h4 { "The ensemble" }
                (rest::ensemble(run))
                h4 { "Classes and mistakes" }
                (answers::of_run(run))
                h4 { "Where the time went" }
                (rest::times(run))
                h4 { "Recipe" }
                (rest::recipe(run))
            }
        }
    }
}

fn section(id: &str, title: &str, content: &Markup) -> Markup {
    html! {
        section id=(id) {
            h2 { (title) }
            (content)
        }
    }
}

fn curves(figures: &[Figure]) -> Markup {
    html! {
        @if figures.is_empty() {
            p.missing { "No step and no validation has been logged yet." }
        }
        div.figures { @for it in figures { (figure(it)) } }
    }
}

fn figure(figure: &Figure) -> Markup {
    html! {
        figure {
            figcaption { (figure.title) }
            (plot::inline(&figure.chart, &figure.title))
            @if !figure.note.is_empty() { p.note { (figure.note) } }
        }
    }
}

/// Accuracy over multiply-adds and over latency.
fn cost(runs: &[Run]) -> Markup {
    let without: Vec<&Run> = runs.iter().filter(|run| run.latency.is_none()).collect();
    html! {
        div.figures {
            @match charts::over_cost(runs) {
                Some(it) => (figure(&it)),
                None => p.missing { "There is no validation yet." },
            }
            @if let Some(it) = charts::over_latency(runs) { (figure(&it)) }
        }
        @for run in runs {
            @match &run.latency {
                Some(Err(error)) => (unreadable(error)),
                Some(Ok(evaluated)) => @if let Some(data) = &evaluated.data {
                    p.note { "Over latency " (run.name) " is measured on " (data.shown()) ", not on the images of its validation." }
                },
                None => {},
            }
        }
        @if let Some(run) = without.first() {
            p.missing {
                @if runs.len() > 1 { "Latency is not known of " (without.len()) " of the runs; for " (run.name) ": " }
                @else { "Latency is not known. To measure it: " }
                (evaluation(&run.path, "--latency --json", latency::FILE))
            }
        }
    }
}

/// A command that evaluates a run and writes a file into its directory, where the report looks for it.
fn evaluation(run_dir: &Path, options: &str, file: &str) -> Markup {
    let (path, file) = (quoted(run_dir), quoted(&run_dir.join(file)));
    html! { code { "rsflow eval " (path) " " (options) " " (file) } }
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.shown();
    let is_plain = |it: char| it.is_alphanumeric() || "/._-+=@%:,~".contains(it);
    match text.chars().all(is_plain) && !text.starts_with('-') {
        true => text.into_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

fn unreadable(error: &str) -> Markup {
    html! { p.missing { "Not shown: " (lines(error)) "." } }
}

/// What is missing where a run has no predictions.
fn no_predictions(run: &Run) -> Markup {
    let it = evaluation(&run.path, "--predictions", predictions::FILE);
    html! { p.missing { "There are no predictions. To make some, which this page looks for there: " (it) } }
}

fn now() -> String {
    jiff::ZonedDateTime::now()
        .strftime("%Y-%m-%d at %H:%M %Z")
        .to_string()
}

/// A table that scrolls where it is wider than the page. The first `texts` columns are texts, the others numbers.
fn table(texts: usize, header: &[Markup], rows: &[Vec<Markup>]) -> Markup {
    let class = |at| (at < texts).then_some("text");
    html! {
        div.wide {
            table {
                thead {
                    tr {
                        @for (at, cell) in header.iter().enumerate() { th scope="col" class=[class(at)] { (cell) } }
                    }
                }
                tbody {
                    @for row in rows {
                        tr {
                            @for (at, cell) in row.iter().enumerate() {
                                @if at == 0 { th.text scope="row" { (cell) } }
                                @else { td class=[class(at)] { (cell) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn text(text: impl AsRef<str>) -> Markup {
    html! { (text.as_ref().shown()) }
}

/// With two digits; a dash for what is not known.
fn percent(value: Option<f64>) -> Markup {
    match value {
        Some(value) => html! { (format!("{value:.2}")) },
        None => html! { "–" },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted_for_a_shell() {
        for (path, expected) in [
            ("runs/mine/0", "runs/mine/0"),
            ("runs/lr=0.1,0.2", "runs/lr=0.1,0.2"),
            ("my runs/it's", r"'my runs/it'\''s'"),
            ("$(rm -rf)", "'$(rm -rf)'"),
        ] {
            assert_eq!(quoted(Path::new(path)), expected);
        }
    }

    /// Also by a browser of today without a network: no address is in the style.
    #[test]
    fn the_style_loads_nothing() {
        for word in ["http", "url(", "@import", "</style"] {
            assert!(!STYLE.contains(word), "{word}");
        }
    }
}
