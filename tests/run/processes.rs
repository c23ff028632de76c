//! Runs of several processes on this machine.

use std::path::Path;
use std::time::{Duration, Instant};

use rsflow_model::checkpoint::Checkpoint;

use super::{assert_means, command, losses, run, signal, stderr, trainings, wait_for_lines};
use crate::workplace::{QUANTIZED, program, workplace};

fn completed(folder: &Path, arguments: &[&str]) -> String {
    let output = run(folder, arguments);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{arguments:?}: {}",
        stderr(&output)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn bytes(folder: &Path, checkpoint: &str) -> Vec<u8> {
    std::fs::read(folder.join(checkpoint)).unwrap()
}

/// The table, the files of one process, and a log for each; a resume within an epoch has the same bits, also
/// of the quantizers. With another number of processes it continues at the same image.
#[test]
fn two_processes_are_resumed_to_the_bit() {
    let folder = workplace();
    let folder = folder.path();
    let quantized = format!("trainer.network={QUANTIZED}");
    let two = ["--processes", "2", "--set", &quantized];
    let table = completed(folder, &[&two[..], &["--run-dir", "whole"]].concat());
    assert!(table.contains("ensemble"), "{table}");
    assert!(
        table
            .trim_end()
            .ends_with("after 2 epochs (22 steps), 24 validation images"),
        "{table}"
    );
    for file in ["run.log", "run.rank-1.log", "metrics.jsonl", "recipe.ron"] {
        assert!(folder.join("whole").join(file).is_file(), "{file}");
    }
    assert_eq!(losses(&folder.join("whole")).len(), 22);
    assert_means(&folder.join("whole"), 11);

    // Interrupted within the second epoch.
    let arguments = [&two[..], &["--run-dir", "parts"]].concat();
    let child = command(folder, &arguments).spawn().unwrap();
    wait_for_lines(&folder.join("parts/metrics.jsonl"), 15);
    signal(&child, "-INT");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    std::fs::copy(
        folder.join("parts/checkpoints/last.safetensors"),
        folder.join("middle.safetensors"),
    )
    .unwrap();
    let middle = Checkpoint::open(&folder.join("middle.safetensors")).unwrap();
    let step = middle.metadata().step;
    assert!((1..22).contains(&step), "{step}");
    completed(folder, &[&arguments[..], &["--resume"]].concat());
    let last = "checkpoints/last.safetensors";
    let whole = bytes(folder, &format!("whole/{last}"));
    assert!(whole == bytes(folder, &format!("parts/{last}")));
    let epochs = ["whole", "parts"].map(|run| trainings(&folder.join(run)));
    assert_eq!(epochs[0], epochs[1]);

    // One process takes over.
    let alone = ["--set", &quantized, "--run-dir", "alone"];
    let resume = ["--resume", "middle.safetensors"];
    let table = completed(folder, &[&alone[..], &resume].concat());
    assert!(table.contains("(22 steps)"), "{table}");
    let rest = losses(&folder.join("alone"));
    assert_eq!(rest.len() as u64, 22 - step);
}

/// What fails in one process is said once, wherever it was, and ends all within seconds.
#[test]
fn the_first_real_error_ends_all_processes() {
    let folder = workplace();
    let folder = folder.path();
    // The second image of the order is process 1's.
    let images = folder.join("shapes/train");
    let mut classes: Vec<_> = std::fs::read_dir(&images).unwrap().collect();
    classes.sort_by_key(|entry| entry.as_ref().unwrap().path());
    let first = classes[0].as_ref().unwrap().path();
    let mut files: Vec<_> = std::fs::read_dir(&first).unwrap().collect();
    files.sort_by_key(|entry| entry.as_ref().unwrap().path());
    let damaged = files[1].as_ref().unwrap().path();
    std::fs::write(&damaged, b"no image").unwrap();
    let name = damaged.strip_prefix(&images).unwrap().to_str().unwrap();
    let began = Instant::now();
    let in_order = ["--set", "train_files.shuffle=false"];
    let arguments = ["--processes", "2", "--run-dir", "out"];
    let output = run(folder, &[&arguments[..], &in_order].concat());
    let took = began.elapsed();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("process 1 failed") && text.contains(name),
        "{text}"
    );
    let errors = text.replace("on_error: ", "");
    assert_eq!(errors.matches("error: ").count(), 1, "{text}");
    assert!(output.stdout.is_empty(), "no table of a run that failed");
    assert!(took < Duration::from_secs(60), "{took:?}");
}

