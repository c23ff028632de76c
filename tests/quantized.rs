//! Quantized networks from the command line: trained, packed, measured, and started from others.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::Value;

use crate::workplace::{QUANTIZED, completed, done, rsflow, shared_workplace};

/// A workplace in which a quantized network was trained in `out`, one in full precision in `full`.
fn trained() -> &'static Path {
    static TRAINED: OnceLock<PathBuf> = OnceLock::new();
    TRAINED.get_or_init(|| {
        shared_workplace("quantized", |folder| {
            let network = format!("trainer.network={QUANTIZED}");
            completed(folder, &["--set", &network, "--run-dir", "out"]);
            completed(folder, &["--run-dir", "full"]);
            done(folder, &[&EXPORT[..], &["packed.safetensors"]].concat());
        })
    })
}

const LAST: &str = "out/checkpoints/last.safetensors";
const EXPORT: [&str; 4] = ["export", LAST, "--packed", "--out"];

#[test]
fn a_packed_checkpoint_is_measured_as_the_whole_one_is() {
    let folder = trained();
    let json = |arguments: &[&str]| -> Value {
        serde_json::from_str(&done(folder, &[arguments, &["--json", "-"]].concat())).unwrap()
    };
    let image = some_file(&folder.join("shapes/val"));
    for (name, arguments) in [
        ("as it was trained", &["--sizes", "48,32"][..]),
        ("at another size", &["--sizes", "40"]),
        (
            "in bfloat16",
            &["--sizes", "48,32", "--precision", "bfloat16"],
        ),
        (
            "with other batch norms",
            &["--sizes", "48", "--batch-norm", "48=32"],
        ),
    ] {
        let eval = |checkpoint| {
            let common = ["eval", "--checkpoint", checkpoint, "--data", "shapes"];
            json(&[&common[..], &["--batch", "10", "--threads", "1"], arguments].concat())["rows"]
                .clone()
        };
        let (whole, packed) = (eval(LAST), eval("packed.safetensors"));
        assert_eq!(whole, packed, "{name}");
        assert!(whole[0]["loss"].is_f64());
    }
    let predict = |checkpoint| {
        json(&[
            "predict",
            "--checkpoint",
            checkpoint,
            "--size",
            "32",
            &image,
        ])["images"]
            .clone()
    };
    assert_eq!(predict(LAST), predict("packed.safetensors"));

    let bytes = |file: &str| std::fs::metadata(folder.join(file)).unwrap().len();
    assert!(bytes("packed.safetensors") * 4 < bytes(LAST));
}

/// Some file below a folder.
fn some_file(folder: &Path) -> String {
    let mut entries = std::fs::read_dir(folder).unwrap();
    let entry = entries.next().unwrap().unwrap().path();
    if entry.is_dir() {
        some_file(&entry)
    } else {
        entry.to_string_lossy().into_owned()
    }
}

