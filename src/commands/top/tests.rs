//! Pictures of runs in every state, on terminals of every size.

use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::picture::draw;
use super::watched::Watched;
use super::*;
use crate::now::{Node, Now, Queue, State, Validation};
use crate::run_log::RunLog;

/// Of all pictures.
fn time() -> Timestamp {
    "2026-11-29T07:30:00Z".parse().unwrap()
}

fn node(name: &str, kind: &str, busy: f64, queue: Option<(Option<f64>, u64)>) -> Node {
    Node {
        name: name.to_owned(),
        kind: kind.to_owned(),
        works_on: "workers".to_owned(),
        items: 1_234_567,
        items_per_second: 812.4,
        busy_share: busy,
        wait_input_share: 0.25,
        wait_output_share: 0.5,
        queue: queue.map(|(waiting, bound)| Queue { waiting, bound }),
    }
}

fn now() -> Now {
    Now {
        format: 1,
        written: Some(time()),
        host: "node7".to_owned(),
        pid: 4711,
        processes: 1,
        state: State::Running,
        epoch: Some(3),
        epochs: Some(8),
        step: Some(1240),
        step_in_epoch: Some(40),
        steps_per_epoch: Some(600),
        seconds_left: Some(3723.0),
        images_per_second: Some(812.3),
        loss: Some(8.92491),
        learning_rate: Some(0.0123),
        peak_gpu_bytes: Some(3_100_000_000),
        workers: 6,
        cores: 8,
        verdict: Some("`trainer` (RsNet) is the limit: it takes 812 images/s".to_owned()),
        seconds: 2.0,
        nodes: vec![
            node("train_files", "ImageFolder", 0.05, None),
            node("train_images", "DecodeImage", 0.93, None),
            node("trainer", "RsNet", 0.7, Some((Some(1.5), 2))),
            node("log", "MetricsLog", 0.001, Some((None, 64))),
        ],
        ..Now::default()
    }
}

/// A log of so many steps with a loss that falls, and two validations.
fn log(steps: u64) -> RunLog {
    let mut text = String::new();
    for step in 1..=steps {
        let loss = 9.0 / step as f64;
        text += &format!(
            "{{\"format\":2,\"kind\":\"step\",\"epoch\":1,\"step\":{step},\"loss\":{loss},\"images_per_second\":80.0}}\n"
        );
    }
    for epoch in 1..=2 {
        let top1 = 20.0 * epoch as f64;
        text += &format!(
            "{{\"format\":2,\"kind\":\"epoch\",\"epoch\":{epoch},\"step\":{},\"rows\":[{{\"resolution\":64,\"top1\":{top1}}},{{\"resolution\":null,\"top1\":{}}}]}}\n",
            epoch * steps / 2,
            top1 + 1.5
        );
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(METRICS), text).unwrap();
    RunLog::read(folder.path()).unwrap()
}

fn view<'a>(now: Option<&'a Now>, log: &'a RunLog, problems: &'a [String]) -> View<'a> {
    View {
        name: "/runs/mine",
        now,
        was_killed: false,
        age: Some(Duration::from_secs(1)),
        log,
        problems,
        time: time(),
    }
}

fn check(view: &View, columns: u16, expected: &[&str]) {
    let text = text(view, columns);
    for words in expected {
        assert!(text.contains(words), "{words} is not in\n{text}");
    }
}

#[test]
fn a_running_run() {
    check(
        &view(Some(&now()), &log(100), &[]),
        110,
        &[
            "/runs/mine\nrunning  on node7, process 4711\n",
            "loss 9.000 to 0.090",
            "1.5 of 2",
        ],
    );
    check(
        &view(Some(&now()), &RunLog::default(), &[]),
        80,
        &["epoch 3/8  step 40/600", "train_images"],
    );
}

