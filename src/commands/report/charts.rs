//! The charts of a report: what a log says as lines over epochs, and accuracies over their cost.

use rsflow_base::shown::Shown as _;

use super::run::{Run, ensembles_differ};
use crate::plot::{Axis, Chart, Line, Look, Point};
use crate::run_log::{Row, RunLog, Terms, called};

/// More points than this cannot be seen on a line.
const MOST_POINTS: usize = 240;
/// Validations are not averaged: a page says what the best one is.
const MOST_VALIDATIONS: usize = 2000;
/// With means of fewer epochs than this, logged steps say more.
const ENOUGH_EPOCHS: usize = 5;

/// A chart with what is written above and below it.
pub struct Figure {
    pub title: String,
    pub chart: Chart,
    pub note: String,
}

/// A term of the training's figures: as it is called, its unit, and where it is.
struct Term {
    title: &'static str,
    unit: &'static str,
    get: fn(&Terms) -> Option<f64>,
}

const LOSS: Term = Term {
    title: "Training loss, the sum of its terms",
    unit: "loss",
    get: |terms| terms.loss,
};

const OTHERS: [Term; 4] = [
    Term {
        title: "Distillation term of the loss",
        unit: "distillation",
        get: |terms| terms.distillation,
    },
    Term {
        title: "Learning rate",
        unit: "learning rate",
        get: |terms| terms.learning_rate,
    },
    Term {
        title: "Speed of training",
        unit: "images/s",
        get: |terms| terms.images_per_second,
    },
    Term {
        title: "Peak memory of the device",
        unit: "GB",
        get: |terms| Some(terms.peak_gpu_bytes? / 1e9),
    },
];

/// What the points of training are.
#[derive(Clone, Copy, PartialEq)]
enum Grain {
    /// Means over so many epochs each.
    Epochs(usize),
    /// Means of so many logged steps each.
    Steps(usize),
}

/// The curves of a single run.
pub fn of_run(run: &Run) -> Vec<Figure> {
    let mut figures = Vec::new();
    figures.extend(validated(
        run,
        "Validation: top-1 by size",
        "top-1 %",
        |row| row.top1,
    ));
    figures.extend(validated(
        run,
        "Validation: cross-entropy by size",
        "cross-entropy",
        |row| row.loss,
    ));
    figures.extend(training_cross_entropy(run));
    let runs = std::slice::from_ref(run);
    figures.extend(of_term(runs, &LOSS));
    figures.extend(OTHERS.iter().filter_map(|term| of_term(runs, term)));
    figures
}

/// The same of several, a line for each run: a chart for each size that at least two of them have.
pub fn of_runs(runs: &[Run]) -> Vec<Figure> {
    let mut sizes: Vec<u32> = runs.iter().flat_map(Run::sizes).collect();
    sizes.sort_unstable_by(|one, other| other.cmp(one));
    let of_several = sizes.chunk_by(|one, other| one == other);
    let of_several = of_several.filter(|runs| runs.len() > 1);
    let sizes: Vec<Option<u32>> = of_several.map(|size| size.first().copied()).collect();
    let sizes = sizes.into_iter().chain([None]);
    let differ = ensembles_differ(runs);
    let of_size = sizes.filter_map(|size| {
        let lines = runs.iter().enumerate().map(|(at, run)| Line {
            name: match run.ensemble().filter(|_| size.is_none() && differ) {
                Some(sizes) => format!("{} (of {sizes})", run.name),
                None => run.name.clone(),
            },
            look: Look::Number(at),
            points: validation_points(run, size, |row| row.top1),
        });
        let title = match size {
            Some(size) => format!("Validation: top-1 at {size}"),
            None => "Validation: top-1 of the ensemble".to_owned(),
        };
        figure(title, epochs(), Axis::new("top-1 %"), lines.collect())
    });
    let mut figures: Vec<Figure> = of_size.collect();
    figures.extend(of_term(runs, &LOSS));
    figures.extend(OTHERS.iter().filter_map(|term| of_term(runs, term)));
    figures
}