#[test]
fn networks_of_other_bits_are_what_a_run_starts_with_and_no_more() {
    let folder = trained();
    let quantized = format!("trainer.network={QUANTIZED}");
    let short = [
        "run",
        "recipe.ron",
        "--set",
        "trainer.epochs=1",
        "--set",
        &quantized,
    ];
    let from = |checkpoint: &str| format!("trainer.start_from=\"{checkpoint}\"");
    let full = "full/checkpoints/last.safetensors";
    for (name, checkpoint, said) in [
        (
            "of-full-precision",
            full,
            &[
                "full/checkpoints/last.safetensors holds ResNet(depth: 18, width: 8), the recipe says \
                 QuantizedResNet(depth: 18, width: 8, mode: PreActivation, weight_bits: 2, \
                 activation_bits: 2): only its weights are loaded; optimizer and epoch start fresh",
                "; quantizers start fresh; 64 tensors start fresh: layer1.1.bn0.48.weight; ",
            ][..],
        ),
        ("of-itself", LAST, &[]),
        (
            "packed",
            "packed.safetensors",
            &["is packed: its weights start at their levels"],
        ),
    ] {
        let set = from(checkpoint);
        let arguments = [&short[..], &["--set", &set, "--run-dir", name]].concat();
        let output = rsflow(folder, &arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{name}: {stderr}");
        for said in said {
            assert!(stderr.contains(said), "{name}: {said:?} is not in {stderr}");
        }
        assert_eq!(
            said.is_empty(),
            !stderr.contains("start"),
            "{name}: {stderr}"
        );
    }

    // Of type A there are no shortcuts to take over; what is packed is known by its codes.
    let type_a = quantized.replace("PreActivation", "PreActivationTypeA");
    let one = ["--set", "trainer.epochs=1", "--set"];
    completed(
        folder,
        &[&one[..], &[&type_a, "--run-dir", "type-a"]].concat(),
    );
    let packed = [
        "export",
        "type-a/checkpoints/last.safetensors",
        "--to",
        "packed",
    ];
    done(folder, &[&packed[..], &["--out", "a.safetensors"]].concat());
    let set = from("a.safetensors");
    let arguments = [&short[..], &["--set", &set, "--run-dir", "of-type-a"]].concat();
    let output = rsflow(folder, &arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(
        stderr.contains("layer2.0.downsample.0.weight; "),
        "{stderr}"
    );

    // How it is trained may change.
    let fixed = "trainer.network.fixed_activation_basis=true";
    let more = [
        "--set",
        "trainer.epochs=2",
        "--set",
        fixed,
        "--run-dir",
        "fixed",
    ];
    let resume = [
        "--resume",
        "of-itself/checkpoints/last.safetensors",
        "--accept-changes",
    ];
    done(folder, &[&short[..], &more, &resume].concat());

    let other = from("full/checkpoints/last.safetensors");
    let width = "trainer.network.width=16";
    let cases: &[(&[&str], &[&str])] = &[
        (
            &["--resume", full, "--accept-changes"],
            &[
                "holds ResNet",
                "a new run can start from its weights: `start_from`",
            ],
        ),
        (
            &["--resume", "packed.safetensors", "--accept-changes"],
            &["packed.safetensors is packed, so training cannot be resumed from it"],
        ),
        (
            &["--set", &other, "--set", width],
            &[
                "holds ResNet(depth: 18, width: 8), the recipe says QuantizedResNet(depth: 18, width: 16",
            ],
        ),
    ];
    for (arguments, said) in cases {
        let more = ["--run-dir", "refused", "--set", "trainer.epochs=9"];
        let output = rsflow(folder, &[&short[..], &more, arguments].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {stderr}");
        for said in *said {
            assert!(stderr.contains(said), "{said:?} is not in {stderr}");
        }
    }
}

#[test]
fn what_cannot_be_packed_is_told() {
    let folder = trained();
    let full = "full/checkpoints/last.safetensors";
    let cases: &[(&[&str], i32, &str)] = &[
        (
            &["export", full, "--packed", "--out", "new.safetensors"],
            1,
            "ResNet(depth: 18, width: 8) is not quantized, so there is nothing to pack",
        ),
        (
            &[
                "export",
                "packed.safetensors",
                "--packed",
                "--out",
                "new.safetensors",
            ],
            1,
            "it is packed already",
        ),
        (
            &[
                "export",
                LAST,
                "--to",
                "pth-names",
                "--out",
                "new.safetensors",
            ],
            1,
            "has no tensor names in PyTorch; `--to packed`",
        ),
        (
            &["export", LAST, "--out", "new.safetensors"],
            2,
            "--to <TO>",
        ),
        (
            &[
                "export",
                LAST,
                "--to",
                "packed",
                "--out",
                "packed.safetensors",
            ],
            2,
            "packed.safetensors is there already; --force replaces it",
        ),
    ];
    for (arguments, code, said) in cases {
        let output = rsflow(folder, arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(*code), "{arguments:?}: {stderr}");
        assert!(stderr.contains(said), "{said:?} is not in {stderr}");
        assert!(!folder.join("new.safetensors").exists());
    }
}
