//! Attribute values: read where they lie, written as canonical JSON.
//!
//! Text, booleans and arrays are themselves. An integer beyond ±(2^53−1) is a decimal string, bytes are
//! standard base64, NaN and the infinities are the strings that OTLP/JSON has for them, an empty value is
//! `null`. A map is an object; a map with a key twice is an array of `[key, value]` pairs, so that nothing
//! in it is lost.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use evidence::canonical::{Finite, Value, Writer, key_order};

use super::limits::{ATTRIBUTES_MAX, NESTING_MAX, VALUES_MAX};
use super::wire::{Malformed, Raw, Reader, utf8};

/// A value of an attribute. What it holds was checked when it was read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Any<'a> {
    Empty,
    Str(&'a str),
    Bool(bool),
    Int(i64),
    Double(f64),
    /// The bytes of an `ArrayValue`.
    Array(&'a [u8]),
    /// The bytes of a `KeyValueList`.
    Map(&'a [u8]),
    Bytes(&'a [u8]),
}

/// An attribute.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attr<'a> {
    pub(crate) key: &'a str,
    pub(crate) value: Any<'a>,
}

/// What is left of an item's limits while it is read, and what is known of it then.
#[derive(Debug)]
pub(crate) struct Budget {
    values: u32,
    /// It is in the one form of proto3.
    pub(crate) plain: bool,
    /// Some value in it is bytes that are text. They are kept in base64, where nobody sees what they say.
    pub(crate) text_in_bytes: bool,
}

impl Budget {
    pub(crate) const fn new() -> Self {
        Self {
            values: VALUES_MAX,
            plain: true,
            text_in_bytes: false,
        }
    }
}

/// Reads a `KeyValue` and appends it.
pub(crate) fn read_attr<'a>(
    bytes: &'a [u8],
    budget: &mut Budget,
    into: &mut Vec<Attr<'a>>,
) -> Result<(), Malformed> {
    if into.len() == ATTRIBUTES_MAX {
        return Err(Malformed("more than 16,384 attributes"));
    }
    into.push(key_value(bytes, budget, NESTING_MAX)?);
    Ok(())
}

fn key_value<'a>(bytes: &'a [u8], budget: &mut Budget, depth: u32) -> Result<Attr<'a>, Malformed> {
    let mut reader = Reader::new(bytes, 0);
    let mut attr = Attr {
        key: "",
        value: Any::Empty,
    };
    while let Some((number, raw)) = reader.field()? {
        match number {
            1 => attr.key = reader.text(raw)?,
            2 => attr.value = read_any(Reader::message(raw)?, budget, depth)?,
            // A reference into a profile's table, which means nothing here.
            3 => {
                reader.enumeration(raw)?;
            }
            _ => reader.unknown(),
        }
    }
    budget.plain &= reader.plain;
    Ok(attr)
}

/// Reads an `AnyValue`, which may hold values `depth` levels deep.
pub(crate) fn read_any<'a>(bytes: &'a [u8], budget: &mut Budget, depth: u32) -> Result<Any<'a>, Malformed> {
    budget.values = budget
        .values
        .checked_sub(1)
        .ok_or(Malformed("more than 262,144 values"))?;
    let mut reader = Reader::new(bytes, 0);
    let mut value = Any::Empty;
    let mut fields = 0;
    while let Some((number, raw)) = reader.field()? {
        fields += 1;
        value = match number {
            1 => Any::Str(utf8(Reader::message(raw)?)?),
            2 => {
                let truth = Reader::varint_of(raw)?;
                budget.plain &= truth <= 1;
                Any::Bool(truth != 0)
            }
            3 => Any::Int(Reader::varint_of(raw)?.cast_signed()),
            4 => {
                let Raw::Fixed64(bits) = raw else {
                    return Err(Malformed("a double that is none"));
                };
                Any::Double(f64::from_bits(bits))
            }
            5 => {
                let bytes = Reader::message(raw)?;
                check_list(bytes, budget, depth, |bytes, budget, depth| {
                    read_any(bytes, budget, depth).map(drop)
                })?;
                Any::Array(bytes)
            }
            6 => {
                let bytes = Reader::message(raw)?;
                check_list(bytes, budget, depth, |bytes, budget, depth| {
                    key_value(bytes, budget, depth).map(drop)
                })?;
                Any::Map(bytes)
            }
            7 => {
                let bytes = Reader::message(raw)?;
                budget.text_in_bytes |= !bytes.is_empty() && std::str::from_utf8(bytes).is_ok();
                Any::Bytes(bytes)
            }
            8 => {
                let wide = Reader::varint_of(raw)?.cast_signed();
                budget.plain &= i32::try_from(wide).is_ok();
                Any::Empty
            }
            _ => {
                reader.unknown();
                fields -= 1;
                value
            }
        };
    }
    // Of several the last one counts; the one form has one.
    budget.plain &= reader.plain && fields <= 1;
    Ok(value)
}

