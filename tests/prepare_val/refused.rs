//! What is wrong is said, and nothing is moved.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::{DEVKIT, LIST, META, Spoil, TRUTH, files, image, run, sorted, workplace};

#[test]
fn what_is_wrong_is_said_before_any_file_moves() {
    const ONE: &str = "val/ILSVRC2012_val_00000001.JPEG";
    const ITS_CLASS: &str = "val/n02100735";
    fn write(folder: &Path, file: &str, text: &str) {
        fs::create_dir_all(folder.join(file).parent().unwrap()).unwrap();
        fs::write(folder.join(file), text).unwrap();
    }
    fn edit(folder: &Path, file: &str, from: &str, to: &str) {
        let text = fs::read_to_string(folder.join(file)).unwrap();
        assert!(text.contains(from));
        write(folder, file, &text.replacen(from, to, 1));
    }
    let list_with = |line: &'static str| {
        move |folder: &Path| {
            edit(
                folder,
                "list.txt",
                "ILSVRC2012_val_00000003.JPEG n02100735",
                line,
            )
        }
    };
    // What is wrong, the command line, its exit code and what is said.
    type Case<'a> = (&'a str, Spoil<'a>, &'a [&'a str], i32, &'a [&'a str]);
    let cases: &[Case] = &[
        (
            "no list",
            &|_| {},
            &["val"],
            2,
            &["<--devkit <FOLDER>|--classes <FILE>>"],
        ),
        (
            "two lists",
            &|_| {},
            &["val", "--devkit", "devkit", "--classes", "list.txt"],
            2,
            &["cannot be used with"],
        ),
        (
            "no images' folder",
            &|_| {},
            &["vla", "--devkit", "devkit"],
            1,
            &["error: there is no folder vla"],
        ),
        (
            "no devkit",
            &|_| {},
            &["val", "--devkit", "kit.tar.gz"],
            1,
            &["error: there is no folder kit.tar.gz"],
        ),
        (
            "no list of classes",
            &|_| {},
            &["val", "--classes", "lits.txt"],
            1,
            &["error: there is no file lits.txt"],
        ),
        (
            "another folder as the devkit",
            &|_| {},
            &["val", "--devkit", "val"],
            1,
            &[
                "error: cannot read val/data/meta.mat; the devkit is the folder that ILSVRC2012_devkit_t12.tar.gz unpacks to",
            ],
        ),
        (
            "an image that is not listed",
            &|folder| write(folder, "val/cat.png", "cat"),
            LIST,
            1,
            &[
                "error: list.txt names 6 images, but not 1 that are here: `val/cat.png`; remove them",
            ],
        ),
        (
            "an image of a class folder that is not listed",
            &|folder| write(folder, "val/n02100735/cat.png", "cat"),
            LIST,
            1,
            &["but not 1 that are here: `val/n02100735/cat.png`"],
        ),
        (
            "a ground truth that is too short",
            &|folder| write(folder, TRUTH, "2\n1\n2\n4\n"),
            DEVKIT,
            1,
            &[
                "ground_truth.txt names 4 images, but not 2 that are here: ",
                "`val/ILSVRC2012_val_00000005.JPEG`, `val/ILSVRC2012_val_00000006.JPEG`;",
            ],
        ),
        (
            "a ground truth that is too long",
            &|folder| write(folder, TRUTH, &"2\n".repeat(14)),
            DEVKIT,
            1,
            &[
                "error: val lacks 8 of the 14 images of devkit/data/ILSVRC2012_validation_ground_truth.txt: `ILSVRC2012_val_00000007`, ",
                "`ILSVRC2012_val_00000011` and 3 more; --allow-missing",
            ],
        ),
        (
            "a ground truth with a number that is no class, but a group",
            &|folder| write(folder, TRUTH, "2\n7\n2\n4\n6\n5\n"),
            DEVKIT,
            1,
            &["ground_truth.txt:2: `7` is not the number of one of the 6 classes in meta.mat"],
        ),
        (
            "a ground truth with an empty line",
            &|folder| write(folder, TRUTH, "2\n\n2\n4\n6\n5\n"),
            DEVKIT,
            1,
            &["ground_truth.txt:2: `` is not the number of"],
        ),
        (
            "a truncated meta.mat",
            &|folder| {
                let bytes = fs::read(folder.join(META)).unwrap();
                fs::write(folder.join(META), &bytes[..500]).unwrap();
            },
            DEVKIT,
            1,
            &[
                "error: cannot use devkit/data/meta.mat; unpack the devkit again",
                "caused by: unexpected end of file",
            ],
        ),
        (
            "another file as meta.mat",
            &|folder| write(folder, META, &"<html>".repeat(100)),
            DEVKIT,
            1,
            &["caused by: not a MATLAB 5 file"],
        ),
        (
            "a missing image",
            &|folder| fs::remove_file(folder.join(ONE)).unwrap(),
            LIST,
            1,
            &[
                "error: val lacks 1 of the 6 images of list.txt: `ILSVRC2012_val_00000001.JPEG`; --allow-missing",
            ],
        ),
        (
            "no images at all",
            &|folder| {
                fs::remove_dir_all(folder.join("val")).unwrap();
                fs::create_dir(folder.join("val")).unwrap();
            },
            &["val", "--devkit", "devkit", "--allow-missing"],
            1,
            &["error: val holds none of the 6 images of"],
        ),
        (
            "an empty list",
            &|folder| write(folder, "list.txt", "# nothing\n"),
            LIST,
            1,
            &["error: list.txt lists no image"],
        ),
        (
            "a list of images that is an image",
            &|folder| fs::write(folder.join("list.txt"), [0xff, 0xd8, 0xff]).unwrap(),
            LIST,
            1,
            &["error: cannot read the list list.txt", "UTF-8"],
        ),
        (
            "a name that is listed twice",
            &list_with("ILSVRC2012_val_00000002.JPEG n02119789"),
            LIST,
            1,
            &["error: list.txt:3: `ILSVRC2012_val_00000002.JPEG` is already in line 2"],
        ),
        (
            "no class",
            &list_with("ILSVRC2012_val_00000003.JPEG"),
            LIST,
            1,
            &[
                "error: list.txt:3",
                "`ILSVRC2012_val_00000003.JPEG` should be `NAME CLASS`",
            ],
        ),
        (
            "a class of two words",
            &list_with("ILSVRC2012_val_00000003.JPEG,english setter"),
            LIST,
            1,
            &["error: list.txt:3", "`setter` follows the class `english`"],
        ),
        (
            "a class outside",
            &list_with("ILSVRC2012_val_00000003.JPEG .."),
            LIST,
            1,
            &[
                "error: list.txt:3",
                "`..` cannot be the name of an image or a class",
            ],
        ),
        (
            "a class in a folder",
            &list_with("ILSVRC2012_val_00000003.JPEG /tmp/n02100735"),
            LIST,
            1,
            &["error: list.txt:3", "`/tmp/n02100735` cannot be"],
        ),
        (
            "two images of one name",
            &|folder| {
                edit(folder, "list.txt", "1.JPEG", "1");
                write(folder, "val/ILSVRC2012_val_00000001.png", "another");
            },
            LIST,
            1,
            &[
                "both `ILSVRC2012_val_00000001.JPEG` and `ILSVRC2012_val_00000001.png` could be the `ILSVRC2012_val_00000001` of list.txt:1",
            ],
        ),
        (
            "another file in an image's place",
            &|folder| write(folder, &format!("val/{}", sorted(1)), "image X"),
            DEVKIT,
            1,
            &[
                ONE,
                "and val/n02100735/ILSVRC2012_val_00000001.JPEG have the same name but are different files",
            ],
        ),
        (
            "a link that leads nowhere in an image's place",
            &|folder| {
                fs::create_dir(folder.join(ITS_CLASS)).unwrap();
                symlink("nowhere", folder.join("val").join(sorted(1))).unwrap();
            },
            DEVKIT,
            1,
            &[
                "error: val/n02100735/ILSVRC2012_val_00000001.JPEG is not a file or is a broken link, so val/ILSVRC",
            ],
        ),
        (
            "a file in a class folder's place",
            &|folder| write(folder, ITS_CLASS, "mine"),
            DEVKIT,
            1,
            &["error: val/n02100735 is not a folder, but it has the name of a class folder"],
        ),
        (
            "a class folder that leads back",
            &|folder| symlink(".", folder.join(ITS_CLASS)).unwrap(),
            DEVKIT,
            1,
            &["error: the class folder val/n02100735 is a link to val; remove the link"],
        ),
        (
            "an image in another class's folder",
            &|folder| {
                fs::create_dir(folder.join("val/n02119789")).unwrap();
                fs::rename(
                    folder.join(ONE),
                    folder.join("val/n02119789").join(image(1)),
                )
                .unwrap();
            },
            LIST,
            1,
            &[
                "error: val/n02119789/ILSVRC2012_val_00000001.JPEG is in another class folder than the `n02100735` of list.txt:1, the first of 1",
            ],
        ),
    ];
    for (case, spoil, arguments, code, expected) in cases {
        let folder = workplace();
        spoil(folder.path());
        // A link that leads back has no end.
        let back = folder.path().join(ITS_CLASS).is_symlink();
        let look = || (!back).then(|| files(folder.path()));
        let names = || fs::read_dir(folder.path().join("val")).unwrap().count();
        let before = (look(), names());
        let (found, out, err) = run(folder.path(), arguments);
        assert_eq!((found, out.as_str()), (Some(*code), ""), "{case}: {err}");
        for words in *expected {
            assert!(err.contains(words), "{case}: `{words}` is not in\n{err}");
        }
        assert_eq!((look(), names()), before, "{case}");
    }
}
