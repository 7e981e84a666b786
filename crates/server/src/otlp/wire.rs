//! Reads protobuf where it lies, field by field.
//!
//! Spans are read without being copied: a request of 16 MiB may hold millions of empty messages, and
//! decoded structs of them would take gigabytes. Reading also tells whether the bytes are in the one form
//! that every encoder of proto3 agrees on (fields ascending, defaults left out, shortest varints), so that
//! most spans are hashed as they lie.
//!
//! Source: <https://protobuf.dev/programming-guides/encoding/>.

/// Why bytes are not the message that they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

/// One field's value as it lies on the wire.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Raw<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

/// Reads the fields of one message.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    last: u32,
    /// Bit n: field n may stand more than once.
    repeated: u32,
    /// Whether everything read so far is in the one form.
    pub(crate) plain: bool,
}

const WRONG_TYPE: Malformed = Malformed("a field has another type than its name says");

impl<'a> Reader<'a> {
    /// Reads a message whose fields in the bit set `repeated` may stand more than once.
    pub(crate) const fn new(bytes: &'a [u8], repeated: u32) -> Self {
        Self {
            rest: bytes,
            last: 0,
            repeated,
            plain: true,
        }
    }

    /// The next field, or none at the end.
    pub(crate) fn field(&mut self) -> Result<Option<(u32, Raw<'a>)>, Malformed> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = u32::try_from(self.varint()?).map_err(|_| Malformed("a field number is too large"))?;
        let number = key >> 3;
        if number == 0 {
            return Err(Malformed("a field has the number 0"));
        }
        let once = number >= 32 || self.repeated & (1 << number) == 0;
        if number < self.last || (number == self.last && once) {
            self.plain = false;
        }
        self.last = number;
        let raw = match key & 7 {
            0 => Raw::Varint(self.varint()?),
            1 => Raw::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let len = usize::try_from(self.varint()?).map_err(|_| Malformed("a length is too large"))?;
                Raw::Bytes(self.take(len)?)
            }
            5 => Raw::Fixed32(u32::from_le_bytes(self.array()?)),
            3 | 4 => return Err(Malformed("a group, which OTLP does not have")),
            _ => return Err(Malformed("an unknown wire type")),
        };
        Ok(Some((number, raw)))
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, Malformed> {
        // Nearly all keys and lengths are one byte.
        match self.rest {
            [byte @ 0..0x80, rest @ ..] => {
                self.rest = rest;
                Ok(u64::from(*byte))
            }
            _ => self.varint_long(),
        }
    }

