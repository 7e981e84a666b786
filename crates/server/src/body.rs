//! Request bodies: read within limits, counted while they are held, decompressed within limits.
//!
//! Bytes are counted against one budget as they arrive, so that many bodies
//! together cannot fill the memory; so are the values that a JSON body will be
//! read as, before it is ([`Held::values`]). Of what has not arrived whole nobody
//! has more than half, so that who is slow takes room from himself. What is refused as too large is read on
//! and thrown away for a while: a client that is still sending would otherwise
//! see a broken connection instead of the answer.
//!
//! Start at [`receive`].

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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

/// What one value of a JSON body takes while it is read, about: 56 bytes as a member, the same again until its object
/// closes, and 24 to 32 for its name.
const VALUE_BYTES: usize = 160;

/// Whose a body is: the tenant's number and the principal.
pub(crate) type Sender = (u32, Arc<str>);

/// Bytes of all bodies that may be held at once.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    free: Arc<Semaphore>,
    bytes_max: usize,
    /// What each has sent of bodies that are not there as a whole.
    arriving: Arc<Mutex<HashMap<Sender, usize>>>,
}

/// What is there of a body that is still arriving; counted until dropped.
#[derive(Debug)]
struct Arriving {
    budget: Budget,
    sender: Sender,
    bytes: usize,
}

/// A part of the budget, given back when dropped.
#[derive(Debug)]
pub(crate) struct Hold {
    budget: Budget,
    permit: Option<OwnedSemaphorePermit>,
}

impl Budget {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(bytes_max.min(Semaphore::MAX_PERMITS))),
            bytes_max,
            arriving: Arc::default(),
        }
    }

    /// Nothing of a body has arrived yet.
    fn arriving(&self, sender: Sender) -> Arriving {
        Arriving {
            budget: self.clone(),
            sender,
            bytes: 0,
        }
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
        self.free.available_permits()
    }
}

impl Hold {
    /// Holds so many bytes more; `false`: there are not so many.
    pub(crate) fn more(&mut self, bytes: usize) -> bool {
        let Some(permit) = u32::try_from(bytes)
            .ok()
            .and_then(|n| Arc::clone(&self.budget.free).try_acquire_many_owned(n).ok())
        else {
            return false;
        };
        match &mut self.permit {
            Some(held) => held.merge(permit),
            None => self.permit = Some(permit),
        }
        true
    }

    /// Holds what another holds of the same budget as well.
    pub(crate) fn join(&mut self, other: Self) {
        let Some(permit) = other.permit else { return };
        match &mut self.permit {
            Some(held) => held.merge(permit),
            None => self.permit = Some(permit),
        }
    }
}

impl Arriving {
    /// So many bytes more have arrived; `false`: the sender's bodies would take more than half of all room.
    fn more(&mut self, bytes: usize) -> bool {
        let mut arriving = lock(&self.budget.arriving);
        let of_sender = arriving.entry(self.sender.clone()).or_default();
        if *of_sender + bytes > self.budget.bytes_max / 2 {
            return false;
        }
        *of_sender += bytes;
        self.bytes += bytes;
        true
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        let mut arriving = lock(&self.budget.arriving);
        if let Some(of_sender) = arriving.get_mut(&self.sender) {
            *of_sender = of_sender.saturating_sub(self.bytes);
            if *of_sender == 0 {
                arriving.remove(&self.sender);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
    #[error(
        "the body has some {values} values, those of JSON within text among them, and one of its length may have \
         {values_max}: send less at a time"
    )]
    TooMany { values: usize, values_max: usize },
    #[error("the bodies being handled leave no room for this one; send it again")]
    Busy,
    #[error("bodies of yours that have not arrived whole take half of all room; send it again")]
    Share,
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
            BodyError::TooLarge(_) | BodyError::TooMany { .. } => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
            }
            BodyError::Busy | BodyError::Share => Self::unavailable("busy", message),
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
    sender: Sender,
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
        collect(budget, limits, sender, &mut body).await
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
            if matches!(error, BodyError::TooLarge(_) | BodyError::Busy | BodyError::Share) && !waits {
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

async fn collect(
    budget: &Budget,
    limits: &Limits,
    sender: Sender,
    body: &mut Body,
) -> Result<(Bytes, Hold), BodyError> {
    let deadline = Instant::now() + limits.body_time;
    let mut hold = budget.hold();
    let mut arriving = budget.arriving(sender);
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
        if !arriving.more(data.len()) {
            return Err(BodyError::Share);
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

    /// Holds room for the values that a JSON body, unpacked, will be read as.
    pub(crate) fn values(&self) -> Result<Hold, BodyError> {
        let budget = &self.hold.budget;
        let values = values_max(&self.bytes);
        let values_max = budget.bytes_max.saturating_sub(self.bytes.len()) / VALUE_BYTES;
        if values > values_max {
            return Err(BodyError::TooMany { values, values_max });
        }
        let mut hold = budget.hold();
        hold.more(values * VALUE_BYTES)
            .then_some(hold)
            .ok_or(BodyError::Busy)
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

/// How many values a JSON text has at most: each but the first stands behind a comma or an opening bracket.
///
/// Those within text count where that may be JSON itself, by how it begins and ends, as it is then read too, to be
/// looked through for secrets.
fn values_max(json: &[u8]) -> usize {
    let mut values = 1_usize;
    let mut rest = json;
    while let Some((byte, behind)) = rest.split_first() {
        rest = behind;
        match byte {
            b',' | b'[' | b'{' => values += 1,
            b'"' => rest = behind_text(rest, &mut values),
            _ => {}
        }
    }
    values
}

/// What stands behind the text that `text` begins with, and its values counted where it may be JSON.
fn behind_text<'t>(text: &'t [u8], values: &mut usize) -> &'t [u8] {
    let may_begin = may_begin_json(text);
    let (mut within, mut at) = (0, 0);
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => break,
            b'\\' if text.get(at + 1) != Some(&b'u') => at += 1,
            b',' | b'[' | b'{' if may_begin => within += 1,
            // In text within text a backslash is escaped itself.
            b'u' if may_begin && is_separator(text.get(at + 1..)) => within += 1,
            _ => {}
        }
        at += 1;
    }
    let (text, rest) = text.split_at(at.min(text.len()));
    if may_begin && may_end_json(text) {
        *values += within;
    }
    rest.get(1..).unwrap_or_default()
}

/// Whether a text, escaped, may be JSON by how it begins: an escape by number may be a bracket or white space.
fn may_begin_json(mut text: &[u8]) -> bool {
    loop {
        text = text.trim_ascii_start();
        match text {
            [b'\\', b'n' | b'r' | b't' | b'f', rest @ ..] => text = rest,
            [b'[' | b'{', ..] | [b'\\', b'u', ..] => return true,
            _ => return false,
        }
    }
}

/// The same by how it ends.
fn may_end_json(mut text: &[u8]) -> bool {
    loop {
        text = text.trim_ascii_end();
        match text {
            [rest @ .., b'\\', b'n' | b'r' | b't' | b'f'] => text = rest,
            [.., b']' | b'}'] | [.., b'\\', b'u', _, _, _, _] => return true,
            _ => return false,
        }
    }
}

/// Whether what stands behind the `u` of an escape makes it a comma or an opening bracket.
fn is_separator(escape: Option<&[u8]>) -> bool {
    matches!(
        escape,
        Some([b'0', b'0', b'2', b'c' | b'C', ..] | [b'0', b'0', b'5' | b'7', b'b' | b'B', ..])
    )
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
        let (mut first, mut more) = (budget.hold(), budget.hold());
        assert!(more.more(4));
        first.join(more);
        first.join(budget.hold());
        assert_eq!(budget.free_bytes(), 6);
        drop(first);
        assert_eq!(budget.free_bytes(), 10);
    }

