//! `rsflow profile` as a user runs it.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::run;
use crate::workplace::{done, program, rsflow, workplace};

fn profile(folder: &Path, arguments: &[&str]) -> String {
    done(folder, &[&["profile", "recipe.ron"], arguments].concat())
}

fn json(folder: &Path, arguments: &[&str]) -> Value {
    let text = profile(folder, &[arguments, &["--json", "-"]].concat());
    serde_json::from_str(&text).unwrap()
}

const DATA: [&str; 5] = [
    "train_files",
    "train_images",
    "train_crops",
    "train_sizes",
    "train_batches",
];

#[test]
fn the_table_has_every_node_at_work_and_a_verdict() {
    let folder = workplace();
    for (arguments, trainer) in [
        (&["--seconds", "0.3"][..], true),
        (&["--only", "both", "--epochs", "2"], true),
        (&["--only", "trainer", "--seconds", "0.3"], true),
        (&["--only", "pipeline", "--epochs", "2"], false),
        (&["--until", "train_batches", "--seconds", "0.3"], false),
    ] {
        let table = profile(folder.path(), arguments);
        let first_words = table
            .lines()
            .filter_map(|line| line.split_whitespace().next());
        let names: Vec<&str> = first_words.skip(2).take(5 + usize::from(trainer)).collect();
        let expected = DATA.iter().chain(trainer.then_some(&"trainer"));
        assert_eq!(
            names,
            expected.copied().collect::<Vec<_>>(),
            "{arguments:?}:\n{table}"
        );
        let last: Vec<&str> = table.lines().rev().take(2).collect();
        assert_eq!(table.lines().count(), 2 + names.len() + 2, "{table}");
        let workers = "on 2 workers (`cpu_workers` of the recipe; the machine has ";
        assert!(
            last[1].contains(" images/s in ") && last[1].contains(workers),
            "{table}"
        );
        let verdict = last[0];
        if arguments.contains(&"trainer") {
            assert!(
                verdict.starts_with("if data were free, `trainer` (RsNet) would take "),
                "{table}"
            );
        } else {
            // Of a node that is in the table, or of none: what is the case depends on the machine.
            let limits = |name: &&str| {
                let is_the_limit = verdict.contains(") is the limit: ");
                verdict.starts_with(&format!("`{name}` (")) && is_the_limit
            };
            assert!(
                names.iter().any(limits) || verdict.starts_with("no node is the limit: "),
                "{table}"
            );
        }
    }
    let entries = std::fs::read_dir(folder.path()).unwrap();
    assert_eq!(
        entries.count(),
        2,
        "nothing is left behind but what was there"
    );
}

#[test]
fn nodes_behind_are_not_built_and_unread_outputs_are_no_mistake() {
    let folder = workplace();
    // Nobody reads the crops; the trainer could not be built.
    let nodes = r#"(nodes: {
        "files":  ShapesFolder(root: "shapes", split: Train, train_images: 84, val_images: 24),
        "images": DecodeImage(input: "files"),
        "crops":  RandomResizedCrop(input: "images"),
        "lonely": ImageFolder(root: "nowhere"),
    }, cpu_workers: Auto)"#;
    std::fs::write(folder.path().join("recipe.ron"), nodes).unwrap();
    let figures = json(folder.path(), &["--until", "images", "--epochs", "1"]);
    let names: Vec<&Value> = figures["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| &node["name"])
        .collect();
    assert_eq!(names, ["files", "images"]);
    assert_eq!(figures["workers_chosen"], true);
    assert_eq!(
        figures["workers"], figures["cores"],
        "no other node computes"
    );
}