    fn varint_long(&mut self) -> Result<u64, Malformed> {
        let mut value = 0_u64;
        for (place, &byte) in self.rest.iter().enumerate().take(10) {
            if place == 9 && byte > 1 {
                return Err(Malformed("a number has more than 64 bits"));
            }
            value |= u64::from(byte & 0x7f) << (7 * place);
            if byte < 0x80 {
                if byte == 0 && place > 0 {
                    self.plain = false;
                }
                self.rest = &self.rest[place + 1..];
                return Ok(value);
            }
        }
        Err(Malformed(if self.rest.len() < 10 {
            "cut off in a number"
        } else {
            "a number has more than 64 bits"
        }))
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(Malformed("cut off: a length passes the end"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self
            .rest
            .split_first_chunk()
            .ok_or(Malformed("cut off in a number"))?;
        self.rest = rest;
        Ok(*taken)
    }

    /// A field that no version known here has.
    pub(crate) const fn unknown(&mut self) {
        self.plain = false;
    }

    const fn implicit(&mut self, is_default: bool) {
        if is_default {
            self.plain = false;
        }
    }

    /// The bytes of a message, or of any field that is written even when empty.
    pub(crate) const fn message(raw: Raw<'a>) -> Result<&'a [u8], Malformed> {
        match raw {
            Raw::Bytes(bytes) => Ok(bytes),
            _ => Err(WRONG_TYPE),
        }
    }

    /// Bytes that are left out when empty.
    pub(crate) fn bytes(&mut self, raw: Raw<'a>) -> Result<&'a [u8], Malformed> {
        let bytes = Self::message(raw)?;
        self.implicit(bytes.is_empty());
        Ok(bytes)
    }

    /// Text that is left out when empty.
    pub(crate) fn text(&mut self, raw: Raw<'a>) -> Result<&'a str, Malformed> {
        utf8(self.bytes(raw)?)
    }

    /// A number of 64 fixed bits, left out when 0.
    pub(crate) fn fixed64(&mut self, raw: Raw<'a>) -> Result<u64, Malformed> {
        let Raw::Fixed64(value) = raw else {
            return Err(WRONG_TYPE);
        };
        self.implicit(value == 0);
        Ok(value)
    }

    /// A number of 32 fixed bits, left out when 0.
    pub(crate) fn fixed32(&mut self, raw: Raw<'a>) -> Result<u32, Malformed> {
        let Raw::Fixed32(value) = raw else {
            return Err(WRONG_TYPE);
        };
        self.implicit(value == 0);
        Ok(value)
    }

    /// A varint that is written even when 0.
    pub(crate) const fn varint_of(raw: Raw<'a>) -> Result<u64, Malformed> {
        match raw {
            Raw::Varint(value) => Ok(value),
            _ => Err(WRONG_TYPE),
        }
    }

    /// An unsigned varint of 32 bits, left out when 0. Higher bits are cut, as every decoder does.
    pub(crate) fn uint32(&mut self, raw: Raw<'a>) -> Result<u32, Malformed> {
        let wide = Self::varint_of(raw)?;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "protobuf reads a longer varint by its lower 32 bits"
        )]
        let value = wide as u32;
        self.implicit(wide == 0 || u64::from(value) != wide);
        Ok(value)
    }

    /// A number of an enumeration, left out when 0; unknown ones are kept.
    pub(crate) fn enumeration(&mut self, raw: Raw<'a>) -> Result<i32, Malformed> {
        let wide = Self::varint_of(raw)?;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "protobuf reads a longer varint by its lower 32 bits"
        )]
        let value = wide as i32;
        self.implicit(wide == 0 || i64::from(value) != wide.cast_signed());
        Ok(value)
    }
}

/// The text of bytes that must be UTF-8.
pub(crate) fn utf8(bytes: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(bytes).map_err(|_| Malformed("text that is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_off_or_too_long_is_malformed_not_a_panic() {
        for (bytes, reason) in [
            (&[0x0a][..], "cut off in a number"),
            (&[0x0a, 5, 1], "cut off: a length passes the end"),
            (&[0x09, 1, 2], "cut off in a number"),
            (&[0x08, 0x80], "cut off in a number"),
            (
                &[0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2],
                "a number has more than 64 bits",
            ),
            (&[0x0b], "a group, which OTLP does not have"),
            (&[0x0f], "an unknown wire type"),
            (&[0x02, 0], "a field has the number 0"),
            (
                &[0x0a, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1],
                "cut off: a length passes the end",
            ),
        ] {
            let got = Reader::new(bytes, 0).field();
            assert!(
                matches!(got, Err(Malformed(found)) if found == reason),
                "{bytes:?}: {got:?}"
            );
        }
    }

    #[test]
    fn only_the_one_form_is_plain() {
        let plain = |bytes: &[u8], repeated| {
            let mut reader = Reader::new(bytes, repeated);
            while let Some((_, raw)) = reader.field().unwrap() {
                if let Raw::Varint(_) = raw {
                    reader.uint32(raw).unwrap();
                }
            }
            reader.plain
        };
        assert!(plain(&[0x08, 1, 0x10, 1], 0));
        assert!(!plain(&[0x10, 1, 0x08, 1], 0), "descending");
        assert!(!plain(&[0x08, 1, 0x08, 1], 0), "twice");
        assert!(plain(&[0x0a, 0, 0x0a, 0], 1 << 1), "repeated");
        assert!(!plain(&[0x08, 0], 0), "a default");
        assert!(!plain(&[0x08, 0x81, 0], 0), "a long varint");
        assert!(
            !plain(&[0x08, 255, 255, 255, 255, 255, 1], 0),
            "more than 32 bits"
        );
    }
}