/// The top-1 of the newest validation over multiply-adds, a line for each run.
pub fn over_cost(runs: &[Run]) -> Option<Figure> {
    let points = |run: &Run| {
        let rows = run.log.newest().map(|newest| newest.rows.as_slice());
        let sizes = rows.unwrap_or_default().iter();
        let points = sizes.filter_map(|row| {
            let (size, cost) = (row.resolution?, row.multiply_adds);
            (cost > 0).then_some((size, cost as f64 / 1e6, row.top1?))
        });
        points.collect()
    };
    let axis = Axis::new("multiply-adds of an image, millions");
    accuracies(runs, "Top-1 over multiply-adds", axis, points)
}

/// The same over measured latency.
pub fn over_latency(runs: &[Run]) -> Option<Figure> {
    let points = |run: &Run| match &run.latency {
        Some(Ok(found)) => found.points(),
        _ => Vec::new(),
    };
    let axis = Axis::new("milliseconds of one image, median");
    accuracies(runs, "Top-1 over latency", axis, points)
}

/// The weights of the ensemble, where several checkpoints are kept.
pub fn weights(run: &Run) -> Option<Figure> {
    let first = run.weights.first()?;
    if run.weights.len() < 2 || first.of.len() < 2 {
        return None;
    }
    let lines = first.of.iter().enumerate().map(|(at, (size, _))| Line {
        name: size.to_string(),
        look: Look::Number(at),
        points: run
            .weights
            .iter()
            .filter_map(|weights| {
                let (_, weight) = weights.of.iter().find(|(of, _)| of == size)?;
                Some(Point::new(weights.epoch, *weight))
            })
            .collect(),
    });
    let y = Axis::new("weight");
    figure(
        "Weights of the ensemble".to_owned(),
        epochs(),
        y,
        lines.collect(),
    )
}

fn epochs() -> Axis {
    Axis::whole("epoch")
}

/// `None` where no line has a point.
fn figure(title: String, x: Axis, y: Axis, mut lines: Vec<Line>) -> Option<Figure> {
    let several = lines.len() > 1;
    lines.retain(|line| {
        line.points
            .iter()
            .any(|it| it.x.is_finite() && it.y.is_finite())
    });
    // A single line has no legend.
    let note = match lines.as_slice() {
        [] => return None,
        [only] if several => format!("Of {} alone. ", only.name),
        _ => String::new(),
    };
    Some(Figure {
        title,
        chart: Chart { x, y, lines },
        note,
    })
}

fn validated(
    run: &Run,
    title: &str,
    unit: &str,
    value: impl Fn(&Row) -> Option<f64> + Copy,
) -> Option<Figure> {
    let sizes = run.sizes().into_iter().map(Some).chain([None]);
    let lines = sizes.enumerate().map(|(at, size)| Line {
        name: called(size),
        look: size.map_or(Look::Ink, |_| Look::Number(at)),
        points: validation_points(run, size, value),
    });
    let mut lines: Vec<Line> = lines.collect();
    if unit == "top-1 %" {
        let trained = run.log.epochs.iter().filter_map(|epoch| {
            let top1 = epoch.training.as_ref()?.top1?;
            Some((epoch.epoch as f64, top1))
        });
        let largest = run.sizes().first().map_or(String::new(), u32::to_string);
        let mut means = run.log.epochs.iter().filter_map(|it| it.training.as_ref());
        let mixed = match means.any(|means| means.mixed_labels) {
            true => ", mixed images",
            false => "",
        };
        lines.push(Line {
            name: format!("{largest} in training{mixed}"),
            look: Look::Number(lines.len()),
            points: some_of(trained.collect()),
        });
    }
    let mut found = figure(title.to_owned(), epochs(), Axis::new(unit), lines)?;
    if run.log.newest().is_some_and(|newest| newest.is_average) {
        found.note.push_str("Of the average of the weights.");
    }
    Some(found)
}

