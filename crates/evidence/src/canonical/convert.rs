//! To and from `serde_json`, which the HTTP answers are made with.

use super::error::{JsonError, JsonErrorKind};
use super::number::Finite;
use super::{Limits, Value};

/// Takes over a `serde_json` value under the rules of [`super::parse`] and the default depth.
///
/// # Errors
/// [`JsonErrorKind::UnsafeInteger`], [`JsonErrorKind::TooDeep`]; the offset is 0, the path tells the place.
pub fn from_serde(value: &serde_json::Value) -> Result<Value, JsonError> {
    convert(value, Limits::default().depth_max)
}

fn convert(value: &serde_json::Value, depth_left: u16) -> Result<Value, JsonError> {
    use serde_json::Value as Json;
    let inner_depth = || {
        depth_left
            .checked_sub(1)
            .ok_or_else(|| JsonError::new(JsonErrorKind::TooDeep, 0))
    };
    Ok(match value {
        Json::Null => Value::Null,
        Json::Bool(truth) => Value::Bool(*truth),
        Json::Number(number) => convert_number(number)?,
        Json::String(text) => Value::String(text.clone()),
        Json::Array(elements) => {
            let depth = inner_depth()?;
            let elements = elements
                .iter()
                .enumerate()
                .map(|(index, element)| convert(element, depth).map_err(|error| error.in_index(index)));
            Value::Array(elements.collect::<Result<_, _>>()?)
        }
        Json::Object(members) => {
            let depth = inner_depth()?;
            let mut taken = Vec::with_capacity(members.len());
            for (key, member) in members {
                let member = convert(member, depth).map_err(|error| error.in_key(key))?;
                taken.push((key.clone(), member));
            }
            Value::object(taken)
        }
    })
}

fn convert_number(number: &serde_json::Number) -> Result<Value, JsonError> {
    let refused = |kind| JsonError::new(kind, 0);
    if let Some(integer) = number.as_i64() {
        return match Value::from(integer) {
            Value::Int(integer) => Ok(Value::Int(integer)),
            _ => Err(refused(JsonErrorKind::UnsafeInteger)),
        };
    }
    let Some(double) = number.as_f64().and_then(Finite::new) else {
        return Err(refused(JsonErrorKind::NumberOverflow));
    };
    if double.is_unsafe_integer() {
        return Err(refused(JsonErrorKind::UnsafeInteger));
    }
    Ok(double.into())
}

/// The same value for `serde_json`.
pub fn to_serde(value: &Value) -> serde_json::Value {
    use serde_json::Value as Json;
    match value {
        Value::Null => Json::Null,
        Value::Bool(truth) => Json::Bool(*truth),
        Value::Int(number) => Json::from(*number),
        Value::Float(number) => Json::from(number.get()),
        Value::String(text) => Json::String(text.clone()),
        Value::Array(elements) => Json::Array(elements.iter().map(to_serde).collect()),
        Value::Object(members) => Json::Object(
            members
                .iter()
                .map(|(key, member)| (key.clone(), to_serde(member)))
                .collect(),
        ),
    }
}
