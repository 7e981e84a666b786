//! Finds, many bytes at a time, where a JSON string stops being plain text.

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = ONES << 7;

/// How many leading bytes are neither `"`, `\` nor a control character below 0x20.
///
/// Those three are what ends a run for the parser and what the writer escapes.
pub(super) fn plain_len(bytes: &[u8]) -> usize {
    let (head, rest) = bytes.split_at(bytes.len().min(PROSE));
    let plain = by_words(head);
    if plain < PROSE {
        return plain;
    }
    let lines = rest.as_chunks::<LINE>().0;
    let plain = LINE * lines.iter().take_while(|line| !has_special(line)).count();
    PROSE + plain + by_words(&rest[plain..])
}

fn by_words(bytes: &[u8]) -> usize {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut len = 0;
    for word in words {
        let hits = special(u64::from_le_bytes(*word));
        if hits != 0 {
            return len + (hits.trailing_zeros() / 8) as usize;
        }
        len += 8;
    }
    len + rest
        .iter()
        .position(|&byte| is_special(byte))
        .unwrap_or(rest.len())
}

/// A string that is plain for so long is prose, of which a line at a time is looked at; keys and ids end before.
const PROSE: usize = 40;

/// Bytes looked at together.
const LINE: usize = 32;

/// Without branches, so that it is done in vectors.
fn has_special(line: &[u8; LINE]) -> bool {
    line.iter().fold(false, |hit, &byte| hit | is_special(byte))
}

#[allow(clippy::needless_bitwise_bool)] // no branches
const fn is_special(byte: u8) -> bool {
    (byte < 0x20) | (byte == b'"') | (byte == b'\\')
}

/// The high bit of every special byte. A borrow may set bits above the first
/// true one, never below, and only the lowest is looked at.
const fn special(word: u64) -> u64 {
    let control = word.wrapping_sub(ONES * 0x20) & !word;
    let quote = word ^ (ONES * b'"' as u64);
    let quote = quote.wrapping_sub(ONES) & !quote;
    let backslash = word ^ (ONES * b'\\' as u64);
    let backslash = backslash.wrapping_sub(ONES) & !backslash;
    (control | quote | backslash) & HIGHS
}

/// The two lower-case hexadecimal digits of a byte.
pub(super) const fn hex_pair(byte: u8) -> [u8; 2] {
    [hex_digit(byte >> 4), hex_digit(byte & 15)]
}

const fn hex_digit(nibble: u8) -> u8 {
    if nibble < 10 {
        b'0' + nibble
    } else {
        b'a' + nibble - 10
    }
}

#[cfg(test)]
mod tests {
    use super::{is_special, plain_len};

    #[test]
    fn every_byte_is_judged_alike_at_every_place_of_a_word() {
        for byte in 0..=u8::MAX {
            for place in 0..100 {
                let mut bytes = [b'x'; 100];
                bytes[place] = byte;
                let expected = if is_special(byte) { place } else { 100 };
                assert_eq!(plain_len(&bytes), expected, "{byte:#x} at {place}");
            }
        }
    }

    #[test]
    fn a_high_byte_before_a_special_one_does_not_hide_it() {
        assert_eq!(plain_len(b"\xff\x80\xa0\x9f\"abc"), 4);
        assert_eq!(plain_len(b"!!!##[]\n"), 7);
        assert_eq!(plain_len(b""), 0);
    }
}
