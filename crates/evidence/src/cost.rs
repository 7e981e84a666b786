//! Money: billionths of a US cent, so that sums are exact.
//!
//! One model call often costs less than a cent. [`NanoCents`] holds ±92 million
//! dollars; a price finer than a billionth of a cent is rounded half away from zero.

use std::fmt::Write as _;

/// Billionths of a US cent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NanoCents(i64);

const PER_CENT: i64 = 1_000_000_000;
const PER_DOLLAR: u64 = 100_000_000_000;

impl NanoCents {
    /// From the stored number.
    pub const fn new(nano_cents: i64) -> Self {
        Self(nano_cents)
    }

    /// The stored number.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// From US cents; `None` when not finite, negative, or beyond 92 million dollars.
    pub fn from_cents(cents: f64) -> Option<Self> {
        if !cents.is_finite() || cents < 0.0 {
            return None;
        }
        let scaled = cents * 1e9;
        // Below 2^52 the product is off by less than half a unit, so rounding finds the decimal meant.
        if scaled < 4_503_599_627_370_496.0 {
            #[allow(clippy::cast_possible_truncation)] // below 2^52 by the line above
            return Some(Self(scaled.round() as i64));
        }
        // Above it the shortest decimal form is exact; it has no fraction finer than a billionth there.
        let text = format!("{cents}");
        let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
        let whole = whole.parse::<i64>().ok()?.checked_mul(PER_CENT)?;
        let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
        whole.checked_add(digits.parse().ok()?).map(Self)
    }

    /// Whole cents, rounded half up.
    pub const fn cents_rounded(self) -> i64 {
        self.0 / PER_CENT + (self.0 % PER_CENT) / (PER_CENT / 2)
    }

    /// Cents as the nearest number.
    #[allow(clippy::cast_precision_loss)] // a number for people; `to_usd` is exact
    pub fn cents(self) -> f64 {
        self.0 as f64 / 1e9
    }

    /// Dollars as an exact decimal without trailing zeros, e.g. `0.0042`.
    pub fn to_usd(self) -> String {
        let size = self.0.unsigned_abs();
        let mut text = if self.0 < 0 {
            String::from("-")
        } else {
            String::new()
        };
        let _ = write!(text, "{}", size / PER_DOLLAR);
        if !size.is_multiple_of(PER_DOLLAR) {
            let _ = write!(text, ".{:011}", size % PER_DOLLAR);
            text.truncate(text.trim_end_matches('0').len());
        }
        text
    }

    /// The sum, held at the largest amount when it does not fit.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cents_are_exact_to_a_billionth_and_dollars_say_so() {
        for (cents, nano, usd) in [
            (0.0, 0, "0"),
            (1.5, 1_500_000_000, "0.015"),
            (0.1, 100_000_000, "0.001"),
            (0.000_000_001, 1, "0.00000000001"),
            (123.0, 123_000_000_000, "1.23"),
            (9_000_000_000.25, 9_000_000_000_250_000_000, "90000000.0025"),
        ] {
            let cost = NanoCents::from_cents(cents).unwrap();
            assert_eq!((cost.get(), cost.to_usd().as_str()), (nano, usd));
        }
        assert_eq!(NanoCents::new(500_000_000).cents_rounded(), 1);
        assert_eq!(NanoCents::new(499_999_999).cents_rounded(), 0);
        for bad in [f64::NAN, f64::INFINITY, -1.0, 1e11] {
            assert_eq!(NanoCents::from_cents(bad), None);
        }
    }
}