#[test]
fn other_states_say_what_is_the_case() {
    let log = log(4);
    let first = |now: &Now, age: u64| {
        let mut view = view(Some(now), &log, &[]);
        view.age = Some(Duration::from_secs(age));
        text(&view, 100)
    };
    let with = |state| Now { state, ..now() };
    for (state, age, expected) in [
        (State::Running, 10, "\nrunning  on node7, process 4711\n"),
        (
            State::Running,
            11,
            "\nrunning  no sign of life for 11 s  on node7",
        ),
        (
            State::Validating,
            7200,
            "\nvalidating  no sign of life for 2:00:00  on",
        ),
        (State::Finished, 7200, "\nfinished  on node7"),
        (State::Stopped, 7200, "\nstopped  on node7"),
        (State::Unknown, 1, "\nunknown  on node7"),
    ] {
        let text = first(&with(state), age);
        assert!(text.contains(expected), "{text}");
    }
    let failed = Now {
        state: State::Failed,
        error: Some("`train_files`: no such folder\n  caused by: \x1b[31mdisk".to_owned()),
        processes: 4,
        started: Some("2026-11-29T07:00:00Z".parse().unwrap()),
        ..now()
    };
    let text = first(&failed, 1);
    for expected in [
        "failed  on node7, process 4711, the first of 4 processes  since ",
        " (30:00)\n",
        "`train_files`: no such folder\n",
        "caused by: \\u{1b}[31mdisk",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    let validating = Now {
        validation: Some(Validation { batches: 3, of: 10 }),
        ..with(State::Validating)
    };
    let text = first(&validating, 1);
    assert!(
        text.contains("epoch 3/8  validating, batch 3/10  38 %"),
        "{text}"
    );
}

#[test]
fn without_its_nodes_a_run_shows_its_log() {
    check(
        &view(None, &log(4), &[]),
        80,
        &["Nodes are not shown: there is no now.json"],
    );
    let none = RunLog::default();
    check(&view(None, &none, &[]), 80, &["nothing is logged yet"]);
    let problems = ["now.json cannot be read: EOF".to_owned()];
    check(
        &view(None, &none, &problems),
        80,
        &["now.json cannot be read: EOF"],
    );
}

#[test]
fn names_from_outside_are_not_obeyed() {
    let evil = "a\x1b[2Jb\u{202e}c";
    let now = Now {
        host: evil.to_owned(),
        verdict: Some(evil.to_owned()),
        nodes: vec![node(evil, evil, f64::NAN, None), node("", "", 1e300, None)],
        ..now()
    };
    let text = text(&view(Some(&now), &RunLog::default(), &[]), 200);
    assert_eq!(text.matches("a\\u{1b}[2Jb\\u{202e}c").count(), 4, "{text}");
    assert!(!text.contains('\x1b'), "{text}");
}

#[test]
fn no_size_of_a_terminal_is_too_small_or_too_large() {
    let many = Now {
        nodes: (0..500)
            .map(|at| node(&format!("猫 node {at}"), "Kind", 0.5, None))
            .collect(),
        seconds_left: Some(f64::MAX),
        epochs: Some(u64::MAX),
        validation: Some(Validation::default()),
        ..now()
    };
    let odd = Now {
        epoch: Some(0),
        epochs: Some(0),
        seconds_left: Some(-1.0),
        ..now()
    };
    let (empty, full) = (RunLog::default(), log(1000));
    let problems = ["something is wrong here ".repeat(20)];
    for now in [None, Some(&now()), Some(&many), Some(&odd)] {
        for log in [&empty, &full] {
            for (width, height) in [
                (0, 0),
                (1, 1),
                (3, 50),
                (40, 10),
                (41, 4),
                (80, 24),
                (400, 3),
                (300, 200),
            ] {
                let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
                for problems in [&[][..], &problems] {
                    let view = view(now, log, problems);
                    let drawn =
                        terminal.draw(|frame| draw(&view, frame.area(), true, frame.buffer_mut()));
                    drawn.unwrap();
                }
            }
        }
    }
}

#[test]
fn a_small_terminal_has_the_state_and_the_first_nodes() {
    let mut terminal = Terminal::new(TestBackend::new(40, 10)).unwrap();
    let (now, log) = (now(), log(100));
    let view = view(Some(&now), &log, &[]);
    terminal
        .draw(|frame| draw(&view, frame.area(), true, frame.buffer_mut()))
        .unwrap();
    let drawn = terminal.backend().to_string();
    assert!(
        drawn.contains("running") && drawn.contains("train_files"),
        "{drawn}"
    );
}

#[test]
fn a_run_is_silent_until_its_file_changes() {
    let folder = tempfile::tempdir().unwrap();
    let write = |step| {
        let now = Now {
            step: Some(step),
            written: Some("2026-11-29T07:00:00Z".parse().unwrap()),
            ..now()
        };
        std::fs::write(folder.path().join(NOW), serde_json::to_vec(&now).unwrap()).unwrap();
    };
    let mut watched = Watched::new(folder.path());
    let age = |watched: &Watched| watched.view(time()).age;
    watched.update();
    assert_eq!(age(&watched), None);
    for _ in 0..2 {
        write(1);
        watched.update();
        assert_eq!(age(&watched), Some(Duration::from_secs(1800)));
    }
    // The clock there is half an hour late.
    write(2);
    watched.update();
    assert!(age(&watched) < Some(Duration::from_secs(1800)));

    // What was read stays when the file cannot be read for a moment.
    std::fs::write(folder.path().join(NOW), "{").unwrap();
    watched.update();
    let view = watched.view(time());
    assert_eq!(view.now.unwrap().step, Some(2));
    assert!(
        view.problems[0].starts_with("now.json cannot be read: EOF"),
        "{:?}",
        view.problems
    );
}
