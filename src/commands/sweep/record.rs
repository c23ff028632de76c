//! `sweep.json`: what the sweep in a directory is, so that no other one is mixed with it.

use std::fs;
use std::io::ErrorKind::NotFound;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use rsflow_base::shown::Shown as _;
use rsflow_graph::{Plan, differences, differences_as_written};
use serde::{Deserialize, Serialize};

use super::plan::{Combination, Over};
use crate::catalogue::CATALOGUE;
use crate::commands::usage::Usage;
use crate::files;

/// The file in the sweep's directory.
pub const FILE: &str = "sweep.json";
const FORMAT: u32 = 1;

/// What the file holds. The names are JSON keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    format: u32,
    /// The recipe's path, as typed.
    recipe: String,
    /// The recipe that all runs have in common, overrides applied.
    recipe_text: String,
    /// The same with `let` as written, which the values of `--over` replace or use. Earlier versions did not
    /// keep it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    written: Option<String>,
    /// The fields of each `--over`.
    over: Vec<Vec<String>>,
    /// Also those of earlier starts.
    combinations: Vec<Named>,
    seeds: Vec<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Named {
    name: String,
    /// One of each `--over`.
    values: Vec<String>,
}

impl Record {
    /// A sweep that has no runs yet.
    pub fn new(recipe: &Path, base: &Plan, overs: &[Over]) -> Self {
        Record {
            format: FORMAT,
            recipe: recipe.shown().into_owned(),
            recipe_text: base.recipe_text().to_owned(),
            written: Some(base.written().to_owned()),
            over: overs.iter().map(|over| over.fields.clone()).collect(),
            combinations: Vec::new(),
            seeds: Vec::new(),
        }
    }

    /// What an earlier start has left in the directory, whose runs this sweep continues.
    ///
    /// `uses_let` says whether the values of `let` may differ between runs: then the same recipe with other
    /// uses of `let` is another sweep.
    ///
    /// # Errors
    /// It is another sweep's, or not that of a sweep.
    pub fn continued(mut self, dir: &Path, uses_let: bool) -> Result<Self> {
        let Some(before) = read(dir)? else {
            return Ok(self);
        };
        let mut differ = Vec::new();
        if self.over != before.over {
            let fields = |over: &[Vec<String>]| match over {
                [] => "(none)".to_owned(),
                over => {
                    let each: Vec<_> = over.iter().map(|fields| fields.join("+")).collect();
                    each.join(" and ")
                }
            };
            let (now, was) = (fields(&self.over), fields(&before.over));
            differ.push(format!("--over: {now}, was {was}"));
        }
        differ.extend(differences(
            &self.recipe_text,
            &before.recipe_text,
            CATALOGUE,
        ));
        if let (true, Some(now), Some(was)) = (
            uses_let && differ.is_empty(),
            &self.written,
            &before.written,
        ) {
            differ.extend(differences_as_written(now, was, CATALOGUE));
        }
        ensure!(
            differ.is_empty(),
            Usage(format!(
                "{} holds another sweep, of {}\n  {}\n\
                 help: --dir names another directory; values and seeds can be added to a sweep",
                dir.shown(),
                before.recipe.shown(),
                differ
                    .iter()
                    .map(|line| line.shown().into_owned())
                    .collect::<Vec<_>>()
                    .join("\n  ")
            ))
        );
        // Runs with other values may depend on it.
        self.written = before.written.or(self.written);
        self.combinations = before.combinations;
        self.seeds = before.seeds;
        Ok(self)
    }

    /// The names of the combinations that are there, by their values.
    pub fn names(&self) -> Vec<(String, Vec<String>)> {
        let named = self.combinations.iter();
        named
            .map(|it| (it.name.clone(), it.values.clone()))
            .collect()
    }

    /// Adds runs, unless they are there.
    pub fn add(&mut self, combinations: &[Combination], seeds: &[u64]) {
        for Combination { name, values, .. } in combinations {
            let (name, values) = (name.clone(), values.clone());
            if !self.combinations.iter().any(|it| it.values == values) {
                self.combinations.push(Named { name, values });
            }
        }
        self.seeds.extend(seeds);
        self.seeds.sort_unstable();
        self.seeds.dedup();
    }

    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(FILE);
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        files::replace(&path, text.as_bytes())
            .with_context(|| format!("cannot write {}; --dir names another place", path.shown()))
    }
}

/// The record of a directory; `None` if that is not there or empty.
fn read(dir: &Path) -> Result<Option<Record>> {
    let path = dir.join(FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == NotFound && is_free(dir)? => return Ok(None),
        Err(error) if error.kind() == NotFound => bail!(Usage(format!(
            "{} is not empty, and it is not the directory of a sweep; --dir names another",
            dir.shown()
        ))),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}", path.shown()));
        }
    };
    let record: Result<Record, _> = serde_json::from_str(&text);
    let record = record.with_context(|| {
        format!(
            "{} is not what a sweep writes; --dir names another directory",
            path.shown()
        )
    })?;
    ensure!(
        record.format == FORMAT,
        "{} has format {}, this program writes {FORMAT}; --dir names another directory",
        path.shown(),
        record.format
    );
    // The names become paths.
    let is_name = |it: &Named| Path::new(&it.name).file_name() == Some(it.name.as_ref());
    ensure!(
        record.combinations.iter().all(is_name),
        "{} names a combination that is not the name of a folder",
        path.shown()
    );
    Ok(Some(record))
}

fn is_free(dir: &Path) -> Result<bool> {
    match fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == NotFound => Ok(true),
        Err(error) => Err(error).with_context(|| format!("cannot list {}", dir.shown())),
    }
}
