//! Reading the command line, and help for what other programs' command lines have: fields of a recipe as options or
//! as `key=value`, our commands, options and formats by another name (`names`).

mod names;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory as _, Parser as _};
use rsflow_base::shown::Shown as _;
use rsflow_graph::{OTHER_NAMES, Recipe, Text, one_of};

use super::recipes::recipe;
use crate::catalogue::CATALOGUE;
use crate::cli::{Cli, Overrides};
use crate::next_commands;
use crate::process::{WRONG, say};
use names::{COMMANDS, FORMATS, OPTIONS};

/// `rsflow new` writes recipes whose nodes have the names of this one's.
const LIKE_DRAFTS: &str = include_str!("../../../recipes/quickstart.ron");

/// What was typed.
///
/// # Errors
/// The exit code, after help or an error was printed.
pub fn parse() -> Result<Cli, ExitCode> {
    let typed = Typed(with_joined_sizes(std::env::args_os().collect()));
    if let Some(help) = typed.help_for_pairs() {
        say(help);
        return Err(ExitCode::from(WRONG));
    }
    Cli::try_parse_from(&typed.0).map_err(|mut error| {
        if let Some(help) = typed.help(&error) {
            say(help);
            return ExitCode::from(WRONG);
        }
        if error.kind() == ErrorKind::UnknownArgument {
            // That `-- --option` would pass it as a value: no value begins with dashes.
            error.insert(ContextKind::Suggested, ContextValue::None);
        }
        let _ = error.print();
        ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(WRONG))
    })
}

/// `--sizes=64,48` for the words `--sizes 64 48` where folders may follow, which would be taken for sizes.
fn with_joined_sizes(arguments: Vec<OsString>) -> Vec<OsString> {
    let command = arguments.get(1).and_then(|command| command.to_str());
    if !matches!(command, Some("new" | "train")) {
        return arguments;
    }
    let is_sizes = |word: &OsString| {
        let word = word.to_str().unwrap_or_default();
        let is_part = |c: char| c.is_ascii_digit() || matches!(c, ',' | ' ');
        word.contains(|c: char| c.is_ascii_digit()) && word.chars().all(is_part)
    };
    let mut joined: Vec<OsString> = Vec::new();
    let mut words = arguments.into_iter().peekable();
    while let Some(word) = words.next() {
        let mut sizes = Vec::new();
        if word == "--sizes" {
            while let Some(size) = words.next_if(is_sizes) {
                let size = size.to_string_lossy();
                sizes.push(OsString::from(size.trim_matches([',', ' '])));
            }
        }
        joined.push(match sizes.is_empty() {
            true => word,
            false => {
                let mut option = OsString::from("--sizes=");
                option.push(sizes.join(",".as_ref()));
                option
            }
        });
    }
    joined
}

/// The words of the command line.
struct Typed(Vec<OsString>);

impl Typed {
    fn command(&self) -> &str {
        let command = self.0.get(1).and_then(|command| command.to_str());
        command.unwrap_or_default()
    }

    /// The error with help, if it is known what is meant.
    fn help(&self, error: &clap::Error) -> Option<String> {
        let of = |kind| match error.get(kind) {
            Some(ContextValue::String(text)) => Some(text.as_str()),
            _ => None,
        };
        match error.kind() {
            ErrorKind::UnknownArgument => self.help_for_option(of(ContextKind::InvalidArg)?),
            ErrorKind::InvalidSubcommand => {
                let name = of(ContextKind::InvalidSubcommand)?;
                let ours = found(COMMANDS, name)?;
                let named = self.0.get(2).map(Path::new);
                let named = named.filter(|named| !named.to_string_lossy().starts_with('-'));
                let ours = match named {
                    Some(run_dir) => ours.replace("RUN_DIR", &next_commands::word(run_dir)),
                    None => ours.to_owned(),
                };
                let name = name.shown();
                Some(format!(
                    "error: there is no command '{name}'\n\nhelp: write {ours}"
                ))
            }
            ErrorKind::InvalidValue if of(ContextKind::InvalidArg)?.starts_with("--to ") => {
                let format = of(ContextKind::InvalidValue)?;
                let ours = found(FORMATS, format)?;
                let format = format.shown();
                Some(format!(
                    "error: there is no format '{format}'\n\nhelp: write {ours}"
                ))
            }
            _ => None,
        }
    }

