//! What the script answers, as values.

use evidence::Timestamp;
use redis::Value;

use crate::once::{OnceEntry, OnceError, OnceStatus};

pub(super) fn unreadable(answer: &Value) -> OnceError {
    OnceError::Unavailable(format!("an answer of another form: {answer:?}"))
}

pub(super) fn is_no_script(answer: &Value) -> bool {
    matches!(answer, Value::ServerError(error) if error.code() == "NOSCRIPT")
}

pub(super) fn is_lost(answer: &Value) -> bool {
    matches!(answer, Value::Array(parts) if matches!(parts.get(1), Some(Value::BulkString(word)) if word == b"lost"))
}

pub(super) fn number(text: &[u8]) -> Result<i64, OnceError> {
    std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| OnceError::Unavailable("a stored number is none".into()))
}

pub(super) fn time(text: &[u8]) -> Result<Timestamp, OnceError> {
    Timestamp::from_micros(number(text)?)
        .ok_or_else(|| OnceError::Unavailable("a stored time is none".into()))
}

/// The fields in the script's order, then the bytes of the payload.
pub(super) fn entry(next: &mut impl FnMut() -> Result<Vec<u8>, OnceError>) -> Result<OnceEntry, OnceError> {
    let damaged = |what: &str| OnceError::Unavailable(format!("a stored {what} is none"));
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).map_err(|_| damaged("text"));
    let hash = |bytes: Vec<u8>| -> Result<Option<[u8; 32]>, OnceError> {
        if bytes.is_empty() {
            return Ok(None);
        }
        bytes.try_into().map(Some).map_err(|_| damaged("hash"))
    };
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    let status = text(next()?)?;
    let entry_hash = hash(next()?)?;
    let label = text(next()?)?;
    let lease = next()?;
    let (lease_until, created_at, expires_at) = (time(&next()?)?, time(&next()?)?, time(&next()?)?);
    let response_hash = hash(next()?)?;
    let error = text(next()?)?;
    let payload_bytes = u64::try_from(number(&next()?)?).unwrap_or(0);
    let status = OnceStatus::of_letter(&status).ok_or_else(|| damaged("status"))?;
    Ok(OnceEntry {
        status,
        hash: entry_hash,
        label: some(label),
        lease: lease.try_into().map_err(|_| damaged("lease"))?,
        lease_until,
        created_at,
        expires_at,
        response_hash,
        error: (status == OnceStatus::Failed).then_some(error),
        payload_bytes,
    })
}
