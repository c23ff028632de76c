//! What a run becomes: its records, in the order in which W&B's own client writes them.

use serde_json::Value;

use super::messages::{
    Exit, Header, History, Item, Record, RunRecord, Step, Time, Updates, VersionInfo, What,
};
use super::{Run, config, history};

/// The first version of W&B whose records had the fields that are written.
const OLDEST_READER: &str = "0.40.0";

/// The records of a run. One that is running has no exit: W&B then expects more of it.
pub fn of(run: &Run) -> Vec<Record> {
    let history = history::of(&run.log);
    let summary = history::summary(&run.log, &history);
    let rows = history.into_iter().map(|(step, mut values)| {
        values.insert("_step".to_owned(), step.into());
        What::History(History {
            item: values.into_iter().map(nested).collect(),
            step: Some(Step { num: whole(step) }),
        })
    });
    let first = [What::Header(header()), What::Run(about(run))];
    let summary = What::Summary(Updates {
        update: summary.into_iter().map(nested).collect(),
    });
    let exit = (!run.is_running).then(|| What::Exit(exit(run)));
    let all = first.into_iter().chain(rows).chain([summary]).chain(exit);
    all.zip(1..)
        .map(|(what, num)| Record {
            num,
            what: Some(what),
        })
        .collect()
}

fn header() -> Header {
    Header {
        version_info: Some(VersionInfo {
            producer: format!("rsflow {}", env!("CARGO_PKG_VERSION")),
            min_consumer: OLDEST_READER.to_owned(),
        }),
    }
}

fn about(run: &Run) -> RunRecord {
    let config = config::of(&run.recipe).into_iter();
    RunRecord {
        run_id: run.id.clone(),
        config: Some(Updates {
            update: config
                .map(|(key, value)| Item {
                    key,
                    nested_key: Vec::new(),
                    value_json: value.to_string(),
                })
                .collect(),
        }),
        display_name: run.name.clone(),
        start_time: run.started.map(|time| Time {
            seconds: time.as_second(),
            nanos: time.subsec_nanosecond(),
        }),
    }
}

/// 0 for a run that has done all its epochs.
fn exit(run: &Run) -> Exit {
    let end = run.log.end.as_ref();
    Exit {
        exit_code: i32::from(end.is_none()),
        // Saturates.
        runtime: end.map_or(0, |end| end.seconds as i32),
    }
}

fn nested((name, value): (String, Value)) -> Item {
    Item {
        key: String::new(),
        nested_key: vec![name],
        value_json: value.to_string(),
    }
}

fn whole(step: u64) -> i64 {
    i64::try_from(step).unwrap_or(i64::MAX)
}
