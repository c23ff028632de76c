//! Listings as a whole: cached, damaged, counted.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::symlink;
use std::time::{Duration, SystemTime};

use super::*;

/// A time at which files that are written now are not recent.
fn later() -> SystemTime {
    SystemTime::now() + Duration::from_secs(3600)
}

/// Waits until new files get a later timestamp than existing ones.
fn wait_for_another_time(folder: &Path) {
    let time = || {
        let probe = folder.join("probe");
        fs::write(&probe, "").unwrap();
        let metadata = fs::metadata(&probe).unwrap();
        fs::remove_file(&probe).unwrap();
        (metadata.ctime(), metadata.ctime_nsec())
    };
    let before = time();
    while time() == before {}
}

fn fill(root: &Path) {
    for name in ["a/1.jpg", "a/deep/2.jpg", "b/1.jpg", "c/1.jpg"] {
        fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
        fs::write(root.join(name), name).unwrap();
    }
}

fn images(listing: &Listing) -> Vec<(String, u32)> {
    let images = 0..listing.len();
    images
        .map(|image| {
            let name = listing.name(image).to_string_lossy().into_owned();
            (name, listing.label(image).unwrap())
        })
        .collect()
}

/// The files of a cache folder with their inodes, which change when a file is replaced.
fn kept(cache: &Path) -> Vec<(u64, PathBuf)> {
    let entries = fs::read_dir(cache).into_iter().flatten().flatten();
    let entries = entries.map(|entry| (entry.metadata().unwrap().ino(), entry.path()));
    entries.collect()
}

