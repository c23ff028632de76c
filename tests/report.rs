//! `rsflow report`: what the page has of a run, of several, of half of one, and that nothing in it is obeyed.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::workplace::{completed, done, rsflow, shared_workplace};

/// Two runs, `a` with predictions, and `b` with another learning rate.
fn runs() -> &'static Path {
    static RUNS: OnceLock<PathBuf> = OnceLock::new();
    RUNS.get_or_init(|| {
        shared_workplace("report", |folder| {
            completed(folder, &["--run-dir", "a"]);
            let changed = ["--run-dir", "b", "--set", "trainer.optimizer.lr=0.04"];
            completed(folder, &changed);
            let predictions = [
                "eval",
                "--checkpoint",
                "a",
                "--predictions",
                "a/predictions.csv",
            ];
            done(folder, &predictions);
        })
    })
}

/// The page of these arguments.
fn page(folder: &Path, arguments: &[&str]) -> String {
    let page = done(folder, &[&["report"], arguments, &["--out", "-"]].concat());
    check(&page);
    page
}

/// What always holds: the page loads nothing, runs nothing, and its elements are closed.
fn check(page: &str) {
    for word in [
        "<script", "<link", "<iframe", "http:", "https:", "url(", "@import", " on",
    ] {
        let tags = page
            .split('<')
            .filter_map(|part| part.split_once('>'))
            .map(|(tag, _)| tag);
        assert!(
            !tags.into_iter().any(|tag| format!("<{tag}").contains(word)),
            "{word} is in a tag"
        );
    }
    for source in page.split(" src=\"").skip(1) {
        assert!(
            source.starts_with("data:image/jpeg;base64,"),
            "{source:.60}"
        );
    }
    let mut open: Vec<&str> = vec!["html", "head"];
    let body = page.split_once("</style>").unwrap().1;
    for part in body.split('<').skip(1) {
        let tag = part.split_once('>').unwrap().0;
        let name = tag.split_whitespace().next().unwrap();
        match name.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name), "{part:.80}"),
            None if matches!(name, "br" | "img" | "meta") => {}
            None => open.push(name),
        }
    }
    // The head's end, and all of the body, come after the style.
    assert!(open.is_empty(), "{open:?}");
}

fn contains(page: &str, texts: &[&str]) {
    for text in texts {
        assert!(page.contains(text), "{text} is not in the page");
    }
}

#[test]
fn a_page_has_what_the_run_has() {
    let folder = runs();
    let output = rsflow(folder, &["report", "a"]);
    assert_eq!(output.status.code(), Some(0));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("a/report.html has the report"), "{stderr}");
    let page = fs::read_to_string(folder.join("a/report.html")).unwrap();
    check(&page);
    contains(
        &page,
        &[
            "class=\"state ended\"",
            "ResNet(depth: 18, width: 8)",
            "8 classes",
            "sizes 48, 32",
            "24 for validation",
            "aria-label=\"Validation: top-1 by size\"",
            "aria-label=\"Training: cross-entropy by size\"",
            "aria-label=\"Learning rate\"",
            "aria-label=\"Top-1 over multiply-adds\"",
            // Checkpoints of two epochs are kept.
            "aria-label=\"Weights of the ensemble\"",
            "Predictions of 24 images",
            "class=\"matrix\"",
            "data:image/jpeg;base64,",
            "As the run has logged",
            "train_crops",
            "Sgd(lr: 0.05)",
            "Latency is not known",
            "rsflow eval a --latency --json a/latency.json",
            "rsflow profile a/recipe.ron --json a/profile.json",
        ],
    );
    // The last validation is in the log.
    let log = fs::read_to_string(folder.join("a/metrics.jsonl")).unwrap();
    let last: serde_json::Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    for row in last["rows"].as_array().unwrap() {
        let top1 = format!("<strong>{:.2}</strong>", row["top1"].as_f64().unwrap());
        contains(&page, &[&top1]);
    }
    // A report is replaced by the next one.
    done(folder, &["report", "a"]);
}

