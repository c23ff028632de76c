//! Node kinds and their catalogue.
//!
//! A kind is one serde struct: its fields are the parameters (their doc comments are the user's
//! reference), [`Input`] fields are the input ports. The struct *is* the node: it checks itself
//! in [`Node::plan`] and makes its stage in [`Node::build`].

use std::any::Any;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use ron::error::SpannedError;
use schemars::{JsonSchema, SchemaGenerator};
use serde::de::{Deserializer, Visitor};
use serde::{Deserialize, de::DeserializeOwned};

use crate::batch::Allocator;
use crate::context::RunContext;
use crate::fields::{self, Value};
use crate::growth::Growth;
use crate::preprocess::Preprocess;
use crate::problem::Problem;
use crate::stage::{Contents, Stage};

/// A reference to an output: `"node"`, or `"node.port"` where a node has several outputs.
#[derive(Clone, Debug)]
pub struct Input {
    pub reference: String,
    /// Address of the name's bytes in the parsed text, for the place of errors. `None` if the name
    /// was written with escapes.
    address: Option<usize>,
}

impl Input {
    /// The name's range in `text`, if it was parsed from this very string.
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
                f.write_str("a node name in quotes")
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

/// An input or output of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// The field of an input; the part after the dot of an output.
    pub name: &'static str,
    /// The type of item: [`crate::Payload::NAME`].
    pub carries: &'static str,
}

/// What the plan knows of a stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Schema {
    /// Resolutions of the images in pixels, in the order of the recipe. Empty where images have no
    /// fixed size.
    pub resolutions: Vec<u32>,
    /// How a network is to be measured on such images: begun by the decoder, completed by a centre
    /// crop. Random crops pass it on as it is. `None` for what is not made of images.
    pub preprocess: Option<Preprocess>,
    /// How the sizes grow over the epochs to these resolutions; `None`: they are these in every epoch.
    pub growth: Option<Growth>,
    /// Whether the last batch of an epoch is dropped if it is not full.
    pub drops_last: bool,
}

/// A connected input, for [`Node::plan`].
#[derive(Clone, Debug)]
pub struct Incoming {
    pub port: &'static str,
    /// The node that it is connected to.
    pub node: String,
    pub schema: Schema,
}

/// What a reader asks of the node that it reads from: how often the trainer offers a checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// One item every so many steps, besides those at the ends of epochs.
    pub every_steps: Option<u64>,
}

/// The value of a field, by the input port that it leads to and its name, of the first node with such a field
/// on the way to that port.
pub(crate) type Upstream<'a> = &'a dyn Fn(&str, &str) -> Option<Range<usize>>;

/// Collects the errors of a node in [`Node::plan`].
pub struct Report<'a> {
    text: &'a str,
    name: &'a str,
    /// `Kind(...)` in it.
    node: &'a Value,
    /// Of a node that a trainer validates on, the resolutions of its training batches, if they are known.
    training: Option<&'a [u32]>,
    upstream: Upstream<'a>,
    /// Whether the node depends on them.
    pub(crate) takes_training: bool,
    pub(crate) found: Vec<Problem>,
    pub(crate) warnings: Vec<Problem>,
}

