//! Reads RFC 3339.

use super::civil::{Civil, month_days};
use super::{EXAMPLE, GIVEN_BYTES_MAX, Timestamp};

/// Why a text is no time here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TimeError {
    /// The text does not have the shape `YYYY-MM-DDTHH:MM:SS[.f…](Z|±HH:MM)`.
    #[error("not an RFC 3339 time such as {EXAMPLE}")]
    Malformed,
    /// The shape is right as far as it goes, but no offset follows.
    #[error("time without an offset, Z or ±hh:mm, as in {EXAMPLE}")]
    OffsetMissing,
    /// A field is outside its range, as the 30th of February is.
    #[error("time with a field out of range")]
    FieldOutOfRange,
    /// The second is 60.
    #[error("leap second, which a count of microseconds cannot name")]
    LeapSecond,
    /// The moment, brought to UTC, is outside the years 0001 to 9999.
    #[error("time outside the years 0001 to 9999")]
    OutOfRange,
    /// The text is longer than is kept of a time that is given. [`Timestamp::parse`] reads any length.
    #[error("time of more than {GIVEN_BYTES_MAX} bytes")]
    TooLong,
}

pub(super) fn parse(text: &[u8]) -> Result<(Timestamp, bool), TimeError> {
    let Some((head, tail)) = text.split_first_chunk::<19>() else {
        return Err(TimeError::Malformed);
    };
    let mut civil = date_time(head)?;
    // Our own form, which verification reads by the hundred thousand.
    let (finer, offset) = if let Some(&[b'.', f1, f2, f3, f4, f5, f6, b'Z']) = tail.as_array() {
        civil.micro = two(f1, f2)? * 10_000 + two(f3, f4)? * 100 + two(f5, f6)?;
        (false, 0)
    } else {
        let (micro, finer, tail) = fraction(tail)?;
        civil.micro = micro;
        (finer, offset_minutes(tail)?)
    };
    if civil.second == 60 {
        return Err(TimeError::LeapSecond);
    }
    if civil.day == 0
        || civil.day > month_days(civil.year, civil.month)
        || civil.hour > 23
        || civil.minute > 59
        || civil.second > 59
    {
        return Err(TimeError::FieldOutOfRange);
    }
    if civil.year == 0 {
        return Err(TimeError::OutOfRange);
    }
    let micros = civil.to_micros() - offset * 60_000_000;
    Timestamp::from_micros(micros)
        .map(|time| (time, finer))
        .ok_or(TimeError::OutOfRange)
}

fn date_time(text: &[u8; 19]) -> Result<Civil, TimeError> {
    let &[
        y1,
        y2,
        y3,
        y4,
        b'-',
        o1,
        o2,
        b'-',
        d1,
        d2,
        b'T' | b't',
        h1,
        h2,
        b':',
        m1,
        m2,
        b':',
        s1,
        s2,
    ] = text
    else {
        return Err(TimeError::Malformed);
    };
    Ok(Civil {
        year: two(y1, y2)? * 100 + two(y3, y4)?,
        month: two(o1, o2)?,
        day: two(d1, d2)?,
        hour: two(h1, h2)?,
        minute: two(m1, m2)?,
        second: two(s1, s2)?,
        micro: 0,
    })
}

/// Takes a fraction off the front: microseconds, whether finer digits were not zero, and the rest.
fn fraction(text: &[u8]) -> Result<(u32, bool, &[u8]), TimeError> {
    let Some((b'.', digits)) = text.split_first() else {
        return Ok((0, false, text));
    };
    let count = digits
        .iter()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(digits.len());
    if count == 0 {
        return Err(TimeError::Malformed);
    }
    let (digits, rest) = digits.split_at(count);
    let coarse = digits.iter().copied().chain(std::iter::repeat(b'0')).take(6);
    let micro = coarse.fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    let finer = digits.iter().skip(6).any(|&digit| digit != b'0');
    Ok((micro, finer, rest))
}

/// The offset from UTC, east positive. `-00:00` means UTC with the local offset unknown, and is UTC here.
fn offset_minutes(text: &[u8]) -> Result<i64, TimeError> {
    match *text {
        [b'Z' | b'z'] => Ok(0),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (two(h1, h2)?, two(m1, m2)?);
            if hours > 23 || minutes > 59 {
                return Err(TimeError::FieldOutOfRange);
            }
            let offset = i64::from(hours * 60 + minutes);
            Ok(if sign == b'-' { -offset } else { offset })
        }
        [] => Err(TimeError::OffsetMissing),
        _ => Err(TimeError::Malformed),
    }
}

fn two(tens: u8, ones: u8) -> Result<u32, TimeError> {
    let (tens, ones) = (tens.wrapping_sub(b'0'), ones.wrapping_sub(b'0'));
    if tens > 9 || ones > 9 {
        return Err(TimeError::Malformed);
    }
    Ok(u32::from(tens) * 10 + u32::from(ones))
}
