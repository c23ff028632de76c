//! For shells and readers of manuals: `rsflow completions` and `man`.

use std::fs;
use std::process::Command;

use clap::CommandFactory as _;
use rsflow::cli::Cli;

use crate::workplace::{done, rsflow};

#[test]
fn shells_take_their_scripts() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = done(folder.path(), &["completions", shell]);
        for command in Cli::command().get_subcommands() {
            assert!(script.contains(command.get_name()), "{shell}: {command}");
        }
        let file = folder.path().join(shell);
        fs::write(&file, script).unwrap();
        if shell == "bash" {
            let checked = Command::new("bash").arg("-n").arg(&file).status().unwrap();
            assert!(checked.success());
        }
    }
}

#[test]
fn every_command_has_a_man_page() {
    let folder = tempfile::tempdir().unwrap();
    done(folder.path(), &["man", "--out", "share/man1"]);
    let pages = folder.path().join("share/man1");
    let mut names = vec!["rsflow".to_owned()];
    let command = Cli::command();
    names.extend(
        command
            .get_subcommands()
            .map(|it| format!("rsflow-{}", it.get_name())),
    );
    assert_eq!(fs::read_dir(&pages).unwrap().count(), names.len());
    for name in names {
        let page = fs::read_to_string(pages.join(format!("{name}.1"))).unwrap();
        let macros = page.lines().find(|line| line.starts_with(".TH"));
        assert!(
            macros.is_some_and(|line| line.contains(&name)),
            "{name}: {page:.200}"
        );
        let synopsis = name.replacen('-', " ", 1).replace('-', "\\-");
        for part in [".SH NAME", ".SH SYNOPSIS", "Examples:"] {
            assert!(page.contains(part), "{name} lacks {part}");
        }
        assert!(page.contains(&synopsis), "{name} lacks {synopsis}");
    }
    let first = done(folder.path(), &["man"]);
    assert!(first.contains(".TH rsflow 1"), "{first:.200}");
    fs::write(folder.path().join("file"), "").unwrap();
    let refused = rsflow(folder.path(), &["man", "--out", "file"]);
    assert_eq!(refused.status.code(), Some(1));
}