/// A change to a folder after it was listed, and whether the listing must change.
type Change = (&'static str, fn(&Path), bool);

#[test]
fn a_kept_listing_is_used_until_a_folder_changes() {
    let changes: [Change; 12] = [
        ("nothing", |_| {}, false),
        (
            "other bytes",
            |root| fs::write(root.join("a/1.jpg"), "x").unwrap(),
            false,
        ),
        (
            "a new image",
            |root| fs::write(root.join("a/0.jpg"), "x").unwrap(),
            true,
        ),
        (
            "a new nested image",
            |root| fs::write(root.join("a/deep/0.jpg"), "x").unwrap(),
            true,
        ),
        (
            "an image less",
            |root| fs::remove_file(root.join("a/deep/2.jpg")).unwrap(),
            true,
        ),
        (
            "another name",
            |root| fs::rename(root.join("b/1.jpg"), root.join("b/2.jpg")).unwrap(),
            true,
        ),
        (
            "a class less",
            |root| fs::remove_dir_all(root.join("b")).unwrap(),
            true,
        ),
        (
            "a class of another name",
            |root| fs::rename(root.join("b"), root.join("d")).unwrap(),
            true,
        ),
        (
            "a class more",
            |root| {
                fs::create_dir(root.join("d")).unwrap();
                fs::write(root.join("d/1.jpg"), "x").unwrap();
            },
            true,
        ),
        (
            "a new image, the folder's time set back",
            |root| {
                let modified = fs::metadata(root.join("a")).unwrap().modified().unwrap();
                fs::write(root.join("a/0.jpg"), "x").unwrap();
                File::open(root.join("a"))
                    .unwrap()
                    .set_modified(modified)
                    .unwrap();
            },
            true,
        ),
        (
            "another class of the same name",
            |root| {
                fs::rename(root.join("c"), root.with_extension("old")).unwrap();
                fs::create_dir(root.join("c")).unwrap();
                fs::write(root.join("c/3.jpg"), "x").unwrap();
            },
            true,
        ),
        (
            "a link that leads somewhere now",
            |root| {
                let class = root.with_extension("lost");
                fs::create_dir(&class).unwrap();
                fs::write(class.join("3.jpg"), "x").unwrap();
            },
            true,
        ),
    ];
    let now = SystemTime::now();
    let folder = tempfile::tempdir().unwrap();
    let places = |number: usize| {
        let root = folder.path().join(format!("{number}"));
        (root, folder.path().join(format!("cache of {number}")))
    };
    for number in 0..changes.len() {
        let (root, cache) = places(number);
        fill(&root);
        symlink(root.with_extension("lost"), root.join("lost")).unwrap();
        Listing::of_folder(&root, Some(&cache), now).unwrap();
        assert_eq!(kept(&cache), [], "what is so new may change unseen");
    }
    wait_for_another_time(folder.path());
    for (number, (case, change, is_seen)) in changes.into_iter().enumerate() {
        let (root, cache) = places(number);
        let first = Listing::of_folder(&root, Some(&cache), later()).unwrap();
        assert_eq!(images(&first).len(), 4);
        let before = kept(&cache);
        assert_eq!(before.len(), 1, "{case}");
        change(&root);
        let second = Listing::of_folder(&root, Some(&cache), now).unwrap();
        assert_eq!(
            images(&first) != images(&second) || first.classes != second.classes,
            is_seen,
            "{case}"
        );
        let anew = Listing::of_folder(&root, None, now).unwrap();
        assert_eq!(images(&second), images(&anew), "{case}");
        assert_eq!(second.classes, anew.classes, "{case}");
        assert_eq!(kept(&cache), before, "what is so new is not kept: {case}");
    }
}

#[test]
fn a_folder_and_an_archive_pass_over_the_same_and_have_the_same_hash() {
    let folder = tempfile::tempdir().unwrap();
    let (root, tar) = (folder.path().join("root"), folder.path().join("x.tar"));
    let cache = folder.path().join("cache");
    fill(&root);
    let of_folder = || Listing::of_folder(&root, Some(&cache), later()).unwrap();
    let plain = of_folder();
    assert_eq!(plain.passed_over.to_string(), "");
    for name in [
        "a/._1.jpg",
        "a/.ipynb_checkpoints/1-checkpoint.jpg",
        "a/.ipynb_checkpoints/2-checkpoint.jpg",
        ".ipynb_checkpoints/x/1.jpg",
        ".DS_Store",
        "__MACOSX/a/1.jpg",
        "a/deep/Thumbs.db",
        "a/deep/1.avif",
        "b/2.AVIF",
        "b/list",
        "README.md",
        "beside.jpg",
    ] {
        fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
        fs::write(root.join(name), name).unwrap();
    }
    let fifo = std::process::Command::new("mkfifo")
        .arg(root.join("c/2.jpg"))
        .status();
    assert!(fifo.unwrap().success());
    pack(&root, &tar);
    let expected = "5 other files passed over: 2 .avif, 1 .db, 1 .md, 1 without an ending; 1 image \
         outside of the class folders; 1 FIFO, socket or device; 5 hidden names";
    let archive = || list_archive(&tar, None, later());
    for listing in [of_folder(), of_folder(), archive(), archive()] {
        assert_eq!(images(&listing), images(&plain));
        assert_eq!(listing.classes, plain.classes);
        assert_eq!(listing.passed_over.to_string(), expected);
        assert_eq!(listing.hash(), plain.hash());
    }
    for (from, to) in [("a/1.jpg", "a/2.jpg"), ("b", "d"), ("c/1.jpg", "a/1.jpg")] {
        let before = of_folder().hash();
        fs::rename(root.join(from), root.join(to)).unwrap();
        if from.starts_with('c') {
            fs::remove_dir_all(root.join("c")).unwrap();
        }
        assert_ne!(of_folder().hash(), before, "{from}");
    }
}

#[test]
fn classes_that_are_parts_of_a_data_set_are_doubted() {
    let cases: [(&[&str], Option<&str>); 6] = [
        (&["a/1.jpg", "b/1.jpg"], None),
        (&["train/1.jpg", "bus/1.jpg"], None),
        (
            &["val/a/1.jpg", "train/a/1.jpg"],
            Some(
                "the class folders in DIR are `train` and `val`, and their images are in folders of \
                 their own: DIR/train was probably meant",
            ),
        ),
        (
            &["imagenette2/train/a/1.jpg"],
            Some(
                "the only class folder in DIR is `imagenette2`, and its images are in folders of their \
                 own: DIR/imagenette2 was probably meant",
            ),
        ),
        (
            &["train/cat.0.jpg", "test/1.jpg"],
            Some(
                "the class folders in DIR are `test` and `train`, which look like the parts of a data \
                 set: each of them should hold class folders",
            ),
        ),
        (&["cat/1.jpg"], None),
    ];
    for (names, expected) in cases {
        let folder = tempfile::tempdir().unwrap();
        let (root, tar) = (folder.path().join("root"), folder.path().join("x.tar"));
        for name in names {
            fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
            fs::write(root.join(name), name).unwrap();
        }
        pack(&root, &tar);
        let listing = Listing::of_folder(&root, None, later()).unwrap();
        let warning = listing.one_level_too_high();
        let said = warning.map(|said| said.replace(root.to_str().unwrap(), "DIR"));
        assert_eq!(said.as_deref(), expected, "{names:?}");
        let warning = list_archive(&tar, None, later()).one_level_too_high();
        assert_eq!(warning.is_some(), expected.is_some(), "{names:?}");
    }
}

#[test]
fn a_damaged_listing_is_rebuilt() {
    let folder = tempfile::tempdir().unwrap();
    let (root, cache) = (folder.path().join("root"), folder.path().join("cache"));
    fill(&root);
    let list = || images(&Listing::of_folder(&root, Some(&cache), later()).unwrap());
    let expected = list();
    let [(_, file)] = kept(&cache).try_into().unwrap();
    let sound = fs::read(&file).unwrap();
    for at in 0..sound.len() {
        let mut bytes = sound.clone();
        bytes[at] ^= 0x11;
        fs::write(&file, bytes).unwrap();
        assert_eq!(list(), expected);
        assert_eq!(fs::read(&file).unwrap(), sound, "byte {at}");
    }
}

#[test]
fn what_vanishes_after_it_was_listed_is_an_error_where_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    fill(folder.path());
    let listing = Listing::of_folder(folder.path(), None, later()).unwrap();
    fs::remove_dir_all(folder.path().join("a")).unwrap();
    let error = format!("{:#}", listing.read(0).unwrap_err());
    assert!(error.starts_with("cannot read the file: it existed when the run began"));
    assert!(error.ends_with("No such file or directory (os error 2)"));
    assert_eq!(listing.read(2).unwrap(), b"b/1.jpg");
    // A FIFO that nobody writes to.
    let image = folder.path().join("c/1.jpg");
    fs::remove_file(&image).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&image).status();
    assert!(made.unwrap().success());
    let error = format!("{:#}", listing.read(3).unwrap_err());
    assert!(
        error.starts_with("cannot read the file: remove it"),
        "{error}"
    );
    assert!(error.ends_with("it is a FIFO, not a file"), "{error}");
}

