//! A folder of class folders as a source.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use crate::tars::{image, tree, two_classes, unpack};
use crate::{assert_errors, failure, folder_node, stream};

#[test]
fn hostile_folders_are_read_or_named() {
    let ready = |root: &Path| {
        unpack(&tree([b"a/1.jpg".as_slice(), b"b/2.jpg"]), root);
        folder_node(root, false)
    };
    assert_errors(&[
        (
            "a link to the folder that it lies in",
            &|root| {
                let node = ready(root);
                symlink(".", root.join("a/again")).unwrap();
                node
            },
            &[
                "files (ImageFolder): the symbolic link DIR/a/again points back to DIR/a,",
                "remove",
            ],
        ),
        (
            "a link to the root",
            &|root| {
                let node = ready(root);
                symlink(root, root.join("a/again")).unwrap();
                node
            },
            &["the symbolic link DIR/a/again points back to DIR"],
        ),
        (
            "a class that is the root",
            &|root| {
                let node = ready(root);
                symlink(".", root.join("c")).unwrap();
                node
            },
            &["the symbolic link DIR/c points back to DIR"],
        ),
        (
            "a link to what is above the root",
            &|root| {
                let node = ready(root);
                symlink("/", root.join("b/all")).unwrap();
                node
            },
            &["the symbolic link DIR/b/all points back to /,"],
        ),
        (
            "two links that lead to each other's folder",
            &|root| {
                let node = ready(root);
                for (from, to) in [("a", "b"), ("b", "a")] {
                    symlink(root.join(from), root.join(to).join("other")).unwrap();
                }
                node
            },
            &["the symbolic link DIR/a/other/other points back to DIR/a,"],
        ),
        (
            "a link to itself",
            &|root| {
                let node = ready(root);
                symlink("3.jpg", root.join("a/3.jpg")).unwrap();
                node
            },
            &["cannot follow the symbolic link DIR/a/3.jpg; remove it"],
        ),
        (
            "an image that is a link to nowhere",
            &|root| {
                let node = ready(root);
                symlink("nowhere.jpg", root.join("a/3.jpg")).unwrap();
                node
            },
            &["the symbolic link DIR/a/3.jpg is broken; fix it or remove it"],
        ),
        (
            "two classes that look the same",
            &|root| {
                unpack(
                    &tree(["caf\u{e9}/1.jpg".as_bytes(), "cafe\u{301}/2.jpg".as_bytes()]),
                    root,
                );
                folder_node(root, false)
            },
            &[
                "DIR/cafe\u{301} and DIR/caf\u{e9} are written alike",
                "(`cafe\\u{301}` and `caf\\u{e9}`)",
            ],
        ),
        (
            "nothing but other files",
            &|root| {
                unpack(
                    &tree([b"a/1.avif".as_slice(), b"a/2.AVIF", b"a/._3.jpg"]),
                    root,
                );
                folder_node(root, false)
            },
            &[
                "class folders without an image in DIR: `a`;",
                "(2 other files passed over: 2 .avif; 1 hidden name)",
            ],
        ),
        (
            "a file in the root's place",
            &|root| {
                fs::write(root.join("x"), "").unwrap();
                folder_node(&root.join("x"), false)
            },
            &["there is no folder DIR/x\n  help: `--set files.root=PLACE` names another place"],
        ),
    ]);

    let folder = tempfile::tempdir().unwrap();
    let node = ready(folder.path());
    let mut deep = folder.path().join("b");
    for _ in 0..1000 {
        deep.push("n");
    }
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("3.jpg"), image(3)).unwrap();
    // Broken links that are not images, and entries that are not files.
    symlink("nowhere", folder.path().join("a/notes")).unwrap();
    symlink("nowhere", folder.path().join("lost")).unwrap();
    fs::create_dir(folder.path().join("a/folder.jpg")).unwrap();
    let fifo = Command::new("mkfifo")
        .arg(folder.path().join("a/4.jpg"))
        .status();
    assert!(fifo.unwrap().success());
    symlink("../a/1.jpg", folder.path().join("b/1.jpg")).unwrap();
    let expected = [(image(0), 0), (image(0), 1), (image(1), 1), (image(3), 1)];
    assert_eq!(stream(&node).unwrap().files[..4], expected);
}

/// A huge file with the name of an image does not fill the memory.
#[test]
fn an_enormous_file_is_refused_unread() {
    let folder = tempfile::tempdir().unwrap();
    unpack(&two_classes(), folder.path());
    let image = folder.path().join("train/a/1.jpg");
    File::create(&image).unwrap().set_len(1 << 40).unwrap();
    let error = failure(&folder_node(&folder.path().join("train"), false));
    let expected = "1.jpg: the file has 1099511627776 bytes, the limit for an image is 1073741824";
    assert!(error.contains(expected), "{error}");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    unpack(&two_classes(), root);
    let lock = |path: &str, mode| {
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    lock("train/a/1.jpg", 0);
    if File::open(root.join("train/a/1.jpg")).is_ok() {
        // Root can read everything: run the test again as another user, from where they may.
        let myself = root.join("tests");
        fs::copy(std::env::current_exe().unwrap(), &myself).unwrap();
        fs::set_permissions(root, fs::Permissions::from_mode(0o755)).unwrap();
        let output = Command::new(myself)
            .args(["--exact", "folder::a_file_that_cannot_be_read_is_named"])
            .current_dir("/")
            .uid(65534)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains("1 passed"),
            "{said}"
        );
        return;
    }
    let place = format!("{}/train", root.display());
    let train = folder_node(&root.join("train"), false);
    let error = failure(&train).replace(&place, "DIR");
    assert!(
        error.starts_with(
            "files (ImageFolder): DIR/a/1.jpg: cannot read the file: check its permissions"
        ),
        "{error}"
    );
    lock("train/a", 0);
    let error = failure(&train).replace(&place, "DIR");
    lock("train/a", 0o755);
    let expected = "files (ImageFolder): cannot list DIR/a; let this user read it, shorten its path, or remove it\n";
    assert!(error.starts_with(expected), "{error}");
}
