//! Errors in the fields of a recipe's value, found before anything is built from it.

use anyhow::{Result, ensure};

/// The name of a field, and what is wrong with it in one sentence.
pub type FieldError = (&'static str, String);

/// # Errors
/// All of `errors` in one message, if there are any.
pub(crate) fn ensure_valid(errors: &[FieldError]) -> Result<()> {
    let sentences: Vec<&str> = errors.iter().map(|(_, error)| error.as_str()).collect();
    ensure!(sentences.is_empty(), "{}", sentences.join("; "));
    Ok(())
}