/// Writes a tar of a folder. An existing file is overwritten in place.
fn pack(folder: &Path, to: &Path) {
    let mut tar = tar::Builder::new(File::create(to).unwrap());
    tar.append_dir_all("", folder).unwrap();
    tar.into_inner().unwrap();
}

fn list_archive(path: &Path, cache: Option<&Path>, now: SystemTime) -> Listing {
    let archive = Archive::open(path, None).unwrap();
    let index = archive.index(Within::Files, cache, now).unwrap();
    Listing::of_archive(archive, &index, Some("")).unwrap()
}

/// A path of 60 KB has 30,000 folders above it, whose paths would take 900 MB.
#[test]
fn folders_above_folders_are_not_stored() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.tar");
    let mut tar = tar::Builder::new(File::create(&path).unwrap());
    let deep = format!("a/{}1.jpg", "d/".repeat(30_000));
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    tar.append_data(&mut header, &deep, b"1".as_slice())
        .unwrap();
    tar.into_inner().unwrap();
    let archive = Archive::open(&path, None).unwrap();
    let index = archive.index(Within::Files, None, later()).unwrap();
    assert_eq!(index.folders(), 1);
    let listing = Listing::of_archive(archive, &index, Some("")).unwrap();
    assert_eq!(images(&listing), [(deep, 0)]);
}

