//! User messages on stderr.

use std::fmt::Display;
use std::io::Write as _;

/// Writes a line to stderr. Errors are ignored: `eprintln!` would panic on a closed pipe.
pub fn say(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
