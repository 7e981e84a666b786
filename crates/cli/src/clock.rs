//! The clock of the process, and ids of its time.

use std::time::{SystemTime, UNIX_EPOCH};

use evidence::Timestamp;
use ledger::own::Clock;

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

/// For work that goes on by itself.
pub(crate) fn clock() -> Clock {
    Clock { now, new_id }
}

/// A new UUIDv7 of that time.
///
/// # Panics
/// When the operating system has no randomness to give.
#[allow(clippy::expect_used)]
fn new_id(at: Timestamp) -> String {
    let mut random = [0; 10];
    getrandom::fill(&mut random).expect("the operating system gives randomness");
    let millis = u64::try_from(at.as_micros() / 1_000).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &random)
        .into_uuid()
        .to_string()
}
