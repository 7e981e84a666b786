//! The order of keys: UTF-16 code units, as RFC 8785, section 3.2.3 demands.

use std::cmp::Ordering;

/// Compares two strings as their UTF-16 forms would compare, without making them.
///
/// UTF-8 bytes order strings by code point, which differs from UTF-16 in one
/// place: characters beyond U+FFFF are surrogates (D800–DFFF) there and sort
/// before U+E000–U+FFFF. Their lead bytes are F0–F4 against EE and EF, so
/// ranking EE and EF above F4 at the first differing byte is the whole rule.
/// Continuation bytes end at BF and are not touched.
pub fn utf16(a: &str, b: &str) -> Ordering {
    // Equal words are passed over whole: keys may be long and alike to make sorting them slow.
    let (a_words, _) = a.as_bytes().as_chunks::<8>();
    let (b_words, _) = b.as_bytes().as_chunks::<8>();
    let equal = a_words.iter().zip(b_words).take_while(|(x, y)| x == y).count() * 8;
    let differing = a.bytes().zip(b.bytes()).skip(equal).find(|(x, y)| x != y);
    match differing {
        Some((x, y)) => rank(x).cmp(&rank(y)),
        None => a.len().cmp(&b.len()),
    }
}

/// Where a byte stands among the bytes at the same place. EE and EF move to FE and FF, which UTF-8 never uses.
const fn rank(byte: u8) -> u8 {
    match byte {
        0xEE | 0xEF => byte | 0x10,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::utf16;
    use proptest::prelude::*;

    fn reference(a: &str, b: &str) -> std::cmp::Ordering {
        a.encode_utf16().cmp(b.encode_utf16())
    }

    #[test]
    fn characters_beyond_the_basic_plane_sort_before_the_private_use_area() {
        let ordered = [
            "",
            "a",
            "ab",
            "b",
            "\u{7f}",
            "é",
            "\u{d7ff}",
            "\u{10000}",
            "😀",
            "\u{10ffff}",
            "\u{e000}",
            "\u{fb33}",
            "\u{ffff}",
        ];
        for (i, a) in ordered.iter().enumerate() {
            for (j, b) in ordered.iter().enumerate() {
                assert_eq!(utf16(a, b), i.cmp(&j), "{a:?} {b:?}");
                assert_eq!(utf16(a, b), reference(a, b), "{a:?} {b:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn order_is_that_of_utf16_code_units(a in any::<String>(), b in any::<String>(), head in "[a\u{e000}-\u{10ffff}]{0,3}") {
            prop_assert_eq!(utf16(&a, &b), reference(&a, &b));
            let (a, b) = (format!("{head}{a}"), format!("{head}{b}"));
            prop_assert_eq!(utf16(&a, &b), reference(&a, &b));
        }
    }
}