/// Weights, momentum and the place in the run come from process 0: the others do not see the checkpoint.
#[test]
fn the_first_process_reads_checkpoints_for_all() {
    let (first, second) = (workplace(), workplace());
    let [first, second] = [first.path(), second.path()].map(|path| path.canonicalize().unwrap());
    let adam = [
        "--set",
        "trainer.optimizer=AdamW(lr: 0.01)",
        "--set",
        "trainer.average=Average(decay: 0.9)",
    ];
    let begun = ["--set", "trainer.epochs=1", "--run-dir", "begun"];
    completed(&first, &[&adam[..], &begun].concat());
    let begun = Path::new("begun/checkpoints/last.safetensors");
    std::fs::copy(first.join(begun), first.join("begun.safetensors")).unwrap();

    let start = ["--set", "trainer.start_from=\"begun.safetensors\""];
    let resume = ["--resume", "begun.safetensors", "--accept-changes"];
    for (case, arguments) in [("start", &start[..]), ("resume", &resume)] {
        let arguments = &[&adam[..], arguments].concat();
        let together = format!("{case}_together");
        let two = ["--processes", "2", "--run-dir", &together];
        completed(&first, &[&two[..], arguments].concat());

        let free = || std::net::TcpListener::bind("127.0.0.1:0")?.local_addr();
        let port = free().unwrap().port().to_string();
        let run_dir = first.join(format!("{case}_apart"));
        let processes = [(&first, "0"), (&second, "1")].map(|(folder, rank)| {
            let place = [
                ("RANK", rank),
                ("WORLD_SIZE", "2"),
                ("LOCAL_RANK", rank),
                ("LOCAL_WORLD_SIZE", "2"),
                ("MASTER_ADDR", "127.0.0.1"),
                ("MASTER_PORT", &port),
            ];
            let run_dir = ["--run-dir", run_dir.to_str().unwrap()];
            let mut program = command(folder, &[&run_dir[..], arguments].concat());
            program.envs(place).spawn().unwrap()
        });
        for process in processes {
            let output = process.wait_with_output().unwrap();
            assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        }
        let last = "checkpoints/last.safetensors";
        let [together, apart] = [first.join(together), run_dir].map(|run| bytes(&run, last));
        assert!(together == apart, "{case}");
    }
}

/// With batch norms over more than a process the number of processes changes nothing but rounding, also when
/// a run is resumed with another one: the same images in the same steps, so the same losses.
#[test]
fn losses_do_not_depend_on_the_number_of_processes() {
    let folder = workplace();
    let folder = folder.path();
    let compare = |expected: &[(u64, String)], found: &[(u64, String)], steps, case: &str| {
        assert_eq!(found.len(), expected.len(), "{case}");
        for ((step, expected), (found_step, found)) in expected.iter().zip(found).take(steps) {
            assert_eq!(step, found_step, "{case}");
            let [expected, found] = [expected, found].map(|loss| loss.parse::<f64>().unwrap());
            let off = (found / expected - 1.0).abs();
            assert!(
                off < 1e-3,
                "{case}, step {step}: {found} in place of {expected}"
            );
        }
    };
    // Small steps: rounding is not to grow.
    let common = [
        "--set",
        "train_batches.size=12",
        "--set",
        "val_batches.size=12",
        "--set",
        "trainer.optimizer.lr=0.0001",
        "--set",
        "trainer.precision=Float32",
    ];
    // With few images in a group rounding grows fast.
    for (norms, processes, steps) in [
        ("AllProcesses", &["2", "3"][..], 14),
        ("Groups(6)", &["2"], 5),
    ] {
        let norms_over = format!("trainer.norms_over={norms}");
        let run_of = |name: &str, more: &[&str]| {
            let run_dir = format!("{norms}{name}");
            let arguments = ["--set", &norms_over, "--run-dir", &run_dir];
            completed(folder, &[&common[..], &arguments, more].concat());
            losses(&folder.join(run_dir))
        };
        let alone = run_of("alone", &[]);
        assert_eq!(alone.len(), 14);
        for count in processes {
            let found = run_of(count, &["--processes", count]);
            compare(&alone, &found, steps, &format!("{norms}, {count}"));
        }
        // One process begins, others take over within the second epoch.
        let from = format!("{norms}begun");
        let arguments = ["--set", &norms_over, "--run-dir", &from];
        let child = command(folder, &[&common[..], &arguments].concat()).spawn();
        wait_for_lines(&folder.join(&from).join("metrics.jsonl"), 9);
        let child = child.unwrap();
        signal(&child, "-INT");
        assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130));
        let found = run_of(
            "begun",
            &["--processes", processes.last().unwrap(), "--resume"],
        );
        compare(&alone, &found, steps, &format!("{norms}, resumed"));
    }
}

