//! The node `MetricsLog`: its lines, and what a resume makes of those of before.

use std::fs;
use std::path::Path;

use rsflow_graph::Item;
use rsflow_model::sinks::MetricsLog;
use rsflow_model::train::metrics::{Metric, Validating};
use serde_json::json;

use crate::{METRICS, drive, losses, names_in, open, resume_point, step, table};

fn lines(run: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn metrics_are_lines() {
    let run = tempfile::tempdir().unwrap();
    fs::write(run.path().join("metrics.jsonl"), "left by a run before\n").unwrap();
    let mut sink = open::<MetricsLog>(METRICS, Some(run.path()), None).unwrap();
    let validating = Metric::Validating(Validating {
        epoch: 0,
        batches: 1,
        of: 2,
        epochs: 3,
    });
    let metrics = [
        (step(1, None), 0),
        (step(2, losses(f64::NAN)), 1),
        (validating, 1),
        (Metric::Epoch(table(0, 2)), 2),
        (Metric::Final(table(0, 2)), 3),
    ];
    for (metric, expected) in metrics {
        sink.accept(Item::new(metric)).unwrap();
        // Each is there at once.
        assert_eq!(lines(run.path()).len(), expected);
    }
    let lines = lines(run.path());
    assert_eq!(
        lines[0],
        json!({
            "format": 2, "kind": "step", "epoch": 1, "step": 2, "loss": null,
            "cross_entropy": { "64": 0.5, "32": 0.0 }, "ensemble_cross_entropy": 0.75,
            "learning_rate": 0.25, "images_per_second": 1000.0,
        })
    );
    assert_eq!(lines[1]["kind"], "epoch");
    assert_eq!(lines[1]["rows"][1]["resolution"], json!(null));
    assert_eq!(lines[1]["rows"][0]["top1"], 50.0);
    assert_eq!(lines[2]["kind"], "final");
    assert!(
        lines
            .iter()
            .all(|line| line["format"] == 2 && line["epoch"] == 1)
    );
    let text = fs::read_to_string(run.path().join("metrics.jsonl")).unwrap();
    assert!(text.lines().all(|line| line.starts_with(r#"{"format":2,"#)));
}

#[test]
fn a_resume_cuts_the_log_back() {
    let whole = concat!(
        r#"{"kind":"step","epoch":0,"step":2}"#,
        "\n",
        r#"{"kind":"epoch","epoch":0,"step":2}"#,
        "\n",
        r#"{"kind":"step","epoch":1,"step":4}"#,
        "\n",
        r#"{"kind":"epoch","epoch":1,"step":4}"#,
        "\n",
        r#"{"kind":"final","epoch":1,"step":4}"#,
        "\n",
    );
    let killed = &whole[..whole.len() - 50];
    let unended = whole.trim_end();
    let damaged = format!("{}\0\0\0", &whole[..35]);
    // After its first epoch the run went on with larger batches.
    let renumbered = whole.replace(r#""epoch":1,"step":4"#, r#""epoch":1,"step":1"#);
    // The log, the checkpoint's epoch and step, and what stays.
    type Stays<'a> = &'a [(&'a str, u64)];
    let (s2, e2, s4, e4) = (("step", 2), ("epoch", 2), ("step", 4), ("epoch", 4));
    let in_format_2 = |log: &str| {
        let later = log.replace(r#""epoch":1"#, r#""epoch":2"#);
        let all = later.replace(r#""epoch":0"#, r#""epoch":1"#);
        all.replace(r#"{"kind""#, r#"{"format":2,"kind""#)
    };
    let format_2 = in_format_2(whole);
    // A run of an older program that was resumed in its second epoch.
    let second = whole.find(r#"{"kind":"step","epoch":1"#).unwrap();
    let (older, newer) = whole.split_at(second);
    let both = format!("{older}{}", in_format_2(newer));
    let table: [(&str, u64, u64, Stays); 18] = [
        (whole, 2, 4, &[s2, e2, s4, e4]),
        (unended, 2, 4, &[s2, e2, s4, e4]),
        // Stopped before the validation was through.
        (whole, 1, 4, &[s2, e2, s4]),
        (whole, 1, 3, &[s2, e2]),
        (whole, 1, 2, &[s2, e2]),
        (whole, 0, 2, &[s2]),
        (killed, 2, 4, &[s2, e2, s4]),
        (&damaged, 2, 4, &[s2]),
        (&renumbered, 1, 1, &[s2, e2, ("step", 1)]),
        ("", 2, 4, &[]),
        (&format_2, 2, 4, &[s2, e2, s4, e4]),
        (&format_2, 1, 4, &[s2, e2, s4]),
        (&format_2, 1, 2, &[s2, e2]),
        (&format_2, 0, 2, &[s2]),
        (&both, 2, 4, &[s2, e2, s4, e4]),
        (&both, 1, 4, &[s2, e2, s4]),
        (&both, 1, 2, &[s2, e2]),
        (&both, 0, 2, &[s2]),
    ];
    for (log, epoch, at, stays) in table {
        let (run, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(run.path().join("metrics.jsonl"), log).unwrap();
        let resume = resume_point(elsewhere.path(), epoch, at);
        drive::<MetricsLog, _>(METRICS, run.path(), Some(&resume), [step(9, losses(1.0))]);
        let lines = lines(run.path());
        let kept: Vec<(&str, u64)> = lines
            .iter()
            .map(|line| {
                (
                    line["kind"].as_str().unwrap(),
                    line["step"].as_u64().unwrap(),
                )
            })
            .collect();
        let expected: Vec<_> = stays.iter().copied().chain([("step", 9)]).collect();
        assert_eq!(kept, expected, "epoch {epoch}, step {at}, {log:?}");
        assert_eq!(names_in(run.path()), ["metrics.jsonl"]);
    }
}

/// All is left as it is.
#[test]
fn a_log_of_a_newer_program_is_not_cut_back() {
    let (run, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let log = "{\"format\":2,\"kind\":\"step\",\"epoch\":1,\"step\":2}\n{\"format\":3,\"kind\":\"step\"}\n";
    let path = run.path().join("metrics.jsonl");
    fs::write(&path, log).unwrap();
    let resume = resume_point(elsewhere.path(), 1, 2);
    let opened = open::<MetricsLog>(METRICS, Some(run.path()), Some(&resume));
    let error = format!("{:#}", opened.err().unwrap());
    for words in [
        "cannot resume",
        "metrics.jsonl",
        "a line of format 3",
        "formats up to 2",
    ] {
        assert!(error.contains(words), "{error}");
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), log);
}
