//! Public keys of logs and cosigners: their text form and what they verify.
//!
//! In scope: Ed25519, as a log signs (type 01) and as a cosigner does (type 04).
//! Out of scope: every other type; a line of another type is an unknown line.
//!
//! Source: C2SP signed-note, "Verifier keys"; tlog-cosignature, "Ed25519".

use std::fmt;

use ed25519_dalek::{Signature, VerifyingKey};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::{
    Verified,
    text::{decode_base64_exact, encode_base64},
};

/// Longest key name in bytes. C2SP cosignatures write a name behind one byte of length.
pub const KEY_NAME_BYTES_MAX: usize = 255;

/// Type byte and key; 44 characters of base64 without padding.
const TYPED_KEY_BYTES: usize = 33;

/// Time and signature of a type 04 line.
const COSIGNATURE_BYTES: usize = 8 + 64;

/// First four bytes of a hash over name, type and public key. A hint which key to try: it collides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub(crate) [u8; 4]);

/// What a key's signatures are made over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyKind {
    /// Type 01: Ed25519 over the note's text. A log's key.
    Ed25519,
    /// Type 04: Ed25519 over a time and the note's text. A cosigner's key.
    Cosignature,
}

/// A named public key. The name and the kind belong to it as much as the key itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    id: KeyId,
    kind: KeyKind,
    key: VerifyingKey,
}

/// Why a text or bytes are no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KeyError {
    /// Not of the form `name+id+base64`, or not in its one canonical spelling.
    #[error("not a key text")]
    Malformed,
    /// The name is empty, too long, or has white space, a control character or a `+`.
    #[error("not a key name")]
    Name,
    /// The type byte is none this crate verifies.
    #[error("keys of type {0:02x} are not supported")]
    UnsupportedType(u8),
    /// The id is not that of this name and key; one of the three was changed.
    #[error("the key id does not belong to this name and key")]
    IdDiffers,
    /// The bytes are no point of the curve, not its canonical encoding, or of small order.
    #[error("not a sound Ed25519 public key")]
    PublicKey,
}

impl KeyId {
    /// The four bytes.
    pub const fn as_bytes(&self) -> &[u8; 4] {
        &self.0
    }

    /// SHA-256 of name, line feed, type byte and public key, cut to four bytes.
    fn of(name: &str, kind: KeyKind, public_key: &[u8; 32]) -> Self {
        let hash = Sha256::new()
            .chain_update(name)
            .chain_update([b'\n', kind.type_byte()])
            .chain_update(public_key)
            .finalize();
        let [a, b, c, d, ..] = <[u8; 32]>::from(hash);
        Self([a, b, c, d])
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", u32::from_be_bytes(self.0))
    }
}

impl KeyKind {
    /// The type byte of key texts and key ids.
    pub const fn type_byte(self) -> u8 {
        match self {
            Self::Ed25519 => 0x01,
            Self::Cosignature => 0x04,
        }
    }

    const fn from_type_byte(byte: u8) -> Option<Self> {
        match byte {
            0x01 => Some(Self::Ed25519),
            0x04 => Some(Self::Cosignature),
            _ => None,
        }
    }
}

impl VerifierKey {
    /// Names a public key.
    ///
    /// # Errors
    /// [`KeyError::Name`] or [`KeyError::PublicKey`].
    pub fn new(name: &str, kind: KeyKind, public_key: &[u8; 32]) -> Result<Self, KeyError> {
        if !is_key_name(name) {
            return Err(KeyError::Name);
        }
        let key = VerifyingKey::from_bytes(public_key).map_err(|_| KeyError::PublicKey)?;
        // A key of small order verifies signatures nobody made; a second encoding of a point
        // would be a second id for one key.
        if key.is_weak() || key.to_edwards().compress().as_bytes() != public_key {
            return Err(KeyError::PublicKey);
        }
        Ok(Self {
            name: name.to_owned(),
            id: KeyId::of(name, kind, public_key),
            kind,
            key,
        })
    }

