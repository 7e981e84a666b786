//! The rules of fields that more than one kind of record keeps to.

use crate::IDENTIFIER_BYTES_MAX;
use crate::canonical::Value;

/// Longest text meant for people (a reason, a summary): a page of prose is 4 KiB, so this refuses nothing
/// that is meant, and a list of them stays small.
pub const PROSE_BYTES_MAX: usize = 64 * 1024;

/// Most entries of a list inside a body (policies evaluated, reason codes): a policy engine evaluates
/// hundreds; a list of this length is still read at a glance by a program.
pub const ENTRIES_MAX: usize = 1_000;

/// A rule that a record does not keep to, and the field it is about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {rule}")]
pub struct RuleBroken {
    /// The field's name on the wire.
    pub field: &'static str,
    /// What it must be.
    pub rule: String,
}

impl RuleBroken {
    pub(crate) fn new(field: &'static str, rule: impl Into<String>) -> Self {
        let rule = rule.into();
        Self { field, rule }
    }
}

/// 1 to 256 bytes without control characters (SPEC 1).
pub(crate) fn identifier(field: &'static str, text: &str) -> Result<(), RuleBroken> {
    if text.is_empty() || text.len() > IDENTIFIER_BYTES_MAX {
        return Err(RuleBroken::new(
            field,
            format!("must have 1 to {IDENTIFIER_BYTES_MAX} bytes"),
        ));
    }
    if text.chars().any(char::is_control) {
        return Err(RuleBroken::new(field, "must not contain control characters"));
    }
    Ok(())
}

/// The same of each that is given.
pub(crate) fn identifiers(given: &[(&'static str, &Option<String>)]) -> Result<(), RuleBroken> {
    given
        .iter()
        .try_for_each(|(field, text)| text.as_deref().map_or(Ok(()), |text| identifier(field, text)))
}

/// At most [`PROSE_BYTES_MAX`].
pub(crate) fn prose(field: &'static str, text: Option<&str>) -> Result<(), RuleBroken> {
    if text.is_some_and(|text| text.len() > PROSE_BYTES_MAX) {
        return Err(RuleBroken::new(
            field,
            format!("must have at most {PROSE_BYTES_MAX} bytes"),
        ));
    }
    Ok(())
}

/// Prose that says something.
pub(crate) fn prose_given(field: &'static str, text: &str) -> Result<(), RuleBroken> {
    if text.is_empty() {
        return Err(RuleBroken::new(field, "must not be empty"));
    }
    prose(field, Some(text))
}

/// One of the words.
pub(crate) fn word(field: &'static str, text: &str, words: &[&str]) -> Result<(), RuleBroken> {
    if words.contains(&text) {
        return Ok(());
    }
    Err(RuleBroken::new(
        field,
        format!("must be one of {}", words.join(", ")),
    ))
}

/// Counts, when given: 0 to 2^53−1, which canonical JSON holds exactly.
pub(crate) fn counts(given: &[(&'static str, Option<i64>)]) -> Result<(), RuleBroken> {
    match given
        .iter()
        .find(|(_, count)| count.is_some_and(|count| !(0..=crate::canonical::INTEGER_MAX).contains(&count)))
    {
        None => Ok(()),
        Some((field, _)) => Err(RuleBroken::new(field, "must be 0 to 9007199254740991")),
    }
}

/// 0 to 1.
pub(crate) fn fraction(field: &'static str, number: f64) -> Result<(), RuleBroken> {
    if (0.0..=1.0).contains(&number) {
        return Ok(());
    }
    Err(RuleBroken::new(field, "must be 0 to 1"))
}

/// An object, when given.
pub(crate) fn object(field: &'static str, value: Option<&Value>) -> Result<(), RuleBroken> {
    match value {
        None | Some(Value::Object(_)) => Ok(()),
        Some(_) => Err(RuleBroken::new(field, "must be an object")),
    }
}

/// At most [`ENTRIES_MAX`] identifiers.
pub(crate) fn list(field: &'static str, entries: &[String]) -> Result<(), RuleBroken> {
    if entries.len() > ENTRIES_MAX {
        return Err(RuleBroken::new(
            field,
            format!("must have at most {ENTRIES_MAX} entries"),
        ));
    }
    entries.iter().try_for_each(|entry| identifier(field, entry))
}
