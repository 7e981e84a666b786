//! Thrift's compact protocol, read as strictly as writers write it.
//!
//! The library that reads Parquet looks at the numbers of fields, not at their types, and skips what it does not
//! know: two readers may then see different things in the same bytes, and a look beforehand would be worth nothing.
//! So everything of which the library knows the shape must have that shape here ([`Shape`]), fields come in ascending
//! order and once, numbers fit their types, and lists have a bound. What no writer writes is refused.
//!
//! Source: Apache Thrift, "Thrift compact protocol".

/// Structs in structs; the format has six.
const DEPTH_MAX: u8 = 10;

/// Most elements of all lists together, nested ones included: 100,000 column chunks with twenty each.
const ELEMENTS_MAX: u64 = 2_000_000;

const BYTES: u8 = 8;
const LIST: u8 = 9;
const STRUCT: u8 = 12;

/// What a field must hold.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    Bool,
    Byte,
    I16,
    I32,
    I64,
    Double,
    Bytes,
    List(&'static Self),
    /// Fields by their numbers; others are passed over.
    Struct(&'static [(i64, Self)]),
}

impl Shape {
    fn is_type(self, wire: u8) -> bool {
        match self {
            Self::Bool => wire == 1 || wire == 2,
            Self::Byte => wire == 3,
            Self::I16 => wire == 4,
            Self::I32 => wire == 5,
            Self::I64 => wire == 6,
            Self::Double => wire == 7,
            Self::Bytes => wire == BYTES,
            Self::List(_) => wire == LIST,
            Self::Struct(_) => wire == STRUCT,
        }
    }
}

/// Bytes that are read from their beginning. `None`, whatever is asked: they end before, or are not as they should be.
pub(super) struct Thrift<'a> {
    rest: &'a [u8],
    elements_left: u64,
}

