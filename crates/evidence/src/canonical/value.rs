//! The JSON value, with every object in canonical order.

use super::number::{Finite, to_f64};
use super::order;
use serde::ser::{Serialize, SerializeMap, Serializer};

/// A JSON value in its one form: equal values have equal canonical bytes, and the other way round.
///
/// [`super::parse`] and the `From` conversions keep to the form. Code that builds a variant by hand keeps
/// to the rule beside it; `write` repairs what can be repaired.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Value {
    /// `null`
    #[default]
    Null,
    /// `true` or `false`
    Bool(bool),
    /// An integer within ±(2^53−1), see [`super::INTEGER_MAX`].
    Int(i64),
    /// Any other number. `Value::from(Finite)` tells the two apart.
    Float(Finite),
    /// Text.
    String(String),
    /// Values in their given order.
    Array(Vec<Value>),
    /// Members, keys unique and ascending by UTF-16 code units. [`Value::object`] and [`Value::insert`]
    /// see to it.
    Object(Vec<(String, Value)>),
}

impl Value {
    /// Makes an object of members in any order; of equal keys the last counts.
    pub fn object<K, V>(members: impl IntoIterator<Item = (K, V)>) -> Self
    where
        K: Into<String>,
        V: Into<Value>,
    {
        let mut members: Vec<(String, Value)> = members
            .into_iter()
            .map(|(key, value)| (key.into(), value.into()))
            .collect();
        // Stable, so that after turning the order round the last of equal keys comes first and stays.
        members.reverse();
        members.sort_by(|a, b| order::utf16(&a.0, &b.0));
        members.dedup_by(|later, kept| later.0 == kept.0);
        Self::Object(members)
    }

    /// The member `key` of an object.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let members = self.as_object()?;
        let place = place_of(members, key).ok()?;
        members.get(place).map(|(_, value)| value)
    }

    /// Sets a member of an object, keeping the order; gives back the one it replaces.
    ///
    /// Anything but an object is left as it is.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<Value>) -> Option<Value> {
        debug_assert!(matches!(self, Self::Object(_)), "only an object takes members");
        let Self::Object(members) = self else { return None };
        let key = key.into();
        match place_of(members, &key) {
            Ok(place) => members
                .get_mut(place)
                .map(|member| std::mem::replace(&mut member.1, value.into())),
            Err(place) => {
                members.insert(place, (key, value.into()));
                None
            }
        }
    }

    /// Takes the member `key` out of an object.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let Self::Object(members) = self else { return None };
        let place = place_of(members, key).ok()?;
        Some(members.remove(place).1)
    }

    /// Whether this is `null`.
    pub const fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// The truth value, if it is one.
    pub const fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(truth) => Some(*truth),
            _ => None,
        }
    }

    /// The integer, if it is one.
    pub const fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Int(number) => Some(*number),
            _ => None,
        }
    }

    /// The integer, if it is one and not negative.
    pub fn as_u64(&self) -> Option<u64> {
        self.as_i64().and_then(|number| u64::try_from(number).ok())
    }

    /// The number, if it is one.
    pub const fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Int(number) => Some(to_f64(*number)),
            Self::Float(number) => Some(number.get()),
            _ => None,
        }
    }

    /// The text, if it is one.
    pub const fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text.as_str()),
            _ => None,
        }
    }

    /// The elements, if it is an array.
    pub const fn as_array(&self) -> Option<&[Value]> {
        match self {
            Self::Array(elements) => Some(elements.as_slice()),
            _ => None,
        }
    }

    /// The members in canonical order, if it is an object.
    pub const fn as_object(&self) -> Option<&[(String, Value)]> {
        match self {
            Self::Object(members) => Some(members.as_slice()),
            _ => None,
        }
    }
}

fn place_of(members: &[(String, Value)], key: &str) -> Result<usize, usize> {
    members.binary_search_by(|(candidate, _)| order::utf16(candidate, key))
}

impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Self::Bool(truth)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::String(text)
    }
}

impl From<Vec<Value>> for Value {
    fn from(elements: Vec<Value>) -> Self {
        Self::Array(elements)
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(truth) => serializer.serialize_bool(*truth),
            Self::Int(number) => serializer.serialize_i64(*number),
            Self::Float(number) => serializer.serialize_f64(number.get()),
            Self::String(text) => serializer.serialize_str(text),
            Self::Array(elements) => serializer.collect_seq(elements),
            Self::Object(members) => {
                let mut map = serializer.serialize_map(Some(members.len()))?;
                for (key, value) in members {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}