#[test]
fn measurements_beside_the_run_are_in_its_page() {
    let folder = runs();
    let latency = r#"{"rows":[{"resolution":48,"top1":50.0},{"resolution":32,"top1":40.0}],"latencies":[
        {"resolution":48,"milliseconds":1.5,"batch":8,"images_per_second":900.0},
        {"resolution":32,"milliseconds":0.5,"batch":8,"images_per_second":1900.0}],"data":"other <day>"}"#;
    let profile = r#"{"images_per_second":321.0,"seconds":4.0,"workers":3,"verdict":"the <b>disk</b> is slow","nodes":[
        {"name":"read","kind":"ImageFolder","items":5,"busy_share":0.25,"wait_input_share":0.0,
         "wait_output_share":0.5,"mean_us":12.0,"queue_occupancy":null}]}"#;
    fs::write(folder.join("l.json"), latency).unwrap();
    fs::write(folder.join("p.json"), profile).unwrap();
    let page = page(folder, &["b", "--latency", "l.json", "--profile", "p.json"]);
    contains(
        &page,
        &[
            "aria-label=\"Top-1 over latency\"",
            "measured on other &lt;day&gt;, not on the images of its validation",
            "Measured by rsflow profile over 0:04, with 3 workers, at 321 images/s",
            "the &lt;b&gt;disk&lt;/b&gt; is slow",
            "rsflow eval b --predictions b/predictions.csv",
        ],
    );
    assert!(!page.contains("Latency is not known"));
}

#[test]
fn several_runs_are_beside_each_other() {
    let folder = runs();
    let text = page(folder, &["a", "b"]);
    contains(
        &text,
        &[
            "2 runs",
            "trainer.optimizer.lr: 0.04, was 0.05",
            "aria-label=\"Validation: top-1 at 48\"",
            "aria-label=\"Validation: top-1 of the ensemble\"",
            "The runs one by one",
            // Only one of them has predictions.
            "rsflow eval b --predictions b/predictions.csv",
        ],
    );
    assert_eq!(text.matches("<details class=\"run\">").count(), 2);
    // Runs in a folder, each once.
    let all = page(folder, &[".", "a"]);
    assert_eq!(all.matches("<details class=\"run\">").count(), 2);
    done(folder, &["report", "a", "b"]);
    assert!(folder.join("report.html").is_file());
}

#[test]
fn nothing_from_outside_is_obeyed() {
    let folder = tempfile::tempdir().unwrap();
    let name = "<b onclick=x>\u{202e}run";
    let dir = folder.path().join(name);
    fs::create_dir(&dir).unwrap();
    fs::create_dir(folder.path().join("images")).unwrap();
    fs::write(folder.path().join("secret.jpg"), "secret").unwrap();
    let recipe =
        "// <script>alert(1)</script> \u{1b}[2J \u{202e}\n(nodes: {})\t</pre><img src=x onerror=x>";
    fs::write(dir.join("recipe.ron"), recipe).unwrap();
    let predictions = "image,class,prediction_64,probability_64\n\
         ../secret.jpg,<img src=x onerror=alert(1)>,\"\"\"><script>alert(2)</script>\",0.9\n\
         /etc/passwd,\"a\u{202e}b\",</style><script>,0.8\n";
    fs::write(dir.join("predictions.csv"), predictions).unwrap();
    let text = page(folder.path(), &[name, "--data", "."]);
    assert!(!text.contains(['\u{202e}', '\u{1b}']));
    contains(
        &text,
        &[
            "&lt;b onclick=x&gt;\\u{202e}run",
            "&lt;script&gt;alert(1)&lt;/script&gt; \\u{1b}[2J",
            "&lt;img src=x onerror=alert(1)&gt;",
            // No image outside of the folder is read.
            "is not the name of an image",
        ],
    );
}

