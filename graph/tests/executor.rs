//! What the executor promises, by behaviour.

mod toy;

use std::process::Command;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use rsflow_graph::{
    Feed, FeedWith, Finished, Options, Payload, Plan, Position, RunContext, RunError, Running, Tap,
    Trace, World,
};
use toy::{Collect, FETCHED, Number, Numbers, plan};

const CHAIN: &str = r#"
    "source": Count(to: 50, shuffle: true),
    "noise":  Noise(input: "source", delay: 300),
    "more":   Noise(input: "noise"),
    "groups": Group(input: "more", size: 8),
    "learn":  Learn(input: "groups", epochs: 3),
    "seen":   KeepGroups(input: "learn.seen"),
    "ends":   Keep(input: "learn.ends"),
"#;

/// Runs a plan and returns what one output yielded.
fn collect<T: Payload>(
    plan: &Plan,
    node: &str,
    output: usize,
) -> (Result<Finished, RunError>, Vec<T>) {
    collect_as(World::default(), plan, node, output)
}

/// The same as one of several processes.
fn collect_as<T: Payload>(
    world: World,
    plan: &Plan,
    node: &str,
    output: usize,
) -> (Result<Finished, RunError>, Vec<T>) {
    let sink = Collect::<T>::default();
    let items = sink.items.clone();
    let options = Options {
        run: RunContext {
            world,
            ..RunContext::default()
        },
        taps: vec![tap(node, output, sink)],
        epochs: Some(2),
        ..Options::default()
    };
    let result = Running::start(plan, options).and_then(Running::wait);
    let items = std::mem::take(&mut *items.lock().unwrap());
    (result, items)
}

fn tap<T: Payload>(node: &str, output: usize, sink: Collect<T>) -> Tap {
    Tap {
        node: node.to_owned(),
        output,
        sink: Box::new(sink),
        name: "test",
    }
}

#[test]
fn the_stream_is_the_same_for_any_number_of_workers() {
    let streams: Vec<Vec<Numbers>> = [1, 2, 7]
        .map(|workers| {
            let plan = plan(CHAIN, &[&format!("cpu_workers={workers}")]);
            let (result, stream) = collect::<Numbers>(&plan, "learn", 0);
            result.unwrap();
            stream
        })
        .into();
    assert_eq!(streams[0].len(), 3 * 7, "50 items make 7 groups an epoch");
    assert_eq!(streams[0][6].0.len(), 2, "the last partial group is kept");
    assert_ne!(streams[0][0], streams[0][7], "epochs differ");
    assert_eq!(streams[0], streams[1]);
    assert_eq!(streams[0], streams[2]);
}

#[test]
fn a_stream_resumed_in_mid_epoch_is_the_rest_of_the_stream() {
    let (_, whole) = collect::<Numbers>(&plan(CHAIN, &[]), "learn", 0);
    let resumed = plan(CHAIN, &["learn.start=(1, 24)"]);
    let (result, rest) = collect::<Numbers>(&resumed, "learn", 0);
    result.unwrap();
    assert_eq!(rest, whole[7 + 3..]);
}

#[test]
fn nodes_with_several_readers_feed_them_all() {
    let plan = plan(
        r#""source": Count(to: 20),
           "a": Noise(input: "source"), "b": Noise(input: "source", delay: 200),
           "keep_a": Keep(input: "a"), "keep_b": Keep(input: "b"),"#,
        &[],
    );
    let (result, a) = collect::<Number>(&plan, "a", 0);
    let measured = result.unwrap().measured;
    assert_eq!(
        a.iter().map(|n| n.0 / 1000).collect::<Vec<_>>(),
        (0..20).chain(0..20).collect::<Vec<_>>()
    );
    for name in ["source", "a", "b", "keep_a", "keep_b"] {
        let node = measured.iter().find(|m| m.node.name == name).unwrap();
        assert_eq!(node.items, 40, "{name}");
    }
}

