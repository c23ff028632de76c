//! A sink that completes a recipe, and one that collects items.

use std::sync::{Arc, Mutex};

use rsflow_graph::{
    Batch, Build, Incoming, Input, Node, NodeKind, Payload, Port, Report, Schema, Sink, Stage,
};
use schemars::JsonSchema;
use serde::Deserialize;

/// Reads batches, because every output of a recipe needs a reader.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct End {
    input: Input,
}

impl Node for End {
    fn inputs(&self) -> Vec<(&'static str, &Input)> {
        vec![("input", &self.input)]
    }

    fn plan(&self, _: &[Incoming], _: &mut Report) -> Vec<Schema> {
        Vec::new()
    }

    fn build(&self, _: &Build) -> anyhow::Result<Stage> {
        Ok(Stage::sink(Collect::<Batch>::default()))
    }
}

impl NodeKind for End {
    const NAME: &'static str = "End";
    const SUMMARY: &'static str = "ends a stream";
    const INPUTS: &'static [Port] = &[Port {
        name: "input",
        carries: Batch::NAME,
    }];
    const OUTPUTS: &'static [Port] = &[];
    const EXAMPLE: &'static str = r#"End(input: "batches")"#;
}

/// Collects all items in order.
#[derive(Clone)]
pub struct Collect<T>(pub Arc<Mutex<Vec<T>>>);

impl<T> Default for Collect<T> {
    fn default() -> Self {
        Collect(Arc::default())
    }
}

impl<T: Payload> Sink for Collect<T> {
    type In = T;

    fn accept(&mut self, item: T) -> anyhow::Result<()> {
        self.0.lock().unwrap().push(item);
        Ok(())
    }
}
