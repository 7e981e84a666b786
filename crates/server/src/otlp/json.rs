//! Writes OTLP/JSON as protobuf.
//!
//! One function for every message, led by the tables of [`super::schema`]. The rules are OTLP's: names in
//! lowerCamelCase, unknown ones ignored, ids in hexadecimal digits, 64-bit integers as numbers or decimal
//! strings, enumerations as numbers, bytes in base64, `null` for a default. What comes out is in the one
//! form of proto3, so that a span has the same content in both encodings.
//!
//! Each span, log record and metric is read alone and rejected alone; so is a resource or scope, which then
//! rejects what stands under it. Nesting is bounded by serde_json's 128 levels, and what is passed over is
//! passed over without recursion.
//!
//! Source: <https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding>.

mod field;
mod refused;

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::decode::{DecodeError, Rejections};
use super::limits::ITEMS_MAX;
use super::refused::RefusedSpans;
use super::schema::{self, Field, Message};
use field::FieldSeed;

/// A resource or scope that could not be read: field number 0, which no message has.
const UNREADABLE: [u8; 1] = [0];

/// Writes a request of that message as protobuf, without the items that are none; tells how many those are, and which
/// spans among them name their trace.
pub(crate) fn to_protobuf(
    body: &[u8],
    message: &'static Message,
) -> Result<(Vec<u8>, Rejections, RefusedSpans), DecodeError> {
    let text = match std::str::from_utf8(body) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => Cow::Owned(mark_bad_utf8(body)),
    };
    let run = Run::default();
    let mut out = Vec::with_capacity(body.len() / 2);
    let mut json = serde_json::Deserializer::from_str(&text);
    let seed = MessageSeed {
        message,
        run: &run,
        out: &mut out,
    };
    let done = seed.deserialize(&mut json).and_then(|()| json.end());
    let run = run.0.into_inner();
    match done {
        Ok(()) => Ok((out, run.rejected, run.refused)),
        Err(_) if run.items > ITEMS_MAX => Err(DecodeError::TooMany),
        Err(error) => Err(DecodeError::Malformed(error.to_string().into())),
    }
}

/// Text in which every sequence that is not UTF-8 stands as an escape that no string may hold, so that the
/// item it lies in is refused, and only that item. Outside of strings it is no JSON, as it was none.
fn mark_bad_utf8(body: &[u8]) -> String {
    let mut text = String::with_capacity(body.len() + 64);
    for chunk in body.utf8_chunks() {
        text.push_str(chunk.valid());
        if !chunk.invalid().is_empty() {
            let escaped = text.bytes().rev().take_while(|&byte| byte == b'\\').count() % 2 == 1;
            text.push_str(if escaped { "ud800 " } else { "\\ud800 " });
        }
    }
    text
}

/// What one request's reading has counted.
#[derive(Debug, Default)]
struct Run(RefCell<Counted>);

#[derive(Debug, Default)]
struct Counted {
    items: usize,
    rejected: Rejections,
    refused: RefusedSpans,
}

impl Counted {
    /// Counts an item that is none, with the points that a metric shows, and notes whose span it would have been.
    fn refuse(&mut self, message: &Message, raw: &RawValue, place: usize, error: &serde_json::Error) {
        let mut count = 1;
        if std::ptr::eq(message, &raw const schema::SPAN) {
            if let Some((trace_id, span_id)) = refused::span_ids(raw) {
                self.refused.note(trace_id, span_id, error);
            }
        } else if std::ptr::eq(message, &raw const schema::METRIC) {
            count = refused::points_shown(raw);
        }
        self.rejected
            .add(count, || format!("{} {place}: {error}", message.name));
    }
}

/// Reads one message and appends its protobuf form.
struct MessageSeed<'r, 'o> {
    message: &'static Message,
    run: &'r Run,
    out: &'o mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for MessageSeed<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        // Not `deserialize_map`, whose error would quote what stands there.
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for MessageSeed<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the object of a {}", self.message.name)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Err(E::custom(format_args!(
            "text where the object of a {} is needed",
            self.message.name
        )))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        // Fields in order of arrival, each with its encoded form; written in order of numbers.
        let mut fields: Vec<(&'static Field, Vec<u8>)> = Vec::new();
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            let Some(field) = self.message.fields.iter().find(|field| field.name == name) else {
                map.next_value::<serde::de::IgnoredAny>()?;
                continue;
            };
            if fields.iter().any(|(seen, _)| seen.number == field.number) {
                return Err(A::Error::custom(format_args!(
                    "{} stands twice in a {}",
                    field.name, self.message.name
                )));
            }
            let mut encoded = Vec::new();
            map.next_value_seed(FieldSeed {
                field,
                run: self.run,
                out: &mut encoded,
            })?;
            fields.push((field, encoded));
        }
        fields.sort_unstable_by_key(|(field, _)| field.number);
        for (_, encoded) in fields {
            self.out.extend_from_slice(&encoded);
        }
        Ok(())
    }
}

/// Reads a message that stands alone and appends it as that field.
fn alone(
    raw: &RawValue,
    message: &'static Message,
    run: &Run,
    field: &Field,
    out: &mut Vec<u8>,
) -> Result<(), serde_json::Error> {
    let mut bytes = Vec::with_capacity(raw.get().len() / 2);
    let seed = MessageSeed {
        message,
        run,
        out: &mut bytes,
    };
    seed.deserialize(&mut serde_json::Deserializer::from_str(raw.get()))?;
    put_bytes(field.number, &bytes, out);
    Ok(())
}

fn put_bytes(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    put_varint(u64::from(number << 3 | 2), out);
    put_varint(u64::try_from(bytes.len()).unwrap_or(u64::MAX), out);
    out.extend_from_slice(bytes);
}

fn put_varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(u8::try_from(number & 0x7f).unwrap_or(0) | 0x80);
        number >>= 7;
    }
    out.push(u8::try_from(number).unwrap_or(0));
}