fn validation_points(
    run: &Run,
    size: Option<u32>,
    value: impl Fn(&Row) -> Option<f64>,
) -> Vec<Point> {
    let points = run.log.validations().filter_map(|epoch| {
        let row = epoch.rows.iter().find(|row| row.resolution == size)?;
        Some((epoch.epoch as f64, value(row)?))
    });
    some_of(points.collect())
}

fn training_cross_entropy(run: &Run) -> Option<Figure> {
    let mut sizes: Vec<u32> = run
        .log
        .steps
        .iter()
        .map(|step| &step.terms)
        .chain(run.log.epochs.iter().filter_map(|it| it.training.as_ref()))
        .flat_map(|terms| terms.cross_entropy.iter().map(|(size, _)| *size))
        .collect();
    sizes.sort_unstable_by(|one, other| other.cmp(one));
    sizes.dedup();
    let of = |size: u32| {
        move |terms: &Terms| {
            let mut found = terms.cross_entropy.iter();
            found.find(|(of, _)| *of == size).map(|(_, value)| *value)
        }
    };
    let grain = grain(run);
    let mut lines: Vec<Line> = sizes
        .iter()
        .enumerate()
        .map(|(at, size)| Line {
            name: size.to_string(),
            look: Look::Number(at),
            points: training_points(run, grain, of(*size)),
        })
        .collect();
    lines.push(Line {
        name: "ensemble".to_owned(),
        look: Look::Ink,
        points: training_points(run, grain, |terms| terms.ensemble_cross_entropy),
    });
    let title = "Training: cross-entropy by size".to_owned();
    let mut found = figure(title, training_axis(run), Axis::new("cross-entropy"), lines)?;
    found.note.push_str(&explained(grain));
    Some(found)
}

fn of_term(runs: &[Run], term: &Term) -> Option<Figure> {
    let lines = runs.iter().enumerate().map(|(at, run)| Line {
        name: run.name.clone(),
        look: Look::Number(at),
        points: training_points(run, grain(run), term.get),
    });
    let axis = match runs {
        [run] => training_axis(run),
        _ => epochs(),
    };
    let mut found = figure(
        term.title.to_owned(),
        axis,
        Axis::new(term.unit),
        lines.collect(),
    )?;
    let grains: Vec<Grain> = runs.iter().map(grain).collect();
    if let [first, others @ ..] = grains.as_slice()
        && others.iter().all(|it| it == first)
    {
        found.note.push_str(&explained(*first));
    }
    Some(found)
}

fn grain(run: &Run) -> Grain {
    match needs_steps(&run.log) {
        false => Grain::Epochs(group(means(&run.log), MOST_POINTS)),
        true => Grain::Steps(group(run.log.steps.len(), MOST_POINTS)),
    }
}

/// Whether the curves of training are those of logged steps, not of epochs.
pub fn needs_steps(log: &RunLog) -> bool {
    means(log) < ENOUGH_EPOCHS
}

/// Epochs whose means are known.
fn means(log: &RunLog) -> usize {
    let epochs = log.epochs.iter();
    epochs.filter(|epoch| epoch.training.is_some()).count()
}

fn explained(grain: Grain) -> String {
    match grain {
        Grain::Epochs(1) => "Each point is the mean of an epoch.".to_owned(),
        Grain::Epochs(count) => format!("Each point is the mean of {count} epochs."),
        Grain::Steps(1) => "Each point is a logged step.".to_owned(),
        Grain::Steps(count) => format!("Each point is the mean of {count} logged steps."),
    }
}

/// Steps are placed by the length of an epoch, which the log shows once one is over.
fn training_axis(run: &Run) -> Axis {
    match matches!(grain(run), Grain::Epochs(_)) || run.log.steps_per_epoch().is_some() {
        true => epochs(),
        false => Axis::whole("step"),
    }
}

