//! Reading a recipe, with the place of everything in it.
//!
//! The RON reader and serde decide what is valid. They stop at the first error and know its place
//! only roughly; so what they refuse is validated again, against its JSON schema, to report every
//! error at its place.

mod difference;
mod formats;
mod habits;
mod lets;
mod names;
mod number;
mod overrides;
mod read;
mod settings;
mod suggest;
mod syntax;
mod validate;

use crate::node::Catalogue;
use crate::problem::{Problem, Problems};
use crate::text::Text;
pub use difference::{differences, differences_as_written};
pub use names::OTHER_NAMES;
use overrides::with_override;
pub use read::Recipe;
use read::read;
pub(crate) use read::{Reference, Written};
pub use settings::settings;

fn messages(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(|it| it.message.clone()).collect()
}

impl Recipe {
    /// Reads `text` with `overrides` (`node.field=value`, `node=Kind(...)`, `name=value` for a value of
    /// `let`, or `field=value` for the recipe's own fields) applied.
    ///
    /// # Errors
    /// A text without a list of nodes, or an override that cannot be applied. Errors of single nodes
    /// are reported by [`crate::Plan::new`].
    pub fn parse(text: Text, catalogue: Catalogue, overrides: &[String]) -> Result<Self, Problems> {
        let mut recipe = read(text, catalogue)?;
        // A value whose last use an override replaces is no mistake.
        let unused: Vec<String> = messages(&recipe.warnings);
        let mut wrong: Option<Problems> = None;
        for argument in overrides {
            match with_override(&recipe, argument) {
                Ok(changed) => recipe = changed,
                Err(problem) => {
                    let text = Text::new("command line", argument);
                    let problems = Problems::new(text, vec![*problem]);
                    wrong = Some(match wrong {
                        Some(wrong) => wrong.and(problems),
                        None => problems,
                    });
                }
            }
        }
        recipe
            .warnings
            .retain(|warning| unused.contains(&warning.message));
        wrong.map_or(Ok(recipe), Err)
    }

    pub fn text(&self) -> &Text {
        &self.text
    }

    /// What `--set` calls the fields `field` of nodes: `trainer.epochs` for `epochs`, `trainer.optimizer.lr`
    /// for `lr`.
    pub fn paths_to(&self, field: &str) -> Vec<String> {
        overrides::paths_to(self, field)
    }

    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The source, as written (`ImageFolder(...)`), of what the first node with an input `port` reads there;
    /// `None` if there is no such node, or what it reads leads to no source.
    pub fn source_of(&self, port: &str) -> Option<&str> {
        let source = self.before(port).pop();
        let source = source.filter(|node| node.inputs.is_empty())?;
        self.text.resolved().get(source.value.span.clone())
    }

    /// The parameter `field`, as written, of the last node before such a `port` that has it.
    pub fn field_of(&self, port: &str, field: &str) -> Option<&str> {
        let text = self.text.resolved();
        let before = self.before(port).into_iter();
        let mut values = before.filter_map(|node| node.value.at(text, field));
        text.get(values.next()?.span.clone())
    }

    /// The nodes before the first `port` of this name, from the one that it reads to the source.
    fn before(&self, port: &str) -> Vec<&Written> {
        let mut references = self.nodes.iter().flat_map(|node| &node.inputs);
        let mut reads = references.find(|of| of.port == Some(port));
        let mut before = Vec::new();
        // A recipe that was not planned may have cycles.
        while let Some(from) = reads.filter(|_| before.len() < self.nodes.len()) {
            let name = from.name.split('.').next().unwrap_or_default();
            let Some(node) = self.nodes.iter().find(|node| node.name == name) else {
                break;
            };
            before.push(node);
            reads = node.inputs.first();
        }
        before
    }
}
