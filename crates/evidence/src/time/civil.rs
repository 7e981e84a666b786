//! Dates of the proleptic Gregorian calendar, as counts of days.
//!
//! Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms" (`days_from_civil`,
//! `civil_from_days`), shifted so that every intermediate number is positive.

use super::TEXT_BYTES;

pub(super) const DAY_MICROS: i64 = 86_400 * 1_000_000;

/// Days from 0000-03-01, where the algorithm begins its 400-year eras, to 1970-01-01.
const EPOCH_DAYS: i64 = 719_468;

/// Days of 400 years.
const ERA_DAYS: u32 = 146_097;

/// A moment taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Civil {
    pub(super) year: u32,
    pub(super) month: u32,
    pub(super) day: u32,
    pub(super) hour: u32,
    pub(super) minute: u32,
    pub(super) second: u32,
    pub(super) micro: u32,
}

impl Civil {
    /// Takes a count of microseconds since 1970 apart; the years are 0001 to 9999.
    pub(super) fn from_micros(micros: i64) -> Self {
        let (days, micros) = (micros.div_euclid(DAY_MICROS), micros.rem_euclid(DAY_MICROS));
        let (year, month, day) = date(low(days + EPOCH_DAYS));
        let (seconds, micro) = (low(micros / 1_000_000), low(micros % 1_000_000));
        let (minutes, second) = (seconds / 60, seconds % 60);
        Self {
            year,
            month,
            day,
            hour: minutes / 60,
            minute: minutes % 60,
            second,
            micro,
        }
    }

    /// Microseconds since 1970. The fields are within their ranges.
    pub(super) fn to_micros(self) -> i64 {
        let days = i64::from(era_days(self.year, self.month, self.day)) - EPOCH_DAYS;
        let seconds = i64::from((self.hour * 60 + self.minute) * 60 + self.second);
        (days * 86_400 + seconds) * 1_000_000 + i64::from(self.micro)
    }

    pub(super) fn to_bytes(self) -> [u8; TEXT_BYTES] {
        let [y1, y2] = two(self.year / 100);
        let [y3, y4] = two(self.year % 100);
        let [o1, o2] = two(self.month);
        let [d1, d2] = two(self.day);
        let [h1, h2] = two(self.hour);
        let [m1, m2] = two(self.minute);
        let [s1, s2] = two(self.second);
        let [f1, f2] = two(self.micro / 10_000);
        let [f3, f4] = two(self.micro / 100 % 100);
        let [f5, f6] = two(self.micro % 100);
        [
            y1, y2, y3, y4, b'-', o1, o2, b'-', d1, d2, b'T', h1, h2, b':', m1, m2, b':', s1, s2, b'.', f1,
            f2, f3, f4, f5, f6, b'Z',
        ]
    }
}

/// A number the caller knows to be small and not negative.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "days of 9999 years and seconds of a day fit 32 bits"
)]
const fn low(number: i64) -> u32 {
    number as u32
}

const fn two(number: u32) -> [u8; 2] {
    // Below 100, so both digits are; the remainder keeps the arithmetic total.
    let number = (number % 100) as u8;
    [b'0' + number / 10, b'0' + number % 10]
}

/// Days from 0000-03-01 to a date of the years 0001 to 9999.
const fn era_days(year: u32, month: u32, day: u32) -> u32 {
    // The year begins in March, so that the leap day is its last.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let year_of_era = year % 400;
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    year / 400 * ERA_DAYS + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year
}

/// The date that many days after 0000-03-01: year, month, day.
const fn date(days: u32) -> (u32, u32, u32) {
    let (era, day_of_era) = (days / ERA_DAYS, days % ERA_DAYS);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let year = era * 400 + year_of_era;
    if month < 10 {
        (year, month + 3, day)
    } else {
        (year + 1, month - 9, day)
    }
}

/// Days of a month of a year; 0 for a month that does not exist.
pub(super) const fn month_days(year: u32, month: u32) -> u32 {
    match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_day_of_the_range_follows_the_one_before() {
        let mut days = era_days(1, 1, 1);
        for year in 1..=9999 {
            for month in 1..=12 {
                for day in 1..=month_days(year, month) {
                    assert_eq!(era_days(year, month, day), days);
                    assert_eq!(date(days), (year, month, day));
                    days += 1;
                }
            }
        }
        assert_eq!(i64::from(days) - EPOCH_DAYS, 2_932_897);
    }

    #[test]
    fn known_days_have_their_known_counts() {
        for ((year, month, day), days) in [
            ((1, 1, 1), -719_162),
            ((1582, 10, 15), -141_427),
            ((1900, 2, 28), -25_509),
            ((1900, 3, 1), -25_508),
            ((1969, 12, 31), -1),
            ((1970, 1, 1), 0),
            ((2000, 2, 29), 11_016),
            ((2000, 3, 1), 11_017),
            ((2038, 1, 19), 24_855),
            ((9999, 12, 31), 2_932_896),
        ] {
            assert_eq!(
                i64::from(era_days(year, month, day)) - EPOCH_DAYS,
                days,
                "{year}-{month}-{day}"
            );
        }
    }
}
