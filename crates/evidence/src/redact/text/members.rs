//! JSON within text: as a whole, cut off, or amid prose.

use super::marker_len;
use crate::canonical;
use crate::redact::{FIELD_MARKER, LIMITS, Redactor, names, tree};

/// Values of a text that is read as JSON, counted by what stands before each: up to 60 MB when they are read. In a text of
/// more, what stands under secret names is found without reading it so.
const VALUES_MAX: usize = 400_000;

/// Text that is JSON as a whole is redacted as JSON, so that objects under secret names go too.
pub(super) fn redact_json(rules: &Redactor, text: &str, levels: u16) -> Option<String> {
    let inner = text.trim_ascii();
    if levels == 0 || !inner.starts_with(['{', '[']) || !inner.ends_with(['}', ']']) {
        return None;
    }
    if !rules.suspects(inner.as_bytes()) {
        return None;
    }
    let values = inner.bytes().filter(|byte| matches!(byte, b',' | b'[' | b'{'));
    if values.count() > VALUES_MAX {
        return None;
    }
    let mut value = canonical::parse(inner.as_bytes(), LIMITS).ok()?;
    if !(tree::Walk { rules }).free(&mut value, levels - 1) {
        return None;
    }
    String::from_utf8(canonical::to_vec(&value)).ok()
}

/// What stands under a secret name in JSON, or in something like it, within text: cut off, or amid prose.
pub(super) fn redact_members(rules: &Redactor, text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out: Option<String> = None;
    let (mut copied, mut at) = (0, 0);
    while let Some(found) = bytes[at..].iter().position(|&byte| byte == b'"' || byte == b'\'') {
        let quote = at + found;
        at = quote + 1;
        let Some(member) = member_value(rules, bytes, quote) else {
            continue;
        };
        at = member.end;
        for (start, end) in member.texts {
            let value = &text[start..end];
            if value.is_empty() || marker_len(value) == Some(value.len()) {
                continue;
            }
            let out = out.get_or_insert_with(|| String::with_capacity(text.len() + 32));
            out.push_str(&text[copied..start]);
            out.push_str(FIELD_MARKER);
            copied = end;
        }
    }
    out.map(|mut out| {
        out.push_str(&text[copied..]);
        out
    })
}

/// What stands under a secret name.
struct Secret {
    /// Where its texts begin and end, without their quotes.
    texts: Vec<(usize, usize)>,
    /// Where it ends.
    end: usize,
}

/// The value of a member, when the quote at `quote` ends its name and the name is secret: a text, or the texts in
/// an array or object.
fn member_value(rules: &Redactor, bytes: &[u8], quote: usize) -> Option<Secret> {
    let mark = bytes[quote];
    // Quotes of JSON within text are escaped: as many times as the name's are.
    let escapes = bytes[..quote]
        .iter()
        .rev()
        .take_while(|&&byte| byte == b'\\')
        .count();
    let name_end = quote - escapes;
    let floor = name_end.saturating_sub(4 * names::NAME_BYTES_MAX);
    let name_start = floor + bytes[floor..name_end].iter().rposition(|&byte| byte == mark)? + 1;
    let name = std::str::from_utf8(&bytes[name_start..name_end]).ok()?;
    if !rules.is_secret_name(name) {
        return None;
    }
    let skip = |at: usize| {
        at + bytes[at..]
            .iter()
            .take_while(|byte| byte.is_ascii_whitespace())
            .count()
    };
    let colon = skip(quote + 1);
    if bytes.get(colon) != Some(&b':') {
        return None;
    }
    let open = skip(colon + 1);
    if matches!(bytes.get(open), Some(b'[' | b'{')) {
        return Some(texts_within(bytes, open, mark, escapes));
    }
    let value_mark = open + escapes;
    if bytes.get(open..value_mark)?.iter().any(|&byte| byte != b'\\') || bytes.get(value_mark) != Some(&mark)
    {
        return None;
    }
    let (end, after) = text_end(bytes, value_mark, escapes);
    Some(Secret {
        texts: vec![(value_mark + 1, end)],
        end: after,
    })
}

/// Where the text ends whose quote stands at `quote`, and where what comes after it begins. Cut off: what is there is
/// all there is of it.
fn text_end(bytes: &[u8], quote: usize, escapes: usize) -> (usize, usize) {
    let start = quote + 1;
    let mut before = 0;
    for (at, &byte) in bytes.iter().enumerate().skip(start) {
        if byte == bytes[quote] && before == escapes {
            return (at - escapes, at + 1);
        }
        before = if byte == b'\\' { before + 1 } else { 0 };
    }
    (bytes.len(), bytes.len())
}

/// The texts in the array or object that opens at `open`, but for the names in it. Cut off, it ends with the text.
fn texts_within(bytes: &[u8], open: usize, mark: u8, escapes: usize) -> Secret {
    let mut texts = Vec::new();
    let (mut depth, mut at) = (0_usize, open);
    // What stands before: backslashes, and before them.
    let (mut slashes, mut before) = (0, b' ');
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth -= 1,
            // The text ends in which all this stands as JSON.
            b'"' | b'\'' if byte == mark && slashes < escapes => break,
            // Of the other kind of quotes those where a value may begin: others are apostrophes.
            b'"' | b'\''
                if (byte == mark && slashes == escapes)
                    || (byte != mark && matches!(before, b'[' | b'{' | b',' | b':' | b'(')) =>
            {
                let (end, after) = text_end(bytes, at, slashes);
                let next = bytes[after..].iter().find(|byte| !byte.is_ascii_whitespace());
                if next != Some(&b':') {
                    texts.push((at + 1, end));
                }
                (at, slashes, before) = (after, 0, byte);
                continue;
            }
            _ => {}
        }
        at += 1;
        if depth == 0 {
            break;
        }
        slashes = if byte == b'\\' { slashes + 1 } else { 0 };
        if !byte.is_ascii_whitespace() && byte != b'\\' {
            before = byte;
        }
    }
    Secret { texts, end: at }
}
