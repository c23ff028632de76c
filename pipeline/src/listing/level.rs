//! Whether the class folders look like the folders that class folders usually lie in.

use std::path::Path;

use rsflow_base::shown::Shown as _;
use rsflow_graph::listed;

use super::Listing;

/// Usual names of the parts of a data set, in the order in which they are suggested.
const PARTS: &[&str] = &[
    "train",
    "training",
    "val",
    "valid",
    "validation",
    "test",
    "testing",
    "dev",
    "eval",
];

impl Listing {
    /// The warning for classes that are parts of a data set (`train` and `val`), or one folder that
    /// holds all others. `None` if nothing is suspicious.
    pub fn one_level_too_high(&self) -> Option<String> {
        let part = |class: &str| {
            PARTS
                .iter()
                .position(|part| class.eq_ignore_ascii_case(part))
        };
        let mut parts: Vec<_> = self
            .classes
            .iter()
            .map(|class| (part(class), class))
            .collect();
        let are_parts = parts.iter().all(|(part, _)| part.is_some());
        // An image in a class folder itself is `CLASS/IMAGE`.
        let mut names = self.names.iter();
        let is_nested = names.all(|name| name.iter().filter(|&&byte| byte == b'/').count() > 1);
        let is_around_all = is_nested && self.classes.len() == 1;
        if !(are_parts || is_around_all) {
            return None;
        }
        let classes = listed(self.classes.iter().map(String::as_str));
        let origin = self.origin.shown();
        let found = match self.classes.len() {
            1 => format!("the only class folder in {origin} is {classes}"),
            _ => format!("the class folders in {origin} are {classes}"),
        };
        parts.sort();
        let meant = parts.first().filter(|_| is_nested);
        Some(match meant {
            Some((_, meant)) => format!(
                "{found}, and {} images are in folders of their own: {} was probably meant",
                if parts.len() == 1 { "its" } else { "their" },
                self.place(Path::new(meant)).shown()
            ),
            None => format!(
                "{found}, which look like the parts of a data set: each of them should hold class folders"
            ),
        })
    }
}
