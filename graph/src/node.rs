//! What a node kind is, and the catalogue of them all.
//!
//! A kind is one serde struct: its fields are the parameters (their doc comments are the user's
//! reference), [`Input`] fields are the input ports. The struct *is* the node: it checks itself
//! in [`Node::plan`] and makes its running part in [`Node::build`].

use std::any::Any;
use std::ops::Range;
use std::sync::Arc;

use anyhow::Result;
use ron::error::SpannedError;
use schemars::{JsonSchema, SchemaGenerator};
use serde::de::{Deserializer, Visitor};
use serde::{Deserialize, de::DeserializeOwned};

use crate::batch::Allocator;
use crate::context::RunContext;
use crate::fields;
use crate::problem::Problem;
use crate::stage::{Contents, Stage};

/// A reference to an output: `"node"`, or `"node.port"` where a node has several outputs.
#[derive(Clone, Debug)]
pub struct Input {
    /// As written.
    pub reference: String,
    /// Address of the name's bytes in the text that was parsed: tells the place for errors.
    /// `None` if the name was written with escapes.
    address: Option<usize>,
}

impl Input {
    /// The bytes of `text` that the name stands in, if it was read from this very text.
    pub(crate) fn span_in(&self, text: &str) -> Option<Range<usize>> {
        let start = self.address?.checked_sub(text.as_ptr() as usize)?;
        let end = start + self.reference.len();
        (end <= text.len()).then_some(start..end)
    }
}

impl<'de> Deserialize<'de> for Input {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;
        impl<'de> Visitor<'de> for Name {
            type Value = Input;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("the name of a node, in quotes")
            }

            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Input, E> {
                Ok(Input {
                    reference: name.to_owned(),
                    address: Some(name.as_ptr() as usize),
                })
            }

            fn visit_str<E>(self, name: &str) -> Result<Input, E> {
                Ok(Input {
                    reference: name.to_owned(),
                    address: None,
                })
            }
        }
        deserializer.deserialize_str(Name)
    }
}

impl JsonSchema for Input {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "input".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "format": "input" })
    }
}

/// A named place where a stream enters or leaves a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// The field of an input; the part after the dot of an output.
    pub name: &'static str,
    /// The type of item: [`crate::Payload::NAME`].
    pub carries: &'static str,
}

/// What is known of a stream before anything runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schema {
    /// Resolutions of the images (pixels of a side), in the order of the recipe. Empty where
    /// images have no fixed size.
    pub resolutions: Vec<u32>,
}

/// An input as a node sees it while the plan is made.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// The input port.
    pub port: &'static str,
    /// The node that feeds it.
    pub node: String,
    /// What it brings.
    pub schema: Schema,
}

/// What a reader asks of the node that it reads from; the trainer looks at it to know how often
/// to offer a checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// One item for every so many steps, besides those at the ends of epochs.
    pub every_steps: Option<u64>,
}

/// Where a node says what is wrong with it.
pub struct Report<'a> {
    pub(crate) text: &'a str,
    pub(crate) node: Range<usize>,
    pub(crate) found: Vec<Problem>,
}

impl Report<'_> {
    /// The value of the parameter `field` is wrong. A dot reaches into a value
    /// (`network.depth`). Points at the node's kind where the field was left to its default.
    pub fn parameter(&mut self, field: &str, message: impl Into<String>, help: impl Into<String>) {
        let body = &self.text[self.node.clone()];
        let span = fields::value_span(body, field).unwrap_or_else(|| fields::kind_span(body));
        let span = self.node.start + span.start..self.node.start + span.end;
        self.found.push(Problem::new(message, span).help(help));
    }
}

/// All that a node may need to make its running part.
pub struct Build<'a> {
    /// The node's name.
    pub node: &'a str,
    /// The recipe's seed.
    pub seed: u64,
    /// What the run knows beyond its recipe.
    pub run: &'a RunContext,
    /// The recipe with all overrides applied, for checkpoints to hold.
    pub recipe: &'a str,
    /// What comes in, by input port in the kind's order.
    pub inputs: &'a [(&'static str, Contents)],
    /// What the plan knows of it, in the same order.
    pub schemas: &'a [(&'static str, Schema)],
    /// What each output's readers ask for: port, demand.
    pub demands: &'a [(&'static str, Demand)],
    /// Memory for batches.
    pub allocator: Arc<dyn Allocator>,
}

