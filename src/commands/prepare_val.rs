//! `rsflow prepare-val`: sorts ImageNet's validation images into class folders.

use std::io::{IsTerminal as _, Write};
use std::process::ExitCode;

use anyhow::{Result, bail, ensure};
use rsflow_base::shown::Shown as _;
use rsflow_pipeline::imagenet::{self, Action, How, Label, Labels, Sorting, Task};

use super::usage::{Usage, check_folder, many};
use crate::cli::PrepareVal;
use crate::process::say;
use crate::progress::{Count, Screen};

pub fn run(arguments: &PrepareVal, out: &mut dyn Write) -> Result<ExitCode> {
    let images = &arguments.images;
    check_folder(images)?;
    let labels = match (&arguments.devkit, &arguments.classes) {
        (Some(devkit), _) => {
            if devkit.is_file() {
                Labels::from_devkit_archive(devkit)?
            } else {
                check_folder(devkit)?;
                Labels::from_devkit(devkit)?
            }
        }
        (None, Some(list)) => {
            ensure!(list.is_file(), "there is no file {}", list.shown());
            Labels::from_list(list)?
        }
        (None, None) => bail!(Usage("--devkit or --classes is needed".to_owned())),
    };
    let is_number = |label: &Label| label.class.bytes().all(|byte| byte.is_ascii_digit());
    if labels.images.iter().all(is_number) {
        say(format_args!(
            "warning: the classes in {} are numbers, and so will be the folders; --devkit gives them ImageNet's \
             names (n01440764), as in the training images",
            labels.file.shown()
        ));
    }
    let task = Task {
        images: images.clone(),
        classes: arguments.out.as_ref().unwrap_or(images).clone(),
        how: if arguments.link { How::Link } else { How::Move },
        allow_missing: arguments.allow_missing,
    };
    let sorting = imagenet::plan(&task, &labels)?;
    if arguments.dry_run {
        for step in &sorting.steps {
            writeln!(out, "{step}")?;
        }
    } else {
        let screen = Screen::new(std::io::stderr().is_terminal());
        let title = match task.how {
            How::Move => "moving images",
            How::Link => "linking images",
        };
        let mut count = Count::new(screen, title, sorting.steps.len());
        imagenet::carry_out(&sorting, &mut |done| count.done(done))?;
    }
    let summary = summary(&sorting, &task, arguments.dry_run);
    writeln!(out, "{}: {summary}", task.classes.shown())?;
    Ok(ExitCode::SUCCESS)
}

/// Such as "50000 images in 1000 classes: 49990 moved, 10 already there".
fn summary(sorting: &Sorting, task: &Task, dry_run: bool) -> String {
    let steps = sorting.steps.iter();
    let new = steps.filter(|step| step.action != Action::Drop).count();
    let done = match (task.how, dry_run) {
        (How::Move, false) => "moved",
        (How::Move, true) => "to move",
        (How::Link, false) => "linked",
        (How::Link, true) => "to link",
    };
    let missing = match sorting.missing {
        0 => String::new(),
        missing => format!(", {missing} missing"),
    };
    format!(
        "{} in {}: {new} {done}, {} already there{missing}",
        many((new + sorting.there) as u64, "image"),
        match sorting.classes {
            1 => "1 class".to_owned(),
            classes => format!("{classes} classes"),
        },
        sorting.there
    )
}
