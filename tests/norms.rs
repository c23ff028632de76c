//! What a recipe says about batch norms, from training to what reads checkpoints.

use std::path::Path;

use rsflow_model::checkpoint::Checkpoint;
use serde_json::Value;

use crate::run::losses;
use crate::workplace::{completed, done, rsflow, workplace};

fn last(run: &Path) -> Checkpoint {
    Checkpoint::open(&run.join("checkpoints/last.safetensors")).unwrap()
}

fn table(run: &Path) -> Value {
    let log = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    serde_json::from_str(log.lines().last().unwrap()).unwrap()
}

#[test]
fn resolutions_can_share_scales_and_shifts() {
    let folder = workplace();
    let folder = folder.path();
    let shared = [
        "--set",
        "trainer.affine=Shared",
        "--set",
        "trainer.batch_norm_epsilon=1e-3",
        "--set",
        "trainer.precision=Float32",
    ];
    completed(folder, &[&["--run-dir", "out"], &shared[..]].concat());
    let out = folder.join("out");
    let names = last(&out).names();
    let has = |name: &str| names.iter().any(|other| other == name);
    assert!(has("layer1.0.bn1.weight") && has("layer1.0.bn1.48.running_mean"));
    assert!(!has("layer1.0.bn1.48.weight"));

    // It is evaluated with its own epsilon, and its file verified.
    let eval = "eval --checkpoint out --data shapes --batch 10 --threads 1 --verify --json -";
    std::fs::copy(
        out.join("checkpoints/last.safetensors"),
        folder.join("last.safetensors"),
    )
    .unwrap();
    let eval = eval.replace("out", "last.safetensors");
    let found: Value =
        serde_json::from_str(&done(folder, &eval.split(' ').collect::<Vec<_>>())).unwrap();
    assert_eq!(found["rows"], table(&out)["rows"]);

    // A size that was not trained gets statistics of its own.
    let calibrate = format!("{eval} --sizes 40 --calibrate 20 --store stored.safetensors");
    done(folder, &calibrate.split(' ').collect::<Vec<_>>());
    let stored = Checkpoint::open(&folder.join("stored.safetensors")).unwrap();
    assert!(stored.contains("layer1.0.bn1.40.running_var"));
    assert!(!stored.contains("layer1.0.bn1.40.weight"));
    stored.verify().unwrap();

    // The reference implementation gets them for every size.
    let export = "export last.safetensors --to pth-names --out back.safetensors";
    let said = done(folder, &export.split(' ').collect::<Vec<_>>());
    // Alpha, 20 convolutions, the classifier, and 4 tensors of 20 batch norms for 2 sizes.
    assert!(
        said.contains(&format!("{} tensors", 1 + 20 + 2 + 4 * 20 * 2)),
        "{said}"
    );

    // Two processes, and a resume.
    let two = ["--processes", "2", "--run-dir", "two"];
    completed(folder, &[&two[..], &shared].concat());
    assert_eq!(losses(&folder.join("two")).len(), 22);
    let middle = ["--run-dir", "middle", "--set", "trainer.epochs=1"];
    completed(folder, &[&middle[..], &shared].concat());
    let resume = ["--run-dir", "middle", "--resume", "--accept-changes"];
    let other = ["--set", "trainer.affine=Private"];
    let refused = rsflow(
        folder,
        &[&["run", "recipe.ron"], &resume[..], &other].concat(),
    );
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert!(
        stderr.contains("has Shared scales and shifts of batch norms"),
        "{stderr}"
    );
    // The schedule is another one, and so are the losses of the second epoch.
    completed(folder, &[&resume[..], &shared].concat());
    assert_eq!(losses(&folder.join("middle")).len(), 22);
}

#[test]
fn a_run_starts_from_batch_norms_of_another_kind() {
    let folder = workplace();
    let folder = folder.path();
    let still = [
        "--set",
        "trainer.optimizer.lr=1e-30",
        "--set",
        "trainer.epochs=1",
    ];
    let quantized =
        "trainer.network=QuantizedResNet(depth: 18, width: 8, mode: WeightsOnly, weight_bits: 2)";
    for (before, after, network) in [
        ("Private", "Shared", None),
        ("Shared", "Private", None),
        ("Private", "Shared", Some(quantized)),
    ] {
        let affine = format!("trainer.affine={before}");
        if !folder.join(before).exists() {
            // Its best checkpoint is its last one.
            let once = ["--set", "trainer.epochs=1"];
            let run = ["--run-dir", before, "--set", &affine];
            completed(folder, &[&run[..], &once].concat());
        }
        let affine = format!("trainer.affine={after}");
        let start = format!("trainer.start_from=\"{before}\"");
        let tuned = format!("{before}-{after}-{}", network.is_some());
        let network: Vec<&str> = network.into_iter().flat_map(|to| ["--set", to]).collect();
        let arguments = ["--run-dir", &tuned, "--set", &affine, "--set", &start];
        completed(folder, &[&arguments[..], &still, &network].concat());
        let read = |run: &str, name: &str| last(&folder.join(run)).read([name]).unwrap().remove(0);
        for (shared, private) in [
            ("layer1.0.bn1.weight", "layer1.0.bn1.48.weight"),
            ("layer4.1.bn2.bias", "layer4.1.bn2.48.bias"),
        ] {
            let (from, to) = match before {
                "Private" => (private, shared),
                _ => (shared, private),
            };
            assert_eq!(read(&tuned, to), read(before, from), "{from} to {to}");
        }
    }
}
