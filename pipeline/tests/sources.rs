//! Folders and archives as sources: the same stream whatever the images are kept in, and clear words
//! where they cannot be read.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use rsflow_graph::{
    Batch, Build, Catalogue, Kind, NodeKind, Options, PlainMemory, Plan, Recipe, RunContext,
    Running, Stage, Tap, Text,
};
use rsflow_pipeline::images::EncodedImage;
use rsflow_pipeline::nodes::RandomResizedCrop;
use rsflow_pipeline::nodes::{self, DecodeJpeg, ImageFolder, ImageNetArchives, ImageTar, Resize};
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

mod end;
use end::{Collect, End};

const CATALOGUE: Catalogue = Catalogue(&[
    Kind::of::<ImageFolder>(),
    Kind::of::<ImageTar>(),
    Kind::of::<ImageNetArchives>(),
    Kind::of::<DecodeJpeg>(),
    Kind::of::<RandomResizedCrop>(),
    Kind::of::<Resize>(),
    Kind::of::<nodes::Batch>(),
    Kind::of::<End>(),
]);

/// What comes out of a source in two epochs: each image's bytes and class, and the pixels of all
/// batches.
#[derive(Debug, Default, PartialEq)]
struct Stream {
    files: Vec<(Vec<u8>, i64)>,
    pixels: Vec<Vec<u8>>,
}

fn stream(node: &str) -> Result<Stream, String> {
    let recipe = format!(
        r#"(seed: 5, cpu_workers: 2, nodes: {{
            "files": {node},
            "images": DecodeJpeg(input: "files"),
            "crops": RandomResizedCrop(input: "images"),
            "sizes": Resize(input: "crops", sizes: [24, 16], flip: 0.5),
            "batches": Batch(input: "sizes", size: 4),
            "end": End(input: "batches"),
        }})"#
    );
    let recipe = Recipe::parse(Text::new("recipe.ron", recipe), CATALOGUE, &[]);
    let plan = Plan::new(recipe.map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
    let (files, batches) = (
        Collect::<EncodedImage>::default(),
        Collect::<Batch>::default(),
    );
    let tap = |node: &str, sink| Tap {
        node: node.to_owned(),
        output: 0,
        sink,
        name: "test",
    };
    let options = Options {
        taps: vec![
            tap("files", Box::new(files.clone())),
            tap("batches", Box::new(batches.clone())),
        ],
        epochs: Some(2),
        ..Options::default()
    };
    let running = Running::start(&plan, options).map_err(|e| format!("{e:#}"))?;
    running.wait().map_err(|e| e.to_string())?;
    let files = files.0.lock().unwrap();
    let batches = batches.0.lock().unwrap();
    Ok(Stream {
        files: files
            .iter()
            .map(|file| (file.bytes.to_vec(), file.label))
            .collect(),
        pixels: batches
            .iter()
            .flat_map(|batch| [0, 1].map(|at| batch.pixels(at).to_vec()))
            .collect(),
    })
}

/// What is said of a source that does not run.
fn fault(node: &str) -> String {
    match stream(node) {
        Ok(stream) => panic!("{node} yields {} images", stream.files.len()),
        Err(error) => error,
    }
}

/// Class names, and what each image is called, without the place that all of them are in.
fn names<K: NodeKind>(node: &str, place: &str) -> (Vec<String>, Vec<String>) {
    let node: K = ron::Options::default()
        .with_default_extension(ron::extensions::Extensions::IMPLICIT_SOME)
        .from_str(node)
        .unwrap();
    let stage = node.build(&Build {
        node: "files",
        seed: 5,
        run: &RunContext::default(),
        recipe: "",
        inputs: &[],
        schemas: &[],
        demands: &[],
        allocator: Arc::new(PlainMemory),
    });
    let Stage::Source(source) = stage.unwrap() else {
        panic!("it is no source");
    };
    let contents = source.contents();
    let images = (0..contents.items_per_epoch).map(|image| source.describe(image as u32));
    let images = images.map(|image| match image.strip_prefix(place) {
        Some(name) => name.to_owned(),
        None => panic!("{image} is not in {place}"),
    });
    (contents.classes.to_vec(), images.collect())
}

fn folder_node(root: &Path, shuffle: bool) -> String {
    format!("ImageFolder(root: {root:?}, shuffle: {shuffle}, listing_cache: false)")
}

fn tar_node(path: &Path) -> String {
    format!("ImageTar(path: {path:?})")
}