/// Checks the elements of an `ArrayValue` or `KeyValueList`.
fn check_list<'a>(
    bytes: &'a [u8],
    budget: &mut Budget,
    depth: u32,
    check: fn(&'a [u8], &mut Budget, u32) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    let depth = depth
        .checked_sub(1)
        .ok_or(Malformed("values nested more than 24 deep"))?;
    let mut reader = Reader::new(bytes, 1 << 1);
    while let Some((number, raw)) = reader.field()? {
        if number == 1 {
            check(Reader::message(raw)?, budget, depth)?;
        } else {
            reader.unknown();
        }
    }
    budget.plain &= reader.plain;
    Ok(())
}

/// The elements of a list that was checked when it was read.
fn elements(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut reader = Reader::new(bytes, 1 << 1);
    std::iter::from_fn(move || {
        loop {
            match reader.field() {
                Ok(Some((1, Raw::Bytes(element)))) => return Some(element),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return None,
            }
        }
    })
}

impl<'a> Any<'a> {
    /// The values of an array; none for anything else.
    pub(crate) fn items(self) -> impl Iterator<Item = Any<'a>> {
        let bytes = if let Any::Array(bytes) = self { bytes } else { &[] };
        elements(bytes)
            .map(|element| read_any(element, &mut Budget::new(), NESTING_MAX).unwrap_or(Any::Empty))
    }

    /// The members of a map; none for anything else.
    pub(crate) fn members(self) -> impl Iterator<Item = Attr<'a>> {
        let bytes = if let Any::Map(bytes) = self { bytes } else { &[] };
        elements(bytes).map(|element| {
            key_value(element, &mut Budget::new(), NESTING_MAX).unwrap_or(Attr {
                key: "",
                value: Any::Empty,
            })
        })
    }

    /// The text, if it is one and not empty.
    pub(crate) const fn text(self) -> Option<&'a str> {
        match self {
            Any::Str(text) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    /// Writes the canonical JSON.
    pub(crate) fn write(self, w: &mut Writer<'_>) {
        match self {
            Any::Empty => w.null(),
            Any::Str(text) => w.str(text),
            Any::Bool(truth) => w.bool(truth),
            Any::Int(number) => w.i64(number),
            Any::Double(number) => write_f64(w, number),
            Any::Bytes(bytes) => w.str(&STANDARD.encode(bytes)),
            Any::Array(_) => {
                w.open_array();
                self.items().for_each(|item| item.write(w));
                w.close_array()
            }
            Any::Map(_) => {
                let members: Vec<_> = self.members().collect();
                write_members(w, members)
            }
        };
    }

    /// The value as a tree, for what must be taken apart.
    pub(crate) fn to_value(self) -> Value {
        match self {
            Any::Empty => Value::Null,
            Any::Str(text) => Value::from(text),
            Any::Bool(truth) => Value::Bool(truth),
            Any::Int(number) => Value::from(number),
            Any::Double(number) => {
                Finite::new(number).map_or_else(|| Value::from(not_finite(number)), Value::from)
            }
            Any::Bytes(bytes) => Value::String(STANDARD.encode(bytes)),
            Any::Array(_) => Value::Array(self.items().map(Any::to_value).collect()),
            Any::Map(_) => {
                let mut members: Vec<_> = self
                    .members()
                    .map(|attr| (attr.key.to_owned(), attr.value.to_value()))
                    .collect();
                let pairs = |(key, value): (String, Value)| Value::Array(vec![Value::String(key), value]);
                let mut keys: Vec<_> = members.iter().map(|(key, _)| key.as_str()).collect();
                keys.sort_unstable();
                if keys.array_windows().any(|[a, b]| a == b) {
                    return Value::Array(members.into_iter().map(pairs).collect());
                }
                members.sort_by(|a, b| key_order(&a.0, &b.0));
                Value::Object(members)
            }
        }
    }
}

/// Writes a double; what JSON has no number for as the string that OTLP/JSON has.
pub(crate) fn write_f64<'w, 'o>(w: &'w mut Writer<'o>, number: f64) -> &'w mut Writer<'o> {
    match Finite::new(number) {
        Some(finite) => w.f64(finite),
        None => w.str(not_finite(number)),
    }
}

const fn not_finite(number: f64) -> &'static str {
    if number.is_nan() {
        "NaN"
    } else if number > 0.0 {
        "Infinity"
    } else {
        "-Infinity"
    }
}

/// Writes a map: an object, or pairs when a key stands twice.
fn write_members<'w, 'o>(w: &'w mut Writer<'o>, mut members: Vec<Attr<'_>>) -> &'w mut Writer<'o> {
    // Stable, so that pairs of one key keep their order.
    members.sort_by(|a, b| key_order(a.key, b.key));
    if members.array_windows().any(|[a, b]| a.key == b.key) {
        w.open_array();
        for member in members {
            w.open_array();
            w.str(member.key);
            member.value.write(w);
            w.close_array();
        }
        w.close_array()
    } else {
        w.open_object();
        for member in members {
            w.key_any(member.key);
            member.value.write(w);
        }
        w.close_object()
    }
}