    fn help_for_option(&self, option: &str) -> Option<String> {
        if self.command() == "eval" && !option.starts_with('-') {
            let option = option.shown();
            return Some(format!(
                "error: unexpected argument '{option}'\n\nhelp: images are named with an option: `--data {option}`"
            ));
        }
        let typed = option.strip_prefix('-')?.trim_start_matches('-');
        let name = typed.split('=').next()?.replace('-', "_");
        let value = self.value_of(option).unwrap_or_else(|| "VALUE".to_owned());
        let help = self
            .option_meant(&name, &value)
            .or_else(|| self.field_meant(&name, &value))?;
        let option = option.shown();
        Some(format!(
            "error: there is no option '{option}'\n\nhelp: {help}"
        ))
    }

    /// The error with help for `key=value`, as Ultralytics' and Hydra's command lines have it.
    fn help_for_pairs(&self) -> Option<String> {
        let command = Cli::command();
        let command = command.find_subcommand(self.command())?;
        let words: Vec<_> = self.0.iter().map(|word| word.to_string_lossy()).collect();
        let mut pairs = words.windows(2).skip(1).filter_map(|words| {
            let [before, word] = words else { return None };
            let (key, value) = word.split_once('=')?;
            let is_key = key.starts_with(char::is_alphabetic)
                && key
                    .chars()
                    .all(|c| c.is_alphanumeric() || matches!(c, '_' | '.' | '-'));
            // A run directory may be called so.
            let is_pair = is_key && !before.starts_with('-') && !Path::new(&**word).exists();
            (is_pair && !value.is_empty()).then_some((word, key, value))
        });
        let (word, key, value) = pairs.next()?;
        let mut options = command.get_arguments().filter_map(|argument| {
            argument
                .get_action()
                .takes_values()
                .then(|| argument.get_long())?
        });
        let option = key.replace('_', "-");
        let has_set = command
            .get_arguments()
            .any(|it| it.get_long() == Some("set"));
        let name = key.replace('-', "_");
        let help = if options.any(|own| own == option) {
            format!("write `--{option} {value}`")
        } else if key.contains('.') && has_set {
            format!("write `--set {key}={value}`")
        } else {
            self.option_meant(&name, value)
                .or_else(|| self.field_meant(&name, value))
                .or_else(|| {
                    has_set.then(|| "a field is set by `--set NODE.FIELD=VALUE`".to_owned())
                })?
        };
        let (word, help) = (word.shown(), help.shown());
        Some(format!(
            "error: unexpected argument '{word}'\n\nhelp: {help}"
        ))
    }

    fn option_meant(&self, name: &str, value: &str) -> Option<String> {
        let mut options = OPTIONS.iter();
        let (_, _, ours) = options.find(|(commands, names, _)| {
            commands.contains(&self.command()) && names.contains(&name)
        })?;
        let format = (*ours == "`--to VALUE`")
            .then(|| found(FORMATS, value))
            .flatten();
        let ours = format.unwrap_or(ours);
        let data = || {
            let data = self.value_of("--data");
            data.map_or_else(
                || "FOLDER".to_owned(),
                |data| data.trim_end_matches('/').to_owned(),
            )
        };
        let ours = match ours.contains("DATA") {
            true => ours.replace("DATA", &data()),
            false => ours.to_owned(),
        };
        Some(format!("write {}", ours.replace("VALUE", value)))
    }