/// A small image that is not the same for all numbers.
fn image(number: usize) -> Vec<u8> {
    const IMAGES: [&str; 5] = ["baseline_420", "grey", "progressive_444", "cmyk", "flat"];
    let name = format!("{}.jpg", IMAGES[number % IMAGES.len()]);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/images");
    let mut bytes = fs::read(path.join(name)).unwrap();
    // Behind the end of the image.
    bytes.extend(number.to_string().into_bytes());
    bytes
}

/// Files by path.
type Tree = BTreeMap<Vec<u8>, Vec<u8>>;

fn tree<'a>(paths: impl IntoIterator<Item = &'a [u8]>) -> Tree {
    let paths = paths.into_iter().enumerate();
    paths
        .map(|(number, path)| (path.to_vec(), image(number)))
        .collect()
}

fn path_of(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

fn unpack(tree: &Tree, root: &Path) {
    for (path, bytes) in tree {
        let path = root.join(path_of(path));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// An entry's header.
fn header(kind: EntryType, size: usize) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size as u64);
    header.set_mode(0o644);
    header
}

/// A tar in the format of GNU, with files in an order that is not theirs.
fn pack(tree: &Tree) -> Builder<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    for (path, bytes) in tree.iter().rev() {
        let mut header = header(EntryType::Regular, bytes.len());
        tar.append_data(&mut header, path_of(path), bytes.as_slice())
            .unwrap();
    }
    tar
}

fn packed(tree: &Tree) -> Vec<u8> {
    pack(tree).into_inner().unwrap()
}

/// The same, with long names in the way of POSIX, and a size that only that way can say.
fn packed_as_pax(tree: &Tree) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for (path, bytes) in tree.iter().rev() {
        let size = bytes.len().to_string();
        let records = [("path", path.as_slice()), ("size", size.as_bytes())];
        tar.append_pax_extensions(records).unwrap();
        let mut header = Header::new_ustar();
        header.set_size(0);
        header.set_path("short").unwrap();
        header.set_cksum();
        // The header's own size is wrong on purpose.
        tar.append(&header, bytes.as_slice()).unwrap();
    }
    tar.into_inner().unwrap()
}

fn packed_as_ustar(tree: &Tree) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for (path, bytes) in tree.iter().rev() {
        let mut header = Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header
            .set_path(Path::new("./").join(path_of(path)))
            .unwrap();
        header.set_cksum();
        tar.append(&header, bytes.as_slice()).unwrap();
    }
    tar.into_inner().unwrap()
}

/// Names in an order that depends on how one sorts; some that are no images.
fn awkward(long: &str) -> Tree {
    let long = format!("set/train/a/{long}.JPEG");
    let paths: [&[u8]; 12] = [
        b"set/train/b/2.jpg",
        b"set/train/b/10.JPEG",
        b"set/train/a-b/1.jpeg",
        b"set/train/a/z.png",
        b"set/train/a/sub/1.jpg",
        b"set/train/a/sub-1/1.jpg",
        b"set/train/a/sub/deeper/1.jpg",
        b"set/train/a/not\xffutf8.jpg",
        b"set/train/caf\xe9/1.jpg",
        b"set/train/beside.jpg",
        b"set/val/a/1.jpg",
        long.as_bytes(),
    ];
    let mut tree = tree(paths);
    tree.insert(b"set/train/a/notes.txt".to_vec(), b"mine".to_vec());
    tree
}

#[test]
fn an_archive_gives_the_very_stream_of_the_unpacked_folder() {
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

/// Three classes; the names of the devkit in the fixtures.
const WNIDS: [(u32, &str); 3] = [(2, "n02100735"), (1, "n02119789"), (4, "n02096294")];

fn val_image(number: usize) -> String {
    format!("ILSVRC2012_val_{number:08}.JPEG")
}

/// Archives of ImageNet's shape, and the same images unpacked in `train` and `val`.
fn imagenet() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let (mut train, mut val, mut flat) = (Tree::new(), Tree::new(), Tree::new());
    let (mut tars, mut truth) = (Tree::new(), String::new());
    for (id, wnid) in WNIDS {
        let mut class = Tree::new();
        for number in [10026, 9, 100] {
            let bytes = image(number + id as usize);
            class.insert(format!("{wnid}_{number}.JPEG").into(), bytes.clone());
            train.insert(format!("{wnid}/{wnid}_{number}.JPEG").into(), bytes);
        }
        tars.insert(format!("{wnid}.tar").into(), packed(&class));
    }
    for number in 1..=8 {
        let (id, wnid) = WNIDS[number % 3];
        truth += &format!("{id}\n");
        flat.insert(val_image(number).into(), image(number));
        val.insert(
            format!("{wnid}/{}", val_image(number)).into(),
            image(number),
        );
    }
    unpack(&train, &folder.path().join("train"));
    unpack(&val, &folder.path().join("val"));
    let write = |name: &str, bytes| fs::write(folder.path().join(name), bytes).unwrap();
    write("ILSVRC2012_img_train.tar", packed(&tars));
    write("ILSVRC2012_img_val.tar", packed(&flat));
    let meta = "../tests/fixtures/imagenet/meta_compressed.mat";
    let meta = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(meta)).unwrap();
    write("ILSVRC2012_devkit_t12.tar.gz", devkit(&meta, &truth));
    folder
}

