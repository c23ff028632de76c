//! The C example, compiled and run: it answers as the library in Rust does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rsflow_model::checkpoint::{Metadata, Snapshot, write_atomically};
use rsflow_model::nn::compute::ExecConfig;
use rsflow_model::nn::networks::{Network, ResNet};
use rsflow_model::nn::parameters::WeightInit;
use rsflow_model::nn::switchable::SwitchableNetwork;
use rsflow_serve::{Options, RsNet};
use tch::Kind;

/// Of a network with random weights, the same at each call.
fn checkpoint(folder: &Path) -> PathBuf {
    let network = Network::ResNet(ResNet {
        depth: 18,
        width: 8,
    });
    let compute = ExecConfig::cpu(Kind::Float);
    let start = WeightInit::Random { seed: 7 };
    let net = SwitchableNetwork::new(&network, 3, &[48, 32], compute, start).unwrap();
    let classes = ["cat", "dog", "zebra crossing"].map(str::to_owned).to_vec();
    let metadata = Metadata::new(network, classes, vec![48, 32]);
    let path = folder.join("last.safetensors");
    let snapshot = Snapshot::take(metadata, net.parameters(), []).unwrap();
    write_atomically(&snapshot, &path).unwrap();
    path
}

/// A picture of 40 x 30 pixels.
fn image() -> Vec<u8> {
    let pixels = (0..40 * 30 * 3).map(|at| (at * 37 % 256) as u8);
    b"P6 40 30 255\n".iter().copied().chain(pixels).collect()
}

/// Where cargo put the library.
fn built() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().to_owned()
}

/// The example's program, linked with the library that cargo built.
fn program(folder: &Path) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let built = built();
    assert!(built.join("librsflow_net.so").exists(), "{built:?}");
    let compiler = cc::Build::new()
        .opt_level(0)
        .host(TARGET)
        .target(TARGET)
        .out_dir(folder)
        .get_compiler();
    let program = folder.join("classify");
    let done = Command::new(compiler.path())
        .args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-I"])
        .args([here.to_str().unwrap(), "-o", program.to_str().unwrap()])
        .arg(here.join("examples/classify.c"))
        .args(["-L", built.to_str().unwrap(), "-lrsflow_net"])
        .arg(format!("-Wl,-rpath,{}", built.display()))
        // What the library needs it finds itself.
        .arg("-Wl,--allow-shlib-undefined")
        .output()
        .unwrap();
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    program
}

const TARGET: &str = "x86_64-unknown-linux-gnu";

#[test]
fn the_example_answers_as_the_library_does() {
    let folder = tempfile::tempdir().unwrap();
    let path = checkpoint(folder.path());
    let picture = folder.path().join("picture.ppm");
    fs::write(&picture, image()).unwrap();
    let program = program(folder.path());
    let run = |checkpoint: &Path, picture: &Path| {
        let done = Command::new(&program)
            .args([checkpoint, picture])
            // Not one of an earlier build, which cargo's own value may name first.
            .env("LD_LIBRARY_PATH", built())
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (done.status.code(), text(&done.stdout), text(&done.stderr))
    };

    let net = RsNet::open(&path, &Options::default()).unwrap();
    let lines = net.sizes().iter().map(|&size| {
        let answer = net.classify(&image(), size, 1).unwrap();
        let best = &answer.predictions[0];
        (size, best.index, best.class.clone(), best.probability)
    });
    let (code, out, errors) = run(&path, &picture);
    assert_eq!(code, Some(0), "{errors}");
    let found = out.lines().map(|line| {
        let (size, rest) = line.split_once(' ').unwrap();
        let (index, rest) = rest.split_once(' ').unwrap();
        let (class, probability) = rest.rsplit_once(' ').unwrap();
        let probability: f64 = probability.parse().unwrap();
        (
            size.parse().unwrap(),
            index.parse().unwrap(),
            class.to_owned(),
            probability,
        )
    });
    assert_eq!(
        found.collect::<Vec<(u32, usize, String, f64)>>(),
        lines.collect::<Vec<_>>()
    );

    // What goes wrong is said, not crashed on.
    fs::write(&picture, b"P6 40 30 255\nshort").unwrap();
    let (code, _, errors) = run(&path, &picture);
    assert_eq!(code, Some(1));
    assert!(errors.contains("picture.ppm: "), "{errors}");
    let (code, _, errors) = run(Path::new("absent.safetensors"), &picture);
    assert_eq!(code, Some(1));
    assert!(errors.contains("absent.safetensors"), "{errors}");
}
