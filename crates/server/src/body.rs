//! Request bodies: read within limits, counted while they are held, decompressed within limits.
//!
//! Bytes are counted against one budget as they arrive, so that many bodies
//! together cannot fill the memory. What is refused as too large is read on
//! and thrown away for a while: a client that is still sending would otherwise
//! see a broken connection instead of the answer.
//!
//! Start at [`receive`].

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use crate::{ApiError, Limits};

/// Bytes read and thrown away before a refusal is answered: twice the largest batch collectors send.
const DISCARD_BYTES_MAX: usize = 128 * 1024 * 1024;

/// Longest time spent on throwing away.
const DISCARD_TIME: Duration = Duration::from_secs(10);

/// Bytes of all bodies that may be held at once.
#[derive(Clone, Debug)]
pub(crate) struct Budget(Arc<Semaphore>);

/// A part of the budget, given back when dropped.
#[derive(Debug)]
pub(crate) struct Hold {
    budget: Budget,
    permit: Option<OwnedSemaphorePermit>,
}

impl Budget {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes_max.min(Semaphore::MAX_PERMITS))))
    }

    /// Holds nothing yet.
    pub(crate) fn hold(&self) -> Hold {
        Hold {
            budget: self.clone(),
            permit: None,
        }
    }

    /// Bytes that can still be held.
    pub(crate) fn free_bytes(&self) -> usize {
        self.0.available_permits()
    }
}

impl Hold {
    /// Holds so many bytes more; `false`: there are not so many.
    pub(crate) fn more(&mut self, bytes: usize) -> bool {
        let Some(permit) = u32::try_from(bytes)
            .ok()
            .and_then(|n| Arc::clone(&self.budget.0).try_acquire_many_owned(n).ok())
        else {
            return false;
        };
        match &mut self.permit {
            Some(held) => held.merge(permit),
            None => self.permit = Some(permit),
        }
        true
    }
}

/// A body in memory, counted until it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) bytes: Bytes,
    gzip: bool,
    bytes_max: usize,
    hold: Hold,
}

/// Why a body was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the body is longer than {0} bytes")]
    TooLarge(usize),
    #[error("the bodies being handled leave no room for this one; send it again")]
    Busy,
    #[error("the body did not arrive in time")]
    Slow,
    #[error("the body ended before its end")]
    Cut,
    #[error("the body is not gzip, though its content-encoding says so")]
    Gzip,
    #[error("content-encoding must be gzip or absent")]
    Encoding,
}

impl From<BodyError> for ApiError {
    fn from(error: BodyError) -> Self {
        let message = error.to_string();
        match error {
            BodyError::TooLarge(_) => Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message),
            BodyError::Busy => Self::unavailable("busy", message),
            BodyError::Slow => Self::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", message),
            BodyError::Cut | BodyError::Gzip => Self::malformed(message),
            BodyError::Encoding => Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_encoding", message),
        }
    }
}

/// Reads a body as it was sent. A gzip body is not unpacked yet: [`Held::inflate`] does that on a blocking thread.
pub(crate) async fn receive(
    budget: &Budget,
    limits: &Limits,
    headers: &HeaderMap,
    mut body: Body,
) -> Result<Held, BodyError> {
    let gzip = is_gzip(headers)?;
    let length = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let declared_too_large = length.is_some_and(|length| length > limits.body_bytes_max as u64);
    let read = if declared_too_large {
        Err(BodyError::TooLarge(limits.body_bytes_max))
    } else {
        collect(budget, limits, &mut body).await
    };
    match read {
        Ok((bytes, hold)) => Ok(Held {
            bytes,
            gzip,
            bytes_max: limits.body_bytes_max,
            hold,
        }),
        Err(error) => {
            // Who waits for "100 Continue" sends nothing before the answer.
            let waits = declared_too_large && headers.contains_key(header::EXPECT);
            if matches!(error, BodyError::TooLarge(_) | BodyError::Busy) && !waits {
                let _ = timeout(DISCARD_TIME, discard(&mut body)).await;
            }
            Err(error)
        }
    }
}

fn is_gzip(headers: &HeaderMap) -> Result<bool, BodyError> {
    let mut encodings = headers.get_all(header::CONTENT_ENCODING).iter();
    let (first, more) = (encodings.next(), encodings.next());
    match first.map(|value| value.as_bytes().trim_ascii()) {
        _ if more.is_some() => Err(BodyError::Encoding),
        None => Ok(false),
        Some(value) if value.eq_ignore_ascii_case(b"identity") || value.is_empty() => Ok(false),
        Some(value) if value.eq_ignore_ascii_case(b"gzip") || value.eq_ignore_ascii_case(b"x-gzip") => {
            Ok(true)
        }
        Some(_) => Err(BodyError::Encoding),
    }
}