#[test]
fn what_cannot_be_shared_out_is_refused() {
    let folder = workplace();
    let folder = folder.path();
    for (arguments, environment, code, words) in [
        (
            &["--processes", "3"][..],
            &[][..],
            1,
            "`size: 8` cannot be shared out evenly among 3 processes",
        ),
        (
            &[
                "--processes",
                "2",
                "--set",
                "train_files.shuffle=false",
                "--set",
                "train_files.train_images=83",
                "--set",
                "train_files.root=others",
            ],
            &[],
            1,
            "cannot be shared out evenly among 2 processes: set `shuffle: true`",
        ),
        (
            &[],
            &[("RANK", "0"), ("WORLD_SIZE", "2")],
            2,
            "set MASTER_ADDR",
        ),
        (
            &["--processes", "3"],
            &[("RANK", "0"), ("WORLD_SIZE", "2")],
            2,
            "this is one of 2 already",
        ),
        (&["--processes", "0"], &[], 2, "0 is not in 1..=1024"),
    ] {
        let mut program = program(folder, &["run", "recipe.ron"]);
        let output = program
            .args(arguments)
            .envs(environment.iter().copied())
            .output();
        let output = output.unwrap();
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        assert!(text.contains(words), "{arguments:?}: {text}");
        assert!(!folder.join("runs").exists(), "{arguments:?}");
    }
}

/// Sums of all sizes, and a step with and without its exchange, in JSON and as text.
#[test]
fn what_an_exchange_costs_is_measured() {
    let folder = workplace();
    let folder = folder.path();
    let bench = |arguments: &[&str]| {
        let words = [
            "bench",
            "recipe.ron",
            "--only",
            "exchange",
            "--seconds",
            "0.2",
        ];
        let output = program(folder, &[&words[..], arguments].concat())
            .output()
            .unwrap();
        let text = stderr(&output);
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
            text,
        )
    };
    let (code, text, errors) = bench(&["--json", "-"]);
    assert_eq!(code, Some(0), "{errors}");
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["processes"], 2);
    assert_eq!(json["sums"].as_array().unwrap().len(), 4);
    let step = &json["step"];
    assert_eq!(step["images"], 4);
    assert_eq!(step["alone"].as_array().unwrap().len(), 2);
    let (with, waited) = (&step["exchanged"], &step["waited"]);
    assert!(with.as_f64().unwrap() > waited.as_f64().unwrap(), "{text}");
    assert!(step["gradient_bytes"].as_u64().unwrap() > 100_000, "{text}");
    let half = ["--set", "trainer.exchange=BFloat16", "--json", "-"];
    let (_, text, _) = bench(&half);
    let in_half: serde_json::Value = serde_json::from_str(&text).unwrap();
    let bytes = |json: &serde_json::Value| json["step"]["gradient_bytes"].as_u64().unwrap();
    assert_eq!(2 * bytes(&in_half), bytes(&json));
    for (arguments, code, words) in [
        (
            &["--batch", "9"][..],
            2,
            "cannot be shared out evenly among 2 processes",
        ),
        (&["--only", "step"], 2, "leave the other parts out"),
    ] {
        let (found, _, errors) = bench(arguments);
        assert_eq!(found, Some(code), "{errors}");
        assert_eq!(errors.matches(words).count(), 1, "{errors}");
    }
    let (code, text, errors) = bench(&[]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(text.contains("of that step process 0 waits"), "{text}");
}

#[test]
fn a_profile_of_processes_says_how_long_each_waits() {
    let folder = workplace();
    let profile = |options: &[&str]| {
        let arguments = [
            "profile",
            "recipe.ron",
            "--processes",
            "2",
            "--seconds",
            "0.5",
        ];
        let output = program(folder.path(), &[&arguments[..], options].concat())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let json: serde_json::Value = serde_json::from_str(&profile(&["--json", "-"])).unwrap();
    let shares = json["processes"].as_array().unwrap();
    assert_eq!(shares.len(), 2);
    for (process, share) in shares.iter().enumerate() {
        assert_eq!(share["process"], process);
        assert_eq!(share["bytes_per_step"], shares[0]["bytes_per_step"]);
        assert!(
            share["bytes_per_step"].as_u64().unwrap() > 4 * 170_000,
            "{share}"
        );
        let waits = share["wait_others_share"].as_f64().unwrap();
        assert!((0.0..1.0).contains(&waits), "{share}");
        assert!(share["step_us"].as_f64().unwrap() > 0.0, "{share}");
    }
    let table = profile(&["--only", "trainer"]);
    assert!(table.contains("waits for others"), "{table}");
    assert!(table.contains("is the slowest"), "{table}");
    // Data nodes exchange nothing.
    assert!(!profile(&["--only", "pipeline"]).contains("waits for others"));
}