impl<'a> Thrift<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self {
            rest: bytes,
            elements_left: ELEMENTS_MAX,
        }
    }

    /// Bytes not yet read.
    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            // What is shifted out would be seen by nobody.
            value |= bits
                .checked_shl(shift)
                .filter(|shifted| shifted >> shift == bits)?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn integer(&mut self) -> Option<i64> {
        let raw = self.varint()?;
        Some((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed())
    }

    /// A number of 16, 32 or 64 bits.
    pub(super) fn number(&mut self, shape: Shape) -> Option<i64> {
        let value = self.integer()?;
        let fits = match shape {
            Shape::I16 => i16::try_from(value).is_ok(),
            Shape::I32 => i32::try_from(value).is_ok(),
            _ => true,
        };
        fits.then_some(value)
    }

    fn skip_bytes(&mut self, count: u64) -> Option<()> {
        self.rest = self.rest.get(usize::try_from(count).ok()?..)?;
        Some(())
    }

    /// A text; its length.
    pub(super) fn text(&mut self) -> Option<u64> {
        let count = self.varint()?;
        self.skip_bytes(count)?;
        Some(count)
    }

    /// The next field's number and type; type 0 ends the struct.
    pub(super) fn field(&mut self, last: &mut i64) -> Option<(i64, u8)> {
        let byte = self.byte()?;
        if byte == 0 {
            return Some((0, 0));
        }
        let next = match byte >> 4 {
            0 => self.integer()?,
            step => last.checked_add(i64::from(step))?,
        };
        if next <= *last || next > i64::from(i16::MAX) || byte.trailing_zeros() >= 4 {
            return None;
        }
        *last = next;
        Some((next, byte & 0x0f))
    }

    /// The elements' type and number.
    pub(super) fn list(&mut self) -> Option<(u8, u64)> {
        let byte = self.byte()?;
        let count = match byte >> 4 {
            15 => self.varint()?,
            count => u64::from(count),
        };
        self.elements_left = self.elements_left.checked_sub(count)?;
        Some((byte & 0x0f, count))
    }

    /// Passes over a value that must have this shape.
    pub(super) fn skip_as(&mut self, shape: Shape, wire: u8) -> Option<()> {
        if !shape.is_type(wire) {
            return None;
        }
        match shape {
            Shape::I16 | Shape::I32 | Shape::I64 => self.number(shape).map(|_| ()),
            Shape::List(element) => {
                let (wire, count) = self.list()?;
                // In a list a truth is a byte, in a struct it is none: no list of the format holds any.
                if matches!(element, Shape::Bool) {
                    return None;
                }
                (0..count).try_for_each(|_| self.skip_as(*element, wire))
            }
            Shape::Struct(fields) => {
                let mut last = 0;
                loop {
                    match self.field(&mut last)? {
                        (_, 0) => return Some(()),
                        (number, wire) => match fields.iter().find(|(known, _)| *known == number) {
                            Some((_, shape)) => self.skip_as(*shape, wire)?,
                            None => self.skip(wire, 0)?,
                        },
                    }
                }
            }
            Shape::Bool | Shape::Byte | Shape::Double | Shape::Bytes => self.skip(wire, 0),
        }
    }

    /// Passes over a value of which nothing is known.
    pub(super) fn skip(&mut self, wire: u8, depth: u8) -> Option<()> {
        if depth > DEPTH_MAX {
            return None;
        }
        match wire {
            1 | 2 => Some(()),
            3 => self.skip_bytes(1),
            4..=6 => self.varint().map(|_| ()),
            7 => self.skip_bytes(8),
            BYTES => self.text().map(|_| ()),
            LIST => {
                let (wire, count) = self.list()?;
                if count > 0 && wire < 3 {
                    return None;
                }
                (0..count).try_for_each(|_| self.skip(wire, depth + 1))
            }
            STRUCT => {
                let mut last = 0;
                loop {
                    match self.field(&mut last)? {
                        (_, 0) => return Some(()),
                        (_, wire) => self.skip(wire, depth + 1)?,
                    }
                }
            }
            // Sets and maps do not occur in the format.
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAIR: Shape = Shape::Struct(&[(1, Shape::I32), (2, Shape::Bytes)]);

    fn takes(bytes: &[u8]) -> bool {
        Thrift::new(bytes).skip_as(PAIR, STRUCT).is_some()
    }

    #[test]
    fn a_known_field_has_its_type_and_stands_once_and_in_order() {
        assert!(takes(&[0x15, 0x02, 0x18, 0x01, b'a', 0x00]));
        assert!(
            takes(&[0x15, 0x02, 0x28, 0x01, b'a', 0x00]),
            "a field of later times"
        );
        assert!(!takes(&[0x18, 0x01, b'a', 0x00]), "text where a number stands");
        assert!(!takes(&[0x15, 0x02, 0x05, 0x02, 0x02, 0x00]), "field 1 twice");
        assert!(
            !takes(&[0x25, 0x02, 0x05, 0x02, 0x02, 0x00]),
            "field 1 after field 2"
        );
        assert!(!takes(&[0x10, 0x00]), "an end that is none");
        assert!(
            !takes(&[0x15, 0xfe, 0xff, 0xff, 0xff, 0xff, 0x01, 0x00]),
            "a number too large"
        );
    }

    #[test]
    fn lists_and_structs_have_bounds() {
        // Field 3, a list of 2^31 - 1 truths, and of as many bytes.
        assert!(!takes(&[0x39, 0xf1, 0xff, 0xff, 0xff, 0xff, 0x07, 0x00]));
        assert!(!takes(&[0x39, 0xf3, 0xff, 0xff, 0xff, 0xff, 0x07, 0x00]));
        assert!(takes(&[0x39, 0x23, 0x01, 0x02, 0x00]));
        assert!(takes(&[0x39, 0x00, 0x00]), "an empty list");
        let mut deep = vec![0x3c];
        deep.extend([0x1c; 40]);
        deep.extend([0; 42]);
        assert!(!takes(&deep));
    }
}
