//! `rsflow export --to onnx` and `--to torchscript`: networks for one size as files that run elsewhere.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::workplace::{QUANTIZED, completed, done, rsflow, shared_workplace};

/// A workplace in which a quantized network was trained in `out`, whose sizes are 48 and 32.
fn trained() -> &'static Path {
    static TRAINED: OnceLock<PathBuf> = OnceLock::new();
    TRAINED.get_or_init(|| {
        shared_workplace("single", |folder| {
            let network = format!("trainer.network={QUANTIZED}");
            let short = ["--set", "trainer.epochs=1", "--set", &network];
            completed(folder, &[&short[..], &["--run-dir", "out"]].concat());
        })
    })
}

const LAST: &str = "out/checkpoints/last.safetensors";

fn export(more: &str) -> Vec<&str> {
    [&["export", LAST][..], &more.split(' ').collect::<Vec<_>>()].concat()
}

#[test]
fn a_network_is_written_for_each_size() {
    let folder = tempfile::tempdir_in(trained()).unwrap();
    let name = folder.path().file_name().unwrap().to_str().unwrap();
    let out = |file: &str| format!("--out {name}/{file}");
    let files = |ending: &str| {
        let entries = std::fs::read_dir(folder.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name.ends_with(ending)).collect();
        names.sort();
        names
    };
    let all = format!(
        "--to onnx --size all --input bytes --softmax {}",
        out("net.onnx")
    );
    let said = done(trained(), &export(&all));
    assert_eq!(files("onnx"), ["net.32.onnx", "net.48.onnx"]);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 2, "{said}");
    for part in [
        "/net.48.onnx: QuantizedResNet(depth: 18, width: 8, ",
        " operators, 0.2",
        " MB; for images of 48 pixels, as uint8 red, green, blue; on random images its outputs and the checkpoint's \
         are equal",
    ] {
        assert!(lines[0].contains(part), "{part:?} is not in {}", lines[0]);
    }
    let bytes = std::fs::read(folder.path().join("net.48.onnx")).unwrap();
    for said in [
        "uint8 [batch, 48, 48, 3], red, green, blue; the network normalizes them itself",
        r#"["bands_hatched","bands_plain","#,
        "resize the short side to 54 (AntialiasedBilinear), take the central square of 48",
        "probabilities",
        "top1",
        "layer2.0.conv1.weight.codes",
    ] {
        let found = bytes
            .windows(said.len())
            .any(|part| part == said.as_bytes());
        assert!(found, "{said:?} is not in the file");
    }

    let between = format!("--to torchscript --size 40 {}", out("net.pt"));
    let said = done(trained(), &export(&between));
    let expected =
        "for images of 40 pixels with batch norms between those of 32 and 48, values in 0..1";
    assert!(said.contains(expected), "{said}");
    assert_eq!(files("pt"), ["net.pt"]);
    let output = rsflow(trained(), &export(&all));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("net.48.onnx is there already; --force replaces it"),
        "{said}"
    );
    done(trained(), &export(&format!("{all} --force")));
}

#[test]
fn options_that_do_not_belong_to_a_form_are_refused() {
    let cases: &[(&str, i32, &str)] = &[
        (
            "--to onnx",
            2,
            "--to onnx needs --size: one of [48, 32], another one, or all",
        ),
        (
            "--to torchscript --size 16",
            2,
            "resolution 16 is too small: the minimum",
        ),
        (
            "--to onnx --size 48x",
            2,
            "expected a size such as 160, or all",
        ),
        ("--to onnx --size 48,48", 2, "--size: 48 is listed twice"),
        (
            "--to onnx --size 40 --batch-norm 64",
            2,
            "--batch-norm 40=64: out/checkpoints/last.safetensors has batch norms of [48, 32]",
        ),
        (
            "--to onnx --size 48 --prefix x.",
            2,
            "--prefix needs --to pth-names, torchvision or timm",
        ),
        (
            "--to onnx --size 48 --batch 0",
            2,
            "expected dynamic, or a number such as 8",
        ),
        (
            "--to torchscript --size 48 --batch 8",
            2,
            "--batch needs --to onnx; a torchscript file takes batches of any size",
        ),
        (
            "--packed --input bytes",
            2,
            "--input needs --to onnx or torchscript",
        ),
        (
            "--to pth-names --softmax",
            2,
            "--softmax needs --to onnx or torchscript",
        ),
        (
            "--to packed --size 48",
            2,
            "--size needs --to onnx, torchscript, torchvision or timm",
        ),
        (
            "--to timm --size 48",
            1,
            "`--to packed`, `--to onnx` and `--to torchscript` export it",
        ),
    ];
    for (arguments, code, said) in cases {
        let arguments = format!("{arguments} --out refused.onnx");
        let output = rsflow(trained(), &export(&arguments));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(*code), "{arguments:?}: {stderr}");
        assert!(stderr.contains(said), "{said:?} is not in {stderr}");
        assert!(!trained().join("refused.onnx").exists());
    }
}
