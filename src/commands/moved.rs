//! The images of a run that were moved since it was trained, and where they are now.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Result, bail, ensure};
use rsflow_base::run_files::{RECIPE, last_checkpoint};
use rsflow_base::shown::Shown as _;
use rsflow_graph::{Contents, Plan, Recipe, Text, counted, source_contents};
use rsflow_model::checkpoint::{Checkpoint, Metadata};

use super::new;
use super::recipes::plan;
use super::sources::{Source, sources};
use super::usage::Usage;
use crate::catalogue::CATALOGUE;
use crate::cli::{Overrides, Run};
use crate::next_commands;

/// Where a resumed run reads its images, other than before.
#[derive(Default)]
pub struct Moved(Vec<Place>);

/// The new place of a source.
struct Place {
    source: Source,
    /// Absolute.
    to: PathBuf,
}

impl Place {
    /// As `--set` has it.
    fn to_override(&self) -> String {
        let Source { node, listed, .. } = &self.source;
        let to = self.to.display().to_string();
        format!("{node}.{}={to:?}", listed.parameter)
    }
}

impl Moved {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn overrides(&self) -> Vec<String> {
        self.0.iter().map(Place::to_override).collect()
    }

    /// The recipe of a run before the move, with the new places in it.
    pub fn within(&self, recipe: &str) -> String {
        if self.is_empty() {
            return recipe.to_owned();
        }
        let text = Text::new("the checkpoint's recipe", recipe);
        // One without these nodes differs in more, which the comparison of both names.
        let moved = Recipe::parse(text, CATALOGUE, &self.overrides());
        moved.map_or_else(|_| recipe.to_owned(), |moved| moved.text().without_let())
    }
}

/// For the user of a resume: what was changed.
impl fmt::Display for Moved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = |Place { source, to }: &Place| {
            let (node, root) = (&source.node, source.listed.root.shown());
            format!("{node} reads {} (was {root})", to.shown())
        };
        let places: Vec<String> = self.0.iter().map(place).collect();
        write!(f, "the images have moved: {}", places.join(", "))
    }
}

/// The plan of a run that is resumed with the images in `data`, which may be empty: they are where its recipe
/// says, or are looked for in `data`.
///
/// # Errors
/// There are other images in `data`; the recipe cannot be read.
pub fn plan_of_resume(run: &Run, data: &[PathBuf]) -> Result<(Plan, Moved)> {
    let as_it_is = plan(&run.recipe, &run.overrides)?;
    let all = sources(&as_it_is);
    let lost: Vec<Source> = all.iter().filter(|it| is_lost(it)).cloned().collect();
    for path in data {
        ensure!(
            path.exists(),
            "there is no folder or file {}; DATA is where the images of the run are now, or is left out",
            path.shown()
        );
        new::check_path(path)?;
    }
    if data.is_empty() || (lost.is_empty() && unread(data, &all).is_none()) {
        return Ok((as_it_is, Moved::default()));
    }
    let run_dir = run.run_dir.as_deref().unwrap_or(Path::new(""));
    // Without one there is nothing to resume: the run says so when it opens it.
    let Ok(checkpoint) = Checkpoint::open(&last_checkpoint(run_dir)) else {
        return Ok((as_it_is, Moved::default()));
    };
    let sought = if lost.is_empty() { &all } else { &lost };
    let search = Search {
        run,
        run_dir,
        data,
        metadata: checkpoint.metadata(),
    };
    let found = search.places(sought)?;
    if lost.is_empty() {
        return Err(search.other_data(&all, &found));
    }
    let moved = search.all_found(found)?;
    let there = search.plan_with(moved.overrides())?;
    let all = sources(&there);
    match unread(data, &all) {
        None => Ok((there, moved)),
        Some(_) => Err(search.other_data(&all, &[])),
    }
}

/// Refuses a resume whose images are gone, and says how it finds them.
pub fn check_there(plan: &Plan, run_dir: &Path) -> Result<()> {
    let lost = sources(plan).into_iter().filter(is_lost);
    let lost: Vec<String> = lost
        .map(|source| format!("{} ({})", source.listed.root.shown(), source.node))
        .collect();
    // Elsewhere there is no recipe that `train` could resume by.
    if lost.is_empty() || !run_dir.join(RECIPE).is_file() {
        return Ok(());
    }
    bail!(
        "the images of the run {} are not where its recipe says: there is no {}\n\
         help: `rsflow train DATA --resume {}` finds them in DATA, the folder or archive that they were moved to",
        run_dir.shown(),
        lost.join(", no "),
        next_commands::word(run_dir)
    )
}

