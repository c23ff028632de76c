//! What a machine offers and how fast it is: `rsflow doctor`, `rsflow bench`, and devices that fail.

use rsflow_model::checkpoint::Checkpoint;
use rsflow_model::nn::compute::CPU_BFLOAT16;
use serde_json::Value;

use crate::workplace::{completed, done, program, rsflow, workplace};

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
    for (said, bfloat16) in [("yes", true), ("no", false)] {
        let doctor = |arguments: &[&str]| {
            let mut doctor = program(folder.path(), arguments);
            let output = doctor.env(CPU_BFLOAT16, said).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        let json: Value = serde_json::from_str(&doctor(&["doctor", "--json", "-"])).unwrap();
        assert_eq!(json["cpu"]["bfloat16"], bfloat16, "{json}");
        assert!(doctor(&["doctor"]).contains("RSFLOW_CPU_BFLOAT16 is set"));
    }
    // Either GPUs, or the reason why there are none, which people read as well.
    match json["cuda_missing"].as_str() {
        None => assert!(!json["cuda"]["gpus"].as_array().unwrap().is_empty()),
        Some(reason) => {
            assert!(json["cuda"].is_null(), "{json}");
            assert!(
                said.contains(&format!("no GPU can be used: {reason}\n")),
                "{said}"
            );
        }
    }
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
        // May be above 1 where something else computed while the peak was measured.
        let share = row["share_of_peak"].as_f64();
        assert!(share.is_none_or(|share| share > 0.0), "{row}");
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
    let run = [&["run", "recipe.ron"], &save[..]].concat();
    let output = program(folder.path(), &run)
        .env("RSFLOW_FAILING_STEP", "10")
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    for part in [
        "computing on CPU",
        "step 10 (epoch 1 of 2) failed on CPU",
        "CUDA error: the launch timed out",
        "last.safetensors is complete; to resume: rsflow run",
    ] {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
    // Of step 8, or of step 9 if that of step 4 was still being written at step 8.
    let last = folder.path().join("lost/checkpoints/last.safetensors");
    let step = Checkpoint::open(&last).unwrap().metadata().step;
    let promised = format!("The last checkpoint is from step {step} and sound");
    assert!(
        (4..10).contains(&step) && stderr.contains(&promised),
        "{stderr}"
    );
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
        (["--device", "tpu"], "expected auto, cpu, cuda or cuda:N"),
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

/// `Auto` follows the processor, or what is said in its place; what is named stays what it is.
#[test]
fn the_precision_follows_the_processor_only_where_it_is_left_to_it() {
    let folder = workplace();
    let run = |name: &str, precision: &str, bfloat16: &str| {
        let set = format!("trainer.precision={precision}");
        let network = match name {
            "depthwise" => "trainer.network=MobileNetV2(width: 0.1)",
            _ => "trainer.network=ResNet(depth: 18, width: 8)",
        };
        let arguments = [
            "run",
            "recipe.ron",
            "--run-dir",
            name,
            "--set",
            &set,
            "--set",
            network,
        ];
        let mut run = program(folder.path(), &arguments);
        run.args(["--set", "trainer.epochs=1"]);
        let output = run.env(CPU_BFLOAT16, bfloat16).output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    for (precision, bfloat16, expected) in [
        ("Auto", "yes", "CPU, bfloat16, channels last"),
        ("Auto", "no", "CPU, float32, channels first"),
        ("Float32", "yes", "CPU, float32, channels first"),
        ("BFloat16", "no", "CPU, bfloat16, channels last"),
    ] {
        let name = format!("{precision}-{bfloat16}");
        let (code, stderr) = run(&name, precision, bfloat16);
        assert_eq!(code, Some(0), "{name}: {stderr}");
        assert!(
            stderr.contains(&format!("computing on {expected}")),
            "{name}: {stderr}"
        );
    }
    let (code, stderr) = run("depthwise", "Auto", "yes");
    assert_eq!(code, Some(0), "{stderr}");
    let words = "`precision: Auto` is Float32: on processors depthwise convolutions are slower";
    for words in [words, "computing on CPU, float32, channels last"] {
        assert!(stderr.contains(words), "{stderr}");
    }
    let (code, stderr) = run("maybe", "Auto", "maybe");
    assert_eq!(code, Some(1), "{stderr}");
    assert!(
        stderr.contains("RSFLOW_CPU_BFLOAT16 must be `yes` or `no`, not \"maybe\""),
        "{stderr}"
    );
    assert!(!folder.path().join("maybe").exists());
}

/// On a cluster with processors of both kinds, a run may be resumed on another kind.
#[test]
fn a_resume_keeps_float32_and_says_where_it_cannot_keep_bfloat16() {
    let folder = workplace();
    let run = |name: &str, bfloat16: &str, resume: bool| {
        let arguments = ["run", "recipe.ron", "--run-dir", name];
        let mut run = program(folder.path(), &arguments);
        run.args(["--set", "checkpoints.every_steps=4"]);
        match resume {
            true => run.arg("--resume"),
            false => run.env("RSFLOW_FAILING_STEP", "7"),
        };
        let output = run.env(CPU_BFLOAT16, bfloat16).output().unwrap();
        assert_eq!(output.status.success(), resume);
        let [out, err] =
            [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        (out, err)
    };
    let set = ["--run-dir", "whole", "--set", "trainer.precision=Float32"];
    let whole = completed(folder.path(), &set);
    for (name, begun, resumed, warns) in [
        ("float32", "no", "yes", false),
        ("bfloat16", "yes", "no", true),
    ] {
        let (_, err) = run(name, begun, false);
        assert!(err.contains(&format!("computing on CPU, {name}")), "{err}");
        let (table, err) = run(name, resumed, true);
        assert!(err.contains("computing on CPU, float32"), "{err}");
        let warning = "this run was trained in BFloat16 so far, which is slow on this device";
        assert_eq!(err.contains(warning), warns, "{err}");
        assert_eq!(table == whole, !warns, "{name}: {table}");
    }
}
