//! Images that need care: damaged ones, and those that lie as their EXIF orientation says.

use std::fs;

use super::{SMALL, assert_says, classes};
use crate::workplace::{rsflow, workplace};

/// A JPEG that lies on its side, as EXIF says.
fn turned(jpeg: &[u8]) -> Vec<u8> {
    let block = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    let length = (block.len() as u16 + 2).to_be_bytes();
    [&jpeg[..2], &[0xff, 0xe1], &length, block, &jpeg[2..]].concat()
}

/// What of a data set needs a policy gets one, be it in the images for validation.
#[test]
fn damaged_and_turned_images_are_provided_for() {
    let folder = workplace();
    let folder = folder.path();
    classes(&folder.join("shapes/val"), &folder.join("sound"), 3);
    for name in ["damaged", "turned"] {
        classes(&folder.join("sound"), &folder.join(name).join("train"), 3);
        classes(&folder.join("sound"), &folder.join(name).join("val"), 3);
        let class = fs::read_dir(folder.join(name).join("val")).unwrap().next();
        let image = fs::read_dir(class.unwrap().unwrap().path()).unwrap().next();
        let image = image.unwrap().unwrap().path();
        let jpeg = match name {
            "turned" => turned(&fs::read(&image).unwrap()),
            _ => Vec::new(),
        };
        fs::write(image, jpeg).unwrap();
    }
    let decode = |more: &str| {
        ["train", "val"].map(|part| format!("DecodeImage(input: \"{part}_files\"{more})"))
    };
    for (name, more, words) in [
        ("sound", "", &["all headers read"][..]),
        (
            "damaged",
            ", on_error: Skip(budget: 0.05)",
            &[
                "1 of 48 images cannot be read",
                "the file is empty",
                "up to 5 % of the images",
            ],
        ),
        (
            "turned",
            ", exif_orientation: true",
            &["1 of 48 images have an EXIF orientation that is not upright"],
        ),
    ] {
        let said = assert_says(&rsflow(folder, &["new", name]), 0, words);
        let recipe = fs::read_to_string(folder.join(name).with_extension("ron")).unwrap();
        for node in decode(more) {
            assert!(recipe.contains(&node), "{node} is not in {recipe}\n{said}");
        }
    }
    let arguments = [&["train", "damaged", "--run-dir=run"][..], &SMALL].concat();
    let said = assert_says(
        &rsflow(folder, &arguments),
        0,
        &["1 damaged image was passed over"],
    );
    assert_eq!(said.matches("on_error").count(), 0, "{said}");
}
