//! One pass over canonical JSON that says whether anything could be there to replace.
//!
//! It knows nothing of structure. Every pattern and every field name has a few bytes that are rare in text and
//! stand at a known place in it. A stretch of bytes without any of them is passed over as a whole; in another
//! one each place is looked at. What it lets through is certain, what it stops is looked at again by the exact
//! rules.
//!
//! Text may hold JSON, whose escapes may hide ASCII (`\u0040`): such an escape is suspicious by itself.

use super::names::{NAME_BYTES_MAX, Names};
use super::text;

/// Bytes that are passed over together.
const STRETCH: usize = 32;
/// Bytes after a stretch that are needed to judge its last place.
const AHEAD: usize = 8;

/// Whether canonical JSON could hold anything that the built-in rules replace, or a marker.
pub(super) fn suspects(names: &Names, json: &[u8]) -> bool {
    let mut at = 0;
    // How far places have been looked at: what begins in one stretch may show in the next.
    let mut seen = 0;
    while let Some(window) = json
        .get(at..)
        .and_then(<[u8]>::first_chunk::<{ STRETCH + AHEAD }>)
    {
        if !is_quiet(window) {
            let to = at + STRETCH + AHEAD;
            if suspects_within(names, json, at.max(seen), to) {
                return true;
            }
            seen = to;
        }
        at += STRETCH;
    }
    suspects_within(names, json, at.max(seen), json.len())
}

/// Whether nothing that is looked for begins in the first [`STRETCH`] bytes. No branches, so that the compiler
/// takes sixteen places at once.
#[inline]
#[expect(
    clippy::needless_bitwise_bool,
    reason = "branches would keep the compiler from it"
)]
fn is_quiet(window: &[u8; STRETCH + AHEAD]) -> bool {
    let mut loud = false;
    for at in 0..STRETCH {
        let [a, b, c, d] = [window[at], window[at + 1], window[at + 2], window[at + 3]];
        let part = |byte: u8| byte.wrapping_sub(b'0') < 10 || byte == b' ' || byte == b'-';
        // Eight bytes of a number with its separators: every other one tells enough.
        let number = (a.wrapping_sub(b'0') < 10)
            & part(b)
            & part(c)
            & part(window[at + 4])
            & part(window[at + 5])
            & part(window[at + 7]);
        let name = ((a == b'"') | (a == b'\'')) & ((b == b':') | (b == b' ') | (b == b'\\') | (b == b'\t'));
        let escape = (a == b'\\') & (b == b'u') & (c == b'0') & (d == b'0');
        let bearer = (a | 0x20 == b'b') & (b | 0x20 == b'e') & (c | 0x20 == b'a') & (d | 0x20 == b'r');
        let aws = (a == b'A') & (c == b'I') & (d == b'A');
        let github = (d == b'_') & (((a == b'g') & (b == b'h')) | ((a == b'p') & (b == b'a') & (c == b't')));
        let slack = (a == b'x') & (((b == b'o') & (c == b'x')) | ((b == b'a') & (c == b'p')));
        let key = (a == b'-') & (b == b'-') & (c == b'-');
        let marker = (a == b'<') & (b == b'R');
        loud |= number | (a == b'@') | name | escape | bearer | aws | github | slack | key | marker;
    }
    !loud
}

/// Looks at each place of a stretch.
fn suspects_within(names: &Names, json: &[u8], from: usize, to: usize) -> bool {
    let mut at = from;
    while at < to.min(json.len()) {
        let here = match json[at] {
            b'0'..=b'9' => {
                let (end, found) = text::digits(json, at);
                if found {
                    return true;
                }
                at = end;
                continue;
            }
            b'@' => text::is_address(json, at),
            b'"' | b'\'' => ends_name(names, json, at),
            b'\\' => hides_ascii(&json[at + 1..]),
            b'-' => json[at..].starts_with(b"-----BEGIN") || text::is_slack(json, at),
            b'_' => text::is_github(json, at),
            b'A' => text::is_aws(json, at),
            b'b' | b'B' => text::is_bearer_word(json, at),
            b'<' => json[at..].starts_with(super::MARKER.as_bytes()),
            _ => false,
        };
        if here {
            return true;
        }
        at += 1;
    }
    false
}

/// Whether a quote ends a listed name: a colon follows, with or without spaces, escaped or not.
fn ends_name(names: &Names, json: &[u8], quote: usize) -> bool {
    let after = json[quote + 1..]
        .iter()
        .find(|byte| !matches!(byte, b' ' | b'\t' | b'\\' | b'n' | b'r' | b't'));
    if after != Some(&b':') {
        return false;
    }
    let escapes = json[..quote]
        .iter()
        .rev()
        .take_while(|&&byte| byte == b'\\')
        .count();
    let end = quote - escapes;
    let floor = end.saturating_sub(NAME_BYTES_MAX + 1);
    let start = json[floor..end]
        .iter()
        .rposition(|byte| matches!(byte, b'"' | b'\'' | b'\\'))
        .map_or(floor, |before| floor + before + 1);
    let word = &json[start..end];
    names.is_listed(word)
        || word
            .iter()
            .rposition(|&byte| byte == b'.')
            .is_some_and(|dot| names.is_listed(&word[dot + 1..]))
}

/// `u00` and a digit below 8, which is ASCII: written so by some, and read as the character it is.
fn hides_ascii(after: &[u8]) -> bool {
    matches!(after, [b'u', b'0', b'0', b'0'..=b'7', ..])
}