#[test]
fn a_last_group_can_be_dropped() {
    let (result, groups) = collect::<Numbers>(&plan(CHAIN, &["groups.drop_last=true"]), "learn", 0);
    result.unwrap();
    assert_eq!(groups.len(), 3 * 6);
    assert!(groups.iter().all(|group| group.0.len() == 8));
}

#[test]
fn a_failure_names_the_node_and_the_item_and_ends_every_thread() {
    if !alone("a_failure_names_the_node_and_the_item_and_ends_every_thread") {
        return;
    }
    for (field, words) in [
        (
            "noise.fail=[11]",
            "noise (Noise): number 11: 11 is not liked",
        ),
        (
            "noise.panic=[11]",
            "noise (Noise): number 11: a bug in this node, please report it: it panicked: 11 is feared",
        ),
    ] {
        let before = threads();
        let (result, _) = collect::<Numbers>(&plan(CHAIN, &[field, "cpu_workers=3"]), "learn", 0);
        let error = result.unwrap_err().to_string();
        let (said, help) = error.split_once("\n  help: ").unwrap();
        assert_eq!(said, words);
        assert!(
            help.starts_with("`on_error: Skip(budget: 0.01)` in this node"),
            "{help}"
        );
        assert_threads_are(before);
    }
}

#[test]
fn a_thread_learns_of_the_failure_and_can_still_send() {
    let plan = plan(CHAIN, &["noise.fail=[11]"]);
    let (result, ends) = collect::<Number>(&plan, "learn", 1);
    assert!(result.is_err());
    assert_eq!(ends.last(), Some(&Number(u64::MAX)));
}

