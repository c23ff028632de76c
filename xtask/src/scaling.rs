//! `cargo xtask scaling`: predicted speed on many GPUs, and the tables of docs/scaling.md.

mod inputs;
mod model;
mod simulation;
mod tables;

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;
use tables::Table;

/// Predict the speed of training on many GPUs, and print it as Markdown tables.
///
/// The inputs are in docs/scaling.json. Each of them is tagged as measured, assumed or counted; the last
/// table lists those that are assumed. Nothing is measured and nothing is installed.
#[derive(clap::Args)]
pub struct Arguments {
    /// The inputs [default: docs/scaling.json of this checkout]
    #[arg(long, value_name = "FILE")]
    inputs: Option<PathBuf>,

    /// Compare the tables in docs/scaling.md with these, and fail if one differs
    #[arg(long)]
    check: bool,

    /// Replace the tables in docs/scaling.md by these
    #[arg(long, conflicts_with = "check")]
    write: bool,
}

/// Runs the subcommand.
pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    let docs = workspace.root.join("docs");
    let inputs = arguments.inputs.as_deref();
    let tables = tables_from(inputs.unwrap_or(&docs.join("scaling.json")))?;
    let path = docs.join("scaling.md");
    if arguments.check {
        return check(&read(&path)?, &tables);
    }
    if arguments.write {
        let page = replace(&read(&path)?, &tables)?;
        return fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()));
    }
    for table in tables {
        println!("{}\n\n{}", table.name, table.text);
    }
    Ok(())
}

fn tables_from(inputs: &Path) -> Result<Vec<Table>> {
    Ok(tables::all(&inputs::read(inputs)?))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Fails with the names of a page's tables that differ from these.
fn check(page: &str, tables: &[Table]) -> Result<()> {
    let stale: Vec<&str> = places(page, tables)?
        .into_iter()
        .filter(|place| page[place.lines.clone()] != place.table.text)
        .map(|place| place.table.name)
        .collect();
    if !stale.is_empty() {
        let stale = stale.join(", ");
        bail!("tables in docs/scaling.md differ: {stale}\nhelp: cargo xtask scaling --write");
    }
    Ok(())
}

/// A page with these tables in place of its own.
fn replace(page: &str, tables: &[Table]) -> Result<String> {
    let mut replaced = page.to_owned();
    // From the last one on, so that the places before it stay where they are.
    for place in places(page, tables)?.into_iter().rev() {
        replaced.replace_range(place.lines, &place.table.text);
    }
    Ok(replaced)
}

/// A table's place in a page.
struct Place<'tables> {
    /// Where its lines are, in bytes.
    lines: Range<usize>,
    table: &'tables Table,
}

const START: &str = "<!-- table: ";
const END: &str = "<!-- end -->";

/// Finds each table's place, in the page's order: the lines between `<!-- table: NAME -->` and
/// `<!-- end -->`. A page has a place for each table.
fn places<'tables>(page: &str, tables: &'tables [Table]) -> Result<Vec<Place<'tables>>> {
    let mut places: Vec<Place> = Vec::new();
    let mut rest = page;
    while let Some((_, after)) = rest.split_once(START) {
        let (name, after) = after
            .split_once(" -->\n")
            .context("docs/scaling.md has a marker without its ` -->`")?;
        let table = tables.iter().find(|table| table.name == name);
        let table =
            table.with_context(|| format!("docs/scaling.md has an unknown table `{name}`"))?;
        let (text, end) = after
            .split_once(END)
            .filter(|(text, _)| !text.contains(START))
            .with_context(|| format!("table `{name}` in docs/scaling.md has no `{END}`"))?;
        let start = page.len() - after.len();
        let lines = start..start + text.len();
        places.push(Place { lines, table });
        rest = end;
    }
    for table in tables {
        let name = table.name;
        let found = places.iter().filter(|place| place.table.name == name);
        match found.count() {
            1 => (),
            0 => bail!(
                "docs/scaling.md has no table `{name}`\nhelp: add `{START}{name} -->` and `{END}`"
            ),
            _ => bail!("docs/scaling.md has table `{name}` more than once"),
        }
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_up_to_date() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        let tables = tables_from(&docs.join("scaling.json")).unwrap();
        check(&read(&docs.join("scaling.md")).unwrap(), &tables).unwrap();
    }

    fn tables() -> [Table; 2] {
        [("one", "| 1 |\n"), ("two", "| 2 |\n")].map(|(name, text)| Table {
            name,
            text: text.to_owned(),
        })
    }

    #[test]
    fn tables_are_replaced_in_place() {
        let page =
            "a\n<!-- table: two -->\nold\n<!-- end -->\nb\n<!-- table: one -->\n<!-- end -->\n";
        let error = check(page, &tables()).unwrap_err().to_string();
        assert!(error.contains("differ: two, one"), "{error}");
        let page = replace(page, &tables()).unwrap();
        assert_eq!(
            page,
            "a\n<!-- table: two -->\n| 2 |\n<!-- end -->\nb\n<!-- table: one -->\n| 1 |\n<!-- end -->\n"
        );
        check(&page, &tables()).unwrap();
        let error = check(&page.replace("| 1 |", "| 3 |"), &tables()).unwrap_err();
        assert!(error.to_string().contains("differ: one\n"), "{error}");
    }

    #[test]
    fn a_marker_that_is_wrong_is_named() {
        let one = "<!-- table: one -->\n<!-- end -->\n";
        let two = "<!-- table: two -->\n<!-- end -->\n";
        for (page, expected) in [
            (format!("{one}{two}{one}"), "table `one` more than once"),
            (one.to_owned(), "no table `two`"),
            (
                format!("{one}{two}<!-- table: three -->\n"),
                "unknown table `three`",
            ),
            (
                format!("<!-- table: one -->\n{two}"),
                "`one` in docs/scaling.md has no `<!-- end -->`",
            ),
            ("<!-- table: one\n".to_owned(), "marker without its ` -->`"),
        ] {
            let error = check(&page, &tables()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
