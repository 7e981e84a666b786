//! Money: decimal, exact, and printed as the number that it is.

use rust_decimal::Decimal;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

/// An amount. Its JSON is a number with all its digits, as it would stand in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Money(pub(super) Decimal);

impl Money {
    /// Reads a plain decimal number: digits, a dot, a sign. No separators, no exponents, nothing to be guessed.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
        let plain = !digits.is_empty()
            && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
            && digits.starts_with(|c: char| c.is_ascii_digit());
        if !plain {
            return Err(format!(
                "{:?} is no amount: digits, with a dot and a sign if need be",
                crate::shown(text)
            ));
        }
        Decimal::from_str_exact(text.strip_prefix('+').unwrap_or(text))
            .map(Self)
            .map_err(|error| format!("{:?} is no amount: {error}", crate::shown(text)))
    }

    /// The exact sum.
    pub(super) fn checked_add(self, other: Self) -> Result<Self, String> {
        let exact = |one: Decimal, other: Decimal| {
            let sum = one.checked_add(other).ok_or("the sum is too large")?;
            // Where the digits do not fit, those behind the dot are rounded away.
            let places = one.scale().max(other.scale());
            Ok::<_, &str>((sum.scale() >= places).then_some(Self(sum)))
        };
        if let Some(sum) = exact(self.0, other.0)? {
            return Ok(sum);
        }
        exact(self.0.normalize(), other.0.normalize())?
            .ok_or_else(|| "the sum has more than 28 digits".to_owned())
    }

    pub(super) fn negated(self) -> Self {
        let mut negated = -self.0;
        // There is no minus nought in a ledger.
        if negated.is_zero() {
            negated.set_sign_positive(true);
        }
        Self(negated)
    }
}

/// Sums, which may be too large.
pub(super) fn sum(amounts: impl IntoIterator<Item = Money>) -> Result<Money, String> {
    amounts.into_iter().try_fold(Money::default(), Money::checked_add)
}

impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let number = RawValue::from_string(self.0.to_string()).map_err(serde::ser::Error::custom)?;
        number.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_exact_and_nothing_is_guessed() {
        let tenth = Money::parse("0.10").unwrap();
        let all = sum([tenth; 3]).unwrap();
        assert_eq!(serde_json::to_string(&all).unwrap(), "0.30");
        assert_eq!(
            serde_json::to_string(&Money::parse("-1200.00").unwrap().negated()).unwrap(),
            "1200.00"
        );
        assert_eq!(
            serde_json::to_string(&Money::parse("0.00").unwrap().negated()).unwrap(),
            "0.00"
        );
        assert_eq!(Money::parse("+7").unwrap(), Money::parse("7.00").unwrap());
        for text in [
            "",
            "1,200",
            "1e3",
            " 1",
            "NaN",
            "(5)",
            "--1",
            ".5",
            "1.2.3",
            "123456789012345678901234567890",
        ] {
            assert!(Money::parse(text).is_err(), "{text}");
        }
        let most = Money(Decimal::MAX);
        assert!(most.checked_add(most).is_err());
    }

    #[test]
    fn a_sum_loses_no_digit() {
        let add = |one: &str, other: &str| {
            let sum = Money::parse(one)
                .unwrap()
                .checked_add(Money::parse(other).unwrap());
            sum.map(|sum| sum.0.to_string())
        };
        assert_eq!(
            add("1234567890123456789012345678", "0.04"),
            Err("the sum has more than 28 digits".to_owned())
        );
        assert!(add("9999999999999999999999999999", "-0.01").is_err());
        // Noughts behind the dot are no digits that are lost.
        assert_eq!(
            add("50000000000000000000000000000", "1.00").as_deref(),
            Ok("50000000000000000000000000001")
        );
        assert_eq!(add("0.00", "5").as_deref(), Ok("5"));
        assert_eq!(add("-0.10", "0.10").as_deref(), Ok("0.00"));
    }
}
