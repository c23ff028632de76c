//! A tar as a source.

use std::fs;
use std::path::Path;

use rsflow_pipeline::nodes::{ImageFolder, ImageTar};
use tar::EntryType;

use crate::imagenet::devkit;
use crate::tars::{
    awkward, header, image, pack, packed, packed_as_pax, packed_as_ustar, tree, two_classes, unpack,
};
use crate::{assert_errors, folder_node, names, stream, tar_node};

#[test]
fn an_archive_gives_the_stream_of_the_unpacked_folder() {
    let very_long = awkward(&"long".repeat(60));
    let long = awkward(&"long".repeat(20));
    let cases = [
        ("gnu", &very_long, packed(&very_long)),
        ("pax", &very_long, packed_as_pax(&very_long)),
        ("ustar", &long, packed_as_ustar(&long)),
    ];
    for (case, tree, bytes) in cases {
        let folder = tempfile::tempdir().unwrap();
        unpack(tree, folder.path());
        let root = folder.path().join("set/train");
        let tar = folder.path().join("set.tar");
        fs::write(&tar, bytes).unwrap();
        for shuffle in [false, true] {
            let node =
                format!(r#"ImageTar(path: {tar:?}, folder: "set/train", shuffle: {shuffle})"#);
            let expected = stream(&folder_node(&root, shuffle)).unwrap();
            assert_eq!(expected.files.len(), 2 * 10, "{case}");
            assert_eq!(
                expected.files[..10] != expected.files[10..],
                shuffle,
                "{case}"
            );
            assert!(stream(&node).unwrap() == expected, "{case}, {shuffle}");
        }
        let node = format!(r#"(path: {tar:?}, folder: "./set/train/")"#);
        let place = format!("{}: set/train/", tar.display());
        let (classes, images) = names::<ImageTar>(&node, &place);
        let node = format!("(root: {root:?}, listing_cache: false)");
        let root = format!("{}/", root.display());
        let expected = names::<ImageFolder>(&node, &root);
        assert_eq!((classes, images.clone()), expected, "{case}");
        assert_eq!(images[0..3].join(" ").matches("a/").count(), 3, "{case}");
        assert_eq!(
            images
                .iter()
                .filter(|name| name.contains('\u{fffd}'))
                .count(),
            2
        );
    }
}

#[test]
fn errors_of_a_tar_name_the_cause() {
    let write = |folder: &Path, bytes: Vec<u8>| {
        let tar = folder.join("x.tar");
        fs::write(&tar, bytes).unwrap();
        tar_node(&tar)
    };
    // Two classes, and an entry of that kind and path.
    let with = |folder: &Path, kind: EntryType, path: &str| {
        let mut tar = pack(&two_classes());
        let mut header = header(kind, 0);
        let name = &mut header.as_old_mut().name;
        name[..path.len()].copy_from_slice(path.as_bytes());
        if kind.is_symlink() || kind.is_hard_link() {
            header.set_link_name("train/a/1.jpg").unwrap();
        }
        let gnu = header.as_gnu_mut().unwrap();
        gnu.realsize = *b"00000000000\0";
        header.set_cksum();
        tar.append(&header, [].as_slice()).unwrap();
        write(folder, tar.into_inner().unwrap())
    };
    let cut = |folder: &Path, bytes: usize| {
        let tar = packed(&two_classes());
        write(folder, tar[..bytes].to_vec())
    };
    // A first entry of 3 GB.
    let hole = |folder: &Path, kind: EntryType| {
        let mut header = header(kind, 3 << 30);
        header.set_cksum();
        let node = write(folder, header.as_bytes().to_vec());
        let file = fs::File::options().write(true).open(folder.join("x.tar"));
        file.unwrap().set_len((3 << 30) + 2048).unwrap();
        node
    };
    // Entries come in reverse: b/2.jpg, then a/1.jpg.
    let second = 512 + image(1).len().next_multiple_of(512);
    let end = second + 512 + image(0).len().next_multiple_of(512);
    assert_errors(&[
        (
            "no file",
            &|folder| tar_node(&folder.join("x.tar")),
            &[
                "files (ImageTar): there is no file DIR/x.tar\n  help: `--set files.path=PLACE` names another place",
            ],
        ),
        (
            "a folder",
            &|folder| tar_node(folder),
            &["DIR: it is a folder, not a file"],
        ),
        (
            "a FIFO",
            &|folder| {
                let fifo = folder.join("x.tar");
                let made = std::process::Command::new("mkfifo").arg(&fifo).status();
                assert!(made.unwrap().success());
                tar_node(&fifo)
            },
            &["DIR/x.tar: it is a FIFO, not a file"],
        ),
        (
            "a long name of 3 GB, which takes no space on the disk",
            &|folder| hole(folder, EntryType::GNULongName),
            &["DIR/x.tar: the entry at byte 0 has a name or attributes of more than the limit"],
        ),
        (
            "a long target of a link",
            &|folder| hole(folder, EntryType::GNULongLink),
            &["DIR/x.tar: the entry at byte 0 has a name or attributes of more than the limit"],
        ),
        (
            "pax records",
            &|folder| hole(folder, EntryType::XHeader),
            &["DIR/x.tar: the entry at byte 0 has a name or attributes of more than the limit"],
        ),
        (
            "pax records for all entries",
            &|folder| hole(folder, EntryType::XGlobalHeader),
            &["DIR/x.tar: the entry at byte 0 has a name or attributes of more than the limit"],
        ),
        (
            "a sparse map without an end",
            &|folder| {
                let mut header = header(EntryType::GNUSparse, 0);
                header.as_gnu_mut().unwrap().isextended = [1];
                header.set_cksum();
                let mut more = [0; 512];
                more[504] = 1;
                write(
                    folder,
                    [header.as_bytes().as_slice(), &more.repeat(2100)].concat(),
                )
            },
            &["DIR/x.tar: the entry at byte 0 has a name or attributes of more than the limit"],
        ),
        (
            "a path of 70 KB",
            &|folder| {
                let mut tar = pack(&two_classes());
                let path = "a/".repeat(35_000);
                tar.append_data(&mut header(EntryType::Directory, 0), &path, [].as_slice())
                    .unwrap();
                write(folder, tar.into_inner().unwrap())
            },
            &[
                &format!("DIR/x.tar: the entry at byte {end} has a path of 7"),
                "the limit is 65536",
            ],
        ),
        (
            "compressed",
            &|folder| write(folder, devkit(b"", "")),
            &["DIR/x.tar is compressed", "decompress it with `gunzip`"],
        ),
        (
            "something else",
            &|folder| write(folder, b"<html>".repeat(1000)),
            &["DIR/x.tar is damaged or not a tar: invalid header at byte 0;"],
        ),
        (
            "empty",
            &|folder| write(folder, vec![]),
            &["DIR/x.tar is truncated: it ends at byte 0"],
        ),
        (
            "truncated in an image",
            &|folder| cut(folder, second + 512 + 100),
            &[
                &format!(
                    "DIR/x.tar is truncated: it ends at byte {}, but",
                    second + 612
                ),
                &format!(
                    "but `train/a/1.jpg` is stored from byte {} to",
                    second + 512
                ),
            ],
        ),
        (
            "truncated in a header",
            &|folder| cut(folder, second + 100),
            &[&format!(
                "DIR/x.tar is truncated: it ends at byte {}",
                second + 100
            )],
        ),
        (
            "truncated between images",
            &|folder| cut(folder, second),
            &[&format!(
                "DIR/x.tar is truncated: it ends at byte {second}, without an end-of-archive marker"
            )],
        ),
        (
            "truncated behind the last image",
            &|folder| cut(folder, end),
            &[&format!(
                "DIR/x.tar is truncated: it ends at byte {end}, without an end-of-archive marker"
            )],
        ),
        (
            "a damaged header",
            &|folder| {
                let mut tar = packed(&two_classes());
                tar[second + 7] ^= 1;
                write(folder, tar)
            },
            &[&format!("invalid header at byte {second};"), "checksum"],
        ),
        (
            "an absolute path",
            &|folder| with(folder, EntryType::Regular, "/train/a/3.jpg"),
            &["DIR/x.tar: `/train/a/3.jpg` is outside of the archive"],
        ),
        (
            "a parent's path",
            &|folder| with(folder, EntryType::Regular, "train/../../a/3.jpg"),
            &["DIR/x.tar: `train/../../a/3.jpg` is outside of the archive"],
        ),
        (
            "a symbolic link",
            &|folder| with(folder, EntryType::Symlink, "train/c"),
            &[
                "DIR/x.tar holds symbolic links",
                "`train/c`; create it again with --dereference",
            ],
        ),
        (
            "a hard link",
            &|folder| with(folder, EntryType::Link, "train/a/3.jpg"),
            &[
                "holds hard links",
                "`train/a/3.jpg`; create it again with --hard-dereference",
            ],
        ),
        (
            "a sparse file",
            &|folder| with(folder, EntryType::GNUSparse, "train/a/3.jpg"),
            &["holds sparse files", "`train/a/3.jpg`"],
        ),
        (
            "a sparse file, the newer way",
            &|folder| {
                let mut tar = pack(&two_classes());
                let records = [("GNU.sparse.major", b"1".as_slice())];
                tar.append_pax_extensions(records).unwrap();
                let mut header = header(EntryType::Regular, 0);
                tar.append_data(&mut header, "train/a/3.jpg", [].as_slice())
                    .unwrap();
                write(folder, tar.into_inner().unwrap())
            },
            &["holds sparse files", "`train/a/3.jpg`"],
        ),
        (
            "a class without an image",
            &|folder| with(folder, EntryType::Directory, "train/c"),
            &["class folders without an image in DIR/x.tar: train: `c`; fill them"],
        ),
        (
            "no images",
            &|folder| write(folder, packed(&tree([b"notes.txt".as_slice()]))),
            &["DIR/x.tar holds no class folders; images are expected in it as CLASS/IMAGE.jpg"],
        ),
        (
            "a folder that is not there",
            &|folder| {
                write(folder, packed(&awkward("long")));
                format!(
                    r#"ImageTar(path: {:?}, folder: "set/trian")"#,
                    folder.join("x.tar")
                )
            },
            &[
                "`set/trian` of ",
                "DIR/x.tar holds no class folders; did you mean `set/train`? class folders are in \
                 `set`, `set/train`, `set/train/a`, `set/train/a/sub`, `set/val`",
            ],
        ),
        (
            "several folders",
            &|folder| {
                write(
                    folder,
                    packed(&tree([b"train/a/1.jpg".as_slice(), b"val/a/1.jpg"])),
                )
            },
            &[
                "DIR/x.tar has class folders in several folders: `train`, `val`; select one with `folder`",
            ],
        ),
    ]);
}

#[test]
fn a_later_entry_replaces_an_earlier_one_of_the_same_name() {
    let folder = tempfile::tempdir().unwrap();
    let mut tar = pack(&two_classes());
    let bytes = image(77);
    let mut header = header(EntryType::Regular, bytes.len());
    tar.append_data(&mut header, "train/a/1.jpg", bytes.as_slice())
        .unwrap();
    let path = folder.path().join("x.tar");
    fs::write(&path, tar.into_inner().unwrap()).unwrap();
    let files = stream(&tar_node(&path)).unwrap().files;
    assert_eq!(files[..2], [(bytes, 0), (image(1), 1)]);
}
