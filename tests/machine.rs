//! What a machine offers and how fast it is: `rsflow doctor`, `rsflow bench`, and devices that fail.

use std::process::Command;

use serde_json::Value;

use crate::workplace::{completed, done, rsflow, workplace};

#[test]
fn the_doctor_tells_what_there_is_and_what_is_missing() {
    let folder = workplace();
    let said = done(folder.path(), &["doctor"]);
    for part in [
        "libtorch   2.11",
        "oneDNN",
        "CPU",
        "CUDA",
        "JPEG",
        "resizing",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let json: Value =
        serde_json::from_str(&done(folder.path(), &["doctor", "--json", "-"])).unwrap();
    assert_eq!(json["libtorch"]["built_for"], "2.11.0");
    assert!(json["cpu"]["cores"].as_u64().unwrap() > 0);
    // One of them is there, and says something.
    let gpus = json["cuda"]["gpus"].as_array().map_or(0, Vec::len);
    let missing = json["cuda_missing"].as_str().unwrap_or("");
    assert_eq!(gpus == 0, missing.len() > 10, "{json}");
}

#[test]
fn the_bench_measures_every_part() {
    let folder = workplace();
    let arguments = ["bench", "recipe.ron", "--seconds", "0.01", "--json", "-"];
    let json: Value = serde_json::from_str(&done(folder.path(), &arguments)).unwrap();
    let rows = json["rows"].as_array().unwrap();
    let parts: Vec<&str> = rows
        .iter()
        .map(|row| row["part"].as_str().unwrap())
        .collect();
    for part in ["training step", "inference", "pipeline", "whole"] {
        assert!(parts.contains(&part), "{parts:?}");
    }
    for row in rows {
        assert!(row["images_per_second"].as_f64().unwrap() > 0.0, "{row}");
        let share = row["share_of_peak"].as_f64();
        assert!(
            share.is_none_or(|share| share > 0.0 && share < 1.5),
            "{row}"
        );
    }
    let resolutions = rows.iter().filter_map(|row| row["resolution"].as_u64());
    let mut resolutions: Vec<u64> = resolutions.collect();
    resolutions.dedup();
    assert_eq!(resolutions, [48, 32]);

    // A part alone needs nothing of the others.
    std::fs::remove_dir_all(folder.path().join("shapes")).unwrap();
    let without = ["--set", "train_files.root=no/images", "--seconds", "0.01"];
    let step = ["bench", "recipe.ron", "--only", "step", "--batch", "2"];
    let table = done(folder.path(), &[&step[..], &without].concat());
    assert!(
        table.contains("training step") && !table.contains("inference"),
        "{table}"
    );
    assert!(table.trim_end().ends_with(" images/s"), "{table}");
}

#[test]
fn the_data_alone_is_measured_without_the_device() {
    let folder = workplace();
    let options = ["--only", "pipeline", "--seconds", "0.01", "--json", "-"];
    let arguments = ["bench", "recipe.ron", "--set", "trainer.device=Cuda(90)"];
    let json = done(folder.path(), &[&arguments[..], &options].concat());
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["computes"], Value::Null);
    assert_eq!(json["rows"][0]["part"], "pipeline");
    assert_eq!(json["rows"][0]["batch"], 8);
    assert_eq!(json["rows"].as_array().unwrap().len(), 1);
}

#[test]
fn a_bench_without_data_keeps_what_it_measured() {
    let folder = workplace();
    let recipe = std::fs::read_to_string(folder.path().join("recipe.ron")).unwrap();
    let shapes = recipe.find("ShapesFolder(").unwrap();
    let end = shapes + recipe[shapes..].find(')').unwrap() + 1;
    let files = r#"ImageFolder(root: "nowhere", shuffle: true)"#;
    let recipe = format!("{}{files}{}", &recipe[..shapes], &recipe[end..]);
    std::fs::write(folder.path().join("recipe.ron"), recipe).unwrap();
    let arguments = [
        "bench",
        "recipe.ron",
        "--seconds",
        "0.01",
        "--only",
        "step",
        "--only",
        "pipeline",
    ];
    let output = rsflow(folder.path(), &arguments);
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(out.contains("training step"), "{out}");
    assert!(
        err.contains("pipeline could not be measured") && err.contains("nowhere"),
        "{err}"
    );
}

/// What a GPU that is lost in mid-run looks like: libtorch's next call fails.
#[test]
fn a_device_that_is_lost_leaves_the_last_checkpoint_to_go_on_from() {
    let folder = workplace();
    let save = ["--set", "checkpoints.every_steps=4", "--run-dir", "lost"];
    let output = Command::new(env!("CARGO_BIN_EXE_rsflow"))
        .args([&["run", "recipe.ron"], &save[..]].concat())
        .current_dir(folder.path())
        .env("RSFLOW_FAILING_STEP", "10")
        .env("CUDA_VISIBLE_DEVICES", "")
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    for part in [
        "computing on CPU",
        "step 10 (epoch 1 of 2) failed on CPU",
        "The last checkpoint is from step 8 and sound",
        "CUDA error: the launch timed out",
        "last.safetensors is complete; to go on: rsflow run",
    ] {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
    let whole = completed(folder.path(), &["--run-dir", "whole"]);
    let resumed = completed(folder.path(), &[&save[..], &["--resume"]].concat());
    assert_eq!(resumed, whole);
}

#[test]
fn a_gpu_that_is_not_there_is_an_error_before_anything_is_written() {
    let folder = workplace();
    let set = ["--set", "trainer.device=Cuda(90)", "--run-dir", "run"];
    let output = rsflow(folder.path(), &[&["run", "recipe.ron"], &set[..]].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("`device: Cuda(90)`") && stderr.contains("rsflow doctor"),
        "{stderr}"
    );
    assert!(!folder.path().join("run").exists());
    let checkpoint = ["--checkpoint", "no.safetensors", "--size", "32", "x.jpg"];
    for (option, words) in [
        (["--device", "gpu"], "expected auto, cpu, cuda or cuda:N"),
        (["--precision", "fp8"], "expected auto, float32, tf32"),
    ] {
        let output = rsflow(
            folder.path(),
            &[&["predict"], &option[..], &checkpoint].concat(),
        );
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(words), "{stderr}");
    }
}
