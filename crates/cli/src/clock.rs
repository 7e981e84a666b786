//! The clock of the process.

use std::time::{SystemTime, UNIX_EPOCH};

use evidence::Timestamp;

/// Now. A clock before 1970 or beyond the year 9999 reads as the nearest of them.
#[allow(clippy::disallowed_methods)] // this is where the clock is read
pub(crate) fn now() -> Timestamp {
    let micros = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_micros());
    i64::try_from(micros)
        .ok()
        .and_then(Timestamp::from_micros)
        .unwrap_or(Timestamp::MAX)
}
