//! `deponent openapi`: the API's document.

use anyhow::Result;

/// Prints it.
pub(crate) fn run() -> Result<u8> {
    crate::output::json(&server::openapi())?;
    Ok(0)
}
