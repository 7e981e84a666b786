//! The rules applied to a value, and the markers in it counted.

use std::collections::BTreeMap;

use super::names::Line;
use super::{FIELD_MARKER, MARKER, MEMBER, Redactor, names, text};
use crate::canonical::{self, Value};
use crate::time::TIMES_GIVEN;
use crate::{IDENTIFIER_BYTES_MAX, Timestamp};

/// One walk over a value.
pub(super) struct Walk<'r> {
    pub(super) rules: &'r Redactor,
}

/// What holds for a value because of where it stands.
#[derive(Clone, Copy)]
struct Place {
    /// Whose the members here are.
    whose: Whose,
    /// Under a secret name.
    secret: bool,
    /// Levels of JSON within text that are left.
    levels: u16,
}

/// Who has named the members of an object.
#[derive(Clone, Copy)]
enum Whose {
    /// Deponent: some identify and are left alone.
    Ours,
    /// Deponent, at the top of an audit event or of a request that makes one.
    Event,
    /// Anybody, but for what names the runs that an audit event is about: holds and reads find it by them.
    State,
    /// The writer of a line of an audit log.
    Line(&'static Line),
    /// Anybody.
    Anybodys,
}

impl Whose {
    fn leaves_alone(self, name: &str, value: &Value) -> bool {
        match self {
            Self::Ours | Self::Event => {
                names::is_exempt(name) && is_text(value)
                    || names::is_time(name) && is_time(value)
                    || is_own_request(name, value)
                    || name == TIMES_GIVEN && are_times(value)
            }
            Self::State => names::is_run_of_state(name) && is_identifier(value),
            Self::Line(line) => {
                line.is_exempt(name) && is_text(value) || Line::is_time(name) && is_time(value)
            }
            Self::Anybodys => false,
        }
    }

    /// What Deponent has named holds nothing built-in patterns find, and a tenant's must not rename it.
    fn are_names_fixed(self) -> bool {
        match self {
            Self::Ours | Self::Event => true,
            Self::Line(line) => line.is_named,
            Self::State | Self::Anybodys => false,
        }
    }

    /// Whose what stands under that name is.
    fn within(self, name: &str) -> Self {
        match self {
            Self::Ours | Self::Event if names::is_section(name) => Self::Ours,
            Self::Event if names::is_state(name) => Self::State,
            _ => Self::Anybodys,
        }
    }
}

impl Walk<'_> {
    /// A body of Deponent's own.
    pub(super) fn whole(&self, value: &mut Value) -> bool {
        self.body(value, Whose::Ours)
    }

    /// An audit event, or a request: of it the kind is not known, and none but that for an audit event has members of
    /// those names.
    pub(super) fn event(&self, value: &mut Value) -> bool {
        self.body(value, Whose::Event)
    }

    /// A line of an audit log.
    pub(super) fn line(&self, value: &mut Value, line: &'static Line) -> bool {
        self.body(value, Whose::Line(line))
    }

    fn body(&self, value: &mut Value, whose: Whose) -> bool {
        let place = Place {
            whose,
            secret: false,
            levels: text::JSON_LEVELS,
        };
        self.walk(value, place)
    }

    /// A body of Deponent's own in which nothing but these members is anybody else's.
    pub(super) fn only(&self, value: &mut Value, free: &[&str]) -> bool {
        let Value::Object(members) = value else {
            return false;
        };
        members
            .iter_mut()
            .filter(|(name, value)| free.contains(&name.as_str()) && !is_own_request(name, value))
            .fold(false, |changed, (name, value)| {
                let place = Place {
                    whose: Whose::Anybodys,
                    secret: self.rules.is_secret_name(name),
                    levels: text::JSON_LEVELS,
                };
                self.walk(value, place) | changed
            })
    }

    /// What a client has put together.
    pub(super) fn free(&self, value: &mut Value, levels: u16) -> bool {
        let place = Place {
            whose: Whose::Anybodys,
            secret: false,
            levels,
        };
        self.walk(value, place)
    }

