//! What is no data set is named with a way out.

use std::fs;

use super::{tar, text};
use crate::workplace::{rsflow, workplace};

#[test]
fn what_is_no_data_set_is_named_with_a_way_out() {
    let folder = workplace();
    let folder = folder.path();
    let image = folder.join("shapes/val/discs_plain/00000.jpg");
    let put = |names: &[&str]| {
        for name in names {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::copy(&image, path).unwrap();
        }
    };
    put(&[
        "one/cats/1.jpg",
        "one/cats/2.jpg",
        "single/a/1.jpg",
        "single/b/1.jpg",
        "single/b/2.jpg",
    ]);
    put(&[
        "loose/1.jpg",
        "hole/a/1.jpg",
        "hole/a/2.jpg",
        "val_only/val/a/1.jpg",
        "val_only/test/a/1.jpg",
    ]);
    put(&[
        "other/train/a/1.jpg",
        "other/train/bird/1.jpg",
        "other/val/a/1.jpg",
        "other/val/birds/1.jpg",
    ]);
    put(&[
        "lacks/train/a/1.jpg",
        "lacks/train/b/1.jpg",
        "lacks/train/c/1.jpg",
        "lacks/val/a/1.jpg",
    ]);
    put(&["top.d/1.jpg"]);
    for empty in ["empty", "hole/b", "texts"] {
        fs::create_dir(folder.join(empty)).unwrap();
    }
    for (name, bytes) in [
        ("hole/b/a.avif", "x"),
        ("texts/a.txt", "x"),
        ("set.zip", "PK\u{3}\u{4}xxxx"),
        ("set.tar.gz", "\u{1f}\u{8b}xxxx"),
        ("short.tar", ""),
        ("broken/a/1.jpg", "<html>"),
        ("broken/b/1.jpg", ""),
        ("broken/a/2.jpg", "x"),
        ("broken/b/2.jpg", "x"),
    ] {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    fs::write(folder.join("set.tar.gz"), b"\x1f\x8b\x08\0\0\0").unwrap();
    tar(&folder.join("top.d"), &["."], &folder.join("top.tar"));
    let layout = "/CLASS/IMAGE.jpg, or ";
    let cases: [(&[&str], i32, &[&str]); 19] = [
        (&["nothing"], 1, &["there is no folder or file", "nothing"]),
        (&["empty"], 1, &["empty is empty", layout]),
        (
            &["texts"],
            1,
            &["texts holds 1 file, but neither folders nor images", layout],
        ),
        (
            &["one"],
            1,
            &["one has one class only, `cats`", "into a folder beside it"],
        ),
        (
            &["loose"],
            1,
            &["loose holds 1 image, but no class folders"],
        ),
        (&["one/cats/1.jpg"], 1, &["is an image; name the folder"]),
        (
            &["shapes/train/discs_plain"],
            1,
            &[
                "it may be one class itself; if ",
                "shapes/train is the folder",
            ],
        ),
        (
            &["single"],
            1,
            &[
                "a class with a single image cannot be split",
                "`a`; add images",
            ],
        ),
        (
            &["hole"],
            1,
            &[
                "class folders without an image",
                "`b`; fill them or remove them",
                "1 .avif",
            ],
        ),
        (
            &["val_only"],
            1,
            &[
                "val_only has no training images: it holds `test`, `val`",
                "name the folder",
            ],
        ),
        (
            &["other"],
            1,
            &[
                "other/val has a class that the network was not trained on: `birds`; did you mean `bird`?",
            ],
        ),
        (
            &["lacks"],
            1,
            &[
                "lacks/val has no class folder for 2 of the classes in ",
                "lacks/train: `b`, `c`; add images of them for validation, or move them out of the training images",
            ],
        ),
        (
            // What is in the folders was not looked at.
            &["lacks/train", "hole"],
            1,
            &[
                "hole has no class folder for 1 of the classes in ",
                "lacks/train: `c`; add images of it",
            ],
        ),
        (
            &["set.zip"],
            1,
            &["set.zip is a ZIP archive", "unpack it (`unzip`)"],
        ),
        (&["set.tar.gz"], 1, &["is compressed", "`gunzip`"]),
        (&["short.tar"], 1, &["short.tar"]),
        (&["top.tar"], 1, &["top.tar has no class folders", layout]),
        (
            &["broken"],
            1,
            &["none of 4 images in ", "can be read: ", "broken/a/"],
        ),
        (
            &["shapes", "shapes", "shapes"],
            2,
            &["unexpected value 'shapes'"],
        ),
    ];
    for (arguments, code, words) in cases {
        for command in ["new", "train"] {
            let output = rsflow(folder, &[&[command][..], arguments].concat());
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
            for words in words {
                assert!(
                    said.contains(words),
                    "{arguments:?}: {words:?} is not in\n{said}"
                );
            }
        }
    }
    // Nothing was written, and no run begun.
    assert!(!folder.join("runs").exists());
    let written = fs::read_dir(folder).unwrap().flatten();
    let written = written.filter(|file| file.path().extension().is_some_and(|it| it == "ron"));
    assert_eq!(written.count(), 1, "the workplace's own");
}
