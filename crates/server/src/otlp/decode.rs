//! From bytes to a request whose parts can be taken one by one.
//!
//! A request is walked, not copied: only the messages around the items (resource, scope) are taken apart
//! here, and each item is read where it is lowered. So one bad item never rejects its neighbours, and
//! memory does not grow with what a request claims to hold. OTLP/JSON is first written as protobuf
//! ([`super::json`]), so that there is one form from there on.
//!
//! In scope: the shape of the request, the count of items. Out of scope: HTTP, gzip, what items mean
//! ([`super::lower`]). Start at [`TraceRequest::decode`].
//!
//! Source: OTLP 1.11, <https://opentelemetry.io/docs/specs/otlp/>.

use std::borrow::Cow;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message as _;

use super::json;
use super::limits::{ITEMS_MAX, REASONS_MAX, REQUEST_BYTES_MAX};
use super::schema;
use super::span::as_message;
use super::wire::{Malformed, Reader};

/// How a request is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// `application/x-protobuf`
    Protobuf,
    /// `application/json`
    Json,
}

/// Why a request is refused as a whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not an OTLP request, or cut off (400).
    #[error("not an OTLP request: {0}")]
    Malformed(Cow<'static, str>),
    /// More bytes than [`super::limits::REQUEST_BYTES_MAX`] (413).
    #[error("the request has {0} bytes, at most {REQUEST_BYTES_MAX} are taken: send smaller batches")]
    TooLarge(usize),
    /// More spans, log records or data points than [`super::limits::ITEMS_MAX`] (413).
    #[error("the request has more than {ITEMS_MAX} items: send smaller batches")]
    TooMany,
}

impl From<Malformed> for DecodeError {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(Cow::Borrowed(malformed.0))
    }
}

/// What was refused of a request, and the first reasons why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rejections {
    /// Spans, log records or data points.
    pub count: u64,
    /// At most [`super::limits::REASONS_MAX`], each with the place of the item.
    pub reasons: Vec<String>,
    /// What was taken, and not as its sender meant it. One for each sort.
    pub warnings: Vec<String>,
}

impl Rejections {
    /// Counts `count` more.
    pub(crate) fn add(&mut self, count: u64, reason: impl FnOnce() -> String) {
        if count > 0 {
            self.count = self.count.saturating_add(count);
            if self.reasons.len() < REASONS_MAX {
                self.reasons.push(reason());
            }
        }
    }
}

/// The items of one scope of one resource, undecoded.
#[derive(Debug)]
pub(crate) struct Group<'a> {
    /// Place of the resource in the request.
    pub(crate) resource_index: usize,
    /// The `Resource`, empty when absent.
    pub(crate) resource: &'a [u8],
    /// The `InstrumentationScope`, empty when absent.
    pub(crate) scope: &'a [u8],
    /// The bytes around the items: a `ScopeSpans`, `ScopeLogs` or `ScopeMetrics`.
    body: &'a [u8],
}

impl<'a> Group<'a> {
    /// The items, in order.
    pub(crate) fn items(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        fields(self.body, 2)
    }
}

