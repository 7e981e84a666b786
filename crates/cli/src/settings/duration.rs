//! Durations as they are written, and within what bounds.

use anyhow::Result;

use crate::output::Usage;

/// Longest duration that may be set, in days: a hundred years, which is for ever to a ledger, and short enough that a
/// time less it is a time.
const SET_DAYS_MAX: i64 = 36_500;

/// A duration that a setting says, of at least so many seconds; microseconds.
pub(super) fn bounded(name: &str, text: &str, least_secs: i64) -> Result<i64> {
    let allowed = least_secs.saturating_mul(1_000_000)..=SET_DAYS_MAX * 86_400 * 1_000_000;
    let found = parse_duration(text).filter(|micros| allowed.contains(micros));
    found.ok_or_else(|| {
        Usage(format!(
            "{name}: {text:?} is no duration between {least_secs}s and {SET_DAYS_MAX}d; write e.g. 500ms, 30s, 5m, 24h"
        ))
        .into()
    })
}

/// `500ms`, `30s`, `5m`, `24h`, `7d`, or bare seconds; microseconds.
pub(crate) fn parse_duration(text: &str) -> Option<i64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let micros = match unit.trim() {
        "ms" => 1_000,
        "" | "s" => 1_000_000,
        "m" => 60 * 1_000_000,
        "h" => 3_600 * 1_000_000,
        "d" => 86_400 * 1_000_000,
        _ => return None,
    };
    number.parse::<i64>().ok()?.checked_mul(micros)
}

/// `None`: there is a rest, which would be cut off.
pub(super) fn whole_seconds(micros: i64) -> Option<u32> {
    if micros % 1_000_000 != 0 {
        return None;
    }
    u32::try_from(micros / 1_000_000).ok()
}

#[cfg(test)]
mod tests {
    use super::{bounded, parse_duration, whole_seconds};

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("500ms"), Some(500_000));
        assert_eq!(parse_duration("24h"), Some(86_400_000_000));
        assert_eq!(parse_duration("7"), Some(7_000_000));
        assert_eq!(parse_duration("h"), None);
        assert_eq!(parse_duration("99999999999999999d"), None);
    }

    #[test]
    fn the_bounds_themselves_are_allowed() {
        assert_eq!(bounded("x", "0s", 0).unwrap(), 0);
        assert_eq!(bounded("x", "1s", 1).unwrap(), 1_000_000);
        assert_eq!(bounded("x", "36500d", 0).unwrap(), 36_500 * 86_400_000_000);
        for (text, least_secs) in [("999ms", 1), ("36500d1", 0), ("876001h", 0)] {
            assert!(bounded("x", text, least_secs).is_err(), "{text}");
        }
    }

    #[test]
    fn seconds_are_whole_or_none() {
        assert_eq!(whole_seconds(2_000_000), Some(2));
        assert_eq!(whole_seconds(1_500_000), None);
        assert_eq!(whole_seconds(999_999), None);
        assert_eq!(whole_seconds(i64::MAX / 1_000_000 * 1_000_000), None);
    }
}