fn is_lost(source: &Source) -> bool {
    !source.listed.root.exists()
}

/// Where what was at `root` may be in `data`, which was moved with the end of its path or as its whole: with the most
/// of its path first.
fn candidates(root: &Path, data: &[PathBuf]) -> Vec<PathBuf> {
    let names = root.components();
    let names: Vec<Component> = names
        .filter(|part| matches!(part, Component::Normal(_)))
        .collect();
    let ends = (0..=names.len()).map(|start| &names[start..]);
    let places = ends.flat_map(|end| {
        data.iter().map(move |data| {
            let whole = std::path::absolute(data).unwrap_or_else(|_| data.clone());
            whole.components().chain(end.iter().copied()).collect()
        })
    });
    places.filter(|place: &PathBuf| place.exists()).collect()
}

/// The first of `data` that no source reads.
fn unread<'a>(data: &'a [PathBuf], sources: &[Source]) -> Option<&'a PathBuf> {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let roots: Vec<PathBuf> = sources
        .iter()
        .map(|source| real(&source.listed.root))
        .collect();
    data.iter().find(|path| {
        let path = real(path);
        let is_read = |root: &PathBuf| root.starts_with(&path) || path.starts_with(root);
        !roots.iter().any(is_read)
    })
}

/// A search for the images of a run.
struct Search<'a> {
    run: &'a Run,
    run_dir: &'a Path,
    data: &'a [PathBuf],
    metadata: &'a Metadata,
}

/// What a source has in `data`: the place that holds its images, else the most likely one and how it differs.
struct Found {
    place: Place,
    difference: Option<Difference>,
}

struct Difference {
    text: String,
    /// Whether there are images at all.
    can_be_read: bool,
}

