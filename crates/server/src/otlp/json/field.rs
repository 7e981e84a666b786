//! Reads the value of one field of OTLP/JSON.

use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::super::limits::ITEMS_MAX;
use super::super::schema::{Field, Kind, Shape};
use super::{MessageSeed, Run, UNREADABLE, alone, put_bytes, put_varint};

const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

/// Reads the value of a field and appends the field, with its key.
pub(super) struct FieldSeed<'r, 'o> {
    pub(super) field: &'static Field,
    pub(super) run: &'r Run,
    pub(super) out: &'o mut Vec<u8>,
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
                        self.run.0.borrow_mut().refuse(message, raw, place, &error);
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

pub(super) fn unhex(text: &str) -> Option<Vec<u8>> {
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
