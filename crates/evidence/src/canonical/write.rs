//! Writes canonical JSON: the pieces, and whole values.

use super::Value;
use super::number::{write_f64, write_i64};
use super::order;
use super::scan::{hex_pair, plain_len};
use std::cmp::Ordering;

/// The canonical form of a value.
pub fn to_vec(value: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    write(value, &mut out);
    out
}

/// Appends the canonical form of a value.
///
/// Total: members that a caller put out of order are ordered here, and of equal keys the last is written.
/// Recursion is as deep as the value, so a value built by hand is kept within [`super::DEPTH_CEILING`].
///
/// Source: RFC 8785, section 3.2.
pub fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Int(number) => write_i64(*number, out),
        Value::Float(number) => write_f64(*number, out),
        Value::String(text) => write_str(text, out),
        Value::Array(elements) => {
            out.push(b'[');
            for (index, element) in elements.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write(element, out);
            }
            out.push(b']');
        }
        Value::Object(members) if is_ordered(members) => write_members(members.iter(), out),
        Value::Object(members) => {
            let mut ordered: Vec<_> = members.iter().rev().collect();
            ordered.sort_by(|a, b| order::utf16(&a.0, &b.0));
            ordered.dedup_by(|later, kept| later.0 == kept.0);
            write_members(ordered.into_iter(), out);
        }
    }
}

fn write_members<'v>(members: impl Iterator<Item = &'v (String, Value)>, out: &mut Vec<u8>) {
    out.push(b'{');
    for (index, (key, value)) in members.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_str(key, out);
        out.push(b':');
        write(value, out);
    }
    out.push(b'}');
}

fn is_ordered(members: &[(String, Value)]) -> bool {
    members.is_sorted_by(|a, b| order::utf16(&a.0, &b.0) == Ordering::Less)
}

/// Appends a string with the few escapes that are canonical.
///
/// Source: RFC 8785, section 3.2.2.2.
pub(super) fn write_str(text: &str, out: &mut Vec<u8>) {
    let mut rest = text.as_bytes();
    out.reserve(rest.len() + 2);
    out.push(b'"');
    loop {
        let (plain, special) = rest.split_at(plain_len(rest));
        out.extend_from_slice(plain);
        let Some((&byte, after)) = special.split_first() else {
            break;
        };
        write_escape(byte, out);
        rest = after;
    }
    out.push(b'"');
}

fn write_escape(byte: u8, out: &mut Vec<u8>) {
    let short = match byte {
        b'"' | b'\\' => byte,
        0x08 => b'b',
        b'\t' => b't',
        b'\n' => b'n',
        0x0C => b'f',
        b'\r' => b'r',
        _ => {
            let [high, low] = hex_pair(byte);
            return out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}
