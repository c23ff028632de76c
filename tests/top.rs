//! `rsflow top`: what a run writes for it while it trains, and pictures of runs in any condition.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use crate::workplace::{completed, done, program, rsflow, workplace};

fn now(run_dir: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(run_dir.join("now.json")).unwrap()).unwrap()
}

fn contains(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word} is not in\n{text}");
    }
}

#[test]
fn a_run_that_ended_is_shown_whole() {
    let folder = workplace();
    let folder = folder.path();
    completed(folder, &["--run-dir", "out"]);
    let written = now(&folder.join("out"));
    for (key, expected) in [
        ("format", Value::from(1)),
        ("state", "finished".into()),
        ("epoch", 2.into()),
        ("epochs", 2.into()),
        ("step", 22.into()),
        ("steps_per_epoch", 11.into()),
        ("processes", 1.into()),
        ("workers", 2.into()),
        ("validation", Value::Null),
        ("error", Value::Null),
    ] {
        assert_eq!(written[key], expected, "{key}: {written}");
    }
    let nodes = written["nodes"].as_array().unwrap();
    let of = |name: &str| nodes.iter().find(|node| node["name"] == name).unwrap();
    assert_eq!(nodes.len(), 13);
    assert_eq!(of("train_files")["items"], 168);
    assert_eq!(
        (&of("trainer")["kind"], &of("trainer")["works_on"]),
        (&"RsNet".into(), &"thread".into())
    );
    assert!(of("trainer")["queue"]["bound"].as_u64().unwrap() > 0);
    for key in ["written", "started"] {
        let time = written[key].as_str().unwrap();
        assert!(time.parse::<jiff::Timestamp>().is_ok(), "{time}");
    }

    let before = fs::read(folder.join("out/now.json")).unwrap();
    let words = [
        "out\nfinished  on ",
        "epoch 2/2  step 11/11  100 %  [████████████████████]",
        "step 22  loss ",
        "top-1 %      last     best",
        "ensemble",
        "train_files   ShapesFolder",
        "trainer       RsNet",
    ];
    contains(&done(folder, &["top", "out", "--once"]), &words);
    // Also without the option: stdout is no terminal.
    contains(&done(folder, &["top", "out"]), &words);
    assert_eq!(fs::read(folder.join("out/now.json")).unwrap(), before);

    // An older version's, then one whose files were cut while they were written.
    let out = folder.join("out");
    fs::remove_file(out.join("now.json")).unwrap();
    let old = done(folder, &["top", "out"]);
    contains(
        &old,
        &[
            "finished\nepoch 2  step 22",
            "Nodes are not shown: there is no now.json",
        ],
    );
    let log = fs::read(out.join("metrics.jsonl")).unwrap();
    fs::write(out.join("metrics.jsonl"), &log[..log.len() - 40]).unwrap();
    fs::write(out.join("now.json"), &before[..before.len() / 2]).unwrap();
    let cut = done(folder, &["top", "out"]);
    contains(
        &cut,
        &[
            "running or killed",
            "now.json cannot be read: EOF",
            "epoch 2  step 22",
        ],
    );
}

#[test]
fn a_run_is_seen_while_it_trains_and_when_it_was_stopped() {
    let folder = workplace();
    let folder = folder.path();
    let run = [
        "run",
        "recipe.ron",
        "--run-dir",
        "out",
        "--set",
        "trainer.epochs=100000",
    ];
    let mut run = program(folder, &run)
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let out = folder.join("out");
    let is_training = || {
        let text = fs::read_to_string(out.join("now.json")).ok()?;
        let now: Value = serde_json::from_str(&text).expect("the file is complete at any time");
        now["images_per_second"].is_number().then_some(now)
    };
    let running = loop {
        if let Some(now) = is_training() {
            break now;
        }
        assert!(run.try_wait().unwrap().is_none(), "the run has ended");
        sleep(Duration::from_millis(10));
    };
    assert_eq!(
        (&running["state"], &running["pid"]),
        (&"running".into(), &run.id().into())
    );
    assert!(running["seconds_left"].as_f64().unwrap() > 0.0, "{running}");
    let picture = done(folder, &["top", "out", "--once"]);
    contains(
        &picture,
        &[
            &format!(", process {}", run.id()),
            "/100000",
            " left  [",
            "images/s",
        ],
    );

    let interrupt = std::process::Command::new("kill")
        .args(["-INT", &run.id().to_string()])
        .status();
    assert!(interrupt.unwrap().success());
    assert_eq!(run.wait().unwrap().code(), Some(130));
    assert_eq!(now(&out)["state"], "stopped");
    contains(&done(folder, &["top", "out"]), &["stopped  on "]);

    // A resume that fails at once says so; one that runs replaces the file.
    let resume = [
        "run",
        "recipe.ron",
        "--run-dir",
        "out",
        "--resume",
        "--accept-changes",
        "--set",
    ];
    let epochs = format!("trainer.epochs={}", now(&out)["epoch"]);
    done(folder, &[&resume[..], &[&epochs]].concat());
    assert_eq!(now(&out)["state"], "finished");
}

#[test]
fn a_run_whose_snapshots_cannot_be_written_trains() {
    let folder = workplace();
    let folder = folder.path();
    // A folder of that name cannot be replaced by a file.
    completed(folder, &["--run-dir", "out", "--set", "trainer.epochs=1"]);
    fs::remove_file(folder.join("out/now.json")).unwrap();
    fs::create_dir_all(folder.join("out/now.json/in")).unwrap();
    let output = rsflow(
        folder,
        &[
            "run",
            "recipe.ron",
            "--run-dir",
            "out",
            "--resume",
            "--accept-changes",
            "--set",
            "trainer.epochs=2",
        ],
    );
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_eq!(
        said.matches("cannot write out/now.json: ").count(),
        1,
        "{said}"
    );
    let left = fs::read_dir(folder.join("out")).unwrap().flatten();
    let left: Vec<_> = left
        .filter(|it| it.file_name().to_string_lossy().contains("partial"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    contains(
        &done(folder, &["top", "out"]),
        &["now.json cannot be read: it is a folder", "finished"],
    );
}

#[test]
fn what_is_no_run_is_refused() {
    let folder = workplace();
    let folder = folder.path();
    fs::create_dir(folder.join("empty")).unwrap();
    for (path, expected) in [
        ("nowhere", "error: there is no run directory nowhere\n"),
        (
            "recipe.ron",
            "error: recipe.ron is a file; name the run directory that it is in\n",
        ),
        (
            "empty",
            "error: empty is not a run directory: it has no now.json, metrics.jsonl, recipe.ron or run.log;",
        ),
    ] {
        let output = rsflow(folder, &["top", path]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.starts_with(expected), "{said}");
        assert!(output.stdout.is_empty());
    }
    // One that has begun and logged nothing.
    fs::write(folder.join("empty/run.log"), "").unwrap();
    contains(&done(folder, &["top", "empty"]), &["nothing is logged yet"]);
}
