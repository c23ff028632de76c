//! [`Recorder`] against a stand-in for CUPTI, see `fake_cupti.c`.
//!
//! Each scenario runs in a process of its own, which is this test again: the stand-in is steered by the
//! environment, and a process has one CUPTI.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rsflow_cupti::{Activity, CopyKind, Lost, Recorder, Recording, Shares, What};

/// Names the scenario of the process.
const SCENARIO: &str = "RSFLOW_TEST_SCENARIO";

/// Compiles the stand-in.
fn fake(folder: &Path) -> PathBuf {
    let library = folder.join("libfake_cupti.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake_cupti.c");
    let status = Command::new("cc")
        .args([
            "-shared", "-fPIC", "-pthread", "-Wall", "-Wextra", "-Werror", "-o",
        ])
        .arg(&library)
        .arg(source)
        .status();
    assert!(status.expect("a C compiler").success());
    library
}

/// Runs a scenario with the stand-in, and these variables.
fn run(scenario: &str, variables: &[(&str, &str)]) {
    let folder = tempfile::tempdir().unwrap();
    let library = fake(folder.path());
    run_with(scenario, Some(&library), variables);
}

fn run_with(scenario: &str, library: Option<&Path>, variables: &[(&str, &str)]) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "scenario", "--nocapture"]);
    command.env(SCENARIO, scenario).env_remove("RSFLOW_CUPTI");
    if let Some(library) = library {
        command.env("RSFLOW_CUPTI", library);
    }
    command.envs(variables.iter().copied());
    let output = command.output().unwrap();
    let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{scenario} with {variables:?}: {}\n{}{}",
        output.status,
        shown(&output.stdout),
        shown(&output.stderr)
    );
    assert!(shown(&output.stdout).contains("1 passed"), "it did not run");
}

#[test]
#[ignore = "what the other tests start"]
fn scenario() {
    match std::env::var(SCENARIO).as_deref() {
        Ok("records") => records(),
        Ok("limit") => limit(),
        Ok("one at a time") => one_at_a_time(),
        Ok("dropped") => dropped(),
        Ok("start fails") => print_error(Recorder::start().err()),
        Ok("stop fails") => print_error(Recorder::start().unwrap().stop().err()),
        Ok("fails once") => {
            print_error(Recorder::start().and_then(Recorder::stop).err());
            assert_eq!(recorded().len(), 7);
        }
        other => panic!("no scenario {other:?}"),
    }
}

