//! `rsflow graph`: draws a recipe.

use std::io::Write;

use anyhow::Result;
use rsflow_graph::{Format, Plan, draw};

/// Writes the picture.
pub fn run(plan: &Plan, format: Format, out: &mut dyn Write) -> Result<()> {
    out.write_all(draw(plan, format).as_bytes())?;
    Ok(())
}