#[test]
fn skipped_items_are_named_and_replaced() {
    // Noise dislikes numbers, the source does not get to the end of them. One worker: it is lost to
    // the first of those.
    for (node, says, skip) in [
        (
            "noise",
            "is not liked",
            ["noise.fail=[11, 12]", "noise.skip=2"].as_slice(),
        ),
        (
            "source",
            "read timed out before",
            &[
                "source.hang=[11, 12]",
                "source.skip=2",
                "source.read_timeout=200",
                "cpu_workers=1",
            ],
        ),
    ] {
        let clean = collect::<Numbers>(&plan(CHAIN, &[]), "learn", 0).1;
        let (result, groups) = collect::<Numbers>(&plan(CHAIN, skip), "learn", 0);
        let skipped = result.unwrap().skipped;
        let names: Vec<&str> = skipped.iter().map(|s| s.item.as_str()).collect();
        assert_eq!(
            names,
            ["number 11", "number 12"],
            "each once, whatever the epochs"
        );
        for skipped in &skipped {
            assert_eq!(skipped.node, node);
            assert!(skipped.reason.contains(says), "{skipped:?}");
            // Once an epoch; more often where it was drawn as a replacement.
            assert!(skipped.times >= 3, "{skipped:?}");
        }
        let (clean, groups) = (flat(&clean), flat(&groups));
        assert_eq!(clean.len(), groups.len(), "groups keep their size");
        let moved = clean.iter().zip(&groups).filter(|(a, b)| a != b).count();
        assert_eq!(moved, 6, "no other item moves");
        // A second reader of `noise` cuts the chain into two segments.
        let read_twice = format!(r#"{CHAIN} "keep": Keep(input: "noise")"#);
        for (chain, workers) in [(CHAIN, "cpu_workers=5"), (&read_twice, "cpu_workers=2")] {
            let again = plan(chain, &[skip, &[workers]].concat());
            let again = collect::<Numbers>(&again, "learn", 0).1;
            assert_eq!(
                flat(&again),
                groups,
                "replacements depend on the item alone"
            );
        }
    }
}

#[test]
fn what_cannot_be_skipped_any_more_ends_the_run() {
    let all: Vec<u64> = (0..50).collect();
    let all = format!("noise.fail={all:?}");
    let hang: Vec<u64> = (0..70).collect();
    let hang = format!("source.hang={hang:?}");
    for (overrides, words) in [
        (
            ["noise.fail=[11, 12]", "noise.skip=1"].as_slice(),
            "more than 1 of 50 samples are damaged, the budget of `on_error`",
        ),
        (
            &[&all, "noise.skip=50"],
            "100 replacements drawn for it are damaged too",
        ),
        (
            &[
                "source.hang=[11]",
                "source.read_timeout=200",
                "cpu_workers=1",
            ],
            "source (Count): number 11: read timed out after 0.2 s",
        ),
        (
            &[
                &hang,
                "source.to=100",
                "source.skip=100",
                "source.read_timeout=50",
                "cpu_workers=8",
            ],
            "source (Count): cannot replace the threads whose reads hang, of `number ",
        ),
    ] {
        let (result, _) = collect::<Numbers>(&plan(CHAIN, overrides), "learn", 0);
        let error = result.unwrap_err();
        assert_eq!(error.failures.len(), 1, "{error}");
        assert!(error.to_string().contains(words), "{error}");
        let skips = overrides.iter().any(|set| set.contains("skip"));
        assert_eq!(!error.skipped.is_empty(), skips, "{:?}", error.skipped);
    }
}

/// What each of `size` processes gets of 50 numbers, in groups of 24 in all.
fn shards(size: u32, overrides: &[&str]) -> Vec<Vec<Numbers>> {
    let streams = (0..size).map(|rank| {
        // The replacement of a number that fails does not depend on the world either.
        let all = ["groups.size=24", "noise.fail=[12]", "noise.skip=1"];
        let plan = plan(CHAIN, &[&all, overrides].concat());
        let world = World {
            rank,
            size,
            ..World::default()
        };
        let (result, groups) = collect_as::<Numbers>(world, &plan, "learn", 0);
        result.unwrap();
        groups
    });
    streams.collect()
}

/// The numbers of one step of all shards, sorted: the order within a batch does not matter.
fn union(shards: &[Vec<Numbers>], step: usize) -> Vec<u64> {
    let groups = shards.iter().filter_map(|groups| groups.get(step));
    let mut numbers = flat(&groups.cloned().collect::<Vec<_>>());
    numbers.sort_unstable();
    numbers
}

#[test]
fn shards_read_together_what_one_process_reads() {
    let single = shards(1, &["learn.epochs=2"]);
    for world in [2, 3, 4, 8] {
        let whole = shards(world, &["learn.epochs=1"]);
        for step in 0..3 {
            assert_eq!(union(&whole, step), union(&single, step), "{world}, {step}");
        }
        let padded = shards(world, &["learn.epochs=2", "source.pad=true"]);
        let length = 50_usize.div_ceil(world as usize);
        for stream in &padded {
            assert_eq!(flat(stream).len(), 2 * length, "all are equally long");
            assert_eq!(stream.len(), 2 * 3, "all take the same number of steps");
        }
        for step in [0, 1, 3, 4] {
            assert_eq!(
                union(&padded, step),
                union(&single, step),
                "{world}, {step}"
            );
        }
        let (last, rest) = (union(&padded, 2), union(&single, 2));
        assert_eq!(last.len(), length * world as usize - 48);
        assert!(rest.iter().all(|number| last.contains(number)), "{world}");
    }
}

/// The last group of 47 numbers is not full in any world, though padding could fill it.
#[test]
fn a_last_group_is_dropped_in_every_world_alike() {
    for world in [1, 2, 3, 4] {
        let overrides = [
            "source.to=47",
            "source.pad=true",
            "groups.drop_last=true",
            "learn.epochs=1",
        ];
        for stream in shards(world, &overrides) {
            assert_eq!(stream.len(), 1, "{world}");
        }
    }
}

/// A run may stop after any sample and be resumed by another number of processes: the rest of its
/// epoch is dealt out anew, and each step of all of them has the samples that one process would have.
#[test]
fn shards_start_at_any_sample() {
    for start in [24, 30, 49, 50] {
        let learn = format!("learn.start=(1, {start})");
        let rest = ["learn.epochs=2", "source.pad=true", &learn];
        let single = shards(1, &rest);
        let left = 50 - start;
        assert_eq!(flat(&single[0]).len(), left, "from {start}");
        for world in [2, 3, 4] {
            let parts = shards(world, &rest);
            let steps = left.div_ceil(24);
            for part in &parts {
                assert_eq!(part.len(), steps, "{world} from {start}");
                assert_eq!(flat(part).len(), left.div_ceil(world as usize));
            }
            for step in 0..steps {
                let (all, whole) = (union(&parts, step), union(&single, step));
                match whole.len() {
                    24 => assert_eq!(all, whole, "{world} from {start}"),
                    // Padded; how long it is was compared above.
                    _ => assert!(whole.iter().all(|number| all.contains(number))),
                }
            }
        }
    }
    let whole = shards(3, &["source.pad=true", "learn.epochs=3"]);
    let resumed = shards(
        3,
        &["source.pad=true", "learn.epochs=3", "learn.start=(1, 24)"],
    );
    for (whole, resumed) in whole.iter().zip(resumed) {
        assert_eq!(resumed, whole[3 + 1..], "at a group's end, the same shards");
    }
}

fn flat(groups: &[Numbers]) -> Vec<u64> {
    groups.iter().flat_map(|group| group.0.clone()).collect()
}

#[test]
fn a_slow_reader_stops_the_source() {
    if !alone("a_slow_reader_stops_the_source") {
        return;
    }
    let plan = plan(
        r#""source": Count(to: 100000), "noise": Noise(input: "source"), "keep": Keep(input: "noise")"#,
        &["cpu_workers=2"],
    );
    let slow = Collect::<Number> {
        delay: Duration::from_millis(20),
        queue: 2,
        ..Collect::default()
    };
    let items = slow.items.clone();
    let options = Options {
        taps: vec![tap("noise", 0, slow)],
        ..Options::default()
    };
    let running = Running::start(&plan, options).unwrap();
    // Four in flight for each worker and four more, two in the queue, one with the reader, one that
    // waits to be sent, and one being fetched.
    let bound = (4 * 2 + 4) + 2 + 1 + 1 + 1;
    loop {
        // In this order: what is read in between only widens the bound.
        let fetched = FETCHED.load(SeqCst);
        let read = items.lock().unwrap().len() as u64;
        assert!(fetched <= read + bound, "{fetched} fetched for {read} read");
        if read >= 20 {
            break;
        }
        std::thread::yield_now();
    }
    running.stop().interrupt();
    assert!(running.wait().unwrap().interrupted);
}

#[test]
fn an_interrupt_ends_an_endless_run_and_joins_every_thread() {
    if !alone("an_interrupt_ends_an_endless_run_and_joins_every_thread") {
        return;
    }
    let before = threads();
    // Hours, if it went on.
    let plan = plan(CHAIN, &["learn.epochs=100000000", "learn.delay=1000"]);
    let running = Running::start(&plan, Options::default()).unwrap();
    while FETCHED.load(SeqCst) < 100 {
        std::thread::yield_now();
    }
    assert!(threads() > before);
    running.stop().interrupt();
    assert!(running.wait().unwrap().interrupted);
    assert_threads_are(before);
}

#[test]
fn sources_start_and_end_where_the_options_say() {
    let plan = plan(
        r#""source": Count(to: 10), "keep": Keep(input: "source")"#,
        &[],
    )
    .until("source")
    .unwrap();
    let sink = Collect::<Number>::default();
    let items = sink.items.clone();
    let options = Options {
        taps: vec![tap("source", 0, sink)],
        epochs: Some(2),
        start: Position {
            epoch: 1,
            sample: 4,
        },
        ..Options::default()
    };
    Running::start(&plan, options).unwrap().wait().unwrap();
    assert_eq!(
        *items.lock().unwrap(),
        (4..10).map(Number).collect::<Vec<_>>()
    );
}

#[test]
fn waiting_is_told_from_working() {
    let plan = plan(CHAIN, &["learn.delay=3000", "noise.delay=0"]);
    let finished = Running::start(&plan, Options::default())
        .unwrap()
        .wait()
        .unwrap();
    let of = |name: &str| {
        finished
            .measured
            .iter()
            .find(|m| m.node.name == name)
            .unwrap()
            .clone()
    };
    let (groups, learn) = (of("groups"), of("learn"));
    assert_eq!(
        (of("source").items, of("noise").items, learn.items),
        (150, 150, 21)
    );
    assert!(learn.busy >= Duration::from_millis(60), "{learn:?}");
    assert!(
        groups.wait_output > learn.wait_input,
        "the slow reader is waited for"
    );
    assert!(learn.queue.occupancy() > Some(0.3), "{learn:?}");
}

#[test]
fn a_thread_can_be_fed_otherwise_than_the_recipe_says() {
    let whole = collect::<Numbers>(&plan(CHAIN, &[]), "learn", 0).1;
    let pair = || whole[..2].iter().cycle();
    for (with, expected, fetched) in [
        (FeedWith::Endless, whole[..14].to_vec(), 100..=100),
        (
            FeedWith::Replay(2),
            pair().take(9).cloned().collect(),
            16..=99,
        ),
        (FeedWith::Nothing, vec![], 0..=0),
    ] {
        let sink = Collect::<Numbers>::default();
        let items = sink.items.clone();
        let options = Options {
            taps: vec![tap("learn", 0, sink)],
            feeds: vec![Feed {
                node: "learn".to_owned(),
                port: "input",
                with,
            }],
            epochs: Some(2),
            ..Options::default()
        };
        let plan = plan(CHAIN, &["learn.delay=1000", "cpu_workers=1"]);
        let mut running = Running::start(&plan, options).unwrap();
        // Only what is replayed has no end.
        let enough = || items.lock().unwrap().len() > expected.len();
        while !running.wait_for(Duration::from_millis(1)) && !enough() {}
        running.stop().interrupt();
        let finished = running.wait().unwrap();
        let seen = items.lock().unwrap();
        assert!(seen.starts_with(&expected), "{with:?}: {seen:?}");
        let endless = matches!(with, FeedWith::Replay(_));
        assert!(endless || seen.len() == expected.len(), "{with:?}");
        let source = &finished.measured[0];
        assert_eq!(source.node.name, "source");
        assert!(fetched.contains(&source.items), "{with:?}: {source:?}");
    }
}

#[test]
fn a_trace_has_every_items_work_and_stays_within_its_limit() {
    for limit in [100_000, 50] {
        let trace = std::sync::Arc::new(Trace::new(limit));
        let options = Options {
            run: RunContext {
                trace: Some(trace.clone()),
                ..RunContext::default()
            },
            ..Options::default()
        };
        let running = Running::start(&plan(CHAIN, &[]), options).unwrap();
        let finished = running.wait().unwrap();
        let recorded = trace.take();
        let all = recorded.slices.len() + recorded.levels.len();
        // Nothing is dropped before it is full.
        let would_be = all + usize::try_from(recorded.dropped).unwrap();
        assert_eq!(all, would_be.min(limit));
        assert_eq!(recorded.dropped > 0, limit == 50);
        for node in finished.measured.iter().filter(|_| recorded.dropped == 0) {
            let slices = recorded.slices.iter();
            let mine = slices.filter(|slice| slice.node.name == node.node.name);
            let items = mine.filter(|slice| slice.item.is_some()).count() as u64;
            assert_eq!(items, node.items, "{}", node.node.name);
            assert_eq!(node.times.count(), node.items, "{}", node.node.name);
        }
    }
}

/// Whether this process runs nothing but `test`. If not, another one is started that does, and has to
/// succeed: what is counted there is counted of this test alone.
fn alone(test: &str) -> bool {
    const ALONE: &str = "RSFLOW_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--test-threads=1", "--nocapture"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success(), "{out}{err}");
    assert!(out.contains("1 passed"), "no test is called {test}: {out}");
    false
}

/// Threads of this process.
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

/// A thread that was joined may be listed for a moment longer.
fn assert_threads_are(before: usize) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while threads() != before {
        assert!(
            Instant::now() < deadline,
            "{} threads, {before} before",
            threads()
        );
        std::thread::yield_now();
    }
}
