//! What is wrong with a value of a recipe, told before anything is built from it.

use anyhow::{Result, ensure};

/// A field of the value, and what is wrong with it in one sentence.
pub type Fault = (&'static str, String);

/// Makes sure that there are no faults.
///
/// # Errors
/// All of them, in one message.
pub(crate) fn ensure_none(faults: &[Fault]) -> Result<()> {
    let sentences: Vec<&str> = faults.iter().map(|(_, fault)| fault.as_str()).collect();
    ensure!(sentences.is_empty(), "{}", sentences.join("; "));
    Ok(())
}