    fn field_meant(&self, name: &str, value: &str) -> Option<String> {
        let mut words = self.0.iter().skip(2).map(Path::new);
        let path = words.find(|path| path.extension().is_some_and(|it| it == "ron"));
        let recipe = match path {
            Some(path) => recipe(path, &Overrides { set: Vec::new() }).ok()?,
            None if matches!(self.command(), "new" | "train") => {
                Recipe::parse(Text::new("", LIKE_DRAFTS), CATALOGUE, &[]).ok()?
            }
            None => return None,
        };
        let paths = paths(&recipe, name);
        if paths.is_empty() {
            return None;
        }
        if let [path] = paths.as_slice()
            && path.ends_with("start_from")
            && !value.ends_with(".safetensors")
        {
            let file = match Path::new(value).extension() {
                Some(_) => value,
                None => "FILE",
            };
            return Some(format!(
                "weights of torchvision or timm are converted first, `rsflow import {file} --arch ARCH --sizes S... \
                 --out start.safetensors`; `--set {path}=start.safetensors` starts a run from them"
            ));
        }
        let sets: Vec<String> = paths
            .iter()
            .map(|path| match () {
                () if path.ends_with("sizes") && !value.starts_with('[') => {
                    format!("--set {path}=[{value}]")
                }
                // `--device 0`, as in Ultralytics' and timm's scripts.
                () if path.ends_with("device") && value.parse::<u32>().is_ok() => {
                    format!("--set {path}=cuda:{value}")
                }
                () => format!("--set {path}={value}"),
            })
            .collect();
        let sets = one_of(sets.iter().map(String::as_str));
        Some(match (path, self.command()) {
            (Some(path), _) => format!("it is a field of {}: {sets}", path.shown()),
            (None, "new") => format!(
                "it is a field of the recipe that `rsflow new` writes: change it there, or give {sets} to `rsflow \
                 run` or `rsflow train`"
            ),
            (None, _) => format!("it is a field of the recipe: {sets}"),
        })
    }

    /// What follows the option.
    fn value_of(&self, option: &str) -> Option<String> {
        let name = option.split('=').next()?;
        let mut typed = self.0.iter().map(|argument| argument.to_string_lossy());
        let found = typed.find(|typed| typed.split('=').next() == Some(name))?;
        let value = match found.split_once('=') {
            Some((_, value)) => value.to_owned(),
            None => typed.next()?.into_owned(),
        };
        (!value.is_empty() && !value.starts_with('-')).then_some(value)
    }
}

/// What a name of others means.
fn found<'a>(table: &[(&[&str], &'a str)], name: &str) -> Option<&'a str> {
    let name = name.to_lowercase();
    let mut table = table.iter();
    let (_, ours) = table.find(|(names, _)| names.contains(&name.as_str()))?;
    Some(ours)
}

/// What `--set` calls the fields that an option of that name means.
fn paths(recipe: &Recipe, name: &str) -> Vec<String> {
    let own = |field: &str| match field {
        "seed" | "cpu_workers" => vec![field.to_owned()],
        _ => recipe.paths_to(field),
    };
    let found = own(name);
    let Some((_, field)) = OTHER_NAMES.iter().find(|(other, _)| *other == name) else {
        return found;
    };
    if !found.is_empty() {
        return found;
    }
    let all = own(field);
    // Others mean the batches and images of the training.
    let of_training = all.iter().filter(|path| path.starts_with("train"));
    match of_training.cloned().collect::<Vec<_>>() {
        of_training if of_training.is_empty() => all,
        of_training => of_training,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_from_folders() {
        for (typed, expected) in [
            (
                "new --sizes 64 48 photos val",
                "new --sizes=64,48 photos val",
            ),
            ("train --sizes 64,48 photos", "train --sizes=64,48 photos"),
            ("train --sizes 64, 48 2024x", "train --sizes=64,48 2024x"),
            (
                "new photos --sizes 64 48 --force",
                "new photos --sizes=64,48 --force",
            ),
            ("new photos --sizes=64 48", "new photos --sizes=64 48"),
            ("new --sizes photos 64", "new --sizes photos 64"),
            ("eval --sizes 64 48", "eval --sizes 64 48"),
        ] {
            let words = |text: &str| -> Vec<OsString> {
                let words = ["rsflow"].into_iter().chain(text.split(' '));
                words.map(OsString::from).collect()
            };
            assert_eq!(with_joined_sizes(words(typed)), words(expected), "{typed}");
        }
    }
}