impl Build<'_> {
    /// The checkpoint to resume from, if the run resumes.
    ///
    /// # Errors
    /// As [`Resume::checkpoint`](crate::Resume::checkpoint).
    pub fn resume<T: Any>(&self) -> Result<Option<&T>> {
        let resume = self.run.resume.as_ref();
        resume.map(|resume| resume.checkpoint()).transpose()
    }
}

/// A node as written in a recipe.
pub trait Node: Any + Send + Sync {
    /// The inputs that were given: port name and reference. Optional inputs that were left out
    /// are not listed.
    fn inputs(&self) -> Vec<(&'static str, &Input)>;

    /// Checks the parameters and what comes in; says what each output carries, in the order of
    /// the kind's outputs. Opens nothing.
    fn plan(&self, inputs: &[Incoming], report: &mut Report) -> Vec<Schema>;

    /// Makes the running part. Files and devices are opened here.
    fn build(&self, build: &Build) -> Result<Stage>;

    /// What this node asks of the nodes that it reads from.
    fn demand(&self) -> Demand {
        Demand::default()
    }
}

/// What the catalogue tells of a kind, beside what serde and schemars know.
pub trait NodeKind: Node + DeserializeOwned + JsonSchema + 'static {
    /// The name in recipes, in CamelCase.
    const NAME: &'static str;
    /// One line.
    const SUMMARY: &'static str;
    /// Input ports: the fields of type [`Input`].
    const INPUTS: &'static [Port];
    /// Output ports.
    const OUTPUTS: &'static [Port];
    /// One node as it would stand in a recipe; a test parses it.
    const EXAMPLE: &'static str;
    /// What makes it faster where it is what limits a run and no worker is left, as the end of a
    /// sentence; `NODE` stands for its name. Empty if there is nothing to turn.
    const FASTER: &'static str = "";
    /// Former names of the kind, which recipes may still use.
    const ALIASES: &'static [&'static str] = &[];
    /// Parameters that older recipes may have, and what replaces each, as a sentence of help.
    const REMOVED: &'static [(&'static str, &'static str)] = &[];
    /// The file or folder of the run directory that such a node writes alone, so that no recipe has
    /// two of them. Empty if there may be several.
    const WRITES: &'static str = "";
}

/// An entry of the catalogue.
#[derive(Clone, Copy)]
pub struct Kind {
    /// The name in recipes.
    pub name: &'static str,
    /// One line.
    pub summary: &'static str,
    /// Input ports.
    pub inputs: &'static [Port],
    /// Output ports.
    pub outputs: &'static [Port],
    /// One node as it would stand in a recipe.
    pub example: &'static str,
    /// What makes it faster, see [`NodeKind::FASTER`].
    pub faster: &'static str,
    /// Former names, see [`NodeKind::ALIASES`].
    pub aliases: &'static [&'static str],
    /// Parameters of older recipes, see [`NodeKind::REMOVED`].
    pub removed: &'static [(&'static str, &'static str)],
    /// What it writes alone, see [`NodeKind::WRITES`].
    pub writes: &'static str,
    /// The parameters, as JSON Schema.
    pub parameters: fn() -> schemars::Schema,
    pub(crate) parse: fn(&str) -> Result<Arc<dyn Node>, SpannedError>,
}

impl Kind {
    /// The entry of `K`.
    pub const fn of<K: NodeKind>() -> Self {
        Kind {
            name: K::NAME,
            summary: K::SUMMARY,
            inputs: K::INPUTS,
            outputs: K::OUTPUTS,
            example: K::EXAMPLE,
            faster: K::FASTER,
            aliases: K::ALIASES,
            removed: K::REMOVED,
            writes: K::WRITES,
            parameters: || schemars::schema_for!(K),
            parse: |text| {
                fields::options()
                    .from_str::<K>(text)
                    .map(|node| Arc::new(node) as Arc<dyn Node>)
            },
        }
    }
}

/// Every kind that recipes may use.
#[derive(Clone, Copy)]
pub struct Catalogue(pub &'static [Kind]);

impl Catalogue {
    /// The kind of that name, or former name.
    pub fn find(&self, name: &str) -> Option<&'static Kind> {
        let mut kinds = self.0.iter();
        kinds.find(|kind| kind.name == name || kind.aliases.contains(&name))
    }

    /// All names.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|kind| kind.name)
    }
}
