//! Record ids: UUIDv7 that carry their own leaf index.
//!
//! A record id is a valid UUIDv7 (RFC 9562). Of its 62 `rand_b` bits the upper
//! 40 hold the leaf index and the lower 22 are random; `rand_a` is random. So a
//! record is found by its id without an index on random keys, and an id that
//! stands at another leaf than its own shows it.
//!
//! Out of scope: drawing random bits (an argument) and reading the clock.

use std::fmt;

use tlog::LeafIndex;

use crate::time::Timestamp;

/// Bits of a record id that hold the leaf index: 2^40 leaves are 35 years at 1,000 records a second.
pub const LEAF_INDEX_BITS: u32 = 40;

/// A record id. Shown as 36 lower-case characters, `xxxxxxxx-xxxx-7xxx-yxxx-xxxxxxxxxxxx`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId([u8; 16]);

impl RecordId {
    /// Makes the id of the record at `index`, recorded `at`, from 34 of the given random bits.
    ///
    /// Times before 1970 count as 1970. `None` when the index does not fit [`LEAF_INDEX_BITS`].
    pub fn new(at: Timestamp, index: LeafIndex, random: u64) -> Option<Self> {
        let index = index.as_u64();
        if index >> LEAF_INDEX_BITS != 0 {
            return None;
        }
        let millis = u64::try_from(at.as_micros() / 1_000).unwrap_or(0) & 0xffff_ffff_ffff;
        let high = (millis << 16) | 0x7000 | ((random >> 22) & 0xfff);
        let low = (0b10 << 62) | (index << 22) | (random & 0x3f_ffff);
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&high.to_be_bytes());
        bytes[8..].copy_from_slice(&low.to_be_bytes());
        Some(Self(bytes))
    }

    /// The leaf index that the id names.
    pub fn leaf_index(self) -> LeafIndex {
        let mut low = [0; 8];
        low.copy_from_slice(&self.0[8..]);
        LeafIndex::new((u64::from_be_bytes(low) >> 22) & ((1 << LEAF_INDEX_BITS) - 1))
    }

    /// Reads the 36-character form; upper-case, braces and other UUID versions are refused.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.as_bytes();
        if text.len() != 36 {
            return None;
        }
        let mut bytes = [0_u8; 16];
        let mut at = 0;
        for (i, byte) in bytes.iter_mut().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                if text[at] != b'-' {
                    return None;
                }
                at += 1;
            }
            *byte = (nibble(text[at])? << 4) | nibble(text[at + 1])?;
            at += 2;
        }
        (bytes[6] >> 4 == 7 && bytes[8] >> 6 == 0b10).then_some(Self(bytes))
    }

    /// Writes the 36-character form.
    pub fn write_to(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_text());
    }

    pub(crate) fn to_text(self) -> [u8; 36] {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut text = [b'-'; 36];
        let mut at = 0;
        for (i, byte) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                at += 1;
            }
            text[at] = HEX[usize::from(byte >> 4)];
            text[at + 1] = HEX[usize::from(byte & 15)];
            at += 2;
        }
        text
    }
}

fn nibble(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.to_text()).unwrap_or_default())
    }
}

impl fmt::Debug for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for RecordId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for RecordId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("not a record id"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_names_its_leaf_and_survives_its_text_form() {
        let at = Timestamp::from_micros(1_763_717_000_123_456).unwrap();
        for index in [0, 1, 255, 70_000, (1 << 40) - 1] {
            let id = RecordId::new(at, LeafIndex::new(index), u64::MAX).unwrap();
            assert_eq!(id.leaf_index().as_u64(), index);
            assert_eq!(RecordId::parse(&id.to_string()), Some(id));
        }
        assert_eq!(RecordId::new(at, LeafIndex::new(1 << 40), 0), None);
    }

    #[test]
    fn other_uuid_versions_and_shapes_are_refused() {
        assert_eq!(RecordId::parse("018f0000-0000-4000-8000-000000000000"), None);
        assert_eq!(RecordId::parse("018F0000-0000-7000-8000-000000000000"), None);
        assert_eq!(RecordId::parse("018f0000-0000-7000-8000-00000000000"), None);
    }
}
