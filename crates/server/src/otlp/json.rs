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

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::decode::{DecodeError, Rejections};
use super::limits::ITEMS_MAX;
use super::schema::{Field, Kind, Message, Shape};

const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

/// A resource or scope that could not be read: field number 0, which no message has.
const UNREADABLE: [u8; 1] = [0];

/// Writes a request of that message as protobuf, without the items that are none.
pub(crate) fn to_protobuf(
    body: &[u8],
    message: &'static Message,
) -> Result<(Vec<u8>, Rejections), DecodeError> {
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
        Ok(()) => Ok((out, run.rejected)),
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
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for MessageSeed<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the object of a {}", self.message.name)
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

/// Reads the value of a field and appends the field, with its key.
struct FieldSeed<'r, 'o> {
    field: &'static Field,
    run: &'r Run,
    out: &'o mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for FieldSeed<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.field.shape == Shape::Around {
            let raw = <Option<&'de RawValue> as serde::Deserialize>::deserialize(deserializer)?;
            if let (Some(raw), Kind::Message(message)) = (raw, self.field.kind) {
                let written = alone(raw, message, self.run, self.field, self.out);
                if written.is_err() {
                    put_bytes(self.field.number, &UNREADABLE, self.out);
                }
            }
            return Ok(());
        }
        deserializer.deserialize_any(self)
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

impl FieldSeed<'_, '_> {
    fn wrong<E: Error>(&self) -> E {
        E::custom(format_args!("{} has a value of another type", self.field.name))
    }

    fn bad<E: Error>(&self, what: &str) -> E {
        E::custom(format_args!("{} {what}", self.field.name))
    }

    /// Whether the field has a key of its own, and is written even with its default.
    const fn explicit(&self) -> bool {
        !matches!(self.field.shape, Shape::Once)
    }

    fn put_key(&mut self, wire_type: u32) {
        if self.field.shape != Shape::Packed {
            put_varint(u64::from(self.field.number << 3 | wire_type), self.out);
        }
    }

    fn put_int<E: Error>(&mut self, number: i128) -> Result<(), E> {
        let range = || self.bad("is out of range");
        let kind = self.field.kind;
        if let Kind::Double = kind {
            #[expect(
                clippy::cast_precision_loss,
                reason = "JSON has one kind of number; the nearest double is meant"
            )]
            self.put_double(number as f64);
            return Ok(());
        }
        if number == 0 && !self.explicit() && self.field.shape != Shape::Packed {
            return Ok(());
        }
        match kind {
            Kind::Fixed64 => {
                let number = u64::try_from(number).map_err(|_| range())?;
                self.put_key(1);
                self.out.extend_from_slice(&number.to_le_bytes());
            }
            Kind::Sfixed64 => {
                let number = i64::try_from(number).map_err(|_| range())?;
                self.put_key(1);
                self.out.extend_from_slice(&number.to_le_bytes());
            }
            Kind::Fixed32 => {
                let number = u32::try_from(number).map_err(|_| range())?;
                self.put_key(5);
                self.out.extend_from_slice(&number.to_le_bytes());
            }
            Kind::Uint32 | Kind::Uint64 => {
                let max = if let Kind::Uint32 = kind {
                    u64::from(u32::MAX)
                } else {
                    u64::MAX
                };
                let number = u64::try_from(number)
                    .ok()
                    .filter(|&number| number <= max)
                    .ok_or_else(range)?;
                self.put_key(0);
                put_varint(number, self.out);
            }
            Kind::Int64 => {
                let number = i64::try_from(number).map_err(|_| range())?;
                self.put_key(0);
                put_varint(number.cast_unsigned(), self.out);
            }
            Kind::Int32 => {
                let number = i32::try_from(number).map_err(|_| range())?;
                self.put_key(0);
                put_varint(i64::from(number).cast_unsigned(), self.out);
            }
            Kind::Sint32 => {
                let number = i32::try_from(number).map_err(|_| range())?;
                self.put_key(0);
                put_varint(
                    u64::from(((number << 1) ^ (number >> 31)).cast_unsigned()),
                    self.out,
                );
            }
            _ => return Err(self.wrong()),
        }
        Ok(())
    }

    fn put_double(&mut self, number: f64) {
        // Minus zero is another pattern than the default, and is written.
        if number.to_bits() != 0 || self.explicit() {
            self.put_key(1);
            self.out.extend_from_slice(&number.to_le_bytes());
        }
    }

    fn put_content(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() || self.explicit() {
            put_bytes(self.field.number, bytes, self.out);
        }
    }
}