    /// Reads a vkey: `<name>+<8 hex digits of the id>+<base64 of type byte and key>`.
    ///
    /// # Errors
    /// [`KeyError`].
    ///
    /// Source: C2SP signed-note, "Verifier keys".
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let (name, rest) = text.split_once('+').ok_or(KeyError::Malformed)?;
        // Base64 may have a `+` itself, so only the first two part the text.
        let (id, typed_key) = rest.split_once('+').ok_or(KeyError::Malformed)?;
        let (kind, public_key) = parse_typed_key(typed_key)?;
        let key = Self::new(name, kind, &public_key)?;
        if key.id.to_string() == id {
            Ok(key)
        } else {
            Err(KeyError::IdDiffers)
        }
    }

    /// The key's name; a log's is its origin.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The id that stands before signatures.
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// What the key's signatures are made over.
    pub const fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The bare public key. Two names for one public key are one party.
    pub fn public_key(&self) -> &[u8; 32] {
        self.key.as_bytes()
    }

    /// Checks what follows the key id in a signature line; `None` if this key did not sign so.
    pub(crate) fn verify(&self, text: &str, signature: &[u8]) -> Option<Verified<'_>> {
        match self.kind {
            KeyKind::Ed25519 => {
                let good = self.verify_bytes(text.as_bytes(), signature);
                good.then_some(Verified {
                    key: self,
                    time_secs: None,
                })
            }
            KeyKind::Cosignature => {
                let blob: &[u8; COSIGNATURE_BYTES] = signature.try_into().ok()?;
                let (time, signature) = blob.split_first_chunk::<8>()?;
                let time_secs = u64::from_be_bytes(*time);
                let message = format!("cosignature/v1\ntime {time_secs}\n{text}");
                let good = self.verify_bytes(message.as_bytes(), signature);
                good.then_some(Verified {
                    key: self,
                    time_secs: Some(time_secs),
                })
            }
        }
    }

    fn verify_bytes(&self, message: &[u8], signature: &[u8]) -> bool {
        // Strict: neither a small-order R nor a second spelling of S.
        Signature::from_slice(signature)
            .is_ok_and(|signature| self.key.verify_strict(message, &signature).is_ok())
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let typed_key = [&[self.kind.type_byte()], self.public_key().as_slice()].concat();
        write!(f, "{}+{}+{}", self.name, self.id, encode_base64(&typed_key))
    }
}

impl std::str::FromStr for VerifierKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::parse(text)
    }
}

/// Non-empty, no Unicode white space, no control character, no `+`, within [`KEY_NAME_BYTES_MAX`].
pub(crate) fn is_key_name(name: &str) -> bool {
    let refused = |c: char| c.is_whitespace() || c < ' ' || c == '+';
    !name.is_empty() && name.len() <= KEY_NAME_BYTES_MAX && !name.contains(refused)
}

