//! Reading the command line, and help for options that are fields of a recipe.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use rsflow_base::shown::Shown as _;
use rsflow_graph::one_of;

use super::recipes::recipe;
use crate::cli::{Cli, Overrides};
use crate::process::{WRONG, say};

/// What was typed.
///
/// # Errors
/// The exit code, after help or an error was printed.
pub fn parse() -> Result<Cli, ExitCode> {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    Cli::try_parse_from(&arguments).map_err(|error| {
        if let Some(help) = field_meant(&error, &arguments) {
            say(help);
            return ExitCode::from(WRONG);
        }
        let _ = error.print();
        ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(WRONG))
    })
}

/// The error with help for an unknown option `--epochs`, if the recipe has such a field.
fn field_meant(error: &clap::Error, arguments: &[OsString]) -> Option<String> {
    if error.kind() != ErrorKind::UnknownArgument {
        return None;
    }
    let Some(ContextValue::String(option)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    let name = option.strip_prefix("--")?.split('=').next()?;
    let recipes = arguments.iter().skip(2).map(Path::new);
    let mut recipes = recipes.filter(|path| path.extension().is_some_and(|it| it == "ron"));
    let path = recipes.next()?;
    let recipe = recipe(path, &Overrides { set: Vec::new() }).ok()?;
    let paths = recipe.paths_to(&name.replace('-', "_"));
    let value = value_of(option, arguments).unwrap_or_else(|| "VALUE".to_owned());
    let sets: Vec<String> = paths
        .iter()
        .map(|path| format!("--set {path}={value}"))
        .collect();
    if sets.is_empty() {
        return None;
    }
    Some(format!(
        "error: there is no option '{}'\n\nhelp: it is a field of {}: {}",
        option.shown(),
        path.shown(),
        one_of(sets.iter().map(String::as_str))
    ))
}

/// What follows the option.
fn value_of(option: &str, arguments: &[OsString]) -> Option<String> {
    let name = option.split('=').next()?;
    let mut typed = arguments.iter().map(|argument| argument.to_string_lossy());
    let found = typed.find(|typed| typed.split('=').next() == Some(name))?;
    let value = match found.split_once('=') {
        Some((_, value)) => value.to_owned(),
        None => typed.next()?.into_owned(),
    };
    (!value.is_empty() && !value.starts_with('-')).then_some(value)
}
