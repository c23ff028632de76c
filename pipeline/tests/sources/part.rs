//! A data set that is split into training and validation by its sources.

use std::collections::BTreeSet;
use std::fs;

use rsflow_pipeline::nodes::{ImageFolder, ImageTar};

use crate::tars::{packed, tree, unpack};
use crate::{assert_errors, names, stream};

#[test]
fn a_folder_and_an_archive_are_split_alike() {
    let folder = tempfile::tempdir().unwrap();
    let paths: Vec<String> = (0..40)
        .map(|image| format!("{}/{image}.jpg", ["a", "b"][image % 2]))
        .collect();
    let tree = tree(paths.iter().map(String::as_bytes));
    let (root, tar) = (folder.path().join("set"), folder.path().join("set.tar"));
    unpack(&tree, &root);
    fs::write(&tar, packed(&tree)).unwrap();
    let parts = ["Training", "Validation"].map(|part| {
        let part = format!("part: {part}(validation_percent: 20, seed: 7)");
        let node = format!("(root: {root:?}, listing_cache: false, {part})");
        let (classes, images) = names::<ImageFolder>(&node, &format!("{}/", root.display()));
        assert_eq!(classes, ["a", "b"], "of the whole data set");
        let node = format!("(path: {tar:?}, {part})");
        let archive = names::<ImageTar>(&node, &format!("{}: ", tar.display()));
        assert_eq!(archive, (classes, images.clone()), "{part}");
        // What is read is what is listed, in either.
        let of_folder = stream(&format!(
            "ImageFolder(root: {root:?}, shuffle: true, {part})"
        ));
        let of_archive = stream(&format!("ImageTar(path: {tar:?}, shuffle: true, {part})"));
        let of_folder = of_folder.unwrap();
        assert_eq!(of_folder.files.len(), 2 * images.len(), "{part}");
        assert!(of_folder == of_archive.unwrap(), "{part}");
        images.into_iter().collect::<BTreeSet<_>>()
    });
    let [training, validation] = parts;
    assert!(training.is_disjoint(&validation) && validation.len() >= 2);
    let all: BTreeSet<String> = paths.into_iter().collect();
    assert_eq!(&training | &validation, all);
}

#[test]
fn a_wrong_part_is_an_error() {
    let with = |part: &'static str| {
        move |root: &std::path::Path| {
            unpack(&tree([b"a/1.jpg".as_slice(), b"b/1.jpg", b"b/2.jpg"]), root);
            format!("ImageFolder(root: {root:?}, listing_cache: false, part: {part})")
        }
    };
    assert_errors(&[
        (
            "a class of one image",
            &with("Validation()"),
            &["a class with a single image", "DIR has 1 of them: `a`"],
        ),
        (
            "no percentage",
            &with("Training(validation_percent: 0)"),
            &["`validation_percent` must be above 0 and below 100, not 0"],
        ),
        (
            "all",
            &with("Validation(validation_percent: 100)"),
            &["below 100, not 100"],
        ),
        (
            "no number",
            &with("Validation(validation_percent: NaN)"),
            &["`validation_percent`"],
        ),
        (
            "another name",
            &with("Validation(percent: 10)"),
            &["validation_percent"],
        ),
        ("another part", &with("Test()"), &["`Training`"]),
    ]);
}
