//! Recipes with sinks: what is checked before anything runs.

use anyhow::{Result, bail};
use rsflow_graph::{
    Build, Catalogue, Demand, Incoming, Input, Kind, Node, NodeKind, Payload, Plan, Port, Recipe,
    Report, Schema, Stage, Text,
};
use rsflow_model::sinks::{Checkpoints, MetricsLog, TensorBoard};
use rsflow_model::train::metrics::{Checkpointed, Metric};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{expect_all, node};

/// Takes the place of a trainer in plans.
#[derive(Deserialize, JsonSchema)]
struct Talker {}

impl Node for Talker {
    fn inputs(&self) -> Vec<(&'static str, &Input)> {
        vec![]
    }

    fn plan(&self, _: &[Incoming], _: &mut Report) -> Vec<Schema> {
        vec![Schema::default(), Schema::default()]
    }

    fn build(&self, _: &Build) -> Result<Stage> {
        bail!("it is for plans only")
    }
}

impl NodeKind for Talker {
    const NAME: &'static str = "Talker";
    const SUMMARY: &'static str = "talks";
    const INPUTS: &'static [Port] = &[];
    const OUTPUTS: &'static [Port] = &[
        Port {
            name: "metrics",
            carries: Metric::NAME,
        },
        Port {
            name: "checkpoints",
            carries: Checkpointed::NAME,
        },
    ];
    const EXAMPLE: &'static str = "Talker()";
}

const CATALOGUE: Catalogue = Catalogue(&[
    Kind::of::<Talker>(),
    Kind::of::<Checkpoints>(),
    Kind::of::<MetricsLog>(),
    Kind::of::<TensorBoard>(),
]);

#[test]
fn plans_with_sinks() {
    let right = [
        Checkpoints::EXAMPLE,
        MetricsLog::EXAMPLE,
        TensorBoard::EXAMPLE,
    ];
    let check = |checkpoints: &str| -> String {
        let [_, log, events] = right;
        let text = format!(
            r#"(seed: 0, nodes: {{
                "trainer": Talker(), "checkpoints": {checkpoints}, "log": {log}, "events": {events},
            }})"#
        );
        match Recipe::parse(Text::new("test.ron", text), CATALOGUE, &[]).and_then(Plan::new) {
            Ok(_) => String::new(),
            Err(problems) => problems.to_string(),
        }
    };
    assert_eq!(check(right[0]), "");
    let table = [
        (r#"every_steps: 0"#, "`every_steps` must be at least 1"),
        (r#"keep: 0"#, "`keep` must be at least 1"),
        (r#"kep: 1"#, "keep"),
    ];
    for (field, expected) in table {
        let found = check(&format!(
            r#"Checkpoints(input: "trainer.checkpoints", {field})"#
        ));
        expect_all(&found, &[expected]);
    }
    let demands = [
        (r#"(input: "t")"#, None),
        (r#"(input: "t", every_steps: 100)"#, Some(100)),
    ];
    for (text, every_steps) in demands {
        assert_eq!(node::<Checkpoints>(text).demand(), Demand { every_steps });
    }
}