#[test]
fn json_has_all_figures() {
    let folder = workplace();
    let figures = json(folder.path(), &["--only", "pipeline", "--seconds", "0.5"]);
    assert!(figures["images_per_second"].as_f64().unwrap() > 0.0);
    assert_eq!(figures["workers"], 2);
    assert_eq!(figures["only"], "pipeline");
    assert!(figures["seconds"].as_f64().unwrap() >= 0.5);
    assert!(figures["verdict"].is_string());
    let nodes = figures["nodes"].as_array().unwrap();
    let names: Vec<&str> = nodes
        .iter()
        .map(|node| node["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, DATA);
    let mut worked = 0.0;
    for node in nodes {
        for share in ["busy_share", "wait_input_share", "wait_output_share"] {
            let share = node[share].as_f64().unwrap();
            assert!((0.0..=1.0).contains(&share), "{node}");
        }
        worked += node["busy_share"].as_f64().unwrap();
        let figure = |name: &str| node[name].as_f64().unwrap();
        assert!(
            figure("items") > 0.0 && figure("items_per_second") > 0.0,
            "{node}"
        );
        assert!(
            figure("p50_us") <= figure("p99_us") && figure("mean_us") > 0.0,
            "{node}"
        );
        let has_bytes = ["train_files", "train_batches"].contains(&node["name"].as_str().unwrap());
        assert_eq!(figure("bytes") > 0.0, has_bytes, "{node}");
        assert!(
            node["kind"].is_string() && node.get("queue_occupancy").is_some(),
            "{node}"
        );
    }
    assert!(
        worked <= 1.1,
        "workers have no more time than there is: {worked}"
    );
    // Decoding happens when the batch asks for pixels; it is still the decoder's time.
    let of = |name: &str| nodes.iter().find(|node| node["name"] == name).unwrap();
    let p50 = |name: &str| of(name)["p50_us"].as_f64().unwrap();
    assert!(p50("train_images") > p50("train_crops"), "{figures}");

    assert_eq!(figures["skipped"], serde_json::json!([]));
    assert!(
        figures["workers_why"]
            .as_str()
            .unwrap()
            .starts_with("2 workers (`cpu_workers`")
    );

    let figures = json(folder.path(), &["--only", "trainer", "--seconds", "0.3"]);
    let nodes = figures["nodes"].as_array().unwrap();
    let trainer = nodes.iter().find(|node| node["name"] == "trainer").unwrap();
    assert!(trainer["items"].as_u64().unwrap() > 0);
    assert!(figures["images_per_second"].as_f64().unwrap() > 0.0);
    assert!(figures["verdict"].as_str().unwrap().contains("headroom"));

    let image = folder.path().join("shapes/train/discs_hatched/00001.jpg");
    std::fs::write(image, b"junk").unwrap();
    let until = ["--until", "train_batches", "--epochs", "1"];
    let figures = json(folder.path(), &[SKIP, &until].concat());
    let skipped = &figures["skipped"].as_array().unwrap()[0];
    assert_eq!(skipped["image"], "shapes/train/discs_hatched/00001.jpg");
    assert_eq!(figures["nodes"][1]["skipped"], 1);
}

#[test]
fn an_interrupt_keeps_what_was_measured() {
    let folder = workplace();
    let arguments = [
        "--only",
        "pipeline",
        "--seconds",
        "600",
        "--json",
        "figures.json",
    ];
    let arguments = [&["profile", "recipe.ron"], &arguments[..]].concat();
    let mut child = program(folder.path(), &arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("profiling ") {
        line.clear();
        assert!(stderr.read_line(&mut line).unwrap() > 0);
    }
    run::signal(&child, "-INT");
    let stderr = std::io::read_to_string(stderr).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(
        stderr.contains("what was measured so far follows"),
        "{stderr}"
    );
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains(" images/s in "), "{table}");
    let figures = std::fs::read_to_string(folder.path().join("figures.json")).unwrap();
    assert!(figures.contains("images_per_second"), "{figures}");
}

#[test]
fn the_slow_node_is_the_busiest() {
    let folder = workplace();
    let many: Vec<String> = (200..240).map(|size| size.to_string()).collect();
    let [train, val] =
        ["train", "val"].map(|half| format!("{half}_sizes.sizes=[{}]", many.join(", ")));
    // Long enough for a thread that is held up for a moment not to count.
    for (epochs, slower, expected) in [
        ("30", &[][..], "train_images"),
        ("2", &["--set", &train, "--set", &val], "train_sizes"),
    ] {
        let arguments = [
            "--until",
            "train_batches",
            "--epochs",
            epochs,
            "--set",
            "cpu_workers=1",
        ];
        let figures = json(folder.path(), &[&arguments[..], slower].concat());
        let nodes = figures["nodes"].as_array().unwrap();
        let busy = |node: &Value| node["busy_share"].as_f64().unwrap();
        let slowest = nodes
            .iter()
            .max_by(|a, b| busy(a).total_cmp(&busy(b)))
            .unwrap();
        assert_eq!(slowest["name"], expected, "{figures}");
        let verdict = figures["verdict"].as_str().unwrap();
        let said = match nodes.iter().map(busy).sum::<f64>() >= 0.8 {
            true => format!("`{expected}` ("),
            false => "no node is the limit: ".to_owned(),
        };
        assert!(verdict.starts_with(&said), "{figures}");
    }
}

#[test]
fn the_digest_is_the_streams_alone() {
    let folder = workplace();
    let digest = |arguments: &[&str]| {
        let text = profile(folder.path(), &[arguments, &["--digest"]].concat());
        let hash = text.strip_suffix('\n').unwrap().to_owned();
        assert_eq!(hash.len(), 32, "{text}");
        assert!(hash.chars().all(|c| c.is_ascii_hexdigit()), "{text}");
        hash
    };
    let whole = digest(&["--epochs", "2"]);
    for same in [
        &["--set", "cpu_workers=1"][..],
        &["--set", "cpu_workers=7"],
        &["--until", "train_batches"],
        &["--set", "train_batches.size=5"],
        &["--start", "0"],
        &["--skip", "1:0"],
    ] {
        assert_eq!(
            digest(&[&["--epochs", "2"], same].concat()),
            whole,
            "{same:?}"
        );
    }
    // 84 images in batches of 8: within a batch, at its start, within the second epoch, in the
    // last batch, and where nothing but the end of the epoch is left.
    let mut seen = vec![whole];
    for from in ["37", "40", "2:13", "2:83", "2:84"] {
        let epochs = ["--epochs", "2"];
        let sought = digest(&[&epochs[..], &["--start", from]].concat());
        let read = digest(&[&epochs[..], &["--skip", from, "--set", "cpu_workers=3"]].concat());
        assert_eq!(sought, read, "{from}");
        seen.push(sought);
    }
    seen.push(digest(&["--epochs", "1", "--start", "84"]));
    let whole_batches = ["--set", "train_batches.size=7"];
    let end = ["--epochs", "1", "--start", "84"];
    assert_eq!(
        digest(&[&end[..], &whole_batches].concat()),
        seen[seen.len() - 1]
    );
    seen.push(digest(&["--epochs", "1"]));
    seen.push(digest(&["--epochs", "2", "--set", "seed=4"]));
    seen.push(digest(&["--epochs", "2", "--set", "train_sizes.flip=0.4"]));
    seen.push(digest(&["--epochs", "2", "--until", "val_batches"]));
    let all = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), all, "different streams have different hashes");
}

