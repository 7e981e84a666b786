//! Identifiers that the server makes.

use evidence::Timestamp;

/// A new UUIDv7 of that time, 36 characters.
///
/// # Panics
/// When the operating system has no randomness to give.
#[allow(clippy::expect_used)]
pub(crate) fn uuid_v7(at: Timestamp) -> String {
    let mut random = [0; 10];
    getrandom::fill(&mut random).expect("the operating system gives randomness");
    let millis = u64::try_from(at.as_micros() / 1_000).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &random)
        .into_uuid()
        .to_string()
}

/// A number from [0, 1), drawn from the operating system.
///
/// # Panics
/// When it has no randomness to give.
#[allow(clippy::expect_used)]
pub(crate) fn draw() -> f64 {
    let mut random = [0; 4];
    getrandom::fill(&mut random).expect("the operating system gives randomness");
    f64::from(u32::from_le_bytes(random)) / (f64::from(u32::MAX) + 1.0)
}
