//! Words for whoever sits before the screen.

use std::fmt::Display;
use std::io::Write as _;

/// A line on stderr. Where that is a pipe that nobody reads any more there is nobody to tell, which is no
/// reason to stop (`eprintln!` would panic).
pub fn say(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
