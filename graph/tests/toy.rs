//! A small catalogue of nodes over numbers, to test the engine without images.
#![allow(dead_code, missing_docs)]

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, bail};
use rand::RngExt as _;
use rand::seq::SliceRandom as _;
use rsflow_graph::*;
use schemars::JsonSchema;
use serde::Deserialize;

/// A number on its way.
#[derive(Clone, Debug, PartialEq)]
pub struct Number(pub u64);

impl Payload for Number {
    const NAME: &'static str = "numbers";
}

/// Several numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Numbers(pub Vec<u64>);

impl Payload for Numbers {
    const NAME: &'static str = "groups";
}

const NUMBERS: Port = Port {
    name: "out",
    carries: Number::NAME,
};
const GROUPS: Port = Port {
    name: "out",
    carries: Numbers::NAME,
};
const fn input(carries: &'static str) -> Port {
    Port {
        name: "input",
        carries,
    }
}

/// How many numbers any `Count` has read, in this process.
pub static FETCHED: AtomicU64 = AtomicU64::new(0);

/// Counts.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Count {
    /// Numbers in each epoch.
    pub to: u64,
    #[serde(default)]
    pub shuffle: bool,
    /// Numbers that are never read to the end.
    #[serde(default)]
    hang: Vec<u64>,
    /// Milliseconds that reading may take.
    #[serde(default)]
    read_timeout: Option<u64>,
    /// Numbers that may fail.
    #[serde(default)]
    skip: u64,
    /// Whether shards are padded.
    #[serde(default)]
    pad: bool,
    #[serde(skip)]
    seed: u64,
}

impl Node for Count {
    fn inputs(&self) -> Vec<(&'static str, &Input)> {
        vec![]
    }

    fn plan(&self, _: &[Incoming], report: &mut Report) -> Vec<Schema> {
        if self.to == 0 {
            report.parameter("to", "there is nothing to count", "use at least 1");
        }
        vec![Schema::default()]
    }

    fn build(&self, build: &Build) -> Result<Stage> {
        Ok(Stage::source(Count {
            seed: build.seed,
            ..self.clone()
        }))
    }
}

impl NodeKind for Count {
    const NAME: &'static str = "Count";
    const SUMMARY: &'static str = "counts";
    const INPUTS: &'static [Port] = &[];
    const OUTPUTS: &'static [Port] = &[NUMBERS];
    const EXAMPLE: &'static str = "Count(to: 3)";
}

impl Source for Count {
    type Out = Number;

    fn contents(&self) -> Contents {
        Contents {
            items_per_epoch: self.to,
            group: 1,
            last_group: 1,
            ..Contents::default()
        }
    }

    fn order(&self, epoch: u64) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.to as u32).collect();
        if self.shuffle {
            order.shuffle(&mut random(self.seed, "count", "shuffle", &[epoch]));
        }
        order
    }

    fn fetch(&self, sample: u32, _: &Context) -> Result<Number> {
        FETCHED.fetch_add(1, SeqCst);
        while self.hang.contains(&sample.into()) {
            std::thread::park();
        }
        Ok(Number(sample.into()))
    }

    fn describe(&self, sample: u32) -> String {
        format!("number {sample}")
    }

    fn on_error(&self) -> OnError {
        forgiving(self.skip)
    }

    fn read_timeout(&self) -> Option<Duration> {
        self.read_timeout.map(Duration::from_millis)
    }

    fn pads(&self) -> bool {
        self.pad
    }
}

fn forgiving(skip: u64) -> OnError {
    match skip {
        0 => OnError::Fail,
        skip => OnError::Skip {
            budget: Budget::Count(skip),
        },
    }
}

/// Adds noise, taking its time, and dislikes some numbers.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Noise {
    input: Input,
    /// Microseconds that an item takes at most.
    #[serde(default)]
    delay: u64,
    /// Numbers that fail.
    #[serde(default)]
    fail: Vec<u64>,
    /// Numbers that panic.
    #[serde(default)]
    panic: Vec<u64>,
    /// Numbers that may fail.
    #[serde(default)]
    skip: u64,
}

