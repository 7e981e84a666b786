//! Commitments: what binds a body to its leaf without showing it.
//!
//! `commitment = HMAC-SHA-256(salt, kind ‖ 0x00 ‖ body)` with a random 32-byte
//! salt per record, so that an erased yes/no answer cannot be guessed from its
//! leaf. The same salt keys the fingerprint of what was sent ([`content_mac`]).
//!
//! Source: SPEC 2.1 and 3; RFC 2104.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::Kind;

/// A record's salt: the key of its commitment. Erased with its body.
pub type Salt = [u8; 32];

/// The commitment over a body, 32 bytes.
pub fn commitment(salt: &Salt, kind: Kind, body: &[u8]) -> [u8; 32] {
    let mut mac = keyed(salt);
    mac.update(kind.as_str().as_bytes());
    mac.update(&[0]);
    mac.update(body);
    mac.finalize().into_bytes().into()
}

/// The fingerprint by which the same identity with the same content is known again.
///
/// `content` is SHA-256 of what was sent: after redaction, before attribute
/// mapping, without fields that the server sets.
pub fn content_mac(salt: &Salt, content: &[u8; 32]) -> [u8; 32] {
    let mut mac = keyed(salt);
    // No kind starts with this word, so no commitment is a content fingerprint.
    mac.update(b"content\0");
    mac.update(content);
    mac.finalize().into_bytes().into()
}

/// SHA-256 of some bytes.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

fn keyed(salt: &Salt) -> Hmac<Sha256> {
    // The key fills half a block; the rest is zeros, as RFC 2104 pads it.
    let mut block = [0; 64];
    block[..32].copy_from_slice(salt);
    Hmac::<Sha256>::new(&block.into())
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Lower-case hex of 32 bytes.
pub fn hex(bytes: &[u8; 32]) -> [u8; 64] {
    let mut text = [0; 64];
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair[0] = HEX[usize::from(byte >> 4)];
        pair[1] = HEX[usize::from(byte & 15)];
    }
    text
}

/// Lower-case hex, as text.
pub fn hex_string<const N: usize>(bytes: &[u8; N]) -> String {
    let mut text = String::with_capacity(2 * N);
    for byte in bytes {
        text.push(char::from(HEX[usize::from(byte >> 4)]));
        text.push(char::from(HEX[usize::from(byte & 15)]));
    }
    text
}

/// Reads 64 lower-case hex characters.
pub fn unhex(text: &[u8]) -> Option<[u8; 32]> {
    let text: &[u8; 64] = text.try_into().ok()?;
    // All digits first and the pairs after, without branches, so that it is done in vectors: every leaf has one.
    let digits = text.map(digit);
    if digits.iter().fold(0, |all, &digit| all | digit) > 15 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.as_chunks::<2>().0) {
        *byte = (pair[0] << 4) | pair[1];
    }
    Some(bytes)
}

/// The value of a hex digit; above 15: it is none.
const fn digit(byte: u8) -> u8 {
    let (decimal, letter) = (byte.wrapping_sub(b'0'), byte.wrapping_sub(b'a'));
    if decimal < 10 {
        decimal
    } else if letter < 6 {
        letter + 10
    } else {
        u8::MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed with Python: `hmac.new(bytes(32), b"trace.step\0{}", "sha256").hexdigest()`.
    #[test]
    fn commitment_agrees_with_an_independent_hmac() {
        let commitment = commitment(&[0; 32], Kind::TraceStep, b"{}");
        assert_eq!(
            hex_string(&commitment),
            "7fc0d8cb346c54e38ec9e8579c8547407c60589d19a40b20ba26ea62fd875a80"
        );
        assert_eq!(unhex(&hex(&commitment)), Some(commitment));
    }

    #[test]
    fn only_64_lower_case_digits_are_hex() {
        let text = hex(&[0xa5; 32]);
        assert_eq!(unhex(&text), Some([0xa5; 32]));
        assert_eq!(unhex(&text[..62]), None);
        for byte in 0..=u8::MAX {
            for place in [0, 1, 31, 63] {
                let mut text = text;
                text[place] = byte;
                let expected = matches!(byte, b'0'..=b'9' | b'a'..=b'f');
                assert_eq!(unhex(&text).is_some(), expected, "{byte:#x} at {place}");
                assert!(unhex(&text).is_none_or(|bytes| hex(&bytes) == text));
            }
        }
    }

    #[test]
    fn commitment_depends_on_salt_kind_and_body() {
        let one = commitment(&[1; 32], Kind::TraceStep, b"{}");
        assert_ne!(one, commitment(&[2; 32], Kind::TraceStep, b"{}"));
        assert_ne!(one, commitment(&[1; 32], Kind::RunStarted, b"{}"));
        assert_ne!(one, commitment(&[1; 32], Kind::TraceStep, b"[]"));
        assert_ne!(one, content_mac(&[1; 32], &sha256(b"{}")));
    }
}
