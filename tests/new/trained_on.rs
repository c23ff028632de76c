//! Figures on images that a network was trained on come with a warning.

use super::{SMALL, classes};
use crate::workplace::{done, rsflow, workplace};

#[test]
fn images_that_were_trained_on_are_warned_of() {
    let folder = workplace();
    let folder = folder.path();
    classes(&folder.join("shapes/train"), &folder.join("copy"), 100);
    classes(&folder.join("shapes/train"), &folder.join("few"), 2);
    classes(&folder.join("shapes/train"), &folder.join("photos"), 100);
    std::os::unix::fs::symlink("shapes", folder.join("link")).unwrap();
    for (data, run_dir) in [("shapes", "halves"), ("photos", "held")] {
        let train = ["train", data, "--run-dir", run_dir];
        done(folder, &[&train[..], &SMALL].concat());
    }
    let better = "their figures are better than those of other images; without --data";
    for (arguments, expected) in [
        (&["halves"][..], None),
        (&["halves", "--data=shapes"], None),
        (&["halves", "--data=few"], None),
        (
            &["halves", "--data=shapes/train"],
            Some("/shapes/train are those that the network was trained on"),
        ),
        (
            &["halves", "--data=link/train"],
            Some("/link/train are those that the network was trained on"),
        ),
        (
            &["halves", "--data=copy"],
            Some(
                "/copy have the names of those that the network was trained on, and seem to be the same",
            ),
        ),
        // What it was validated on was held out.
        (&["held"], None),
        (
            &["held", "--data=photos"],
            Some("the network was trained on a part of the images in "),
        ),
    ] {
        let eval = [&["eval"], arguments, &["--sizes=32", "--threads=1"]].concat();
        let output = rsflow(folder, &eval);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {said}");
        let warned: Vec<&str> = said.lines().filter(|it| it.contains("WARN")).collect();
        match expected {
            None => assert!(warned.is_empty(), "{arguments:?}: {said}"),
            Some(words) => {
                assert_eq!(warned.len(), 1, "{arguments:?}: {said}");
                for words in [words, better] {
                    assert!(warned[0].contains(words), "{arguments:?}: {said}");
                }
            }
        }
    }
}