impl Node for Noise {
    fn inputs(&self) -> Vec<(&'static str, &Input)> {
        vec![("input", &self.input)]
    }

    fn plan(&self, inputs: &[Incoming], _: &mut Report) -> Vec<Schema> {
        vec![inputs[0].schema.clone()]
    }

    fn build(&self, _: &Build) -> Result<Stage> {
        Ok(Stage::map(self.clone()))
    }
}

impl NodeKind for Noise {
    const NAME: &'static str = "Noise";
    const SUMMARY: &'static str = "adds noise";
    const INPUTS: &'static [Port] = &[input(Number::NAME)];
    const OUTPUTS: &'static [Port] = &[NUMBERS];
    const EXAMPLE: &'static str = "Noise(input: \"x\")";
}

impl Map for Noise {
    type In = Number;
    type Out = Number;

    fn apply(&self, Number(number): Number, context: &Context) -> Result<Number> {
        let delay = context.random("delay").random_range(0..=self.delay);
        if delay > 0 {
            std::thread::sleep(Duration::from_micros(delay));
        }
        if self.fail.contains(&number) {
            bail!("{number} is not liked");
        }
        if self.panic.contains(&number) {
            panic!("{number} is feared");
        }
        Ok(Number(
            number * 1000 + context.random("noise").random_range(0..1000),
        ))
    }

    fn on_error(&self) -> OnError {
        forgiving(self.skip)
    }
}

/// Groups.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Group {
    input: Input,
    /// Of all processes.
    size: usize,
    #[serde(default)]
    drop_last: bool,
}

impl Node for Group {
    fn inputs(&self) -> Vec<(&'static str, &Input)> {
        vec![("input", &self.input)]
    }

    fn plan(&self, _: &[Incoming], _: &mut Report) -> Vec<Schema> {
        vec![Schema::default()]
    }

    fn build(&self, build: &Build) -> Result<Stage> {
        let mut own = self.clone();
        own.size /= build.run.world.size as usize;
        Ok(Stage::fold(own))
    }
}

impl NodeKind for Group {
    const NAME: &'static str = "Group";
    const SUMMARY: &'static str = "groups";
    const INPUTS: &'static [Port] = &[input(Number::NAME)];
    const OUTPUTS: &'static [Port] = &[GROUPS];
    const EXAMPLE: &'static str = "Group(input: \"x\", size: 2)";
}

impl Fold for Group {
    type In = Number;
    type Group = Vec<AtomicU64>;
    type Out = Numbers;

    fn group(&self) -> usize {
        self.size
    }

    fn drop_last(&self) -> bool {
        self.drop_last
    }

    fn open(&self, items: usize, _: u64) -> Result<Self::Group> {
        Ok((0..items).map(|_| AtomicU64::new(u64::MAX)).collect())
    }

    fn place(&self, group: &Self::Group, slot: usize, item: Number, _: &Context) -> Result<()> {
        group[slot].store(item.0, SeqCst);
        Ok(())
    }

    fn close(&self, group: Self::Group) -> Result<Numbers> {
        Ok(Numbers(
            group.into_iter().map(AtomicU64::into_inner).collect(),
        ))
    }
}

/// Reads some epochs on a thread of its own and reports what came.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Learn {
    input: Input,
    epochs: u64,
    #[serde(default)]
    start: (u64, u64),
    #[serde(default)]
    delay: u64,
}

impl Node for Learn {
    fn inputs(&self) -> Vec<(&'static str, &Input)> {
        vec![("input", &self.input)]
    }

    fn plan(&self, _: &[Incoming], _: &mut Report) -> Vec<Schema> {
        vec![Schema::default(), Schema::default()]
    }

    fn build(&self, _: &Build) -> Result<Stage> {
        Ok(Stage::thread(self.clone()))
    }
}

