//! The `rsflow` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    rsflow::parse().map_or_else(|code| code, rsflow::execute)
}
