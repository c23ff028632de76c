//! The user's folders: `~` in paths that a user gives, since quotes and `--option=~/x` keep the shell from
//! replacing it, and where caches are kept.

use std::path::{Path, PathBuf};

use etcetera::BaseStrategy as _;

use crate::shown::Shown as _;
use anyhow::{Context as _, Result, bail};

/// The path with a leading `~` replaced by the home folder.
///
/// # Errors
/// `~user`; no home folder.
pub fn expand(path: &Path) -> Result<PathBuf> {
    expand_with(path, std::env::home_dir())
}

/// This program's cache folder, in `$XDG_CACHE_HOME` or `~/.cache`. `None` without a home folder.
pub fn cache_folder() -> Option<PathBuf> {
    let strategy = etcetera::base_strategy::choose_base_strategy().ok()?;
    Some(strategy.cache_dir().join("rsflow"))
}

fn expand_with(path: &Path, home: Option<PathBuf>) -> Result<PathBuf> {
    let mut parts = path.components();
    let first = parts.next().map(|first| first.as_os_str());
    let Some(first) = first.filter(|first| first.as_encoded_bytes().starts_with(b"~")) else {
        return Ok(path.to_owned());
    };
    let (name, shown) = (first.shown(), path.shown());
    if first != "~" {
        bail!(
            "{shown}: the home folder of another user (`{name}`) is not looked up; write its path, or \
             `./{name}` for what is really called so"
        );
    }
    let home = home.filter(|home| !home.as_os_str().is_empty());
    let home = home.with_context(|| {
        format!("{shown}: the home folder is not known; set HOME, or write the whole path")
    })?;
    // Without the rest a path would end in `/`.
    Ok(match parts.as_path() {
        rest if rest.as_os_str().is_empty() => home,
        rest => home.join(rest),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leading_tilde_is_the_home_folder() {
        let home = || Some(PathBuf::from("/home/me"));
        for (path, expected) in [
            ("~", "/home/me"),
            ("~/", "/home/me"),
            ("~/data/train", "/home/me/data/train"),
            ("./~", "./~"),
            ("a/~/b", "a/~/b"),
            ("/~", "/~"),
            ("x~", "x~"),
            ("", ""),
            ("-", "-"),
        ] {
            let found = expand_with(Path::new(path), home()).unwrap();
            assert_eq!(found.as_os_str(), expected, "{path}");
        }
        let error = |path, home| expand_with(Path::new(path), home).unwrap_err().to_string();
        assert!(
            error("~you/x", home()).starts_with("~you/x: the home folder of another user (`~you`)")
        );
        assert!(error("~you/x", home()).contains("`./~you`"));
        for none in [None, Some(PathBuf::new())] {
            assert!(error("~/x", none).contains("set HOME"));
        }
    }
}
