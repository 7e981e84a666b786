//! The strict spellings all text formats here share: numbers and base64.
//!
//! Each value has exactly one spelling. A second spelling would let a byte of a
//! signed or compared text change without the value noticing.

use base64::{Engine, engine::general_purpose::STANDARD};

/// Reads an unsigned decimal: digits only, no sign, no leading zero, within `u64`.
pub(crate) fn parse_decimal(text: &str) -> Option<u64> {
    let canonical = text == "0" || !text.starts_with('0');
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    // `u64::from_str` refuses overflow; a leading `+` was refused above.
    if canonical && digits {
        text.parse().ok()
    } else {
        None
    }
}

/// Writes standard base64 with padding (RFC 4648, section 4).
pub(crate) fn encode_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Reads standard base64 with padding; refuses white space and non-zero trailing bits.
pub(crate) fn decode_base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// Reads base64 of exactly `N` bytes, as [`decode_base64`] does, without allocating.
pub(crate) fn decode_base64_exact<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != N.div_ceil(3) * 4 {
        return None;
    }
    let mut bytes = [0; N];
    let length = STANDARD.decode_slice(text, &mut bytes).ok()?;
    (length == N).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decimal_has_one_spelling() {
        assert_eq!(parse_decimal("0"), Some(0));
        assert_eq!(parse_decimal("18446744073709551615"), Some(u64::MAX));
        for bad in [
            "",
            "+1",
            "-1",
            "01",
            "00",
            " 1",
            "1 ",
            "1_0",
            "0x1",
            "18446744073709551616",
            "١",
        ] {
            assert_eq!(parse_decimal(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn base64_has_one_spelling() {
        assert_eq!(decode_base64("AQ=="), Some(vec![1]));
        // Trailing bits, missing padding, white space, the URL alphabet.
        for bad in ["AR==", "AQ", "AQ=", "AQ==\n", " AQ==", "_-8="] {
            assert_eq!(decode_base64(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn exact_base64_wants_exactly_that_many_bytes() {
        assert_eq!(decode_base64_exact::<1>("AQ=="), Some([1]));
        assert_eq!(decode_base64_exact::<2>("AQ=="), None);
        assert_eq!(decode_base64_exact::<1>("AQI="), None);
        assert_eq!(decode_base64_exact::<3>("AQI="), None);
        assert_eq!(decode_base64_exact::<3>("AQID"), Some([1, 2, 3]));
    }
}