impl<'de> Visitor<'de> for FieldSeed<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the value of {}", self.field.name)
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        // In a list there is no default to stand for.
        if matches!(self.field.shape, Shape::Packed) {
            Err(self.wrong())
        } else {
            Ok(())
        }
    }

    fn visit_bool<E: Error>(mut self, truth: bool) -> Result<(), E> {
        let Kind::Bool = self.field.kind else {
            return Err(self.wrong());
        };
        if truth || self.explicit() {
            self.put_key(0);
            self.out.push(u8::from(truth));
        }
        Ok(())
    }

    fn visit_i64<E: Error>(mut self, number: i64) -> Result<(), E> {
        self.put_int(i128::from(number))
    }

    fn visit_u64<E: Error>(mut self, number: u64) -> Result<(), E> {
        self.put_int(i128::from(number))
    }

    fn visit_f64<E: Error>(mut self, number: f64) -> Result<(), E> {
        match self.field.kind {
            Kind::Double => {
                self.put_double(number);
                Ok(())
            }
            _ => Err(self.bad("is no integer")),
        }
    }

    fn visit_str<E: Error>(mut self, text: &str) -> Result<(), E> {
        match self.field.kind {
            Kind::Text => self.put_content(text.as_bytes()),
            Kind::Hex => {
                let bytes = unhex(text).ok_or_else(|| self.bad("is not of hexadecimal digits"))?;
                self.put_content(&bytes);
            }
            Kind::Base64 => {
                let bytes = STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text));
                let bytes = bytes.map_err(|_| self.bad("is not base64"))?;
                self.put_content(&bytes);
            }
            Kind::Double => {
                let number = match text {
                    "NaN" => f64::NAN,
                    "Infinity" => f64::INFINITY,
                    "-Infinity" => f64::NEG_INFINITY,
                    _ => text
                        .parse()
                        .ok()
                        .filter(|number: &f64| number.is_finite())
                        .ok_or_else(|| self.bad("is no number"))?,
                };
                self.put_double(number);
            }
            Kind::Bool | Kind::Message(_) => return Err(self.wrong()),
            _ => {
                let number = text.parse::<i128>().map_err(|_| self.bad("is no integer"))?;
                return self.put_int(number);
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        let Kind::Message(message) = self.field.kind else {
            return Err(self.wrong());
        };
        if self.field.shape != Shape::Explicit {
            return Err(self.wrong());
        }
        let mut bytes = Vec::new();
        MessageSeed {
            message,
            run: self.run,
            out: &mut bytes,
        }
        .visit_map(map)?;
        put_bytes(self.field.number, &bytes, self.out);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        match (self.field.shape, self.field.kind) {
            (Shape::List, Kind::Message(message)) => {
                let mut bytes = Vec::new();
                while list
                    .next_element_seed(MessageSeed {
                        message,
                        run: self.run,
                        out: &mut bytes,
                    })?
                    .is_some()
                {
                    put_bytes(self.field.number, &bytes, self.out);
                    bytes.clear();
                }
                Ok(())
            }
            (Shape::Packed, _) => {
                let mut bytes = Vec::new();
                while list
                    .next_element_seed(NumberSeed {
                        field: self.field,
                        run: self.run,
                        out: &mut bytes,
                    })?
                    .is_some()
                {}
                if !bytes.is_empty() {
                    put_bytes(self.field.number, &bytes, self.out);
                }
                Ok(())
            }
            (Shape::Items, Kind::Message(message)) => {
                let mut place = 0_usize;
                while let Some(raw) = list.next_element::<&'de RawValue>()? {
                    let items = {
                        let mut counted = self.run.0.borrow_mut();
                        counted.items += 1;
                        counted.items
                    };
                    if items > ITEMS_MAX {
                        return Err(A::Error::custom("too many items"));
                    }
                    if let Err(error) = alone(raw, message, self.run, self.field, self.out) {
                        let rejected = &mut self.run.0.borrow_mut().rejected;
                        rejected.add(1, || format!("{} {place}: {error}", message.name));
                    }
                    place += 1;
                }
                Ok(())
            }
            _ => Err(self.wrong()),
        }
    }
}

/// An element of a packed list: written without a key, the default included.
struct NumberSeed<'r, 'o> {
    field: &'static Field,
    run: &'r Run,
    out: &'o mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for NumberSeed<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(FieldSeed {
            field: self.field,
            run: self.run,
            out: self.out,
        })
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
        return None;
    };
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    pairs
        .iter()
        .map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?))
        .collect()
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