/// Compares an error with what the parent expects of it.
fn print_error(error: Option<anyhow::Error>) {
    let error = format!("{:#}", error.expect("an error"));
    let expected = std::env::var("EXPECTED").unwrap();
    for part in expected.split('|') {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
}

fn recorded() -> Recording {
    Recorder::start().unwrap().stop().unwrap()
}

fn activity(start: u64, end: u64, device: u32, what: What) -> Activity {
    Activity {
        start,
        end,
        device,
        what,
    }
}

/// What the stand-in hands out.
fn all() -> Vec<Activity> {
    let kernel = |name: &str| What::Kernel(name.into());
    let copy = |kind, bytes| What::Copy { kind, bytes };
    vec![
        activity(1000, 1500, 0, kernel("_Z5firstv")),
        activity(1600, 1605, 1, copy(CopyKind::HostToDevice, 1 << 20)),
        activity(1700, 1705, 2, What::Set { bytes: 64 }),
        activity(1 << 44, (1 << 44) + 7, 3, kernel("_Z6secondv")),
        activity(1400, 1900, 0, kernel("_Z5firstv")),
        activity(2000, 2005, 0, copy(CopyKind::Other(4), 3)),
        activity(2100, 2200, 0, kernel("(no name)")),
    ]
}

fn records() {
    for _ in 0..3 {
        let recording = recorded();
        assert_eq!(recording.activities, all());
        let number = |variable| {
            let text = std::env::var(variable);
            text.map_or(0, |text| text.parse().unwrap())
        };
        let lost = Lost {
            dropped: number("FAKE_CUPTI_DROPPED"),
            over_limit: 0,
            untimed: 1,
            cut_buffers: number("FAKE_CUPTI_CUT"),
        };
        assert_eq!(recording.lost, lost);
        assert!(recording.lost.any());
        let (instant, _) = recording.clocks;
        let later = instant + Duration::from_micros(3);
        assert_eq!(recording.clock(later), 3500);
        assert_eq!(recording.clock(instant - Duration::from_secs(1)), 0);
        // A recording is a slice of activities.
        let shares = Shares::within(&recording, 1000..2000, 9);
        assert_eq!((shares.busy_ns, shares.kernels[0].count), (900, 2));
    }
}

fn limit() {
    let recording = Recorder::with_limit(3).unwrap().stop().unwrap();
    assert_eq!(recording.activities, &all()[..3]);
    assert_eq!(recording.lost.over_limit, 4);
    assert_eq!(
        recording.lost.to_string(),
        "0 activities dropped by CUPTI, 4 over the limit, 1 without times, 0 buffers cut short"
    );
}

fn one_at_a_time() {
    let first = Recorder::start().unwrap();
    let error = Recorder::start().unwrap_err().to_string();
    assert!(error.contains("already being recorded"), "{error}");
    // The second one has not disturbed the first one, which may move to another thread.
    let first = std::thread::spawn(|| first.stop().unwrap()).join().unwrap();
    assert_eq!(first.activities, all());
    assert_eq!(recorded().activities, all());
}

fn dropped() {
    for _ in 0..3 {
        drop(Recorder::start().unwrap());
    }
    // The kinds were disabled (else the stand-in refuses), and nothing is left of the first ones.
    let recording = recorded();
    assert_eq!(recording.activities, all());
    assert_eq!(recording.lost.dropped, 5);
}

#[test]
fn records_come_out_right_for_every_version() {
    for version in ["18", "28", "130000", "130500", "139999"] {
        run("records", &[("FAKE_CUPTI_VERSION", version)]);
    }
}

#[test]
fn what_is_missing_is_counted() {
    run("records", &[("FAKE_CUPTI_DROPPED", "42")]);
    run("records", &[("FAKE_CUPTI_CUT", "1")]);
    run("limit", &[]);
}

#[test]
fn only_one_recorder_runs() {
    run("one at a time", &[]);
}

#[test]
fn a_dropped_recorder_leaves_nothing_behind() {
    run("dropped", &[("FAKE_CUPTI_DROPPED", "5")]);
}

#[test]
fn each_failing_call_is_named() {
    for (scenario, function) in [
        ("start fails", "cuptiGetVersion"),
        ("start fails", "cuptiActivityRegisterCallbacks"),
        ("start fails", "cuptiActivityEnable"),
        ("start fails", "cuptiGetTimestamp"),
        ("stop fails", "cuptiActivityDisable"),
        ("stop fails", "cuptiActivityFlushAll"),
        ("stop fails", "cuptiActivityGetNextRecord"),
        ("stop fails", "cuptiActivityGetNumDroppedRecords"),
    ] {
        let says = format!("CUPTI does not work: {function} says FAKE_ERROR_8 (8)");
        run(
            scenario,
            &[("FAKE_CUPTI_FAIL", function), ("EXPECTED", &says)],
        );
        // The next recorder works.
        run(
            "fails once",
            &[
                ("FAKE_CUPTI_FAIL", function),
                ("FAKE_CUPTI_FAIL_TIMES", "1"),
                ("EXPECTED", &says),
            ],
        );
    }
    for (code, expected) in [
        ("39", "FAKE_ERROR_39 (39)|help: another profiler"),
        ("35", "FAKE_ERROR_35 (35)|help: the driver's option"),
    ] {
        let variables = [
            ("FAKE_CUPTI_FAIL", "cuptiActivityEnable"),
            ("FAKE_CUPTI_CODE", code),
            ("EXPECTED", expected),
        ];
        run("start fails", &variables);
    }
    let mute = [
        ("FAKE_CUPTI_FAIL", "cuptiActivityEnable"),
        ("FAKE_CUPTI_MUTE", "1"),
        ("EXPECTED", "cuptiActivityEnable says error 8"),
    ];
    run("start fails", &mute);
}

#[test]
fn other_versions_are_refused() {
    for version in ["0", "17", "100", "120000", "140000"] {
        let says = format!("libfake_cupti.so is CUPTI of version {version}|help:");
        run(
            "start fails",
            &[("FAKE_CUPTI_VERSION", version), ("EXPECTED", &says)],
        );
    }
}

#[test]
fn a_missing_library_is_told() {
    let nowhere = Path::new("/nowhere/libcupti.so");
    let expected = [(
        "EXPECTED",
        "`RSFLOW_CUPTI` names no CUPTI: /nowhere/libcupti.so",
    )];
    run_with("start fails", Some(nowhere), &expected);
    // A library, but another one.
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("libempty.so");
    let source = folder.path().join("empty.c");
    std::fs::write(&source, "int empty;\n").unwrap();
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(&source);
    assert!(cc.status().unwrap().success());
    let expected = [("EXPECTED", "libempty.so has no cuptiGetVersion")];
    run_with("start fails", Some(&library), &expected);
}

#[test]
fn without_a_driver_there_is_nothing_to_record() {
    // With a driver, this program has still no CUPTI, unless it is installed for all programs.
    if ["/dev/nvidiactl", "/usr/lib/wsl"]
        .iter()
        .any(|path| Path::new(path).exists())
    {
        return;
    }
    run_with(
        "start fails",
        None,
        &[("EXPECTED", "no NVIDIA driver is installed|libcuda.so.1")],
    );
}

#[test]
fn a_driver_without_cupti_is_told() {
    // A driver of the right name, in a folder where the loader looks first.
    let folder = tempfile::tempdir().unwrap();
    let fake = fake(folder.path());
    std::fs::rename(fake, folder.path().join("libcuda.so.1")).unwrap();
    let looked = folder.path().to_str().unwrap();
    let expected = "CUPTI, NVIDIA's library for profilers, was not found|libcupti.so.13, libcupti.so.12|\
                    pip install nvidia-cuda-cupti|RSFLOW_CUPTI";
    let variables = [("LD_LIBRARY_PATH", looked), ("EXPECTED", expected)];
    if !Path::new("/dev/nvidiactl").exists() {
        run_with("start fails", None, &variables);
    }
    // One that the loader finds by its name.
    let cupti = folder.path().join("libcupti.so.12");
    std::fs::copy(folder.path().join("libcuda.so.1"), cupti).unwrap();
    run_with("records", None, &[("LD_LIBRARY_PATH", looked)]);
}