fn devkit(meta: &[u8], truth: &str) -> Vec<u8> {
    let file = |name: &str, bytes: &[u8]| {
        let path = format!("ILSVRC2012_devkit_t12/{name}").into_bytes();
        (path, bytes.to_vec())
    };
    let files = Tree::from([
        file("data/meta.mat", meta),
        file(
            "data/ILSVRC2012_validation_ground_truth.txt",
            truth.as_bytes(),
        ),
        file("readme.txt", b"read me"),
    ]);
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(&packed(&files)).unwrap();
    gz.finish().unwrap()
}

fn imagenet_node(folder: &TempDir, split: &str, shuffle: bool) -> String {
    let root = folder.path();
    format!("ImageNetArchives(root: {root:?}, split: {split}, shuffle: {shuffle})")
}

#[test]
fn imagenets_archives_give_the_very_stream_of_the_unpacked_images() {
    let folder = imagenet();
    for (split, unpacked, images, archive) in [
        ("Train", "train", 9, "ILSVRC2012_img_train.tar"),
        ("Val", "val", 8, "ILSVRC2012_img_val.tar"),
    ] {
        let root = folder.path().join(unpacked);
        for shuffle in [false, true] {
            let found = stream(&imagenet_node(&folder, split, shuffle)).unwrap();
            assert_eq!(found.files.len(), 2 * images);
            assert!(
                found == stream(&folder_node(&root, shuffle)).unwrap(),
                "{split}"
            );
        }
        let node = format!("(root: {:?}, split: {split})", folder.path());
        let place = format!("{}: ", folder.path().join(archive).display());
        let found = names::<ImageNetArchives>(&node, &place);
        let node = format!("(root: {root:?}, listing_cache: false)");
        let place = format!("{}/", root.display());
        assert_eq!(found, names::<ImageFolder>(&node, &place));
    }
}

