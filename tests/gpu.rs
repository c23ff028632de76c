//! The GPU's view in `rsflow profile` and `rsflow bench`.

use std::path::Path;

use serde_json::Value;

use crate::workplace::{program, workplace};

/// With the stand-in for CUPTI that the recorder is tested with: four activities just before the end.
#[test]
fn what_the_gpu_did_is_in_table_json_and_trace() {
    let folder = workplace();
    let library = folder.path().join("libfake_cupti.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("model/cupti/tests/fake_cupti.c");
    let mut compiler = std::process::Command::new("cc");
    compiler
        .args(["-shared", "-fPIC", "-pthread", "-o"])
        .arg(&library);
    assert!(compiler.arg(source).status().unwrap().success());
    let output = |arguments: &[&str], library: &Path| {
        let mut program = program(folder.path(), arguments);
        program.env("RSFLOW_CUPTI", library);
        program.env("FAKE_CUPTI_LIVE", "1").output().unwrap()
    };
    let text = |arguments: &[&str]| {
        let output = output(arguments, &library);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        String::from_utf8(output.stdout).unwrap()
    };
    let trainer = ["profile", "recipe.ron", "--only", "trainer", "--gpu"];
    let trainer = [&trainer[..], &["--seconds", "0.3"]].concat();
    let step = ["bench", "recipe.ron", "--only", "step", "--gpu"];
    let step = [&step[..], &["--seconds", "0.3"]].concat();
    for arguments in [&trainer, &step] {
        let table = text(arguments);
        for words in [
            "batch norm",
            "sm80_xmma_fprop_implicit_gemm",
            "second",
            "the GPU was busy ",
        ] {
            assert!(table.contains(words), "`{words}` is not in\n{table}");
        }
        let json = text(&[&arguments[..], &["--json", "-"]].concat());
        let json: Value = serde_json::from_str(&json).unwrap();
        let groups = json["gpu"]["groups"].as_array().unwrap();
        let found: Vec<(&str, u64)> = groups
            .iter()
            .map(|of| {
                (
                    of["group"].as_str().unwrap(),
                    of["time_ns"].as_u64().unwrap(),
                )
            })
            .collect();
        assert_eq!(
            found,
            [
                ("convolution", 12_000_000),
                ("norm", 9_000_000),
                ("other", 3_000_000),
                ("copies", 2_000_000),
            ]
        );
        let seconds = json["gpu"]["seconds"].as_f64().unwrap();
        let busy = json["gpu"]["busy_share"].as_f64().unwrap();
        assert!(seconds >= 0.3, "{seconds}");
        assert!((busy * seconds - 0.024).abs() < 1e-6, "{busy} of {seconds}");
    }
    text(&[&trainer[..], &["--trace", "trace.json"]].concat());
    let trace = std::fs::read_to_string(folder.path().join("trace.json")).unwrap();
    let trace: Value = serde_json::from_str(&trace).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let names: Vec<&str> = events
        .iter()
        .filter_map(|event| event["args"]["name"].as_str())
        .collect();
    assert!(
        names.contains(&"GPU 0: kernels") && names.contains(&"GPU 0: copies"),
        "{names:?}"
    );
    let copy = events
        .iter()
        .find(|event| event["name"] == "copy HostToDevice");
    assert_eq!(copy.unwrap()["dur"], 2000.0);

    // Without it nothing is measured.
    let output = output(&trainer, Path::new("nowhere.so"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("`RSFLOW_CUPTI` names no CUPTI"), "{stderr}");
}
