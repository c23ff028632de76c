//! Sizes that were never trained, every size with every batch norm, and predictions as a file.

use std::path::Path;

use rsflow_model::nn::compute::{DeviceChoice, ExecConfig, Precision};
use serde_json::{Value, json};

use crate::evaluate::{LAST, trained};
use crate::workplace::{done, rsflow};

fn eval(arguments: &[&str]) -> Value {
    let common = [
        "eval",
        "--checkpoint",
        LAST,
        "--batch",
        "10",
        "--threads",
        "1",
        "--json",
        "-",
    ];
    let text = done(trained(), &[&common[..], arguments].concat());
    serde_json::from_str(&text).unwrap()
}

/// The row of a size with these batch norms.
fn cell(table: &Value, size: u32, norm: &Value) -> Value {
    let rows = table["rows"].as_array().unwrap().iter();
    let mut rows = rows.filter(|row| row["resolution"] == size && row["batch_norm"] == *norm);
    rows.next().cloned().unwrap_or_default()
}

#[test]
fn batch_norms_between_two_resolutions_are_interpolated() {
    let path = trained().join(LAST);
    let checkpoint = rsflow_model::checkpoint::Checkpoint::open(&path).unwrap();
    let metadata = checkpoint.metadata();
    for (size, between) in [
        (40, Some((32, 48))),
        (36, Some((32, 48))),
        (48, None),
        (24, None),
        (64, None),
    ] {
        use rsflow_model::checkpoint::NormsFrom::Between;
        let found = metadata.norms_between(size);
        let expected = between.map(|(below, above)| Between { below, size, above });
        assert_eq!(found, expected, "{size}");
    }
    let (device, precision) = (DeviceChoice::Cpu, Precision::Float32);
    let compute = ExecConfig::resolve(device, precision, metadata.hints().unwrap()).unwrap();
    let from = metadata.norms_between(36).unwrap();
    let net = checkpoint.network(&[36], &[from], compute).unwrap();
    let values = |tensor: &str| -> Vec<f32> {
        let tensor = checkpoint.read([tensor]).unwrap().remove(0).view(-1);
        Vec::try_from(tensor).unwrap()
    };
    let mut compared = 0;
    for parameter in net.parameters().iter() {
        if parameter.resolution.is_none() {
            continue;
        }
        let [lower, upper] = [32, 48].map(|norm| values(&parameter.name_with_batch_norm(norm)));
        let own: Vec<f32> = Vec::try_from(parameter.tensor.view(-1)).unwrap();
        for ((own, lower), upper) in own.iter().zip(lower).zip(upper) {
            // A quarter of the way from 32 to 48.
            let expected = 0.75 * lower + 0.25 * upper;
            assert!((own - expected).abs() <= 1e-6 * (1.0 + expected.abs()));
            compared += 1;
        }
    }
    assert!(compared > 1000);
}

#[test]
fn a_matrix_has_every_size_with_every_batch_norm() {
    let all = eval(&[
        "--sizes",
        "48",
        "40",
        "32",
        "--matrix",
        "--calibrate",
        "50",
        "--seed",
        "5",
    ]);
    assert_eq!(all["rows"].as_array().unwrap().len(), 3 * 3 + 1);
    for (arguments, size, norm) in [
        (&["--sizes", "48"][..], 48, json!(48)),
        (&["--sizes", "32", "--batch-norm", "32=48"], 32, json!(48)),
        (&["--sizes", "40", "--batch-norm", "40=48"], 40, json!(48)),
        (
            &["--sizes", "40", "--batch-norm", "40=nearest"],
            40,
            json!(32),
        ),
        (
            &["--sizes", "40", "--batch-norm", "40=lerp"],
            40,
            Value::Null,
        ),
        (
            &["--sizes", "40", "--calibrate", "50", "--seed", "5"],
            40,
            json!(40),
        ),
    ] {
        let one = eval(arguments);
        let found = cell(&all, size, &norm);
        assert_eq!(found, one["rows"][0], "{size} with {norm}");
        assert_eq!(found["between"].is_array(), norm.is_null());
    }
    let text = done(
        trained(),
        &["eval", "--checkpoint", LAST, "--sizes", "48,40", "--matrix"],
    );
    let header = text.lines().next().unwrap();
    let words: Vec<&str> = header.split_whitespace().collect();
    assert_eq!(
        words,
        ["top-1", "%", "at", "48", "32", "interpolated"],
        "{text}"
    );
    let row = text
        .lines()
        .find(|line| line.trim_start().starts_with("40 "));
    assert!(row.unwrap().contains("*"), "the best is marked: {text}");
}

