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

/// Who did something: an identifier in which something can be seen, as a space names nobody.
pub(crate) fn name(field: &'static str, text: &str) -> Result<(), RuleBroken> {
    identifier(field, text)?;
    if is_blank(text) {
        return Err(RuleBroken::new(field, "must have something that can be seen"));
    }
    Ok(())
}

/// Whether nothing of a text can be seen: it is empty, or has only spaces and characters that are shown as nothing
/// (Unicode's `Default_Ignorable_Code_Point`, and the blank of Braille).
pub fn is_blank(text: &str) -> bool {
    let is_unseen = |char: char| {
        char.is_whitespace()
            || char.is_control()
            || matches!(
                char,
                '\u{ad}'
                    | '\u{34f}'
                    | '\u{61c}'
                    | '\u{115f}'..='\u{1160}'
                    | '\u{17b4}'..='\u{17b5}'
                    | '\u{180b}'..='\u{180f}'
                    | '\u{200b}'..='\u{200f}'
                    | '\u{202a}'..='\u{202e}'
                    | '\u{2060}'..='\u{206f}'
                    | '\u{2800}'
                    | '\u{3164}'
                    | '\u{fe00}'..='\u{fe0f}'
                    | '\u{feff}'
                    | '\u{ffa0}'
                    | '\u{fff0}'..='\u{fff8}'
                    | '\u{1bca0}'..='\u{1bca3}'
                    | '\u{1d173}'..='\u{1d17a}'
                    | '\u{e0000}'..='\u{e0fff}'
            )
    };
    text.chars().all(is_unseen)
}

/// What [`identifier`] says of each that is given.
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
    if is_blank(text) {
        return Err(RuleBroken::new(field, "must say something"));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_and_a_reason_have_something_that_can_be_seen() {
        for good in ["ada", " ada ", "é", "李", "🤖", "?", "a\u{200b}"] {
            assert!(
                name("actor_id", good).is_ok() && prose_given("reason", good).is_ok(),
                "{good:?}"
            );
        }
        for bad in [
            "",
            " ",
            "\u{a0}\u{3000}",
            "\u{200b}",
            "\u{feff} \u{ad}",
            "\u{2800}",
            "\u{3164}",
            "\u{e0041}",
        ] {
            assert_eq!(name("actor_id", bad).unwrap_err().field, "actor_id", "{bad:?}");
            assert_eq!(prose_given("reason", bad).unwrap_err().field, "reason", "{bad:?}");
        }
        assert!(prose_given("reason", "\n").is_err() && prose_given("reason", "a\nb").is_ok());
    }
}