#[test]
fn an_index_is_kept_beside_the_tar_and_rebuilt_when_the_tar_changes() {
    let now = SystemTime::now();
    let folder = tempfile::tempdir().unwrap();
    let [root, path, index] =
        ["root", "x.tar", "x.tar.rsflow-index"].map(|name| folder.path().join(name));
    fill(&root);
    pack(&root, &path);
    let first = images(&list_archive(&path, None, now));
    assert_eq!(first.len(), 4);
    assert!(!index.exists(), "what is so new may change unseen");

    let list = || images(&list_archive(&path, None, later()));
    // A new file gets another inode while the old one is open.
    let inode = || fs::metadata(&index).unwrap().ino();
    assert_eq!(list(), first);
    let before = inode();
    let _before = File::open(&index).unwrap();
    assert_eq!(list(), first);
    assert_eq!(inode(), before, "it was used");

    let sound = fs::read(&index).unwrap();
    let mut damaged = sound.clone();
    damaged[sound.len() / 2] ^= 1;
    for (case, bytes) in [
        ("damaged", damaged),
        ("cut off", sound[..40].to_vec()),
        ("something else", b"<html>".to_vec()),
        ("empty", Vec::new()),
    ] {
        let before = inode();
        let _before = File::open(&index).unwrap();
        fs::write(&index, bytes).unwrap();
        assert_eq!(list(), first, "{case}");
        assert_ne!(inode(), before, "{case}");
    }

    // Other names in the same file, with the same length and modification time.
    wait_for_another_time(folder.path());
    let before = fs::metadata(&path).unwrap();
    fs::rename(root.join("c/1.jpg"), root.join("c/9.jpg")).unwrap();
    pack(&root, &path);
    let file = File::options().write(true).open(&path).unwrap();
    file.set_modified(before.modified().unwrap()).unwrap();
    let after = fs::metadata(&path).unwrap();
    let same = |of: fn(&fs::Metadata) -> u64| of(&before) == of(&after);
    assert!(same(fs::Metadata::ino) && same(fs::Metadata::size));
    let second = list();
    assert_eq!(second[3], ("c/9.jpg".to_owned(), 2));
    assert_eq!(second[..3], first[..3]);
}

#[test]
fn an_index_that_cannot_be_kept_beside_its_archive_is_kept_in_the_cache() {
    let folder = tempfile::tempdir().unwrap();
    let (path, cache) = (folder.path().join("x.tar"), folder.path().join("cache"));
    fill(&folder.path().join("root"));
    pack(&folder.path().join("root"), &path);
    fs::create_dir(folder.path().join("x.tar.rsflow-index")).unwrap();
    let list = || list_archive(&path, Some(&cache), later());
    let first = list();
    let before = kept(&cache);
    assert_eq!(before.len(), 1);
    let second = list();
    assert_eq!(images(&second), images(&first));
    assert_eq!(kept(&cache), before, "it was used");
    assert_eq!(second.read(1).unwrap(), b"a/deep/2.jpg");

    // Truncated after it was indexed.
    let file = File::options().write(true).open(&path).unwrap();
    file.set_len(1000).unwrap();
    let error = format!("{:#}", second.read(3).unwrap_err());
    assert!(
        error.starts_with("cannot read 7 bytes from byte "),
        "{error}"
    );
}
