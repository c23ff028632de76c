//! What a folder or an archive holds beside the images of its classes.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use rsflow_graph::counted;
use serde::{Deserialize, Serialize};

/// Counts of what is not read. The same for a folder and an archive with the same files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassedOver {
    /// Files that are not images, by ending.
    endings: BTreeMap<String, u64>,
    /// Images that are in no class folder.
    unclassed: u64,
    /// Hidden names; what a hidden folder holds is not counted.
    pub(super) hidden: u64,
    /// FIFOs, sockets and devices.
    pub(super) special: u64,
}

/// Endings that are listed by name.
const SHOWN: usize = 5;
/// Longer ones are no endings, but names with a dot.
const MAX_ENDING: usize = 10;
const NO_ENDING: &str = "without an ending";

impl PassedOver {
    /// Counts a file that is not an image.
    pub(super) fn file(&mut self, name: &Path) {
        let ending = name.extension().and_then(|ending| ending.to_str());
        let ending = ending.filter(|ending| {
            ending.len() <= MAX_ENDING && ending.bytes().all(|byte| byte.is_ascii_alphanumeric())
        });
        let ending = match ending {
            Some(ending) => format!(".{}", ending.to_lowercase()),
            None => NO_ENDING.to_owned(),
        };
        *self.endings.entry(ending).or_default() += 1;
    }

    /// Counts an image that is in no class folder.
    pub(super) fn unclassed(&mut self) {
        self.unclassed += 1;
    }
}

/// Such as "9 other files passed over: 7 .txt, 2 .json; 3 hidden names"; empty if there is nothing.
impl fmt::Display for PassedOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if !self.endings.is_empty() {
            let mut endings: Vec<_> = self.endings.iter().collect();
            endings.sort_by_key(|(ending, count)| (Reverse(**count), *ending));
            let shown = endings.iter().take(SHOWN);
            let mut shown: Vec<_> = shown
                .map(|(ending, count)| format!("{count} {ending}"))
                .collect();
            let others: u64 = endings.iter().skip(SHOWN).map(|(_, count)| **count).sum();
            if others > 0 {
                let endings = counted(endings.len() - SHOWN, "other ending");
                shown.push(format!("{others} with {endings}"));
            }
            let files: u64 = self.endings.values().sum();
            let files = counted(files as usize, "other file");
            parts.push(format!("{files} passed over: {}", shown.join(", ")));
        }
        let mut add = |count: u64, one: &str, several: &str| match count {
            0 => {}
            1 => parts.push(format!("1 {one}")),
            _ => parts.push(format!("{count} {several}")),
        };
        add(
            self.unclassed,
            "image outside of the class folders",
            "images outside of the class folders",
        );
        add(
            self.special,
            "FIFO, socket or device",
            "FIFOs, sockets or devices",
        );
        add(self.hidden, "hidden name", "hidden names");
        f.write_str(&parts.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_passed_over_is_told_with_a_bounded_number_of_endings() {
        let reported = |names: &[&str]| {
            let mut passed = PassedOver::default();
            for name in names {
                passed.file(Path::new(name));
            }
            passed.to_string()
        };
        assert_eq!(reported(&[]), "");
        assert_eq!(reported(&["a.gif"; 9]), "9 other files passed over: 9 .gif");
        assert_eq!(
            reported(&["a.TXT", "b.txt", "README", "a.jpg.a long sentence"]),
            "4 other files passed over: 2 .txt, 2 without an ending"
        );
        assert_eq!(
            reported(&["1.a", "1.b", "1.c", "1.d", "1.e", "1.f", "2.f", "1.g"]),
            "8 other files passed over: 2 .f, 1 .a, 1 .b, 1 .c, 1 .d, 2 with 2 other endings"
        );
        let others = PassedOver {
            unclassed: 1,
            special: 1,
            hidden: 2,
            ..PassedOver::default()
        };
        assert_eq!(
            others.to_string(),
            "1 image outside of the class folders; 1 FIFO, socket or device; 2 hidden names"
        );
    }
}