/// Damage is passed over.
const SKIP: &[&str] = &["--set", "train_images.on_error=Skip(budget: 50)"];
/// No batch is ever full.
const DROP: &[&str] = &[
    "--set",
    "train_batches.size=9999",
    "--set",
    "train_batches.drop_last=true",
];

#[test]
fn what_makes_no_sense_is_said() {
    let folder = workplace();
    let image = folder.path().join("shapes/train/discs_hatched/00001.jpg");
    std::fs::write(image, b"junk").unwrap();
    let cases: [(&[&str], i32, &str); 21] = [
        (
            &["--until", "train_batch"],
            2,
            "there is no node `train_batch`: did you mean `train_batches`?",
        ),
        (
            &["--until", "x"],
            2,
            "there is no node `x`: --until takes `train_files`, `train_images`, ",
        ),
        (
            &["--until", "trainer"],
            2,
            "`trainer` is not a data node: --until takes",
        ),
        (
            &["--until", "log"],
            2,
            "`log` is not a data node: --until takes",
        ),
        (
            &["--until", "train_sizes", "--digest"],
            2,
            "`train_sizes` has no pixels yet, it only plans them: --digest takes `train_batches` and \
             `val_batches`",
        ),
        (
            &["--only", "trainer", "--until", "train_sizes"],
            2,
            "--until is about the data nodes alone",
        ),
        (
            &["--only", "both", "--digest"],
            2,
            "--digest is about the data nodes alone",
        ),
        (
            &["--only", "trainer", "--epochs", "1"],
            2,
            "--epochs needs data nodes",
        ),
        (
            &["--digest", "--epochs", "1", "--start", "2:0"],
            2,
            "the stream ends with epoch 1, and it is to start in epoch 2",
        ),
        (
            &["--digest", "--skip", "0:5"],
            2,
            "epochs count from 1, samples from 0",
        ),
        (&["--seconds", "0"], 2, "expected seconds"),
        (
            &["--set", "cpu_workers=100000"],
            2,
            "`cpu_workers` must be at most 1024",
        ),
        (&["--trace", "-"], 2, "--trace needs the name of a file"),
        (
            &["--trace", "no/such/trace.json"],
            1,
            "cannot write no/such/trace.json: its folder does not exist; --trace names another file",
        ),
        (
            &["--json", "shapes"],
            1,
            "cannot write shapes: it is a folder; --json names another file",
        ),
        (
            &[SKIP, &["--digest", "--start", "100000"]].concat(),
            1,
            "epoch 1 has no batches: there are too few images",
        ),
        (
            &[SKIP, &["--digest", "--start", "85"]].concat(),
            2,
            "the stream ends before the sample from which it is to be hashed",
        ),
        (
            &[SKIP, &["--digest", "--skip", "100000"]].concat(),
            2,
            "the stream ends before the sample from which it is to be hashed",
        ),
        (
            &[SKIP, DROP, &["--until", "train_batches"]].concat(),
            1,
            "epoch 1 has no batches: there are too few images",
        ),
        (
            &[
                SKIP,
                &[
                    "--set",
                    "train_batches.size=1000000",
                    "--set",
                    "train_sizes.sizes=[4000]",
                    "--set",
                    "val_sizes.sizes=[4000]",
                    "--until",
                    "train_batches",
                ],
            ]
            .concat(),
            1,
            "cannot allocate 48000.0 GB for a batch",
        ),
        (
            &["--only", "pipeline", "--epochs", "1"],
            1,
            "train_images (DecodeImage): shapes/train/discs_hatched/00001.jpg: not a JPEG, PNG",
        ),
    ];
    for (arguments, code, words) in cases {
        let arguments = [&["profile", "recipe.ron"], arguments].concat();
        let output = rsflow(folder.path(), &arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert!(
            stderr.contains(words),
            "{arguments:?}: `{words}` is not in\n{stderr}"
        );
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

/// A slice of a trace: start, end, name.
type Slice = (f64, f64, String);

#[test]
fn a_trace_follows_the_formats_rules() {
    let folder = workplace();
    for (arguments, tracks) in [
        (
            &["--only", "pipeline", "--epochs", "1"][..],
            &["cpu-0", "cpu-1"][..],
        ),
        (
            &["--only", "both", "--epochs", "1"],
            &["cpu-0", "cpu-1", "trainer"],
        ),
    ] {
        let trace = ["--force", "--trace", "trace.json"];
        profile(folder.path(), &[arguments, &trace].concat());
        let text = std::fs::read_to_string(folder.path().join("trace.json")).unwrap();
        let trace: Value = serde_json::from_str(&text).unwrap();
        let mut names: BTreeMap<u64, String> = BTreeMap::new();
        let mut slices: BTreeMap<u64, Vec<Slice>> = BTreeMap::new();
        let mut counters = 0;
        for event in trace["traceEvents"].as_array().unwrap() {
            let name = event["name"].as_str().unwrap().to_owned();
            assert_eq!(event["pid"], 1, "{event}");
            let tid = event["tid"].as_u64().unwrap();
            let time = |field: &str| {
                let time = event[field].as_f64().unwrap();
                assert!(time >= 0.0, "{event}");
                time
            };
            match event["ph"].as_str().unwrap() {
                "M" if name == "thread_name" => {
                    let thread = event["args"]["name"].as_str().unwrap();
                    assert_eq!(names.insert(tid, thread.to_owned()), None, "{event}");
                }
                "M" => assert_eq!(name, "process_name"),
                "X" => {
                    let start = time("ts");
                    let all = slices.entry(tid).or_default();
                    all.push((start, start + time("dur"), name));
                }
                "C" => {
                    time("ts");
                    assert!(event["args"]["items"].is_u64(), "{event}");
                    counters += 1;
                }
                other => panic!("no event of kind {other} was meant"),
            }
        }
        let mut items = 0;
        for (tid, slices) in &mut slices {
            assert!(names.contains_key(tid), "thread {tid} has a name");
            // The outer one first where two begin together.
            slices.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.total_cmp(&a.1)));
            let mut open: Vec<&Slice> = Vec::new();
            for slice in slices.iter() {
                while open.last().is_some_and(|outer| outer.1 <= slice.0 + 1e-4) {
                    open.pop();
                }
                if let Some(outer) = open.last() {
                    assert!(slice.1 <= outer.1 + 1e-4, "{slice:?} leaves {outer:?}");
                }
                open.push(slice);
                items += usize::from(slice.2 == "train_crops");
            }
        }
        assert_eq!(items, 84, "a slice for each item");
        for track in tracks {
            assert!(
                names.values().any(|name| name == track),
                "{track}: {names:?}"
            );
        }
        assert_eq!(
            counters > 0,
            tracks.contains(&"trainer"),
            "queues with a reader"
        );
    }
}

#[test]
fn an_epoch_too_short_to_judge_gets_no_advice() {
    let folder = tempfile::tempdir().unwrap();
    // Large images for a small network: the trainer waits for them, but for less than ten seconds.
    let parameters = rsflow_pipeline::shapes::ShapesParameters {
        train_images: 48,
        val_images: 8,
        side: 512,
        ..Default::default()
    };
    let shapes = folder.path().join("shapes");
    rsflow_pipeline::shapes::generate(&shapes, &parameters, &mut |_, _| {}).unwrap();
    let data = |half: &str, sizes: &str| {
        format!(
            r#""{half}_files": ImageFolder(root: "shapes/{half}"),
               "{half}_images": DecodeImage(input: "{half}_files", verify: Full),
               {sizes},
               "{half}_batches": Batch(input: "{half}_sizes", size: 4),"#
        )
    };
    let train = data(
        "train",
        r#""train_crops": RandomResizedCrop(input: "train_images"),
           "train_sizes": Resize(input: "train_crops", sizes: [32])"#,
    );
    let val = data(
        "val",
        r#""val_sizes": ResizeAndCenterCrop(input: "val_images", sizes: [32])"#,
    );
    let recipe = format!(
        r#"(cpu_workers: 1, nodes: {{ {train} {val}
            "trainer": RsNet(
                train: "train_batches", validate: "val_batches",
                network: ResNet(depth: 18, width: 8), classes: 8,
                optimizer: Sgd(lr: 0.05), epochs: 2, threads: 1,
            ),
            "log": MetricsLog(input: "trainer.metrics"),
            "checkpoints": Checkpoints(input: "trainer.checkpoints"),
        }})"#
    );
    std::fs::write(folder.path().join("recipe.ron"), recipe).unwrap();
    let output = rsflow(folder.path(), &["run", "recipe.ron", "--run-dir", "out"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(!stderr.contains("; `trainer` could take "), "{stderr}");
}
