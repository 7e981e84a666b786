//! A span as the mapping sees it: its attributes by meaning.

use evidence::canonical::{Limits, Value, parse};

use super::super::any::{Any, Attr};
use super::super::limits::{TEXT_JSON_DEPTH_MAX, TEXT_JSON_VALUES_MAX};
use super::super::span::Event;
use super::names::{Found, Slot};

/// What a span carries, to be mapped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'v, 'a> {
    pub(crate) attrs: &'v [Attr<'a>],
    pub(crate) events: &'v [Event<'a>],
    pub(crate) found: &'v Found,
}

/// What was used, so that it need not be kept twice.
#[derive(Debug, Default)]
pub(crate) struct Used {
    /// Places of attributes.
    pub(crate) attributes: Vec<usize>,
    /// Places of events.
    pub(crate) events: Vec<usize>,
    /// Something of what was used last stands nowhere in the body.
    pub(crate) lossy: bool,
}

impl Used {
    pub(crate) fn clear(&mut self) {
        self.attributes.clear();
        self.events.clear();
        self.lossy = false;
    }
}

impl<'a> View<'_, 'a> {
    /// The value of the attribute with that meaning.
    pub(crate) fn value(&self, slot: Slot) -> Option<Any<'a>> {
        self.found
            .place(slot)
            .and_then(|place| self.attrs.get(place))
            .map(|attr| attr.value)
    }

    /// The text of the attribute with that meaning, if there is any.
    pub(crate) fn text(&self, slot: Slot) -> Option<&'a str> {
        self.value(slot).and_then(Any::text)
    }

    /// The text, and the place where it stands.
    pub(crate) fn text_at(&self, slot: Slot) -> Option<(&'a str, usize)> {
        Some((self.text(slot)?, self.found.place(slot)?))
    }
}

/// The last value of an attribute of a list that was not put in order.
pub(crate) fn find<'a>(attrs: &[Attr<'a>], key: &str) -> Option<Any<'a>> {
    attrs
        .iter()
        .rev()
        .find(|attr| attr.key == key)
        .map(|attr| attr.value)
}

/// JSON text as a value. Text that is no JSON, or none that canonical JSON can hold, is `None`.
pub(crate) fn parse_text(text: &str) -> Option<Value> {
    const LIMITS: Limits = Limits {
        depth_max: TEXT_JSON_DEPTH_MAX,
        nodes_max: TEXT_JSON_VALUES_MAX,
    };
    let first = text.trim_start().as_bytes().first()?;
    if !matches!(
        first,
        b'{' | b'[' | b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n'
    ) {
        return None;
    }
    parse(text.as_bytes(), LIMITS).ok()
}

/// A value that may have been sent as JSON text: parsed when it is, else as it is.
pub(crate) fn parsed(value: Any<'_>) -> Value {
    match value {
        Any::Str(text) => parse_text(text).unwrap_or_else(|| Value::from(text)),
        other => other.to_value(),
    }
}

/// As [`parsed`], for a value within JSON.
pub(crate) fn parsed_value(value: &Value) -> Value {
    value
        .as_str()
        .and_then(parse_text)
        .unwrap_or_else(|| value.clone())
}

/// Takes a value as an object: the one it is, else `{"input": value}`.
pub(crate) fn as_input(value: Value) -> Value {
    match value {
        Value::Object(_) => value,
        other => Value::Object(vec![("input".to_owned(), other)]),
    }
}
