//! One pass over canonical JSON that says whether anything could be there to replace.
//!
//! It knows nothing of structure. Every pattern and every field name has a few bytes that are rare in text and
//! stand at a known place in it. A stretch of bytes without any of them is passed over as a whole; in another
//! one each place is looked at. What it lets through is certain, what it stops is looked at again by the exact
//! rules.
//!
//! Text may hold JSON, whose escapes hide what they stand for (`\u0040`) and where the word after them begins: such an
//! escape is suspicious by itself.

use super::names::{NAME_BYTES_MAX, Names};
use super::text;

/// Bytes that are passed over together.
const STRETCH: usize = 32;
/// Bytes after a stretch that are needed to judge its last place: the shortest number that is looked for has eleven, that
/// of social security with its hyphens; a card's has more digits. Sixteen, because so many are looked at at once.
const AHEAD: usize = 16;
const WINDOW: usize = STRETCH + AHEAD;

/// Whether canonical JSON could hold anything that the built-in rules replace, or a marker.
pub(super) fn suspects(names: &Names, json: &[u8]) -> bool {
    let mut at = 0;
    // How far places have been looked at: what begins in one stretch may show in the next.
    let mut seen = 0;
    while let Some(window) = json.get(at..).and_then(<[u8]>::first_chunk::<{ WINDOW }>) {
        let (is_loud, quotes) = look(window);
        if is_loud {
            // Digits are passed over to their end, however long that is: the next stretch does not begin amid them.
            match looked_through(names, json, at.max(seen), at + STRETCH + AHEAD) {
                Some(reached) => seen = reached,
                None => return true,
            }
        } else if places(&quotes).any(|quote| at + quote >= seen && ends_name(names, json, at + quote)) {
            // Every member has a name, and most stretches hold nothing else of interest.
            return true;
        }
        at += STRETCH;
    }
    looked_through(names, json, at.max(seen), json.len()).is_none()
}

/// The places whose byte is not 0.
fn places(flags: &[u8; STRETCH]) -> impl Iterator<Item = usize> {
    let (eights, _) = flags.as_chunks::<8>();
    eights.iter().enumerate().flat_map(|(chunk, eight)| {
        let mut left = u64::from_le_bytes(*eight);
        std::iter::from_fn(move || {
            if left == 0 {
                return None;
            }
            let place = left.trailing_zeros() / 8;
            left &= !(0xff << (place * 8));
            Some(chunk * 8 + place as usize)
        })
    })
}

/// Whether anything that is looked for, but for a name, may begin at one of the [`STRETCH`] places; and at which of them a
/// name may end. It looks at as few bytes as make that rare, and has neither branches nor lengths that are not a multiple of
/// sixteen, so that the compiler takes as many places at once.
#[inline]
#[expect(
    clippy::needless_bitwise_bool,
    reason = "branches would keep the compiler from it"
)]
fn look(window: &[u8; WINDOW]) -> (bool, [u8; STRETCH]) {
    // From the space to the nine there are the digits and what may stand between those of a number, and little else of
    // which as many stand together as the shortest number has. Most of its places tell enough.
    let mut part = [0_u8; WINDOW];
    for (flag, &byte) in part.iter_mut().zip(window) {
        *flag = u8::from(byte.wrapping_sub(b' ') <= b'9' - b' ');
    }
    let mut loud = [0_u8; STRETCH];
    for (at, flag) in loud.iter_mut().enumerate() {
        let [a, b, c, d] = [window[at], window[at + 1], window[at + 2], window[at + 3]];
        let escape = (a == b'\\') & (b == b'u');
        let bearer = (a | 0x20 == b'b') & (d | 0x20 == b'r');
        let aws = (a == b'A') & (d == b'A');
        let github = (d == b'_') & (((a == b'g') & (b == b'h')) | ((a == b'p') & (c == b't')));
        let slack = (a == b'x') & ((c == b'x') | (c == b'p'));
        let key = (a == b'-') & (b == b'-');
        let marker = (a == b'<') & (b == b'R');
        *flag = u8::from((a == b'@') | escape | bearer | aws | github | slack | key | marker);
    }
    let mut number = [0_u8; STRETCH];
    for (at, flag) in number.iter_mut().enumerate() {
        *flag = part[at]
            & part[at + 1]
            & part[at + 2]
            & part[at + 3]
            & part[at + 4]
            & part[at + 6]
            & part[at + 8]
            & part[at + 10];
    }
    let mut quotes = [0; STRETCH];
    for (at, quote) in quotes.iter_mut().enumerate() {
        let [a, b] = [window[at], window[at + 1]];
        *quote = u8::from(((a == b'"') | (a == b'\'')) & ((b == b':') | (b <= b' ') | (b == b'\\')));
    }
    let any = |flags: &[u8; STRETCH]| flags.iter().fold(0, |any, flag| any | flag) != 0;
    (any(&loud) | any(&number), quotes)
}

/// Looks at each place of a stretch; says how far it came, or `None` where something could be there.
fn looked_through(names: &Names, json: &[u8], from: usize, to: usize) -> Option<usize> {
    let mut at = from;
    while at < to.min(json.len()) {
        let here = match json[at] {
            b'0'..=b'9' => {
                let (end, found) = text::digits(json, at);
                if found {
                    return None;
                }
                at = end;
                continue;
            }
            b'@' => text::is_address(json, at),
            b'"' | b'\'' => ends_name(names, json, at),
            b'\\' => text::is_escape(json, at),
            b'-' => json[at..].starts_with(b"-----BEGIN") || text::is_slack(json, at),
            b'_' => text::is_github(json, at),
            b'A' => text::is_aws(json, at),
            b'b' | b'B' => text::is_bearer_word(json, at),
            b'<' => json[at..].starts_with(super::MARKER.as_bytes()),
            _ => false,
        };
        if here {
            return None;
        }
        at += 1;
    }
    Some(at)
}

/// Whether a quote ends a listed name: a colon follows, with or without spaces, escaped or not.
fn ends_name(names: &Names, json: &[u8], quote: usize) -> bool {
    let after = json[quote + 1..]
        .iter()
        .find(|byte| !byte.is_ascii_whitespace() && !matches!(byte, b'\\' | b'f' | b'n' | b'r' | b't'));
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
