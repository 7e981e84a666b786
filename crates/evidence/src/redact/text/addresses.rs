//! E-mail addresses.

const fn is_local(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'%' | b'+' | b'-' | b'\'')
}

const fn is_domain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.'
}

/// Letters of alphabets that write words apart: one may stand in an address, and ends where it ends.
fn is_letter(char: char) -> bool {
    u32::from(char) < 0x590 && char.is_alphanumeric()
}

/// Whether an address could stand around the `@` at `at`.
pub(in crate::redact) fn is_address(bytes: &[u8], at: usize) -> bool {
    let before = at.checked_sub(1).and_then(|before| bytes.get(before));
    before.is_some_and(|&byte| is_local(byte) || byte >= 0x80)
        && bytes
            .get(at + 1)
            .is_some_and(|&byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte >= 0x80)
        && bytes[at + 1..]
            .iter()
            .take_while(|&&byte| is_domain(byte) || byte >= 0x80)
            .any(|&byte| byte == b'.')
}

/// Where the address around the `@` at `at` begins and ends; it begins at `floor` or after.
pub(super) fn address_at(text: &str, at: usize, floor: usize) -> Option<(usize, usize)> {
    let mut start = at;
    for (place, char) in text[floor..at].char_indices().rev() {
        let part =
            u8::try_from(char).map_or_else(|_| is_letter(char), |byte| is_local(byte) || is_letter(char));
        if !part {
            break;
        }
        start = floor + place;
    }
    // Quotes around it are not the address's, nor is the letter of an escape before it.
    start += text[start..at].bytes().take_while(|&byte| byte == b'\'').count();
    if matches!(
        text.as_bytes().get(start.saturating_sub(1)..start + 1),
        Some([b'\\', b'b' | b'f' | b'n' | b'r' | b't'])
    ) {
        start += 1;
    }
    if start >= at {
        return None;
    }
    let mut end = at + 1;
    for (place, char) in text[at + 1..].char_indices() {
        let part =
            u8::try_from(char).map_or_else(|_| is_letter(char), |byte| is_domain(byte) || is_letter(char));
        if !part {
            break;
        }
        end = at + 1 + place + char.len_utf8();
    }
    let domain = text[at + 1..end].trim_end_matches(['.', '-']);
    let (name, last) = domain.rsplit_once('.')?;
    let is_top = last.chars().count() >= 2 && last.chars().next().is_some_and(char::is_alphabetic);
    (is_top && !name.is_empty() && !name.starts_with('.')).then_some((start, at + 1 + domain.len()))
}
