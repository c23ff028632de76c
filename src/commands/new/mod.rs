//! `rsflow new`: looks at a data set and writes a recipe for it.
//!
//! | file | content |
//! |---|---|
//! | `find` | which folders or archives hold the images |
//! | `choices` | sizes, network and training that suit them |
//! | `recipe` | the text |

mod choices;
mod find;
mod recipe;

use std::collections::HashSet;
use std::io::{IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use rsflow_base::nfc::nfc;
use rsflow_base::shown::Shown as _;
use rsflow_graph::{Plan, Recipe, Text, counted, first_few};
use rsflow_model::checkpoint::{ClassOrder, match_classes};
use rsflow_model::nn::compute::driver_is_there;
use rsflow_pipeline::Part;
use rsflow_pipeline::survey::{self, Survey};

use super::images::{Half, Images};
use super::usage::{Usage, warn};
use crate::catalogue::CATALOGUE;
use crate::cli::{Drafting, New};
use crate::files::{check_output, is_stdout, replace};
use crate::process::{self, say};
use crate::progress::Screen;
use crate::table::thousands;
use choices::{Choices, Facts, Wanted};
use find::find;

/// A recipe that was written for a data set.
pub struct Draft {
    pub text: String,
    /// The data set's name, for files and folders that are named after it.
    pub name: String,
    /// What was found and chosen.
    pub summary: Vec<String>,
    /// The folders that hold the class folders, where these are no archives.
    pub folders: Vec<PathBuf>,
}

pub fn run(arguments: &New, out: &mut dyn Write) -> Result<ExitCode> {
    let data = &arguments.drafting.data;
    let named = data.first().context("no data was named")?;
    let default = PathBuf::from(format!("{}.ron", name(named)));
    let file = arguments.out.as_ref().unwrap_or(&default);
    let inputs: Vec<&Path> = data.iter().map(PathBuf::as_path).collect();
    check_output(file, "--out", arguments.force, &inputs)?;
    process::log(None, &Screen::new(std::io::stderr().is_terminal()))?;
    let to_stdout = is_stdout(Some(file));
    let shown = if to_stdout { &default } else { file };
    let draft = draft(&arguments.drafting, &shown.shown())?;
    let plan = Plan::new(Recipe::parse(
        Text::new(shown.shown().to_string(), draft.text.as_str()),
        CATALOGUE,
        &[],
    )?)?;
    warn(plan.warnings());
    if to_stdout {
        for line in &draft.summary {
            say(line);
        }
        out.write_all(draft.text.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    replace(file, draft.text.as_bytes())
        .with_context(|| format!("cannot write {}; --out names another file", file.shown()))?;
    for line in &draft.summary {
        writeln!(out, "{line}")?;
    }
    let file = file.shown();
    writeln!(
        out,
        "\n{file} is written. Next:\n  rsflow run {file}      trains; every value above is in the file, with comments\n  \
         rsflow check {file}    finds mistakes, after you changed it"
    )?;
    Ok(ExitCode::SUCCESS)
}

/// Looks at the data and writes a recipe, which calls itself `file`.
///
/// # Errors
/// The data is not there, is not in class folders, or of one class only.
pub fn draft(drafting: &Drafting, file: &str) -> Result<Draft> {
    if let [training, validation] = drafting.data.as_slice() {
        let real = [training, validation].map(|path| path.canonicalize().ok());
        ensure!(
            real[0].is_none() || real[0] != real[1],
            Usage(format!(
                "{} and {} are the same images; leave the second one out, and a part of them is held out for validation",
                training.shown(),
                validation.shown()
            ))
        );
    }
    let found = find(&drafting.data)?;
    let paths = found.validation.iter().chain([&found.training]);
    paths.map(Images::path).try_for_each(check_path)?;
    // Before all images are looked at, which may take minutes.
    if let Some(validation) = &found.validation
        && let Some(trained) = find::class_names(&found.training)?
        && let Some(validated) = find::class_names(validation)?
    {
        let [training, validation] = [&found.training, validation].map(Images::to_string);
        check_classes((&trained, &training), (&validated, &validation))?;
    }
    let percent = drafting.validation_percent;
    let validation_percent = percent.unwrap_or(Part::DEFAULT_PERCENT);
    let part = match &found.validation {
        Some(_) => Part::All,
        None => Part::Training {
            validation_percent,
            seed: 0,
        },
    };
    let training = several_classes(look(&found.training, part)?)?;
    let validation = found.validation.as_ref();
    let validation = validation
        .map(|images| look(images, Part::All))
        .transpose()?;
    if let Some(validation) = &validation {
        check_classes(
            (&training.classes, &training.origin),
            (&validation.classes, &validation.origin),
        )?;
    }
    let shorter_side = training.sample.median().with_context(|| {
        let unreadable = training.sample.unreadable.first();
        format!(
            "none of {} in {} can be read: {}",
            counted(training.sample.images, "image"),
            training.origin.shown(),
            unreadable.map_or("", String::as_str)
        )
    })?;
    let choices = Choices::new(
        Facts {
            images: training.images,
            shorter_side,
            gpu: has_gpu(),
        },
        Wanted {
            sizes: drafting.sizes.clone(),
            network: drafting.network.clone(),
            epochs: drafting.epochs,
        },
    );
    let held_out = validation.is_none().then_some(validation_percent);
    let surveys: Vec<&Survey> = [&training].into_iter().chain(&validation).collect();
    let headers = Headers::of(&surveys);
    let facts = facts(&training, validation.as_ref(), held_out, &headers);
    let mut summary: Vec<String> = facts
        .iter()
        .map(|(name, fact)| line(name, fact))
        .chain(chosen(&choices))
        .collect();
    let ignored = percent.filter(|_| validation.is_some());
    let ignored =
        ignored.map(|_| "--validation-percent has no effect: there are validation images");
    let remarks = found.remarks.iter().map(String::as_str).chain(ignored);
    summary.extend(remarks.map(|remark| line("note", remark)));
    let sentences: Vec<String> = facts
        .iter()
        .map(|(name, fact)| format!("{name}: {fact}"))
        .collect();
    let text = recipe::text(
        &recipe::Subject {
            found: &found,
            file,
            classes: training.classes.len(),
            validation_percent,
            facts: &sentences,
            skip_percent: headers.skip_percent(),
            turned: headers.turned > 0,
        },
        &choices,
    );
    let images = found.validation.iter().chain([&found.training]);
    let folders = images.filter_map(|images| match images {
        Images::Folder(root) => Some(root.clone()),
        _ => None,
    });
    Ok(Draft {
        folders: folders.collect(),
        text,
        name: name(found.training.path()),
        summary,
    })
}

/// Refuses validation images of other classes than the training's, which no trainer takes.
fn check_classes(
    (trained, training): (&[String], &str),
    (validated, validation): (&[String], &str),
) -> Result<()> {
    let matched = match_classes(trained, validated, validation, ClassOrder::Text)?;
    if matched.missing == 0 {
        return Ok(());
    }
    let there: HashSet<_> = validated.iter().map(|class| nfc(class)).collect();
    let missing = trained.iter().filter(|class| !there.contains(&nfc(class)));
    let missing: Vec<&String> = missing.collect();
    bail!(
        "{} has no class folder for {} of the classes in {}: {}; add images of {} for validation, or move {} out of \
         the training images",
        validation.shown(),
        missing.len(),
        training.shown(),
        first_few(&missing),
        if missing.len() == 1 { "it" } else { "them" },
        if missing.len() == 1 { "it" } else { "them" },
    )
}

/// Refuses a path that a recipe cannot have.
pub fn check_path(path: &Path) -> Result<()> {
    let whole = std::path::absolute(path);
    let whole =
        whole.with_context(|| format!("cannot find the folder that {} is in", path.shown()))?;
    ensure!(
        whole.to_str().is_some(),
        Usage(format!(
            "the path {} is not UTF-8, which recipes are written in; rename it, or make a link to it",
            whole.shown()
        ))
    );
    Ok(())
}

fn look(images: &Images, part: Part) -> Result<Survey> {
    match images {
        Images::Folder(root) => survey::of_folder(root, part),
        Images::Tar { path, folder } => survey::of_tar(path, folder, part),
        Images::ImageNet { root, half } => survey::of_imagenet(root, *half == Half::Train, part),
        Images::OfRun { .. } => Err(anyhow::anyhow!("the images of a run are not looked at")),
    }
}

/// Refuses a data set with nothing to tell apart.
fn several_classes(survey: Survey) -> Result<Survey> {
    if let [only] = &*survey.classes {
        let origin = survey.origin.shown();
        bail!(
            "{origin} has one class only, `{}`, and a network learns to tell classes apart: put images of another \
             kind into a folder beside it, or name the folder that holds all classes",
            only.shown()
        );
    }
    Ok(survey)
}

/// Whether there is a GPU that can be used. Another process finds out, since this one may go on to train, and what
/// that needs of a process comes before the first use of a GPU.
fn has_gpu() -> bool {
    if !driver_is_there() {
        return false;
    }
    let report = process::this_program(["doctor", "--json", "-"]).ok();
    let report: Option<serde_json::Value> =
        report.and_then(|report| serde_json::from_slice(&report.stdout).ok());
    let problems = report.as_ref().map(|report| &report["gpu_problems"]);
    let mut problems = problems
        .and_then(|problems| problems.as_array())
        .into_iter()
        .flatten();
    problems.any(serde_json::Value::is_null)
}

/// What the headers of training and validation images say of the recipe's need for care.
struct Headers<'a> {
    images: usize,
    turned: usize,
    unreadable: usize,
    first_unreadable: Option<&'a str>,
}

impl<'a> Headers<'a> {
    fn of(surveys: &[&'a Survey]) -> Self {
        let samples = || surveys.iter().map(|survey| &survey.sample);
        let mut unreadable = samples().flat_map(|sample| &sample.unreadable);
        Headers {
            images: samples().map(|sample| sample.images).sum(),
            turned: samples().map(|sample| sample.turned).sum(),
            unreadable: samples().map(|sample| sample.unreadable.len()).sum(),
            first_unreadable: unreadable.next().map(String::as_str),
        }
    }

    /// How many of 100 images may be passed over: twice as many as were found, since headers do not show all.
    /// `None` where all are sound.
    fn skip_percent(&self) -> Option<usize> {
        let percent = (200 * self.unreadable).div_ceil(self.images.max(1));
        (self.unreadable > 0).then_some(percent.clamp(1, 100))
    }
}

/// What the data set holds: of what, and what of it.
fn facts(
    training: &Survey,
    validation: Option<&Survey>,
    held_out: Option<f64>,
    headers: &Headers,
) -> Vec<(&'static str, String)> {
    let mut facts = vec![("data", contents(training))];
    facts.push((
        "validation",
        match (validation, held_out) {
            (Some(validation), _) => contents(validation),
            (None, percent) => format!(
                "no images of its own, so {} are held out: about {} % of each class, chosen by name",
                thousands(u64::from(training.whole - training.images)),
                percent.unwrap_or_default()
            ),
        },
    ));
    let sample = &training.sample;
    let formats: Vec<String> = sample
        .formats
        .iter()
        .map(|(name, count)| match sample.formats.len() {
            1 => (*name).to_owned(),
            _ => format!("{count} {name}"),
        })
        .collect();
    facts.push((
        "images",
        format!(
            "{}; shorter side {} ({})",
            formats.join(", "),
            sides(&sample.shorter_sides),
            match sample.images == training.whole as usize {
                true => "all headers read".to_owned(),
                false => format!("{} headers read", sample.images),
            }
        ),
    ));
    let of = counted(headers.images, "image");
    if headers.turned > 0 {
        facts.push((
            "turned",
            format!(
                "{} of {of} have an EXIF orientation that is not upright; the recipe turns them",
                headers.turned
            ),
        ));
    }
    if let (Some(first), Some(percent)) = (headers.first_unreadable, headers.skip_percent()) {
        facts.push((
            "damaged",
            format!(
                "{} of {of} cannot be read, such as {first}; the recipe passes over up to {percent} % of the images",
                headers.unreadable
            ),
        ));
    }
    facts
}

/// "160 to 213 pixels, median 160". They are sorted.
fn sides(sides: &[u32]) -> String {
    let median = sides.get(sides.len() / 2).copied().unwrap_or_default();
    match (sides.first(), sides.last()) {
        (Some(first), Some(last)) if first < last => {
            format!("{first} to {last} pixels, median {median}")
        }
        _ => format!("{median} pixels"),
    }
}

/// "/data: 9,469 images, 10 classes of 858 to 993 images; 2 other files passed over: 2 .txt".
fn contents(survey: &Survey) -> String {
    let smallest = survey.class_sizes.iter().min().copied().unwrap_or_default();
    let largest = survey.class_sizes.iter().max().copied().unwrap_or_default();
    let range = match smallest == largest {
        true => thousands(u64::from(smallest)),
        false => {
            let [smallest, largest] = [smallest, largest].map(|size| thousands(u64::from(size)));
            format!("{smallest} to {largest}")
        }
    };
    let passed_over = match survey.passed_over.to_string() {
        text if text.is_empty() => text,
        text => format!("; {text}"),
    };
    format!(
        "{}: {} images, {} classes ({range} images each){passed_over}",
        survey.origin.shown(),
        thousands(u64::from(survey.whole)),
        survey.classes.len()
    )
}

/// What was chosen, and why.
fn chosen(choices: &Choices) -> Vec<String> {
    let sizes: Vec<String> = choices.sizes.iter().map(u32::to_string).collect();
    let sizes = sizes.join(", ");
    vec![
        line("sizes", &format!("{sizes}: {}", choices.why_sizes)),
        line(
            "network",
            &format!("{}: {}", choices.network, choices.why_network),
        ),
        line(
            "training",
            &format!(
                "{}, batches of {}, learning rate {}: {}",
                counted(
                    usize::try_from(choices.epochs).unwrap_or(usize::MAX),
                    "epoch"
                ),
                choices.batch,
                choices.lr,
                choices.why_training
            ),
        ),
    ]
}

fn line(name: &str, text: &str) -> String {
    format!("{name:<11} {text}")
}

/// The name of a data set: of its folder or archive, without the name of a part and without an ending.
pub fn name(path: &Path) -> String {
    let canonical = path.canonicalize();
    let path = canonical.as_deref().unwrap_or(path);
    let names = path.iter().rev().filter_map(|name| name.to_str());
    let mut names = names.map(|name| name.strip_suffix(".tar").unwrap_or(name));
    let name = names
        .find(|name| !find::is_part_name(name))
        .unwrap_or_default();
    let allowed = |character: char| match character {
        '-' | '_' | '.' => character,
        _ if character.is_alphanumeric() => character,
        _ => '_',
    };
    let name: String = name.chars().map(allowed).collect();
    match name.trim_matches(['.', '_']) {
        "" => "data".to_owned(),
        name => name.to_owned(),
    }
}