impl<'a> Report<'a> {
    /// Of the node `node`, called `name`, in a recipe's `text`.
    pub(crate) fn new(
        text: &'a str,
        (name, node): (&'a str, &'a Value),
        training: Option<&'a [u32]>,
        upstream: Upstream<'a>,
    ) -> Self {
        Report {
            text,
            name,
            node,
            training,
            upstream,
            takes_training: false,
            found: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// The resolutions of the training batches of a trainer that validates on what the node yields. Empty as
    /// long as they are not known: the node is planned again then. `None` if no trainer does.
    pub fn training_resolutions(&mut self) -> Option<&'a [u32]> {
        self.takes_training = true;
        self.training
    }

    /// Adds an error at the parameter `field`, or at the node's kind where the field is not given. A
    /// dot reaches into a value (`network.depth`).
    pub fn parameter(&mut self, field: &str, message: impl Into<String>, help: impl Into<String>) {
        let span = self.span(field);
        self.found.push(Problem::new(message, span).help(help));
    }

    /// Adds an error of what comes in at `port` at the field `field` of the node that decided it, to which `cause`,
    /// a parameter of this node, is in contrast; at the port itself where no node before it has such a field.
    pub fn upstream(
        &mut self,
        (port, field): (&str, &str),
        (cause, label): (&str, &str),
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let span = (self.upstream)(port, field).unwrap_or_else(|| self.span(port));
        let problem = Problem::new(message, span).also(self.span(cause), label);
        self.found.push(problem.help(help));
    }

    /// The node's name, which `--set` begins with.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// Adds a warning at the parameter `field`: the recipe runs, but perhaps not as it was meant.
    pub fn warning(&mut self, field: &str, message: impl Into<String>, help: impl Into<String>) {
        let warning = Problem::new(message, self.span(field)).help(help);
        self.warnings.push(Problem {
            is_warning: true,
            ..warning
        });
    }

    fn span(&self, field: &str) -> Range<usize> {
        let value = self.node.at(self.text, field);
        value.map_or(&self.node.head, |value| &value.span).clone()
    }

    /// The number that the parameter `field` holds must be within `limits`. Upper limits catch typos
    /// before they ask for all memory.
    pub fn limit(
        &mut self,
        field: &str,
        value: u64,
        limits: RangeInclusive<u64>,
        help: impl Into<String>,
    ) {
        let (least, most) = (limits.start(), limits.end());
        if value < *least {
            self.parameter(field, format!("`{field}` must be at least {least}"), help);
        } else if value > *most {
            self.parameter(field, format!("`{field}` must be at most {most}"), help);
        }
    }
}

/// What [`Node::build`] gets.
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
    /// What the plan knows of the outputs, in the kind's order.
    pub outputs: &'a [Schema],
    /// What each output's readers ask for: port, demand.
    pub demands: &'a [(&'static str, Demand)],
    /// Memory for batches.
    pub allocator: Arc<dyn Allocator>,
}

impl Build<'_> {
    /// The checkpoint to resume from, if the run resumes.
    ///
    /// # Errors
    /// As [`Opaque::get`](crate::Opaque::get).
    pub fn resume<T: Any>(&self) -> Result<Option<&T>> {
        self.run
            .resume
            .as_ref()
            .map(|resume| resume.get())
            .transpose()
    }

    /// What connects the run's processes, if there are several.
    ///
    /// # Errors
    /// As [`Opaque::get`](crate::Opaque::get).
    pub fn peers<T: Any>(&self) -> Result<Option<&T>> {
        self.run.peers.as_ref().map(|peers| peers.get()).transpose()
    }
}

/// A node as written in a recipe.
pub trait Node: Any + Send + Sync {
    /// The connected inputs: port and reference.
    fn inputs(&self) -> Vec<(&'static str, &Input)>;

    /// Checks parameters and inputs; returns the schema of each output, in the order of the kind's
    /// outputs. Opens no files and no devices.
    fn plan(&self, inputs: &[Incoming], report: &mut Report) -> Vec<Schema>;

    /// Makes the stage. Files and devices are opened here.
    fn build(&self, build: &Build) -> Result<Stage>;

    /// What this node asks of the nodes that it reads from.
    fn demand(&self) -> Demand {
        Demand::default()
    }

    /// Images in a full batch of the output, of all processes together; `None` where no batches come
    /// out.
    fn batch_size(&self) -> Option<u64> {
        None
    }

    /// Which images it lists, for a source of files: two that list the same are seen before they are opened.
    fn lists(&self) -> Option<ListedImages> {
        None
    }

    /// The number of classes of what a source yields, where it is known before anything is opened.
    fn known_classes(&self) -> Option<usize> {
        None
    }

    /// Memory from which the device that this node computes on reads batches best; `None` where
    /// nothing is asked. May open the device.
    fn allocator(&self) -> Option<Arc<dyn Allocator>> {
        None
    }
}

/// The images that a source lists.
#[derive(Clone, Debug, PartialEq)]
pub struct ListedImages {
    /// The parameter that says where they are.
    pub parameter: &'static str,
    /// Where all of them are, absolute. Two names of one folder are two places.
    pub root: PathBuf,
    /// What of it is read, such as a folder in an archive; empty for all.
    pub within: String,
    /// `None`: it lists all of them.
    pub part: Option<ListedPart>,
}

/// One of the two parts of a data set.
#[derive(Clone, Debug, PartialEq)]
pub struct ListedPart {
    /// What parts it, as parameters in a recipe: equal for the two parts of which each image is in one.
    pub by: String,
    /// Whether it is the one for validation.
    pub is_held_out: bool,
}

/// The part that nodes of a kind have in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Brings data: a source, or what lies between it and the batches.
    Data,
    /// Learns from batches.
    Trainer {
        /// The input port at which they come in.
        port: &'static str,
    },
    /// Computes with a trained network, and learns nothing.
    Evaluator,
    /// Keeps what others yield.
    Sink,
}