fn parse_typed_key(text: &str) -> Result<(KeyKind, [u8; 32]), KeyError> {
    if let Some([type_byte, key @ ..]) = decode_base64_exact::<TYPED_KEY_BYTES>(text) {
        let kind = KeyKind::from_type_byte(type_byte).ok_or(KeyError::UnsupportedType(type_byte))?;
        return Ok((kind, key));
    }
    // Keys of other types are longer; say so rather than "malformed".
    let start = text.get(..4).and_then(decode_base64_exact::<3>);
    match start {
        Some([type_byte, ..]) if KeyKind::from_type_byte(type_byte).is_none() => {
            Err(KeyError::UnsupportedType(type_byte))
        }
        _ => Err(KeyError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "log.example/acme+6a967d9a+AYqI4910CfGV/VLbLTy6XXLKZwm/HZQSG/N0iAG0D29c";
    const WITNESS: &str = "witness.example/w1+df1c0a35+BIE5dw6ofRdfVqNUZsNMfszLjYqRtO43ol32D1uPybOU";

    #[test]
    fn worked_keys_read_back() {
        for (text, name, kind) in [
            (LOG, "log.example/acme", KeyKind::Ed25519),
            (WITNESS, "witness.example/w1", KeyKind::Cosignature),
        ] {
            let key = VerifierKey::parse(text).unwrap();
            assert_eq!((key.name(), key.kind()), (name, kind));
            assert_eq!(key.to_string(), text);
        }
    }

    #[test]
    fn a_base64_plus_does_not_part_the_text() {
        let seeds = (0..=255_u8).map(|seed| ed25519_dalek::SigningKey::from_bytes(&[seed; 32]));
        let keys = seeds.map(|key| key.verifying_key().to_bytes());
        let texts = keys.map(|key| {
            VerifierKey::new("a.example", KeyKind::Ed25519, &key)
                .unwrap()
                .to_string()
        });
        let with_plus: Vec<_> = texts.filter(|text| text.matches('+').count() > 2).collect();
        assert!(!with_plus.is_empty());
        for text in with_plus {
            assert_eq!(VerifierKey::parse(&text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn every_single_bit_change_is_refused_or_another_key() {
        let genuine = VerifierKey::parse(LOG).unwrap();
        for position in 0..LOG.len() * 8 {
            let mut bytes = LOG.as_bytes().to_vec();
            bytes[position / 8] ^= 1 << (position % 8);
            let Ok(text) = String::from_utf8(bytes) else {
                continue;
            };
            assert!(VerifierKey::parse(&text).is_err(), "{text} read as {genuine}");
        }
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let parse = |text: &str| VerifierKey::parse(text).unwrap_err();
        assert_eq!(parse(""), KeyError::Malformed);
        assert_eq!(parse("name+00000000"), KeyError::Malformed);
        assert_eq!(parse(&LOG.replace("log.example/acme", "")), KeyError::Name);
        assert_eq!(
            parse(&LOG.replace("log.example", "log\u{a0}example")),
            KeyError::Name
        );
        assert_eq!(
            parse(&LOG.replace("log.example", &"l".repeat(251))),
            KeyError::Name
        );
        assert_eq!(parse(&LOG.replace("acme", "acm3")), KeyError::IdDiffers);
        assert_eq!(parse(&LOG.replace("6a967d9a", "6A967D9A")), KeyError::IdDiffers);
        assert_eq!(parse(&LOG.replace("AYqI", "AoqI")), KeyError::UnsupportedType(2));
        let ml_dsa = format!("n+00000000+{}", encode_base64(&[6; 1313]));
        assert_eq!(parse(&ml_dsa), KeyError::UnsupportedType(6));
        assert_eq!(parse(&LOG[..LOG.len() - 1]), KeyError::Malformed);
    }

    #[test]
    fn unsound_public_keys_are_refused() {
        let hex = |text: &str| *crate::Hash::from_hex(text).unwrap().as_bytes();
        for (what, key) in [
            (
                "order 1",
                hex("0100000000000000000000000000000000000000000000000000000000000000"),
            ),
            (
                "order 2",
                hex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
            ),
            (
                "order 4",
                hex("0000000000000000000000000000000000000000000000000000000000000000"),
            ),
            (
                "order 4, negative",
                hex("0000000000000000000000000000000000000000000000000000000000000080"),
            ),
            (
                "order 8",
                hex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
            ),
            (
                "order 8, other",
                hex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
            ),
            (
                "order 1, y = p + 1",
                hex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
            ),
            (
                "order 4, y = p",
                hex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
            ),
            (
                "y = p + 3",
                hex("f0ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
            ),
            (
                "off the curve",
                hex("0200000000000000000000000000000000000000000000000000000000000000"),
            ),
        ] {
            let result = VerifierKey::new("a.example", KeyKind::Ed25519, &key);
            assert_eq!(result, Err(KeyError::PublicKey), "{what}");
        }
    }
}