fn training_points(run: &Run, grain: Grain, value: impl Fn(&Terms) -> Option<f64>) -> Vec<Point> {
    if matches!(grain, Grain::Epochs(_)) {
        let means = run.log.epochs.iter().filter_map(|epoch| {
            let terms = epoch.training.as_ref()?;
            Some((epoch.epoch as f64, value(terms)?))
        });
        return thinned(means.collect(), MOST_POINTS);
    }
    let per_epoch = run.log.steps_per_epoch().unwrap_or(1.0);
    let steps = run.log.steps.iter().filter_map(|step| {
        let value = value(&step.terms)?;
        Some((step.step as f64 / per_epoch, value))
    });
    thinned(steps.collect(), MOST_POINTS)
}

/// The points as they are; of very many some, the last one among them.
fn some_of(points: Vec<(f64, f64)>) -> Vec<Point> {
    let each = group(points.len(), MOST_VALIDATIONS);
    let last = points.len().saturating_sub(1);
    let some = points.into_iter().enumerate();
    let some = some.filter(|(at, _)| at % each == last % each);
    some.map(|(_, (x, y))| Point::new(x, y)).collect()
}

/// How many of `count` points are one where at most `most` are shown.
fn group(count: usize, most: usize) -> usize {
    count.div_ceil(most).max(1)
}

/// Neighbouring points as their mean, so that at most `most` remain.
fn thinned(points: Vec<(f64, f64)>, most: usize) -> Vec<Point> {
    let groups = points.chunks(group(points.len(), most));
    let mean = |values: &mut dyn Iterator<Item = f64>| {
        let (sum, count) = values.fold((0.0, 0), |(sum, count), it| (sum + it, count + 1));
        sum / f64::from(count)
    };
    let mean = groups.map(|points| {
        let x = mean(&mut points.iter().map(|(x, _)| *x));
        Point::new(x, mean(&mut points.iter().map(|(_, y)| *y)))
    });
    mean.collect()
}

/// Accuracies by size over a cost, a line for each run. Sizes are written beside the first run's points.
fn accuracies(
    runs: &[Run],
    title: &str,
    axis: Axis,
    points: impl Fn(&Run) -> Vec<(u32, f64, f64)>,
) -> Option<Figure> {
    let mut labelled: Vec<u32> = Vec::new();
    let lines = runs.iter().enumerate().map(|(at, run)| {
        let points = points(run).into_iter().map(|(size, x, y)| {
            let is_new = !labelled.contains(&size);
            labelled.extend(is_new.then_some(size));
            Point {
                x,
                y,
                label: if is_new {
                    size.to_string()
                } else {
                    String::new()
                },
            }
        });
        let mut points: Vec<Point> = points.collect();
        points.sort_by(|one, other| one.x.total_cmp(&other.x));
        Line {
            name: run.name.shown().into_owned(),
            look: Look::Number(at),
            points,
        }
    });
    let lines = lines.collect();
    figure(title.to_owned(), axis, Axis::new("top-1 %"), lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_seen_is_thinned_out() {
        for (count, shown, last) in [
            (0, 0, None),
            (240, 240, Some(239.0)),
            (241, 121, Some(240.0)),
        ] {
            let points: Vec<_> = (0..count).map(|at| (f64::from(at), 2.0)).collect();
            let thinned = thinned(points, 240);
            assert_eq!(thinned.len(), shown, "{count}");
            assert_eq!(thinned.last().map(|point| point.x), last);
            assert!(thinned.iter().all(|point| point.y == 2.0));
        }
        for (count, shown) in [(0, 0), (2000, 2000), (2001, 1001)] {
            let points = some_of((0..count).map(|at| (f64::from(at), 1.0)).collect());
            let last = points.last().map(|point| point.x);
            assert_eq!(
                (points.len(), last),
                (shown, (count > 0).then(|| f64::from(count - 1)))
            );
        }
        let many = thinned((0..600_000).map(|at| (f64::from(at), 1.0)).collect(), 240);
        assert_eq!((many.len(), many[0].x), (240, 1249.5));
    }
}