impl Role {
    /// The role of a kind that computes nothing.
    const fn by_outputs(outputs: &[Port]) -> Self {
        match outputs {
            [] => Role::Sink,
            _ => Role::Data,
        }
    }
}

/// The catalogue's entry of a kind, besides what serde and schemars know.
pub trait NodeKind: Node + DeserializeOwned + JsonSchema + 'static {
    /// The name in recipes, in CamelCase.
    const NAME: &'static str;
    /// One line.
    const SUMMARY: &'static str;
    /// Input ports: the fields of type [`Input`].
    const INPUTS: &'static [Port];
    /// Output ports.
    const OUTPUTS: &'static [Port];
    /// A node as written in a recipe; a test parses it.
    const EXAMPLE: &'static str;
    /// Its part in a run. A kind that computes with a network must say so.
    const ROLE: Role = Role::by_outputs(Self::OUTPUTS);
    /// How to make such a node faster where it limits a run and all cores are busy: the end of a
    /// sentence, in which `NODE` stands for its name. Empty if no parameter helps.
    const TUNING_HINT: &'static str = "";
    /// The file or folder of the run directory that only one such node may write: a recipe cannot
    /// have two. Empty if it may have several.
    const OUTPUT_FILE: &'static str = "";
    /// Former names of the kind, which recipes may still use.
    const ALIASES: &'static [&'static str] = &[];
    /// Parameters that older recipes may have, and what replaces each, as a sentence of help.
    const REMOVED: &'static [(&'static str, &'static str)] = &[];
    /// Parameters whose values other programs write otherwise.
    const SPELLINGS: &'static [(&'static str, Spelling)] = &[];
}

/// A value as recipes write it, for the same in another program's words: `Cuda(1)` for `cuda:1`. `None` for
/// what is unknown.
pub type Spelling = fn(&str) -> Option<String>;

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
    /// A node as written in a recipe.
    pub example: &'static str,
    /// See [`NodeKind::ROLE`].
    pub role: Role,
    /// See [`NodeKind::TUNING_HINT`].
    pub tuning_hint: &'static str,
    /// See [`NodeKind::OUTPUT_FILE`].
    pub output_file: &'static str,
    /// See [`NodeKind::ALIASES`].
    pub aliases: &'static [&'static str],
    /// See [`NodeKind::REMOVED`].
    pub removed: &'static [(&'static str, &'static str)],
    /// See [`NodeKind::SPELLINGS`].
    pub spellings: &'static [(&'static str, Spelling)],
    /// The parameters, as JSON Schema.
    pub parameters: fn() -> schemars::Schema,
    pub(crate) parse: fn(&str) -> Result<Arc<dyn Node>, SpannedError>,
}

impl Kind {
    pub const fn of<K: NodeKind>() -> Self {
        Kind {
            name: K::NAME,
            summary: K::SUMMARY,
            inputs: K::INPUTS,
            outputs: K::OUTPUTS,
            example: K::EXAMPLE,
            role: K::ROLE,
            tuning_hint: K::TUNING_HINT,
            output_file: K::OUTPUT_FILE,
            aliases: K::ALIASES,
            removed: K::REMOVED,
            spellings: K::SPELLINGS,
            parameters: || schemars::schema_for!(K),
            parse: |text| {
                fields::options()
                    .from_str::<K>(text)
                    .map(|node| Arc::new(node) as Arc<dyn Node>)
            },
        }
    }

    /// The first output whose items have this type, [`crate::Payload::NAME`].
    pub fn output_of(&self, carries: &str) -> Option<usize> {
        self.outputs.iter().position(|port| port.carries == carries)
    }
}

/// All kinds.
#[derive(Clone, Copy)]
pub struct Catalogue(pub &'static [Kind]);

impl Catalogue {
    /// The kind of that name, or former name.
    pub fn find(&self, name: &str) -> Option<&'static Kind> {
        let mut kinds = self.0.iter();
        kinds.find(|kind| kind.name == name || kind.aliases.contains(&name))
    }

    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|kind| kind.name)
    }
}