/// Puts a data set into a folder, and gives the node that reads it.
type Case<'a> = (&'a str, &'a dyn Fn(&Path) -> String, &'a [&'a str]);

fn each_is_named(cases: &[Case]) {
    for (case, spoil, expected) in cases {
        let folder = tempfile::tempdir().unwrap();
        let error = fault(&spoil(folder.path()));
        let place = folder.path().display().to_string();
        let error = error.replace(&place, "DIR");
        for words in *expected {
            assert!(
                error.contains(words),
                "{case}: `{words}` is not in\n{error}"
            );
        }
        assert!(!error.contains("panicked"), "{case}: {error}");
    }
}

fn two_classes() -> Tree {
    tree([b"train/a/1.jpg".as_slice(), b"train/b/2.jpg"])
}

#[test]
fn what_is_wrong_with_a_tar_is_said() {
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
    // Entries come in reverse: b/2.jpg, then a/1.jpg.
    let second = 512 + image(1).len().next_multiple_of(512);
    let end = second + 512 + image(0).len().next_multiple_of(512);
    each_is_named(&[
        (
            "no file",
            &|folder| tar_node(&folder.join("x.tar")),
            &["files (ImageTar): there is no file DIR/x.tar; `--set NODE.path=FILE` names another"],
        ),
        (
            "a folder",
            &|folder| tar_node(folder),
            &["DIR is not a file"],
        ),
        (
            "compressed",
            &|folder| write(folder, devkit(b"", "")),
            &[
                "DIR/x.tar is compressed",
                "unpack it to a plain tar with `gunzip`",
            ],
        ),
        (
            "something else",
            &|folder| write(folder, b"<html>".repeat(1000)),
            &["DIR/x.tar is damaged, or no tar: no header can be read at byte 0;"],
        ),
        (
            "empty",
            &|folder| write(folder, vec![]),
            &["DIR/x.tar is cut off: it ends at byte 0"],
        ),
        (
            "cut off in an image",
            &|folder| cut(folder, second + 512 + 100),
            &[
                &format!(
                    "DIR/x.tar is cut off: it ends at byte {}, but",
                    second + 612
                ),
                &format!(
                    "but `train/a/1.jpg` should reach from byte {} to",
                    second + 512
                ),
            ],
        ),
        (
            "cut off in a header",
            &|folder| cut(folder, second + 100),
            &[&format!(
                "DIR/x.tar is cut off: it ends at byte {}",
                second + 100
            )],
        ),
        (
            "cut off between images",
            &|folder| cut(folder, second),
            &[&format!(
                "DIR/x.tar is cut off: it ends at byte {second}, without the mark"
            )],
        ),
        (
            "cut off behind the last image",
            &|folder| cut(folder, end),
            &[&format!(
                "DIR/x.tar is cut off: it ends at byte {end}, without the mark"
            )],
        ),
        (
            "a damaged header",
            &|folder| {
                let mut tar = packed(&two_classes());
                tar[second + 7] ^= 1;
                write(folder, tar)
            },
            &[
                &format!("no header can be read at byte {second};"),
                "checksum",
            ],
        ),
        (
            "an absolute path",
            &|folder| with(folder, EntryType::Regular, "/train/a/3.jpg"),
            &["DIR/x.tar: `/train/a/3.jpg` leads out of the archive"],
        ),
        (
            "a parent's path",
            &|folder| with(folder, EntryType::Regular, "train/../../a/3.jpg"),
            &["DIR/x.tar: `train/../../a/3.jpg` leads out of the archive"],
        ),
        (
            "a symbolic link",
            &|folder| with(folder, EntryType::Symlink, "train/c"),
            &[
                "DIR/x.tar holds symbolic links",
                "`train/c`; pack it again with --dereference",
            ],
        ),
        (
            "a hard link",
            &|folder| with(folder, EntryType::Link, "train/a/3.jpg"),
            &[
                "holds hard links",
                "`train/a/3.jpg`; pack it again with --hard-dereference",
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
                "DIR/x.tar holds no class folders; did you mean `set/train`? there are some in \
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
                "DIR/x.tar has class folders in several folders: `train`, `val`; `folder` says which",
            ],
        ),
    ]);
}

#[test]
fn a_later_entry_takes_the_place_of_an_earlier_one_of_its_name() {
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

#[test]
fn what_is_wrong_with_imagenets_archives_is_said() {
    const TRAIN: &str = "ILSVRC2012_img_train.tar";
    const VAL: &str = "ILSVRC2012_img_val.tar";
    const DEVKIT: &str = "ILSVRC2012_devkit_t12.tar.gz";
    let meta =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/imagenet/meta_plain.mat");
    let meta = fs::read(meta).unwrap();
    type Spoil<'a> = &'a dyn Fn(&Path);
    let cases: [(&str, Spoil, &str, &str); 9] = [
        (
            "no training images",
            &|root| fs::remove_file(root.join(TRAIN)).unwrap(),
            "Train",
            "files (ImageNetArchives): there is no file DIR/ILSVRC2012_img_train.tar; it has the training images",
        ),
        (
            "no validation images",
            &|root| fs::remove_file(root.join(VAL)).unwrap(),
            "Val",
            "there is no file DIR/ILSVRC2012_img_val.tar; it has the validation images",
        ),
        (
            "no devkit",
            &|root| fs::remove_file(root.join(DEVKIT)).unwrap(),
            "Val",
            "there is no file DIR/ILSVRC2012_devkit_t12.tar.gz; it has the classes of the validation images",
        ),
        (
            "a devkit of another kind",
            &|root| fs::write(root.join(DEVKIT), "<html>").unwrap(),
            "Val",
            "cannot read DIR/ILSVRC2012_devkit_t12.tar.gz; download the devkit again",
        ),
        (
            "a devkit without labels",
            &|root| {
                let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                gz.write_all(&packed(&two_classes())).unwrap();
                fs::write(root.join(DEVKIT), gz.finish().unwrap()).unwrap();
            },
            "Val",
            "DIR/ILSVRC2012_devkit_t12.tar.gz holds no data/meta.mat; download the devkit again",
        ),
        (
            "too few labels",
            &|root| fs::write(root.join(DEVKIT), devkit(&meta, "1\n2\n4\n")).unwrap(),
            "Val",
            "has the image ILSVRC2012_val_00000004.JPEG, to which DIR/ILSVRC2012_devkit_t12.tar.gz/",
        ),
        (
            "too many labels",
            &|root| fs::write(root.join(DEVKIT), devkit(&meta, &"2\n".repeat(10))).unwrap(),
            "Val",
            "DIR/ILSVRC2012_img_val.tar lacks 2 of the 10 images of DIR/ILSVRC2012_devkit_t12.tar.gz/",
        ),
        (
            "a label that is no class",
            &|root| fs::write(root.join(DEVKIT), devkit(&meta, "7\n")).unwrap(),
            "Val",
            "ground_truth.txt:1: `7` is not the number of one of the 6 classes in meta.mat; download the devkit again",
        ),
        (
            "a class's tar that is cut off",
            &|root| {
                let bytes = fs::read(root.join(TRAIN)).unwrap();
                let mut tar = Builder::new(Vec::new());
                let inner = &bytes[512..512 + 1024];
                let mut header = header(EntryType::Regular, inner.len());
                tar.append_data(&mut header, "n02119789.tar", inner)
                    .unwrap();
                fs::write(root.join(TRAIN), tar.into_inner().unwrap()).unwrap();
            },
            "Train",
            "DIR/ILSVRC2012_img_train.tar: n02119789.tar is cut off: it ends at byte 1536",
        ),
    ];
    for (case, spoil, split, expected) in cases {
        let folder = imagenet();
        spoil(folder.path());
        let place = folder.path().display().to_string();
        let error = fault(&imagenet_node(&folder, split, false)).replace(&place, "DIR");
        assert!(
            error.contains(expected),
            "{case}: `{expected}` is not in\n{error}"
        );
    }
}

#[test]
fn hostile_folders_are_read_or_named() {
    let ready = |root: &Path| {
        unpack(&tree([b"a/1.jpg".as_slice(), b"b/2.jpg"]), root);
        folder_node(root, false)
    };
    each_is_named(&[
        (
            "a link to the folder that it lies in",
            &|root| {
                let node = ready(root);
                symlink(".", root.join("a/again")).unwrap();
                node
            },
            &[
                "files (ImageFolder): the symbolic link DIR/a/again leads back to DIR/a,",
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
            &["the symbolic link DIR/a/again leads back to DIR"],
        ),
        (
            "a class that is the root",
            &|root| {
                let node = ready(root);
                symlink(".", root.join("c")).unwrap();
                node
            },
            &["the symbolic link DIR/c leads back to DIR"],
        ),
        (
            "a link to what is above the root",
            &|root| {
                let node = ready(root);
                symlink("/", root.join("b/all")).unwrap();
                node
            },
            &["the symbolic link DIR/b/all leads back to /,"],
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
            &["the symbolic link DIR/a/other/other leads back to DIR/a,"],
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
            &["the symbolic link DIR/a/3.jpg leads nowhere; mend it or remove it"],
        ),
        (
            "a file in the root's place",
            &|root| {
                fs::write(root.join("x"), "").unwrap();
                folder_node(&root.join("x"), false)
            },
            &["there is no folder DIR/x "],
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
    // What is not followed, and what is no file.
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

/// A file without end in the place of an image does not fill the memory.
#[test]
fn an_enormous_file_is_refused_unread() {
    let folder = tempfile::tempdir().unwrap();
    unpack(&two_classes(), folder.path());
    let image = folder.path().join("train/a/1.jpg");
    File::create(&image).unwrap().set_len(1 << 40).unwrap();
    let error = fault(&folder_node(&folder.path().join("train"), false));
    let expected = "1.jpg: the file has 1099511627776 bytes, the limit for an image is 1073741824";
    assert!(error.contains(expected), "{error}");
}

#[test]
fn what_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    unpack(&two_classes(), root);
    let lock = |path: &str, mode| {
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    lock("train/a/1.jpg", 0);
    if File::open(root.join("train/a/1.jpg")).is_ok() {
        // The superuser may read everything: try again as somebody else.
        let myself = std::env::current_exe().unwrap();
        let status = Command::new(myself)
            .args(["--exact", "what_cannot_be_read_is_named"])
            .current_dir("/")
            .uid(65534)
            .status();
        return match status {
            Ok(status) => assert!(status.success()),
            Err(error) => eprintln!("not tested: {error}"),
        };
    }
    let place = format!("{}/train", root.display());
    let train = folder_node(&root.join("train"), false);
    let error = fault(&train).replace(&place, "DIR");
    assert!(
        error.starts_with(
            "files (ImageFolder): DIR/a/1.jpg: cannot read the file: see to its permissions"
        ),
        "{error}"
    );
    lock("train/a", 0);
    let error = fault(&train).replace(&place, "DIR");
    lock("train/a", 0o755);
    let expected = "files (ImageFolder): cannot list DIR/a; let this user read it, shorten its path, or remove it\n";
    assert!(error.starts_with(expected), "{error}");
}
