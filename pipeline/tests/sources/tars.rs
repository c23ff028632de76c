//! Files in memory, unpacked into folders or packed into tars of several formats.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use tar::{Builder, EntryType, Header};

/// A small image, different for each number.
pub fn image(number: usize) -> Vec<u8> {
    const IMAGES: [&str; 5] = ["baseline_420", "grey", "progressive_444", "cmyk", "flat"];
    let name = format!("{}.jpg", IMAGES[number % IMAGES.len()]);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/images");
    let mut bytes = fs::read(path.join(name)).unwrap();
    // After the end of the image.
    bytes.extend(number.to_string().into_bytes());
    bytes
}

/// Files by path.
pub type Tree = BTreeMap<Vec<u8>, Vec<u8>>;

pub fn tree<'a>(paths: impl IntoIterator<Item = &'a [u8]>) -> Tree {
    let paths = paths.into_iter().enumerate();
    paths
        .map(|(number, path)| (path.to_vec(), image(number)))
        .collect()
}

pub fn two_classes() -> Tree {
    tree([b"train/a/1.jpg".as_slice(), b"train/b/2.jpg"])
}

fn path_of(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

pub fn unpack(tree: &Tree, root: &Path) {
    for (path, bytes) in tree {
        let path = root.join(path_of(path));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// An entry's header.
pub fn header(kind: EntryType, size: usize) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size as u64);
    header.set_mode(0o644);
    header
}

/// A tar in GNU format, with the files in reverse order.
pub fn pack(tree: &Tree) -> Builder<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    for (path, bytes) in tree.iter().rev() {
        let mut header = header(EntryType::Regular, bytes.len());
        tar.append_data(&mut header, path_of(path), bytes.as_slice())
            .unwrap();
    }
    tar
}

pub fn packed(tree: &Tree) -> Vec<u8> {
    pack(tree).into_inner().unwrap()
}

/// A tar in PAX format, with long names and sizes in extended headers.
pub fn packed_as_pax(tree: &Tree) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for (path, bytes) in tree.iter().rev() {
        let size = bytes.len().to_string();
        let records = [("path", path.as_slice()), ("size", size.as_bytes())];
        tar.append_pax_extensions(records).unwrap();
        let mut header = Header::new_ustar();
        header.set_size(0);
        header.set_path("short").unwrap();
        header.set_cksum();
        // The size in the header is wrong on purpose.
        tar.append(&header, bytes.as_slice()).unwrap();
    }
    tar.into_inner().unwrap()
}

pub fn packed_as_ustar(tree: &Tree) -> Vec<u8> {
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

/// Names whose order depends on how they are sorted; some are not images.
pub fn awkward(long: &str) -> Tree {
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
    for hidden in [
        "a/._z.png",
        "a/.ipynb_checkpoints/z-checkpoint.png",
        ".ipynb_checkpoints/1.jpg",
        "__MACOSX/a/z.png",
        ".DS_Store",
    ] {
        let path = format!("set/train/{hidden}");
        tree.insert(path.into_bytes(), b"none of mine".to_vec());
    }
    tree
}