/// The messages in the field `number` of a message that was walked before.
pub(crate) fn fields(body: &[u8], number: u32) -> impl Iterator<Item = &[u8]> {
    let mut reader = Reader::new(body, u32::MAX);
    std::iter::from_fn(move || {
        loop {
            match reader.field() {
                Ok(Some((found, raw))) if found == number => {
                    if let Some(bytes) = as_message(raw) {
                        return Some(bytes);
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return None,
            }
        }
    })
}

/// The one message in the field `number`; of several the last.
fn field(body: &[u8], number: u32) -> &[u8] {
    fields(body, number).last().unwrap_or_default()
}

#[derive(Debug)]
struct Request<'a> {
    bytes: Cow<'a, [u8]>,
    rejected: Rejections,
}

impl<'a> Request<'a> {
    fn decode(
        body: &'a [u8],
        encoding: Encoding,
        message: &'static schema::Message,
        count: fn(&[u8]) -> usize,
    ) -> Result<Self, DecodeError> {
        if body.len() > REQUEST_BYTES_MAX {
            return Err(DecodeError::TooLarge(body.len()));
        }
        let request = match encoding {
            Encoding::Protobuf => Self {
                bytes: Cow::Borrowed(body),
                rejected: Rejections::default(),
            },
            Encoding::Json => {
                let (bytes, rejected) = json::to_protobuf(body, message)?;
                Self {
                    bytes: Cow::Owned(bytes),
                    rejected,
                }
            }
        };
        request
            .check(count)
            .map_err(|error| match (error, body.trim_ascii_start().first()) {
                (DecodeError::Malformed(_), Some(b'{')) if encoding == Encoding::Protobuf => {
                    DecodeError::Malformed(
                        "this is JSON, which needs the content type application/json".into(),
                    )
                }
                (error, _) => error,
            })?;
        Ok(request)
    }

    /// Walks the messages around the items, whose fields 1 and 2 must be messages.
    fn check(&self, count: fn(&[u8]) -> usize) -> Result<(), DecodeError> {
        let mut items = 0_usize;
        each(&self.bytes, 1, |resource| {
            each(resource, 2, |scope| {
                each(scope, 2, |item| {
                    items = items.saturating_add(count(item));
                    if items > ITEMS_MAX {
                        Err(DecodeError::TooMany)
                    } else {
                        Ok(())
                    }
                })
            })
        })
    }

    fn groups(&self) -> impl Iterator<Item = Group<'_>> {
        fields(&self.bytes, 1)
            .enumerate()
            .flat_map(|(resource_index, body)| {
                let resource = field(body, 1);
                fields(body, 2).map(move |body| Group {
                    resource_index,
                    resource,
                    scope: field(body, 1),
                    body,
                })
            })
    }
}

/// Walks a message to its end and calls `then` for each message in the field `number`.
fn each<'a>(
    body: &'a [u8],
    number: u32,
    mut then: impl FnMut(&'a [u8]) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    let mut reader = Reader::new(body, u32::MAX);
    while let Some((found, raw)) = reader.field()? {
        if found == number {
            then(Reader::message(raw)?)?;
        }
    }
    Ok(())
}

macro_rules! requests {
    ($($(#[$doc:meta])* $name:ident, $proto:ident, $message:expr, $count:expr;)*) => { $(
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name<'a>(Request<'a>);

        impl<'a> $name<'a> {
            /// Decodes a request.
            ///
            /// # Errors
            /// [`DecodeError`], by what the sender can do. A bad item is no error: it is rejected when lowered.
            pub fn decode(body: &'a [u8], encoding: Encoding) -> Result<Self, DecodeError> {
                Request::decode(body, encoding, $message, $count).map(Self)
            }

            /// Takes over a request that was decoded elsewhere.
            ///
            /// # Errors
            /// As [`Self::decode`].
            pub fn from_proto(request: &$proto) -> Result<$name<'static>, DecodeError> {
                let bytes = request.encode_to_vec();
                $name::decode(&bytes, Encoding::Protobuf)?;
                Ok($name(Request { bytes: Cow::Owned(bytes), rejected: Rejections::default() }))
            }

            pub(crate) fn groups(&self) -> impl Iterator<Item = Group<'_>> {
                self.0.groups()
            }

            /// What was rejected while decoding: items of JSON that are none.
            pub(crate) fn rejected(&self) -> Rejections {
                self.0.rejected.clone()
            }
        }
    )* };
}

const fn one(_: &[u8]) -> usize {
    1
}

requests! {
    /// The spans of one export request.
    TraceRequest, ExportTraceServiceRequest, &schema::TRACES, one;
    /// The log records of one export request.
    LogsRequest, ExportLogsServiceRequest, &schema::LOGS, one;
    /// The metrics of one export request.
    MetricsRequest, ExportMetricsServiceRequest, &schema::METRICS, super::lower::metrics::points_count;
}
