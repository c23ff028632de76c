//! Accuracy by class, what is taken for what, and the worst mistakes with their pictures.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use maud::{Markup, html};
use rsflow_base::shown::Shown as _;

use super::{no_predictions, table, text, unreadable};
use crate::commands::report::answers::{Answers, Class, Mistake};
use crate::commands::report::run::Run;
use crate::run_log::called;
use crate::table::thousands;

/// With more classes than this there is a list of pairs in place of a matrix.
const MOST_OF_MATRIX: usize = 24;
/// Pairs that are listed.
const MOST_PAIRS: usize = 20;
/// Classes that are shown unfolded.
const MOST_CLASSES: usize = 24;
/// Upper bound of classes in the page.
const ALL_CLASSES: usize = 2000;

/// What a run was right and wrong about.
pub fn of_run(run: &Run) -> Markup {
    let answers = match &run.answers {
        Some(Ok(answers)) => answers,
        Some(Err(error)) => return unreadable(error),
        None => return no_predictions(run),
    };
    let size = called(answers.columns.first().copied().flatten());
    html! {
        p.note {
            "Predictions of " (thousands(answers.images)) " images, in " code { (answers.file.shown()) } ": top-1 "
            (accuracies(answers)) "."
        }
        h3 { "Accuracy by class" }
        (classes(answers))
        h3 { "Taken for another class, at " (size) }
        @if answers.confused.is_empty() {
            p { "No image was taken for another class." }
        } @else if answers.classes.len() <= MOST_OF_MATRIX {
            (matrix(answers))
        } @else {
            (pairs(answers))
        }
        @if !answers.mistakes.is_empty() {
            h3 { "The most certain mistakes, at " (size) }
            (mistakes(answers))
        }
    }
}

/// The accuracy of each class in several runs, each at its largest size.
pub fn of_several(runs: &[Run]) -> Markup {
    let with: Vec<(&Run, &Answers)> = runs
        .iter()
        .filter_map(|run| Some((run, run.answers.as_ref()?.as_ref().ok()?)))
        .collect();
    let without = runs.iter().find(|run| run.answers.is_none());
    let Some((_, first)) = with.first() else {
        return html! { @if let Some(run) = without { (no_predictions(run)) } };
    };
    let heading = |run: &Run, answers: &Answers| {
        let size = called(answers.columns.first().copied().flatten());
        html! { (run.name) br; small { "at " (size) } }
    };
    let header = [html! { "class" }, html! { "images" }].into_iter();
    let header = header.chain(with.iter().map(|(run, answers)| heading(run, answers)));
    let header: Vec<Markup> = header.collect();
    let row = |class: &&Class| {
        let cells = with.iter().map(|(_, answers)| {
            let same = answers.classes.iter().find(|it| it.name == class.name);
            same.map_or_else(|| html! { "–" }, |same| bar(same.share(0)))
        });
        let begin = [text(&class.name), html! { (thousands(class.images)) }];
        begin.into_iter().chain(cells).collect()
    };
    let worst = first.worst_first();
    let rows: Vec<Vec<Markup>> = worst.iter().take(MOST_CLASSES).map(row).collect();
    html! {
        (table(1, &header, &rows))
        @if worst.len() > MOST_CLASSES {
            p.note { "The " (MOST_CLASSES) " classes of " (thousands(worst.len() as u64)) " that the first run knows least." }
        }
        @if let Some(run) = without { (no_predictions(run)) }
    }
}

/// `70.78 % at 64, 68.56 % at 48`.
fn accuracies(answers: &Answers) -> String {
    let each = answers
        .columns
        .iter()
        .zip(&answers.top1)
        .map(|(column, top1)| match column {
            Some(size) => format!("{top1:.2} % at {size}"),
            None => format!("{top1:.2} % of the ensemble"),
        });
    each.collect::<Vec<_>>().join(", ")
}

fn classes(answers: &Answers) -> Markup {
    let worst = answers.worst_first();
    let most = worst.len().min(ALL_CLASSES);
    html! {
        (class_table(answers, &worst[..most.min(MOST_CLASSES)]))
        @if most > MOST_CLASSES {
            p.note { "The worst of " (thousands(worst.len() as u64)) " classes." }
            details {
                summary { "the other " (thousands((most - MOST_CLASSES) as u64)) }
                (class_table(answers, &worst[MOST_CLASSES..most]))
            }
        }
    }
}

