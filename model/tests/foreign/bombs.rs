//! Files that ask for much more memory than they have bytes.

use std::collections::BTreeMap;
use std::fs;

use rsflow_model::exchange::pth::{self, Import};
use rsflow_model::nn::layers;
use rsflow_model::nn::networks::Network;

use super::super::counting::watched;
use super::super::write::{self, Code};
use super::super::{mutants, refusal};
use super::{dict, import, object, state, storages};

#[test]
fn few_bytes_take_little_memory() {
    let weights = state();
    let repeat = |code: &[u8], count: usize| code.repeat(count);
    let names = |count: usize| -> Vec<u8> {
        let name = |at: usize| [write::text(&format!("{at:x}")), b"h\x00".to_vec()].concat();
        (0..count).flat_map(name).collect()
    };
    let tensor = write::tensor("fc.bias", &[3]);
    let bombs: Vec<Code> = vec![
        repeat(b"]", 400_000),
        repeat(b"}", 400_000),
        repeat(b"N", 400_000),
        repeat(b"(", 400_000),
        [&b"N"[..], &repeat(b"\x94", 400_000)].concat(),
        [&b"N"[..], &repeat(b"2", 400_000)].concat(),
        // One dict with the same entry many times.
        [
            &tensor[..],
            b"q\x000}(",
            &repeat(b"h\x00h\x00", 200_000),
            b"u.",
        ]
        .concat(),
        [&b"Nq\x000}("[..], &repeat(b"h\x00h\x00", 200_000), b"u."].concat(),
        // Entries of other names.
        [&tensor[..], b"q\x000}(", &names(40_000), b"u."].concat(),
        [&b"]("[..], &repeat(b"J\x01\x00\x00\x00", 100_000), b"e."].concat(),
        repeat(b"X\x00\x00\x00\x00", 100_000),
        [&b"X\x40\x42\x0f\x00"[..], &repeat(b"x", 1_000_000)].concat(),
        // Lists of lists of the same list.
        [
            &b"]q\x00"[..],
            &repeat(b"(h\x00h\x00h\x00h\x00tq\x00", 40_000),
            b".",
        ]
        .concat(),
    ];
    for (at, code) in bombs.iter().enumerate() {
        let file = write::zip(code, &storages(&weights));
        let (said, memory) = watched(|| refusal(&file));
        assert!(said.contains("cannot import"), "{at}: {said:.300}");
        let most = 64 * file.len() + (1 << 20);
        assert!(
            memory <= most,
            "{at}: {memory} of {}: {said:.300}",
            file.len()
        );
    }

    // A large network, all of whose tensors are in one small storage.
    let large = layers::declare(
        &Network::by_name("resnet50").unwrap().layers(1000).unwrap(),
        &(&[64]).into(),
    );
    let entries: Vec<(String, Code)> = large
        .iter()
        .map(|declaration| {
            let shape: Vec<i32> = declaration.shape.iter().map(|&size| size as i32).collect();
            let mut strides = vec![1; shape.len()];
            for dimension in (1..shape.len()).rev() {
                strides[dimension - 1] = strides[dimension] * shape[dimension];
            }
            let view = write::view("FloatStorage", "0", 2_359_296, &shape, &strides, 0);
            (declaration.name.replace(".64.", "."), view)
        })
        .collect();
    let entries: Vec<(&str, Code)> = entries
        .iter()
        .map(|(name, code)| (name.as_str(), code.clone()))
        .collect();
    let one = BTreeMap::from([("0".to_owned(), vec![0.5; 2_359_296])]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.pth");
    fs::write(&path, write::zip(&write::dict(&entries), &one)).unwrap();
    let network = Network::by_name("resnet50").unwrap();
    let what = Import {
        network: &network,
        resolutions: &[64],
        class_names: None,
        key: None,
        config: None,
        fraction: None,
    };
    let said = format!("{:#}", pth::import(&path, what).err().unwrap());
    assert!(said.contains("its tensors share their memory"), "{said}");
}

#[test]
fn mutants_of_a_pickle_are_imported_or_refused() {
    let weights = state();
    let options = write::dict(&[("lr", write::int(1)), ("out", write::text("runs"))]);
    let code = write::dict(&[
        ("state_dict", dict(&weights, "module.")),
        ("args", object("argparse", "Namespace", options)),
    ]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mutant.pth");
    mutants::each(&code, |mutant| {
        let file = write::zip(mutant, &storages(&weights));
        fs::write(&path, &file).unwrap();
        let (read, memory) = watched(|| import(&path, None));
        assert!(memory <= 64 * file.len() + (1 << 20), "{memory} bytes");
        if let Err(error) = read {
            let said = format!("{error:#}");
            assert!(said.len() < 3000 && !said.contains("frame #"), "{said}");
        }
    });
}
