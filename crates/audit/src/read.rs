//! Reads the members of an input object, and says which one is wrong.

use evidence::Timestamp;
use evidence::canonical::Value;

/// Why an input cannot be judged. The message names the member.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InputError(String);

impl InputError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// Refuses anything but an object with members of these names.
pub(crate) fn object<'v>(
    value: &'v Value,
    what: &str,
    known: &[&str],
) -> Result<&'v [(String, Value)], InputError> {
    let members = value
        .as_object()
        .ok_or_else(|| InputError::new(format!("{what} is not an object")))?;
    match members.iter().find(|(key, _)| !known.contains(&key.as_str())) {
        Some((key, _)) => Err(InputError::new(format!("{what} has the unknown member {key:?}"))),
        None => Ok(members),
    }
}

/// A member that is there and not null.
pub(crate) fn given<'v>(value: &'v Value, name: &str) -> Option<&'v Value> {
    value.get(name).filter(|member| !member.is_null())
}

pub(crate) fn text(value: &Value, name: &str) -> Result<Option<String>, InputError> {
    given(value, name)
        .map(|member| {
            member
                .as_str()
                .map(str::to_owned)
                .ok_or_else(|| InputError::new(format!("{name} is not text")))
        })
        .transpose()
}

pub(crate) fn required_text(value: &Value, name: &str) -> Result<String, InputError> {
    text(value, name)?.ok_or_else(|| InputError::new(format!("{name} is missing")))
}

pub(crate) fn number(value: &Value, name: &str) -> Result<Option<f64>, InputError> {
    given(value, name)
        .map(|member| {
            member
                .as_f64()
                .ok_or_else(|| InputError::new(format!("{name} is not a number")))
        })
        .transpose()
}

pub(crate) fn boolean(value: &Value, name: &str) -> Result<Option<bool>, InputError> {
    given(value, name)
        .map(|member| {
            member
                .as_bool()
                .ok_or_else(|| InputError::new(format!("{name} is neither true nor false")))
        })
        .transpose()
}

/// A list of at most `max` elements.
pub(crate) fn list<'v>(value: &'v Value, name: &str, max: usize) -> Result<Option<&'v [Value]>, InputError> {
    let Some(member) = given(value, name) else {
        return Ok(None);
    };
    let elements = member
        .as_array()
        .ok_or_else(|| InputError::new(format!("{name} is not a list")))?;
    if elements.len() > max {
        return Err(InputError::new(format!("{name} has more than {max} elements")));
    }
    Ok(Some(elements))
}

pub(crate) fn texts(value: &Value, name: &str, max: usize) -> Result<Option<Vec<String>>, InputError> {
    let Some(elements) = list(value, name, max)? else {
        return Ok(None);
    };
    elements
        .iter()
        .map(|element| {
            element
                .as_str()
                .map(str::to_owned)
                .ok_or_else(|| InputError::new(format!("{name} has an element that is not text")))
        })
        .collect::<Result<_, _>>()
        .map(Some)
}

/// A time with its offset; one without has no moment.
pub(crate) fn time(value: &Value, name: &str) -> Result<Option<Timestamp>, InputError> {
    text(value, name)?
        .map(|text| Timestamp::parse(&text).map_err(|error| InputError::new(format!("{name}: {error}"))))
        .transpose()
}

pub(crate) fn required_time(value: &Value, name: &str) -> Result<Timestamp, InputError> {
    time(value, name)?.ok_or_else(|| InputError::new(format!("{name} is missing")))
}
