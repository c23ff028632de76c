//! The pages: their links lead somewhere, their command lines and recipes are such that the program takes them.

use std::cmp::Reverse;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser as _;
use rsflow::cli::Cli;

use crate::workplace::done;

/// README.md and all pages of docs/.
fn pages() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = vec![root.join("README.md")];
    for entry in fs::read_dir(root.join("docs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "md") {
            paths.push(path);
        }
    }
    assert!(paths.len() > 10, "{paths:?}");
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        (path, text)
    };
    paths.into_iter().map(read).collect()
}

/// The blocks of code in that language, `""` for blocks by indentation.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut open: Option<(bool, String)> = None;
    for line in page.lines() {
        match (&mut open, line.trim_start().strip_prefix("```")) {
            (None, Some(of)) => open = Some((of.trim() == language, String::new())),
            (Some(_), Some(_)) => {
                let (wanted, text) = open.take().unwrap();
                blocks.extend(wanted.then_some(text));
            }
            (Some((_, text)), None) => *text += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    blocks
}

/// The `rsflow` command lines of a page, with the values of a shell's variables, and without what a shell does with
/// them. Those within loops and functions are left out.
fn command_lines(page: &str) -> Vec<Vec<String>> {
    let fenced = blocks(page, "sh").join("\n");
    let indented = page.lines().filter_map(|line| line.strip_prefix("    "));
    let lines: Vec<&str> = fenced.lines().chain(indented).collect();
    let joined = lines.join("\n").replace("\\\n", " ");
    let mut variables: Vec<(String, String)> = Vec::new();
    let mut commands = Vec::new();
    for line in joined.lines() {
        let mut line = line.to_owned();
        // Longer names first: $RUN is not the value of $R and UN.
        variables.sort_by_key(|(name, _)| Reverse(name.len()));
        for (name, value) in &variables {
            line = line.replace(&format!("${name}"), value);
        }
        let is_name = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase());
        if let Some((name, value)) = line.split_once('=').filter(|(name, _)| is_name(name)) {
            variables.retain(|(known, _)| known != name);
            variables.push((name.to_owned(), value.trim_matches('"').to_owned()));
            continue;
        }
        // A launcher starts it, too.
        const LAUNCHERS: [&str; 3] = ["torchrun", "srun", "mpirun"];
        let first = line.split_whitespace().next().unwrap_or_default();
        let starts = first == "rsflow" || LAUNCHERS.contains(&first);
        let Some(start) = line.find("rsflow ").filter(|_| starts) else {
            continue;
        };
        let command = &line[start..];
        if command.contains("$(") || command.contains("$seed") {
            continue;
        }
        let words = shlex::split(command).unwrap_or_else(|| panic!("{command}"));
        let end = words.iter().position(|word| {
            word.starts_with('#') || ["|", ">", "2>", "&&", ";", "&"].contains(&word.as_str())
        });
        commands.push(words[..end.unwrap_or(words.len())].to_vec());
    }
    commands
}

#[test]
fn links_of_the_pages_lead_somewhere() {
    for (path, page) in pages() {
        let targets = page.split("](").skip(1).chain(page.split("src=\"").skip(1));
        for target in targets {
            let end = target.find([')', '"', ' ']).unwrap();
            let target = &target[..end];
            if target.starts_with("http") {
                continue;
            }
            let (file, section) = target.split_once('#').unwrap_or((target, ""));
            let to = match file {
                "" => path.clone(),
                _ => path.parent().unwrap().join(file),
            };
            assert!(to.exists(), "{}: {target}", path.display());
            let text = fs::read_to_string(&to).unwrap();
            let slug = |title: &str| {
                let kept = title
                    .chars()
                    .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
                kept.collect::<String>().to_lowercase().replace(' ', "-")
            };
            let titles = text.lines().filter(|line| line.starts_with('#'));
            let mut slugs = titles.map(|title| slug(title.trim_start_matches('#').trim()));
            assert!(
                section.is_empty() || slugs.any(|slug| slug == section),
                "{}: {target}",
                path.display()
            );
        }
    }
}

#[test]
fn command_lines_of_the_pages_are_understood() {
    let mut count = 0;
    for (path, page) in pages() {
        for words in command_lines(&page) {
            count += 1;
            if let Err(error) = Cli::try_parse_from(&words) {
                panic!("{}: {words:?}\n{error}", path.display());
            }
        }
    }
    assert!(count > 40, "only {count}");
}

#[test]
fn whole_recipes_of_the_pages_are_right() {
    let folder = tempfile::tempdir().unwrap();
    let mut count = 0;
    for (path, page) in pages() {
        for text in blocks(&page, "ron") {
            // Parts of recipes and outlines are not checked.
            if !text.starts_with('(') || text.contains("// ...") {
                continue;
            }
            count += 1;
            let recipe = folder.path().join("recipe.ron");
            fs::write(&recipe, &text).unwrap();
            println!("{}", path.display());
            done(folder.path(), &["check", recipe.to_str().unwrap()]);
        }
    }
    assert!(count > 0);
}
