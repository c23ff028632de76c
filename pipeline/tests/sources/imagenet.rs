//! ImageNet's archives as a source.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use rsflow_pipeline::nodes::{ImageFolder, ImageNetArchives};
use tar::{Builder, EntryType};
use tempfile::TempDir;

use crate::tars::{Tree, header, image, packed, two_classes, unpack};
use crate::{failure, folder_node, names, stream};

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
        // What macOS adds.
        class.insert(format!("._{wnid}_9.JPEG").into(), b"none".to_vec());
        tars.insert(format!("{wnid}.tar").into(), packed(&class));
        tars.insert(format!("._{wnid}.tar").into(), b"none".to_vec());
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
    flat.insert(format!("._{}", val_image(1)).into(), b"none".to_vec());
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

pub fn devkit(meta: &[u8], truth: &str) -> Vec<u8> {
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
fn imagenets_archives_give_the_stream_of_the_unpacked_images() {
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

#[test]
fn errors_of_imagenets_archives_name_the_cause() {
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
            "a class's tar that is truncated",
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
            "DIR/ILSVRC2012_img_train.tar: n02119789.tar is truncated: it ends at byte 1536",
        ),
    ];
    for (case, spoil, split, expected) in cases {
        let folder = imagenet();
        spoil(folder.path());
        let place = folder.path().display().to_string();
        let error = failure(&imagenet_node(&folder, split, false)).replace(&place, "DIR");
        assert!(
            error.contains(expected),
            "{case}: `{expected}` is not in\n{error}"
        );
    }
}
