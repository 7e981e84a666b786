//! Canonical JSON: one value, one sequence of bytes.
//!
//! Whatever Deponent hashes as JSON passes through here. [`parse`] accepts
//! I-JSON and nothing looser, [`to_vec`] and [`Writer`] emit the canonical
//! form, and the two agree: what is written here parses back to the same value.
//!
//! Out of scope: what the members mean ([`crate`]'s records); hashing with a
//! salt; streaming input, as a body is held in memory anyway.
//!
//! # Numbers
//!
//! A number is an ECMAScript double. An integer beyond ±(2^53−1) is refused on
//! the way in and written as a string of decimal digits on the way out. That
//! holds for a double too whose canonical form would be such an integer, as
//! `1e20` is (`100000000000000000000`): kept as a number it could be written
//! but never read again.
//!
//! Start at [`Value`], [`parse`] and [`Writer`]. Rules: RFC 8785 (JCS), RFC 7493
//! (I-JSON), RFC 8259 (JSON), and SPEC section 3, "Numbers".

mod convert;
mod error;
mod insert;
mod number;
mod order;
mod parse;
mod reader;
mod scan;
mod value;
mod write;
mod writer;

pub use convert::{from_serde, to_serde};
pub use error::{JsonError, JsonErrorClass, JsonErrorKind};
pub use insert::{with_member, with_text};
pub use number::{Finite, INTEGER_MAX};
pub use order::utf16 as key_order;
pub use parse::{DEPTH_CEILING, Limits, parse};
pub(crate) use reader::Reader;
pub use value::Value;
pub use write::{to_vec, write};
pub use writer::Writer;

use sha2::{Digest, Sha256};

/// Parses a JSON text and writes its canonical form.
///
/// # Errors
/// As [`parse`].
pub fn canonicalize(bytes: &[u8], limits: Limits) -> Result<Vec<u8>, JsonError> {
    let value = parse(bytes, limits)?;
    let mut out = Vec::with_capacity(bytes.len());
    write(&value, &mut out);
    Ok(out)
}

/// Whether `bytes` are already the canonical form of a value within the default [`Limits`].
pub fn is_canonical(bytes: &[u8]) -> bool {
    canonicalize(bytes, Limits::default()).is_ok_and(|canonical| canonical == bytes)
}

/// The SHA-256 of `bytes` as 64 lower-case hexadecimal digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        for digit in scan::hex_pair(byte) {
            text.push(char::from(digit));
        }
    }
    text
}

#[cfg(test)]
mod tests;