fn class_table(answers: &Answers, classes: &[&Class]) -> Markup {
    let header = ["class".to_owned(), "images".to_owned()].into_iter();
    let header = header.chain(answers.columns.iter().map(|column| called(*column)));
    let header: Vec<Markup> = header.map(|it| html! { (it) }).collect();
    let row = |class: &&Class| {
        let cells = (0..answers.columns.len()).map(|column| match column {
            0 => bar(class.share(0)),
            column => html! { (format!("{:.1}", 100.0 * class.share(column))) },
        });
        let begin = [text(&class.name), html! { (thousands(class.images)) }];
        begin.into_iter().chain(cells).collect()
    };
    table(1, &header, &classes.iter().map(row).collect::<Vec<_>>())
}

/// A share as a bar with its percentage.
fn bar(share: f64) -> Markup {
    let percent = 100.0 * share;
    html! {
        span.bar { span style={ "width:" (format!("{percent:.0}")) "%" } {} }
        (format!("{percent:.1}"))
    }
}

/// A row for each class, a column for what it was taken for.
fn matrix(answers: &Answers) -> Markup {
    let classes = &answers.classes;
    let count = |class: usize, taken_for: usize| match class == taken_for {
        true => classes[class].right.first().copied().unwrap_or(0),
        false => {
            let mut pairs = answers.confused.iter();
            let found = pairs.find(|it| (it.class, it.taken_for) == (class, taken_for));
            found.map_or(0, |it| it.images)
        }
    };
    html! {
        div.wide {
            table.matrix {
                thead {
                    tr {
                        th scope="col" { "is" span.down { " ↓" } " taken for →" }
                        @for class in classes { th scope="col" { span { (class.name.shown()) } } }
                    }
                }
                tbody {
                    @for (row, class) in classes.iter().enumerate() {
                        tr {
                            th scope="row" { (class.name.shown()) }
                            @for column in 0..classes.len() {
                                (cell(count(row, column), class.images, row == column))
                            }
                        }
                    }
                }
            }
        }
        p.note { "Images; the darker, the larger the share of the row. What is right is on the diagonal." }
    }
}

fn cell(count: u64, of: u64, is_right: bool) -> Markup {
    let share = count as f64 / of.max(1) as f64;
    // Mistakes are few: the square root makes them visible.
    let strength = if is_right { share } else { share.sqrt() };
    let kind = if is_right { "right" } else { "wrong" };
    let strong = if strength > 0.55 { " strong" } else { "" };
    html! {
        td class={ (kind) (strong) } style=[(count > 0).then(|| format!("--share:{strength:.2}"))] {
            @if count > 0 { (count) } @else { span.none { "·" } }
        }
    }
}

fn pairs(answers: &Answers) -> Markup {
    let header = ["is", "taken for", "images", "of the class"];
    let rows = answers.confused.iter().take(MOST_PAIRS).map(|pair| {
        let class = &answers.classes[pair.class];
        let share = 100.0 * pair.images as f64 / class.images.max(1) as f64;
        vec![
            text(&class.name),
            text(&answers.classes[pair.taken_for].name),
            html! { (thousands(pair.images)) },
            html! { (format!("{share:.1} %")) },
        ]
    });
    let rows: Vec<Vec<Markup>> = rows.collect();
    html! {
        (table(2, &header.map(|it| html! { (it) }), &rows))
        p.note {
            "The most frequent of " (thousands(answers.confused.len() as u64)) " pairs; with "
            (thousands(answers.classes.len() as u64)) " classes a matrix could not be read."
        }
    }
}

fn mistakes(answers: &Answers) -> Markup {
    html! {
        @if let Some(reason) = &answers.without_pictures {
            p.missing {
                "Pictures are missing: " (rsflow_base::shown::lines(reason)) ". " code { "--data FOLDER" }
                " names where the images are now."
            }
        }
        div.mistakes { @for it in &answers.mistakes { (mistake(it, answers)) } }
    }
}

fn mistake(mistake: &Mistake, answers: &Answers) -> Markup {
    let right_at: Vec<String> = mistake
        .right_at
        .iter()
        .map(|column| called(*column))
        .collect();
    html! {
        figure {
            @match &mistake.picture {
                Some(jpeg) => img alt={ "an image of the class " (mistake.class.shown()) }
                    src={ "data:image/jpeg;base64," (STANDARD.encode(jpeg)) };,
                None => div.no-picture { "no picture" },
            }
            figcaption {
                span.wrong-class { (mistake.taken_for.shown()) }
                " " (format!("{:.1} %", 100.0 * mistake.probability))
                br;
                "is " span.right-class { (mistake.class.shown()) }
                @if answers.columns.len() > 1 {
                    br;
                    small {
                        @if right_at.is_empty() { "wrong everywhere" } @else { "right: " (right_at.join(", ")) }
                    }
                }
                br;
                small.file title=(mistake.image.shown()) { (file_name(&mistake.image)) }
            }
        }
    }
}

fn file_name(image: &str) -> String {
    let name = image.rsplit('/').next().unwrap_or_default();
    name.shown().into_owned()
}