/// An ensemble is one of its run's sizes: those of different sizes are not compared unsaid.
#[test]
fn ensembles_of_several_runs_have_their_sizes() {
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str, sizes: &[u32], ensemble: f64| {
        let sizes = sizes.iter().map(|size| (size.to_string(), 40.0));
        let rows = sizes.chain(Some(("null".to_owned(), ensemble)));
        let rows = rows.map(|(size, top1)| format!(r#"{{"resolution":{size},"top1":{top1}}}"#));
        let rows = rows.collect::<Vec<_>>().join(",");
        let line = format!(
            r#"{{"format":2,"kind":"epoch","epoch":1,"step":9,"rows":[{rows}],"images":24,"seconds":2.5}}"#
        );
        fs::create_dir_all(folder.path().join(name)).unwrap();
        fs::write(folder.path().join(name).join("metrics.jsonl"), line + "\n").unwrap();
    };
    run("two", &[64, 48], 51.25);
    run("also", &[64, 48], 50.75);
    run("three", &[64, 48, 32], 52.5);
    let same = page(folder.path(), &["two", "also"]);
    contains(
        &same,
        &["<strong>51.25</strong>", "The ensemble is of 64, 48."],
    );
    assert!(!same.contains("of 64, 48</small>") && !same.contains("(of "));
    let differ = page(folder.path(), &["two", "three"]);
    contains(
        &differ,
        &[
            "51.25<small> of 64, 48</small>",
            "52.50<small> of 64, 48, 32</small>",
            "two (of 64, 48)",
            "three (of 64, 48, 32)",
            "Each ensemble is of all sizes of its run",
        ],
    );
    let (table, _) = differ.split_once("id=\"differences\"").unwrap();
    assert!(!table.contains("<strong>52.50"), "one is called the best");
}

const STEP: &str = r#"{"format":2,"kind":"step","epoch":1,"step":7,"loss":3.5,"cross_entropy":{"64":1.0,"32":1.5},"ensemble_cross_entropy":0.9,"learning_rate":0.1,"images_per_second":90.5}"#;

fn epoch(number: u32) -> String {
    format!(
        r#"{{"format":2,"kind":"epoch","epoch":{number},"step":{},"rows":[{{"resolution":64,"batch_norm":64,"top1":50.25,"top5":90.0,"loss":1.5,"multiply_adds":7000000,"parameters":3}},{{"resolution":null,"batch_norm":null,"top1":51.5,"top5":90.0,"loss":1.5,"multiply_adds":9000000,"parameters":3}}],"images":24,"seconds":2.5,"training":{{"steps":20,"loss":2.5,"cross_entropy":{{"64":0.5}},"ensemble_cross_entropy":0.25,"distillation":null,"top1":61.5,"learning_rate":0.01,"images_per_second":88.0,"peak_memory":1000}}}}"#,
        20 * number
    )
}

#[test]
fn every_log_has_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("run");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("run.log"), "").unwrap();
    let steps = format!("{STEP}\n");
    let epochs: String = (1..=6).map(|number| epoch(number) + "\n").collect();
    let old = epochs.replace(r#""format":2,"#, "");
    let end = epoch(6).replace("\"epoch\",\"epoch\"", "\"final\",\"epoch\"");
    let table: &[(&str, &[&str], &[&str])] = &[
        (
            "",
            &[
                "There is no validation yet",
                "none yet",
                "No step and no validation",
            ],
            &["damaged"],
        ),
        (
            &steps,
            &["Training: cross-entropy by size", ">step<", "interrupted"],
            &["damaged"],
        ),
        (
            &epochs,
            &[
                "50.25",
                "Each point is the mean of an epoch",
                "64 in training",
            ],
            &["damaged"],
        ),
        (&old, &["After epoch 7"], &["damaged"]),
        (
            &format!("{epochs}{}", &STEP[..50]),
            &["lacks its end", "50.25"],
            &["damaged"],
        ),
        (
            &format!("{epochs}\u{0}x\n{{}}\n"),
            &["metrics.jsonl has 2 damaged lines"],
            &[],
        ),
        (
            &format!("{epochs}{end}\n"),
            &["class=\"state ended\"", "After epoch 6"],
            &["damaged"],
        ),
        (
            &epochs.replace("\"format\":2", "\"format\":3"),
            &["written by a newer version", "50.25"],
            &[],
        ),
        (&epochs.replace("50.25", "null"), &["–"], &["NaN"]),
    ];
    for (log, has, has_not) in table {
        fs::write(dir.join("metrics.jsonl"), log).unwrap();
        let page = page(folder.path(), &["run"]);
        contains(&page, has);
        for text in *has_not {
            assert!(!page.contains(text), "{text}: {log:.80}");
        }
    }
    // A part of a checkpoint, predictions without an image, and figures that are none.
    fs::create_dir(dir.join("checkpoints")).unwrap();
    fs::write(dir.join("checkpoints/last.safetensors"), "half").unwrap();
    fs::write(dir.join("predictions.csv"), "image,class\n").unwrap();
    fs::write(dir.join("latency.json"), r#"{"rows":[]}"#).unwrap();
    fs::write(dir.join("profile.json"), "[").unwrap();
    let page = page(folder.path(), &["run"]);
    contains(
        &page,
        &[
            "cannot read the checkpoint run/checkpoints/last.safetensors",
            "cannot read the predictions in run/predictions.csv",
            "run/latency.json has no latencies",
            "cannot read run/profile.json",
        ],
    );
}

#[test]
fn what_is_no_run_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("empty")).unwrap();
    for name in ["run", "other"] {
        fs::create_dir(at(name)).unwrap();
        fs::write(at(name).join("metrics.jsonl"), epoch(1) + "\n").unwrap();
    }
    fs::write(at("mine.html"), "<p>mine").unwrap();
    fs::write(at("bad.csv"), "image,class\n").unwrap();
    let table: &[(&[&str], i32, &str)] = &[
        (&["none"], 2, "there is no run directory none"),
        (&["empty"], 2, "empty is not a run directory"),
        (
            &["run/metrics.jsonl"],
            2,
            "name the run directory that it is in",
        ),
        (&["run", "--out", "mine.html"], 2, "--force replaces it"),
        (
            &["run", "--out", "no/where.html"],
            1,
            "its folder does not exist; --out names another file",
        ),
        (
            &["run", "--predictions", "bad.csv"],
            1,
            "it needs columns `prediction_SIZE`",
        ),
        (
            &["run", "--latency", "none.json"],
            1,
            "cannot read none.json",
        ),
        (
            &["run", "other", "--profile", "p.json"],
            2,
            "--profile is of one run",
        ),
        (&[], 2, "RUN"),
    ];
    for (arguments, code, text) in table {
        let output = rsflow(folder.path(), &[&["report"], *arguments].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(*code), "{arguments:?}: {stderr}");
        assert!(stderr.contains(text), "{arguments:?}: {stderr}");
    }
    assert_eq!(fs::read_to_string(at("mine.html")).unwrap(), "<p>mine");
    done(
        folder.path(),
        &["report", "run", "--out", "mine.html", "--force"],
    );
    done(folder.path(), &["report", "run", "--out", "mine.html"]);
}