impl Search<'_> {
    fn plan_with(&self, overrides: Vec<String>) -> Result<Plan> {
        let set = self.run.overrides.set.iter().cloned().chain(overrides);
        let set = set.collect();
        plan(&self.run.recipe, &Overrides { set })
    }

    fn places(&self, sources: &[Source]) -> Result<Vec<Found>> {
        sources.iter().map(|source| self.place(source)).collect()
    }

    /// The first candidate is the most likely one. There always is one: what was named.
    fn place(&self, source: &Source) -> Result<Found> {
        let mut likely: Option<Found> = None;
        for to in candidates(&source.listed.root, self.data) {
            let source = source.clone();
            let place = Place { source, to };
            let difference = self.difference(&place)?;
            let same = difference.is_none();
            let found = Found { place, difference };
            if same {
                return Ok(found);
            }
            let is_better = |likely: &Found| !likely.can_be_read() && found.can_be_read();
            if likely.as_ref().is_none_or(is_better) {
                likely = Some(found);
            }
        }
        match likely {
            Some(likely) => Ok(likely),
            None => bail!("there is nothing in {} any more", self.named()),
        }
    }

    /// How the images at a place differ from those that the run has read.
    fn difference(&self, place: &Place) -> Result<Option<Difference>> {
        let node = &place.source.node;
        let names = match place.source.trains {
            true => &self.metadata.training_names,
            false => &self.metadata.validation_names,
        };
        if self.has_no_class(place) {
            let (to, root) = (place.to.shown(), place.source.listed.root.shown());
            return Ok(Some(Difference {
                text: format!("{to} has none of the class folders that {node} read in {root}"),
                can_be_read: false,
            }));
        }
        let plan = self.plan_with(vec![place.to_override()])?;
        let contents = match source_contents(&plan, node) {
            Ok(contents) => contents.unwrap_or_default(),
            Err(error) => {
                let errors = error.failures.iter().map(|it| format!("{:#}", it.error));
                return Ok(Some(Difference {
                    text: errors.collect::<Vec<_>>().join("; "),
                    can_be_read: false,
                }));
            }
        };
        let now = contents.names_hash.map(|hash| format!("{hash:016x}"));
        if now.is_some() && now == *names {
            return Ok(None);
        }
        Ok(Some(Difference {
            text: self.other_images(place, &contents, names.is_some()),
            can_be_read: true,
        }))
    }

    /// Whether it is a folder with nothing of the network's classes: not all that is in it is to be listed.
    fn has_no_class(&self, Place { source, to }: &Place) -> bool {
        let is_folder = source.listed.parameter == "root" && source.listed.within.is_empty();
        let mut classes = self.metadata.classes.iter();
        is_folder && !classes.any(|class| to.join(class).is_dir())
    }

    fn other_images(&self, place: &Place, contents: &Contents, are_known: bool) -> String {
        let Place { source, to } = place;
        let (to, root) = (to.shown(), source.listed.root.shown());
        let count = |images: u64, classes: usize| {
            let images = usize::try_from(images).unwrap_or(usize::MAX);
            let classes = match classes {
                1 => "1 class".to_owned(),
                classes => format!("{classes} classes"),
            };
            format!("{} in {classes}", counted(images, "image"))
        };
        let now = count(contents.items_per_epoch, contents.classes.len());
        let before = match (self.metadata.samples_per_epoch, source.trains) {
            (Some(images), true) => Some(count(images, self.metadata.classes.len())),
            _ => None,
        };
        let node = &source.node;
        match before {
            _ if !are_known => format!(
                "{to} has {now}; whether they are those that {node} read in {root}, the checkpoint does not say"
            ),
            Some(before) if before == now => {
                format!("{to} has {now} as {root} had for {node}, but not with the same names")
            }
            Some(before) => format!("{to} has {now} for {node}, and {root} had {before}"),
            None => format!("{to} has {now} for {node}, and not those that {root} had"),
        }
    }

    /// Where every source was found.
    fn all_found(&self, found: Vec<Found>) -> Result<Moved> {
        let differences = found.iter().filter_map(|found| found.difference.as_ref());
        let differences: Vec<&str> = differences.map(|it| it.text.as_str()).collect();
        if differences.is_empty() {
            let places = found.into_iter().map(|found| found.place);
            return Ok(Moved(places.collect()));
        }
        let all_the_same = match self.command(&found) {
            Some(command) => format!("; this resumes it with other images: {command}"),
            None => String::new(),
        };
        bail!(
            "the images of the run {} are not in {}: {}\n\
             help: name the folder or archive that they were moved to{all_the_same}",
            self.run_dir.shown(),
            self.named(),
            differences.join("; ")
        )
    }

    /// The whole command that resumes with what was found, if that is images.
    fn command(&self, found: &[Found]) -> Option<String> {
        let can_be_read = found.iter().all(Found::can_be_read);
        let places = found.iter().map(|found| found.place.to_override());
        let given = self.run.overrides.set.iter().cloned();
        let overrides: Vec<String> = given.chain(places).collect();
        (can_be_read && !found.is_empty())
            .then(|| next_commands::to_resume(self.run_dir, &overrides))
    }

    /// The refusal of data that the run does not read, while its own is there. `copies`: what was found for each
    /// source.
    fn other_data(&self, sources: &[Source], copies: &[Found]) -> anyhow::Error {
        let mut roots: Vec<String> = sources
            .iter()
            .map(|source| format!("`{}`", source.listed.root.shown()))
            .collect();
        roots.dedup();
        let other = unread(self.data, sources);
        let are_the_same = copies.iter().all(|found| found.difference.is_none());
        let command = self.command(copies).filter(|_| are_the_same);
        let instead = command.map_or_else(String::new, |command| {
            format!("; this resumes it with the same images there: {command}")
        });
        Usage(format!(
            "the run does not train on {}; {} names {}\n\
             help: leave it out{instead}",
            other.map_or(Path::new(""), PathBuf::as_path).shown(),
            self.run.recipe.shown(),
            roots.join(", ")
        ))
        .into()
    }

    fn named(&self) -> String {
        let named: Vec<String> = self
            .data
            .iter()
            .map(|path| path.shown().into_owned())
            .collect();
        named.join(" and ")
    }
}

impl Found {
    fn can_be_read(&self) -> bool {
        self.difference.as_ref().is_none_or(|it| it.can_be_read)
    }
}
