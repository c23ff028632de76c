//! Folders and archives as sources: the same stream for the same files, and clear errors.

use std::path::Path;
use std::sync::Arc;

use rsflow_graph::{
    Batch, Build, Catalogue, Kind, NodeKind, Options, PlainMemory, Plan, Recipe, RunContext,
    Running, Stage, Tap, Text,
};
use rsflow_pipeline::images::EncodedImage;
use rsflow_pipeline::nodes::RandomResizedCrop;
use rsflow_pipeline::nodes::{self, DecodeImage, ImageFolder, ImageNetArchives, ImageTar, Resize};

mod archive;
#[path = "../end/mod.rs"]
mod end;
mod folder;
mod imagenet;
mod part;
mod tars;

use end::{Collect, End};

const CATALOGUE: Catalogue = Catalogue(&[
    Kind::of::<ImageFolder>(),
    Kind::of::<ImageTar>(),
    Kind::of::<ImageNetArchives>(),
    Kind::of::<DecodeImage>(),
    Kind::of::<RandomResizedCrop>(),
    Kind::of::<Resize>(),
    Kind::of::<nodes::Batch>(),
    Kind::of::<End>(),
]);

/// The output of a source in two epochs: the bytes and class of each image, and the pixels of all
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
            "images": DecodeImage(input: "files"),
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

/// The error of a source that does not run.
fn failure(node: &str) -> String {
    match stream(node) {
        Ok(stream) => panic!("{node} yields {} images", stream.files.len()),
        Err(error) => error,
    }
}

/// Class names, and the description of each image without the common prefix `place`.
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
        outputs: &[],
        demands: &[],
        allocator: Arc::new(PlainMemory),
    });
    let Stage::Source(source) = stage.unwrap() else {
        panic!("not a source");
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

/// A name, a function that writes a data set and returns its node, and parts of the error.
type Case<'a> = (&'a str, &'a dyn Fn(&Path) -> String, &'a [&'a str]);

fn assert_errors(cases: &[Case]) {
    for (case, spoil, expected) in cases {
        let folder = tempfile::tempdir().unwrap();
        let error = failure(&spoil(folder.path()));
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