async fn collect(budget: &Budget, limits: &Limits, body: &mut Body) -> Result<(Bytes, Hold), BodyError> {
    let deadline = Instant::now() + limits.body_time;
    let mut hold = budget.hold();
    let mut first = Bytes::new();
    let mut rest: Vec<u8> = Vec::new();
    loop {
        let until = deadline.min(Instant::now() + limits.body_idle);
        let frame = match timeout_at(until, body.frame()).await {
            Err(_) => return Err(BodyError::Slow),
            Ok(None) => break,
            Ok(Some(Err(_))) => return Err(BodyError::Cut),
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(data) = frame.into_data() else { continue };
        if data.is_empty() {
            continue;
        }
        if first.len() + rest.len() + data.len() > limits.body_bytes_max {
            return Err(BodyError::TooLarge(limits.body_bytes_max));
        }
        if !hold.more(data.len()) {
            return Err(BodyError::Busy);
        }
        // Most bodies are one frame, which is kept as it is.
        if first.is_empty() && rest.is_empty() {
            first = data;
        } else {
            if rest.is_empty() {
                rest.extend_from_slice(&first);
                first = Bytes::new();
            }
            rest.extend_from_slice(&data);
        }
    }
    Ok((if rest.is_empty() { first } else { rest.into() }, hold))
}

async fn discard(body: &mut Body) {
    let mut discarded = 0;
    while let Some(Ok(frame)) = body.frame().await {
        discarded += frame.data_ref().map_or(0, Bytes::len);
        if discarded > DISCARD_BYTES_MAX {
            break;
        }
    }
}

impl Held {
    /// A body that is held already, plain.
    #[cfg(test)]
    pub(crate) fn of(hold: Hold, bytes: Bytes) -> Self {
        Self {
            bytes_max: bytes.len(),
            bytes,
            gzip: false,
            hold,
        }
    }

    /// What remains when the bytes are done with: their place in the budget, held until the handler ends.
    pub(crate) fn into_hold(self) -> Hold {
        self.hold
    }

    /// Whether it must be unpacked first.
    pub(crate) fn is_gzip(&self) -> bool {
        self.gzip
    }

    /// The same without its first bytes.
    pub(crate) fn part(self, from: usize, gzip: bool, bytes_max: usize) -> Self {
        let bytes = self.bytes.slice(from.min(self.bytes.len())..);
        Self {
            bytes,
            gzip,
            bytes_max,
            hold: self.hold,
        }
    }

    /// Unpacks a gzip body; another is given back as it is. Takes time: a small bomb unpacks for 50 ms.
    pub(crate) fn inflate(self) -> Result<Self, BodyError> {
        if !self.gzip {
            return Ok(self);
        }
        let hold = self.hold.budget.hold();
        let sink = Sink {
            bytes: Vec::new(),
            bytes_max: self.bytes_max,
            hold,
            refused: None,
        };
        let mut decoder = MultiGzDecoder::new(sink);
        let written = decoder.write_all(&self.bytes).and_then(|()| decoder.try_finish());
        let refused = decoder.get_mut().refused;
        let (Ok(()), None) = (written, refused) else {
            return Err(refused.unwrap_or(BodyError::Gzip));
        };
        let sink = decoder.finish().map_err(|_| BodyError::Gzip)?;
        Ok(Self {
            bytes: sink.bytes.into(),
            gzip: false,
            bytes_max: self.bytes_max,
            hold: sink.hold,
        })
    }
}

/// Takes what is unpacked, up to the limit and as far as the budget goes.
struct Sink {
    bytes: Vec<u8>,
    bytes_max: usize,
    hold: Hold,
    refused: Option<BodyError>,
}

impl Write for Sink {
    fn write(&mut self, part: &[u8]) -> std::io::Result<usize> {
        if self.bytes.len() + part.len() > self.bytes_max {
            self.refused = Some(BodyError::TooLarge(self.bytes_max));
        } else if !self.hold.more(part.len()) {
            self.refused = Some(BodyError::Busy);
        }
        if self.refused.is_some() {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_is_given_back_whole() {
        let budget = Budget::new(10);
        let mut first = budget.hold();
        assert!(first.more(4) && first.more(3) && first.more(0));
        assert!(!budget.hold().more(4));
        assert_eq!(budget.free_bytes(), 3);
        drop(first);
        assert_eq!(budget.free_bytes(), 10);
    }
}
