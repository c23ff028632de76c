//! Any bytes as a tar of class folders, and of tars. Nothing may panic, and what is listed has names.

#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use rsflow_graph::{Build, Node, PlainMemory, RunContext, Stage};
use rsflow_pipeline::nodes::{ImageNetArchives, ImageTar};

/// A folder in memory, one for each process.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = PathBuf::from(format!("/dev/shm/rsflow-fuzz-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("/dev/shm can be written");
    folder
});

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.to_vec();
    // A changed header is refused for its checksum; what comes behind that is of more interest.
    if bytes.last().is_some_and(|byte| byte % 4 != 0) {
        correct_checksums(&mut bytes);
    }
    let path = FOLDER.join(ImageNetArchives::TRAIN);
    fs::write(&path, &bytes).expect("/dev/shm has room");
    let nodes: [Box<dyn Node>; 2] = [
        node::<ImageTar>(format!("(path: {path:?})")),
        node::<ImageNetArchives>(format!("(root: {:?}, split: Train)", *FOLDER)),
    ];
    for node in nodes {
        list(&*node);
        // The index is the next start's, of an archive of the same size and time.
        drop(fs::remove_file(path.with_added_extension("rsflow-index")));
    }
});

fn node<K: Node + serde::de::DeserializeOwned + 'static>(text: String) -> Box<dyn Node> {
    let options = ron::Options::default().with_default_extension(ron::extensions::Extensions::IMPLICIT_SOME);
    Box::new(options.from_str::<K>(&text).expect("the node's fields are right"))
}

fn list(node: &dyn Node) {
    let stage = node.build(&Build {
        node: "files",
        seed: 5,
        run: &RunContext::default(),
        recipe: "",
        inputs: &[],
        schemas: &[],
        outputs: &[],
        demands: &[],
        allocator: Arc::new(PlainMemory),
    });
    let Ok(Stage::Source(source)) = stage else {
        return;
    };
    let contents = source.contents();
    assert!(contents.items_per_epoch > 0 && !contents.classes.is_empty());
    for image in 0..contents.items_per_epoch {
        assert!(!source.describe(image as u32).is_empty());
    }
}

/// Writes the right checksum into each block that looks like a header.
fn correct_checksums(bytes: &mut [u8]) {
    for block in bytes.chunks_exact_mut(512) {
        if &block[257..262] == b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}