    fn walk(&self, value: &mut Value, place: Place) -> bool {
        match value {
            Value::String(text) => self.text(text, place),
            Value::Array(elements) => elements
                .iter_mut()
                .fold(false, |changed, element| self.walk(element, place) | changed),
            Value::Object(members) => self.members(members, place),
            Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) => false,
        }
    }

    fn text(&self, text: &mut String, place: Place) -> bool {
        if place.secret {
            let keep = text.is_empty() || text == FIELD_MARKER;
            if !keep {
                FIELD_MARKER.clone_into(text);
            }
            return !keep;
        }
        match text::redact(self.rules, text, place.levels) {
            Some(redacted) => {
                *text = redacted;
                true
            }
            None => false,
        }
    }

    fn members(&self, members: &mut [(String, Value)], place: Place) -> bool {
        let (mut changed, mut renamed) = (false, false);
        for (name, value) in members.iter_mut() {
            if place.whose.leaves_alone(name, value) {
                continue;
            }
            let inner = Place {
                whose: place.whose.within(name),
                secret: place.secret || self.rules.is_secret_name(name),
                levels: place.levels,
            };
            changed |= self.walk(value, inner);
            let redacted = if place.whose.are_names_fixed() {
                text::replace(self.rules, name)
            } else {
                text::redact(self.rules, name, place.levels)
            };
            if let Some(redacted) = redacted {
                *name = redacted;
                renamed = true;
            }
        }
        if renamed {
            make_unique(members);
        }
        changed | renamed
    }
}

fn is_text(value: &Value) -> bool {
    match value {
        Value::String(_) => true,
        Value::Array(elements) => elements.iter().all(|element| element.as_str().is_some()),
        _ => false,
    }
}

/// What is longer than an identifier may be names no run.
fn is_identifier(value: &Value) -> bool {
    value
        .as_str()
        .is_some_and(|text| text.len() <= IDENTIFIER_BYTES_MAX && !text.chars().any(char::is_control))
}

/// The id of a request that was made here.
fn is_own_request(name: &str, value: &Value) -> bool {
    name == names::REQUEST_ID && is_uuid(value)
}

fn is_uuid(value: &Value) -> bool {
    value.as_str().is_some_and(|text| {
        let is_dash = |place: usize| matches!(place, 8 | 13 | 18 | 23);
        let fits = |(place, byte): (usize, u8)| {
            if is_dash(place) {
                byte == b'-'
            } else {
                byte.is_ascii_hexdigit()
            }
        };
        text.len() == 36 && text.bytes().enumerate().all(fits)
    })
}

fn is_time(value: &Value) -> bool {
    value.as_str().is_some_and(|text| Timestamp::parse(text).is_ok())
}

fn are_times(value: &Value) -> bool {
    value
        .as_object()
        .is_some_and(|times| times.iter().all(|(_, time)| is_time(time)))
}

/// Puts renamed members in order; names that have become the same get a number, so that none is lost.
fn make_unique(members: &mut [(String, Value)]) {
    members.sort_by(|a, b| canonical::key_order(&a.0, &b.0));
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    let all: std::collections::HashSet<String> = members.iter().map(|(name, _)| name.clone()).collect();
    for (name, _) in members.iter_mut() {
        let times = seen.entry(name.clone()).or_insert(0);
        *times += 1;
        if *times > 1 {
            let mut number = *times;
            while all.contains(&format!("{name} {number}")) {
                number += 1;
            }
            *times = number;
            *name = format!("{name} {number}");
        }
    }
    members.sort_by(|a, b| canonical::key_order(&a.0, &b.0));
}

/// The markers in a body.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) count: i64,
    by_name: BTreeMap<String, i64>,
}

impl Tally {
    fn text(&mut self, text: &str) {
        if text.contains(MARKER) {
            for name in text::markers(text) {
                self.count += 1;
                *self.by_name.entry(name).or_insert(0) += 1;
            }
        }
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::String(text) => self.text(text),
            Value::Array(elements) => elements.iter().for_each(|element| self.value(element)),
            Value::Object(members) => members.iter().for_each(|(name, value)| {
                self.text(name);
                self.value(value);
            }),
            Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) => {}
        }
    }

    pub(super) fn to_value(&self) -> Value {
        let patterns: Vec<Value> = self
            .by_name
            .keys()
            .map(|name| Value::from(name.as_str()))
            .collect();
        Value::object([
            ("count", Value::from(self.count)),
            ("patterns", Value::from(patterns)),
        ])
    }
}

/// The markers in a body, but for those in the member that a tally is kept in: a tally would count itself, or what a
/// writer put there and the tally takes the place of, and a body redacted twice would be another one.
pub(super) fn tally(value: &Value) -> Tally {
    let mut tally = Tally::default();
    match value {
        Value::Object(members) => {
            for (name, value) in members.iter().filter(|(name, _)| name != MEMBER) {
                tally.text(name);
                tally.value(value);
            }
        }
        other => tally.value(other),
    }
    tally
}
