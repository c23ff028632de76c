//! What a user may want to do next with a run, as lines to copy.

use std::borrow::Cow;
use std::path::Path;

use rsflow_base::run_files;
use rsflow_base::shown::Shown as _;

/// A line for each command; none where the run has no checkpoint. `size` is one that was validated.
pub fn after_training(run_dir: &Path, size: Option<u32>) -> Vec<String> {
    if !run_files::last_checkpoint(run_dir).exists() {
        return Vec::new();
    }
    let dir = word(run_dir);
    let mut lines = vec![format!("rsflow eval {dir}")];
    lines.extend(size.map(|size| format!("rsflow predict {dir} --size {size} IMAGE")));
    lines.push(format!("rsflow report {dir}"));
    lines
}

/// The command that resumes a run, with the recipe as it ran: that of the command line needs its overrides.
/// `overrides` are more of them.
pub fn to_resume(run_dir: &Path, overrides: &[String]) -> String {
    let mut command = format!(
        "rsflow run {} --run-dir {} --resume",
        word(&run_dir.join(run_files::RECIPE)),
        word(run_dir)
    );
    if !overrides.is_empty() {
        command += " --accept-changes";
    }
    for change in overrides {
        command += &format!(" --set {}", quoted(change));
    }
    command
}

/// A path as a word of a shell's command line.
pub fn word(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

/// A text as a word of a shell's command line.
fn quoted(text: &str) -> String {
    let quoted = shlex::try_quote(text).unwrap_or(Cow::Borrowed(text));
    quoted.shown().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_ready_to_copy() {
        let folder = tempfile::tempdir().unwrap();
        let run_dir = folder.path().join("my run");
        assert!(
            after_training(&run_dir, Some(64)).is_empty(),
            "no checkpoint"
        );
        let last = run_files::last_checkpoint(&run_dir);
        std::fs::create_dir_all(last.parent().unwrap()).unwrap();
        std::fs::write(last, "").unwrap();
        let dir = format!("'{}'", run_dir.display());
        assert_eq!(
            after_training(&run_dir, Some(64)),
            [
                format!("rsflow eval {dir}"),
                format!("rsflow predict {dir} --size 64 IMAGE"),
                format!("rsflow report {dir}"),
            ]
        );
        assert_eq!(after_training(&run_dir, None).len(), 2);
        for (path, expected) in [
            ("runs/a-b_1", "runs/a-b_1"),
            ("it's", "\"it's\""),
            ("$HOME", "'$HOME'"),
            ("b\x1b", "'b\\u{1b}'"),
        ] {
            assert_eq!(word(Path::new(path)), expected);
        }
    }
}
