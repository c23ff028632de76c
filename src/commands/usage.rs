//! Errors of what was typed, and the exit codes of errors.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use rsflow_base::shown::Shown as _;
use rsflow_graph::{Problems, counted};

use crate::process::{WRONG, say};

/// Prints an error with its causes, and returns the exit code.
pub fn report(error: &anyhow::Error) -> ExitCode {
    if let Some(problems) = error.downcast_ref::<Problems>() {
        // With colours, which `say` would escape; what is from outside was escaped in it.
        let text = problems.render(std::io::stderr().is_terminal());
        let _ = writeln!(std::io::stderr(), "{}", text.trim_end());
        return ExitCode::from(WRONG);
    }
    say(format_args!("error: {error}"));
    for cause in error.chain().skip(1) {
        say(format_args!(
            "  caused by: {}",
            without_frames(&cause.to_string())
        ));
    }
    if error.downcast_ref::<Usage>().is_some() {
        return ExitCode::from(WRONG);
    }
    ExitCode::FAILURE
}

/// Prints warnings of a recipe, each with its place.
pub fn warn(warnings: &Problems) {
    if warnings.list().next().is_some() {
        let text = warnings.render(std::io::stderr().is_terminal());
        let _ = writeln!(std::io::stderr(), "{}", text.trim_end());
    }
}

/// "1 epoch", "2 epochs".
pub fn many(count: u64, noun: &str) -> String {
    counted(usize::try_from(count).unwrap_or(usize::MAX), noun)
}

/// An error of libtorch without the functions of C++ that it came through.
fn without_frames(text: &str) -> &str {
    let begins = ["\nException raised from", "\nframe #0: "];
    let ends = begins.iter().filter_map(|begin| text.find(begin));
    text[..ends.min().unwrap_or(text.len())].trim_end()
}

/// The command line is wrong, whatever the files that it names hold: exit code 2. What is wrong with these, and with
/// data, is any other error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// Refuses a folder that does not exist.
pub fn check_folder(folder: &Path) -> Result<()> {
    ensure!(folder.is_dir(), "there is no folder {}", folder.shown());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::without_frames;

    #[test]
    fn what_an_error_came_through_is_left_out() {
        for after in [
            "",
            "\nframe #0: c10::alloc_cpu(unsigned long)\nframe #1: main",
            "\nException raised from check at it.cpp:1 (most recent call first):\nframe #0: main",
        ] {
            assert_eq!(without_frames(&format!("no memory{after}")), "no memory");
        }
    }
}
