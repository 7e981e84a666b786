//! Whether an artifact is what its hash says, also when it was hashed as JSON and not as it lies there.

use std::fmt::Write as _;
use std::io::Read;

use evidence::canonical::{Limits, canonicalize};
use serde_json::value::RawValue;

use crate::SourceFile;

/// Largest artifact whose canonical JSON is made: it is held in memory, some ten times its size.
const CANONICAL_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// Whether the file's canonical JSON, or that of older writers, has the hash.
pub(super) fn canonical_matches(file: &SourceFile, expected: &str) -> bool {
    if file.bytes() > CANONICAL_BYTES_MAX {
        return false;
    }
    let mut text = Vec::new();
    let read = file
        .rewound()
        .and_then(|reader| reader.take(CANONICAL_BYTES_MAX).read_to_end(&mut text));
    if read.is_err() {
        return false;
    }
    let is = |bytes: &[u8]| evidence::hex_string(&evidence::sha256(bytes)).eq_ignore_ascii_case(expected);
    canonicalize(&text, Limits::default()).is_ok_and(|canonical| is(&canonical))
        || std::str::from_utf8(&text)
            .ok()
            .and_then(sorted_json)
            .is_some_and(|sorted| is(sorted.as_bytes()))
}

/// JSON with sorted keys, `, ` and `: ` between, and text in ASCII: how older writers hashed their artifacts. Numbers
/// stay as they are written.
fn sorted_json(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    write_sorted(text, 0, &mut out)?;
    Some(out)
}

fn write_sorted(text: &str, depth: u8, out: &mut String) -> Option<()> {
    const DEPTH_MAX: u8 = 64;
    if depth > DEPTH_MAX {
        return None;
    }
    let text = text.trim_ascii();
    match text.as_bytes().first()? {
        b'{' => {
            let members: std::collections::BTreeMap<String, &RawValue> = serde_json::from_str(text).ok()?;
            out.push('{');
            for (place, (key, value)) in members.iter().enumerate() {
                if place > 0 {
                    out.push_str(", ");
                }
                write_ascii(key, out);
                out.push_str(": ");
                write_sorted(value.get(), depth + 1, out)?;
            }
            out.push('}');
        }
        b'[' => {
            let values: Vec<&RawValue> = serde_json::from_str(text).ok()?;
            out.push('[');
            for (place, value) in values.iter().enumerate() {
                if place > 0 {
                    out.push_str(", ");
                }
                write_sorted(value.get(), depth + 1, out)?;
            }
            out.push(']');
        }
        b'"' => write_ascii(&serde_json::from_str::<String>(text).ok()?, out),
        _ => out.push_str(text),
    }
    Some(())
}

fn write_ascii(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='~' => out.push(c),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorted_json_is_what_older_writers_hashed() {
        let text = "{\n \"b\": [1.50, true, null],\n \"a\": {\"y\": \"\u{fc}\u{1f600}\\n\", \"x\": 0}\n}";
        assert_eq!(
            sorted_json(text).unwrap(),
            r#"{"a": {"x": 0, "y": "\u00fc\ud83d\ude00\n"}, "b": [1.50, true, null]}"#
        );
        assert_eq!(sorted_json(&"[".repeat(100_000)), None);
        assert_eq!(sorted_json(""), None);
    }
}
