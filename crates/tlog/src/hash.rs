//! SHA-256 values and the three hashes a Merkle log is made of.
//!
//! Source: RFC 6962, section 2.1 (the same in RFC 9162).

use std::fmt;

use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::text::{decode_base64_exact, encode_base64};

/// Length of a [`struct@Hash`] in bytes.
pub const HASH_BYTES: usize = 32;

/// A SHA-256 value: of a leaf, of an inner node, or of a whole tree.
///
/// Shown as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash([u8; HASH_BYTES]);

/// Why a text is no [`struct@Hash`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HashTextError {
    /// Not 44 characters of canonical, padded standard base64.
    #[error("not the base64 of 32 bytes")]
    Base64,
    /// Not 64 lower-case hex digits.
    #[error("not 64 lower-case hex digits")]
    Hex,
}

impl Hash {
    /// Takes 32 bytes as they are; nothing is hashed.
    pub const fn from_bytes(bytes: [u8; HASH_BYTES]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; HASH_BYTES] {
        &self.0
    }

    /// 44 characters of standard base64 with padding, as checkpoints and proofs write it.
    pub fn to_base64(&self) -> String {
        encode_base64(&self.0)
    }

    /// Reads what [`Hash::to_base64`] writes, and no other spelling.
    ///
    /// # Errors
    /// [`HashTextError::Base64`].
    pub fn from_base64(text: &str) -> Result<Self, HashTextError> {
        decode_base64_exact(text).map(Self).ok_or(HashTextError::Base64)
    }

    /// 64 lower-case hex digits.
    pub fn to_hex(&self) -> String {
        self.to_string()
    }

    /// Reads what [`Hash::to_hex`] writes; upper case is refused.
    ///
    /// # Errors
    /// [`HashTextError::Hex`].
    pub fn from_hex(text: &str) -> Result<Self, HashTextError> {
        if text.len() != 2 * HASH_BYTES {
            return Err(HashTextError::Hex);
        }
        let mut bytes = [0; HASH_BYTES];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().as_chunks::<2>().0) {
            let (Some(high), Some(low)) = (hex_digit(pair[0]), hex_digit(pair[1])) else {
                return Err(HashTextError::Hex);
            };
            *byte = high << 4 | low;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<[u8; HASH_BYTES]> for Hash {
    fn from(bytes: [u8; HASH_BYTES]) -> Self {
        Self(bytes)
    }
}

impl AsRef<[u8]> for Hash {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Hashes one entry: SHA-256 of `0x00` and the entry's bytes.
pub fn leaf_hash(entry: &[u8]) -> Hash {
    Hash(
        Sha256::new()
            .chain_update([0x00])
            .chain_update(entry)
            .finalize()
            .into(),
    )
}

/// Hashes two neighbours into their parent: SHA-256 of `0x01`, left, right.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    // One buffer, one update: this runs once per leaf on the append path.
    let mut buffer = [0x01; 1 + 2 * HASH_BYTES];
    buffer[1..=HASH_BYTES].copy_from_slice(&left.0);
    buffer[1 + HASH_BYTES..].copy_from_slice(&right.0);
    Hash(Sha256::digest(buffer).into())
}

/// The root of the tree without leaves: SHA-256 of nothing.
pub const fn empty_root() -> Hash {
    Hash([
        0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24, 0x27,
        0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
    ])
}

fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worked_leaves_have_their_published_hashes() {
        for (entry, expected) in [
            ("alpha", "KhWNiv1I4/iMtBld/bKp5IF9lfpX/TREDZP5quXE+Cs="),
            ("bravo", "eY5qB3NCQctO6eMKUS06xyKl/ePL+TQHVTAdJxX9eBA="),
            ("charlie", "+TGWLwkXw0bURyk8B7aHrhYJ9wA/ikSganXEFFseGSk="),
        ] {
            assert_eq!(leaf_hash(entry.as_bytes()).to_base64(), expected);
        }
        let root = node_hash(&leaf_hash(b"alpha"), &leaf_hash(b"bravo"));
        assert_eq!(root.to_base64(), "+zPf97nye5TVdDHTxy4yaOXdqcTePSsNNKs0FG1uaAY=");
    }

    #[test]
    fn the_empty_root_is_the_hash_of_nothing() {
        assert_eq!(empty_root(), Hash(Sha256::digest([]).into()));
        assert_eq!(
            empty_root().to_base64(),
            "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
        );
    }

    #[test]
    fn texts_read_back() {
        let hash = leaf_hash(b"x");
        assert_eq!(Hash::from_hex(&hash.to_hex()), Ok(hash));
        assert_eq!(Hash::from_base64(&hash.to_base64()), Ok(hash));
        assert_eq!(format!("{hash:?}"), hash.to_hex());
    }

    #[test]
    fn other_spellings_are_refused() {
        let hex = empty_root().to_hex();
        for bad in [
            hex.to_uppercase(),
            hex[1..].to_owned(),
            format!("{hex}0"),
            format!("é{}", &hex[2..]),
        ] {
            assert_eq!(Hash::from_hex(&bad), Err(HashTextError::Hex), "{bad}");
        }
        // `=` hides two bits of the last digit: `U` (…00) and `V` (…01) would be the same bytes.
        let base64 = empty_root().to_base64();
        let twin = base64.replace("FU=", "FV=");
        for bad in [twin.as_str(), &base64[..43], "", "é"] {
            assert_eq!(Hash::from_base64(bad), Err(HashTextError::Base64), "{bad}");
        }
    }
}