/// 120 epochs of ImageNet at five sizes, logged every 50 of 600,000 steps, and 50,000 predictions.
#[test]
fn a_large_run_is_a_small_page() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("run");
    fs::create_dir(&dir).unwrap();
    let sizes = [224, 192, 160, 128, 96];
    let (mut log, mut predictions) = (String::new(), "image,class".to_owned());
    for step in (50..=600_000).step_by(50) {
        let epoch = (step - 1) / 5000 + 1;
        let loss = 7.0 - f64::from(step) / 1e5;
        let of_size = sizes.map(|size| format!("\"{size}\":{loss}")).join(",");
        writeln!(log, r#"{{"format":2,"kind":"step","epoch":{epoch},"step":{step},"loss":{loss},"cross_entropy":{{{of_size}}},"ensemble_cross_entropy":{loss},"distillation":{loss},"learning_rate":0.1,"images_per_second":{step}.5}}"#).unwrap();
        if step % 5000 == 0 {
            let top1 = 75.0 - loss;
            let rows = sizes.map(|size| format!(r#"{{"resolution":{size},"top1":{top1},"top5":90.0,"loss":{loss},"multiply_adds":{size}000000,"parameters":25000000}}"#)).join(",");
            writeln!(log, r#"{{"format":2,"kind":"epoch","epoch":{epoch},"step":{step},"rows":[{rows}],"images":50000,"seconds":900.0}}"#).unwrap();
        }
    }
    for size in sizes {
        write!(predictions, ",prediction_{size},probability_{size}").unwrap();
    }
    for image in 0..50_000 {
        let class = image / 50;
        write!(
            predictions,
            "\nn{class:08}/ILSVRC2012_val_{image:08}.JPEG,n{class:08}"
        )
        .unwrap();
        for size in sizes {
            let taken_for = if image % 4 == 0 {
                (image * 7 + size) % 1000
            } else {
                class
            };
            write!(
                predictions,
                ",n{taken_for:08},0.{:06}",
                image * 17 % 1_000_000
            )
            .unwrap();
        }
    }
    fs::write(dir.join("metrics.jsonl"), log).unwrap();
    fs::write(dir.join("predictions.csv"), predictions + "\n").unwrap();
    let page = page(folder.path(), &["run"]);
    assert!(page.len() < 1_500_000, "{} bytes", page.len());
    contains(
        &page,
        &[
            "Each point is the mean of 50 logged steps",
            "The worst of 1,000 classes",
            "with 1,000 classes a matrix could not be read",
        ],
    );
}
