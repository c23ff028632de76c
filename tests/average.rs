//! The moving average of the weights, from training to what reads checkpoints.

use std::path::Path;

use rsflow_model::checkpoint::{Checkpoint, Weights};
use serde_json::Value;

use crate::run::losses;
use crate::workplace::{QUANTIZED, completed, done, rsflow, workplace};

const LAST: &str = "out/checkpoints/last.safetensors";

/// A run with an average in `out`.
fn averaged(folder: &Path, changes: &[&str]) {
    let average = "trainer.average=Average(decay: 0.8, warm_up: true)";
    let sets = changes.iter().flat_map(|change| ["--set", change]);
    let arguments: Vec<&str> = ["--run-dir", "out", "--set", average]
        .into_iter()
        .chain(sets)
        .collect();
    completed(folder, &arguments);
}

fn json(folder: &Path, line: &str) -> Value {
    let arguments: Vec<&str> = line.split(' ').collect();
    serde_json::from_str(&done(folder, &[&arguments[..], &["--json", "-"]].concat())).unwrap()
}

fn evaluated(folder: &Path, checkpoint: &str, options: &str) -> Value {
    let line =
        format!("eval --checkpoint {checkpoint} --data shapes --batch 10 --threads 1{options}");
    json(folder, &line)
}

#[test]
fn an_average_is_validated_and_evaluated_beside_the_weights() {
    let folder = workplace();
    let folder = folder.path();
    for changes in [&[][..], &[&*format!("trainer.network={QUANTIZED}")]] {
        averaged(folder, changes);
        let sets = changes.iter().flat_map(|change| ["--set", change]);
        let plain = ["--run-dir", "plain"].into_iter().chain(sets);
        completed(folder, &plain.collect::<Vec<_>>());
        let [out, plain] = ["out", "plain"].map(|run| folder.join(run));
        assert_eq!(
            losses(&out),
            losses(&plain),
            "training does not depend on it"
        );

        let log = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
        let last: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
        assert_eq!(last["average"].as_array().unwrap().len(), 3);
        assert_ne!(last["average"], last["rows"]);
        for (options, weights, rows) in [
            ("", "average", "average"),
            (" --weights average", "average", "average"),
            (" --weights trained", "trained", "rows"),
        ] {
            let found = evaluated(folder, LAST, options);
            assert_eq!(found["rows"], last[rows], "{options}");
            assert_eq!(found["weights"], weights, "{options}");
        }
        // The best epoch is that of the average.
        let best = Checkpoint::open(&folder.join(LAST)).unwrap();
        let best = best.metadata().best.unwrap();
        let of_best = log
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .find(|line| line["kind"] == "epoch" && line["epoch"] == best.epoch + 1)
            .unwrap();
        let first = of_best["average"][0]["top1"].as_f64().unwrap();
        assert!((first - best.score).abs() <= 0.05, "{first}");
        let store = " --sizes 48,40 --calibrate 20 --store stored.safetensors --force";
        let measured = evaluated(folder, LAST, store);
        let again = evaluated(folder, "stored.safetensors", " --sizes 48,40 --verify");
        assert_eq!(again["rows"], measured["rows"]);
        for run in [&out, &plain] {
            std::fs::remove_dir_all(run).unwrap();
        }
    }
}

#[test]
fn an_average_goes_wherever_a_network_goes() {
    let folder = workplace();
    let folder = folder.path();
    averaged(folder, &["trainer.precision=Float32"]);
    let last = Checkpoint::open(&folder.join(LAST)).unwrap();
    let read = |name: &str| last.read([name]).unwrap().remove(0);
    let (trained, average) = (read("fc.weight"), read("average/fc.weight"));
    assert_ne!(trained, average);

    // Another program gets either.
    for (weights, expected) in [("average", &average), ("trained", &trained)] {
        let line =
            format!("export {LAST} --to pth-names --out {weights}.safetensors --weights {weights}");
        done(folder, &line.split(' ').collect::<Vec<_>>());
        let file = std::fs::read(folder.join(format!("{weights}.safetensors"))).unwrap();
        let values = Vec::<f32>::try_from(expected.view(-1)).unwrap();
        let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
        let found = file.windows(bytes.len()).any(|part| part == bytes);
        assert!(found, "{weights}");
    }
    // A new run starts from the average.
    let start = format!("trainer.start_from=\"{LAST}\"");
    let still = [
        "--set",
        "trainer.optimizer.lr=1e-30",
        "--set",
        "trainer.epochs=1",
    ];
    completed(
        folder,
        &[&["--run-dir", "tuned", "--set", &start], &still[..]].concat(),
    );
    let tuned = Checkpoint::open(&folder.join("tuned/checkpoints/last.safetensors")).unwrap();
    assert_eq!(tuned.read(["fc.weight"]).unwrap()[0], average);
    assert!(!tuned.has_average());
    let error = tuned.with_weights(Some(Weights::Average)).unwrap_err();
    assert!(
        error.to_string().contains("has no average of the weights"),
        "{error}"
    );

    let trained_too = [
        "--set",
        "trainer.start_weights=Trained",
        "--run-dir",
        "other",
    ];
    completed(
        folder,
        &[&["--set", &*start], &trained_too[..], &still].concat(),
    );
    let other = Checkpoint::open(&folder.join("other/checkpoints/last.safetensors")).unwrap();
    assert_eq!(other.read(["fc.weight"]).unwrap()[0], trained);
    let never = "trainer.average=Average(decay: 0.8, every_steps: 23)";
    let output = rsflow(
        folder,
        &["run", "recipe.ron", "--run-dir", "never", "--set", never],
    );
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("is more than the 22 steps of the run"),
        "{stderr}"
    );

    // Calibrated batch norms are stored with the weights that they were measured with.
    for (weights, expected) in [("average", &average), ("trained", &trained)] {
        let options = format!(
            " --sizes 48,40 --calibrate 20 --store stored.safetensors --force --weights {weights}"
        );
        let measured = evaluated(folder, LAST, &options);
        let stored = Checkpoint::open(&folder.join("stored.safetensors")).unwrap();
        assert_eq!(
            stored.read(["fc.weight"]).unwrap()[0],
            *expected,
            "{weights}"
        );
        stored.verify().unwrap();
        let again = evaluated(folder, "stored.safetensors", " --sizes 48,40");
        assert_eq!(again["rows"], measured["rows"], "{weights}");
        let resume = [
            "--resume",
            "stored.safetensors",
            "--run-dir",
            "more",
            "--accept-changes",
        ];
        let average = [
            "--set",
            "trainer.average=Average(decay: 0.8)",
            "--set",
            "trainer.epochs=3",
        ];
        let output = rsflow(
            folder,
            &[&["run", "recipe.ron"], &resume[..], &average].concat(),
        );
        let stderr = String::from_utf8_lossy(&output.stderr);
        match weights {
            "average" => assert!(
                stderr.contains("has the average of the weights alone"),
                "{stderr}"
            ),
            _ => assert!(
                stderr.contains("it starts with the weights themselves"),
                "{stderr}"
            ),
        }
        assert_eq!(output.status.success(), weights == "trained", "{stderr}");
    }
}