/// Calibrated batch norms begin as interpolated ones, and are shown apart from these.
#[test]
fn interpolated_batch_norms_stay_beside_calibrated_ones() {
    let sizes = ["--sizes", "40,36", "--matrix"];
    let without = eval(&sizes);
    let with = eval(&[&sizes[..], &["--calibrate", "50"]].concat());
    for size in [40, 36] {
        let interpolated = cell(&without, size, &Value::Null);
        assert!(interpolated["top1"].is_number(), "{without}");
        assert_eq!(cell(&with, size, &Value::Null), interpolated, "{size}");
        for norm in [40, 36] {
            assert!(
                cell(&with, size, &json!(norm))["top1"].is_number(),
                "{with}"
            );
        }
    }
}

#[test]
fn a_size_that_is_not_between_two_gets_no_interpolated_batch_norms() {
    for (size, option) in [("48", "48=lerp"), ("64", "64=lerp"), ("40", "40=cubic")] {
        let arguments = [
            "eval",
            "--checkpoint",
            LAST,
            "--sizes",
            size,
            "--batch-norm",
            option,
        ];
        let output = rsflow(trained(), &arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{option}: {stderr}");
        let wanted = match option {
            "40=cubic" => "SIZE=lerp",
            _ => "between two of the resolutions [48, 32]",
        };
        assert!(stderr.contains(wanted), "{option}: {stderr}");
    }
}

/// Without `--data`, on the images that the run was validated on.
#[test]
fn predictions_are_those_that_the_table_counts() {
    let folder = trained();
    let file = "predictions.csv";
    let table = eval(&["--predictions", file, "--force"]);
    let given = eval(&["--data", "shapes"]);
    assert_eq!(table["rows"], given["rows"]);
    let text = std::fs::read_to_string(folder.join(file)).unwrap();
    let mut lines = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let header = lines.next().unwrap();
    assert_eq!(
        header,
        [
            "image",
            "class",
            "prediction_48",
            "probability_48",
            "prediction_32",
            "probability_32",
            "prediction_ensemble",
            "probability_ensemble"
        ]
    );
    let rows: Vec<Vec<&str>> = lines.collect();
    assert_eq!(rows.len(), 24);
    for (at, row) in table["rows"].as_array().unwrap().iter().enumerate() {
        let right = rows
            .iter()
            .filter(|cells| cells[2 + 2 * at] == cells[1])
            .count();
        assert_eq!(row["top1"], json!(100.0 * right as f64 / 24.0));
        let likely = |cells: &Vec<&str>| cells[3 + 2 * at].parse::<f64>().unwrap();
        assert!(rows.iter().map(likely).all(|p| (0.125..=1.0).contains(&p)));
    }
    for cells in rows {
        let image = Path::new("shapes/val").join(cells[0]);
        assert!(folder.join(&image).is_file(), "{}", image.display());
        assert!(cells[0].starts_with(&format!("{}/", cells[1])));
    }
    for (options, wanted) in [
        (&["--predictions", file][..], "--force replaces it"),
        (&["--predictions", "-"], "--predictions needs a file"),
        (&["--predictions", "x", "--json", "x"], "need a file each"),
        (
            &["--matrix", "--batch-norm", "48=32"],
            "--matrix has all batch norms",
        ),
        (&["--matrix", "--predictions", "x"], "cannot be used with"),
    ] {
        let output = rsflow(folder, &[&["eval", "--checkpoint", LAST], options].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{options:?}: {stderr}");
        assert!(stderr.contains(wanted), "{options:?}: {stderr}");
    }
}

#[test]
fn without_data_other_images_than_the_runs_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = trained().join(LAST).display().to_string();
    let eval = ["eval", "--checkpoint", &checkpoint];
    // The recipe's path is relative: here the node makes its images anew, which have the same names.
    let output = rsflow(folder.path(), &eval);
    assert_eq!(output.status.code(), Some(0));
    let image = folder.path().join("shapes/val/discs_plain/00000.jpg");
    std::fs::rename(&image, image.with_file_name("other.jpg")).unwrap();
    let output = rsflow(folder.path(), &eval);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("not those that the checkpoint's run was validated on"),
        "{stderr}"
    );
    let named = rsflow(folder.path(), &[&eval[..], &["--data", "shapes"]].concat());
    assert_eq!(named.status.code(), Some(0));
}
