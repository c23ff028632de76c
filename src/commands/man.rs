//! `rsflow man`: the help of every command as man pages.

use std::fs;
use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Command, CommandFactory as _};
use clap_mangen::Man;
use rsflow_base::shown::Shown as _;

use crate::cli::{self, Cli};
use crate::files::replace;
use crate::process::say;

pub fn run(arguments: &cli::Man, out: &mut dyn Write) -> Result<ExitCode> {
    let pages = pages()?;
    let Some(folder) = &arguments.out else {
        if let Some((_, page)) = pages.first() {
            out.write_all(page)?;
        }
        return Ok(ExitCode::SUCCESS);
    };
    let place = folder.shown();
    fs::create_dir_all(folder)
        .with_context(|| format!("cannot make the folder {place}; --out names another"))?;
    for (name, page) in &pages {
        replace(&folder.join(name), page).with_context(|| {
            format!("cannot write {name} in {place}; --out names another folder")
        })?;
    }
    say(format_args!("{place} has {} man pages", pages.len()));
    Ok(ExitCode::SUCCESS)
}

/// The pages by the names of their files, that of the program first.
fn pages() -> Result<Vec<(String, Vec<u8>)>> {
    let mut program = Cli::command();
    // Gives every command its name on the command line, such as `rsflow run`.
    program.build();
    let mut pages = vec![page(&program)?];
    // `help` repeats all of them.
    let commands = program.get_subcommands();
    for command in commands.filter(|command| command.get_name() != "help") {
        pages.push(page(command)?);
    }
    Ok(pages)
}

fn page(command: &Command) -> Result<(String, Vec<u8>)> {
    let page = Man::new(command.clone());
    let mut text = Vec::new();
    page.render(&mut text)?;
    Ok((page.get_filename(), text))
}
