//! Numbers of cards and of social security.

use super::{Pattern, begins_word, ends_escape, is_word, run};

/// Of digits that begin at `at`: where they end, and whether a card or social security number begins here.
pub(in crate::redact) fn digits(bytes: &[u8], at: usize) -> (usize, bool) {
    let (end, found) = number_at(bytes, at);
    (end, found.is_some())
}

/// Where the digits end, and the number that begins with them, with its end.
pub(super) fn number_at(bytes: &[u8], at: usize) -> (usize, Option<(usize, Pattern)>) {
    let end = run(bytes, at, |byte| byte.is_ascii_digit());
    // The fraction of a number is none.
    let fraction = matches!(bytes.get(..at), Some([.., b'0'..=b'9', b'.'])) && !ends_escape(bytes, at - 1);
    if fraction || !begins_word(bytes, at) || bytes.get(end).is_some_and(|&byte| is_word(byte)) {
        return (end, None);
    }
    let ssn = || ssn_end(bytes, at, end).map(|end| (end, Pattern::UsSsn));
    (
        end,
        card_end(bytes, at)
            .map(|end| (end, Pattern::CardNumber))
            .or_else(ssn),
    )
}

fn ssn_end(bytes: &[u8], at: usize, end: usize) -> Option<usize> {
    let group = |from: usize, len: usize| {
        let digits = bytes.get(from..from + len)?;
        (digits.iter().all(u8::is_ascii_digit)).then_some(from + len)
    };
    if end - at != 3 || bytes.get(end) != Some(&b'-') {
        return None;
    }
    let second = group(end + 1, 2)?;
    if bytes.get(second) != Some(&b'-') {
        return None;
    }
    let third = group(second + 1, 4)?;
    bytes
        .get(third)
        .is_none_or(|&byte| !is_word(byte))
        .then_some(third)
}

const CARD_DIGITS_MIN: usize = 13;
const CARD_DIGITS_MAX: usize = 19;

/// The end of the longest card number that begins here: words of digits, one space or hyphen between them.
fn card_end(bytes: &[u8], at: usize) -> Option<usize> {
    let mut digits = [0_u8; CARD_DIGITS_MAX];
    let (mut count, mut from, mut longest) = (0, at, None);
    loop {
        let end = run(bytes, from, |byte| byte.is_ascii_digit());
        let group = &bytes[from..end];
        if group.is_empty() || bytes.get(end).is_some_and(|&byte| is_word(byte)) {
            return longest;
        }
        let Some(place) = digits.get_mut(count..count + group.len()) else {
            return longest;
        };
        place.copy_from_slice(group);
        count += group.len();
        let known = &digits[..count];
        if count >= CARD_DIGITS_MIN && is_issued(known) && has_good_check_digit(known) {
            longest = Some(end);
        }
        if !matches!(bytes.get(end), Some(b' ' | b'-')) {
            return longest;
        }
        from = end + 1;
    }
}

/// Whether a known issuer gives out numbers that begin so: Visa, Mastercard, American Express, Discover, Diners
/// Club, JCB, UnionPay, Maestro.
fn is_issued(digits: &[u8]) -> bool {
    let first = digits
        .iter()
        .take(4)
        .fold(0_u32, |number, digit| number * 10 + u32::from(digit - b'0'));
    matches!(
        first,
        4000..=4999
            | 5100..=5599
            | 2221..=2720
            | 3400..=3499
            | 3700..=3799
            | 6011
            | 6440..=6599
            | 3000..=3059
            | 3095
            | 3600..=3699
            | 3800..=3999
            | 3528..=3589
            | 6200..=6299
            | 8100..=8199
            | 5018
            | 5020
            | 5038
            | 5600..=5899
            | 6304
            | 6759
            | 6761..=6763
            | 6390
    )
}

/// Luhn's sum.
fn has_good_check_digit(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(place, digit)| match (u32::from(digit - b'0'), place % 2) {
            (digit, 0) => digit,
            (digit @ 0..5, _) => digit * 2,
            (digit, _) => digit * 2 - 9,
        })
        .sum();
    sum.is_multiple_of(10)
}
