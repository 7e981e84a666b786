//! Times as Deponent keeps them: UTC, microseconds, one text form.
//!
//! [`Timestamp`] is a count of microseconds since 1970 within the years 0001 to 9999, and its text is
//! always the 27 characters `YYYY-MM-DDTHH:MM:SS.ffffffZ`, so that texts sort as times do and equal times
//! have equal bytes.
//!
//! Out of scope: the clock, which is an argument everywhere; local time; durations.
//! Start at [`Timestamp::parse`] and [`Timestamp::write_to`]; at [`GivenTime`] for what is finer. Rules: RFC 3339;
//! SPEC section 1.

mod civil;
mod given;
mod parse;

pub use given::{GIVEN_BYTES_MAX, GivenTime, TIMES_GIVEN, TimesGiven};
pub use parse::TimeError;

use civil::{Civil, DAY_MICROS};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// Bytes of the text form.
pub const TEXT_BYTES: usize = 27;

/// What a time looks like, for who wrote none.
const EXAMPLE: &str = "2026-11-21T09:30:00Z";

/// A moment: microseconds since 1970-01-01T00:00:00Z, leap seconds not counted, years 0001 to 9999.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// 0001-01-01T00:00:00.000000Z
    pub const MIN: Self = Self(-719_162 * DAY_MICROS);
    /// 9999-12-31T23:59:59.999999Z
    pub const MAX: Self = Self(2_932_897 * DAY_MICROS - 1);
    /// 1970-01-01T00:00:00.000000Z
    pub const UNIX_EPOCH: Self = Self(0);

    /// Microseconds since 1970; `None` outside the years 0001 to 9999.
    pub const fn from_micros(micros: i64) -> Option<Self> {
        if micros >= Self::MIN.0 && micros <= Self::MAX.0 {
            Some(Self(micros))
        } else {
            None
        }
    }

    /// Nanoseconds since 1970, cut to microseconds, and the nanoseconds cut off (0–999).
    ///
    /// Total: the largest `u64` falls into the year 2554.
    pub const fn from_unix_nanos(nanos: u64) -> (Self, u32) {
        let leftover = (nanos % 1_000) as u32;
        (Self((nanos / 1_000).cast_signed()), leftover)
    }

    /// Microseconds since 1970.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// The moment `micros` later, or earlier if negative; `None` outside the range.
    pub const fn checked_add_micros(self, micros: i64) -> Option<Self> {
        match self.0.checked_add(micros) {
            Some(sum) => Self::from_micros(sum),
            None => None,
        }
    }

    /// Microseconds from `earlier` to here, negative if `earlier` is later. The range is narrow enough for
    /// every difference to fit.
    pub const fn micros_since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Reads an RFC 3339 time; one between two microseconds is the later of them. What is at or after it, or before it, by
    /// whole microseconds, is the same. Behind the last that there is it is that one: some write the end of all time so,
    /// with seven nines.
    ///
    /// # Errors
    /// As [`Timestamp::parse_exact`].
    pub fn parse_up(text: &str) -> Result<Self, TimeError> {
        let (time, is_finer) = Self::parse_exact(text)?;
        let up = time.checked_add_micros(1).filter(|_| is_finer);
        Ok(up.unwrap_or(time))
    }

    /// Reads an RFC 3339 time and cuts it to microseconds. See [`Timestamp::parse_exact`].
    pub fn parse(text: &str) -> Result<Self, TimeError> {
        Self::parse_exact(text).map(|(time, _)| time)
    }

    /// Reads an RFC 3339 time, and tells whether digits finer than a microsecond were cut off that were
    /// not all zero.
    ///
    /// The offset is required; `t` and `z` may be lower-case; the fraction may have any number of digits.
    /// The second 60 is refused: a count of microseconds since 1970 has no name for it, and moving it would
    /// give two moments one text.
    ///
    /// # Errors
    /// [`TimeError`], by what is wrong with the text.
    pub fn parse_exact(text: &str) -> Result<(Self, bool), TimeError> {
        parse::parse(text.as_bytes())
    }

    /// Appends the 27 characters.
    pub fn write_to(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_bytes());
    }

    /// The 27 characters, all ASCII.
    pub fn to_bytes(self) -> [u8; TEXT_BYTES] {
        Civil::from_micros(self.0).to_bytes()
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The bytes are ASCII digits and marks, always.
        f.pad(std::str::from_utf8(&self.to_bytes()).unwrap_or_default())
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Timestamp {
    type Err = TimeError;

    fn from_str(text: &str) -> Result<Self, TimeError> {
        Self::parse(text)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(std::str::from_utf8(&self.to_bytes()).unwrap_or_default())
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl serde::de::Visitor<'_> for Text {
            type Value = Timestamp;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "an RFC 3339 time such as {EXAMPLE}")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Timestamp, E> {
                Timestamp::parse(text).map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests;