impl NodeKind for Learn {
    const NAME: &'static str = "Learn";
    const SUMMARY: &'static str = "learns";
    const INPUTS: &'static [Port] = &[input(Numbers::NAME)];
    const OUTPUTS: &'static [Port] = &[
        Port {
            name: "seen",
            carries: Numbers::NAME,
        },
        Port {
            name: "ends",
            carries: Number::NAME,
        },
    ];
    const EXAMPLE: &'static str = "Learn(input: \"x\", epochs: 1)";
}

impl Thread for Learn {
    fn run(self: Box<Self>, mut ports: Ports) -> Result<()> {
        let mut input = ports.input::<Numbers>("input").unwrap();
        let mut seen = ports.output::<Numbers>("seen");
        let mut ends = ports.output::<Number>("ends");
        let mut left = self.epochs - self.start.0;
        while left > 0 {
            match input.receive()? {
                Received::Item(_, numbers) => {
                    std::thread::sleep(Duration::from_micros(self.delay));
                    seen.send(numbers);
                }
                Received::EndOfEpoch(epoch) => {
                    ends.send(Number(epoch));
                    left -= 1;
                }
                Received::Closed => {
                    ends.send(Number(u64::MAX));
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn epochs(&self) -> Option<u64> {
        Some(self.epochs)
    }

    fn start(&self, _: &str) -> Position {
        Position {
            epoch: self.start.0,
            sample: self.start.1,
        }
    }
}

macro_rules! keep {
    ($kind:ident, $name:literal, $payload:ty) => {
        #[derive(Clone, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $kind {
            input: Input,
        }

        impl Node for $kind {
            fn inputs(&self) -> Vec<(&'static str, &Input)> {
                vec![("input", &self.input)]
            }

            fn plan(&self, _: &[Incoming], _: &mut Report) -> Vec<Schema> {
                vec![]
            }

            fn build(&self, _: &Build) -> Result<Stage> {
                Ok(Stage::sink(Collect::<$payload>::default()))
            }
        }

        impl NodeKind for $kind {
            const NAME: &'static str = $name;
            const SUMMARY: &'static str = "keeps";
            const INPUTS: &'static [Port] = &[input(<$payload>::NAME)];
            const OUTPUTS: &'static [Port] = &[];
            const EXAMPLE: &'static str = concat!($name, "(input: \"x\")");
        }
    };
}
keep!(Keep, "Keep", Number);
keep!(KeepGroups, "KeepGroups", Numbers);

/// A sink whose items a test can look at.
#[derive(Clone)]
pub struct Collect<T> {
    pub items: Arc<Mutex<Vec<T>>>,
    pub delay: Duration,
    pub queue: usize,
}

impl<T> Default for Collect<T> {
    fn default() -> Self {
        Collect {
            items: Arc::default(),
            delay: Duration::ZERO,
            queue: 64,
        }
    }
}

impl<T: Payload> Sink for Collect<T> {
    type In = T;

    fn accept(&mut self, item: T) -> Result<()> {
        if self.delay > Duration::ZERO {
            std::thread::sleep(self.delay);
        }
        self.items.lock().unwrap().push(item);
        Ok(())
    }

    fn queue(&self) -> usize {
        self.queue
    }
}

pub const CATALOGUE: Catalogue = Catalogue(&[
    Kind::of::<Count>(),
    Kind::of::<Noise>(),
    Kind::of::<Group>(),
    Kind::of::<Learn>(),
    Kind::of::<Keep>(),
    Kind::of::<KeepGroups>(),
]);

/// The plan of a recipe that must be right.
pub fn plan(nodes: &str, overrides: &[&str]) -> Plan {
    let text = Text::new("test.ron", format!("(seed: 7, nodes: {{{nodes}}})"));
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    let recipe = Recipe::parse(text, CATALOGUE, &overrides).unwrap_or_else(|e| panic!("{e}"));
    Plan::new(recipe).unwrap_or_else(|e| panic!("{e}"))
}