    #[test]
    fn of_what_has_not_arrived_whole_nobody_has_more_than_half() {
        let budget = Budget::new(1_000);
        let sender = |tenant_no: u32, principal: &str| -> Sender { (tenant_no, Arc::from(principal)) };
        let (mut first, mut second) = (
            budget.arriving(sender(1, "ann")),
            budget.arriving(sender(1, "ann")),
        );
        assert!(first.more(300) && second.more(200) && !second.more(1));
        for other in [sender(1, "bob"), sender(2, "ann")] {
            assert!(budget.arriving(other).more(500));
        }
        drop(first);
        assert!(second.more(300));
        drop(second);
        assert!(lock(&budget.arriving).is_empty());
    }

    #[test]
    fn values_are_never_more_than_counted() {
        for (json, values) in [
            ("0", 1),
            ("[]", 2),
            ("[0,0,0]", 4),
            (r#"{"a":1,"b":{"c":[true,null]}}"#, 6),
            (r#"{"a, [{":"b, \"c, {","d":"\\"}"#, 3),
            (r#"{"a":" [1,2,{\"b\":3}]","b":0}"#, 7),
            (r#"{"a":"\n\t[1,2]\r\n"}"#, 4),
            (r#"["\u005b1\u002C2,\u007b\u005D"]"#, 6),
            (r#"["[\"\\u005b1\\u002c2]\"]"]"#, 5),
            (r#"["[INFO] a, b, c","[cut, off","{a}, {b}: c"]"#, 4),
            (r#"["cut"#, 2),
            ("[\"cut\\", 2),
            ("", 1),
        ] {
            assert_eq!(values_max(json.as_bytes()), values, "{json}");
        }
    }

    #[test]
    fn what_a_body_is_read_as_is_counted_before_it_is() {
        let budget = Budget::new(10_000);
        let held = |json: String| Held::of(budget.hold(), json.into());
        let zeros = |count: usize| held(format!("[0{}]", ",0".repeat(count - 1)));
        let forty = zeros(40).values().unwrap();
        assert_eq!(budget.free_bytes(), 10_000 - 41 * VALUE_BYTES);
        assert_eq!(zeros(40).values().unwrap_err(), BodyError::Busy);
        drop(forty);
        let refused = zeros(70).values().unwrap_err();
        let (values, values_max) = (71, (10_000 - 141) / VALUE_BYTES);
        assert_eq!(refused, BodyError::TooMany { values, values_max });
        assert!(refused.to_string().contains("some 71 values"), "{refused}");
        assert!(held(format!("[\"{}\"]", "a, ".repeat(3_000))).values().is_ok());
        assert_eq!(budget.free_bytes(), 10_000);
    }
}
